"""The curriculum: who joins when, with which label, what is written, and that a resumed run finds it again."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.inferers import SimpleInferer, SlidingWindowInferer

from common.batches import Batches
from common.curriculum import Joining
from common.curriculum.latents import image_latent
from common.data import DecodedImages
from common.fused_label_space import FusedLabelSpace
from common.handlers import Curriculum, CurriculumSteps
from common.label_space import LabelSpace
from common.methods import Method, Popcorn, Supervised
from common.networks import BasicUNet
from common.sources import Prediction
from common.transforms import LoadVolumed
from common.views import Values
from common.weights import Confidence, Weight

LABELS = LabelSpace(["lesion"])
SIZE = (16, 16, 16)
AFFINE = np.diag([2.0, 2.0, 2.5, 1.0])


@pytest.fixture
def items(tmp_path):
    """Two labelled and five unlabelled volumes of several sizes; the unlabelled ones with their hidden truth."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(7):
        shape = (18 + index, 20, 14 + index // 2)  # some are flatter than a patch
        image = rng.normal(1 + 0.5 * index, 1, shape).astype(np.float32)
        mask = (rng.random(shape) > 0.9).astype(np.uint8)
        for name, values in (("scan", image), ("mask", mask)):
            nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / f"{name}{index}.nii.gz")
        key = "label" if index < 2 else "truth"
        found.append({"image": str(tmp_path / f"scan{index}.nii.gz"), key: [str(tmp_path / f"mask{index}.nii.gz")]})
    return found


def network_of(dimensions, outputs=1):
    torch.manual_seed(0)
    return BasicUNet(dimensions, 1, outputs, (2, 2, 4, 4, 8, 2), norm="batch")


@pytest.fixture
def make(items, tmp_path):
    """``make(method, folder, data, ...)``: a curriculum on the volumes, with a network that is not trained."""

    def curriculum(method, folder="run", data=None, **settings):
        transform = LoadVolumed(["image", "label", "truth"], allow_missing_keys=True)
        data = items if data is None else data
        labeled = DecodedImages(data[:2], transform, tmp_path / "cache", progress=False)
        unlabeled = DecodedImages(data[2:], transform, tmp_path / "cache", set_aside=True, progress=False)
        options = {"labeled_batch": 2, "patch_size": SIZE, "value_range": None}
        batches = Batches(labeled, unlabeled, LABELS, method, **options)
        inferer = SlidingWindowInferer(SIZE, sw_batch_size=8, overlap=0.25, mode="gaussian")
        return Curriculum(method, batches, network_of(3), inferer, tmp_path / folder, **{"start": 2, **settings})

    return curriculum


@pytest.fixture
def make_2d(make_store, tmp_path):
    """``make_2d(labels, joining, ...)``: a curriculum on five whole images, for a method that is not trained."""

    def curriculum(labels, joining, folder="run", **settings):
        method = Method(labels, joining=joining)
        stores = make_store(labels, 2, size=(32, 16)), make_store(labels, 5, "unlabeled", (32, 16), "truth")
        network = network_of(2, labels.num_outputs)
        network.final_conv.weight.data *= 20  # so that it is confident here and there
        batches = Batches(*stores, labels, method, 2)
        return Curriculum(method, batches, network, SimpleInferer(), tmp_path / folder, **settings)

    return curriculum


def engine_for(curriculum, step=lambda *_: None):
    engine = Engine(step)
    engine.state.device = torch.device("cpu")
    CurriculumSteps(curriculum).attach(engine)
    return engine


def run(curriculum, epochs, first=0):
    """An engine that trains nothing, but changes the network a little in each epoch."""
    sizes = []
    engine = engine_for(curriculum, lambda *_: sizes.append(len(curriculum.batches.joined)))

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


def popcorn(step_size=2, step_epochs=1, neighbors=1, **settings):
    return Popcorn(LABELS, step_size=step_size, step_epochs=step_epochs, neighbors=neighbors, **settings)


