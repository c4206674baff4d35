"""The folder of a run as a bundle that infers on its own, wherever it is copied to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from common.files import replacing
from common.handlers.checkpoint import settings_file
from common.label_space import LabelSpace
from common.networks import unwrapped
from common.ranks import is_first_rank
from common.settings import described

COPIED = ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf")


class RunBundle:
    """Makes ``output_dir`` a bundle when a training ends: ``monai.bundle run inferring`` needs nothing else.

    It gets ``models/model.pt``, ``configs/inference.json`` with the run's settings in place of the defaults,
    ``configs/metadata.json`` with its classes and what the run was, and the bundle's licence and pages. Attach it after
    what saves the model.

    Args:
        bundle_root: the bundle that is trained.
        output_dir: folder of the run.
        model: the file of weights.
        labels: the label space of the network.
        settings: values of ``inference.json`` by name, or of the network in it.
        run: what the run was, for ``metadata.json``.
        network: the network, whose own settings inference takes over: another activation would not be noticed.

    Raises:
        FileNotFoundError: before the training, when the bundle lacks its configuration.
        ValueError: before the training, when ``inference.json`` has no such setting.
    """

    def __init__(
        self,
        bundle_root: str | Path,
        output_dir: str | Path,
        model: str | Path,
        labels: LabelSpace,
        settings: Mapping[str, Any],
        run: Mapping[str, Any] | None = None,
        network: nn.Module | None = None,
    ) -> None:
        self.root, self.folder, self.model = Path(bundle_root), Path(output_dir), Path(model)
        self.labels, self.run = labels, dict(run or {})
        self.inference = with_settings(read(self.root, "inference"), settings)
        self.metadata = read(self.root, "metadata")
        if hasattr(unwrapped(network), "settings"):
            own = described(unwrapped(network).settings())
            self.inference["network_def"] |= {name: own[name] for name in ("act", "norm", "upsample")}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if not is_first_rank() or not self.model.exists():
            return
        target = self.folder / "models" / self.model.name
        if not (target.exists() and target.samefile(self.model)):
            settings_file(target).unlink(missing_ok=True)  # of other weights
            copy(self.model, target)
            copy(settings_file(self.model), settings_file(target))
        for name in COPIED:
            copy(self.root / name, self.folder / name)
        write(self.folder, "inference", self.inference)
        write(self.folder, "metadata", self.described(engine))

    def described(self, engine: Engine) -> dict[str, Any]:
        """The bundle's metadata with the classes of this run, and how its weights came about."""
        prediction = self.metadata["network_data_format"]["outputs"]["pred"]
        prediction["num_channels"] = self.labels.num_outputs
        names, mode = ("background", *self.labels.classes), self.labels.mode
        changed = {
            "label_classes": f"{', '.join(self.labels.classes)}; {mode}",
            "pred_classes": f"logits, one channel for each of the network's {self.labels.num_outputs} outputs; {mode}",
        }
        prediction["channel_def"] = {str(value): name for value, name in enumerate(names)}
        return {**self.metadata, **changed, "run": {**self.run, "mode": mode, "epochs": engine.state.epoch}}


def read(bundle: Path, name: str) -> dict[str, Any]:
    """A configuration of a bundle."""
    path = bundle / "configs" / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be the bundle's {name}, got no such file: is bundle_root the bundle?")
    return json.loads(path.read_text())


def with_settings(config: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with other values for some of its keys, or of those of its network."""
    for name, value in settings.items():
        place = config if name in config else config["network_def"]
        if name not in place:
            raise ValueError(f"inference.json must have the setting {name}, got none: it infers with what was trained.")
        place[name] = value
    return config


def write(bundle: Path, name: str, config: dict[str, Any]) -> None:
    """Replaces a configuration of a bundle."""
    path = bundle / "configs" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(config, indent=4) + "\n")


def copy(source: Path, target: Path) -> None:
    """A file's copy, where there is one and it is another file."""
    if not source.exists() or (target.exists() and source.samefile(target)):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
