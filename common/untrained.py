"""Weights of a bundle before its first training."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.bundle import ConfigParser

from common.data.layouts.monailabel import bundle_classes
from common.files import read_json
from common.handlers.checkpoint import save_weights


def save_untrained(bundle: str | Path) -> Path:
    """Writes ``models/model.pt``, the weights that a training of the bundle begins with, for what needs a model from
    the start: MONAI Label shows no bundle without one. What they segment means nothing.

    Args:
        bundle: the bundle's folder.

    Returns:
        the file.

    Raises:
        FileNotFoundError: when the folder is no bundle.
        FileExistsError: when it has a model.
    """
    folder = Path(bundle)
    file = folder / "models" / "model.pt"
    if file.exists():
        raise FileExistsError(f"{file} must not be there yet, got a model, which is kept: remove it to begin anew.")
    space = bundle_classes(folder)
    parser = ConfigParser(read_json(folder / "configs" / "train.json", "copy the bundle again"))
    parser["bundle_root"], parser["data"] = str(folder), space  # of a datalist it is what the network depends on
    torch.manual_seed(parser.get_parsed_content("seed"))
    save_weights(parser.get_parsed_content("network_def"), file, 0, parser.get_parsed_content("fits"))
    return file