def test_who_joins_when(make):
    sizes = run(make(popcorn(step_epochs=2)), 9)
    # epochs 1 and 2 on the labelled images alone; steps before epochs 3, 5 and 7
    assert sizes == [0, 0, 2, 2, 4, 4, 5, 5, 5]


@pytest.mark.parametrize(
    ("start", "step_size", "step_epochs", "last"), [(1, 2, 1, 3), (3, 3, 4, 7), (2, 5, 2, 2), (1, None, 3, 1)]
)
def test_the_last_start_is_the_epoch_before_the_last_images_join(make, start, step_size, step_epochs, last):
    curriculum = make(popcorn(step_size, step_epochs, selection="random"), start=start)
    sizes = run(curriculum, last + 2)
    assert sizes.index(5) == curriculum.last_start == last


def test_selection_equals_plain_distances(make, items):
    curriculum = make(popcorn(neighbors=2))
    volumes = [*(curriculum.labeled[i] for i in range(2)), *(curriculum.unlabeled[i] for i in range(5))]
    latents = []
    engine = engine_for(curriculum)

    @engine.on(Events.EPOCH_COMPLETED(once=2))
    def take():
        for volume in volumes:
            latents.append(image_latent(curriculum.network, volume["image"].as_tensor(), SIZE).double())

    engine.run([0], max_epochs=5)
    h, training, rest, order = np.stack([v.numpy() for v in latents]), [0, 1], [2, 3, 4, 5, 6], []
    while rest:
        scores = {u: sum(sorted(np.linalg.norm(h[u] - h[t]) for t in training)[:2]) for u in rest}
        chosen = sorted(rest, key=lambda u: scores[u])[:2]
        order.append([u - 2 for u in chosen])
        for u in chosen:
            entry = next(e for e in curriculum.entries if e["image"] == items[u]["image"])
            assert entry["score"] == pytest.approx(scores[u], rel=1e-4)
            nearest = sorted(training, key=lambda t: np.linalg.norm(h[u] - h[t]))[:2]
            assert [n["image"] for n in entry["neighbors"]] == [items[t]["image"] for t in nearest]
            distances = [np.linalg.norm(h[u] - h[t]) for t in nearest]
            assert [n["distance"] for n in entry["neighbors"]] == pytest.approx(distances, rel=1e-4, abs=1e-6)
        training, rest = training + chosen, [u for u in rest if u not in chosen]
    assert curriculum.joined == order


@pytest.mark.parametrize("refresh", [True, False])
def test_latents_are_taken_anew_where_asked(make, refresh, monkeypatch):
    curriculum = make(popcorn(), refresh=refresh)
    taken, take = [], curriculum.take_latents
    monkeypatch.setattr(curriculum, "take_latents", lambda device: taken.append(len(curriculum.joined)) or take(device))
    run(curriculum, 6)
    assert taken == ([0, 1, 2] if refresh else [0])
    assert sorted(row for rows in curriculum.joined for row in rows) == [0, 1, 2, 3, 4]


def test_pseudo_labels_are_the_networks_at_the_time(make, tmp_path):
    curriculum = make(popcorn(step_size=3))
    run(curriculum, 5)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert [entry["step"] for entry in manifest["images"]] == [1, 1, 1, 2, 2]
    assert manifest["set_aside"] == []
    network = network_of(3)
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
        assert entry["truth"] == volume["truth"].meta["filename_or_obj"]
        joined = next(v for v in curriculum.batches.joined if v.name == entry["image"])
        np.testing.assert_array_equal(joined.foreground(LABELS), np.flatnonzero(expected))
        whole = joined.crop(np.zeros(3, int), joined.shape, ("image", "label"))
        np.testing.assert_array_equal(whole["label"][0], expected)
        np.testing.assert_array_equal(whole["image"], volume["image"].numpy())


def test_without_a_truth_there_is_no_dice(make, items, tmp_path, caplog):
    caplog.set_level("INFO")
    curriculum = make(popcorn(5), data=[*items[:2], *({"image": item["image"]} for item in items[2:])])
    run(curriculum, 3)
    assert {(entry["dice"], entry["truth"]) for entry in curriculum.entries} == {(None, None)}
    said = [record.message for record in caplog.records if record.message.startswith("Step 1")]
    assert said == ["Step 1: 5 images joined, 0 are left."]


