"""AugSeg, U2PL, AEL and BCP: their sums against NumPy, and the papers' numbers as defaults."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_terms import Pixels, confident, losses, plain_entropies, plain_loss, plain_probabilities, random_batch

from common.losses import CrossEntropy, Dice, Sum
from common.methods import AEL, BCP, U2PL, AugSeg, FixMatch, Step, Supervised
from common.methods.bcp import halves
from common.sources import Teacher
from common.sources.teacher import largest_components
from common.terms import Contrast, Match
from common.views import CutMix, Flip, LabeledCutMix, Strong, Weak
from common.weights import ClassSample, Confidence, ConfidencePower, EntropyShare


@pytest.fixture
def network(labels):
    return Pixels(3, labels.num_outputs, 4.0)


@pytest.fixture
def batch(labels):
    return random_batch(labels, size=12)


def prepared(method, network):
    """The method, and the network after something like a step: it is no longer its own teacher."""
    method.prepare(network)
    teacher = Pixels(3, network.final_conv.out_channels)
    teacher.load_state_dict(network.state_dict())
    with torch.no_grad():
        network.final_conv.weight.add_(0.4 * torch.randn_like(network.final_conv.weight))
    return teacher


# ---- AugSeg


def test_augseg_learns_what_the_teacher_is_sure_of(labels, network, batch):
    method = AugSeg(labels, threshold=0.7, view=Flip(axes=[0], prob=1))
    teacher = prepared(method, network)
    terms, _ = losses(method, network, batch)
    image = batch["unlabeled"]["image"]
    label, weight = confident(labels, teacher(image), 0.7)
    assert 0.05 < weight.mean() < 0.95
    expected = plain_loss(labels, network(image.flip(2)), label.flip(2), weight.flip(2))
    assert terms["unsupervised"].item() == pytest.approx(expected, rel=1e-4)


def test_augseg_s_numbers_are_the_paper_s(labels):
    (match,) = AugSeg(labels).terms.values()
    assert type(match.source) is Teacher and match.source.decay == 0.999 and not match.source.soft
    assert type(match.weight) is Confidence and match.weight.threshold == 0.95
    strong, labeled, cutmix = match.view.views
    assert type(strong) is Strong and strong.operations == (1, 3) and not strong.geometry and strong.cutout == 0
    assert type(labeled) is LabeledCutMix and labeled.beta == (8, 2)
    assert type(cutmix) is CutMix and cutmix.beta == (4, 4) and cutmix.prob == 1 and cutmix.aspect == (1, 1)


def test_augseg_shows_pixels_of_labelled_images_with_their_label(multiclass):
    """A network that knows the labelled images alone: where it is asked about them, it is right."""
    batch = random_batch(multiclass, size=16)
    batch["labeled"]["image"].add_(10.0)
    network, method = Pixels(3, 3), AugSeg(multiclass, view=LabeledCutMix(), threshold=0.999)
    method.prepare(network)
    for part in method.parts():
        if isinstance(part, Teacher):
            part.network.final_conv.weight.data.zero_()  # unsure, so that nothing else counts and all are mixed
            part.network.final_conv.bias.data.zero_()
    step = Step(multiclass, network, batch, 1)
    match = method.terms["unsupervised"]
    match(step)
    pseudo, weight = step.noted[:2]
    label, counts = step.shown.change.of_label(pseudo.label.float(), weight)
    inside = step.shown.image.mean(1, keepdim=True) > 5
    assert inside.any() and torch.equal(counts > 0, inside)
    own = {int(v) for v in batch["labeled"]["label"].unique()}
    assert {int(v) for v in label[inside].unique()} <= own


# ---- U2PL


def test_u2pl_is_the_mean_over_reliable_pixels(labels, network, batch):
    method = U2PL(labels, view=Flip(axes=[0], prob=1), contrast={"queue": 20, "enqueued": 10}, supervised_share=0)
    teacher = prepared(method, network)
    step = Step(labels, network, batch, 1, weak_gradients=False, progress=0.5)
    terms = method.losses(step)
    p = plain_probabilities(labels, teacher(batch["unlabeled"]["image"]))
    if labels.multilabel:
        entropy, label = -(p * np.log(p) + (1 - p) * np.log(1 - p)), np.round(p)
    else:
        entropy, label = -(p * np.log(p)).sum(1, keepdims=True), p.argmax(1)[:, None]
    bound = np.sort(entropy.ravel())[int(0.9 * entropy.size) - 1]  # alpha_t is 0.1 at half the training
    outputs = network(batch["unlabeled"]["image"].flip(2))
    each = plain_entropies(labels, outputs, torch.from_numpy(label * 1.0).flip(2))
    kept = (entropy <= bound + 1e-6)[:, :, ::-1]
    assert terms["unsupervised"].item() == pytest.approx(each[kept].mean(), rel=1e-4)
    assert list(terms) == ["supervised", "unsupervised", "contrast"]


def test_u2pl_s_numbers_are_the_paper_s(labels):
    method = U2PL(labels)
    match, contrast = method.terms.values()
    assert type(match) is Match and type(match.weight) is EntropyShare and match.weight.unreliable == 0.2
    assert match.source.decay == 0.99 and type(match.view) is CutMix and match.view.prob == 0.5
    assert type(contrast) is Contrast and contrast.factor == 0.1 and contrast.teacher is match.source
    assert contrast.reliable is match.weight
    assert (contrast.temperature, contrast.negatives, contrast.anchors, contrast.queue) == (0.5, 50, 256, 30000)
    assert method.supervised_share == 1 / 80 and match.loss.normalized


# ---- AEL


def test_ael_is_the_weighted_mean(labels, network, batch):
    method = AEL(labels, sampling_power=0, paste_classes=0)
    method.terms["unsupervised"].view = Flip(axes=[0], prob=1)
    teacher = prepared(method, network)
    terms, _ = losses(method, network, batch)
    p = plain_probabilities(labels, teacher(batch["unlabeled"]["image"]))
    weight = np.maximum(p, 1 - p) ** 2 if labels.multilabel else p.max(1, keepdims=True) ** 2
    label = np.round(p) if labels.multilabel else p.argmax(1)[:, None]
    outputs = network(batch["unlabeled"]["image"].flip(2))
    each = plain_entropies(labels, outputs, torch.from_numpy(label * 1.0).flip(2))
    weight = weight[:, :, ::-1]
    assert terms["unsupervised"].item() == pytest.approx((weight * each).sum() / weight.sum(), rel=1e-4)
    expected = losses(Supervised(labels), network, batch)[0]["supervised"]
    torch.testing.assert_close(terms["supervised"], expected)


def test_ael_s_bank_learns_of_the_pasted_images(labels, network, batch):
    method = AEL(labels)
    method.paste.prob = 1.0
    prepared(method, network)
    step = Step(labels, network, batch, 1, weak_gradients=False)
    method.losses(step)
    assert not method.bank.confidence.any()
    method.after_step(step)
    viewed = Step(labels, network, batch, 1).view(method.paste, batch["labeled"]["image"])
    assert not torch.equal(viewed.image, batch["labeled"]["image"])
    label = labels.one_hot(viewed.change.of_label(batch["labeled"]["label"], None)[0]).numpy()
    p = plain_probabilities(labels, network(viewed.image))
    expected = [(p[:, c] * label[:, c]).sum() / label[:, c].sum() for c in range(labels.num_outputs)]
    np.testing.assert_allclose(method.bank.confidence.numpy(), expected, rtol=1e-5)


def test_ael_s_numbers_are_the_paper_s(labels):
    method = AEL(labels)
    (match,) = method.terms.values()
    power, sample = match.weight.weights
    assert type(power) is ConfidencePower and power.power == 2
    assert type(sample) is ClassSample and sample.power == 1 and sample.bank is method.bank
    assert method.bank.decay == 0.999 and match.source.decay == 0.99
    assert match.view.bank is method.bank and method.paste.bank is method.bank and match.loss.normalized
    assert sum("confidence" in name for name in dict(method.named_buffers())) == 1  # one bank


# ---- BCP


def plain_bcp(labels, network, image, target, kept):
    """Half cross-entropy and half Dice of some pixels, in float64; target one-hot."""
    p = plain_probabilities(labels, network(image))
    kept = kept.double().numpy() * np.ones((len(image), 1, 1, 1))
    target = target.double().numpy()
    if labels.multilabel:
        each = -(target * np.log(p) + (1 - target) * np.log(1 - p))
        entropy = (each * kept).sum() / (kept.sum() * p.shape[1])
    else:
        entropy = (-(target * np.log(p)).sum(1, keepdims=True) * kept).sum() / kept.sum()
    scale, dice = kept.size / kept.sum(), []  # the weights' mean is 1
    for c in range(p.shape[1]):
        overlap = (scale * kept[:, 0] * p[:, c] * target[:, c]).sum()
        total = (scale * kept[:, 0] * (p[:, c] + target[:, c])).sum()
        dice.append(1 - (2 * overlap + 1) / (total + 1))
    return (entropy + np.mean(dice)) / 2


def test_bcp_is_the_sum_over_both_ways(labels, network, batch):
    method = BCP(labels, supervised_share=0)
    teacher = prepared(method, network)
    batch["unlabeled"]["image"] = batch["unlabeled"]["image"][:2]
    terms, step = losses(method, network, batch)
    box = method.box(Step(labels, network, batch, 1))
    assert box.float().mean().item() == pytest.approx((8 / 12) ** 2)
    image, other = batch["labeled"]["image"], batch["unlabeled"]["image"]
    label = labels.one_hot(batch["labeled"]["label"])
    pseudo = step.notes["unsupervised"].pseudo.label
    assert torch.equal(pseudo, largest_components(labels, labels.predict(teacher(other)).float())) and pseudo.any()
    guess = labels.one_hot(pseudo)
    inward = ((image[:1], label[:1]), (other[:1], guess[:1]), ~box)
    outward = ((other[1:], guess[1:]), (image[1:], label[1:]), box)
    expected = [0.0, 0.0]
    for outer, inner, labeled in (inward, outward):
        mixed, target = (torch.where(box, b, a) for a, b in zip(outer, inner, strict=True))
        expected[0] += plain_bcp(labels, network, mixed, target, labeled)
        expected[1] += 0.5 * plain_bcp(labels, network, mixed, target, ~labeled)
    assert [term.item() for term in terms.values()] == pytest.approx(expected, rel=1e-4)


def test_bcp_begins_with_labelled_images_alone(labels, network, batch):
    method = BCP(labels)
    prepared(method, network)
    step = Step(labels, network, {"labeled": batch["labeled"]}, 1, progress=0.24)
    terms = method.losses(step)
    box = method.box(Step(labels, network, batch, 1))
    image, label = batch["labeled"]["image"], labels.one_hot(batch["labeled"]["label"])
    mixed, target = (torch.where(box, maps[1:], maps[:1]) for maps in (image, label))
    expected = plain_bcp(labels, network, mixed, target, ~box) + plain_bcp(labels, network, mixed, target, box)
    assert terms["supervised"].item() == pytest.approx(expected, rel=1e-4) and terms["unsupervised"].item() == 0
    assert method.losses(Step(labels, network, batch, 1, weak_gradients=False, progress=0.25))["unsupervised"] > 0


@pytest.mark.parametrize(
    ("one", "other", "first", "second"),
    [
        (4, 4, ([0, 1], [0, 1]), ([2, 3], [2, 3])),
        (2, 4, ([0, 1], [0, 1]), ([0, 1], [2, 3])),
        (1, 1, ([0], [0]), ([0], [0])),
    ],
)
def test_halves_by_hand(one, other, first, second):
    (labeled, later), (unlabeled, last) = halves(one, other)
    assert ((labeled.tolist(), unlabeled.tolist()), (later.tolist(), last.tolist())) == (first, second)


def test_bcp_s_numbers_are_the_paper_s(labels):
    method = BCP(labels)
    (match,) = method.terms.values()
    assert (match.source.decay, match.source.largest, match.factor, method.beta) == (0.99, True, 0.5, 2 / 3)
    assert type(method.loss) is Sum and method.loss.weights == [0.5, 0.5] and match.loss is method.loss
    assert [type(loss) for loss in method.loss.losses] == [CrossEntropy, Dice] and method.loss.losses[1].background
    with pytest.raises(ValueError, match=r"beta must be in \(0, 1\), got 1"):
        BCP(labels, beta=1)


def test_the_largest_components_of_the_teacher_s_prediction(multilabel, multiclass):
    label = torch.zeros(2, 1, 6, 8)
    label[0, 0, 0, :3], label[0, 0, 3, 2:4], label[0, 0, 5, 5:7] = 1, 1, 2
    label[0, 0, 1, 3] = 1  # touches the first by a corner alone
    label[1, 0, 2, 2] = 2
    expected = label.clone()
    expected[0, 0, 3, 2:4] = expected[0, 0, 1, 3] = 0
    assert torch.equal(largest_components(multiclass, label), expected)
    masks = multiclass.masks(label)
    assert torch.equal(largest_components(multilabel, masks), multiclass.masks(expected))


# ---- what all have


def test_a_share_of_the_training_is_supervised_alone(labels, network, batch):
    method = FixMatch(labels, 0.51, supervised_share=0.3)
    before = method.losses(Step(labels, network, {"labeled": batch["labeled"]}, 1, progress=0.29))
    assert before["unsupervised"].item() == 0 and before["supervised"] > 0
    assert method.losses(Step(labels, network, batch, 1, weak_gradients=False, progress=0.3))["unsupervised"] > 0
    rising = FixMatch(labels, supervised_share=0.3, ramp_up=10)
    for iteration, progress, t in ((31, 0.3, 0.1), (36, 0.35, 0.6), (41, 0.4, 1.0)):  # 100 iterations: from the 31st on
        factor = rising.factor(Step(labels, network, batch, iteration, progress=progress))
        assert factor == pytest.approx(np.exp(-5 * (1 - t) ** 2))
    with pytest.raises(ValueError, match=r"supervised_share must be in \[0, 1\), got 1"):
        FixMatch(labels, supervised_share=1)


@pytest.mark.parametrize("kind", [FixMatch, AugSeg, AEL, U2PL])
def test_the_loss_on_pseudo_labels_is_a_setting_of_every_method(labels, kind):
    dice = Dice()
    assert kind(labels, unsupervised_loss=dice).terms["unsupervised"].loss is dice
    assert type(kind(labels).terms["unsupervised"].loss) is CrossEntropy
    assert "unsupervised" not in Supervised(labels, unsupervised_loss=dice).terms


def test_a_term_that_says_its_loss_keeps_it(labels):
    from common.losses import SquaredError
    from common.methods import MeanTeacher, Method
    from common.sources import Prediction

    own, other = Dice(), CrossEntropy()
    method = Method(
        labels, {"a": Match(Prediction(), loss=own), "b": Match(Prediction(), view=Weak())}, unsupervised_loss=other
    )
    assert method.terms["a"].loss is own and method.terms["b"].loss is other
    assert type(MeanTeacher(labels, unsupervised_loss=other).terms["consistency"].loss) is SquaredError


def test_bcp_counts_pixels_of_labelled_images_by_their_weight(labels, network, batch):
    method = BCP(labels, supervised_share=0)
    prepared(method, network)
    full = method.losses(Step(labels, network, batch, 1, weak_gradients=False))
    batch["labeled"]["weight"] = torch.ones(2, 1, 12, 12)
    same = method.losses(Step(labels, network, batch, 1, weak_gradients=False))
    batch["labeled"]["weight"] *= 0
    none = method.losses(Step(labels, network, batch, 1, weak_gradients=False))
    torch.testing.assert_close(full, same)
    assert none["supervised"] < full["supervised"]
    torch.testing.assert_close(none["unsupervised"], full["unsupervised"])


@pytest.mark.parametrize("kind", [AugSeg, AEL, U2PL, BCP])
def test_pictures_can_be_made_of_what_is_taught(labels, network, batch, kind):
    """Before a training, and in the state of the last step."""
    method = kind(labels)
    prepared(method, network)
    noted = method.explain(network, batch)
    assert noted.weight.is_floating_point() and noted.weight.mean((1, 2, 3)).isfinite().all()
    if kind is U2PL:
        before = noted.weight.mean().item()
        method.progress = 1.0
        assert before < 1 and method.explain(network, batch).weight.mean().item() == 1


def test_the_supervised_share_sees_labelled_images_alone_also_jointly(make_trainer):
    from common.label_space import LabelSpace

    method = FixMatch(LabelSpace(["a", "b"]), 0.51, supervised_share=0.5, joint=True)
    trainer, sizes = make_trainer(method, epochs=2, iterations=2), []
    trainer.network.body.register_forward_hook(lambda module, given, out: sizes.append(len(given[0])))
    trainer.run()
    assert sizes[:2] == [2, 2] and 4 in sizes[2:]
