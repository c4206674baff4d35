"""What all methods share: the training step around their loss terms."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import SupervisedTrainer
from torch import Tensor, nn

from common.label_space import LabelSpace


class Method:
    """One training step of a semi-supervised method; a subclass says what the loss terms are.

    An object of this class is the ``iteration_update`` of MONAI's ``SupervisedTrainer``. It is called with a batch of
    :class:`~common.data.loader.PairedBatches`, asks :meth:`terms` for the loss terms, adds them up and takes one step
    of the optimizer, in mixed precision where the trainer says so. What it returns is the trainer's output: ``loss``,
    ``terms`` (loss terms as numbers) and, for methods that make them, ``pseudo_label`` (a label of the label space, at
    the image's size) and ``weight`` (``B 1 H W [D]``).

    Args:
        labels: the label space.

    Raises:
        FloatingPointError: when the loss is not finite; it names the iteration and the batch's files.
    """

    def __init__(self, labels: LabelSpace) -> None:
        self.labels = labels

    def terms(self, network: nn.Module, batch: dict[str, dict[str, Any]], iteration: int) -> tuple[dict, dict]:
        """Loss terms by name (scalars with gradients), and what else the step's output shall hold.

        Args:
            network: gives outputs ``B C H W [D]``, and with ``return_features=True`` features and outputs.
            batch: ``labeled`` with ``image`` and ``label``, ``unlabeled`` with ``image``, on the network's device.
            iteration: number of this iteration, from 1.
        """
        raise NotImplementedError

    def __call__(self, engine: SupervisedTrainer, batch: dict[str, dict[str, Any]]) -> dict[str, Any]:
        device = torch.device(engine.state.device)
        on_device = {part: to_device(items, device, engine.non_blocking) for part, items in batch.items()}
        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, enabled=engine.amp, **engine.amp_kwargs):
            terms, output = self.terms(engine.network, on_device, engine.state.iteration)
            loss = sum(terms.values())
        values = {name: term.item() for name, term in terms.items()}
        if not torch.isfinite(loss):
            raise FloatingPointError(non_finite_message(values, engine.state.iteration, batch))
        if engine.scaler is not None:
            engine.scaler.scale(loss).backward()
            self.before_step(engine)
            engine.scaler.step(engine.optimizer)
            engine.scaler.update()
        else:
            loss.backward()
            self.before_step(engine)
            engine.optimizer.step()
        self.after_step(engine)
        return {"loss": loss.item(), "terms": values, **output}

    def before_step(self, engine: SupervisedTrainer) -> None:
        """Called between the gradients (scaled, in mixed precision) and the optimizer's step."""

    def after_step(self, engine: SupervisedTrainer) -> None:
        """Called after every step of the optimizer, for what follows the network (a teacher, a bank)."""

    def pseudo_label(self, network: nn.Module, labeled: dict, unlabeled: dict) -> tuple[Tensor, Tensor] | None:
        """Pseudo-label and weight for pictures and telemetry, without gradients; None for a method without them."""
        return None

    def parameters(self, network: nn.Module) -> list[nn.Parameter]:
        """What the optimizer changes: the network's parameters, and those of a method that has some of its own."""
        return list(network.parameters())

    def keywords(self) -> dict[str, Any]:
        """The method's settings that are numbers and words, for the description of a run."""
        return {name: value for name, value in vars(self).items() if isinstance(value, (bool, int, float, str))}

    def state_dict(self) -> dict[str, Any]:
        """State beyond the network's (tensors and Python numbers), for resuming."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"{type(self).__name__} has no state of its own, got {sorted(state)} in the checkpoint.")


def to_device(items: dict[str, Any], device: torch.device, non_blocking: bool = False) -> dict[str, Any]:
    """A batch's tensors as plain tensors on the device; what is no tensor stays as it is."""
    return {
        key: value.as_subclass(Tensor).to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value
        for key, value in items.items()
    }


def non_finite_message(terms: dict[str, float], iteration: int, batch: dict[str, dict[str, Any]]) -> str:
    """One sentence that names the loss terms and the files of the batch whose loss is not finite."""
    files = {
        part: [str(name) for name in getattr(items["image"], "meta", {}).get("filename_or_obj", ["unknown"])]
        for part, items in batch.items()
    }
    return (
        f"the loss must be finite, got {terms} at iteration {iteration} with the files {files}: the last checkpoint is "
        f"kept; lower the learning rate, or look at these images with `python -m common check`."
    )
