"""Which volumes, masks and patients are found in ISBI's layout, in patients' folders and in any folder."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from common.data.layouts.ms_files import isbi_items, patient_folder_items
from common.data.volume_files import patient_of_name, unlabeled_items

FIRST = np.array([1, 1, 0, 0], np.uint8)
SECOND = np.array([1, 0, 1, 0], np.uint8)


def save(path, pattern=(0, 1, 2, 3)):
    """A volume 4 x 2 x 2 whose values along the first axis are the pattern."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.broadcast_to(np.array(pattern)[:, None, None], (4, 2, 2))
    nibabel.Nifti1Image(values.astype(np.uint8), np.diag([1.0, 1, 3, 1])).to_filename(path)
    return str(path)


def isbi(folder, name, nested=True, suffix=".nii", masks=True):
    image, mask = (folder / name[:-3] / part if nested else folder for part in ("preprocessed", "masks"))
    save(image / f"{name}_flair_pp{suffix}")
    save(image / f"{name}_t2_pp{suffix}")
    save(image.parent / "orig" / f"{name}_flair{suffix}")
    if masks:
        save(mask / f"{name}_mask1{suffix}", FIRST)
        save(mask / f"{name}_mask2{suffix}", SECOND)


@pytest.mark.parametrize(("nested", "suffix"), [(True, ".nii"), (False, ".nii.gz")])
def test_isbi_as_distributed_or_flat(tmp_path, nested, suffix):
    folder = tmp_path / "isbi"
    for name in ("training01_01", "training01_02", "training02_01", "clinic7_01"):
        isbi(folder, name, nested, suffix)
    isbi(folder, "test01_01", nested, suffix, masks=False)
    items = isbi_items(folder, "rater2")
    where = (
        {"preprocessed": "{}/preprocessed/", "masks": "{}/masks/"}
        if nested
        else dict.fromkeys(("preprocessed", "masks"), "")
    )
    assert [(item["image"], item.get("label"), item["patient"]) for item in items] == [
        (
            f"{folder}/{where['preprocessed'].format(name[:-3])}{name}_flair_pp{suffix}",
            None if name.startswith("test") else [f"{folder}/{where['masks'].format(name[:-3])}{name}_mask2{suffix}"],
            name[:-3],
        )
        for name in ("clinic7_01", "test01_01", "training01_01", "training01_02", "training02_01")
    ]
    assert not list(folder.rglob("masks_*"))  # nothing is written for one rater


@pytest.mark.parametrize(("consensus", "expected"), [("intersection", [1, 0, 0, 0]), ("union", [1, 1, 1, 0])])
def test_what_two_raters_make_is_written_once(tmp_path, consensus, expected):
    isbi(tmp_path / "isbi", "training01_01")
    place = tmp_path / f"masks_{consensus}"
    item = isbi_items(tmp_path / "isbi", consensus, place)[0]
    [mask] = item["label"]
    assert Path(mask).parent == place
    image = nibabel.load(mask)
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asanyarray(image.dataobj)[:, 1, 1], expected)
    np.testing.assert_array_equal(image.affine, nibabel.load(item["image"]).affine)
    assert len(list(place.iterdir())) == 1
    os.utime(mask, (2e9, 2e9))
    assert isbi_items(tmp_path / "isbi", consensus, place) == [item]
    assert Path(mask).stat().st_mtime == 2e9
    rater = next((tmp_path / "isbi").rglob("*mask1.nii"))
    save(rater, [1, 1, 1, 1])
    os.utime(rater, (2.1e9, 2.1e9))
    assert isbi_items(tmp_path / "isbi", consensus, place) == [item]
    expected = SECOND if consensus == "intersection" else [1, 1, 1, 1]
    np.testing.assert_array_equal(np.asanyarray(nibabel.load(mask).dataobj)[:, 0, 0], expected)


def test_isbi_masks_of_two_folders_are_two_files(tmp_path):
    for name in ("native", "preprocessed"):
        isbi(tmp_path / name, "training01_01")
    place = tmp_path / "masks"
    labels = [isbi_items(tmp_path / name, masks=place)[0]["label"] for name in ("native", "preprocessed")]
    assert labels[0] != labels[1]
    assert isbi_items(tmp_path / "native")[0]["label"][0].startswith(f"{tmp_path}/native/masks_intersection/")


def test_isbi_patients_from_a_csv(tmp_path):
    isbi(tmp_path / "isbi", "visit_01")
    isbi(tmp_path / "isbi", "visit_02")
    isbi(tmp_path / "isbi", "new_01", masks=False)
    assert [item["patient"] for item in isbi_items(tmp_path / "isbi", "rater1")] == ["new", "visit", "visit"]
    table = tmp_path / "patients.csv"
    table.write_text("image,patient\nvisit_01_flair_pp.nii,anna\nvisit_02_flair_pp.nii,berta\n")
    patients = [item["patient"] for item in isbi_items(tmp_path / "isbi", "rater1", patients=table)]
    assert patients == ["new", "anna", "berta"]
    table.write_text("image,patient\nvisit_01_flair_pp.nii,anna\n")
    with pytest.raises(ValueError, match=r"1 of 2 images are not named there: visit_02_flair_pp"):
        isbi_items(tmp_path / "isbi", "rater1", patients=table)


