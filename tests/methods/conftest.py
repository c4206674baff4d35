"""A batch and a network that most methods are tried on."""

from __future__ import annotations

import pytest
from plain_terms import Pixels, picture_batch


@pytest.fixture
def batch(labels):
    return picture_batch(labels)


@pytest.fixture
def network(labels):
    return Pixels(3, labels.num_outputs, 6.0)  # so that some predictions are confident and others are not
