"""Splits by patient, nested labelled sets, class coverage, and the datalist's file."""

from __future__ import annotations

import json
import logging
import re
import warnings

import numpy as np
import pytest
from monai.bundle import ConfigParser
from PIL import Image

from common.data.datalist import find_datalist, load_datalist, not_among, save_datalist
from common.data.datalist_rules import validate_datalist
from common.data.splits import classes_present, make_datalist

PARTS = ("labeled", "unlabeled", "validation", "test")


def write_items(folder, patients=20, images_of=lambda patient: 1, present=lambda patient: (0, 1)):
    """Images of invented patients with two mask files each, in which the classes `present` says occur."""
    items = []
    for patient in range(patients):
        for index in range(images_of(patient)):
            name = f"p{patient:02d}_{index}"
            image = folder / f"{name}.png"
            rng = np.random.default_rng(100 * patient + index)
            Image.fromarray(rng.integers(0, 256, (8, 8)).astype(np.uint8)).save(image)
            masks = []
            for j in range(2):
                masks.append(folder / f"{name}_mask{j}.png")
                Image.fromarray(np.eye(8, dtype=np.uint8) * 255 * (j in present(patient))).save(masks[-1])
            items.append({"image": str(image), "label": [str(m) for m in masks], "patient": f"p{patient}"})
    return items


def make(items, **options):
    return make_datalist(items, classes=["a", "b"], mode="multilabel", **options)


def images(datalist, part):
    return {item["image"] for item in datalist[part]}


def test_parts_share_no_patient_and_have_the_sizes_asked_for(tmp_path):
    items = write_items(tmp_path, images_of=lambda patient: 1 + patient % 3)
    for split in range(10):
        datalist = make(items, labeled=4, split=split)
        assert len(datalist["labeled"]) == 4
        assert len(datalist["validation"]) == 5
        patients = {part: {item["patient"] for item in datalist[part]} for part in PARTS}
        assert sum(len(found) for found in patients.values()) == len(set().union(*patients.values())) == 20
        in_test = [item for item in items if item["patient"] in patients["test"]]
        assert images(datalist, "test") == {item["image"] for item in in_test}
        assert datalist["left_out"] == len(items) - 9 - len(in_test)


def test_same_seed_and_split_give_the_same_datalist_and_others_do_not(tmp_path):
    items = write_items(tmp_path)
    assert make(items, seed=1, split=2) == make(list(reversed(items)), seed=1, split=2)
    drawn = {
        tuple(sorted(images(make(items, seed=seed, split=split), "labeled"))) for seed in (0, 1) for split in (0, 1)
    }
    assert len(drawn) == 4


def test_labelled_sets_are_nested_and_validation_and_test_do_not_depend_on_their_number(tmp_path):
    items = write_items(tmp_path, patients=30, present=lambda patient: (0, 1) if patient % 5 == 0 else (0,))
    for split in range(5):
        lists = [make(items, labeled=number, test=6, split=split) for number in (3, 6, 12)]
        small, middle, large = (images(datalist, "labeled") for datalist in lists)
        assert small < middle < large
        for other in lists[1:]:
            assert other["validation"] == lists[0]["validation"]
            assert other["test"] == lists[0]["test"]
        assert images(lists[0], "unlabeled") > images(lists[2], "unlabeled")


def test_every_class_occurs_among_the_labelled_images(tmp_path):
    items = write_items(tmp_path, present=lambda patient: {7: (1,), 11: (1,)}.get(patient, (0,)))
    for split in range(20):
        labels = [item["label"] for item in make(items, labeled=2, split=split)["labeled"]]
        assert set().union(*(classes_present(label, 2) for label in labels)) == {0, 1}