def test_isbi_refuses_what_it_cannot_pair(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: there is no such folder"):
        isbi_items(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"must hold volumes named training01_01_flair_pp\.nii"):
        isbi_items(tmp_path)
    isbi(tmp_path, "training01_01")
    with pytest.raises(ValueError, match=r"consensus must be one of rater1, rater2, intersection, union, got 'both'"):
        isbi_items(tmp_path, "both")
    next(tmp_path.rglob("*mask2.nii")).unlink()
    with pytest.raises(
        ValueError, match=r"training01_01 must have a mask2 for consensus=union, got .*mask1\.nii alone"
    ):
        isbi_items(tmp_path, "union")
    save(tmp_path / "other" / "training01_01_flair_pp.nii.gz")
    with pytest.raises(ValueError, match=r"training01_01_flair_pp must be there once"):
        isbi_items(tmp_path, "rater1")
    for path in tmp_path.rglob("*flair_pp*"):
        path.rename(
            path.with_name("training09_01_flair_pp.nii") if "other" not in str(path) else path.with_name("x.nii")
        )
    with pytest.raises(ValueError, match=r"1 masks have no image: .*training01_01_mask1\.nii"):
        isbi_items(tmp_path, "rater1")


@pytest.mark.parametrize(
    ("flair", "mask", "beside"),
    [
        ("flair.nii.gz", "lesion_mask.nii.gz", ["brain_mask.nii.gz", "flair_brain_mask.nii.gz", "t1.nii.gz"]),
        ("3DFLAIR.nii", "gt.nii", ["brainmask.nii"]),
        ("p1_FLAIR.nii.gz", "p1_FLAIR_seg.nii.gz", ["p1_T2.nii.gz"]),
        (
            "raw/FLAIR.nii.gz",
            "Masks/Consensus.nii.gz",
            ["Masks/ManualSegmentation_1.nii.gz", "Masks/Brain_Mask.nii.gz"],
        ),
    ],
)
def test_patient_folders(tmp_path, flair, mask, beside):
    for patient in ("Center_01_Patient_01", "Center_01_Patient_02"):
        for name in (flair, mask, *beside):
            save(tmp_path / patient / name)
    assert patient_folder_items(tmp_path) == [
        {"image": f"{tmp_path}/{patient}/{flair}", "label": [f"{tmp_path}/{patient}/{mask}"], "patient": patient}
        for patient in ("Center_01_Patient_01", "Center_01_Patient_02")
    ]


def test_patients_of_folders_from_a_csv(tmp_path):
    for folder in ("scan1", "scan2"):
        save(tmp_path / "data" / folder / "flair.nii.gz")
        save(tmp_path / "data" / folder / "mask.nii.gz")
    table = tmp_path / "patients.csv"
    table.write_text("image,patient\nscan1,anna\nscan2,anna\n")
    assert [item["patient"] for item in patient_folder_items(tmp_path / "data", patients=table)] == ["anna", "anna"]


def test_several_candidates_are_named_and_chosen_by_a_pattern(tmp_path):
    for name in ("Raw/FLAIR.nii.gz", "Preprocessed/FLAIR_pp.nii.gz", "rater1_mask.nii", "rater2_mask.nii"):
        save(tmp_path / "p1" / name)
    with pytest.raises(ValueError, match=r"p1 must hold one FLAIR volume .*got 2: Preprocessed/FLAIR_pp.*Raw/FLAIR"):
        patient_folder_items(tmp_path)
    with pytest.raises(ValueError, match=r"p1 must hold one lesion mask .*got 2: rater1_mask\.nii, rater2_mask\.nii"):
        patient_folder_items(tmp_path, flair="Raw/*")
    [item] = patient_folder_items(tmp_path, flair="Preprocessed/FLAIR*", mask="rater2*")
    assert item["image"].endswith("Preprocessed/FLAIR_pp.nii.gz")
    assert item["label"] == [f"{tmp_path}/p1/rater2_mask.nii"]
    with pytest.raises(ValueError, match=r"\(the path T1\*\), got none among Preprocessed/FLAIR_pp"):
        patient_folder_items(tmp_path, flair="T1*")


def test_patient_folders_that_lack_something(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must hold one folder for each patient, got none"):
        patient_folder_items(tmp_path)
    save(tmp_path / "p1" / "flair.nii.gz")
    save(tmp_path / "p1" / "brain_mask.nii.gz")
    with pytest.raises(ValueError, match=r"p1 must hold one lesion mask .*got none among brain_mask\.nii\.gz, flair"):
        patient_folder_items(tmp_path)


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("patient19_study2_flair", "patient19"),
        ("sub-01_ses-02_FLAIR", "sub-01"),
        ("sub-01_FLAIR", "sub-01"),
        ("training01_04_flair_pp", "training01"),
        ("case7_01", "case7"),
        ("case7_visit3", "case7"),
        ("case7", "case7"),
        ("sub-01_ses-02_acq-3D_run-01_FLAIR", "sub-01"),
        ("flair", ""),
        ("study1", ""),
    ],
)
def test_patient_of_a_file_name(name, patient):
    assert patient_of_name(name) == patient


