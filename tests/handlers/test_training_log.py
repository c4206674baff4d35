"""The table of a training: means between rows, statistics, and no row twice."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Events

from common.fused_label_space import FusedLabelSpace
from common.handlers import Checkpoint, TrainingLog
from common.handlers.training_log import rows_up_to, write_table
from common.label_space import LabelSpace
from common.methods import RPG, RPGPlus, Supervised, UniMatch
from common.metrics import comparison_statistics, pseudo_label_statistics, view_statistics, weight_statistics
from common.weights import ConfidencePower, RankSimilarity
from common.weights.confidence import probability_of


@pytest.fixture
def make_run(make_trainer, tmp_path):
    """``make_run(method, resume, interval)``: a trainer of 3 epochs of 5 iterations with a log and a checkpoint."""

    def make(method, resume=False, interval=2, epochs=3):
        def handlers(network, optimizer, scheduler, loader):
            objects = {"network": network, "optimizer": optimizer, "scheduler": scheduler, "loader": loader}
            return [
                Checkpoint(tmp_path / "checkpoint.pt", objects, resume),
                TrainingLog(tmp_path / "train.csv", method.labels, interval),
            ]

        return make_trainer(method, handlers, epochs, iterations=5)

    return make


def test_rows_are_means_since_the_row_before(make_run, tmp_path, labels):
    outputs = []
    trainer = make_run(RPG(labels))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: outputs.append(engine.state.output))
    trainer.run()
    table = pd.read_csv(tmp_path / "train.csv")
    # every second iteration, and each epoch's last one
    assert table["iteration"].tolist() == [2, 4, 5, 6, 8, 10, 12, 14, 15]
    assert table["epoch"].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    np.testing.assert_allclose(table["learning_rate"], np.repeat([0.01, 0.005, 0.0025], 3))
    start = 0
    for row in table.itertuples():
        part = outputs[start : row.iteration]
        start = row.iteration
        assert row.loss == pytest.approx(np.mean([output["loss"] for output in part]), rel=1e-5)
        for name in ("supervised", "unsupervised"):
            expected = np.mean([output["terms"][name] for output in part])
            assert getattr(row, f"loss_{name}") == pytest.approx(expected, rel=1e-5)
    assert (table["seconds"].diff()[1:] > 0).all()


def test_statistics_are_those_of_the_row_s_own_iteration(make_run, tmp_path, labels):
    trainer = make_run(RPG(labels), epochs=1)
    trainer.run()
    noted, truth = trainer.state.output["notes"]["unsupervised"], trainer.state.batch["unlabeled"]["truth"]()
    expected = pseudo_label_statistics(labels, noted.pseudo.label, noted.weight, truth)
    last = pd.read_csv(tmp_path / "train.csv").iloc[-1]
    assert {"pseudo_accuracy", "pseudo_iou_lung", "pixel_share", "weight_mean", "weight_lung"} <= set(last.index)
    for name, value in expected.items():
        assert last[name] == pytest.approx(value, rel=1e-4)
    assert trainer.state.log["loss"] == pytest.approx(last["loss"], rel=1e-4)


def test_the_weight_s_numbers_and_its_factors_stand_beside(make_run, tmp_path, labels):
    trainer = make_run(UniMatch(labels, threshold=0.501, added_weight=ConfidencePower(2)), epochs=1)
    trainer.run()
    output, truth = trainer.state.output, trainer.state.batch["unlabeled"]["truth"]()
    noted = next(iter(output["notes"].values()))
    assert list(noted.factors) == ["Confidence", "ConfidencePower"]
    torch.testing.assert_close(math.prod(noted.factors.values()), noted.weight)
    weights = {"weight": noted.weight, **noted.factors}
    known = probability_of(labels, noted.pseudo.label, noted.pseudo.known["outputs"])
    expected = weight_statistics(labels, noted.pseudo.label, weights, truth, known)
    assert {"auc_weight", "accuracy_Confidence", "auc_ConfidencePower", "calibration_error"} <= set(expected)
    last = pd.read_csv(tmp_path / "train.csv").iloc[-1]
    for name, value in expected.items():
        assert last[name] == pytest.approx(value, rel=1e-4)


def test_terms_and_views_stand_beside(make_run, tmp_path, labels):
    trainer = make_run(RPGPlus(labels, threshold=0.501), epochs=1)
    trainer.run()
    output, truth = trainer.state.output, trainer.state.batch["unlabeled"]["truth"]()
    expected = comparison_statistics(labels, output["compared"]) | view_statistics(labels, output["notes"], truth)
    assert {"gradient_consistency_lung", "agreement_unsupervised", "view_accuracy_consistency"} <= set(expected)
    last = pd.read_csv(tmp_path / "train.csv").iloc[-1]
    for name, value in expected.items():
        assert last[name] == pytest.approx(value, rel=1e-4)


def test_factors_are_those_of_the_term_that_is_looked_at(make_run, tmp_path, multilabel):
    """The references weigh at the queries; the second term has other factors, at all pixels."""
    trainer = make_run(RPGPlus(multilabel, query_size=4, added_weight=RankSimilarity(k=1)), epochs=1)
    trainer.run()
    first = next(iter(trainer.state.output["notes"].values()))
    assert all(factor.shape[-2:] == (4, 4) for factor in first.factors.values())
    columns = pd.read_csv(tmp_path / "train.csv").columns
    names = {name.removeprefix("accuracy_") for name in columns if name.startswith("accuracy_")}
    assert names == {"weight", *first.factors} - {"Ones"}


def test_fine_classes_are_judged_by_the_classes_that_they_are_fused_to():
    labels = FusedLabelSpace(LabelSpace(["a", "b", "c"]), {"ab": ["a", "b"], "d": ["c"]})
    truth = torch.randint(0, 2, (2, 2, 8, 8)).float()
    label = torch.randint(0, 2, (2, 3, 8, 8)).float()
    numbers = weight_statistics(labels, label, {"weight": torch.rand(2, 3, 8, 8)}, truth, torch.rand(2, 3, 8, 8))
    assert {"accuracy_weight", "auc_weight_ab", "auc_probability"} <= set(numbers)


def test_truth_is_compared_at_the_queries(make_run, tmp_path, labels):
    trainer = make_run(RPG(labels, query_size=4), epochs=1)
    trainer.run()
    noted, truth = trainer.state.output["notes"]["unsupervised"], trainer.state.batch["unlabeled"]["truth"]()
    assert noted.weight.shape == (2, 1, 4, 4)
    right = (noted.pseudo.label == truth[..., 2::4, 2::4]).all(dim=1).float().mean().item()
    assert pd.read_csv(tmp_path / "train.csv").iloc[-1]["pseudo_accuracy"] == pytest.approx(right, rel=1e-4)


def test_supervised_has_no_columns_of_pseudo_labels(make_run, tmp_path, labels):
    make_run(Supervised(labels), epochs=1).run()
    columns = pd.read_csv(tmp_path / "train.csv").columns.tolist()
    supervised = ["gradient_supervised_lung", "gradient_supervised_heart", "agreement_supervised"]
    assert columns == ["iteration", "epoch", "seconds", "learning_rate", "loss", "loss_supervised", *supervised]


@pytest.mark.parametrize("stop", [7, 10, 11], ids=["within an epoch", "before it is saved", "after"])
def test_a_resumed_run_has_each_row_once_and_as_the_whole_run(make_run, tmp_path, labels, stop):
    """What was written after the checkpoint is trained again, and replaces what it says."""
    make_run(RPG(labels)).run()
    whole = pd.read_csv(tmp_path / "train.csv")
    for name in ("train.csv", "checkpoint.pt"):
        (tmp_path / name).unlink()
    trainer = make_run(RPG(labels))

    def stop_it(engine):
        if engine.state.iteration == stop:
            raise KeyboardInterrupt

    trainer.add_event_handler(Events.ITERATION_COMPLETED, stop_it)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    if stop == 10:  # killed between the table and the checkpoint: the table knows more
        rows = rows_up_to(tmp_path / "train.csv", "iteration", 100)
        write_table(tmp_path / "train.csv", [*rows, {**rows[-1], "iteration": 6}, {**rows[-1], "iteration": 10}])
    make_run(RPG(labels), resume=True).run()
    resumed = pd.read_csv(tmp_path / "train.csv")
    assert resumed["iteration"].is_unique
    pd.testing.assert_frame_equal(resumed.drop(columns="seconds"), whole.drop(columns="seconds"), rtol=1e-5)
    assert (resumed["seconds"].diff()[1:] > 0).all()


def test_a_new_run_does_not_take_over_an_old_table(make_run, tmp_path, labels):
    make_run(Supervised(labels)).run()
    make_run(Supervised(labels), epochs=1).run()
    assert pd.read_csv(tmp_path / "train.csv")["iteration"].tolist() == [2, 4, 5]


def test_rows_up_to(tmp_path):
    path = tmp_path / "table.csv"
    assert rows_up_to(path, "epoch", 5) == []
    write_table(path, [{"epoch": 1, "x": 0.123456789}, {"epoch": 2, "x": float("nan")}, {"epoch": 3, "x": 1.0}])
    rows = rows_up_to(path, "epoch", 2)
    assert [row["epoch"] for row in rows] == [1, 2]
    write_table(path, rows)
    assert path.read_text() == "epoch,x\n1,0.123457\n2,\n"  # empty cells stay empty
    assert rows_up_to(path, "epoch", 0) == []


def test_large_numbers_of_iterations_stay_whole(tmp_path):
    write_table(tmp_path / "table.csv", [{"iteration": 1234567, "loss": torch.tensor(0.5).item()}])
    assert "1234567,0.5" in (tmp_path / "table.csv").read_text()
