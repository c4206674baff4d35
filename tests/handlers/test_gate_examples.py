"""Pictures of what a gate accepted and refused: the first images of the last epoch's rows, as they were taught."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ignite.engine import Events

from common.handlers import TrainingLog
from common.handlers.gate_examples import scaled
from common.methods import SegMatch, Supervised

SIZES = {2: (16, 16), 3: (16, 16, 16)}


@pytest.fixture
def make_run(make_trainer, make_batches, tmp_path):
    """``make_run(method, dimensions)``: trains two epochs of 5 iterations; what each iteration gave."""

    def make(method, dimensions=2, known=True):
        batches, seen = make_batches(method, SIZES[dimensions]), []
        if not known:
            batches._truth = lambda draws, change: lambda: None
        log = TrainingLog(tmp_path / "train.csv", method.labels, 2)
        trainer = make_trainer(method, lambda *_: [log], 2, 5, batches=batches)

        def keep(engine):
            unlabeled, output = engine.state.batch["unlabeled"], engine.state.output
            seen.append(
                {**unlabeled, "truth": unlabeled["truth"](), "judged": output["judged"], "notes": output["notes"]}
            )

        trainer.add_event_handler(Events.ITERATION_COMPLETED, keep)
        trainer.run()
        return seen

    return make


def plane(maps, row):
    """An image's ``C W H [D]`` channels as pictures: the middle slice, rows and columns."""
    maps = maps[row].numpy()
    maps = maps[..., 8] if maps.ndim == 4 else maps
    return np.swapaxes(maps, 1, 2)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_first_three_of_each_kind_are_kept(labels, make_run, tmp_path, dimensions):
    alike = {"unsupervised_weight": 0}  # so that another threshold trains no other network
    seen = make_run(SegMatch(labels, "mean_confidence", 0.55, **alike), dimensions)
    threshold = float(torch.cat([one["judged"].scores.amin(1) for one in seen[5::2]]).median())
    seen = make_run(SegMatch(labels, "mean_confidence", threshold, **alike), dimensions)
    expected = {True: [], False: []}
    for place in (5, 7, 9):  # the rows of the second epoch, of iterations 6, 8 and 10
        for row in range(2):
            share = seen[place]["judged"].accepted[row].mean().item()
            expected[share > 0.5].append((seen[place], row))
    chosen = [*expected[True][:3], *expected[False][:3]]
    assert expected[True] and expected[False]
    with np.load(tmp_path / "gate.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert len(arrays["image"]) == len(chosen)
    for place, (one, row) in enumerate(chosen):
        pseudo = one["notes"]["unsupervised"].pseudo.label
        assert arrays["name"][place] == one["name"][row]
        np.testing.assert_allclose(arrays["image"][place], plane(one["image"], row)[0], atol=1e-6)
        np.testing.assert_array_equal(arrays["pseudo_label"][place], plane(labels.masks(pseudo), row))
        np.testing.assert_array_equal(arrays["truth"][place], plane(labels.masks(one["truth"]), row))
        assert arrays["accepted"][place] == pytest.approx(one["judged"].accepted[row].mean().item())
        assert arrays["score"][place] == pytest.approx(one["judged"].scores[row].mean().item())
        masks, true = (labels.masks(each)[row].flatten(1).numpy() for each in (pseudo, one["truth"]))
        dice = np.mean([2 * (a * b).sum() / (a.sum() + b.sum()) for a, b in zip(masks, true, strict=True)])
        assert arrays["dice"][place] == pytest.approx(dice, rel=1e-5)


def test_without_a_truth_there_is_none(multilabel, make_run, tmp_path):
    make_run(SegMatch(multilabel, "confidence_map", 0.55), known=False)
    with np.load(tmp_path / "gate.npz") as file:
        assert np.isnan(file["dice"]).all() and not file["truth"].any() and file["image"].shape[1:] == (16, 16)


def test_without_a_gate_there_is_no_file(multilabel, make_run, make_trainer, tmp_path):
    make_run(SegMatch(multilabel, "identity"))
    log = TrainingLog(tmp_path / "train.csv", multilabel)
    make_trainer(Supervised(multilabel), lambda *_: [log], 1, 1).run()
    assert (tmp_path / "train.csv").is_file() and not (tmp_path / "gate.npz").exists()


def test_images_of_any_range_are_scaled_to_a_picture_s():
    image = np.array([[0.2, 0.6]], np.float32)
    assert scaled(image).tolist() == image.tolist()
    assert scaled(np.array([[-1.0, 0.0, 3.0]])).tolist() == [[0, 0.25, 1]]
    assert scaled(np.full((1, 2), -2.0)).tolist() == [[0, 0]]