def test_requests_that_cannot_be_met_say_what_can(tmp_path):
    items = write_items(tmp_path, present=lambda patient: (patient % 2,))
    with pytest.raises(ValueError, match=r"labeled must be at most 14: of 20 patients .* at least 1 for test.*got 15"):
        make(items, labeled=15)
    with pytest.raises(ValueError, match=r"labeled must be at most 11.* 4 for test"):
        make(items, labeled=12, test=4)
    with pytest.raises(ValueError, match=r"labeled must be at least 2 for every class.*leaves out [ab]"):
        make(items, labeled=1)
    bare = write_items(tmp_path, present=lambda patient: (0,))
    with pytest.raises(ValueError, match="got none with b in 20 images"):
        make(bare)
    for name in ("labeled", "validation", "split", "seed"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number"):
            make(items, **{name: -1})


def test_unlabelled_images_of_a_labelled_patient_are_left_out(tmp_path):
    items = write_items(tmp_path)
    free = [{"image": "x.png", "patient": "p3"}, {"image": "y.png", "patient": "new"}]
    datalist = make(items, unlabeled=free)
    assert datalist["unlabeled"] == [free[1]]
    assert datalist["left_out"] == 1


def test_file_holds_relative_paths_and_is_found_again_after_a_move(tmp_path):
    data = tmp_path / "set" / "data"
    data.mkdir(parents=True)
    datalist = make(write_items(data), test=4)
    save_datalist(datalist, tmp_path / "set" / "lists" / "a.json")
    content = json.loads((tmp_path / "set" / "lists" / "a.json").read_text())
    assert content["labeled"][0]["image"].startswith("../data/p")
    assert list((tmp_path / "set" / "lists").iterdir()) == [tmp_path / "set" / "lists" / "a.json"]
    assert load_datalist(tmp_path / "set" / "lists" / "a.json") == datalist
    (tmp_path / "set").rename(tmp_path / "moved")
    moved = load_datalist(tmp_path / "moved" / "lists" / "a.json")
    assert moved["labeled"][0]["image"] == datalist["labeled"][0]["image"].replace("/set/", "/moved/")
    (tmp_path / "moved" / "lists" / "a.json").rename(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match=r"a\.json: 60 of its files are missing: .*p\d\d_0\.png.* and 55 more"):
        load_datalist(tmp_path / "a.json")


def test_links_keep_their_own_name(tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    items = write_items(store)
    (tmp_path / "links").mkdir()
    for item in items:
        link = tmp_path / "links" / f"{item['patient']}.png"
        link.symlink_to(item["image"])
        item["image"] = str(link)
    save_datalist(make(items), tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["labeled"][0]["image"].startswith("links/p")


def spoil_patient(datalist):
    datalist["test"][0]["patient"] = datalist["labeled"][0]["patient"]


def spoil_image(datalist):
    datalist["unlabeled"].append({**datalist["test"][0], "patient": "another"})


def spoil_twice(datalist):
    datalist["test"].append(datalist["test"][0])


def spoil_label(datalist):
    datalist["validation"][1]["label"] = datalist["validation"][1]["label"][:1]


def spoil_no_label(datalist):
    del datalist["labeled"][2]["label"]


def spoil_mode(datalist):
    datalist["mode"] = "softmax"


SPOILED = [
    (spoil_patient, "'labeled' and 'test' must not share a patient, got 1 in both: p"),
    (spoil_image, "'unlabeled' and 'test' must not share an image, got 1"),
    (spoil_twice, "1 images occur twice"),
    (spoil_label, "'validation' item 1 .*'label' must be a list of 2 masks"),
    (spoil_no_label, "'labeled' item 2 .*must have a 'label'"),
    (spoil_mode, "'mode' must be one of"),
]


@pytest.mark.parametrize(("spoil", "message"), SPOILED)
def test_unsound_datalists_are_refused_on_saving_and_on_loading(tmp_path, spoil, message):
    path = save_datalist(make(write_items(tmp_path)), tmp_path / "a.json")
    datalist = json.loads(path.read_text())
    spoil(datalist)
    with pytest.raises(ValueError, match=message):
        save_datalist(datalist, tmp_path / "b.json")
    assert not (tmp_path / "b.json").exists()
    path.write_text(json.dumps(datalist))
    with pytest.raises(ValueError, match=rf"a\.json: .*{message}"):
        load_datalist(path)


def test_files_that_are_no_datalist_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        load_datalist(tmp_path / "absent.json")
    (tmp_path / "half.json").write_text('{"classes": [')
    with pytest.raises(ValueError, match=r"half\.json must be valid JSON, got .*: make the datalist again"):
        load_datalist(tmp_path / "half.json")
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"list\.json: a datalist must be an object"):
        load_datalist(tmp_path / "list.json")


def test_find_datalist_prefers_the_given_file_then_the_folder_s(tmp_path, caplog):
    items = write_items(tmp_path)
    first = save_datalist(make(items, split=0), tmp_path / "datalist.json")
    second = save_datalist(make(items, split=1), tmp_path / "other.json")
    assert find_datalist(tmp_path) == load_datalist(first)
    assert find_datalist(tmp_path, "other.json") == find_datalist(None, second) == load_datalist(second)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        find_datalist(tmp_path, split=4)
    assert "split=4 is not applied" in caplog.text
    with pytest.raises(FileNotFoundError, match="dataset_dir must be a folder"):
        find_datalist(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="no radiograph"):
        find_datalist(write_empty(tmp_path))


def write_empty(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": ["NA"]}, "a class must not be called"),
        ({"classes": "a"}, "'classes' must be a list with at least one name, got 'a'"),
        ({"classes": ["Lung", "lung"], "mode": "multilabel"}, "'classes' must differ .* not in case alone"),
        ({"evaluation_classes": ["../../x"], "mode": "multilabel"}, "a class must have a name that can be a file's"),
        ({"split": "abc"}, "'split' must be a whole number from 0, got 'abc'"),
        ({"split": -1}, "'split' must be a whole number from 0"),
        ({"seed": None}, "'seed' must be a whole number from 0"),
        ({"name": 5}, "'name' must be a text, got 5"),
        ({"test": [{"image": "w.mhd", "label": "m.mhd", "patient": " "}]}, "with an 'image' and a 'patient'"),
        ({"test": [{"image": "w.mhd", "label": "m.mhd", "patient": True}]}, "with an 'image' and a 'patient'"),
        ({"test": [{"image": "", "label": "m.mhd", "patient": "q"}]}, "with an 'image' and a 'patient'"),
        ({"test": [{"image": "w.mhd", "label": "", "patient": "q"}]}, "'label' must be one label map"),
        ({"test": [{"image": "w.mhd", "label": [5], "patient": "q"}], "mode": "multilabel"}, r"1 masks .*got \[5\]"),
        ({"test": [{"image": "w.mhd", "label": "w.mhd", "patient": "q"}]}, "got w.mhd, which is an image"),
        ({"test": [{"image": "w.mhd", "label": "./v.mhd", "patient": "q"}]}, "got ./v.mhd, which is an image"),
    ],
)
def test_what_a_training_or_a_report_would_stumble_over_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        validate_datalist(sliced(**changes))


def sliced(**changes):
    """Two labelled slices of a volume that is unlabelled, too."""
    labeled = [{"image": "v.mhd", "label": "l.mhd", "patient": "p", "slice": place} for place in (3, 5)]
    unlabeled = [{"image": "v.mhd", "truth": "l.mhd", "patient": "p"}]
    whole = {"image": "w.mhd", "label": "m.mhd", "patient": "q"}
    return {
        "classes": ["a"],
        "mode": "multiclass",
        "labeled": labeled,
        "unlabeled": unlabeled,
        "test": [whole],
    } | changes


def test_slices_may_be_labelled_of_a_volume_that_is_unlabelled():
    validate_datalist(sliced())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"labeled": [{"image": "v.mhd", "label": "l.mhd", "patient": "p"}]},
            "'labeled' and 'unlabeled' must not share",
        ),
        ({"labeled": [{"image": "v.mhd", "label": "l.mhd", "patient": "p", "slice": 3}] * 2}, "v.mhd slice 3"),
        (
            {
                "labeled": [{"image": "v.mhd", "label": "l.mhd", "patient": "p"}, sliced()["labeled"][0]],
                "unlabeled": [],
            },
            "1 images occur twice: v.mhd",
        ),
        (
            {"labeled": [{"image": "w.mhd", "label": "m.mhd", "patient": "q", "slice": 3}]},
            "'labeled' and 'test' must not",
        ),
        (
            {"labeled": [{"image": "v.mhd", "label": "l.mhd", "patient": "p", "slice": -1}]},
            "a whole number from 0, got -1",
        ),
        ({"labeled": [{"image": "v.mhd", "label": "l.mhd", "patient": "p", "slice": True}]}, "from 0, got True"),
        (
            {"test": [{"image": "w.mhd", "label": "m.mhd", "patient": "q", "slice": 1}]},
            "'test' item 0 .* a whole volume",
        ),
    ],
)
def test_slices_that_leak_or_are_none_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        validate_datalist(sliced(**changes))


