"""The stage of a training in which a detector learns: what it finds, what it leaves behind, and what it refuses."""

from __future__ import annotations

import logging
import random

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Engine, Events

from common.batches import Batches
from common.detection import DetectorStage, DetectorSteps, make_detector, network
from common.detection import stage as stage_module
from common.detection.boxes import label_boxes
from common.detection.network import anchor_shapes
from common.detection.training import labeled_alone, new_detector
from common.handlers import Checkpoint
from common.label_space import LabelSpace
from common.methods import Method, Supervised
from common.sources import Prediction
from common.terms import Match
from common.views import Chain, Flip
from common.weights import DetectorAgreement

LABELS = LabelSpace(["square", "bar"], "multiclass")
SMALL = {"features": (8, 16, 16), "width": 8, "min_size": 4, "num_workers": 0, "batch": 4}


def images_of(store, key, number, size=(32, 32), seed=0):
    """Images with a bright square of 10 x 10 pixels above and a grey bar of 6 x 14 below; volumes in some slices."""
    rng, arrays = np.random.default_rng([seed, number, len(size)]), {}
    for index in range(number):
        label, noise = np.zeros((1, *size), np.uint8), rng.random((1, *size))
        for value, sides, top in ((1, (10, 10), 0), (2, (6, 14), 16)):
            low = [top + int(rng.integers(0, 16 - sides[0])), int(rng.integers(0, size[1] - sides[1]))]
            window = [slice(a, a + b) for a, b in zip(low, sides, strict=True)]
            label[(0, *window, *[slice(2, None)] * (len(size) - 2))] = value
        image = 0.1 * noise + 0.8 * (label == 1) + 0.4 * (label == 2)
        arrays[f"{key}{seed}{index}.png"] = {"image": image, key: label}
    return store(arrays)


def agreeing(labels=LABELS):
    """A method that asks for boxes."""
    return Method(labels, {"consistency": Match(Prediction(), DetectorAgreement(0.6))})


@pytest.fixture
def make_stage(store, tmp_path, monkeypatch):
    """``make_stage(folder, method, size, **settings)``: a stage on six labelled and four unlabelled images."""
    for module in (network, stage_module):
        monkeypatch.setattr(module, "FLOOR", 0.005)  # so low that a detector finds boxes that has hardly learnt

    def make(folder="run", method=None, size=(32, 32), patch=None, **settings):
        stores = [images_of(store, "label", 6, size), images_of(store, "truth", 4, size, 1)]
        weak = Chain([Flip([0]), Flip([1])])
        batches = Batches(*stores, LABELS, method or agreeing(), 2, 2, patch_size=patch, weak=weak)
        validation = images_of(store, "label", 6, size, 2)
        return DetectorStage(batches, tmp_path / folder, validation, **{**SMALL, "iterations": 1, **settings})

    return make


def started(stage):
    """The stage after it has run at the start of a training."""
    engine = Engine(lambda *_: None)
    engine.state.device = torch.device("cpu")
    stage.attach(engine)
    engine.run([0], max_epochs=1)
    return stage


def test_a_handler_starts_it(make_stage):
    """As a bundle has it, whose handlers are all made by their ``_target_``."""
    stage = make_stage("steps")
    assert stage.found is None
    started(DetectorSteps(stage))
    assert stage.batches.boxes is not None and len(stage.found) == 4


def equal(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in ("boxes", "labels", "scores")
    )


@pytest.mark.slow
def test_a_short_training_finds_the_objects(make_stage, caplog, tmp_path):
    with caplog.at_level(logging.INFO):
        settings = {"batch": 6, "learning_rate": 0.004, "score": 0.5, "features": (8, 16, 32), "width": 16}
        stage = started(make_stage(iterations=120, **settings))
    table = pd.read_csv(tmp_path / "run" / "validation.csv").set_index(["score", "class"])
    row = table.loc[(0.5, "all")]
    assert row["objects"] == 12 and row["recall"] >= 0.8 and row["precision"] >= 0.7
    assert table.loc[(0.25, "square"), "recall"] >= table.loc[(0.95, "square"), "recall"]
    log = pd.read_csv(tmp_path / "run" / "train.csv")
    assert log["iteration"].tolist() == list(range(10, 121, 10)) and log["loss"].iloc[-1] < 0.5 * log["loss"].iloc[0]
    assert any("finds 12 objects of 6 validation images with recall" in line for line in caplog.messages)
    truth = stage.batches[1]["unlabeled"]["truth"]()
    boxes = stage.batches[1]["unlabeled"]["boxes"]
    agreement = (boxes * LABELS.masks(truth)).sum() / LABELS.masks(truth).sum()
    assert agreement > 0.7 and stage.batches.boxes.boxed.all()


