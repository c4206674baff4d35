"""A MONAI dictionary transform that loads 3D images and their masks with our readers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from common.data.volumes import read_lesion_mask, read_volume
from common.label_space import LabelSpace


class LoadVolumed(MapTransform):
    """Loads a 3D image and the masks that belong to it as float32 MetaTensors, in MONAI's orientation (RAS+ affine).

    Args:
        keys: keys of the paths, the image's first; a mask is a path, or a list of one path for each class.
        labels: the label space, whose classes the masks must be of, one file each; not checked where not given.
        allow_missing_keys: whether an item may lack a key other than the image.

    Returns:
        ``1 H W D`` of the image and ``C H W D`` of 0 and 1 of masks, with ``affine`` and
        ``meta["filename_or_obj"]``.

    Raises:
        FileNotFoundError, ValueError: as :func:`~common.data.volumes.read_volume` and
            :func:`~common.data.volumes.read_lesion_mask`: no 3D image, NaN, a mask of another space.
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
        loaded[image_key] = MetaTensor(torch.from_numpy(values)[None], affine, meta={"filename_or_obj": path})
        for key in mask_keys:
            if key not in loaded:
                if not self.allow_missing_keys:
                    raise KeyError(f"{path} must have a {key}, got only {sorted(map(str, loaded))}.")
                continue
            files = [loaded[key]] if isinstance(loaded[key], str) else list(loaded[key])
            if self.labels is not None and (not self.labels.multilabel or len(files) != self.labels.num_classes):
                raise ValueError(
                    f"{path} must have one mask for each of the classes {list(self.labels.classes)} (multi-label), got "
                    f"{len(files)} for {key} in {self.labels.mode} mode: give each class a mask file of its own."
                )
            masks = [np.asarray(read_lesion_mask(file, like=image).dataobj, dtype=np.float32) for file in files]
            meta = {"filename_or_obj": "|".join(map(str, files))}
            loaded[key] = MetaTensor(torch.from_numpy(np.stack(masks)), affine, meta=meta)
        return loaded
