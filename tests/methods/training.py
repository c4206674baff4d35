"""A training in a few lines, for methods on a batch that stays the same."""

from __future__ import annotations

import torch
from plain_terms import losses


def train(method, network, optimizer, iterations, first=0, *, batch_of):
    """Some iterations; the terms of each by name."""
    found = []
    for iteration in range(first, first + iterations):
        optimizer.zero_grad()
        terms, step = losses(method, network, batch_of(), iteration + 1)
        sum(terms.values()).backward()
        optimizer.step()
        method.after_step(step)
        found.append({name: term.item() for name, term in terms.items()})
    return found


def require_resumed_equals_uninterrupted(start, folder, *, batch_of):
    """Four iterations at once, and two times two with a checkpoint between; start gives network, method, optimizer."""
    whole, parts, resumed = start(), start(), start()
    train(whole[1], whole[0], whole[2], 4, batch_of=batch_of)
    train(parts[1], parts[0], parts[2], 2, batch_of=batch_of)
    torch.save([item.state_dict() for item in parts], folder / "checkpoint.pt")
    for item, state in zip(resumed, torch.load(folder / "checkpoint.pt", weights_only=True), strict=True):
        item.load_state_dict(state)
    train(resumed[1], resumed[0], resumed[2], 2, first=2, batch_of=batch_of)
    for expected, found in zip(whole[:2], resumed[:2], strict=True):
        torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=0, atol=0)
