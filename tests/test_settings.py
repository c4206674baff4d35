"""What an object was made with, as plain values, and how two descriptions differ."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.label_space import LabelSpace
from common.methods import RPG, FixMatch, Popcorn, RPGPlus, Supervised
from common.settings import described, differences, keywords
from common.values import Values
from common.views import Chain, Flip, IntensityJitter, Strong


class Base:
    def __init__(self, first, second=2, **unknown):
        self.first, self.second = first, second


class Passing(Base):
    def __init__(self, third=3, *, second=22, fourth: int = 4, **options):
        super().__init__(**options)
        self.third, self.fourth = third, fourth


class Silent(Passing):
    """Has no keywords of its own."""


class Closed(Passing):
    def __init__(self, fifth=5):
        super().__init__(first=1)
        self.fifth = fifth


class Positional(Base):
    def __init__(self, *values, **options):
        super().__init__(values[0], **options)


def test_keywords_are_those_passed_on_too():
    found = keywords(Passing)
    assert list(found) == ["third", "second", "fourth", "first"]
    assert [p.default for p in found.values()][:3] == [3, 22, 4]  # the subclass's own default
    assert keywords(Silent) == found
    assert list(keywords(Closed)) == ["fifth"]
    assert list(keywords(Positional)) == ["first", "second"]
    assert keywords(type("Nothing", (), {})) == {}


def test_keywords_of_methods():
    common = [
        "terms",
        "joining",
        "loss",
        "unsupervised_loss",
        "added_weight",
        "unsupervised_weight",
        "ramp_up",
        "supervised_share",
        "joint",
        "average",
        "seed",
    ]
    assert list(keywords(Supervised)) == ["labels", *common]
    assert list(keywords(FixMatch)) == ["labels", "threshold", "view", *common]
    assert keywords(FixMatch)["threshold"].default == 0.8
    names = list(keywords(RPGPlus))
    assert names[:5] == ["labels", "threshold", "strong", "consistency_weight", "weight"]
    assert {"neighbors", "reference_size", "view", *common} < set(names) and len(names) == len(set(names))
    assert "self" not in names and "options" not in names and "unknown" not in names


class Mode(Enum):
    ONE = "one"


class Says:
    """Says itself what there is to say."""

    def __init__(self, hidden=1):
        self._hidden = hidden

    def settings(self):
        return {"shown": Base(self._hidden, Path("a/b"))}


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (3, 3),
        (None, None),
        (True, True),
        (0.5, 0.5),
        ("text", "text"),
        (Mode.ONE, "one"),
        (Path("runs") / "a", "runs/a"),
        ((1, "b", None), [1, "b", None]),
        ([[1], (2,)], [[1], [2]]),
        (range(3), [0, 1, 2]),
        ({"b", "a"}, ["a", "b"]),
        (frozenset("ba"), ["a", "b"]),
        ({"a": (1, 2), 3: Mode.ONE}, {"a": [1, 2], "3": "one"}),
        (np.float32(0.5), 0.5),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (torch.tensor([1.5, 2.0]), [1.5, 2.0]),
        (torch.tensor(3), 3),
        (nn.Parameter(torch.zeros(2)), [0.0, 0.0]),
        (Base, "Base"),
        (described, "described"),
        (len, "len"),
        (Base(1), {"class": "Base", "first": 1, "second": 2}),
        (Passing(first=7), {"class": "Passing", "third": 3, "second": 2, "fourth": 4, "first": 7}),
        (Says(8), {"class": "Says", "shown": {"class": "Base", "first": 8, "second": "a/b"}}),
        (Base([Base((1,))]), {"class": "Base", "first": [{"class": "Base", "first": [1], "second": 2}], "second": 2}),
        (nn.ModuleDict({"a": nn.ReLU(True)}), {"a": {"class": "ReLU", "inplace": True}}),
        (nn.ModuleList([nn.ReLU(), nn.Tanh()]), [{"class": "ReLU", "inplace": False}, {"class": "Tanh"}]),
    ],
)
def test_described(thing, expected):
    found = described(thing)
    assert found == expected
    assert type(found) is type(expected)
    json.dumps(found)  # plain throughout


def test_a_method_is_described_with_its_parts():
    found = described(
        FixMatch(LabelSpace(["a", "b"]), threshold=0.9, view=Chain([Flip([1]), IntensityJitter(noise=0)]))
    )
    assert found["class"] == "FixMatch" and found["seed"] == 0 and found["joining"] is None
    assert found["labels"] == {"class": "LabelSpace", "classes": ["a", "b"], "mode": "multilabel"}
    term = found["terms"]["unsupervised"]
    assert term["class"] == "Match" and term["weight"] == {"class": "Confidence", "threshold": 0.9}
    assert term["view"]["class"] == "Chain"
    assert term["view"]["views"][0] == {"class": "Flip", "axes": [1], "prob": 0.5}
    assert term["view"]["views"][1]["noise"] == 0


@pytest.mark.parametrize("kind", [Supervised, RPG, RPGPlus, Popcorn, FixMatch])
def test_equal_objects_have_equal_descriptions(kind, tmp_path):
    labels = LabelSpace(["a", "b"])
    one, other = described(kind(labels)), described(kind(labels))
    assert one == other and differences(one, other) == []
    torch.save(one, tmp_path / "state.pt")  # as part of a checkpoint
    assert differences(torch.load(tmp_path / "state.pt", weights_only=True), other) == []
    changed = differences(described(kind(labels, seed=3)), one)
    assert changed == ["seed 0, got 3"]


def test_differences_name_the_key_and_both_values():
    mine = {"a": 1, "b": {"c": [1, {"d": 2}], "same": 0}, "mine": None}
    theirs = {"a": 1.5, "b": {"c": [1, {"d": "x"}], "same": 0}, "theirs": "y"}
    assert differences(mine, theirs) == [
        "a 1.5, got 1",
        "b#c#1#d 'x', got 2",
        "mine 'not set', got None",
        "theirs 'y', got 'not set'",
    ]


def test_lists_of_other_lengths_are_told_as_a_whole():
    assert differences({"a": [1, 2]}, {"a": [1]}) == ["a [1], got [1, 2]"]
    assert differences({"a": {"b": 1}}, {"a": 1}) == ["a 1, got {'b': 1}"]
    assert differences([1, 2], [1, 3]) == ["#1 3, got 2"]
    assert differences({}, {}) == []


def test_a_view_in_another_place_is_another_view():
    one, other = (described({"view": Strong()}) for _ in range(2))
    assert differences(one, other) == []
    other = described({"view": Chain([Strong()])})
    assert any(line.startswith("view#class 'Chain', got 'Strong'") for line in differences(one, other))


@pytest.mark.parametrize("part", ["labeled", "unlabeled"])
def test_exchanged_images_are_told(make_store, make_batches, part):
    """One image's content is another's: a resumed run would not be the one that was started."""
    labels = LabelSpace(["a", "b"])
    batches, other = (make_batches(RPG(labels)) for _ in range(2))
    mine = described(batches.settings())
    assert differences(mine, described(other.settings())) == []
    held = other.stores[part]
    before = held.fingerprints()
    name = list(before)[1]
    changed = {key: np.array(array) for key, array in held.arrays(1).items()}
    changed["image"][0, 3, 4] = 1 - changed["image"][0, 3, 4]
    held._entries[1] = type(held._entries[1])({**held._entries[1].header, "content": "0badcafe"}, changed)
    assert differences(mine, described(other.settings())) == [
        f"images#{part}#{name} '0badcafe', got {before[name]!r}",
    ]


def test_a_whole_number_is_no_share():
    """One neighbour is not all of them."""
    assert differences({"neighbors": 1}, {"neighbors": 1.0}) == ["neighbors 1.0, got 1"]
    assert differences({"neighbors": 1}, {"neighbors": 1}) == []


def test_named_tuples_are_described_by_their_names():
    assert described(Values(0.0, 2.0)) == {"low": 0.0, "high": 2.0, "clamp": True, "background": None}