def test_latents_say_who_joined_when(make, tmp_path):
    curriculum = make(popcorn(share=0.5))
    run(curriculum, 6)
    with np.load(tmp_path / "run" / "latents.npz", allow_pickle=False) as content:
        steps = content["steps"]
        assert content["latents"].shape == (7, 8 * 8)
        items = [*curriculum.labeled.data, *curriculum.unlabeled.data]
        assert content["images"].tolist() == [item["image"] for item in items]
    assert steps[:2].tolist() == [0, 0]
    assert sorted(steps[2:].tolist()) == [-1, -1, 1, 1, 2]
    assert [steps[2 + row] for row in curriculum.joined[0]] == [1, 1]


def test_random_selection_needs_no_latents(make, tmp_path):
    method = popcorn(selection="random")
    one = make(method, seed=1)
    run(one, 5)
    assert sorted(row for rows in one.joined for row in rows) == [0, 1, 2, 3, 4]
    assert not (tmp_path / "run" / "latents.npz").exists()
    assert all(entry["score"] is None and entry["neighbors"] == [] for entry in one.entries)
    orders = []
    for seed in (1, 2, 3):
        other = make(method, f"seed{seed}", seed=seed)
        run(other, 5)
        orders.append(other.joined)
    assert orders[0] == one.joined
    assert orders[0] != orders[1] or orders[0] != orders[2]


@pytest.mark.parametrize("method", [Popcorn(LABELS, selection="none"), Supervised(LABELS)])
def test_nobody_joins_where_the_method_has_no_joining(make, tmp_path, method, caplog):
    caplog.set_level("INFO")
    curriculum = make(method)
    assert run(curriculum, 4) == [0, 0, 0, 0]
    assert not (tmp_path / "run").exists()
    assert curriculum.last_start == 0
    assert curriculum.settings() == {}
    assert not [record for record in caplog.records if "ignite" not in record.name]
    state = curriculum.state_dict()
    make(method).load_state_dict(state)
    with pytest.raises(ValueError, match=r"got 5 or others"):
        make(popcorn()).load_state_dict(state)


@pytest.mark.parametrize("refresh", [False, True])
@pytest.mark.parametrize("selection", ["proximity", "random"])
def test_resumed_selects_the_same(make, tmp_path, selection, refresh):
    method = popcorn(neighbors=2, selection=selection)
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
    assert len(whole.batches.joined) == len(second.batches.joined) == 5
    for one, other in zip(whole.batches.joined, second.batches.joined, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.places, other.places)
    assert torch.equal(whole.batches[3]["labeled"]["image"], second.batches[3]["labeled"]["image"])


def test_unreadable_volumes_are_named_at_the_end(make, items, tmp_path, caplog):
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    data = [*items, {"image": str(tmp_path / "broken.nii.gz")}]
    caplog.set_level("INFO")
    curriculum = make(popcorn(5), data=data)
    assert run(curriculum, 3) == [0, 0, 5]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert [entry["image"] for entry in manifest["set_aside"]] == [str(tmp_path / "broken.nii.gz")]
    said = [record.message for record in caplog.records if "Was set aside" in record.message]
    assert len(said) == 1
    assert "broken.nii.gz" in said[0]


def test_says_how_many_will_join_and_warns_when_epochs_do_not_suffice(make, caplog):
    caplog.set_level("INFO")
    run(make(popcorn(1, 2)), 4)
    assert "1 of 5 unlabelled images join in 1 steps of up to 1, from epoch 3 on." in caplog.text
    assert "For all 5 images to join and be trained on, epochs must be at least 12, got 4" in caplog.text
    assert "1 unlabelled images have joined, 4 have not." in caplog.text
    caplog.clear()
    run(make(popcorn(2, 2, share=0.6)), 6)
    assert "3 of 5 unlabelled images join in 2 steps of up to 2, from epoch 3 on." in caplog.text
    assert "epochs must be" not in caplog.text
    assert "3 unlabelled images have joined, 2 have not." in caplog.text