def found(folder, *arguments, **options):
    return {
        item["image"][len(str(folder)) + 1 :]: item["patient"]
        for item in unlabeled_items(folder, *arguments, **options)
    }


def test_unlabeled_volumes_and_their_patients(tmp_path):
    save(tmp_path / "patient19_study1_flair.nii.gz")
    save(tmp_path / "patient03" / "flair.nii")
    save(tmp_path / "patient03" / "lesion_mask.nii")
    save(tmp_path / ".hidden" / "other_01.nii")
    save(tmp_path / "Center_01_Patient_03_FLAIR.nii.gz")
    series = tmp_path / "anna" / "study1" / "DICOM"
    series.mkdir(parents=True)
    (series / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "readme.txt").write_text("none")
    assert found(tmp_path, known=["Center_01_Patient_03", "Center_01_Patient_0"]) == {
        "Center_01_Patient_03_FLAIR.nii.gz": "Center_01_Patient_03",
        "anna/study1/DICOM": "anna",
        "patient03/flair.nii": "patient03",
        "patient19_study1_flair.nii.gz": "patient19",
    }
    table = tmp_path / "patients.csv"
    table.write_text("file,subject\npatient19_study1_flair.nii.gz,berta\nstudy1,anna schmidt\n")
    named = found(tmp_path, patients=table)
    assert (named["patient19_study1_flair.nii.gz"], named["anna/study1/DICOM"]) == ("berta", "anna schmidt")


def test_known_patients_are_not_mistaken_for_longer_names(tmp_path):
    save(tmp_path / "patient19_flair.nii")
    save(tmp_path / "patient1" / "scan_a.nii")
    assert found(tmp_path, known=["patient1"]) == {
        "patient1/scan_a.nii": "patient1",
        "patient19_flair.nii": "patient19",
    }


@pytest.mark.parametrize(
    ("known", "name"),
    [
        ("Patient01", "sub-patient01_flair"),
        ("sub-patient1", "Patient01_flair"),
        ("patient 7", "PATIENT_007_T2_flair"),
        ("TCGA-CS-4941", "tcga_cs_4941_study2_flair"),
        ("1-2", "01_02_flair"),
    ],
)
def test_a_known_patient_whose_name_is_written_otherwise(tmp_path, known, name):
    save(tmp_path / f"{name}.nii.gz")
    assert found(tmp_path, known=["other", known]) == {f"{name}.nii.gz": known}


def test_the_known_patient_of_just_that_name_comes_first_and_others_stay_others(tmp_path):
    for name in ("patient1_flair", "p1_1_flair", "anna_flair"):
        save(tmp_path / f"{name}.nii")
    assert set(found(tmp_path, known=["Patient001", "patient1", "p11", "ann"]).values()) == {"patient1", "p1", "anna"}


def test_unlabelled_volumes_of_one_patient_whose_name_is_written_in_two_ways(tmp_path):
    for name in ("Patient01_flair", "sub-patient01_ses-02_flair", "patient2_flair", "Patient02_flair"):
        save(tmp_path / f"{name}.nii")
    assert len(set(found(tmp_path).values())) == 2
    table = tmp_path / "patients.csv"  # who says it knows
    table.write_text("file,patient\npatient2_flair,p2\nPatient02_flair,P02\n")
    assert {"p2", "P02"} < set(found(tmp_path, patients=table).values())


def test_other_contrasts_beside_flair_are_left_out_aloud(tmp_path):
    save(tmp_path / "p1" / "flair.nii")
    save(tmp_path / "p1" / "t1.nii")
    save(tmp_path / "p2_scan.nii")
    with pytest.warns(UserWarning, match=r"1 volumes beside ones that are called FLAIR are left out: .*t1\.nii"):
        assert found(tmp_path) == {"p1/flair.nii": "p1", "p2_scan.nii": "p2_scan"}


def test_folders_that_are_links_are_searched_once(tmp_path):
    save(tmp_path / "store" / "a.nii")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "p1").symlink_to(tmp_path / "store")
    (tmp_path / "links" / "round").symlink_to(tmp_path / "links")
    assert found(tmp_path / "links") == {"p1/a.nii": "a"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty must hold volumes, NIfTI files or folders of DICOM files"):
        unlabeled_items(tmp_path / "empty")
