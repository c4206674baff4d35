"""Saves the hardest and the median case for the report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import list_data_collate
from monai.transforms import Resize
from torch import Tensor, nn

from common.batches.class_cover import ClassCover, class_presence
from common.data import DecodedImages, PatientStacks
from common.files import replacing
from common.handlers.checkpoint import BestModel
from common.handlers.picture import picture
from common.handlers.scores import IOU, case_names
from common.label_space import LabelSpace
from common.methods import Method
from common.ranks import gathered_order, is_first_rank


class CasePictures:
    """Saves the hardest and the median case of an evaluation as ``<role>_<case>.npz`` for the report.

    Each holds ``image`` (H, W) in [0, 1], ``truth`` and ``prediction`` (C, H, W), and for a method with pseudo-labels
    ``pseudo_label`` (C, H, W) and ``weight`` (H, W): those that the case would get as an unlabelled image, from one
    pool of ``references``. Axes are those of a picture, row and column. Of a stack of slices ``C W H D`` the one is
    shown that holds most of the truth, and its number, from 1, is in ``slice``. Cases without any of the classes are
    not ranked.

    Args:
        folder: where to write; earlier cases in it are replaced.
        labels: the label space.
        network: the network that is evaluated.
        method: the method, asked for pseudo-labels.
        references: the labelled images that the pool is drawn from, without random transforms.
        dataset: the cases, in the evaluator's order.
        pool_size: number p of references.
        best_model: write only when this evaluation was the best so far; ``None`` to write always.
        all_cases: save the other cases too, as ``other_<case>.npz``, so that a comparison of methods can show one case
            of all of them.
        channel: number of the image's channel that is shown, from 0.
    """

    def __init__(
        self,
        folder: str | Path,
        labels: LabelSpace,
        network: nn.Module,
        method: Method,
        references: DecodedImages,
        dataset: DecodedImages | PatientStacks,
        pool_size: int = 3,
        best_model: BestModel | None = None,
        all_cases: bool = False,
        channel: int = 0,
    ) -> None:
        self.folder, self.labels, self.network, self.method = Path(folder), labels, network, method
        self.references, self.dataset, self.pool_size = references, dataset, pool_size
        self.best_model, self.all_cases, self.channel = best_model, all_cases, channel

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        outdone = self.best_model is not None and self.best_model.epoch != engine.state.epoch
        if not is_first_rank() or outdone:
            return
        per_case = torch.as_tensor(engine.state.metric_details[IOU]).nanmean(dim=1)
        per_case = per_case[: len(self.dataset)]
        ranked = max(1, int(per_case.isfinite().sum()))
        places = gathered_order(len(self.dataset))
        order = [places[place] for place in per_case.nan_to_num(nan=2.0).argsort().tolist()]  # those without come last
        for old in self.folder.glob("*.npz"):
            old.unlink()
        self.network.eval()
        roles = {order[ranked // 2]: "median", order[0]: "hardest"}
        names = self.names
        for index in order if self.all_cases else roles:
            item = self.dataset[index]
            with replacing(self.folder / f"{roles.get(index, 'other')}_{names[index]}.npz") as temporary:
                np.savez_compressed(temporary, **self.arrays(item, engine.state.device))

    @cached_property
    def names(self) -> list[str]:
        """The cases' names in the table of test scores."""
        return case_names([self.dataset.name(index) for index in range(len(self.dataset))])

    @cached_property
    def pool(self) -> dict:
        """One pool for all cases and evaluations, so that pictures differ by the network alone."""
        size = min(self.pool_size, len(self.references))
        items = [self.references[index] for index in range(len(self.references))]
        presence = class_presence([np.asarray(item["label"]) for item in items], self.labels)
        cover = ClassCover(presence, size, self.labels.classes, needed=False)
        return list_data_collate([items[index] for index in cover.draw(np.random.default_rng(0))])

    def arrays(self, item: dict, device: torch.device) -> dict[str, np.ndarray]:
        """The arrays of one case, in picture axes."""
        place = None
        if isinstance(self.dataset, PatientStacks):
            item, place = shown(item, self.references.shape(0))
        case = on_device(list_data_collate([item]), device)
        outputs = self.network(case["image"])
        arrays = {} if place is None else {"slice": np.array(place + 1)}
        arrays |= {
            "image": picture(case["image"])[self.channel].astype(np.float32),
            "truth": picture(self.labels.masks(case["label"])).astype(np.uint8),
            "prediction": picture(self.labels.masks(self.labels.predict(outputs))).astype(np.uint8),
        }
        batch = {"labeled": on_device(self.pool, device), "unlabeled": case}
        noted = self.method.explain(self.network, batch)
        if noted is not None:
            label, weight = noted.pseudo.label, noted.weight.mean(1, keepdim=True)
            if noted.pseudo.grid is not None:
                label, weight = noted.pseudo.grid.filled(label), noted.pseudo.grid.filled(weight)
            arrays["pseudo_label"] = (picture(self.labels.masks(label)) > 0.5).astype(np.uint8)
            arrays["weight"] = picture(weight)[0].astype(np.float32)
        return arrays


def shown(stack: dict[str, Any], size: Sequence[int]) -> tuple[dict[str, Any], int]:
    """The slice of a stack ``C W H D`` that holds most of the truth, the middle one where none holds any, at the size
    of training; and its index."""
    held = (stack["label"] > 0).flatten(0, 2).sum(0)
    place = int(held.argmax() if held.any() else len(held) // 2)
    modes = {"image": "bilinear", "label": "nearest-exact"}
    return {key: Resize(size, mode=mode)(stack[key][..., place]) for key, mode in modes.items()}, place


def on_device(items: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch's tensors as plain tensors on the device; what is no tensor stays as it is."""
    return {key: v.as_subclass(Tensor).to(device) if isinstance(v, Tensor) else v for key, v in items.items()}
