"""The weight by shared strongest features against loops over pixels in float64, and what its memory gets."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from methods.plain_terms import Pixels, plain_probabilities, random_batch
from weights.test_similarity import plain_cosine, plain_strongest

from common.label_space import LabelSpace
from common.methods import Step
from common.networks import Seen
from common.sources import Grid, Prediction, PseudoLabel, Teacher
from common.weights import Confidence, RankSimilarity
from common.weights.rank_similarity import LOOK

CHANNELS = 6
# so many that all pixels that may be remembered are
ALL = {"k": 3, "memory": 500, "enqueued": 500, "threshold": 0.6}


class Volumes(torch.nn.Module):
    """As ``Pixels``, of volumes."""

    def __init__(self, outputs):
        super().__init__()
        torch.manual_seed(0)
        self.final_conv = torch.nn.Conv3d(CHANNELS, outputs, 1)
        self.final_conv.weight.data.mul_(4)

    def forward_features(self, x):
        return x

    def forward(self, x, seen=False, perturb=None):
        return Seen(self.final_conv(x), x, x) if seen else self.final_conv(x)


def task(labels, volumes=False, seed=0, **settings):
    """A network, a weight that knows it, and a batch whose features have ties."""
    network = Volumes(labels.num_outputs) if volumes else Pixels(CHANNELS, labels.num_outputs, 4.0)
    weight = RankSimilarity(**{**ALL, **settings})
    weight.prepare(network, labels)
    batch = random_batch(labels, 6, CHANNELS, seed)
    if volumes:
        for part in batch.values():
            part |= {key: torch.stack([value, value.flip(2)], dim=-1) for key, value in part.items()}
    for part in batch.values():
        part["image"] = (2 * part["image"]).round() / 2
    return network, weight, batch


def step_of(labels, network, batch, iteration=1):
    return Step(labels, network, batch, iteration, weak_gradients=False)


def known_by_loops(labels, probabilities, features, label=None, threshold=None, reliable=None):
    """Features of pixels by what they are of: (class, whether it is), multi-class (class, True)."""
    found = {}
    for b, *place in np.ndindex(len(features), *features.shape[2:]):
        p, z = (maps[(b, slice(None), *place)] for maps in (probabilities, features))
        for c in range(len(p) if labels.multilabel else 1):
            if labels.multilabel:
                said, sure = (c, bool(p[c] > 0.5)), max(p[c], 1 - p[c])
            else:
                said, sure = (int(p.argmax()), True), p.max()
            if label is not None:
                truth = label[(b, c, *place)]
                right = (truth == said[1]) if labels.multilabel else (truth == said[0])
                kept = right and sure > threshold
            else:
                kept = sure > reliable
            if kept:
                found.setdefault(said, []).append(z)
    return found


def weight_by_loops(labels, probabilities, features, prototypes, k=None):
    found = np.ones((len(features), len(probabilities[0]) if labels.multilabel else 1, *features.shape[2:]))
    for b, c, *place in np.ndindex(found.shape):
        p, z = (maps[(b, slice(None), *place)] for maps in (probabilities, features))
        said = (c, bool(p[c] > 0.5)) if labels.multilabel else (int(p.argmax()), True)
        if said in prototypes:
            mean = prototypes[said].tolist()
            shared = None if k is None else len(plain_strongest(z.tolist(), k) & plain_strongest(mean, k)) / k
            found[(b, c, *place)] = plain_cosine(z.tolist(), mean) if k is None else shared
    return found


def taught(labels, weight, network, batch, iteration=1, source=None):
    step = step_of(labels, network, batch, iteration)
    return weight(step, (source or Prediction())(step)), step


@pytest.mark.parametrize("volumes", [False, True])
@pytest.mark.parametrize("settings", [{}, {"k": 1}, {"similarity": "cosine"}, {"reliable": 0.8}])
def test_the_weight_is_that_of_loops(labels, volumes, settings):
    sure = settings.get("reliable")
    network, weight, batch = task(labels, volumes, **settings | ({"reliable": Confidence(sure)} if sure else {}))
    first, step = taught(labels, weight, network, batch)
    assert (first == 1).all()  # nothing is remembered yet
    weight.after_step(step)
    p = [plain_probabilities(labels, network(batch[part]["image"])) for part in ("labeled", "unlabeled")]
    z = [batch[part]["image"].double().numpy() for part in ("labeled", "unlabeled")]
    known = known_by_loops(labels, p[0], z[0], batch["labeled"]["label"].numpy(), 0.6)
    if sure:
        for said, rows in known_by_loops(labels, p[1], z[1], reliable=sure).items():
            known.setdefault(said, []).extend(rows)
    assert len(known) == (2 * labels.num_classes if labels.multilabel else labels.num_outputs)
    prototypes = {said: np.mean(rows, axis=0) for said, rows in known.items()}
    found, _ = taught(labels, weight, network, batch, 2)
    k = None if settings.get("similarity") == "cosine" else settings.get("k", 3)
    np.testing.assert_allclose(found.numpy(), weight_by_loops(labels, p[1], z[1], prototypes, k), atol=1e-5)
    assert 0.1 < found.mean() < 0.9 and found.dtype == torch.float32


def test_by_hand():
    """Of four features two, with the prototypes (3, 2, 1, 0) and (0, 4, 4, 4), of whose ties the first count."""
    labels, network = LabelSpace(["lung"], "multiclass"), Pixels(4, 2)
    weight = RankSimilarity(k=2)
    weight.prepare(network, labels)
    rows = torch.tensor([[[4.0, 2, 0, 0], [2, 2, 2, 0]], [[0, 5, 3, 4], [0, 3, 5, 4]]])
    weight.memory.add(rows, torch.ones(2, 2, dtype=torch.bool))
    assert weight.memory.prototypes()[0].tolist() == [[3, 2, 1, 0], [0, 4, 4, 4]]
    pixels = torch.tensor([[9.0, 8, 0, 0], [9, 0, 8, 0], [0, 0, 1, 1], [1, 1, 1, 1], [0, 2, 0, 1], [0, 1, 2, 0]])
    label = torch.tensor([0.0, 0, 0, 1, 1, 1])
    batch = {"unlabeled": {"image": pixels.T.reshape(1, 4, 2, 3)}}
    found = weight(Step(labels, network, batch), PseudoLabel(label.view(1, 1, 2, 3)))
    # shared: {0,1} of {0,1}; 0 of {0,2}; none of {2,3}; 1 of {0,1}; 1 of {1,3}; both of {1,2}
    assert found.flatten().tolist() == [1, 0.5, 0, 0.5, 0.5, 1]
    weight.released = True
    found = weight(Step(labels, network, batch), PseudoLabel(label.view(1, 1, 2, 3)))
    expected = np.array([2, 1.5, 1, 1.5, 1.5, 2])
    np.testing.assert_allclose(found.flatten().numpy(), expected / expected.mean(), rtol=1e-6)


@pytest.mark.parametrize("similarity", ["rank", "cosine"])
def test_the_released_form_is_one_more_over_the_mean(labels, similarity):
    network, weight, batch = task(labels, similarity=similarity)
    weight.after_step(taught(labels, weight, network, batch)[1])
    plain, _ = taught(labels, weight, network, batch, 2)
    weight.released = True
    found, _ = taught(labels, weight, network, batch, 2)
    torch.testing.assert_close(found, (1 + plain) / (1 + plain).mean())
    assert found.mean().item() == pytest.approx(1)


@pytest.mark.parametrize("released", [False, True])
def test_a_class_that_nothing_is_remembered_of_counts_as_the_host_has_it(multiclass, released):
    network, weight, batch = task(multiclass, released=released)
    batch["labeled"]["label"][batch["labeled"]["label"] == 2] = 0  # no labelled image shows it
    weight.after_step(taught(multiclass, weight, network, batch)[1])
    found, step = taught(multiclass, weight, network, batch, 2)
    label = Prediction()(step).label
    assert (label == 2).any() and found.isfinite().all()
    if released:  # 1 of 1 to 2
        assert (found[label == 2] == found.min()).all() and found.max() > found.min()
    else:
        assert (found[label == 2] == 1).all() and found[label != 2].mean() < 0.9


def test_classes_without_features_are_told_of_once(multiclass, caplog):
    network, weight, batch = task(multiclass)
    batch["labeled"]["label"].clamp_(max=1)
    with caplog.at_level(logging.WARNING):
        for iteration in range(1, 2 * LOOK + 2):
            weight.after_step(taught(multiclass, weight, network, batch, iteration)[1])
    assert [record.message for record in caplog.records] == [
        "RankSimilarity has seen no feature of heart in 20 steps: such pixels count as the method's own weight has it, "
        "until labelled ones are recognised with a confidence above 0.6."
    ]


def test_a_resumed_run_does_not_tell_again(multilabel, caplog):
    network, weight, batch = task(multilabel)
    batch["labeled"]["label"][:, 0] = 1
    for iteration in range(1, LOOK + 1):
        weight.after_step(taught(multilabel, weight, network, batch, iteration)[1])
    assert "no feature of 'not lung' in 20 steps" in caplog.text
    other = task(multilabel)[1]
    other.load_state_dict(weight.state_dict())
    caplog.clear()
    for iteration in range(LOOK + 1, LOOK + 3):
        other.after_step(taught(multilabel, other, network, batch, iteration)[1])
    assert not caplog.records and other.steps == LOOK + 2


def test_where_all_classes_are_known_nothing_is_said(labels, caplog):
    network, weight, batch = task(labels)
    for iteration in range(1, LOOK + 2):
        weight.after_step(taught(labels, weight, network, batch, iteration)[1])
    assert not caplog.records


def test_one_class_of_its_own_is_a_choice_of_two():
    """A sigmoid's class and a softmax's class with background have the same weights where they say the same."""
    maps = [LabelSpace(["lesion"], mode) for mode in ("multilabel", "multiclass")]
    batch = random_batch(LabelSpace(["a", "b"]), 8, CHANNELS)
    batch["labeled"]["label"] = batch["labeled"]["label"][:, :1]
    found = []
    for labels in maps:
        network = Pixels(CHANNELS, labels.num_outputs)
        head = torch.linspace(-3, 4, CHANNELS).view(1, CHANNELS, 1, 1)
        rows = [head] if labels.multilabel else [torch.zeros_like(head), head]
        network.final_conv.weight.data = torch.cat(rows)
        network.final_conv.bias.data.zero_()
        weight = RankSimilarity(**ALL)
        weight.prepare(network, labels)
        weight.after_step(taught(labels, weight, network, batch)[1])
        found.append(taught(labels, weight, network, batch, 2)[0])
    assert found[0].shape == found[1].shape == (3, 1, 8, 8)
    torch.testing.assert_close(*found)
    assert len(found[0].unique()) > 2


# ---- what is remembered


def test_ignored_pixels_and_those_from_outside_are_not_remembered(labels):
    network, weight, batch = task(labels)
    label = batch["labeled"]["label"]
    label[0] = -1
    batch["labeled"]["weight"] = torch.ones(2, 1, 6, 6)
    batch["labeled"]["weight"][1, :, :3] = 0
    weight.after_step(taught(labels, weight, network, batch)[1])
    allowed = {tuple(row) for row in batch["labeled"]["image"][1, :, 3:].flatten(1).T.tolist()}
    for rows, number in zip(weight.memory.features, weight.memory.added, strict=True):
        assert {tuple(row) for row in rows[:number].tolist()} <= allowed
    assert 0 < weight.memory.added.sum() <= 18 * label.shape[1]


def test_a_step_remembers_so_many_of_each_class_and_each_kind(multiclass):
    network, weight, batch = task(multiclass, memory=11, enqueued=4, reliable=Confidence(0.5))
    for iteration in range(1, 4):
        weight.after_step(taught(multiclass, weight, network, batch, iteration)[1])
        assert weight.memory.added.tolist() == [8 * iteration] * 3
    assert weight.memory.features.shape == (3, 11, CHANNELS)


def test_it_remembers_the_features_of_who_taught(labels):
    """A teacher's pseudo-labels are weighed by the teacher's features."""
    network, weight, batch = task(labels)
    network = Shifted(network)
    teacher = Teacher()
    teacher.prepare(network, labels)
    weight.prepare(network, labels)
    network.shift.data.copy_(torch.tensor([9.0, -7, 5, 3, 0, 0]).view(1, -1, 1, 1))  # the student ranks otherwise
    weight.after_step(taught(labels, weight, network, batch, 1, teacher)[1])
    found, _ = taught(labels, weight, network, batch, 2, teacher)
    alone, expected = task(labels)[1], copy.deepcopy(teacher.network)
    alone.after_step(taught(labels, alone, expected, batch)[1])
    torch.testing.assert_close(found, taught(labels, alone, expected, batch, 2)[0])
    other = task(labels)[1]
    other.after_step(taught(labels, other, network, batch)[1])
    assert not torch.equal(found, taught(labels, other, network, batch, 2)[0])


class Shifted(torch.nn.Module):
    """A network whose features are another's and a shift, which it learns."""

    def __init__(self, network):
        super().__init__()
        self.final_conv, self.shift = network.final_conv, torch.nn.Parameter(torch.zeros(1, CHANNELS, 1, 1))

    def forward_features(self, x):
        return x + self.shift

    def forward(self, x, seen=False, perturb=None):
        features = self.forward_features(x)
        outputs = self.final_conv(features)
        return Seen(outputs, features, features) if seen else outputs


