"""Monte-Carlo dropout's labels and weights against plain NumPy; dropout alone, repeatable, all images in one step."""

from __future__ import annotations

import copy

import nibabel
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.inferers import SimpleInferer, SlidingWindowInferer
from torch import nn

from common.data import CachedVolumes, PairedPatches
from common.handlers import Curriculum, CurriculumSteps
from common.label_space import LabelSpace
from common.methods import UncertaintyGuided
from common.methods.popcorn import Popcorn
from common.methods.uncertainty_guided import dropout_alone, repeatable
from common.networks import BasicUNet
from common.transforms import LoadVolumed

LABELS = LabelSpace(["lesion"])
SIZE = (16, 16, 16)


def unet(dropout=0.2, outputs=1):
    torch.manual_seed(0)
    return BasicUNet(3, 1, outputs, (4, 4, 4, 4, 8, 4), norm="batch", dropout=dropout)


class GivenPasses(nn.Module):
    """A network with dropout whose outputs, pass after pass, are given."""

    def __init__(self, outputs: np.ndarray) -> None:
        super().__init__()
        self.dropout, self.outputs, self.calls = nn.Dropout(0.5), torch.tensor(outputs), 0

    def forward(self, image):
        self.calls += 1
        return self.outputs[self.calls - 1]


@pytest.mark.parametrize("classes", [1, 2])
def test_label_and_weight_equal_numpy(classes):
    outputs = np.random.default_rng(0).normal(scale=3, size=(7, 1, classes, 3, 4, 5))
    network = GivenPasses(outputs)
    method = UncertaintyGuided(LabelSpace([f"class{i}" for i in range(classes)]), passes=7, falloff=3)
    label, weight = method.label_image(network, torch.zeros(1, 1, 3, 4, 5), SimpleInferer())
    p = 1 / (1 + np.exp(-outputs))
    assert network.calls == 7
    np.testing.assert_allclose(label.numpy(), p.mean(0), atol=1e-6)
    np.testing.assert_allclose(weight.numpy(), np.exp(-3 * p.std(0).max(1, keepdims=True)), atol=1e-6)
    assert weight.shape == (1, 1, 3, 4, 5)
    assert weight.min() > 0 and weight.max() <= 1


def test_weight_by_hand():
    # probabilities 1/2 twice, 1/4 and 3/4, and (nearly) 0 and 1: spreads of 0, 1/4 and 1/2
    outputs = np.array([[0, -np.log(3), -50], [0, np.log(3), 50]], np.float32).reshape(2, 1, 1, 3, 1, 1)
    label, weight = UncertaintyGuided(LABELS, passes=2, falloff=2).label_image(
        GivenPasses(outputs), torch.zeros(1, 1, 3, 1, 1), SimpleInferer()
    )
    assert label.flatten().tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert weight.flatten().tolist() == pytest.approx([1, np.exp(-0.5), np.exp(-1)])


def test_equals_passes_by_hand_through_windows():
    network, image = unet(), torch.randn(1, 1, 24, 20, 16)
    network.train()(torch.randn(4, 1, *SIZE))  # running statistics that differ from the first ones
    before = copy.deepcopy(network.state_dict())
    inferer = SlidingWindowInferer(SIZE, sw_batch_size=2, overlap=0.25, mode="gaussian")
    label, weight = UncertaintyGuided(LABELS, passes=4, falloff=5).label_image(network, image, inferer)
    assert not any(module.training for module in network.modules())
    for name, value in network.state_dict().items():  # batch norm's statistics are those of the training
        torch.testing.assert_close(value, before[name])
    network.eval()
    for module in network.modules():
        module.training = type(module).__name__.startswith("Dropout")
    with torch.no_grad(), repeatable(image, 0):
        p = np.stack([torch.sigmoid(inferer(image, network)).numpy() for _ in range(4)])
    np.testing.assert_allclose(label.numpy(), p.mean(0), atol=1e-6)
    np.testing.assert_allclose(weight.numpy(), np.exp(-5 * p.std(0)), atol=1e-5)
    assert p.std(0).max() > 0.01  # the passes do differ


def test_draws_are_the_image_s_and_the_seed_s():
    network, inferer = unet(), SimpleInferer()
    one, other = torch.randn(2, 1, 1, *SIZE)
    method = UncertaintyGuided(LABELS, passes=3)
    first = method.label_image(network, one, inferer)
    state = torch.get_rng_state()
    method.label_image(network, other, inferer)
    torch.testing.assert_close(torch.get_rng_state(), state)  # the training's draws are left alone
    torch.rand(5)
    again = UncertaintyGuided(LABELS, passes=3).label_image(network, one.clone(), inferer)
    for expected, found in zip(first, again, strict=True):
        assert torch.equal(expected, found)
    assert not torch.equal(first[1], UncertaintyGuided(LABELS, passes=3, seed=1).label_image(network, one, inferer)[1])
    with repeatable(one, 0):
        draw = torch.rand(3)
    with repeatable(other, 0):
        assert not torch.equal(draw, torch.rand(3))


def test_dropout_alone_is_in_training_mode():
    network = unet().train()
    with dropout_alone(network):
        modes = {(type(module).__name__, module.training) for module in network.modules()}
    assert ("Dropout", True) in modes and ("BatchNorm3d", False) in modes
    assert [mode for mode in modes if mode[1]] == [("Dropout", True)]
    with pytest.raises(RuntimeError, match="broken"), dropout_alone(network):
        raise RuntimeError("broken")
    assert not any(module.training for module in network.modules())


