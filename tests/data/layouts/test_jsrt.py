"""JSRT's layouts, halves and what is missing from them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from common.data import load_datalist
from common.data.layouts.jsrt import CLASSES, find_jsrt, jsrt_datalist
from common.data.readers import read_image, read_mask

SIDE = 16


def write_jsrt(root, numbers=range(1, 25), layout="distributed"):
    """Radiographs JPCLN001 and so on in one of the layouts that are found in the wild."""
    for number in numbers:
        rng = np.random.default_rng(number)
        stem = f"JPC{'LN' if number % 3 else 'NN'}{number:03d}"
        stored = rng.integers(0, 4096, (SIDE, SIDE)).astype(np.uint16)
        folder = root if layout == "flat" else root / "All247images"
        folder.mkdir(parents=True, exist_ok=True)
        if layout == "distributed":
            stored.astype(">u2").tofile(folder / f"{stem}.IMG")
        else:
            Image.fromarray(4095 - stored).save(folder / f"{stem}.png")
        for index, name in enumerate(CLASSES):
            if layout == "distributed":
                masks = root / "scratch" / f"fold{2 - number % 2}" / "masks" / name.replace("_", " ")
            else:
                masks = root / "Masks" / name.replace("_", " ").title()
            masks.mkdir(parents=True, exist_ok=True)
            mask = np.zeros((SIDE // 2, SIDE // 2), np.uint8)
            mask[index, : 1 + number % 5] = 255
            Image.fromarray(mask).save(masks / f"{stem}.{'gif' if layout == 'distributed' else 'png'}")
    return root


def test_layouts_hold_the_same_images_and_masks(tmp_path):
    layouts = [write_jsrt(tmp_path / name, layout=name) for name in ("distributed", "converted", "flat")]
    found = [find_jsrt(layout) for layout in layouts]
    assert len(found[0]) == 24
    for items in found[1:]:
        assert [item["patient"] for item in items] == [item["patient"] for item in found[0]]
        for item, other in zip(items, found[0], strict=True):
            np.testing.assert_array_equal(read_image(item["image"]), read_image(other["image"]))
            for mask, other_mask in zip(item["label"], other["label"], strict=True):
                np.testing.assert_array_equal(read_mask(mask), read_mask(other_mask))


def test_masks_come_in_the_order_of_the_classes(tmp_path):
    for item in find_jsrt(write_jsrt(tmp_path)):
        rows = [int(np.flatnonzero(read_mask(file).any(axis=0))[0]) for file in item["label"]]
        assert rows == [0, 1, 2, 3, 4]


def test_odd_numbers_train_and_even_numbers_test(tmp_path):
    datalist = jsrt_datalist(write_jsrt(tmp_path), labeled=3)
    numbers = {
        part: [int(item["patient"][-3:]) for item in datalist[part]]
        for part in ("labeled", "unlabeled", "validation", "test")
    }
    assert sorted(numbers["test"]) == list(range(2, 25, 2))
    assert sorted(numbers["labeled"] + numbers["unlabeled"] + numbers["validation"]) == list(range(1, 25, 2))
    assert [len(numbers[part]) for part in ("labeled", "unlabeled", "validation")] == [3, 4, 5]
    assert all("truth" in item and "label" not in item for item in datalist["unlabeled"])


def test_command_line_form_writes_a_file_and_prints_the_counts(tmp_path, capsys):
    write_jsrt(tmp_path / "data")
    output = tmp_path / "lists" / "split0.json"
    assert jsrt_datalist(tmp_path / "data", output=output) is None
    printed = capsys.readouterr().out
    assert "labeled: 3 images" in printed
    assert str(output) in printed
    loaded, direct = load_datalist(output), jsrt_datalist(tmp_path / "data")
    assert loaded == direct


def test_too_many_labelled_images_are_refused_with_the_number_that_is_possible(tmp_path):
    with pytest.raises(ValueError, match=r"labeled must be at most 7: of 12 patients .* 5 for validation .* got 8"):
        jsrt_datalist(write_jsrt(tmp_path), labeled=8)
    assert len(jsrt_datalist(tmp_path, labeled=7)["unlabeled"]) == 0


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        jsrt_datalist(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="no radiograph named JPCLN001"):
        jsrt_datalist(tmp_path)
    write_jsrt(tmp_path / "bare", numbers=[])
    (tmp_path / "bare" / "All247images").mkdir(parents=True)
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / "bare" / "All247images" / "JPCLN001.png")
    with pytest.raises(FileNotFoundError, match="no SCR masks"):
        jsrt_datalist(tmp_path / "bare")


def test_image_without_mask_and_mask_without_image_name_files_and_counts(tmp_path):
    write_jsrt(tmp_path)
    lost = tmp_path / "scratch" / "fold1" / "masks" / "heart" / "JPCLN005.gif"
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(ValueError, match="1 of 24 images have no heart mask: JPCLN005"):
        jsrt_datalist(tmp_path)
    lost.write_bytes(content)
    for number in (1, 2):
        (tmp_path / "All247images" / f"JPCLN00{number}.IMG").unlink()
    with pytest.raises(ValueError, match=r"2 of 24 right_lung masks have no image: JPCLN001, JPCLN002"):
        jsrt_datalist(tmp_path)


def test_an_image_in_two_formats_is_refused(tmp_path):
    write_jsrt(tmp_path)
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / "All247images" / "JPCLN001.png")
    with pytest.raises(ValueError, match=r"JPCLN001\.IMG.*JPCLN001\.png"):
        jsrt_datalist(tmp_path)


def test_the_phantom_is_read_like_the_real_thing(tmp_path):
    phantom = pytest.importorskip("common.phantoms.jsrt")
    root = phantom.make_jsrt_phantom(tmp_path / "phantom", patients=4, size=64, seed=3)
    items = {item["patient"]: item for item in find_jsrt(root)}
    for index in range(4):
        item = items[phantom.describe_patient(3, index).name]
        image, masks = phantom.render_patient(3, index, 64)
        np.testing.assert_allclose(read_image(item["image"]).T / 4095, image, atol=1 / 4095)
        for name, file in zip(CLASSES, item["label"], strict=True):
            np.testing.assert_array_equal(read_mask(file).T, masks[name])
