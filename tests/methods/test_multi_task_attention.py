"""The reconstruction of regions against plain loops; the head in optimizer, checkpoint and distributed training."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from torch import nn

from common.label_space import LabelSpace
from common.methods import MultiTaskAttention, Popcorn
from common.methods.multi_task_attention import foreground, reconstruction_error
from common.networks import BasicUNet

LABELS = LabelSpace(["lesion"])
SIZE = (16, 16, 16)


def unet(channels=1, dimensions=3):
    torch.manual_seed(0)
    return BasicUNet(dimensions, channels, 1, (4, 4, 4, 4, 8, 4), norm="batch")


def batch_of(channels=1, unlabeled=True):
    rng = torch.Generator().manual_seed(1)
    image = torch.randn(4, channels, *SIZE, generator=rng)
    batch = {"labeled": {"image": image, "label": (image[:, :1] > 1).float()}}
    if unlabeled:
        batch["unlabeled"] = {"image": torch.randn(2, channels, *SIZE, generator=rng)}
    return batch


def train(method, network, optimizer, iterations, first=0):
    losses = []
    for iteration in range(first, first + iterations):
        optimizer.zero_grad()
        terms, _ = method.terms(network, batch_of(), iteration + 1)
        sum(terms.values()).backward()
        optimizer.step()
        losses.append({name: term.item() for name, term in terms.items()})
    return losses


class GivenFeatures(nn.Module):
    """A network whose features and outputs are given, for labelled images and then for unlabelled ones."""

    def __init__(self, *given: tuple[np.ndarray, np.ndarray]) -> None:
        super().__init__()
        self.conv_0 = nn.Conv3d(2, 3, 1)
        self.final_conv = nn.Conv3d(3, 1, 1)
        self.given = [tuple(torch.tensor(part, dtype=torch.float32) for part in parts) for parts in given]
        self.calls = 0

    def forward(self, image, return_features):
        assert return_features
        self.calls += 1
        return self.given[self.calls - 1]


def plain_error(features, outputs, image, weight, bias):
    """Both regions' squared errors in float64 loops: sums, and how many numbers a region has."""
    total = count = 0
    for b, x, y, z in np.ndindex(len(image), *image.shape[2:]):
        p = 1 / (1 + math.exp(-outputs[b, 0, x, y, z]))
        for region, attention in enumerate((p, 1 - p)):
            for c in range(image.shape[1]):
                row = region * image.shape[1] + c
                made = bias[row] + sum(weight[row, k] * features[b, k, x, y, z] for k in range(features.shape[1]))
                total += (made - attention * image[b, c, x, y, z]) ** 2
                count += region
    return total, count


def test_terms_equal_plain_loops():
    rng = np.random.default_rng(0)
    given = [(rng.normal(size=(n, 3, 2, 3, 2)), rng.normal(size=(n, 1, 2, 3, 2))) for n in (4, 2)]
    images = [rng.normal(size=(n, 2, 2, 3, 2)) for n in (4, 2)]
    label = rng.integers(0, 2, (4, 1, 2, 3, 2)).astype(np.float32)
    network, method = GivenFeatures(*given), MultiTaskAttention(LABELS, reconstruction_weight=0.7, seed=3)
    method.parameters(network)
    nn.init.normal_(method.head.bias)
    image, other = (torch.tensor(values, dtype=torch.float32) for values in images)
    batch = {"labeled": {"image": image, "label": torch.tensor(label)}, "unlabeled": {"image": other}}
    terms, _ = method.terms(network, batch, 1)
    weight, bias = method.head.weight.detach().numpy().reshape(4, 3), method.head.bias.detach().numpy()
    parts = [plain_error(*given[i], images[i], weight, bias) for i in (0, 1)]
    assert terms["reconstruction"].item() == pytest.approx(
        0.7 * sum(total for total, _ in parts) / sum(count for _, count in parts), rel=1e-5
    )
    assert terms["dice"].item() == pytest.approx(
        Popcorn(LABELS).pair_loss(network.given[0][1], batch["labeled"]).item(), rel=1e-6
    )
    network.calls = 0
    alone = method.terms(network, {"labeled": batch["labeled"]}, 1)[0]["reconstruction"].item()
    assert alone == pytest.approx(0.7 * parts[0][0] / parts[0][1], rel=1e-5)
    assert network.calls == 1


def test_error_by_hand():
    image, attention = torch.full((1, 1, 2, 2, 2), 2.0), torch.full((1, 1, 2, 2, 2), 0.25)
    perfect = torch.cat([torch.full_like(image, 0.5), torch.full_like(image, 1.5)], 1)
    assert reconstruction_error(perfect, image, attention).item() == 0
    assert reconstruction_error(perfect + 1, image, attention).item() == pytest.approx(2)
    assert reconstruction_error(torch.zeros_like(perfect), image, attention).item() == pytest.approx(0.25 + 2.25)


def test_foreground_by_hand():
    logits = torch.log(torch.tensor([1.0, 3.0])).view(1, 2, 1, 1).requires_grad_()
    probability = foreground(LabelSpace(["a", "b"]), logits)  # 1/2 and 3/4 that may overlap
    assert probability.item() == pytest.approx(1 - 1 / 2 * 1 / 4)
    assert not probability.requires_grad
    logits = torch.log(torch.tensor([1.0, 2.0, 5.0])).view(1, 3, 1, 1)
    assert foreground(LabelSpace(["a", "b"], "multiclass"), logits).item() == pytest.approx(7 / 8)


