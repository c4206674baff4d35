"""From outputs and labels to one mask for each class."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, ensure_tuple

from common.label_space import LabelSpace


class ToMasksd(MapTransform):
    """Turns an evaluator's decollated outputs and labels into masks of the foreground classes, ``C H W [D]``.

    Metrics of MONAI count what they get: this is where outputs become decisions, in the way of the label space.

    Args:
        labels: the label space.
        pred_keys: keys of outputs (logits).
        label_keys: keys of labels.
    """

    def __init__(
        self, labels: LabelSpace, pred_keys: KeysCollection = "pred", label_keys: KeysCollection = "label"
    ) -> None:
        super().__init__(pred_keys)
        self.labels, self.label_keys = labels, ensure_tuple(label_keys)

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        data = dict(data)
        for key in self.key_iterator(data):
            masks = self.labels.masks(self.labels.predict(data[key][None]))[0]
            data[key] = convert_to_dst_type(masks, data[key])[0]
        for key in self.label_keys:
            data[key] = convert_to_dst_type(self.labels.masks(data[key][None])[0], data[key])[0]
        return data
