"""Checkpoints that hold the whole state of a run, and the best model."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from common.files import read_json, replacing
from common.flags import flag
from common.networks import unwrapped
from common.ranks import is_first_rank
from common.settings import described, differences, keywords

logger = logging.getLogger(__name__)
# how an optimizer computes a step, which may differ from device to device
HOW = ("foreach", "fused", "capturable", "differentiable")


class Checkpoint:
    """Saves everything that a run's future depends on after an epoch, and continues from it.

    A run that is killed at any moment and started again with ``resume=True`` goes on from the last finished epoch and
    ends with the weights of the run that was never stopped, on a CPU bit by bit. Saved are the state dictionaries of
    ``objects``, the trainer's epoch, the gradient scaler and the states of torch's, CUDA's, NumPy's and Python's random
    number generators. The file is written beside and renamed, and loaded with ``weights_only``. The one before is kept
    as ``checkpoint.previous.pt``: where the last one is damaged, the run goes on from there, with a warning.

    Attach it before the handlers that start from the epoch it loads (the training log). It saves after all handlers
    that were attached before the run starts, since they change what it saves (validation, learning rate).

    Args:
        path: the checkpoint file.
        objects: objects with ``state_dict`` and ``load_state_dict`` by name: network, optimizer, scheduler, method,
            loader, best model.
        resume: continue from ``path`` where it exists.
        interval: number of epochs between two checkpoints.

    Raises:
        ValueError: when the checkpoint is of another network or run; when it is damaged and there is none before.
        FloatingPointError: instead of saving weights that are not finite.
    """

    def __init__(self, path: str | Path, objects: Mapping[str, Any], resume: bool = False, interval: int = 1) -> None:
        self.path, self.objects, self.resume, self.interval = Path(path), dict(objects), resume, interval
        self.previous = self.path.with_suffix(f".previous{self.path.suffix}")
        self.damaged, self.source = False, self.path  # what was read

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)

    def start(self, engine: Engine) -> None:
        if self.resume:
            self.load(engine)
        if not engine.has_event_handler(self.save):
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self.save)
            engine.add_event_handler(Events.COMPLETED, self.save)

    def save(self, engine: Engine) -> None:
        whole = engine.state.iteration == engine.state.epoch * engine.state.epoch_length
        if not is_first_rank() or not whole:  # a run that is terminated within an epoch goes on from the one before
            return
        state = {name: unwrapped(item).state_dict() for name, item in self.objects.items()}
        state["trainer"] = {"epoch": engine.state.epoch, "epoch_length": engine.state.epoch_length}
        state["random"] = random_state()
        state["settings"] = described(self.settings(engine))
        if getattr(engine, "scaler", None) is not None:
            state["scaler"] = engine.scaler.state_dict()
        require_finite(state.get("network", {}), self.path, engine.state.epoch)
        with replacing(self.path) as temporary:
            torch.save(state, temporary)
            if self.path.exists() and not self.damaged:
                self.keep()
        self.damaged = False

    def keep(self) -> None:
        """Gives the file a second name, so that at no moment there is none of the first."""
        try:
            with replacing(self.previous, durable=False) as second:
                second.unlink(missing_ok=True)
                os.link(self.path, second)
        except OSError:  # a file system without such links: a moment later there is one of the first name again
            self.path.replace(self.previous)

    def read(self) -> dict[str, Any] | None:
        """What the last checkpoint holds, or the one before where that one is damaged; None where there is none."""
        if not self.path.exists() and not self.previous.exists():
            return None
        try:
            return load_checkpoint(self.path)
        except (ValueError, FileNotFoundError) as error:
            # it is missing where a run was killed between two renamings, on a file system without links
            if not self.previous.exists():
                raise
            state = load_checkpoint(self.previous)
            self.damaged, self.source = True, self.previous
            logger.warning(f"{error} Going on from {self.previous}, the one before.")
            return state

    def load(self, engine: Engine) -> None:
        state = self.read()
        if state is None:
            logger.info(f"No checkpoint at {self.path}: starting from the first epoch.")
            return
        missing = sorted({*self.objects, "trainer", "random", "settings"} - set(state))
        if missing:
            raise ValueError(f"{self.source} must hold the whole state of a run, got none of {', '.join(missing)}.")
        other = differences(described(self.settings(engine)), state["settings"])
        if other:
            raise ValueError(
                f"{self.source} is of a run with {'; '.join(other[:4])}{' and more' * (len(other) > 4)}: resume with "
                f"the settings and images that the run was started with, or start another run in another output_dir."
            )
        if state["trainer"]["epoch_length"] != engine.state.epoch_length:
            raise ValueError(
                f"{self.source} is of a run with {state['trainer']['epoch_length']} iterations in an epoch, got "
                f"{engine.state.epoch_length}: resume with the settings that the run was started with."
            )
        for name, item in self.objects.items():
            if isinstance(item, torch.optim.Optimizer):
                for mine, theirs in zip(item.param_groups, state[name]["param_groups"], strict=False):
                    theirs |= {key: mine[key] for key in HOW if key in mine}
            try:
                unwrapped(item).load_state_dict(state[name])
            except (RuntimeError, ValueError, KeyError) as error:
                raise ValueError(f"{self.source} does not fit this run's {name}: {short(error)}") from error
        if getattr(engine, "scaler", None) is not None and "scaler" in state:
            engine.scaler.load_state_dict(state["scaler"])
        engine.state.epoch = state["trainer"]["epoch"]
        engine.state.iteration = engine.state.epoch * engine.state.epoch_length
        if is_first_rank():  # the other ranks' generators were not saved; nothing in training draws from them
            set_random_state(state["random"])
        logger.info(f"Resumed from {self.source} after epoch {engine.state.epoch}.")

    def settings(self, engine: Engine) -> dict[str, Any]:
        """What the objects were made with, as far as it changes what a run becomes, not how it is computed."""
        kept: dict[str, Any] = {"accumulation_steps": getattr(engine, "accumulation_steps", 1)}
        for name, item in self.objects.items():
            if isinstance(item, torch.optim.Optimizer):
                used = {key: value for key, value in item.defaults.items() if key not in HOW}
                kept[name] = {"class": type(item).__name__, **used}
            elif isinstance(item, torch.optim.lr_scheduler.LRScheduler):
                names = keywords(type(item)).keys() - {"optimizer", "last_epoch"}
                kept[name] = {"class": type(item).__name__, **{n: getattr(item, n, None) for n in sorted(names)}}
            elif hasattr(unwrapped(item), "settings"):
                kept[name] = unwrapped(item)
        return kept


class BestModel:
    """Keeps the network's weights of the validation with the best key metric, as a plain state dictionary.

    Attach it to the evaluator. It knows the best score so far after a resumed run through its own state.

    Args:
        path: the file, ``models/model.pt`` of a bundle.
        network: the network whose weights are kept.
        keep: write the file; without it the best score and its epoch are remembered alone.
        settings: what whoever infers with these weights must set alike, for :func:`save_weights`.

    Raises:
        ValueError: when the evaluator has no key metric.
    """

    def __init__(
        self, path: str | Path, network: nn.Module, keep: bool = True, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.path, self.network, self.keep, self.fits = Path(path), network, keep, settings
        self.best, self.epoch = -1.0, 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        name = engine.state.key_metric_name
        if name is None:
            raise ValueError("the evaluator must have a key metric for the best model to be known: set key_val_metric.")
        score = float(engine.state.metrics[name])
        details = getattr(engine.state, "metric_details", {}).get(name)
        if details is not None and torch.as_tensor(details).isnan().all():
            score = math.nan  # no mask shows any class, of which MONAI makes 0
        if not score > self.best:  # also where it is not a number
            return
        self.best, self.epoch = score, int(engine.state.epoch)
        if self.keep and is_first_rank():
            save_weights(self.network, self.path, self.epoch, self.fits)
            logger.info(f"Best {name} so far {score:.4f}: saved {self.path}.")

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.best, self.epoch = float(state["best"]), int(state["epoch"])


class LastModel:
    """Keeps the network's last weights, as a plain state dictionary.

    With a :class:`BestModel` that keeps the best ones, they are the model only where nothing was validated: too few
    epochs for a validation, no validation images, or none that shows a class. Without one, or with ``always``, they are
    the model after each epoch, for methods that train to the end (POPCORN).

    Args:
        path: the file, ``models/model.pt`` of a bundle.
        network: the network whose weights are kept.
        best_model: what else writes the file, or None.
        always: keep the last weights whatever was best.
        settings: what whoever infers with these weights must set alike, for :func:`save_weights`.
    """

    def __init__(
        self,
        path: str | Path,
        network: nn.Module,
        best_model: BestModel | None = None,
        always: bool | str = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.network, self.best_model, self.fits = Path(path), network, best_model, settings
        self.always = best_model is None or flag(always, "keep_last")

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED if self.always else Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if not is_first_rank() or (not self.always and self.best_model.epoch > 0):
            return
        save_weights(self.network, self.path, engine.state.epoch, self.fits)
        if not self.always:
            logger.warning(
                f"Nothing was validated in {engine.state.epoch} epochs: saved the last weights as {self.path}. For the "
                "best ones, name validation images in the datalist that show the classes, and let val_interval be at "
                "most the epochs."
            )


def save_weights(network: nn.Module, path: Path, epoch: int, settings: Mapping[str, Any] | None = None) -> None:
    """Replaces a file of weights, and beside it ``model.json``, with what they do not work without.

    A network gives an answer to images of any size or spacing, and a worse one to others than it was trained on. So
    whoever loads the weights compares.

    Args:
        network: the network.
        path: the file, ``model.pt``.
        epoch: for the error.
        settings: classes, size and so on, by name; None to write no such file.

    Raises:
        FloatingPointError: when they are not finite; the file is kept.
    """
    state = unwrapped(network).state_dict()
    require_finite(state, path, epoch)
    settings_file(path).unlink(missing_ok=True)  # of other weights: better none than wrong ones
    with replacing(path) as temporary:
        torch.save(state, temporary)
    if settings is not None:
        with replacing(settings_file(path)) as temporary:
            temporary.write_text(json.dumps(described(settings), indent=1))


def settings_file(path: Path) -> Path:
    """The file beside one of weights that says what they were trained with."""
    return path.with_suffix(".json")


def require_finite(weights: Mapping[str, Tensor], path: Path, epoch: int) -> None:
    """Refuses to write weights that are not finite over a file."""
    broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise FloatingPointError(
            f"the network's weights must be finite, got others in {broken[:3]} after epoch {epoch}: {path} is kept as "
            f"it was; lower the learning rate."
        )


def load_weights(
    path: str | Path,
    network: nn.Module,
    device: str | torch.device = "cpu",
    settings: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Loads a state dictionary saved by :class:`BestModel` into ``network``, which is returned.

    Args:
        path: the file of weights.
        network: the network.
        device: where the weights go.
        settings: what is set now, to be compared with what the weights were trained with where that is known.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is damaged, of another network or trained with other settings.
    """
    known = settings_file(Path(path))
    if settings is not None and known.is_file():
        other = differences(
            *(as_floats(one) for one in (described(settings), read_json(known, "copy it again, with the model")))
        )
        if other:
            raise ValueError(f"{path} was trained with {'; '.join(other)}: set what it was trained with.")
    state = load_checkpoint(Path(path), device)
    try:
        unwrapped(network).load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} must hold the weights of this network, got another's: {short(error)}") from error
    return network


