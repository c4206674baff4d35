"""What the report and TensorBoard are given to show."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DistributedSampler as MonaiDistributedSampler
from monai.data import MetaTensor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common import ranks
from common.data import PatientStacks
from common.handlers import (
    BestModel,
    CasePictures,
    Checkpoint,
    LossProgressBar,
    TensorBoardPictures,
    TrainingLog,
)
from common.handlers.cases import picture
from common.label_space import LabelSpace
from common.methods import RPG, Supervised


@pytest.fixture
def evaluate(make_evaluator, make_store, tiny_network, tmp_path, labels):
    """``evaluate(method, **options)`` runs an evaluator over five cases; gives network, cases and IoU per case."""

    def run(method=RPG, epoch=1, number=5, **options):
        torch.manual_seed(0)
        network = tiny_network(labels.num_outputs).eval()
        cases, references = make_store(labels, number, "case"), make_store(labels, 4)
        handler = CasePictures(
            tmp_path / "cases", labels, network, method(labels), references, cases, pool_size=2, **options
        )
        evaluator = make_evaluator(network, labels, [handler], number)
        evaluator.run(global_epoch=epoch)
        return network, cases, evaluator.state.metric_details["val_mean_iou"].nanmean(dim=1)

    return run


def saved(tmp_path):
    return {path.stem: dict(np.load(path)) for path in (tmp_path / "cases").iterdir()}


def test_hardest_and_median_case(evaluate, tmp_path):
    _, _, iou = evaluate()
    order = iou.argsort().tolist()
    assert set(saved(tmp_path)) == {f"hardest_case{order[0]}", f"median_case{order[2]}"}


def test_arrays_have_picture_axes_and_the_right_content(evaluate, tmp_path, labels):
    network, cases, iou = evaluate()
    worst = iou.argmin().item()
    arrays = saved(tmp_path)[f"hardest_case{worst}"]
    item = cases[worst]
    with torch.no_grad():
        predicted = labels.masks(labels.predict(network(item["image"].as_tensor()[None])))[0]
    np.testing.assert_array_equal(arrays["image"], item["image"].numpy()[0].T)
    truth = labels.masks(item["label"].as_tensor()[None])[0]
    np.testing.assert_array_equal(arrays["truth"], truth.transpose(1, 2).numpy())
    np.testing.assert_array_equal(arrays["prediction"], predicted.transpose(1, 2).numpy())
    assert arrays["prediction"].dtype == arrays["truth"].dtype == arrays["pseudo_label"].dtype == np.uint8
    assert arrays["pseudo_label"].shape == (2, 16, 16)
    assert arrays["weight"].shape == (16, 16)
    assert 0 <= arrays["weight"].min() <= arrays["weight"].max() <= 1


def test_supervised_has_no_pseudo_label(evaluate, tmp_path):
    evaluate(Supervised)
    assert all(set(arrays) == {"image", "truth", "prediction"} for arrays in saved(tmp_path).values())


def test_all_cases_on_request(evaluate, tmp_path):
    evaluate(all_cases=True)
    roles = [name.split("_")[0] for name in saved(tmp_path)]
    assert sorted(roles) == ["hardest", "median", "other", "other", "other"]


def test_earlier_pictures_are_replaced_and_only_by_a_better_model(evaluate, tmp_path):
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "hardest_old.npz").write_bytes(b"")
    best = BestModel(tmp_path / "model.pt", torch.nn.Linear(1, 1))
    best.epoch = 3
    evaluate(epoch=4, best_model=best)
    assert [path.name for path in (tmp_path / "cases").iterdir()] == ["hardest_old.npz"]
    evaluate(epoch=3, best_model=best)
    assert "hardest_old" not in saved(tmp_path)
    assert len(saved(tmp_path)) == 2


def test_one_case_alone(evaluate, tmp_path):
    evaluate(number=1)
    assert list(saved(tmp_path)) == ["hardest_case0"]


class Slices:
    """A transform that makes pictures of two channels, 20 x 12 pixels, and masks of some rows, by their names."""

    def __call__(self, item):
        value, rows = (int(part) for part in item["image"].split("_"))
        image = torch.full((2, 20, 12), value / 10)
        image[1] += 0.5
        label = torch.zeros(1, 20, 12)
        label[:, :rows] = 1
        meta = {"filename_or_obj": item["image"]}
        return {"image": MetaTensor(image, meta=meta), "label": MetaTensor(label, meta=meta)}


@pytest.fixture
def stacks():
    """Three patients; of the last one no slice holds any of the class."""
    names = {"a": ["1_0", "2_3", "3_8", "4_2"], "b": ["5_4", "6_1"], "c": ["7_0", "8_0", "9_0"]}
    items = [{"image": n, "label": n, "patient": patient} for patient, own in names.items() for n in own]
    return PatientStacks(items, Slices(), progress=False)


@pytest.mark.parametrize("scores", [[0.2, 0.4, float("nan")], [0.4, 0.2, float("nan")]])
def test_of_a_stack_the_slice_with_most_of_the_truth_is_shown(stacks, tiny_network, make_store, tmp_path, scores):
    """At the size of training, in the channel asked for; a patient without the class is neither hardest nor median."""
    labels = LabelSpace(["tumor"])
    network = tiny_network(1)
    network.body[0] = torch.nn.Conv2d(2, 4, 3, padding=1)
    options = {"dataset": stacks, "references": make_store(labels), "channel": 1, "all_cases": True}
    handler = CasePictures(tmp_path / "cases", labels, network, Supervised(labels), **options)
    state = {"metric_details": {"val_mean_iou": torch.tensor(scores)[:, None]}, "device": torch.device("cpu")}
    handler(SimpleNamespace(state=SimpleNamespace(**state)))
    found = saved(tmp_path)
    hardest, median = ("a", "b") if scores[0] < scores[1] else ("b", "a")
    assert set(found) == {f"hardest_{hardest}", f"median_{median}", "other_c"}
    arrays = {name.split("_")[1]: arrays for name, arrays in found.items()}
    assert {name: int(own["slice"]) for name, own in arrays.items()} == {"a": 3, "b": 1, "c": 2}
    np.testing.assert_allclose(arrays["a"]["image"], np.full((16, 16), 0.8), atol=1e-3)
    assert arrays["a"]["truth"].shape == (1, 16, 16)
    assert arrays["a"]["truth"][0].sum() == 16 * 6 and not arrays["c"]["truth"].any()  # 8 of 20 columns are 6 of 16


def test_picture_of_a_volume_is_its_middle_slice():
    volume = torch.arange(2 * 3 * 4 * 5.0).reshape(1, 2, 3, 4, 5)
    np.testing.assert_array_equal(picture(volume), volume[0, :, :, :, 2].transpose(1, 2).numpy())


@pytest.mark.parametrize(("number", "world_size"), [(5, 2), (7, 3), (4, 1), (4, 2)])
def test_order_in_which_ranks_hand_in_their_cases(monkeypatch, number, world_size):
    """As dealt out by MONAI's sampler in the bundles' overlay for several processes."""
    monkeypatch.setattr(ranks, "is_distributed", lambda: True)
    monkeypatch.setattr(ranks.dist, "get_world_size", lambda: world_size)
    dealt = [
        list(MonaiDistributedSampler(range(number), False, world_size, rank, shuffle=False))
        for rank in range(world_size)
    ]
    assert ranks.gathered_order(number) == [index for part in dealt for index in part]


# TensorBoard and the progress bar


@pytest.fixture
def make_run(make_trainer, tmp_path, labels):
    def make(method=RPG, resume=False, epochs=2, stop=None, **options):
        def handlers(network, optimizer, scheduler, loader):
            objects = {"network": network, "loader": loader}
            return [
                Checkpoint(tmp_path / "checkpoint.pt", objects, resume),
                TrainingLog(tmp_path / "train.csv", labels, 2),
                TensorBoardPictures(str(tmp_path / "tensorboard"), labels),
                LossProgressBar(),
            ]

        trainer = make_trainer(method(labels, **options), handlers, epochs, iterations=3)

        def stop_it(engine):
            if engine.state.epoch == stop:
                raise KeyboardInterrupt

        trainer.add_event_handler(Events.EPOCH_COMPLETED, stop_it)
        return trainer

    return make


def events(tmp_path):
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    return accumulator


@pytest.mark.parametrize("query_size", [None, 4])
def test_scalars_and_pictures(make_run, tmp_path, capfd, query_size):
    trainer = make_run(query_size=query_size)
    trainer.run()
    found = events(tmp_path)
    losses = found.Scalars("loss")
    assert [event.step for event in losses] == [3, 6]
    assert losses[-1].value == pytest.approx(trainer.state.log["loss"], rel=1e-5)
    assert {"loss_supervised", "weight_mean", "pseudo_accuracy"} <= set(found.Tags()["scalars"])
    (name,) = found.Tags()["images"]
    assert name == "unlabelled: image, lung, heart, weight"
    image = found.Images(name)[-1]
    assert (image.width, image.height) == (4 * (query_size or 16), query_size or 16)
    printed = capfd.readouterr().err
    assert "loss" in printed and "supervised" in printed


def test_supervised_has_scalars_alone(make_run, tmp_path):
    make_run(Supervised, epochs=1).run()
    assert events(tmp_path).Tags()["images"] == []
    assert "loss" in events(tmp_path).Tags()["scalars"]


def test_what_a_resumed_run_writes_again_is_there_once(make_run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make_run(epochs=3, stop=2).run()
    make_run(epochs=3, resume=True).run()
    assert [event.step for event in events(tmp_path).Scalars("loss")] == [3, 6, 9]


def test_a_finished_run_resumed_writes_nothing_anew(make_run, tmp_path):
    make_run().run()
    make_run(resume=True).run()
    assert [event.step for event in events(tmp_path).Scalars("loss")] == [3, 6]