def test_all_join_in_one_step():
    assert UncertaintyGuided(LABELS, step_size=3).steps(11) == [11]
    assert UncertaintyGuided(LABELS, share=0.5).steps(11) == [6]
    assert UncertaintyGuided(LABELS).steps(0) == []
    assert UncertaintyGuided(LABELS).consistency_weight == 0
    assert UncertaintyGuided(LABELS, consistency_weight=0.2).consistency_weight == 0.2


def test_refuses_a_network_without_dropout():
    for dropout in (0.0, None):
        network = unet(dropout)
        with pytest.raises(ValueError, match="set network_def#dropout"):
            UncertaintyGuided(LABELS).parameters(network)
        with pytest.raises(ValueError, match="set network_def#dropout"):
            UncertaintyGuided(LABELS).label_image(network, torch.zeros(1, 1, *SIZE), SimpleInferer())
    assert len(UncertaintyGuided(LABELS).parameters(unet())) == len(list(unet().parameters()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"passes": 1}, "passes must be at least 2"),
        ({"falloff": -1}, "falloff and seed must not be negative"),
        ({"seed": -1}, "falloff and seed must not be negative"),
        ({"share": 0}, "share must be above 0"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        UncertaintyGuided(LABELS, **settings)


def test_refuses_classes_that_exclude_one_another():
    with pytest.raises(ValueError, match="must be multilabel"):
        UncertaintyGuided(LabelSpace(["lesion"], "multiclass"))


@pytest.fixture
def make(tmp_path):
    """``make(folder)``: a curriculum with one labelled and three unlabelled volumes."""
    rng = np.random.default_rng(0)
    items = []
    for index in range(4):
        mask = (rng.random((20, 18, 16)) > 0.9).astype(np.uint8)
        for name, values in (("scan", rng.normal(size=mask.shape).astype(np.float32)), ("mask", mask)):
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}{index}.nii.gz")
        items.append({"image": str(tmp_path / f"scan{index}.nii.gz")})
    items[0]["label"] = [str(tmp_path / "mask0.nii.gz")]
    transform = LoadVolumed(["image", "label"], allow_missing_keys=True)

    def curriculum(folder):
        volumes = [CachedVolumes(part, transform, tmp_path / "cache") for part in (items[:1], items[1:])]
        batches, inferer = PairedPatches(volumes[0], patch_size=SIZE), SlidingWindowInferer(SIZE)
        method = UncertaintyGuided(LABELS, passes=3, step_size=1)
        return Curriculum(method, batches, volumes[1], volumes[0], unet(), inferer, tmp_path / folder, start=1)

    return curriculum


def test_curriculum_trains_on_soft_labels_with_weights(make):
    one, other = make("one"), make("other")
    for curriculum in (one, other):
        engine = Engine(lambda *_: None)
        engine.state.device = torch.device("cpu")
        CurriculumSteps(curriculum).attach(engine)
        torch.rand(3)  # what the global generator did before is of no importance
        engine.run([0], max_epochs=2)
    assert [len(rows) for rows in one.joined] == [3]
    for row, joined in zip(one.joined[0], one.batches.joined, strict=True):
        image = torch.from_numpy(np.array(joined.read()["image"], np.float32))[None]
        label, weight = one.method.label_image(one.network, image, one.inferer)
        np.testing.assert_allclose(joined.read()["label"], label[0].numpy(), rtol=2**-10, atol=1e-4)
        np.testing.assert_allclose(joined.read()["weight"], weight[0].numpy(), rtol=2**-10, atol=1e-4)
        assert set(joined.lesions) == set(np.flatnonzero(label.half().numpy() > 0.5))  # where patches are centred
        twin = next(v for v in other.batches.joined if v.name == str(one.unlabeled.data[row]["image"]))
        np.testing.assert_array_equal(joined.read()["label"], twin.read()["label"])
    resumed = make("one")
    resumed.load_state_dict(one.state_dict())
    for expected, found in zip(one.batches.joined, resumed.batches.joined, strict=True):
        np.testing.assert_array_equal(expected.read()["weight"], found.read()["weight"])
    batch = one.batches[3]["labeled"]
    terms, _ = one.method.terms(one.network.train(), {"labeled": batch}, 1)
    assert batch["weight"].shape == batch["label"].shape
    assert set(terms) == {"dice"}


def test_voxels_of_weight_zero_do_not_count():
    network, method = unet(0.0), UncertaintyGuided(LABELS)
    image, label = torch.randn(2, 1, *SIZE), torch.rand(2, 1, *SIZE)
    weight = (torch.rand(2, 1, *SIZE) > 0.5).float()
    given = [
        {"image": image, "label": soft, "weight": weight} for soft in (label, label * weight, label * (1 - weight))
    ]
    values = [method.terms(network, {"labeled": patches}, 1)[0]["dice"].item() for patches in given]
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    assert abs(values[0] - values[2]) > 0.1


def test_training_lowers_the_loss():
    network, method = unet(), UncertaintyGuided(LABELS)
    assert isinstance(method, Popcorn)  # the curriculum's condition for a plan
    image = torch.randn(4, 1, *SIZE)
    label, weight = torch.sigmoid(4 * image - 2), torch.rand(4, 1, *SIZE)
    optimizer, losses = torch.optim.Adam(method.parameters(network), 0.02), []
    for iteration in range(12):
        optimizer.zero_grad()
        terms, _ = method.terms(network, {"labeled": {"image": image, "label": label, "weight": weight}}, iteration + 1)
        sum(terms.values()).backward()
        optimizer.step()
        losses.append(sum(terms.values()).item())
    assert losses[-1] < 0.8 * losses[0]