def test_what_it_leaves_behind(make_stage, tmp_path):
    stage = started(make_stage(score=0.006))
    content = torch.load(tmp_path / "run" / "detector.pt", weights_only=True)
    detector = make_detector(content["anchors"], 2, 1, SMALL["features"], SMALL["width"])
    detector.network.load_state_dict(content["network"])
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "boxes.csv",
        "detector.pt",
        "train.csv",
        "validation.csv",
    ]
    table = pd.read_csv(tmp_path / "run" / "boxes.csv")
    assert list(table.columns) == ["image", "class", "score", "from_x", "from_y", "to_x", "to_y"]
    assert len(table) == sum(len(each["labels"]) for each in stage.found)


def test_the_same_detector_is_used_again_and_another_one_trained_anew(make_stage, tmp_path, caplog):
    first = started(make_stage())
    file = tmp_path / "run" / "detector.pt"
    written = file.stat().st_mtime_ns
    again = started(make_stage(score=0.5))  # scores are kept, and any of them may be asked for
    assert file.stat().st_mtime_ns == written and equal(first.found, again.found)
    with caplog.at_level(logging.WARNING):
        started(make_stage(iterations=2))
    assert file.stat().st_mtime_ns > written
    assert any("is of iterations 1, got 2: another one is trained" in line for line in caplog.messages)


def test_a_damaged_file_is_an_error_that_names_it(make_stage, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "detector.pt").write_bytes(b"half of a file")
    with pytest.raises(ValueError, match=r"detector\.pt must be a checkpoint"):
        started(make_stage())


def test_two_trainings_are_equal_and_leave_all_random_numbers_as_they_were(make_stage):
    torch.manual_seed(1)
    states = [torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()]
    one = started(make_stage("one"))
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1]) and states[2] == random.getstate()
    torch.manual_seed(2)
    other = started(make_stage("other", num_workers=1))
    assert equal(one.found, other.found) and sum(len(each["labels"]) for each in one.found) > 0
    assert not equal(one.found, started(make_stage("third", seed=1)).found)


def test_without_a_method_that_asks_nothing_is_trained(make_stage, tmp_path):
    stage = started(make_stage(method=Supervised(LABELS)))
    assert not (tmp_path / "run").exists() and stage.batches.boxes is None and stage.settings() == {}
    assert "boxes" not in stage.batches[1].get("unlabeled", {})


class Killed(Exception):
    pass


@pytest.fixture
def run(make_stage, make_trainer, tmp_path):
    """``run(folder, die, event)``: trains for two epochs, resumed where it can be, and dies at an event."""

    def train(folder, die=None, event=None):
        method = agreeing()
        torch.manual_seed(0)
        stage = make_stage(f"{folder}/detector", method, score=0.006)
        path = tmp_path / folder / "checkpoint.pt"

        def handlers(network, optimizer, scheduler, loader):
            state = {"network": network, "optimizer": optimizer, "method": method, "loader": loader, "detector": stage}
            return [Checkpoint(path, state, resume=True), stage]

        trainer = make_trainer(method, handlers, 2, 2, batches=stage.batches)
        if die == "within":  # the detector's training
            stage.validation = Unreadable()
        elif die:
            trainer.add_event_handler(die, kill)
        if die:
            with pytest.raises(Killed):
                trainer.run()
        else:
            trainer.run()
        return torch.load(path, weights_only=True) if path.exists() else None

    return train


def kill(*_):
    raise Killed


class Unreadable:
    """Images that kill who reads them, and those are read once the detector has been trained."""

    def __len__(self):
        raise Killed


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_a_run_that_is_killed_anywhere_ends_as_the_one_that_was_not(run, tmp_path):
    whole = run("whole")
    assert whole["detector"]["counts"].shape == (4,)
    run("killed", "within")
    assert not (tmp_path / "killed" / "detector" / "detector.pt").exists()
    run("killed", Events.EPOCH_STARTED(once=1))  # behind the detector, without a checkpoint
    run("killed", Events.ITERATION_COMPLETED(once=3))
    (tmp_path / "killed" / "detector" / "detector.pt").unlink()  # the checkpoint has the boxes
    assert same(whole, run("killed"))


def test_a_checkpoint_of_another_detector_is_refused(run, make_stage, make_trainer, tmp_path):
    run("run")
    stage = make_stage("run/detector", method := agreeing(), score=0.5)

    def handlers(network, optimizer, scheduler, loader):
        state = {"network": network, "optimizer": optimizer, "method": method, "loader": loader, "detector": stage}
        return [Checkpoint(tmp_path / "run" / "checkpoint.pt", state, resume=True), stage]

    with pytest.raises(ValueError, match=r"of a run with detector#score 0\.006, got 0\.5"):
        make_trainer(method, handlers, 2, 2, batches=stage.batches).run()


