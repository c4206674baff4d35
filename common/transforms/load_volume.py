"""A MONAI dictionary transform that loads 3D images and their masks with our readers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from common.data.labels import load_volume_label, require_own_label
from common.data.volumes import read_volume
from common.label_space import LabelSpace


class LoadVolumed(MapTransform):
    """Loads a 3D image and its label as float32 MetaTensors, in MONAI's orientation (RAS+ affine).

    ===========  ===============================================================  ==================================
    mode         file or files                                                    result
    ===========  ===============================================================  ==================================
    multilabel   one mask for each class, above 0 is inside                       ``C H W D`` of 0 and 1
    multilabel   one label map of several classes, value j + 1 is class j         ``C H W D`` of 0 and 1
    multiclass   one label map, 0 is background                                   ``1 H W D`` of 0 to C
    ===========  ===============================================================  ==================================

    Args:
        keys: keys of the paths, the image's first.
        labels: the label space; one class for each mask where not given.
        allow_missing_keys: whether an item may lack a key other than the image.

    Returns:
        ``1 H W D`` of the image, and the labels, with ``affine`` and ``meta["filename_or_obj"]`` (several files joined
        by ``|``).

    Raises:
        FileNotFoundError, ValueError: as :func:`~common.data.volumes.read_volume` and
            :func:`~common.data.labels.load_volume_label`: no 3D image, NaN, a label of another space or
            of other classes.
    """

    def __init__(
        self,
        keys: KeysCollection = ("image", "label"),
        labels: LabelSpace | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.labels = labels

    def __call__(self, data: Mapping[Hashable, object]) -> dict[Hashable, object]:
        loaded = dict(data)
        image_key, *mask_keys = self.keys
        path = str(loaded[image_key])
        image = read_volume(path)
        values, affine = np.asarray(image.dataobj, dtype=np.float32), torch.from_numpy(image.affine)
        meta = {"filename_or_obj": path, "original_affine": affine, "spatial_shape": np.asarray(values.shape)}
        loaded[image_key] = MetaTensor(torch.from_numpy(values)[None], affine, meta=meta)
        for key in mask_keys:
            if key not in loaded:
                if not self.allow_missing_keys:
                    raise KeyError(f"{path} must have a {key}, got only {sorted(map(str, loaded))}.")
                continue
            files = [loaded[key]] if isinstance(loaded[key], str) else list(loaded[key])
            labels = self.labels or LabelSpace([str(number) for number in range(len(files))])
            label = load_volume_label(loaded[key], labels, like=image)
            require_own_label(files, path)
            meta = {"filename_or_obj": "|".join(map(str, files))}
            loaded[key] = MetaTensor(torch.from_numpy(label), affine, meta=meta)
        return loaded
