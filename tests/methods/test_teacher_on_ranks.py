"""Two processes that train together share teacher, bank, discriminator, queues, memory and magnitudes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import nn

from common.label_space import LabelSpace
from common.methods import AEL, U2PL, AugSeg, FixMatch, Method, SegMatch, Step
from common.networks import Seen
from common.views import CTAugment
from common.weights import Confidence, RankSimilarity

LABELS = LabelSpace(["a", "b"], "multiclass")


class Small(nn.Module):
    """Features with batch norm, whose running statistics differ between the processes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.final_conv = nn.Conv2d(4, LABELS.num_outputs, 1)

    def forward_features(self, x):
        return self.body(x)

    def forward(self, x, seen=False, perturb=None):
        features = self.body(x)
        outputs = self.final_conv(features)
        return Seen(outputs, features, features) if seen else outputs


def method_of(name: str) -> Method:
    settings = {"dimensions": 4, "anchors": 8, "negatives": 4, "queue": 40, "enqueued": 6}
    rank_similarity = RankSimilarity(2, 40, 0.34, reliable=Confidence(0.34), enqueued=3)
    makers = {
        "AEL": lambda: AEL(LABELS),
        "U2PL": lambda: U2PL(LABELS, contrast=settings, supervised_share=0),
        "CTAugment": lambda: FixMatch(LABELS, view=CTAugment()),
        "SegMatch": lambda: SegMatch(LABELS, discriminator={"features": (4, 4), "spectral": True}),
        "AugSeg": lambda: AugSeg(LABELS, added_weight=rank_similarity),
    }
    return makers[name]()


def train(rank: int, folder: str, name: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet_{name}", rank=rank, world_size=2)
    torch.manual_seed(0)
    method, network = method_of(name), Small()
    parameters = method.prepare(network)
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    draw = torch.Generator().manual_seed(rank)
    for iteration in range(1, 4):
        label = torch.randint(0, 3, (2, 1, 12, 12), generator=draw).float()
        if rank == 1:
            label[label == 2] = 0  # a class that one process alone sees
        images = (torch.rand(2, 1, 12, 12, generator=draw) for _ in range(2))
        batch = {"labeled": {"image": next(images), "label": label}, "unlabeled": {"image": next(images)}}
        step = Step(LABELS, network.train(), batch, iteration, weak_gradients=False)
        optimizer.zero_grad()
        sum(method.losses(step).values()).backward()
        for parameter in parameters:
            dist.all_reduce(parameter.grad)
            parameter.grad /= 2
        optimizer.step()
        method.after_step(step)
    torch.save({"method": method.state_dict(), "network": network.state_dict()}, Path(folder) / f"{name}{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ["U2PL", "AEL", "CTAugment", "SegMatch", "AugSeg"])
def test_all_processes_have_the_same_state(tmp_path, name):
    processes.spawn(train, (str(tmp_path), name), nprocs=2)
    one, other = (torch.load(tmp_path / f"{name}{rank}.pt", weights_only=True) for rank in range(2))
    assert not torch.equal(one["network"]["body.1.running_mean"], other["network"]["body.1.running_mean"])
    for key, value in one["method"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other["method"][key]), key
    if name == "AEL":
        assert (one["method"]["bank.confidence"] > 0).all() and one["method"]["bank.times"].tolist() == [3, 3, 3]
    elif name == "AugSeg":
        memory = "terms.unsupervised.weight.weights.1.memory."
        assert one["method"][memory + "added"].sum() > 0 and one["method"][memory + "features"].any()
    elif name == "U2PL":
        assert (one["method"]["terms.contrast.filled"] > 0).all()
    elif name == "CTAugment":
        # three steps of two operations on two images in each process, 9 of 11 with bins: one alone draws at most 12
        moved = one["method"]["terms.unsupervised.view.weights"] < 1
        assert 12 < moved.sum() <= 24
    else:
        adam, other = (each["method"]["terms.unsupervised.weight._extra_state"]["state"] for each in (one, other))
        assert adam.keys() == other.keys() and len(adam) == 6
        for number, state in adam.items():
            assert state["step"] == 3 and torch.equal(state["exp_avg"], other[number]["exp_avg"])
