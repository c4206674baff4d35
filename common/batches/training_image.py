"""The images that batches are drawn from: labelled ones, and unlabelled ones that have joined them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from common.data.decoded import DecodedImages


class TrainingImage:
    """An image, and where in it there is a label.

    Args:
        store: the decoded images.
        index: the image's place among them.
        label: gives the arrays ``label`` and, for soft labels, ``weight``, ``C H W [D]``, where the store has none of
            its own (a pseudo-label).
        mask: the label of whole numbers, ``C H W [D]``, where it is given as it is. It is kept as the places that are
            not 0: lesions are few, and a mask is large.
    """

    def __init__(
        self,
        store: DecodedImages,
        index: int,
        label: Callable[[], dict[str, np.ndarray]] | None = None,
        mask: np.ndarray | None = None,
    ) -> None:
        self.store, self.index, self.label = store, index, label
        self.name, self.shape, self.box = store.name(index), store.shape(index), store.box(index)
        self.places = None if mask is None else np.flatnonzero(mask).astype(np.int64)
        self.values = None if mask is None else mask.reshape(-1)[self.places].astype(np.uint8)
        self.channels = 0 if mask is None else len(mask)
        self._foreground: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """Image, label and weight as they are stored; without a label that is kept as places."""
        arrays = self.store.arrays(self.index)
        return arrays if self.label is None else {"image": arrays["image"], **self.label()}

    @property
    def foreground(self) -> np.ndarray:
        """Places of the pixels of any class, as flat indices of the image's shape."""
        if self._foreground is None:
            if self.places is not None:
                found = np.unique(self.places % int(np.prod(self.shape)))
            else:
                label = np.asarray(self.arrays().get("label", np.zeros((1, *self.shape), np.uint8)))
                found = np.flatnonzero((label > 0.5).any(axis=0))  # a soft label is 0 nowhere
            self._foreground = found.astype(np.int32)
        return self._foreground

    def crop(self, first: np.ndarray, size: Sequence[int], keys: Sequence[str]) -> dict[str, Tensor]:
        """A window of the image and of what is asked for besides, ``C H W [D]``; zeros around a smaller image."""
        shape = np.array(self.shape)
        last = np.minimum(first + size, shape)
        window = (slice(None), *(slice(int(a), int(b)) for a, b in zip(first, last, strict=True)))
        padding = [
            side for n in np.maximum(np.array(size) - shape, 0)[::-1] for side in (int(n) // 2, int(n) - int(n) // 2)
        ]
        found: dict[str, Tensor] = {}
        tensors = self.store.tensors[self.index] if self.store.tensors is not None else {}
        own = {} if self.label is None else self.label()
        arrays = None
        for key in keys:
            if key in own:
                part = torch.from_numpy(np.array(own[key][window]))
            elif key == "label" and self.places is not None:
                part = torch.from_numpy(self._mask_within(first, last))
            elif key in tensors:
                part = tensors[key][window]
            else:
                arrays = self.store.arrays(self.index) if arrays is None else arrays
                if key not in arrays:
                    continue
                part = torch.from_numpy(np.array(arrays[key][window]))
            found[key] = torch.nn.functional.pad(part, padding) if any(padding) else part
        return found

    def _mask_within(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """The part of a mask that is kept as the places that are not 0."""
        places = np.stack(np.unravel_index(self.places, (self.channels, *self.shape)))
        within = ((places[1:] >= first[:, None]) & (places[1:] < last[:, None])).all(axis=0)
        mask = np.zeros((self.channels, *(last - first)), np.uint8)
        mask[tuple(places[:, within] - np.array([0, *first])[:, None])] = self.values[within]
        return mask


def stacked(crops: list[dict[str, Tensor]], key: str, device: torch.device) -> Tensor | None:
    """One key of several crops as a batch, float32 on the device; None where one of them lacks it."""
    if not all(key in crop for crop in crops):
        return None
    return torch.stack([crop[key].to(device, non_blocking=True) for crop in crops]).float()
