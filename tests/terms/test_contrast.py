"""U2PL's contrast against loops over pixels in float64, its queues, and what it does where there is nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from methods.plain_terms import Pixels, plain_probabilities, random_batch

from common.methods import Step
from common.sources import Teacher
from common.terms import Contrast, Match
from common.views import Flip
from common.weights import EntropyShare

SMALL = {"dimensions": 5, "anchors": 7, "negatives": 4, "queue": 50, "enqueued": 6}


class Recorded:
    """A generator that remembers what it gave."""

    def __init__(self, draw):
        self.draw, self.calls = draw, []

    def __getattr__(self, name):
        def call(*arguments, **keywords):
            found = getattr(self.draw, name)(*arguments, **keywords)
            self.calls.append(found)
            return found

        return call


def parts_of(labels, unreliable=0.4, **settings):
    torch.manual_seed(0)
    network, teacher, reliable = Pixels(3, labels.num_outputs, 4.0), Teacher(), EntropyShare(unreliable)
    contrast = Contrast(teacher, reliable, **{**SMALL, **settings})
    for part in (teacher, contrast):
        part.prepare(network, labels)
    with torch.no_grad():  # the student is no longer its teacher
        network.final_conv.weight.add_(0.3)
        contrast.head[0].weight.add_(0.1)
    return network, teacher, reliable, contrast


def step_of(labels, network, teacher, reliable, iteration=1, seed=0, view=None, batch=None):
    """A step in which a term has shown the unlabelled images, flipped."""
    step = Step(labels, network, batch or random_batch(labels, seed=seed), iteration, weak_gradients=False)
    match = Match(teacher, reliable, view or Flip(axes=[1], prob=1.0))
    match(step)
    step.notes["unsupervised"] = step.noted
    return step


def plain_pixels(labels, network, teacher, step, unreliable, contrast):
    """Anchors, negatives and features of all pixels, one after the other."""
    shown = step.unlabeled["image"].flip(3)  # Flip's axis 1
    images = [step.labeled["image"], shown]
    p = [plain_probabilities(labels, teacher.network.eval()(image)) for image in images]
    weak = plain_probabilities(labels, teacher.network(step.unlabeled["image"]))[..., ::-1]
    if labels.multilabel:
        truth, guess = step.labeled["label"].numpy() > 0.5, weak > 0.5
        entropy = -(p[1] * np.log(p[1]) + (1 - p[1]) * np.log(1 - p[1]))
    else:
        k = labels.num_outputs
        truth = np.stack([step.labeled["label"].numpy()[:, 0] == c for c in range(k)], 1)
        guess = np.stack([weak.argmax(1) == c for c in range(k)], 1)
        entropy = -(p[1] * np.log(p[1])).sum(1, keepdims=True).repeat(k, 1)
    distinct = entropy if labels.multilabel else entropy[:, :1]
    bound = np.sort(distinct.ravel())[int((1 - unreliable) * distinct.size) - 1]
    rows = []
    for part, (own, probability) in enumerate(zip((truth, guess), p, strict=True)):
        for b, y, x in np.ndindex(len(own), *own.shape[2:]):
            anchors, negatives = [], []
            for c in range(own.shape[1]):
                q = probability[b, :, y, x]
                if labels.multilabel:
                    rank, low = int(q[c] <= 0.5), 1
                else:
                    rank, low = int((q > q[c]).sum()), min(3, len(q) - 1)
                sure = entropy[b, c, y, x] <= bound + 1e-9 if part else True
                anchors.append(bool(own[b, c, y, x] and sure and q[c] > 0.3))
                if part == 0:
                    negatives.append(bool(not own[b, c, y, x] and rank < low))
                else:
                    negatives.append(bool(not sure and low <= rank < 20))
            rows.append((anchors, negatives, images[part][b, :, y, x].double().numpy()))
    return [np.array([row[place] for row in rows]) for place in range(3)]


def plain_head(head, features):
    first, _, last = ([value.detach().double().numpy() for value in layer.parameters()] for layer in head)
    return np.maximum(features @ first[0].T + first[1], 0) @ last[0].T + last[1]


def cosine(one, other):
    return one @ other / np.sqrt((one @ one) * (other @ other))


def test_pixels_are_what_loops_say(labels):
    network, teacher, reliable, contrast = parts_of(labels)
    step = step_of(labels, network, teacher, reliable)
    found = contrast.pixels(step)
    expected = plain_pixels(labels, network, teacher, step, 0.4, contrast)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine.double().numpy(), theirs, atol=1e-6)
    for mask in (found.anchors, found.negatives):
        assert (mask.float().mean(0) > 0.02).all() and (mask.float().mean(0) < 0.9).all()


def test_the_loss_is_the_paper_s(labels):
    network, teacher, reliable, contrast = parts_of(labels)
    for iteration in (1, 2):  # fills the queues
        step = step_of(labels, network, teacher, reliable, iteration, seed=iteration)
        contrast(step)
        contrast.after_step(step)
    with torch.no_grad():
        contrast.head[2].weight.add_(0.2)
    step = step_of(labels, network, teacher, reliable, 3, seed=3)
    recorded, original = [], step.draw
    step.draw = lambda part: recorded.append(Recorded(original(part))) or recorded[-1]
    loss = contrast(step)
    (calls,) = [each.calls for each in recorded]
    anchors, negatives, features = plain_pixels(labels, network, teacher, step, 0.4, contrast)
    calls = calls[int((negatives.any(0)).sum()) :]  # those before chose what is enqueued
    total = 0.0
    for c in range(labels.num_outputs):
        candidates = np.flatnonzero(anchors[:, c])
        chosen, places = calls[2 * c], calls[2 * c + 1].reshape(7, 4)
        positive = plain_head(contrast.teacher_head, features[candidates]).mean(0)
        queue = contrast.queues[c].double().numpy()
        for i, one in enumerate(plain_head(contrast.head, features[candidates[chosen]])):
            good = math.exp(cosine(one, positive) / 0.5)
            bad = sum(math.exp(cosine(one, queue[place]) / 0.5) for place in places[i])
            total -= math.log(good / (good + bad)) / 7 / labels.num_outputs
    assert loss.item() == pytest.approx(total, rel=1e-4)
    loss.backward()
    assert contrast.head[0].weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in contrast.teacher_head.parameters())


def test_queues_get_the_teacher_s_view_of_negatives_and_forget_the_oldest(multiclass):
    network, teacher, reliable, contrast = parts_of(multiclass, queue=10, dimensions=16)
    given = [[] for _ in range(3)]
    for iteration in range(1, 5):
        step = step_of(multiclass, network, teacher, reliable, iteration, seed=iteration)
        contrast(step)
        ((keys, there),) = contrast.waiting
        pixels = contrast.pixels(step)
        for c in range(3):
            new = keys[c, there[c]]
            known = contrast.teacher_head(pixels.features[pixels.negatives[:, c]])
            assert len(new) == min(6, len(known))
            for key in new:  # each a negative of this class
                assert (known - key).abs().amax(1).min() < 1e-6
            assert len(new.unique(dim=0)) == len(new)
            given[c] += list(new)
        contrast.after_step(step)
        for c in range(3):
            assert contrast.filled[c] == len(given[c])
            expected, found = torch.stack(given[c][-10:]), contrast.queues[c, : min(10, len(given[c]))]
            one, other = (rows[rows.sum(1).argsort()] for rows in (expected, found))
            assert torch.equal(one, other)  # the last ones
    assert (contrast.filled > 10).all()


def test_the_teacher_s_head_follows(multiclass):
    network, teacher, _, contrast = parts_of(multiclass)
    for number in (1, 2, 3):
        before = contrast.teacher_head[0].weight.clone()
        teacher.after_step(Step(multiclass, network, {}, 7 * number))
        contrast.after_step(Step(multiclass, network, {}, 7 * number))
        rate = min(0.99, 1 - 1 / (number + 1))  # of the updates, not of the iterations, which may be accumulated
        expected = rate * before + (1 - rate) * contrast.head[0].weight
        torch.testing.assert_close(contrast.teacher_head[0].weight, expected)


def test_several_batches_of_one_step_all_fill_the_queues(multiclass):
    network, teacher, reliable, contrast = parts_of(multiclass)
    for seed in (1, 2):
        contrast(step_of(multiclass, network, teacher, reliable, seed, seed=seed))
    assert len(contrast.waiting) == 2
    expected = sum(there.sum(1) for _, there in contrast.waiting)
    contrast.after_step(Step(multiclass, network, {}, 2))
    assert torch.equal(contrast.filled, expected) and not contrast.waiting


def test_it_refuses_to_be_the_first_term(multiclass):
    network, _, _, contrast = parts_of(multiclass)
    with pytest.raises(ValueError, match="must come after the term whose pseudo-labels it asks for, got none"):
        contrast(Step(multiclass, network, random_batch(multiclass)))


def test_an_empty_queue_and_a_class_without_anchors_add_nothing(multiclass):
    network, teacher, reliable, contrast = parts_of(multiclass)
    step = step_of(multiclass, network, teacher, reliable)
    loss = contrast(step)
    assert loss.item() == 0
    loss.backward()  # every process takes part in the mean of gradients
    assert all((parameter.grad == 0).all() for parameter in contrast.head.parameters())
    contrast.after_step(step)
    none = parts_of(multiclass, threshold=0.999999)
    step = step_of(multiclass, *none[:3])
    none[3].filled.fill_(5)
    assert none[3](step).item() == 0


def test_two_outputs_have_negatives_too():
    """With the paper's rank of 3 the term would silently be 0 for a class and its background."""
    from common.label_space import LabelSpace

    labels = LabelSpace(["lesion"], "multiclass")
    network, teacher, reliable, contrast = parts_of(labels)
    batch = random_batch(LabelSpace(["a", "b"], "multiclass"))
    batch["labeled"]["label"].clamp_(max=1)
    step = step_of(labels, network, teacher, reliable, batch=batch)
    pixels = contrast.pixels(step)
    unlabeled = pixels.negatives[-pixels.negatives.shape[0] * 3 // 5 :]  # 2 labelled images, 3 unlabelled ones
    assert unlabeled.any(0).all()


def test_state_and_parameters(multiclass):
    _network, _, _, contrast = parts_of(multiclass)
    state = contrast.state_dict()
    assert {"queues", "filled", "head.0.weight", "teacher_head.0.weight"} <= set(state)
    assert state["queues"].shape == (3, 50, 5)
    assert all(parameter.requires_grad for parameter in contrast.head.parameters())
    assert not any(parameter.requires_grad for parameter in contrast.teacher_head.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queue": 0}, "queue must be at least 1, got 0"),
        ({"anchors": 0}, "anchors must be at least 1, got 0"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"threshold": 1}, "temperature must be above 0, threshold in"),
        ({"low_rank": 4, "high_rank": 4}, "high_rank above low_rank, got .* 4 and 4"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Contrast(Teacher(), EntropyShare(), **settings)