def test_reconstruction_changes_features_not_the_classifier():
    network, method = unet(), MultiTaskAttention(LABELS)
    method.parameters(network)
    method.terms(network, batch_of(), 1)[0]["reconstruction"].backward()
    assert all(parameter.grad is None for parameter in network.final_conv.parameters())
    assert network.conv_0.conv_0.conv.weight.grad.abs().sum() > 0
    assert method.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("dimensions", "channels"), [(2, 1), (3, 2)])
def test_head_fits_the_network_and_leaves_draws_alone(dimensions, channels):
    network = unet(channels, dimensions)
    state = torch.get_rng_state()
    method = MultiTaskAttention(LABELS, seed=5)
    parameters = method.parameters(network)
    torch.testing.assert_close(torch.get_rng_state(), state)
    assert method.head.weight.shape == (2 * channels, 4, *[1] * dimensions)
    ids = [id(parameter) for parameter in parameters]
    own = [*network.parameters(), *method.head.parameters()]
    assert ids == [id(parameter) for parameter in own]
    assert [id(parameter) for parameter in method.parameters(network)] == ids  # asking again makes no other head
    torch.rand(3)
    twin = MultiTaskAttention(LABELS, seed=5)
    twin.parameters(network)
    assert torch.equal(twin.head.weight, method.head.weight)
    other = MultiTaskAttention(LABELS, seed=6)
    other.parameters(network)
    assert not torch.equal(other.head.weight, method.head.weight)


def test_training_lowers_both_losses():
    network, method = unet(), MultiTaskAttention(LABELS)
    losses = train(method, network, torch.optim.Adam(method.parameters(network), 0.03), 40)
    for name in ("dice", "reconstruction"):
        assert losses[-1][name] < 0.85 * losses[0][name]


def test_resumed_equals_uninterrupted(tmp_path):
    def start():
        network, method = unet(), MultiTaskAttention(LABELS)
        return network, method, torch.optim.Adam(method.parameters(network), 0.01)

    whole = start()
    train(whole[1], whole[0], whole[2], 4)
    parts = start()
    train(parts[1], parts[0], parts[2], 2)
    torch.save([item.state_dict() for item in parts], tmp_path / "checkpoint.pt")
    resumed = start()
    for item, state in zip(resumed, torch.load(tmp_path / "checkpoint.pt", weights_only=True), strict=True):
        item.load_state_dict(state)
    train(resumed[1], resumed[0], resumed[2], 2, first=2)
    for expected, found in zip(whole[1].parameters(whole[0]), resumed[1].parameters(resumed[0]), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_one_step_of_the_trainer_changes_the_head():
    network, method = unet(), MultiTaskAttention(LABELS, step_size=3, neighbors=2)
    optimizer = torch.optim.SGD(method.parameters(network), 0.1)
    before = copy.deepcopy(method.state_dict()["head"])
    seen = []

    class Seen(MultiTaskAttention):
        def before_step(self, engine):
            seen.append((self.head.weight.grad.clone(), self.head.weight.detach().clone()))

    method.__class__ = Seen
    trainer = SupervisedTrainer(
        torch.device("cpu"), 1, [batch_of()], network, optimizer, nn.MSELoss(), iteration_update=method, decollate=False
    )
    terms = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: terms.append(set(e.state.output["terms"])))
    trainer.run()
    assert terms == [{"dice", "reconstruction"}]
    (gradient, weight) = seen[0]  # between the gradients and the step
    torch.testing.assert_close(weight, before["weight"])
    torch.testing.assert_close(method.head.weight.detach(), before["weight"] - 0.1 * gradient)


def of_rank(rank, address, head):
    dist.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    method = MultiTaskAttention(LABELS)
    method.head = head
    head.weight.grad = torch.full_like(head.weight, 1.0 + 2 * rank)
    method.before_step(None)  # the bias has no gradient
    torch.save(head.weight.grad, f"{address}.{rank}")
    dist.destroy_process_group()


def test_processes_share_the_mean_of_the_head_s_gradients(tmp_path):
    head = nn.Conv3d(3, 2, 1)
    mp.start_processes(of_rank, (tmp_path / "meet", head), nprocs=2, start_method="fork")
    for rank in (0, 1):
        gradient = torch.load(tmp_path / f"meet.{rank}", weights_only=True)
        torch.testing.assert_close(gradient, torch.full_like(gradient, 2.0))


def test_nobody_joins_and_without_the_term_it_is_the_baseline():
    method, network = MultiTaskAttention(LABELS, reconstruction_weight=0, step_size=3, neighbors=2), unet()
    assert method.steps(11) == []
    assert method.unlabeled_batch > 0
    terms = method.terms(network, batch_of(), 1)[0]
    baseline = Popcorn(LABELS, consistency_weight=0, selection="none")
    assert terms.keys() == {"dice"}
    assert terms["dice"].item() == baseline.terms(unet(), batch_of(), 1)[0]["dice"].item()


def test_refuses():
    with pytest.raises(ValueError, match="reconstruction_weight must not be negative"):
        MultiTaskAttention(LABELS, reconstruction_weight=-1)
    method = MultiTaskAttention(LABELS)
    with pytest.raises(ValueError, match="must be in the optimizer"):
        method.terms(unet(), batch_of(), 1)
    with pytest.raises(ValueError, match="must be made first"):
        method.load_state_dict({"head": {}})
    with pytest.raises(ValueError, match="got a Linear: use common"):
        method.parameters(nn.Linear(2, 2))
    method.parameters(unet())
    other = MultiTaskAttention(LABELS)
    other.parameters(unet(channels=2))
    for state in ({}, other.state_dict()):
        with pytest.raises(ValueError, match="state must be a head of"):
            method.load_state_dict(state)
