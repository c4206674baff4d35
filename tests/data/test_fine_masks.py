"""Datalists that train on fine classes and are evaluated by JSRT's five."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from common.data import folder_datalist, jsrt_datalist, load_datalist, save_datalist
from common.data.check import check
from common.data.datalist_rules import label_classes
from common.data.layouts.jsrt import CLASSES
from common.phantoms.fine import FINE_CLASSES
from common.phantoms.jsrt import make_jsrt_phantom


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return make_jsrt_phantom(tmp_path_factory.mktemp("fine") / "jsrt", patients=20, size=64, seed=0, fine=True)


@pytest.fixture
def copy(phantom, tmp_path):
    """A copy of the phantom, with fine masks of the given patients alone."""

    def make(*patients: str) -> Path:
        folder = Path(shutil.copytree(phantom, tmp_path / "copy"))
        for file in (folder / "fine").glob("*/*.png"):
            if file.stem not in patients:
                file.unlink()
        return folder

    return make


def names(items):
    return [item["patient"] for item in items]


@pytest.mark.parametrize("split", [0, 1])
def test_the_parts_are_those_of_the_five_classes(phantom, split):
    fine, plain = (jsrt_datalist(phantom, labeled=2, split=split, fine=value) for value in (True, False))
    assert fine["classes"] == list(FINE_CLASSES)
    assert fine["evaluation_classes"] == list(CLASSES)
    assert names(fine["labeled"]) == names(plain["labeled"])
    for part in ("unlabeled", "validation", "test"):
        assert fine[part] == plain[part]
    for item in fine["labeled"]:
        assert [Path(file).parent.name for file in item["label"]] == list(FINE_CLASSES)
        assert {Path(file).stem for file in item["label"]} == {item["patient"]}
        assert "evaluation" not in item


def test_a_file_holds_the_same(phantom, tmp_path, capsys):
    assert jsrt_datalist(phantom, labeled=2, fine=True, output=tmp_path / "fine.json") is None
    printed = capsys.readouterr().out
    assert "classes 71: aortic_arch" in printed
    assert "evaluated: right_lung, left_lung" in printed
    assert load_datalist(tmp_path / "fine.json") == jsrt_datalist(phantom, labeled=2, fine=True)
    check(tmp_path / "fine.json")
    assert "0 errors, 0 warnings" in capsys.readouterr().out


def test_only_some_images_have_fine_masks(phantom, copy):
    """As the paper has them: those are labelled, and the others take part without."""
    odd = names(jsrt_datalist(phantom)["unlabeled"])[:2]
    datalist = jsrt_datalist(copy(*odd), labeled=2, fine=True)
    assert sorted(names(datalist["labeled"])) == sorted(odd)
    assert (len(datalist["unlabeled"]), len(datalist["validation"]), len(datalist["test"])) == (3, 5, 10)
    assert all(len(item["truth"]) == len(CLASSES) for item in datalist["unlabeled"])
    with pytest.raises(ValueError, match="labeled must be at most 2, the number of patients that have masks of"):
        jsrt_datalist(copy_of(datalist), labeled=3, fine=True)


def copy_of(datalist):
    """The folder that a datalist was made of."""
    return Path(datalist["labeled"][0]["image"]).parents[1]


def test_validation_does_not_depend_on_the_number_of_labelled_images(phantom):
    parts = [jsrt_datalist(phantom, labeled=number, fine=True)["validation"] for number in (1, 2, 3)]
    assert parts[0] == parts[1] == parts[2]


def test_bad_folders(phantom, copy, tmp_path):
    folder = copy("JPCLN001", "JPCLN003")
    (folder / "fine" / "trachea" / "JPCLN003.png").unlink()
    with pytest.raises(ValueError, match=r"trachea: it must hold masks of the same images .* got none of JPCLN003"):
        jsrt_datalist(folder, labeled=1, fine=True)
    for file in (folder / "fine").glob("*/JPCLN003.png"):
        file.rename(file.with_name("other.png"))
    (folder / "fine" / "trachea" / "other.png").write_bytes(b"")
    with pytest.raises(ValueError, match="each mask must have the file name of its image, got 1 without one: OTHER"):
        jsrt_datalist(folder, labeled=1, fine=True)
    for file in (folder / "fine").glob("*/*.png"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="fine: it must hold a folder of masks for each fine class"):
        jsrt_datalist(folder, labeled=1, fine=True)
    shutil.rmtree(folder / "fine")
    with pytest.raises(FileNotFoundError, match="phantom jsrt DIR --fine"):
        jsrt_datalist(folder, labeled=1, fine=True)


def test_every_class_occurs_among_the_labelled_images(phantom, copy):
    """Where a mask is empty in some, others are labelled."""
    from PIL import Image

    odd = names(jsrt_datalist(phantom, fine=True)["labeled"])
    folder = copy(*odd)
    for patient in odd[:2]:
        Image.new("L", (64, 64)).save(folder / "fine" / "trachea" / f"{patient}.png")
    assert odd[2] in names(jsrt_datalist(folder, labeled=2, fine=True)["labeled"])
    Image.new("L", (64, 64)).save(folder / "fine" / "trachea" / f"{odd[2]}.png")
    with pytest.raises(ValueError, match="every class must occur among the labelled images, got none with trachea"):
        jsrt_datalist(folder, labeled=2, fine=True)


def test_the_labels_of_a_part_must_be_of_its_classes(phantom, tmp_path):
    datalist = jsrt_datalist(phantom, labeled=2, fine=True)
    assert label_classes(datalist, "labeled") == list(FINE_CLASSES)
    assert label_classes(datalist, "test") == list(CLASSES)
    datalist["labeled"][0]["label"] = datalist["test"][0]["label"]
    with pytest.raises(ValueError, match=r"'labeled' item 0 .* must be a list of 71 masks"):
        save_datalist(datalist, tmp_path / "bad.json")
    datalist["labeled"][0]["label"] = "map.png"
    with pytest.raises(ValueError, match="must be a list of 71 masks, got"):
        save_datalist(datalist, tmp_path / "bad.json")
    with pytest.raises(ValueError, match="with 'evaluation_classes' must be multilabel, got multiclass"):
        save_datalist({**datalist, "mode": "multiclass"}, tmp_path / "bad.json")


def test_the_folder_route_reads_the_masks_too(phantom):
    masks = {name: phantom / "fine" / name for name in FINE_CLASSES}
    datalist = folder_datalist(phantom / "All247images", masks=masks, labeled=2, validation=2)
    assert datalist["classes"] == list(FINE_CLASSES)
    assert "evaluation_classes" not in datalist
    assert len(datalist["test"][0]["label"]) == len(FINE_CLASSES)
