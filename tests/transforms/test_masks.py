"""From an evaluator's outputs and labels to one mask for each class."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import MeanIoU

from common.transforms import ToMasksd

LABEL_MAP = torch.tensor([[[0.0, 1.0], [2.0, 2.0]]])
MASKS = torch.tensor([[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]])


def item_of(labels, dtype=torch.float32):
    """Outputs that say MASKS, and MASKS as a label."""
    if labels.multilabel:
        return {"pred": (8 * MASKS - 4).to(dtype), "label": MASKS}
    pred = torch.nn.functional.one_hot(LABEL_MAP[0].long(), 3).permute(2, 0, 1)
    return {"pred": pred.to(dtype), "label": LABEL_MAP}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_and_labels_become_masks(labels, dtype):
    item = item_of(labels, dtype)
    result = ToMasksd(labels)(item)
    assert result["pred"].shape == result["label"].shape == (2, 2, 2)
    torch.testing.assert_close(result["pred"].float(), MASKS)
    torch.testing.assert_close(result["label"], MASKS)
    assert MeanIoU()([result["pred"].float()], [result["label"]]).tolist() == [[1, 1]]


def test_a_wrong_pixel_stays_wrong(labels):
    item = item_of(labels)
    item["pred"] = item["pred"].roll(1, dims=-1)
    assert (ToMasksd(labels)(item)["pred"] != MASKS).any()


def test_item_and_metadata_are_kept(labels):
    item = item_of(labels)
    item["pred"] = MetaTensor(item["pred"], meta={"filename_or_obj": "case.png"})
    before = item["pred"].clone()
    result = ToMasksd(labels)(item)
    assert result["pred"].meta["filename_or_obj"] == "case.png"
    torch.testing.assert_close(item["pred"], before)
    assert result is not item


def test_other_keys_and_missing_ones(labels):
    item = item_of(labels)
    renamed = {"out": item["pred"], "truth": item["label"], "image": torch.zeros(1)}
    result = ToMasksd(labels, pred_keys="out", label_keys="truth")(renamed)
    torch.testing.assert_close(result["out"], MASKS)
    torch.testing.assert_close(result["truth"], MASKS)
    with pytest.raises(KeyError):
        ToMasksd(labels)(renamed)
