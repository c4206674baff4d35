"""A gate in the training log: what it accepted since the row before, whether it was right, and a warning."""

from __future__ import annotations

import logging
import re

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Events

from common.handlers import TrainingLog
from common.methods import FixMatch, SegMatch
from common.metrics import gate_statistics

COLUMNS = ["accepted", "gate_score", "dice_accepted", "dice_refused", "gate_auc"]
LEARNT = ["discriminator_loss", "discriminator_real", "discriminator_fake"]


@pytest.fixture
def make_run(make_trainer, tmp_path):
    """``make_run(method, epochs)``: a trainer of 5 iterations an epoch with a log, and what it gave in each of them."""

    def make(method, epochs=1, batches=None):
        log, seen = TrainingLog(tmp_path / "train.csv", method.labels, 2), []
        trainer = make_trainer(method, lambda *_: [log], epochs, iterations=5, batches=batches)

        def keep(engine):
            note = engine.state.output["notes"].get("unsupervised")
            seen.append((engine.state.output, note, engine.state.batch["unlabeled"]["truth"]()))

        trainer.add_event_handler(Events.ITERATION_COMPLETED, keep)
        return trainer, seen

    return make


def plain_dice(labels, label, truth):
    found = []
    for one, other in zip(labels.masks(label).numpy() > 0.5, labels.masks(truth).numpy() > 0.5, strict=True):
        found.append(
            [2 * (a & b).sum() / (a.sum() + b.sum()) if (a | b).any() else 1.0 for a, b in zip(one, other, strict=True)]
        )
    return np.array(found)


@pytest.mark.parametrize("gate", ["mean_confidence", "confidence_map", "discriminator"])
def test_columns_are_of_all_images_since_the_row_before(labels, make_run, tmp_path, gate):
    trainer, seen = make_run(SegMatch(labels, gate, 0.55))
    trainer.run()
    if gate != "confidence_map":  # half of what was seen
        threshold = float(torch.cat([output["judged"].scores for output, _, _ in seen]).median())
        trainer, seen = make_run(SegMatch(labels, gate, threshold))
        trainer.run()
    table = pd.read_csv(tmp_path / "train.csv")
    assert table["iteration"].tolist() == [2, 4, 5]
    start = 0
    for _, row in table.iterrows():
        part, start = seen[start : int(row["iteration"])], int(row["iteration"])
        dice = [plain_dice(labels, note.pseudo.label, truth) for _, note, truth in part]
        dice = np.concatenate([each if labels.multilabel else each.mean(1, keepdims=True) for each in dice]).ravel()
        scores, accepted = (
            np.concatenate([getattr(output["judged"], name).numpy().ravel() for output, _, _ in part])
            for name in ("scores", "accepted")
        )
        assert len(dice) == len(scores) == 2 * len(part) * (2 if labels.multilabel else 1)
        expected = gate_statistics(scores.astype(float), accepted.astype(float), dice)
        for name in COLUMNS:
            assert row.get(name, np.nan) == pytest.approx(expected.get(name, np.nan), rel=1e-4, nan_ok=True)
        weights = [note.weight.mean().item() for _, note, _ in part]
        assert row["accepted"] == pytest.approx(np.mean(weights), rel=1e-4)
        for name in LEARNT if gate == "discriminator" else ():
            assert row[name] == pytest.approx(np.mean([output["numbers"][name] for output, _, _ in part]), rel=1e-4)
    assert (gate == "discriminator") == (set(LEARNT) <= set(table))
    assert {*COLUMNS, "pixel_share"} <= set(table)


def test_numbers_that_begin_within_a_row_are_means_of_what_there_is(multilabel, make_run, tmp_path):
    """Of 5 iterations the first 3 learn from labels alone: the row of the fourth has one number to tell."""
    trainer, seen = make_run(SegMatch(multilabel, supervised_share=0.5))
    trainer.run()
    table = pd.read_csv(tmp_path / "train.csv")
    assert table["discriminator_loss"].isna().tolist() == [True, False, False]
    assert table["accepted"].isna().tolist() == [True, False, False]
    assert table["discriminator_loss"][1] == pytest.approx(seen[3][0]["numbers"]["discriminator_loss"].item(), rel=1e-4)


def test_without_a_truth_the_rate_alone_is_told(multilabel, make_run, make_batches, make_store, tmp_path):
    method = SegMatch(multilabel, "mean_confidence", 0.55)
    batches = make_batches(method)
    batches._truth = lambda draws, change: lambda: None
    make_run(method, batches=batches)[0].run()
    table = pd.read_csv(tmp_path / "train.csv")
    assert {"accepted", "gate_score"} <= set(table) and not {"dice_accepted", "gate_auc"} & set(table)


def test_methods_without_a_gate_have_no_such_columns(labels, make_run, tmp_path):
    for method in (FixMatch(labels, 0.51), SegMatch(labels, "identity")):
        make_run(method)[0].run()
        assert not set(COLUMNS + LEARNT) & set(pd.read_csv(tmp_path / "train.csv"))


@pytest.mark.parametrize(
    ("threshold", "words"),
    [
        (0.999, "accepted 0% of the unlabelled images in epoch 1,.*nothing is learnt from them"),
        (0.501, "accepted 100% of the unlabelled images in epoch 1,.*it has no effect"),
    ],
)
def test_a_gate_that_decides_nothing_in_an_epoch_is_warned_of_once(multilabel, make_run, caplog, threshold, words):
    trainer, seen = make_run(SegMatch(multilabel, "mean_confidence", threshold), epochs=3)
    with caplog.at_level(logging.WARNING, "common"):
        trainer.run()
    found = [record.getMessage() for record in caplog.records if "gate" in record.getMessage()]
    assert len(found) == 1
    scores = torch.cat([output["judged"].scores for output, _, _ in seen[:5]])
    assert f"scores were {scores.min():.3f} to {scores.max():.3f}" in found[0]
    assert re.search(words, found[0])


def test_it_is_warned_of_again_when_it_stops_deciding_again(multilabel, make_run, caplog):
    method = SegMatch(multilabel, "mean_confidence", 0.999)
    trainer, seen = make_run(method, epochs=3)
    weight = method.terms["unsupervised"].weight

    @trainer.on(Events.EPOCH_STARTED)
    def change(engine):
        if engine.state.epoch == 2:  # half of what it has seen so far
            weight.threshold = float(torch.cat([output["judged"].scores for output, _, _ in seen]).median())
        elif engine.state.epoch == 3:
            weight.threshold = 0.999

    with caplog.at_level(logging.WARNING, "common"):
        trainer.run()
    found = [record.getMessage() for record in caplog.records if "gate" in record.getMessage()]
    assert ["epoch 1," in found[0], "epoch 3," in found[1], len(found)] == [True, True, 2]


def test_a_gate_that_decides_is_not_warned_of(multilabel, make_run, caplog):
    with caplog.at_level(logging.WARNING, "common"):
        make_run(SegMatch(multilabel, "confidence_map", 0.55))[0].run()
    assert [record for record in caplog.records if "gate" in record.getMessage()] == []
