"""Near copies are told where they are in two parts: in the test part as errors, otherwise as warnings."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from common.data.inspection import Inspection
from common.data.near_duplicates import ORDER, Seen, near_copies, report_near_copies


def invented(seed):
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(90, 80)), 3)


def seen(part, patient, image, name=None):
    item = {"image": name or f"{part}/{patient}.png", "patient": patient}
    return Seen.of(item, part, image.tobytes()[:64], image)


@pytest.fixture
def images():
    """Two images of patients of their own in each part."""
    return [
        seen(part, f"{part}{index}", invented(10 * ORDER.index(part) + index)) for part in ORDER for index in (0, 1)
    ]


def reported(images):
    found = Inspection(pd.DataFrame(), pd.DataFrame())
    report_near_copies(images, found)
    return found


def test_other_images_are_none(images):
    assert near_copies(images) == []
    assert near_copies([]) == []
    assert near_copies(images[:2]) == []  # of one part


@pytest.mark.parametrize(("one", "other"), itertools.combinations(ORDER, 2))
def test_a_near_copy_in_two_parts(images, one, other):
    image = invented(10 * ORDER.index(one))
    found = reported([*images, seen(other, "new", image[3:, ::-1] * 5)])
    lines, none = found.errors, found.warnings
    if other != "test" or one == "validation":
        lines, none = none, lines
    assert none == []
    assert len(lines) == 1
    said = f"{one}/{one}0.png ({one}) and {other}/new.png ({other}) are nearly the same image (likeness "
    assert lines[0].startswith(said)
    assert "give both one patient and put them in one part." in lines[0]


def test_copies_within_a_part_and_of_one_patient_and_equal_ones_are_told_elsewhere(images):
    image = invented(0)
    assert near_copies([*images, seen("unlabeled", "new", image * 2)]) == []
    assert near_copies([*images, seen("test", "unlabeled0", image * 2)]) == []
    assert near_copies([*images, seen("test", "new", image)]) == []


def test_there_is_one_line_for_two_patients(images):
    slices = [seen("labeled", "p", invented(100 + index), f"p_{index}.png") for index in range(4)]
    copies = [seen("test", "q", invented(100 + index)[:, 2:], f"q_{index}.png") for index in range(4)]
    (line,) = reported([*images, *slices, *copies]).errors
    assert "as are 3 more of these two patients" in line


def test_the_most_alike_are_named():
    slices = [seen("labeled", "p", invented(100 + index), f"p_{index}.png") for index in range(2)]
    copies = [seen("test", "q", invented(100)[6:, 5:], "q_0.png"), seen("test", "q", invented(101) + 1, "q_1.png")]
    (line,) = reported([*slices, *copies]).errors
    assert line.startswith("p_1.png (labeled) and q_1.png (test) are nearly the same image (likeness 1.00), as are 1 m")
