"""Slices of a patient as one case: which, in which order, with what name."""

from __future__ import annotations

import numpy as np
import pytest
from monai.transforms import Compose
from PIL import Image

from common.data import PatientStacks
from common.label_space import LabelSpace
from common.transforms import LoadLabeld, LoadRadiographd

LOAD = Compose([LoadRadiographd(channel="all"), LoadLabeld(labels=LabelSpace(["tumor"]))])
PATIENTS = ["b", "a", "b", "b", "a"]


def save(path, values):
    Image.fromarray(np.asarray(values, np.uint8)).save(path)
    return str(path)


def slices(folder, patients=tuple(PATIENTS), sizes=((6, 5),) * 5):
    """Pictures of three channels in rows and columns, and masks; each its own."""
    random, items = np.random.default_rng(0), []
    for place, (patient, size) in enumerate(zip(patients, sizes, strict=True)):
        image = save(folder / f"{place}.tif", random.integers(1, 255, (*size, 3)))
        label = save(folder / f"{place}_mask.tif", 255 * (random.random(size) < 0.3))
        items.append({"image": image, "label": [label], "patient": patient})
    return items


@pytest.mark.parametrize("cached", [True, False])
def test_a_case_is_a_patient_s_slices_in_their_order(tmp_path, cached):
    items = slices(tmp_path)
    stacks = PatientStacks(items, LOAD, tmp_path / "cache" if cached else None)
    assert [stacks.name(index) for index in range(len(stacks))] == ["b", "a"]
    assert stacks.data == items
    for index, places in enumerate([(0, 2, 3), (1, 4)]):
        case = stacks[index]
        assert set(case) == {"image", "label"}
        assert case["image"].shape == (3, 5, 6, len(places)) and case["label"].shape == (1, 5, 6, len(places))
        assert case["image"].meta["filename_or_obj"] == stacks.name(index)
        np.testing.assert_array_equal(case["image"].affine, np.eye(4))
        for depth, place in enumerate(places):
            picture = np.asarray(Image.open(items[place]["image"])).transpose(2, 1, 0)
            np.testing.assert_array_equal(case["image"][..., depth], picture)
            mask = np.asarray(Image.open(items[place]["label"][0])).T
            np.testing.assert_array_equal(case["label"][0, ..., depth], mask > 0)


def test_pictures_without_a_patient_are_cases_of_their_own(tmp_path):
    items = [{key: item[key] for key in ("image", "label")} for item in slices(tmp_path)]
    stacks = PatientStacks(items, LOAD)
    assert [stacks.name(index) for index in range(5)] == [item["image"] for item in items]
    assert stacks[4]["image"].shape == (3, 5, 6, 1)


def test_no_slices_are_no_cases():
    assert len(PatientStacks([], LOAD)) == 0


def test_slices_of_several_sizes_are_no_case(tmp_path):
    items = slices(tmp_path, sizes=[(6, 5), (6, 5), (6, 5), (8, 4), (6, 5)])
    with pytest.raises(ValueError, match="the slices of b must be of one size to be one case, got 4 x 8 and 5 x 6: re"):
        PatientStacks(items, LOAD)
    assert len(PatientStacks(items[:3], LOAD)) == 2