def test_two_terms_of_a_step_are_remembered_once_and_two_networks_are_refused(multiclass):
    network, weight, batch = task(multiclass)
    step, teacher = step_of(multiclass, network, batch), Teacher()
    teacher.prepare(network, multiclass)
    for _ in range(2):
        weight(step, Prediction()(step))
    assert len(weight.waiting) == 1
    with pytest.raises(ValueError, match=r"pseudo-labels of one network, .* got those of another one, too: give each"):
        weight(step, teacher(step))


def test_several_batches_of_one_step_are_all_remembered(multiclass):
    network, weight, batch = task(multiclass, enqueued=4)
    steps = [taught(multiclass, weight, network, batch, iteration)[1] for iteration in (1, 2)]
    weight.after_step(steps[-1])
    assert weight.memory.added.tolist() == [8, 8, 8] and not weight.waiting


def test_an_explanation_leaves_nothing_behind(labels):
    network, weight, batch = task(labels)
    taught(labels, weight, network, batch, 0)
    weight.after_step(step_of(labels, network, batch))
    assert not weight.memory.added.any()


def test_pixels_are_drawn_by_seed_and_iteration(multiclass):
    def remembered(iteration):
        network, weight, batch = task(multiclass, enqueued=4)
        weight.after_step(taught(multiclass, weight, network, batch, iteration)[1])
        return weight.memory.features

    assert torch.equal(remembered(1), remembered(1)) and not torch.equal(remembered(1), remembered(2))


