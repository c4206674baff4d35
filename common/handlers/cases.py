"""Saves the hardest and the median case for the report."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import list_data_collate
from torch import Tensor, nn
from torch.utils.data import Dataset

from common.batches.class_cover import ClassCover, class_presence
from common.data import DecodedImages
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
    pool of ``references``. Axes are those of a picture, row and column.

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
    """

    def __init__(
        self,
        folder: str | Path,
        labels: LabelSpace,
        network: nn.Module,
        method: Method,
        references: Dataset,
        dataset: DecodedImages,
        pool_size: int = 3,
        best_model: BestModel | None = None,
        all_cases: bool = False,
    ) -> None:
        self.folder, self.labels, self.network, self.method = Path(folder), labels, network, method
        self.references, self.dataset, self.pool_size = references, dataset, pool_size
        self.best_model, self.all_cases = best_model, all_cases

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        outdone = self.best_model is not None and self.best_model.epoch != engine.state.epoch
        if not is_first_rank() or outdone:
            return
        per_case = torch.as_tensor(engine.state.metric_details[IOU]).nanmean(dim=1)
        per_case = per_case[: len(self.dataset)].nan_to_num(nan=1.0)
        places = gathered_order(len(self.dataset))
        order = [places[place] for place in per_case.argsort().tolist()]
        for old in self.folder.glob("*.npz"):
            old.unlink()
        self.network.eval()
        roles = {order[len(order) // 2]: "median", order[0]: "hardest"}
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
        case = on_device(list_data_collate([item]), device)
        outputs = self.network(case["image"])
        arrays = {
            "image": picture(case["image"])[0].astype(np.float32),
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


def on_device(items: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch's tensors as plain tensors on the device; what is no tensor stays as it is."""
    return {key: v.as_subclass(Tensor).to(device) if isinstance(v, Tensor) else v for key, v in items.items()}
