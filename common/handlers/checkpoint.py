"""Checkpoints that hold the whole state of a run, and the best model."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.files import replacing
from common.ranks import is_first_rank

logger = logging.getLogger(__name__)


class Checkpoint:
    """Saves everything that a run's future depends on after an epoch, and continues from it.

    A run that is killed at any moment and started again with ``resume=True`` goes on from the last finished epoch and
    ends with the weights of the run that was never stopped, on a CPU bit by bit. Saved are the state dictionaries of
    ``objects``, the trainer's epoch, the gradient scaler and the states of torch's, CUDA's, NumPy's and Python's random
    number generators. The file is written beside and renamed, and loaded with ``weights_only``.

    Attach it before the handlers that start from the epoch it loads (the training log). It saves after all handlers
    that were attached before the run starts, since they change what it saves (validation, learning rate).

    Args:
        path: the checkpoint file.
        objects: objects with ``state_dict`` and ``load_state_dict`` by name: network, optimizer, scheduler, method,
            loader, best model.
        resume: continue from ``path`` where it exists.
        interval: number of epochs between two checkpoints.

    Raises:
        ValueError: when the checkpoint is of another network or run, or damaged.
        FloatingPointError: instead of saving weights that are not finite.
    """

    def __init__(self, path: str | Path, objects: Mapping[str, Any], resume: bool = False, interval: int = 1) -> None:
        self.path, self.objects, self.resume, self.interval = Path(path), dict(objects), resume, interval

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
        if getattr(engine, "scaler", None) is not None:
            state["scaler"] = engine.scaler.state_dict()
        broken = [name for name, value in state.get("network", {}).items() if not torch.isfinite(value).all()]
        if broken:
            raise FloatingPointError(
                f"the network's weights must be finite, got others in {broken[:3]} after epoch {engine.state.epoch}: "
                f"{self.path} is kept as it was; lower the learning rate."
            )
        with replacing(self.path) as temporary:
            torch.save(state, temporary)

    def load(self, engine: Engine) -> None:
        if not self.path.exists():
            logger.info(f"No checkpoint at {self.path}: starting from the first epoch.")
            return
        state = load_checkpoint(self.path)
        missing = sorted({*self.objects, "trainer", "random"} - set(state))
        if missing:
            raise ValueError(f"{self.path} must hold the whole state of a run, got none of {', '.join(missing)}.")
        if state["trainer"]["epoch_length"] != engine.state.epoch_length:
            raise ValueError(
                f"{self.path} is of a run with {state['trainer']['epoch_length']} iterations in an epoch, got "
                f"{engine.state.epoch_length}: resume with the settings that the run was started with."
            )
        for name, item in self.objects.items():
            try:
                unwrapped(item).load_state_dict(state[name])
            except (RuntimeError, ValueError, KeyError) as error:
                raise ValueError(f"{self.path} does not fit this run's {name}: {short(error)}") from error
        if getattr(engine, "scaler", None) is not None and "scaler" in state:
            engine.scaler.load_state_dict(state["scaler"])
        engine.state.epoch = state["trainer"]["epoch"]
        engine.state.iteration = engine.state.epoch * engine.state.epoch_length
        if is_first_rank():  # the other ranks' generators were not saved; nothing in training draws from them
            set_random_state(state["random"])
        logger.info(f"Resumed from {self.path} after epoch {engine.state.epoch}.")


class BestModel:
    """Keeps the network's weights of the validation with the best key metric, as a plain state dictionary.

    Attach it to the evaluator. It knows the best score so far after a resumed run through its own state.

    Args:
        path: the file, ``models/model.pt`` of a bundle.
        network: the network whose weights are kept.

    Raises:
        ValueError: when the evaluator has no key metric.
    """

    def __init__(self, path: str | Path, network: nn.Module) -> None:
        self.path, self.network = Path(path), network
        self.best, self.epoch = -1.0, 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        name = engine.state.key_metric_name
        if name is None:
            raise ValueError("the evaluator must have a key metric for the best model to be known: set key_val_metric.")
        score = float(engine.state.metrics[name])
        if not score > self.best:  # also where it is not a number
            return
        self.best, self.epoch = score, int(engine.state.epoch)
        if is_first_rank():
            with replacing(self.path) as temporary:
                torch.save(unwrapped(self.network).state_dict(), temporary)
            logger.info(f"Best {name} so far {score:.4f}: saved {self.path}.")

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.best, self.epoch = float(state["best"]), int(state["epoch"])


class LastModel:
    """Keeps the network's weights after each epoch, as a plain state dictionary: the last ones are the model.

    For methods that train to the end, without validation images to choose by (POPCORN).

    Args:
        path: the file, ``models/model.pt`` of a bundle.
        network: the network whose weights are kept.
    """

    def __init__(self, path: str | Path, network: nn.Module) -> None:
        self.path, self.network = Path(path), network

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if is_first_rank():
            with replacing(self.path) as temporary:
                torch.save(unwrapped(self.network).state_dict(), temporary)


def load_weights(path: str | Path, network: nn.Module, device: str | torch.device = "cpu") -> nn.Module:
    """Loads a state dictionary saved by :class:`BestModel` into ``network``, which is returned.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is damaged or of another network.
    """
    state = load_checkpoint(Path(path), device)
    try:
        unwrapped(network).load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} must hold the weights of this network, got another's: {short(error)}") from error
    return network


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """The content of a checkpoint file, tensors and plain Python values only."""
    if not path.exists():
        raise FileNotFoundError(f"{path} must be a checkpoint, got no such file: train first, or give its path.")
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises a handful of types for truncated and foreign files
        raise ValueError(
            f"{path} must be a checkpoint of tensors and numbers, got a file torch cannot read: {short(error)}"
        ) from error


def unwrapped(item: Any) -> Any:
    """The network inside a wrapper for distributed training."""
    return item.module if isinstance(item, DistributedDataParallel) else item


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