def test_slices_of_volumes_are_looked_at_one_by_one(make_stage):
    stage = started(make_stage(size=(32, 32, 5), patch=(32, 32, 1)))
    boxes = np.concatenate([each["boxes"] for each in stage.found])
    assert len(boxes) and boxes.shape[1] == 6
    assert (boxes[:, 5] - boxes[:, 2] == 1).all() and set(boxes[:, 2]) == set(range(5))
    true = stage.true("labeled")[0]
    assert len(true["boxes"]) == 6 and set(true["boxes"][:, 2]) == {2, 3, 4} and set(true["labels"]) == {0, 1}


@pytest.mark.parametrize("size", [(32, 32, 16), (40, 32, 16)])
def test_volumes_whole_and_by_sliding_windows(make_stage, size):
    stage = started(make_stage(size=size, patch=(32, 32, 16)))
    boxes = np.concatenate([each["boxes"] for each in stage.found])
    assert len(boxes) and (boxes >= 0).all() and (boxes[:, 3:] <= size).all()
    assert stage.batches[1]["unlabeled"]["boxes"].shape == (2, 2, 32, 32, 16)


def test_classes_of_the_background_have_no_boxes(make_stage):
    stage = started(make_stage(background=["square"], score=0.006))
    assert set(np.concatenate([each["labels"] for each in stage.found])) == {1}
    assert stage.batches[1]["unlabeled"]["boxed"].tolist() == [False, True]
    assert {row["class"] for row in stage.scores(stage.found, stage.found, 0.5)} == {"bar", "all"}


def test_a_detector_that_finds_nothing_says_so(make_stage, caplog):
    with caplog.at_level(logging.WARNING):
        stage = started(make_stage(score=0.999, iterations=1))
    assert any("found no square and no bar with a score of 0.999 in 4 unlabelled" in line for line in caplog.messages)
    unlabeled = stage.batches[1]["unlabeled"]
    assert not unlabeled["boxes"].any() and not unlabeled["boxed"].any()


def test_a_class_without_an_object_is_refused(make_stage):
    """Bars of 84 pixels are no objects of more than 90."""
    with pytest.raises(ValueError, match=r"on the labelled images .*, got none of bar: lower min_size, label"):
        started(make_stage(min_size=90))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"background": ["sky"]}, "must name some of the classes square, bar, but not all, got sky"),
        ({"background": ["bar", "square"]}, "but not all, got bar, square"),
        ({"score": 1.0}, r"score of the detector must be in \[0\.005, 1\), got 1.0"),
        ({"score": 0.001}, r"must be in \[0\.005, 1\), got 0\.001"),
        ({"iterations": 0}, "iterations of the detector must be at least 1, got 0"),
        ({"min_size": -1}, "min_size of the detector must be at least 0, got -1"),
        ({"width": 12}, r"width a multiple of 8, got \[8, 16, 16\] and 12"),
    ],
)
def test_settings_out_of_range_are_refused(make_stage, settings, message):
    with pytest.raises(ValueError, match=message):
        make_stage(**settings)


def test_anchors_stand_for_the_objects():
    """Four groups of sides, each within a tenth of its middle, and few different ones as they are."""
    groups, rng = np.array([[10, 20], [20, 10], [5, 5], [40, 44]]), np.random.default_rng(0)
    sides = np.repeat(groups, 10, axis=0) * np.exp(rng.uniform(-0.05, 0.05, (40, 2)))
    low = rng.uniform(0, 9, (40, 2))
    found = np.array(anchor_shapes(np.concatenate([low, low + sides], axis=1), 4))
    means = np.exp(np.log(sides).reshape(4, 10, 2).mean(1))
    for mean in means:
        assert np.abs(found - mean).sum(1).min() < 1e-6
    assert sorted(anchor_shapes(np.array([[1, 1, 3, 5], [0, 0, 2, 4], [0, 0, 7, 7]]), 3)) == [[2, 4], [7, 7]]


def test_small_windows_have_no_room_for_all_levels(make_stage):
    stage = make_stage(size=(32, 32, 16), patch=(16, 16, 16))
    alone = labeled_alone(stage.batches, 2, 0)
    detector = new_detector(alone, stage.true("labeled"), [0, 1], 4, (8, 8, 8, 8, 8), 8)
    assert len(detector.network.feature_extractor.downs) == 3
    detector.train()(torch.rand(2, 1, 16, 16, 16), [{"boxes": torch.zeros(0, 6), "labels": torch.zeros(0).long()}] * 2)


def test_images_without_an_object_are_learnt_from():
    torch.manual_seed(0)
    detector = make_detector([[6, 6]] * 3, 2, 1, (8, 16, 16), 8).train()
    label = torch.zeros(2, 1, 32, 32)
    losses = detector(torch.rand(2, 1, 32, 32), label_boxes(LABELS, label, [0, 1], 0))
    assert losses["classification"] > 0 and losses["box_regression"] == 0