def test_refuses(make, items):
    with pytest.raises(ValueError, match="start must be at least 1"):
        make(popcorn(), start=0)
    state = make(popcorn()).state_dict()
    with pytest.raises(ValueError, match="5 unlabelled images, got 4"):
        make(popcorn(), data=items[:6]).load_state_dict(state)
    with pytest.raises(ValueError, match="5 unlabelled images, got 5 or others"):
        make(popcorn(), data=[*items[:2], *items[:1:-1]]).load_state_dict(state)


def test_other_steps_are_not_resumed(make):
    state = make(popcorn(2)).state_dict()
    with pytest.raises(ValueError, match=r"\[2, 2, 1\] images join in its steps, got \[5\]"):
        make(popcorn(5)).load_state_dict(state)


def test_settings_are_what_changes_who_joins(make):
    assert make(popcorn(), start=3, refresh=True, seed=7).settings() == {"start": 3, "refresh": True, "seed": 7}


def test_a_lost_pseudo_label_is_named(make, tmp_path):
    curriculum = make(popcorn())
    run(curriculum, 3)
    lost = tmp_path / "run" / curriculum.entries[0]["label"]
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=lost.name):
        make(popcorn()).load_state_dict(curriculum.state_dict())


def test_a_pseudo_label_of_another_size_is_named(make, tmp_path):
    curriculum = make(popcorn())
    run(curriculum, 3)
    name = curriculum.entries[0]["label"]
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), AFFINE), tmp_path / "run" / name)
    with pytest.raises(ValueError, match=r"must have the shape of its image \(.*\), got \(4, 5, 6\)"):
        make(popcorn()).load_state_dict(curriculum.state_dict())


# ---- 2D, several classes, soft labels


@pytest.mark.parametrize("selection", ["proximity", "random"])
def test_whole_2d_images_of_several_classes(make_2d, labels, tmp_path, selection):
    curriculum = make_2d(labels, Joining(selection, step_size=3, step_epochs=1, neighbors=2))
    assert run(curriculum, 4) == [0, 3, 5, 5]
    network = network_of(2, labels.num_outputs)
    for entry, image in zip(curriculum.entries, curriculum.batches.joined, strict=True):
        assert entry["image"] == image.name
        network.load_state_dict(torch.load(tmp_path / "run" / entry["checkpoint"], weights_only=True))
        arrays = image.store.arrays(image.index)
        with torch.no_grad():
            outputs = network.eval()(torch.from_numpy(arrays["image"].astype(np.float32))[None])[0]
        expected = (outputs > 0) if labels.multilabel else outputs.argmax(0, keepdim=True)
        found = image.crop(np.zeros(2, int), (32, 16), ("label",))["label"]
        np.testing.assert_array_equal(found, expected)
        masks, truth = (labels.masks(torch.as_tensor(a).float()[None])[0] for a in (found, arrays["truth"]))
        assert entry["lesion_ml"] is None  # pixels have no volume
        overlaps = [2 * (a * b).sum() / (a.sum() + b.sum()) for a, b in zip(masks, truth, strict=True)]
        assert entry["dice"] == pytest.approx(float(np.mean(overlaps)), abs=1e-4)
    resumed = make_2d(labels, Joining(selection, step_size=3, step_epochs=1, neighbors=2))
    resumed.load_state_dict(curriculum.state_dict())
    for t in range(3):
        one, other = (each.batches[t]["labeled"] for each in (curriculum, resumed))
        assert one["name"] == other["name"] and torch.equal(one["label"], other["label"])
    if selection == "proximity":
        with np.load(tmp_path / "run" / "latents.npz") as content:
            assert content["latents"].shape == (7, 8)  # one patch, which is the whole image


