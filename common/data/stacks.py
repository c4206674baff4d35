"""Slices of one patient, which are single pictures, as one case."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from torch.utils.data import Dataset

from common.data.decoded import IMAGE, DecodedImages
from common.data.files import times

PATIENT, LABEL = "patient", "label"


class PatientStacks(Dataset):
    """The slices of each patient, one upon the other: volumes ``C H W D`` of pictures ``C H W``, D of a patient.

    A network of slices looks at them by :class:`~common.inferers.ResizedSlices`, and what is scored is a patient.
    Patients are in the order in which they first occur, their slices in that of the items. A picture without a patient
    is a case of its own, as those of an annotation tool. Slices count as one pixel apart, since pictures do not tell.

    Args:
        data: items with ``image``, ``label`` and mostly ``patient``.
        transform, cache_dir, progress: see :class:`~common.data.DecodedImages`, which reads the slices.

    Raises:
        ValueError: naming a file that cannot be used, or a patient whose slices differ in size.
    """

    def __init__(
        self,
        data: Sequence[Mapping[Hashable, Any]],
        transform: Callable,
        cache_dir: str | Path | None = None,
        progress: bool = True,
    ) -> None:
        self.slices = DecodedImages(data, transform, cache_dir, progress=progress)
        self.places: dict[str, list[int]] = {}
        for place, item in enumerate(self.slices.data):
            self.places.setdefault(str(item.get(PATIENT, item[IMAGE])), []).append(place)
        for patient, places in self.places.items():
            sizes = sorted({self.slices.shape(place) for place in places})
            if len(sizes) > 1:
                found = " and ".join(map(times, sizes[:2]))
                raise ValueError(
                    f"the slices of {patient} must be of one size to be one case, got {found}: resize them, or give "
                    "each examination a patient of its own."
                )

    @property
    def data(self) -> list[Mapping[Hashable, Any]]:
        """The items of all slices."""
        return self.slices.data

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Image and label in float32; the patient's name stands for that of the image's file."""
        items = [self.slices[place] for place in self.places[self.name(index)]]
        volume = {key: torch.stack([item[key].as_tensor() for item in items], dim=-1) for key in (IMAGE, LABEL)}
        meta = {"filename_or_obj": self.name(index)}
        return {**volume, IMAGE: MetaTensor(volume[IMAGE], affine=items[0][IMAGE].affine, meta=meta)}

    def name(self, index: int) -> str:
        """What the patient is called."""
        return list(self.places)[index]
