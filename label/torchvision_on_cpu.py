"""Lets torchvision, whose wheels are built for CUDA, be imported beside a CPU build of torch.

MONAI Label imports it and uses none of its operators. Without CUDA they are not loaded, and torchvision stops at the
first that it wants to describe. Their schemas are enough. They are defined right before torchvision is imported, in all
processes of the environment: MONAI Label trains in one of its own.

    python torchvision_on_cpu.py

installs that in the environment whose Python runs it, where torch is a CPU build, and does nothing elsewhere.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class BeforeTorchvision:
    """A finder of modules that finds none, and defines the schemas when torchvision is looked for."""

    library: Any = None  # the schemas live as long as it does

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "torchvision" and self.library is None:
            import torch

            if torch.version.cuda is None:
                self.library = torch.library.Library("torchvision", "DEF")
                for schema in SCHEMAS:
                    self.library.define(schema)


def install() -> None:
    """Copies this file to where the environment's modules lie, with a .pth that each of its processes runs."""
    import torch

    if torch.version.cuda is not None:
        return
    folder = Path(sysconfig.get_paths()["purelib"])
    shutil.copy(__file__, folder / "torchvision_on_cpu.py")
    (folder / "torchvision_on_cpu.pth").write_text("import torchvision_on_cpu\n")
    print(f"torchvision's operators are described in {folder}, none of them can be used.")


if __name__ == "__main__":
    install()
else:
    sys.meta_path.insert(0, BeforeTorchvision())
