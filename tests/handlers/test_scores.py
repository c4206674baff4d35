"""Tables of scores against intersection and union counted by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from torch import Tensor, nn

from common.handlers import ValidationScores
from common.handlers.scores import case_names

CASES = 3


class Copy(nn.Module):
    """Predicts what the image says: pixel value v is class v (multi-class), or bit j for class j (multi-label)."""

    def __init__(self, labels) -> None:
        super().__init__()
        self.labels = labels

    def forward(self, x: Tensor) -> Tensor:
        value = x[:, :1].round().long()
        if self.labels.multilabel:
            return torch.cat([(value >> j & 1) * 8.0 - 4 for j in range(self.labels.num_classes)], dim=1)
        return torch.cat([(value == j) * 8.0 for j in range(self.labels.num_outputs)], dim=1)


def cases(labels, seed=0):
    """Images, predicted and true masks; the heart is missing from the first case's truth."""
    rng = np.random.default_rng(seed)
    items, predicted, true = [], [], []
    for index in range(CASES):
        value = rng.integers(0, 4 if labels.multilabel else 3, (1, 6, 6))
        if labels.multilabel:
            label = rng.integers(0, 2, (2, 6, 6))
            label[1] *= index > 0
            masks = (np.stack([value[0] & 1, value[0] >> 1]), label)
        else:
            label = rng.integers(0, 3 if index else 2, (1, 6, 6))
            masks = (np.concatenate([value == 1, value == 2]), np.concatenate([label == 1, label == 2]))
        predicted.append(masks[0] > 0)
        true.append(masks[1] > 0)
        meta = {"filename_or_obj": f"/data/case{index}.nii.gz"}
        items.append(
            {
                "image": MetaTensor(torch.from_numpy(value).float(), meta=meta),
                "label": MetaTensor(torch.from_numpy(label).float(), meta=meta),
            }
        )
    return items, np.stack(predicted), np.stack(true)


def counted(predicted, true):
    """Intersection over union and Dice, cases x classes; not a number where the truth is empty."""
    both = (predicted & true).sum(axis=(2, 3)).astype(float)
    either, sizes = (predicted | true).sum(axis=(2, 3)), predicted.sum(axis=(2, 3)) + true.sum(axis=(2, 3))
    empty = ~true.any(axis=(2, 3))
    return np.where(empty, np.nan, both / either), np.where(empty, np.nan, 2 * both / sizes)


@pytest.fixture
def evaluate(make_evaluator, labels):
    """``evaluate(handlers, seed)`` runs an evaluator over the cases; gives IoU and Dice counted by hand."""

    def run(handlers, epoch=1, seed=0):
        items, predicted, true = cases(labels, seed)
        evaluator = make_evaluator(Copy(labels), labels, handlers)
        evaluator.data_loader = DataLoader(Dataset(items), batch_size=2)
        evaluator.run(global_epoch=epoch)
        return counted(predicted, true)

    return run


def test_a_row_for_each_validation(evaluate, labels, tmp_path):
    handler = ValidationScores(tmp_path / "validation.csv", labels, iterations=50)
    expected = [evaluate([handler], epoch, seed) for epoch, seed in ((2, 0), (4, 1))]
    table = pd.read_csv(tmp_path / "validation.csv")
    assert table["epoch"].tolist() == [2, 4]
    assert table["iteration"].tolist() == [100, 200]
    for row, scores in zip(table.to_dict("records"), expected, strict=True):
        for name, values in zip(("iou", "dice"), scores, strict=True):
            per_class = np.nanmean(values, axis=0)
            assert row[f"{name}_lung"] == pytest.approx(per_class[0], rel=1e-5)
            assert row[f"{name}_heart"] == pytest.approx(per_class[1], rel=1e-5)
            assert row[f"{name}_mean"] == pytest.approx(per_class.mean(), rel=1e-5)


def test_a_validation_done_again_after_a_resume_replaces_its_row(evaluate, labels, tmp_path):
    for epoch in (1, 2, 3):
        evaluate([ValidationScores(tmp_path / "validation.csv", labels, 10)], epoch)
    evaluate([ValidationScores(tmp_path / "validation.csv", labels, 10)], 2, seed=1)
    assert pd.read_csv(tmp_path / "validation.csv")["epoch"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("file", "name"), [("/a/JPCLN001.IMG", "JPCLN001"), ("case.1.png", "case.1"), ("b/scan.nii.gz", "scan")]
)
def test_names_of_cases(file, name):
    assert case_names([file]) == [name]
