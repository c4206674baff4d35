"""The images that batches are drawn from: labelled ones, and unlabelled ones that have joined them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from common.data.decoded import DecodedImages, flat, zeros_around
from common.label_space import LabelSpace

PLACE = 17  # bytes for a pixel that is kept with its place and value


class TrainingImage:
    """An image, and where in it there is a label.

    Args:
        store: the decoded images.
        index: the image's place among them.
        label: gives the arrays ``label`` and, for soft labels, ``weight``, ``C H W [D]``, where the store has none of
            its own (a pseudo-label).
        mask: the label of whole numbers, ``C H W [D]``, where it is given as it is. One with little in it is kept as
            the places that are not 0: lesions are few, and a mask is large.
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
        self.places = None
        if mask is not None:
            kept = mask.astype(np.uint8)
            if np.count_nonzero(mask) * PLACE > mask.size:
                self.label = partial(dict, label=kept)
            else:
                self.channels, self.places = len(mask), np.stack(np.nonzero(mask)).astype(np.int32)
                self.values = kept[tuple(self.places)]
        self._foreground: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """Image, label and weight as they are stored; without a label that is kept as places."""
        arrays = self.store.arrays(self.index)
        return arrays if self.label is None else {"image": arrays["image"], **self.label()}

    def foreground(self, labels: LabelSpace) -> np.ndarray:
        """Places of the pixels of any class, as flat indices of the image's shape."""
        if self._foreground is None:
            if self.places is not None:
                found = np.unique(np.ravel_multi_index(tuple(self.places[1:]), self.shape))
            else:
                label = np.array(self.arrays().get("label", np.zeros((1, *self.shape), np.uint8)))
                masks = labels.masks(torch.from_numpy(label)[None])[0].numpy()
                found = np.flatnonzero((masks > 0.5).any(axis=0))  # a soft label is 0 nowhere
            self._foreground = found.astype(np.int32)
        return self._foreground

    def crop(self, first: np.ndarray, size: Sequence[int], keys: Sequence[str]) -> dict[str, Tensor]:
        """A window of the image and of what is asked for besides, ``C H W [D]``; zeros around a smaller image."""
        held = None if self.store.tensors is None else self.store.tensors[self.index]
        whole, found = tuple(size) == self.shape, {}
        if whole and held is not None and self.label is None and self.places is None:
            return {key: held[key] for key in keys if key in held}
        window, padding = self.window(first, size), zeros_around(size, self.shape)
        own = {} if self.label is None else self.label()
        for key in keys:
            if key in own:
                part = torch.from_numpy(np.array(own[key][window]))
            elif key == "label" and self.places is not None:
                part = torch.from_numpy(self._mask_within(first, np.minimum(first + size, self.shape)))
            else:
                held = self.store.arrays(self.index) if held is None else held
                if key not in held:
                    continue
                part = held[key] if whole else held[key][window]
                part = part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))
            found[key] = torch.nn.functional.pad(part, padding) if any(padding) else part
        return found

    def window(self, first: np.ndarray, size: Sequence[int]) -> tuple[slice, ...]:
        """A window of ``C H W [D]`` as slices, as far as it lies in the image."""
        ends = np.minimum(first + size, self.shape)
        return (slice(None), *(slice(int(a), int(b)) for a, b in zip(first, ends, strict=True)))

    def _mask_within(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """The part of a mask that is kept as the places that are not 0."""
        places = self.places
        within = ((places[1:] >= first[:, None]) & (places[1:] < last[:, None])).all(axis=0)
        mask = np.zeros((self.channels, *(last - first)), np.uint8)
        mask[tuple(places[:, within] - np.array([0, *first])[:, None])] = self.values[within]
        return mask


def stacked(crops: list[dict[str, Tensor]], key: str, device: torch.device) -> Tensor | None:
    """One key of several crops as a batch, float32 on the device; None where one of them lacks it.

    Crops of a single slice, ``C H W 1``, become images of two axes.
    """
    if not all(key in crop for crop in crops):
        return None
    return flat(torch.stack([crop[key].to(device, non_blocking=True) for crop in crops]).float())
