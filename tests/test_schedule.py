"""The learning rate: constant until an epoch, then a polynomial; a resumed one goes on."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR, PolynomialLR

from common.schedule import Polynomial


def optimizer(*rates):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates or (0.5,)]
    return torch.optim.SGD(groups, lr=1.0)


def rates(scheduler, epochs):
    found = []
    for _ in range(epochs):
        found.append(scheduler.get_last_lr())
        scheduler.optimizer.step()
        scheduler.step()
    return found


def test_by_hand():
    """Ten epochs, constant for the first four."""
    found = [rate for (rate,) in rates(Polynomial(optimizer(0.5), 10, power=2, start=4), 11)]
    falling = [0.5 * ((10 - t) / 6) ** 2 for t in range(4, 11)]
    assert found == pytest.approx([0.5] * 4 + falling)
    assert found[10] == 0


@pytest.mark.parametrize("power", [0.9, 1.0, 3.0])
def test_from_the_first_epoch_on_it_is_torch_s(power):
    plain = PolynomialLR(optimizer(0.1, 0.02), total_iters=8, power=power)
    found = rates(Polynomial(optimizer(0.1, 0.02), 8, power), 9)
    for one, other in zip(found, rates(plain, 9), strict=True):
        assert one == pytest.approx(other, abs=1e-12)


@pytest.mark.parametrize(("epochs", "power", "start"), [(5, 0, 0), (5, 0.9, 5), (5, 0.9, 9)])
def test_constant(epochs, power, start):
    """Without a power, and where the end comes before the start."""
    assert rates(Polynomial(optimizer(0.3), epochs, power, start), 6)[:5] == [[0.3]] * 5


def test_the_optimizer_has_the_rate():
    scheduler = Polynomial(optimizer(0.3, 0.6), 4, 1.0, 2)
    seen = []
    for _ in range(5):
        seen.append([group["lr"] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    assert seen == [pytest.approx([0.3 * left, 0.6 * left]) for left in (1, 1, 1, 0.5, 0)]


def test_a_fall_of_one_epoch():
    assert rates(Polynomial(optimizer(0.5), 3, 1.0, 2), 4) == [[0.5], [0.5], [0.5], [0.0]]


def test_after_the_end_nothing_is_learnt():
    assert rates(Polynomial(optimizer(), 3, 0.9), 7)[3:] == [[0.0]] * 4
    assert rates(Polynomial(optimizer(), 3, 0.5, 1), 7)[3:] == [[0.0]] * 4


@pytest.mark.parametrize("stop", [0, 2, 5, 8])
def test_a_resumed_one_goes_on(stop):
    whole = rates(Polynomial(optimizer(0.5, 0.1), 8, 0.9, 3), 9)
    first = Polynomial(optimizer(0.5, 0.1), 8, 0.9, 3)
    rates(first, stop)
    states = first.state_dict(), first.optimizer.state_dict()
    second = Polynomial(optimizer(0.5, 0.1), 8, 0.9, 3)
    second.load_state_dict(states[0])
    second.optimizer.load_state_dict(states[1])
    assert rates(second, 9 - stop) == whole[stop:]


def test_a_given_last_epoch_is_where_it_is():
    held = optimizer(0.5)
    LambdaLR(held, lambda _: 1.0)  # notes the initial rate
    assert Polynomial(held, 10, 1.0, 2, last_epoch=5).get_last_lr() == pytest.approx([0.5 * (1 - 4 / 8)])


@pytest.mark.parametrize(("epochs", "power", "start"), [(0, 1, 0), (5, -0.1, 0), (5, 1, -1)])
def test_refuses(epochs, power, start):
    with pytest.raises(ValueError, match=f"got {epochs}, {power} and {start}"):
        Polynomial(optimizer(), epochs, power, start)
    assert Polynomial(optimizer(), 1, 0, 0).get_last_lr() == [0.5]