def as_floats(value: Any) -> Any:
    """The same with all numbers as floats: a size of 64.0 is one of 64."""
    if isinstance(value, dict):
        return {name: as_floats(part) for name, part in value.items()}
    if isinstance(value, list):
        return [as_floats(part) for part in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """The content of a checkpoint file, tensors and plain Python values only, after a look at its check sums."""
    if not path.exists():
        raise FileNotFoundError(f"{path} must be a checkpoint, got no such file: train first, or give its path.")
    try:
        with zipfile.ZipFile(path) as file:  # torch writes check sums, and does not look at them
            changed = file.testzip()
        state = None if changed else torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # zipfile and torch raise a handful of types for truncated and foreign files
        raise ValueError(
            f"{path} must be a checkpoint of tensors and numbers, got a file torch cannot read: {short(error)}."
        ) from error
    if changed:
        raise ValueError(f"{path} must be as it was written, got another check sum of {changed}: copy it again.")
    return state


def short(error: Exception) -> str:
    """The first 300 characters of an error's text on one line."""
    return " ".join(str(error).split())[:300]


def random_state() -> dict[str, Any]:
    """States of all random number generators as tensors, numbers and tuples."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (
            str(name),
            torch.from_numpy(keys.astype(np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ),
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Sets the states that :func:`random_state` gave."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