# ---- where it is asked


def test_a_grid_s_pixels_are_weighed_by_their_features(labels):
    network, weight, batch = task(labels)
    weight.after_step(taught(labels, weight, network, batch)[1])
    whole, step = taught(labels, weight, network, batch, 2)
    grid, pseudo = Grid.of_cells((6, 6), 3), Prediction()(step)
    found = weight(step, PseudoLabel(grid.of(pseudo.label), grid))
    assert found.shape[2:] == (3, 3) and torch.equal(found, grid.of(whole))


def test_a_soft_label_is_weighed_as_what_it_says(labels):
    network, weight, batch = task(labels)
    weight.after_step(taught(labels, weight, network, batch)[1])
    hard, _ = taught(labels, weight, network, batch, 2)
    soft, _ = taught(labels, weight, network, batch, 3, Prediction(soft=True))
    assert torch.equal(hard, soft)


def test_without_a_training_every_pixel_counts(labels):
    network, _, batch = task(labels)
    found, _ = taught(labels, RankSimilarity(), network, batch, 0)
    assert found.shape == (3, 1, 6, 6) and (found == 1).all()


def test_no_gradients_and_mixed_precision(labels):
    network, weight, batch = task(labels)
    weight.after_step(taught(labels, weight, network, batch)[1])
    expected, _ = taught(labels, weight, network, batch, 2)
    assert not expected.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = taught(labels, weight, network, batch, 2)
    assert found.dtype == torch.float32
    assert (found == expected).float().mean() > 0.95  # where rounded outputs say the same


