"""The curriculum: who joins when, with which label, what is written, and that a resumed run finds it again."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.inferers import SlidingWindowInferer

from common.data import CachedVolumes, PairedPatches
from common.handlers import Curriculum, CurriculumSteps
from common.label_space import LabelSpace
from common.methods import Popcorn, Supervised
from common.methods.latents import image_latent
from common.networks import BasicUNet
from common.transforms import LoadVolumed

LABELS = LabelSpace(["lesion"])
SIZE = (16, 16, 16)
AFFINE = np.diag([2.0, 2.0, 2.5, 1.0])


@pytest.fixture
def items(tmp_path):
    """Two labelled and five unlabelled volumes; the unlabelled ones with their hidden truth."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(7):
        shape = (24 + index, 24, 20)
        image = rng.normal(1 + 0.5 * index, 1, shape).astype(np.float32)
        mask = (rng.random(shape) > 0.9).astype(np.uint8)
        for name, values in (("scan", image), ("mask", mask)):
            nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / f"{name}{index}.nii.gz")
        key = "label" if index < 2 else "truth"
        found.append({"image": str(tmp_path / f"scan{index}.nii.gz"), key: [str(tmp_path / f"mask{index}.nii.gz")]})
    return found


@pytest.fixture
def make(items, tmp_path):
    """``make(method, folder, data, ...)``: a curriculum on the volumes, with a network that is not trained."""

    def curriculum(method, folder="run", data=None, **settings):
        torch.manual_seed(0)
        network = BasicUNet(3, 1, 1, (4, 4, 4, 4, 8, 4), norm="batch")
        transform = LoadVolumed(["image", "label", "truth"], allow_missing_keys=True)
        data = items if data is None else data
        labeled = CachedVolumes(data[:2], transform, tmp_path / "cache")
        unlabeled = CachedVolumes(data[2:], transform, tmp_path / "cache", set_aside=True)
        batches = PairedPatches(labeled, patch_size=SIZE)
        inferer = SlidingWindowInferer(SIZE, sw_batch_size=4, overlap=0.25, mode="gaussian")
        keywords = {"start": 2, **settings}
        return Curriculum(method, batches, unlabeled, labeled, network, inferer, tmp_path / folder, **keywords)

    return curriculum


def run(curriculum, epochs, first=0):
    """An engine that trains nothing, but changes the network a little in each epoch."""
    sizes = []

    def step(engine, _):
        sizes.append(len(curriculum.batches.joined))

    engine = Engine(step)
    engine.state.device = torch.device("cpu")
    CurriculumSteps(curriculum).attach(engine)

    @engine.on(Events.STARTED)
    def resume():
        engine.state.epoch = first

    @engine.on(Events.EPOCH_COMPLETED)
    def change():
        with torch.no_grad():
            for parameter in curriculum.network.parameters():
                parameter.add_(0.01 * engine.state.epoch)

    engine.run([0], max_epochs=epochs)
    return sizes


def test_who_joins_when(make):
    sizes = run(make(Popcorn(LABELS, step_size=2, step_epochs=2, neighbors=1)), 9)
    # epochs 1 and 2 on the labelled images alone; steps before epochs 3, 5 and 7
    assert sizes == [0, 0, 2, 2, 4, 4, 5, 5, 5]


def test_selection_equals_plain_distances(make, items):
    curriculum = make(Popcorn(LABELS, step_size=2, step_epochs=1, neighbors=2))
    volumes = [*(curriculum.labeled[i] for i in range(2)), *(curriculum.unlabeled[i] for i in range(5))]
    latents = []

    def take(engine):
        if engine.state.epoch == 2:
            for v in volumes:
                latents.append(image_latent(curriculum.network, v["image"].half().float().as_tensor(), SIZE).double())

    engine = Engine(lambda *_: None)
    engine.state.device = torch.device("cpu")
    engine.add_event_handler(Events.EPOCH_COMPLETED, take)
    CurriculumSteps(curriculum).attach(engine)
    engine.run([0], max_epochs=5)
    h, training, rest, order = np.stack([v.numpy() for v in latents]), [0, 1], [2, 3, 4, 5, 6], []
    while rest:
        scores = {u: sum(sorted(np.linalg.norm(h[u] - h[t]) for t in training)[:2]) for u in rest}
        chosen = sorted(rest, key=lambda u: scores[u])[:2]
        order.append([u - 2 for u in chosen])
        training, rest = training + chosen, [u for u in rest if u not in chosen]
        for u in chosen:
            entry = next(e for e in curriculum.entries if e["image"] == items[u]["image"])
            assert entry["score"] == pytest.approx(scores[u], rel=1e-4)
            assert len(entry["neighbors"]) == 2
    assert curriculum.joined == order


def test_pseudo_labels_are_the_networks_at_the_time(make, tmp_path):
    curriculum = make(Popcorn(LABELS, step_size=3, step_epochs=1, neighbors=1))
    run(curriculum, 5)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert [entry["step"] for entry in manifest["images"]] == [1, 1, 1, 2, 2]
    assert manifest["set_aside"] == []
    network = BasicUNet(3, 1, 1, (4, 4, 4, 4, 8, 4), norm="batch")
    names = {item["image"]: i for i, item in enumerate(curriculum.unlabeled.data)}
    voxel_ml = 2 * 2 * 2.5 / 1000
    for entry in manifest["images"]:
        volume = curriculum.unlabeled[names[entry["image"]]]
        network.load_state_dict(torch.load(tmp_path / "run" / entry["checkpoint"], weights_only=True))
        with torch.no_grad():
            outputs = curriculum.inferer(volume["image"].as_tensor()[None], network.eval())
        expected = (torch.sigmoid(outputs) > 0.5)[0, 0].numpy()
        label = nibabel.load(tmp_path / "run" / entry["label"])
        assert label.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asarray(label.dataobj), expected)
        np.testing.assert_array_equal(label.affine, AFFINE)
        assert entry["lesion_ml"] == pytest.approx(expected.sum() * voxel_ml, abs=1e-4)
        truth = volume["truth"][0].numpy() > 0
        overlap = 2 * (truth & expected).sum() / (truth.sum() + expected.sum())
        assert entry["dice"] == pytest.approx(overlap, abs=1e-4)
        joined = next(v for v in curriculum.batches.joined if v.name == entry["image"])
        np.testing.assert_array_equal(joined.label, np.flatnonzero(expected))


