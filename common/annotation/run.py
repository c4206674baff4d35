"""The order of a run's unlabelled images."""

from __future__ import annotations

import csv
import logging
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

from monai.bundle import ConfigParser

from common.annotation.order import AnnotationOrder, Place
from common.errors import cause
from common.files import read_json, replacing
from common.handlers.checkpoint import load_checkpoint, load_weights, short
from common.portable.package import require_trained

logger = logging.getLogger(__name__)


def open_order(run: str | Path, seed: int = 0) -> AnnotationOrder:
    """The order by a run's network, method and datalist.

    The network is the run's model, that of the best epoch; what the method's parts have learnt beside it is that of the
    last. The run's configuration is parsed, which runs what it holds: give a run of your own.

    Raises:
        FileNotFoundError: when the folder is no run that has come to a model.
        ValueError: when its model or checkpoint is damaged or of another run, or its data cannot be read.
    """
    folder = Path(run)
    require_trained(folder, ("configs/train.json", "models/model.pt"))
    parser = ConfigParser(read_json(folder / "configs" / "train.json", "is this a run's folder?"))
    # decoded images must not stay in a folder that is handed on
    cache = tempfile.TemporaryDirectory(prefix="annotate")
    parser["bundle_root"], parser["cache_dir"] = str(folder), cache.name
    try:
        method, batches, network = map(parser.get_parsed_content, ("method", "train#batches", "network"))
    except RuntimeError as error:  # MONAI's, around what a part of the configuration says
        raise ValueError(cause(error)) from error
    weakref.finalize(batches, cache.cleanup)
    load_weights(folder / "models" / "model.pt", network, batches.device)
    method.prepare(network)
    method.progress = 1.0  # as at the end of its training
    checkpoint = folder / "checkpoint.pt"  # with what the method's parts have learnt beside the network
    if checkpoint.is_file():
        try:
            method.load_state_dict(load_checkpoint(checkpoint, batches.device)["method"])
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"{checkpoint} does not fit this run's method: {short(error)}") from error
    elif method.state_dict():
        logger.warning(f"{checkpoint} is gone: what {type(method).__name__} learns beside the network begins anew.")
    return AnnotationOrder(method, network, batches, seed)


def write_order(places: Sequence[Place], order: AnnotationOrder, file: str | Path) -> Path:
    """Writes a row for each image: its place in the order, from 1, the image, its patient, and the score."""
    data = order.unlabeled.data
    with replacing(Path(file)) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(("place", "image", "patient", "score"))
        for number, place in enumerate(places, start=1):
            for row in place.rows:
                table.writerow((number, order.unlabeled.name(row), data[row].get("patient", ""), f"{place.score:.6g}"))
    return Path(file)
