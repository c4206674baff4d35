"""Full precision inside, whatever is around, and nothing of it left behind."""

from __future__ import annotations

from contextlib import nullcontext
from threading import Thread

import numpy as np
import pytest
import torch
from torch import nn

from common.precision import allow_tf32, full_precision, tf32_switches, without_autocast
from common.views import Affine, Chain, IntensityJitter


def test_no_autocast_inside():
    one = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert (one @ one).dtype == torch.bfloat16
        with without_autocast("cpu"):
            assert (one @ one).dtype == torch.float32
        assert (one @ one).dtype == torch.bfloat16


def test_where_there_is_none_no_context_is_entered():
    assert isinstance(without_autocast("cpu"), nullcontext)
    assert isinstance(without_autocast(torch.device("cuda")), nullcontext)


def test_views_of_another_thread_leave_the_weights_of_a_step_alone():
    """Else a pass without gradients would cast the weights anew, and the next one would use these."""
    layer, image = nn.Linear(4, 4), torch.rand(2, 1, 16, 16)
    view = Chain([Affine(rotate=10), IntensityJitter()])
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.rand(1, 4))
        thread = Thread(target=lambda: view(image, np.random.default_rng(0)))
        thread.start()
        thread.join()
        with torch.no_grad():
            layer(torch.rand(1, 4))
        layer(torch.rand(1, 4)).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0


def test_tf32_is_off_inside_and_as_before_afterwards():
    switches = tf32_switches()
    before = [getattr(where, name) for where, name, *_ in switches]
    try:
        allow_tf32()
        where, name, fast, _ = switches[0]
        assert getattr(where, name) == fast
        with pytest.raises(ArithmeticError), full_precision("cpu"):
            assert [getattr(where, name) for where, name, *_ in switches] == [exact for *_, exact in switches]
            raise ArithmeticError
        assert getattr(where, name) == fast
    finally:
        for (where, name, *_), value in zip(switches, before, strict=True):
            setattr(where, name, value)
