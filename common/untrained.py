"""Weights of a bundle before its first training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from common.files import read_json
from common.handlers.checkpoint import save_weights

ADVICE = "is this the bundle's folder?"


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
        raise FileExistsError(f"{file} must not be there yet, got a model: it is kept. Remove it to begin anew.")
    parser = ConfigParser(read_json(folder / "configs" / "train.json", ADVICE))
    parser["bundle_root"], parser["data"] = str(folder), label_space(folder)
    torch.manual_seed(parser.get_parsed_content("seed"))
    save_weights(parser.get_parsed_content("network_def"), file, 0, parser.get_parsed_content("fits"))
    return file


def label_space(bundle: Path) -> dict[str, Any]:
    """Classes and mode that a bundle infers with."""
    inference = json.loads((bundle / "configs" / "inference.json").read_text())
    return {key: inference[key] for key in ("classes", "mode")}
