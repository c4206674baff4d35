"""Any folder: masks, label maps, patients, unlabelled images."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from common.data.datalist import load_datalist
from common.data.folder import folder_datalist
from common.data.patients import read_patients
from common.data.readers import read_label

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "cxr_lungs"
STEMS = [f"scan.{index}-a" for index in range(12)]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".nii.gz"):
        nibabel.Nifti1Image(array.T[..., None].astype(np.float32), np.eye(4)).to_filename(path)
    else:
        Image.fromarray(array.astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    for index, stem in enumerate(STEMS):
        rng = np.random.default_rng(index)
        save(tmp_path / "images" / f"{stem}.nii.gz", rng.integers(0, 256, (6, 8)))
        left, right = np.zeros((6, 8)), np.zeros((6, 8))
        left[1, 2], right[2, 5] = 1, 1
        save(tmp_path / "left" / f"{stem}.png", left * 255)
        save(tmp_path / "right" / f"{stem}.png", right * 255)
        save(tmp_path / "labels" / f"{stem}.nii.gz", left + 2 * right)
        save(tmp_path / "unlabeled" / f"new{index}.png", rng.integers(0, 256, (6, 8)))
    lines = [f"{stem}.nii.gz;P{index // 2}" for index, stem in enumerate(STEMS)]
    (tmp_path / "patients.csv").write_text("\n".join(["File name;Subject", *lines]) + "\n", encoding="utf-8-sig")
    return tmp_path


def masks(folder):
    return {"left": str(folder / "left"), "right": str(folder / "right")}


@pytest.mark.filterwarnings("ignore:without a CSV")
def test_masks_make_a_multilabel_datalist(folder):
    datalist = folder_datalist(folder / "images", masks=masks(folder), unlabeled=folder / "unlabeled")
    assert datalist["mode"] == "multilabel"
    assert datalist["classes"] == ["left", "right"]
    assert [len(datalist[part]) for part in ("labeled", "validation", "test", "unlabeled")] == [3, 5, 4, 12]
    for item in datalist["labeled"]:
        stem = Path(item["image"]).name.removesuffix(".nii.gz")
        assert item["label"] == [str(folder / name / f"{stem}.png") for name in ("left", "right")]
        assert item["patient"] == stem


@pytest.mark.filterwarnings("ignore:without a CSV")
@pytest.mark.parametrize("quote", ["'", '"', ""])
def test_masks_may_be_text_as_a_command_line_passes_them(folder, quote):
    text = f"{{{quote}left{quote}: {folder}/left, {quote}right{quote}: {quote}{folder}/right{quote}}}"
    assert folder_datalist(folder / "images", masks=text) == folder_datalist(folder / "images", masks=masks(folder))


@pytest.mark.filterwarnings("ignore:without a CSV")
def test_label_maps_make_a_multiclass_datalist(folder):
    named = folder_datalist(folder / "images", labels=folder / "labels", classes=["left", "right"])
    counted = folder_datalist(folder / "images", labels=folder / "labels")
    assert named["mode"] == counted["mode"] == "multiclass"
    assert named["classes"] == ["left", "right"]
    assert counted["classes"] == ["class_1", "class_2"]
    assert set(np.unique(read_label(counted["labeled"][0]["label"]))) == {0, 1, 2}
    overlapping = folder_datalist(folder / "images", labels=folder / "labels", mode="multilabel")
    assert overlapping["mode"] == "multilabel"


def test_patients_of_the_csv_stay_together(folder):
    datalist = folder_datalist(
        folder / "images", masks=masks(folder), patients=folder / "patients.csv", labeled=2, validation=2
    )
    patients = {part: {item["patient"] for item in datalist[part]} for part in ("labeled", "validation", "test")}
    assert [len(found) for found in patients.values()] == [2, 2, 2]
    assert len(set().union(*patients.values())) == 6
    assert len(datalist["test"]) == 4  # both images of each patient


def test_without_a_csv_a_warning_says_what_that_means(folder):
    with pytest.warns(UserWarning, match="each image counts as a patient of its own"):
        folder_datalist(folder / "images", masks=masks(folder))


def test_unlabelled_images_called_as_annotated_ones_are_left_out_with_a_warning(folder):
    for name in (f"{STEMS[0]}.png", f"{STEMS[1].upper()}.png"):
        save(folder / "unlabeled" / name, np.eye(8))
    with pytest.warns(UserWarning, match=rf"2 of 14 images without a label are called as .*: .*{STEMS[0]}"):
        datalist = folder_datalist(folder / "images", masks(folder), unlabeled=folder / "unlabeled")
    assert sum(Path(item["image"]).stem.startswith("new") for item in datalist["unlabeled"]) == 12
    assert not any(item["image"].endswith("-a.png") for item in datalist["unlabeled"])


def test_command_line_form_writes_a_file(folder, capsys):
    options = {"masks": masks(folder), "patients": folder / "patients.csv", "labeled": 1, "validation": 2}
    assert folder_datalist(folder / "images", output=folder / "a.json", **options) is None
    assert "test: 6 images of 3 patients" in capsys.readouterr().out
    assert load_datalist(folder / "a.json") == folder_datalist(folder / "images", **options)


@pytest.mark.filterwarnings("ignore:without a CSV")
def test_unpaired_files_missing_and_empty_folders(folder):
    (folder / "right" / f"{STEMS[4]}.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 12 images have no right mask: scan\.4-a"):
        folder_datalist(folder / "images", masks=masks(folder))
    (folder / "images" / f"{STEMS[4]}.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"1 of 12 files have no image: scan\.4-a"):
        folder_datalist(folder / "images", masks=masks(folder))
    with pytest.raises(FileNotFoundError, match="absent"):
        folder_datalist(folder / "absent", masks=masks(folder))
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"images must be a folder with images, got .*empty"):
        folder_datalist(folder / "empty", masks=masks(folder))


@pytest.mark.filterwarnings("ignore:without a CSV")
def test_arguments_that_do_not_fit_are_refused(folder):
    images = folder / "images"
    with pytest.raises(ValueError, match=r"either masks .* or labels"):
        folder_datalist(images)
    with pytest.raises(ValueError, match="masks must be written as"):
        folder_datalist(images, masks=str(folder / "left"))
    with pytest.raises(ValueError, match="masks must be written as"):
        folder_datalist(images, masks={})
    with pytest.raises(ValueError, match="mode must be multilabel"):
        folder_datalist(images, masks=masks(folder), mode="multiclass")
    for stem in STEMS:
        save(folder / "binary" / f"{stem}.png", np.eye(6, 8) * 255)
    with pytest.raises(ValueError, match=r"got values \[0, 255\].*give 0/255 masks by masks="):
        folder_datalist(images, labels=folder / "binary")
    with pytest.raises(
        ValueError, match=r"a label map of 2 classes must hold values 0 to 2, got \[255\]. Is it a mask"
    ):
        folder_datalist(images, labels=folder / "binary", classes=["left", "right"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": -1}, "test must be a whole number of at least 0, got -1"),
        ({"test": "abc"}, "test must be a whole number of at least 0, got 'abc'"),
        ({"test": 2.5}, "test must be a whole number of at least 0, got 2.5"),
        ({"classes": 5}, "classes must be a list with at least one name, got 5"),
        ({"classes": {"a": 1}}, "classes must be a list with at least one name"),
        ({"classes": ["left", "Left"]}, "classes must differ .*, and not in case alone"),
        ({"classes": "NA,b"}, "a class must not be called"),
        ({"name": ""}, "'name' must be a text"),
    ],
)
@pytest.mark.filterwarnings("ignore:without a CSV")
def test_numbers_and_names_that_are_none_are_refused(folder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        folder_datalist(folder / "images", labels=folder / "labels", output=tmp_path / "list.json", **options)
    assert not (tmp_path / "list.json").exists()


@pytest.mark.filterwarnings("ignore:without a CSV")
@pytest.mark.parametrize("classes", ["01,02", "[01, 02]", "['01', '02']", ["01", "02"]])
def test_classes_as_a_command_line_passes_them(folder, classes):
    assert folder_datalist(folder / "images", labels=folder / "labels", classes=classes)["classes"] == ["01", "02"]


@pytest.mark.parametrize("name", ["NA", "", "../../x", "a/b", "mean", "all"])
def test_names_of_mask_folders_are_class_names(folder, name):
    with pytest.raises(ValueError, match="a class must "):
        folder_datalist(folder / "images", masks={name: folder / "left"})
    with pytest.raises(ValueError, match="the classes of masks must differ"):
        folder_datalist(folder / "images", masks={"left": folder / "left", "Left": folder / "right"})


@pytest.mark.filterwarnings("ignore:without a CSV")
def test_one_folder_for_two_classes_is_refused(folder):
    with pytest.raises(ValueError, match=r"\.png: each class must have a mask of its own, got this one for 2 classes"):
        folder_datalist(folder / "images", masks={"left": folder / "left", "right": folder / "left"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,patient\na,1\n".encode("utf-16"), "must be text in UTF-8, got other bytes .*: save it as CSV in UTF-8"),
        ("image,patient\na,1\n".encode("utf-16-le"), "must be text in UTF-8, got .* bytes of zero"),
        ("image,patient\n\u00e4,1\n".encode("latin-1"), "must be text in UTF-8"),
        (b"image,patient\na," + b"x" * 200000 + b"\n", r"the CSV must be a table, got field larger than field limit"),
        (b'image,patient\n"a,1\nb,2\n', "line 2: image and patient must be filled"),
        (b"", r"must have a column image .* got \[\]"),
    ],
)
def test_a_damaged_csv_of_patients_is_named(tmp_path, content, message):
    (tmp_path / "p.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"p\.csv.* {message}"):
        read_patients(tmp_path / "p.csv")


def test_csv_of_patients(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("image,patient_id\nfolder/a.nii.gz,1\nb,2\n")
    assert read_patients(path) == {"a": "1", "b": "2"}
    for content, message in (
        ("name,age\na,3\n", r"must have a column image .* got \['name', 'age'\]"),
        ("image,patient\na,1\na,2\n", "line 3: 'a' must have one patient, got 1, 2"),
        ("image,patient\na,\n", "line 2: image and patient must be filled"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_patients(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.csv"):
        read_patients(tmp_path / "absent.csv")


def test_an_image_that_the_csv_misses_is_named(folder):
    text = (folder / "patients.csv").read_text(encoding="utf-8-sig").splitlines()
    (folder / "patients.csv").write_text("\n".join(line for line in text if "scan.7-a" not in line))
    with pytest.raises(ValueError, match=r"1 of 12 images are not named there: scan\.7-a"):
        folder_datalist(folder / "images", masks=masks(folder), patients=folder / "patients.csv")


def test_the_csv_names_all_images_without_a_label_or_none(folder):
    options = {"masks": masks(folder), "unlabeled": folder / "unlabeled", "patients": folder / "patients.csv"}
    options |= {"labeled": 2, "validation": 2}
    assert len(folder_datalist(folder / "images", **options)["unlabeled"]) == 12
    with (folder / "patients.csv").open("a") as file:
        file.write("".join(f"new{index}.png;N{index}\n" for index in range(11)))
    with pytest.raises(
        ValueError, match=r"1 of 12 images without a label are not named there, others are: new11\. Add"
    ):
        folder_datalist(folder / "images", **options)


@pytest.mark.filterwarnings("ignore:without a CSV")
def test_names_that_are_written_otherwise_are_of_one_patient(folder):
    """An image without a label of one who is tested on is left out."""
    tested = folder_datalist(folder / "images", masks=masks(folder))["test"][0]["patient"]
    number = tested.removeprefix("scan.").removesuffix("-a")
    (folder / "unlabeled" / "new0.png").rename(folder / "unlabeled" / f"sub-Scan-0{number} A.png")
    datalist = folder_datalist(folder / "images", masks=masks(folder), unlabeled=folder / "unlabeled")
    assert len(datalist["unlabeled"]) == 11
    assert datalist["left_out"] == 1


@pytest.mark.skipif(not REAL.is_dir(), reason="the real radiographs (../shared/data/cxr_lungs) are not here")
def test_real_radiographs():
    datalist = folder_datalist(
        REAL / "images",
        masks={"right_lung": REAL / "masks" / "right_lung", "left_lung": REAL / "masks" / "left_lung"},
        unlabeled=REAL / "unlabeled",
        patients=REAL / "images.csv",
        labeled=3,
    )
    assert [len(datalist[part]) for part in ("labeled", "validation", "unlabeled")] == [3, 5, 120]
    assert len({item["patient"] for item in datalist["test"]}) == 13
    total = sum(len(datalist[part]) for part in ("labeled", "validation", "test"))
    assert total + datalist["left_out"] == 34
