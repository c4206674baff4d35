"""Whose image it is, where names are written in several ways."""

from __future__ import annotations

import pytest

from common.data.patients import patients_of_images, plain_patient, same_patients


@pytest.mark.parametrize(
    ("one", "other"),
    [("Patient01_flair", "sub-patient01_flair"), (" 7 ", "007"), ("case 1", "Case_01"), ("a-1-2", "A_01_002")],
)
def test_names_of_one(one, other):
    assert plain_patient(one) == plain_patient(other)
    assert same_patients([one, other]) == {one: one, other: one}


@pytest.mark.parametrize(("one", "other"), [("p1_1", "p11"), ("case10", "case1"), ("anna", "ann"), ("--", "__")])
def test_names_of_two(one, other):
    assert plain_patient(one) != plain_patient(other)
    assert same_patients([one, other]) == {one: one, other: other}


def test_an_image_that_the_csv_does_not_name_is_of_the_patient_whose_image_is_called_alike(tmp_path):
    (tmp_path / "patients.csv").write_text("image,patient\nscan1,anna\n")
    found = patients_of_images(tmp_path / "patients.csv", {"scan1": tmp_path}, {"Scan01": tmp_path, "b": tmp_path})
    assert found == {"scan1": "anna", "Scan01": "anna", "b": "b"}