def test_latents_say_who_joined_when(make, tmp_path):
    curriculum = make(Popcorn(LABELS, step_size=2, step_epochs=1, neighbors=1, share=0.5))
    run(curriculum, 6)
    with np.load(tmp_path / "run" / "latents.npz", allow_pickle=False) as content:
        steps = content["steps"]
        assert content["latents"].shape == (7, 8 * 8)
    assert steps[:2].tolist() == [0, 0]
    assert sorted(steps[2:].tolist()) == [-1, -1, 1, 1, 2]
    assert [steps[2 + row] for row in curriculum.joined[0]] == [1, 1]


def test_random_selection_needs_no_latents(make, tmp_path):
    one = make(Popcorn(LABELS, step_size=2, step_epochs=1, selection="random"), seed=1)
    run(one, 5)
    assert sorted(row for rows in one.joined for row in rows) == [0, 1, 2, 3, 4]
    assert not (tmp_path / "run" / "latents.npz").exists()
    assert all(entry["score"] is None for entry in one.entries)
    orders = []
    for seed in (1, 2, 3):
        other = make(Popcorn(LABELS, step_size=2, step_epochs=1, selection="random"), f"seed{seed}", seed=seed)
        run(other, 5)
        orders.append(other.joined)
    assert orders[0] == one.joined
    assert orders[0] != orders[1] or orders[0] != orders[2]


@pytest.mark.parametrize("method", [Popcorn(LABELS, selection="none"), Supervised(LABELS)])
def test_nobody_joins(make, tmp_path, method):
    assert run(make(method), 4) == [0, 0, 0, 0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("refresh", [False, True])
@pytest.mark.parametrize("selection", ["proximity", "random"])
def test_resumed_selects_the_same(make, tmp_path, selection, refresh):
    method = Popcorn(LABELS, step_size=2, step_epochs=1, neighbors=2, selection=selection)
    whole = make(method, "whole", refresh=refresh)
    run(whole, 6)
    first = make(method, "parts", refresh=refresh)
    run(first, 3)
    state = {"curriculum": first.state_dict(), "network": first.network.state_dict()}
    torch.save(state, tmp_path / "checkpoint.pt")
    run(first, 4, first=3)  # what was done after the checkpoint is done again
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    second = make(method, "parts", refresh=refresh)
    second.network.load_state_dict(state["network"])
    second.load_state_dict(state["curriculum"])
    run(second, 6, first=3)
    assert second.joined == whole.joined
    assert second.entries == whole.entries
    assert (tmp_path / "parts" / "manifest.json").read_text() == (tmp_path / "whole" / "manifest.json").read_text()
    for one, other in zip(whole.batches.joined, second.batches.joined, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.label, other.label)


def test_unreadable_volumes_are_named_at_the_end(make, items, tmp_path, caplog):
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    data = [*items, {"image": str(tmp_path / "broken.nii.gz")}]
    caplog.set_level("INFO")
    curriculum = make(Popcorn(LABELS, step_size=5, step_epochs=1, neighbors=1), data=data)
    assert run(curriculum, 3) == [0, 0, 5]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert [entry["image"] for entry in manifest["set_aside"]] == [str(tmp_path / "broken.nii.gz")]
    said = [record.message for record in caplog.records if "Was set aside" in record.message]
    assert len(said) == 1
    assert "broken.nii.gz" in said[0]


def test_warns_when_epochs_do_not_suffice(make, caplog):
    run(make(Popcorn(LABELS, step_size=1, step_epochs=2, neighbors=1)), 4)
    assert "epochs must be at least 12, got 4" in caplog.text


def test_refuses(make, items):
    with pytest.raises(ValueError, match="start must be at least 1"):
        make(Popcorn(LABELS), start=0)
    state = make(Popcorn(LABELS)).state_dict()
    with pytest.raises(ValueError, match="5 unlabelled images, got 4"):
        make(Popcorn(LABELS), data=items[:6]).load_state_dict(state)


def test_other_steps_are_not_resumed(make):
    state = make(Popcorn(LABELS, step_size=2)).state_dict()
    with pytest.raises(ValueError, match=r"\[2, 2, 1\] images join in its steps, got \[5\]"):
        make(Popcorn(LABELS, step_size=5)).load_state_dict(state)


def test_says_that_there_are_no_unlabelled_images(make, items, caplog):
    run(make(Popcorn(LABELS), data=items[:2]), 2)
    assert "Popcorn learns from unlabelled images, got none (0 set aside)" in caplog.text


def test_a_lost_pseudo_label_is_named(make, tmp_path):
    curriculum = make(Popcorn(LABELS, step_size=2, step_epochs=1, neighbors=1))
    run(curriculum, 3)
    lost = tmp_path / "run" / curriculum.entries[0]["label"]
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=lost.name):
        make(Popcorn(LABELS, step_size=2, step_epochs=1, neighbors=1)).load_state_dict(curriculum.state_dict())