def test_volume_of_a_labelled_slice_stays_among_the_unlabelled_ones():
    datalist = sliced()
    assert not_among(datalist["unlabeled"], datalist["labeled"] + datalist["test"]) == datalist["unlabeled"]
    assert not_among(datalist["unlabeled"], datalist["unlabeled"]) == []


def test_names_that_look_like_expressions_are_names_of_files(tmp_path, monkeypatch):
    """MONAI evaluates texts of a configuration that begin with $; names of a datalist are whole paths."""
    name = "$__import__('os').mkdir('made')"
    for file in (f"{name}.png", "mask.png"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / file)
    item = {"image": f"{name}.png", "patient": "1", "label": ["mask.png"]}
    content = {"classes": ["lung"], "mode": "multilabel", "labeled": [item]}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    parser = ConfigParser({"items": "$@data['labeled']", "data": find_datalist(".")})
    assert parser.get_parsed_content("items")[0]["image"] == str(tmp_path / f"{name}.png")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("mine", "other"),
    [("case1", " Case 01"), ("Patient01_flair", "sub-patient01_flair"), ("7", "007"), ("TCGA-CS-4941", "tcga_cs_4941")],
)
def test_patients_of_two_parts_with_nearly_one_name_are_warned_of(tmp_path, mine, other):
    datalist = make(write_items(tmp_path))
    datalist["labeled"][0]["patient"], datalist["test"][0]["patient"] = mine, other
    message = (
        rf"1 patients of different parts may be one.*{re.escape(repr(mine))} \(labeled\) and {other.strip()!r} \(te"
    )
    with pytest.warns(UserWarning, match=message):
        validate_datalist(datalist)


def test_other_names_are_other_patients_and_one_name_is_one(tmp_path):
    datalist = make(write_items(tmp_path))
    datalist["labeled"][0]["patient"], datalist["test"][0]["patient"] = "p1_1", "p11"
    datalist["labeled"][1]["patient"], datalist["test"][1]["patient"] = "q 1 - 2", "q12"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        validate_datalist(datalist)
    datalist["labeled"][0]["patient"], datalist["test"][0]["patient"] = 7, "7 "
    with pytest.raises(ValueError, match="'labeled' and 'test' must not share a patient, got 1 in both: 7"):
        validate_datalist(datalist)


def test_names_of_files_that_are_no_utf_8_are_named(tmp_path):
    datalist = sliced(test=[{"image": "w\udce9.mhd", "label": "m.mhd", "patient": "q"}])
    with pytest.raises(ValueError, match=r"list\.json: files must have names in UTF-8, got .*w.udce9.*: rename"):
        save_datalist(datalist, tmp_path / "list.json")
    assert not list(tmp_path.iterdir())
