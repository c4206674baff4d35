"""MONAI dictionary transforms that load radiographs and their labels with our readers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from common.data.files import times
from common.data.labels import load_label, require_own_label, same_shape_up_to_scale
from common.data.readers import read_image, require_channel
from common.label_space import LabelSpace


class LoadRadiographd(MapTransform):
    """Load one image from its path as a ``(1, W, H)`` float32 MetaTensor, grey, high values bright; or its channels.

    The orientation is MONAI's ``LoadImage``'s, whatever the file's kind (see
    `common.data.readers.read_image`). The file's name is in ``meta["filename_or_obj"]``; the affine is the
    identity, in pixels.

    Args:
        keys: keys of the paths.
        allow_missing_keys: whether an item may lack a key.
        channel: None for grey; the number of a channel, from 0, to take that one alone as ``(1, W, H)``; ``"all"`` for
            all channels, ``(C, W, H)``. ``meta["blank"]`` says whether what is taken has one value everywhere.
        channels: how many channels must be taken, those that the network has inputs for; any number where not given.

    Raises:
        FileNotFoundError, ValueError: as `common.data.readers.read_image`; for another number of channels.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        allow_missing_keys: bool = False,
        channel: int | str | None = None,
        channels: int | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        require_channel(channel)
        self.channel, self.channels = channel, channels

    def __call__(self, data: Mapping[Hashable, object]) -> dict[Hashable, object]:
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            path = str(loaded[key])
            array = read_image(path, self.channel)
            array = array if self.channel == "all" else array[None]
            if self.channels not in (None, len(array)):
                raise ValueError(
                    f"{path}: an image must have {self.channels} channels, got {len(array)}. Ask for one of them by "
                    "channel, or leave the image out."
                )
            loaded[key] = _meta_tensor(array, path)
            loaded[key].meta["blank"] = bool(array.min() == array.max())
        return loaded


class LoadLabeld(MapTransform):
    """Load a label as a float32 MetaTensor in the form of its `LabelSpace`, of the image's size.

    ===========  ==========================================  =================================================
    mode         file or files                               result
    ===========  ==========================================  =================================================
    multilabel   one mask for each class, above 0 is inside  ``(C, W, H)`` of 0 and 1
    multilabel   one label map, value j + 1 is class j; of   ``(C, W, H)`` of 0 and 1
                 one class its mask
    multiclass   one label map, 0 is background              ``(1, W, H)`` of 0 to C
    ===========  ==========================================  =================================================

    A label of another size than the image, but of the same shape up to scale (SCR's masks have half the size
    of JSRT's images), is brought to the image's size by the nearest pixel.

    Args:
        keys: keys of the labels: a path, or in multi-label a list of paths.
        labels: the label space.
        image_key: key of the image, loaded before, whose size the label takes; labels stay as they are where
            an item lacks it.
        allow_missing_keys: whether an item may lack a label; for 'truth' of unlabelled images.

    Raises:
        FileNotFoundError: when a label's file is missing.
        ValueError: naming the file, when it cannot be read, holds a value outside the classes, has a shape
            that the image's is no multiple of, is the image or another class's mask, or when the number of masks is
            not that of the classes.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        labels: LabelSpace | None = None,
        image_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if labels is None or not hasattr(labels, "classes"):
            raise ValueError(f"labels must be a LabelSpace, got {labels!r}.")
        self.labels = labels
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, object]) -> dict[Hashable, object]:
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            files = loaded[key]
            image = loaded.get(self.image_key)
            if isinstance(image, str):
                raise ValueError(f"'{self.image_key}' must be loaded before '{key}'. Put LoadRadiographd first.")
            array = load_label(files, self.labels)
            first = str(files) if not isinstance(files, (list, tuple)) else str(files[0])
            if image is not None:
                require_own_label(files, image.meta["filename_or_obj"])
                array = _to_size(array, tuple(image.shape[-2:]), first)
            loaded[key] = _meta_tensor(array, first)
        return loaded


def _to_size(array: np.ndarray, size: tuple[int, int], file: str) -> np.ndarray:
    if array.shape[1:] == size:
        return array
    if not same_shape_up_to_scale(array.shape[1:], size):
        raise ValueError(
            f"{file}: a label must have its image's size or shape, got {times(array.shape[1:])} pixels for "
            f"an image of {times(size)}. Pair them anew."
        )
    return torch.nn.functional.interpolate(torch.from_numpy(array)[None], size=size, mode="nearest-exact")[0].numpy()


def _meta_tensor(array: np.ndarray, path: str) -> MetaTensor:
    meta = {
        "filename_or_obj": path,
        "original_channel_dim": 0,
        "spatial_shape": np.asarray(array.shape[1:]),
    }
    return MetaTensor(
        torch.from_numpy(np.ascontiguousarray(array)), affine=torch.eye(4, dtype=torch.float64), meta=meta
    )