def test_state_is_all_that_moves(multiclass):
    network, weight, batch = task(multiclass)
    before = copy.deepcopy(weight.state_dict())
    weight.after_step(taught(multiclass, weight, network, batch)[1])
    assert set(before) == {"memory.features", "memory.added", "steps"}
    assert all(not torch.equal(before[key], value) for key, value in weight.state_dict().items())
    assert not list(weight.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k and enqueued must be at least 1, got 0 and 16"),
        ({"enqueued": 0}, "k and enqueued must be at least 1, got 5 and 0"),
        ({"memory": 0}, "memory must keep at least 1 feature of each class, got 0"),
        ({"threshold": 1.0}, r"threshold of the memory must be in \[0, 1\), got 1.0"),
        ({"similarity": "hamming"}, r"similarity must be one of \('rank', 'cosine'\), got 'hamming'"),
        (
            {"reliable": "null"},
            r"reliable must be a weight, common.weights.Reliable say, or None, got 'null': for None",
        ),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        RankSimilarity(**settings)


def test_more_ranks_than_features_are_refused(multiclass):
    network = Pixels(4, 3)
    with pytest.raises(ValueError, match="k must be at most the number of features of the penultimate layer, got 5 of"):
        RankSimilarity(k=5).prepare(network, multiclass)
    RankSimilarity(k=4).prepare(network, multiclass)
    RankSimilarity(k=5, similarity="cosine").prepare(network, multiclass)  # which has no use for k