def test_soft_labels_and_weights_join_and_are_found_again(make_2d, labels, tmp_path):
    joining = Joining("random", step_size=None, step_epochs=1, source=Prediction(soft=True), weight=Confidence(0.51))
    curriculum = make_2d(labels, joining)
    assert run(curriculum, 2) == [0, 5]
    resumed = make_2d(labels, joining)
    resumed.load_state_dict(curriculum.state_dict())
    network = network_of(2, labels.num_outputs)
    network.load_state_dict(torch.load(tmp_path / "run" / "step01.pt", weights_only=True))
    seen = 0
    for t in range(12):
        batch = curriculum.batches[t]["labeled"]
        again = resumed.batches[t]["labeled"]
        assert all(torch.equal(batch[key], again[key]) for key in ("label", "weight") if key in batch)
        for place, name in enumerate(batch["name"]):
            if not name.startswith("unlabeled"):
                if "weight" in batch:
                    assert (batch["weight"][place] == 1).all()
                continue
            with torch.no_grad():
                probability = labels.probabilities(network.eval()(batch["image"][place][None]))[0]
            confident = (probability - 0.5).abs() > 0.01
            confident = confident if labels.multilabel else probability.amax(0, keepdim=True) > 0.51
            torch.testing.assert_close(batch["label"][place], probability, rtol=0, atol=1e-3)
            assert torch.equal(batch["weight"][place], confident.float())
            assert 0 < confident.float().mean() < 1
            seen += 1
    assert seen > 5


class Asks(Prediction):
    """A source that looks at the images with a view, which asks what their values mean."""

    def forward(self, step):
        assert step.values == Values.of(None)
        return super().forward(step)


def test_sources_know_what_the_values_mean(make):
    method = Supervised(LABELS, joining=Joining("random", step_size=5, step_epochs=1, source=Asks()))
    assert run(make(method), 3) == [0, 0, 5]


class Third(Weight):
    def forward(self, step, pseudo):
        return torch.full_like(pseudo.label, 0.25)


def test_weights_of_patches(make):
    """What is around volumes flatter than a patch has no weight."""
    method = popcorn(5, selection="random")
    method.joining.weight = Third()
    curriculum = make(method)
    run(curriculum, 3)
    around = set()
    for t in range(10):
        batch = curriculum.batches[t]["labeled"]
        for name, image, weight in zip(batch["name"], batch["image"], batch.get("weight", ()), strict=False):
            if name in (curriculum.labeled.name(0), curriculum.labeled.name(1)):
                assert (weight == 1).all()
                continue
            assert set(weight.unique().tolist()) <= {0, 0.25}
            assert (image[weight == 0] == 0).all()
            around.add(bool((weight == 0).any()))
    assert around == {True, False}


def test_pseudo_labels_are_made_without_gradients(make):
    """A graph of all windows of a volume would fill the memory."""
    curriculum, seen = make(popcorn(step_size=3)), []
    inferer = curriculum.inferer

    def watched(image, network):
        outputs = inferer(image, network)
        seen.append(outputs.requires_grad or torch.is_grad_enabled())
        return outputs

    curriculum.inferer = watched
    run(curriculum, 4)
    assert seen == [False] * 3 or seen == [False] * 5


def test_truth_of_other_classes_is_compared_with_what_is_scored(make_store, tmp_path):
    """Trained on fine classes, scored by coarse ones, of which the truth is."""
    fine, coarse = LabelSpace(["upper", "lower", "heart"]), LabelSpace(["lung", "heart"])
    scored = FusedLabelSpace(fine, {"lung": ["upper", "lower"], "heart": ["heart"]})
    method = Method(fine, joining=Joining("random", step_size=2))
    stores = make_store(fine, 2, size=(32, 16)), make_store(coarse, 4, "unlabeled", (32, 16), "truth")
    batches = Batches(*stores, fine, method, 2)
    curriculum = Curriculum(method, batches, network_of(2, 3), SimpleInferer(), tmp_path / "run", scored=scored)
    assert run(curriculum, 2)[-1] == 2
    for entry in curriculum.entries:
        assert 0 <= entry["dice"] <= 1
