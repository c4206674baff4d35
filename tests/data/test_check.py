"""What the check of a datalist finds, problem by problem."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from PIL import Image

from common.data.check import check, require_sound_datalist
from common.data.datalist import load_datalist, read_datalist, save_datalist
from common.data.inspection import inspect_datalist

SHAPE = (12, 16)


def write_png(path, array):
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return str(path)


def write_item(folder, name, label=True):
    rng = np.random.default_rng(sum(map(ord, name)))
    item = {"image": write_png(folder / f"{name}.png", rng.integers(1, 255, SHAPE)), "patient": name}
    if label:
        item["label"] = []
        for index in range(2):
            mask = np.zeros(SHAPE)
            mask[2 + 4 * index : 4 + 4 * index, 3:9] = 255
            item["label"].append(write_png(folder / f"{name}_{index}.png", mask))
    return item


@pytest.fixture
def datalist(tmp_path):
    made = {"name": "made", "mode": "multilabel", "classes": ["spot", "band"], "seed": 0, "split": 0}
    made["labeled"] = [write_item(tmp_path, f"labeled{index}") for index in range(3)]
    made["unlabeled"] = [write_item(tmp_path, f"free{index}", label=False) for index in range(2)]
    made["validation"] = [write_item(tmp_path, "validation0")]
    made["test"] = [write_item(tmp_path, "test0")]
    save_datalist(made, tmp_path / "list.json")
    return made


def failing(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        check(tmp_path / "list.json")
    assert stop.value.code not in (0, None)
    return capsys.readouterr().out


def test_sound_data_passes_with_sizes_and_pixel_counts(tmp_path, datalist, capsys):
    assert check(tmp_path / "list.json") is None
    printed = capsys.readouterr().out
    assert "16 x 12" in printed
    assert "0 errors, 0 warnings" in printed
    require_sound_datalist(load_datalist(tmp_path / "list.json"))
    found = inspect_datalist(load_datalist(tmp_path / "list.json"))
    labeled = found.classes[found.classes["part"] == "labeled"]
    assert labeled["pixels"].tolist() == ["36", "36"]  # 3 images of 2 x 6
    assert labeled["mean share"].tolist() == ["6.25 %", "6.25 %"]
    assert found.parts["images"].tolist() == [3, 2, 1, 1]


def test_unreadable_missing_nan_and_constant_files(tmp_path, datalist, capsys):
    image = tmp_path / "free0.png"
    image.write_bytes(image.read_bytes()[:60])
    (tmp_path / "test0_1.png").unlink()
    write_png(tmp_path / "free1.png", np.full(SHAPE, 3))
    values = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    values[0, 0] = np.nan
    nibabel.Nifti1Image(values.T, np.eye(4)).to_filename(tmp_path / "nan.nii.gz")
    datalist["unlabeled"].append({"image": str(tmp_path / "nan.nii.gz"), "patient": "nan"})
    save_datalist(datalist, tmp_path / "list.json")
    printed = failing(tmp_path, capsys)
    for expected in ("free0.png: the file cannot be decoded", "test0_1.png: there is no such file"):
        assert expected in printed
    assert "free1.png: an image must hold several values, got 3 everywhere" in printed
    assert "nan.nii.gz: an image must hold finite values" in printed
    assert "4 errors" in printed
    with pytest.raises(ValueError, match=r"got 4 errors: .*free0\.png"):
        require_sound_datalist(read_datalist(tmp_path / "list.json"))


def test_label_of_another_shape_fails_and_of_another_scale_is_noted(tmp_path, datalist, capsys):
    for index in range(2):
        write_png(tmp_path / f"test0_{index}.png", np.kron(np.eye(6, 8), np.ones((4, 4))))
    check(tmp_path / "list.json")
    assert "note: test: 1 labels will be scaled" in capsys.readouterr().out
    for index in range(2):
        write_png(tmp_path / f"test0_{index}.png", np.eye(16, 12))
    printed = failing(tmp_path, capsys)
    assert "must have one size or shape, got (16, 12) and (12, 16)" in printed


def test_values_outside_the_classes(tmp_path, datalist, capsys):
    datalist["labeled"][0]["label"] = write_png(tmp_path / "map.png", np.eye(*SHAPE) * 3)
    save_datalist(datalist, tmp_path / "list.json")
    assert "map.png: a label map of 2 classes" in failing(tmp_path, capsys)


def test_empty_masks_warn_and_an_unlabelled_class_fails(tmp_path, datalist, capsys):
    write_png(tmp_path / "labeled1_1.png", np.zeros(SHAPE))
    check(tmp_path / "list.json")
    printed = capsys.readouterr().out
    assert "warning: labeled: 1 of 3 labels hold no band: labeled1.png" in printed
    for index in range(3):
        write_png(tmp_path / f"labeled{index}_1.png", np.zeros(SHAPE))
    assert "error: labeled: no image holds band" in failing(tmp_path, capsys)


def test_slices_without_the_class_are_noted_where_their_patients_show_it(tmp_path, datalist, capsys):
    write_png(tmp_path / "labeled1_1.png", np.zeros(SHAPE))
    datalist["labeled"][1]["patient"] = datalist["labeled"][0]["patient"]
    save_datalist(datalist, tmp_path / "list.json")
    check(tmp_path / "list.json")
    printed = capsys.readouterr().out
    assert "note: labeled: 1 of 3 labels hold no band; others of the same patients do." in printed
    assert "0 errors, 0 warnings" in printed
    write_png(tmp_path / "labeled2_1.png", np.zeros(SHAPE))  # of another patient, who shows none
    check(tmp_path / "list.json")
    assert "warning: labeled: 2 of 3 labels hold no band: labeled1.png, labeled2.png" in capsys.readouterr().out


def test_channels_that_differ_are_noted(tmp_path, datalist, capsys):
    """As of three contrasts in a picture; not of grey stored as colour."""
    images = [np.asarray(Image.open(item["image"])) for item in datalist["labeled"]]
    contrasts = np.stack([images[0], images[0] // 2, np.full_like(images[0], 7)], axis=-1)
    for index, channels in enumerate((contrasts, np.stack([images[1]] * 3, axis=-1))):
        Image.fromarray(channels).save(datalist["labeled"][index]["image"])
    check(tmp_path / "list.json")
    printed = capsys.readouterr().out
    assert "note: labeled: 1 images have channels that differ. Grey values are of all together" in printed
    assert "note: labeled: 1 images have a channel of one value: labeled0.png." in printed
    assert "0 errors, 0 warnings" in printed
    assert "note: test" not in printed


def test_duplicates_by_content_whatever_the_format(tmp_path, datalist, capsys):
    with Image.open(tmp_path / "test0.png") as picture:
        picture.save(tmp_path / "free1.tif")
    datalist["unlabeled"][1]["image"] = str(tmp_path / "free1.tif")
    save_datalist(datalist, tmp_path / "list.json")
    assert "same image is in several parts: free1.tif (unlabeled), test0.png (test)" in failing(tmp_path, capsys)


def test_near_copies_across_parts(tmp_path, datalist, capsys):
    """Written as JPEG in half of the size: an error in the test part, a warning in validation."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).resize((128, 96), Image.BICUBIC)
    image.save(tmp_path / "free1.png")
    masks = [str(tmp_path / f"line{place}.png") for place in (0, 5)]
    for place, mask in zip((0, 5), masks, strict=True):
        write_png(mask, np.eye(48, 64, place) * 255)
    for part, kind in (("test", "error"), ("validation", "warning")):
        copy = tmp_path / f"{part}.jpg"
        image.resize((64, 48)).save(copy, quality=60)
        datalist[part] = [{"image": str(copy), "patient": "one", "label": masks}]
        datalist["test" if part == "validation" else "validation"] = []
        save_datalist(datalist, tmp_path / "list.json")
        printed = (
            failing(tmp_path, capsys)
            if kind == "error"
            else (check(tmp_path / "list.json"), capsys.readouterr())[1].out
        )
        assert f"{kind}: {tmp_path}/free1.png (unlabeled) and {copy} ({part}) are nearly the same image" in printed


def test_duplicates_within_a_part_warn(tmp_path, datalist, capsys):
    (tmp_path / "free1.png").write_bytes((tmp_path / "free0.png").read_bytes())
    check(tmp_path / "list.json")
    assert "warning: the same image occurs several times" in capsys.readouterr().out


def test_inverted_radiographs_warn(tmp_path, datalist, capsys):
    datalist["classes"] = ["lung", "band"]
    for item in datalist["labeled"]:
        image = np.full(SHAPE, 20)
        image[2:4, 3:9] = 200
        image[0, 0] = len(item["image"])
        write_png(item["image"], image)
    save_datalist(datalist, tmp_path / "list.json")
    check(tmp_path / "list.json")
    assert "in 3 of 3 images the lungs are brighter" in capsys.readouterr().out


def test_shared_patients_stop_before_anything_is_read(tmp_path, datalist):
    text = (tmp_path / "list.json").read_text().replace('"patient": "test0"', '"patient": "labeled0"')
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(SystemExit, match="must not share a patient"):
        check(tmp_path / "list.json")


def test_multiclass_counts_each_value(tmp_path, datalist):
    label = np.zeros(SHAPE)
    label[0, :5], label[1, :7] = 1, 2
    made = {**datalist, "mode": "multiclass", "validation": [], "test": [], "unlabeled": []}
    made["labeled"] = [{**datalist["labeled"][0], "label": write_png(tmp_path / "map.png", label)}]
    save_datalist(made, tmp_path / "classes.json")
    found = inspect_datalist(read_datalist(tmp_path / "classes.json"))
    assert found.classes["pixels"].tolist() == ["5", "7"]
    assert not found.errors


def test_a_slice_of_an_image_of_two_axes_fails(tmp_path, datalist, capsys):
    datalist["labeled"][0]["slice"] = 0
    save_datalist(datalist, tmp_path / "list.json")
    assert "must be a volume to have a 'slice'" in failing(tmp_path, capsys)


def test_full_masks_warn_and_are_an_error_where_all_labelled_ones_are(tmp_path, datalist, capsys):
    for name in ("labeled1_0", "test0_1"):
        write_png(tmp_path / f"{name}.png", np.full(SHAPE, 255))
    check(tmp_path / "list.json")
    printed = capsys.readouterr().out
    assert "warning: labeled: 1 of 3 labels are spot everywhere: labeled1.png. Is what is outside not 0?" in printed
    assert "warning: test: 1 of 1 labels are band everywhere: test0.png." in printed
    for index in range(3):
        write_png(tmp_path / f"labeled{index}_0.png", np.full(SHAPE, 7))
    assert "error: labeled: 3 of 3 labels are spot everywhere: labeled0.png, labeled1" in failing(tmp_path, capsys)
    with pytest.raises(ValueError, match="got 1 errors: labeled: 3 of 3 labels are spot everywhere"):
        require_sound_datalist(read_datalist(tmp_path / "list.json"))


def test_masks_of_one_class_given_for_two_warn(tmp_path, datalist, capsys):
    (tmp_path / "labeled0_1.png").write_bytes((tmp_path / "labeled0_0.png").read_bytes())
    check(tmp_path / "list.json")
    assert "0 errors, 0 warnings" in capsys.readouterr().out  # a class may be as large as another in one image
    for index in range(1, 3):
        (tmp_path / f"labeled{index}_1.png").write_bytes((tmp_path / f"labeled{index}_0.png").read_bytes())
    check(tmp_path / "list.json")
    said = "warning: labeled: spot and band are the same pixels in all 3 labels that show them: labeled0.png, labeled1"
    assert said in capsys.readouterr().out
    datalist["labeled"][0]["label"] = datalist["labeled"][0]["label"][:1] * 2
    save_datalist(datalist, tmp_path / "list.json")
    assert "labeled0_0.png: each class must have a mask of its own, got this one for 2" in failing(tmp_path, capsys)


def test_an_image_given_as_its_own_mask(tmp_path, datalist, capsys):
    (tmp_path / "test0.png").write_bytes((tmp_path / "test0_1.png").read_bytes())
    assert "test0_1.png: a label must be another file than its image" in failing(tmp_path, capsys)
    datalist["test"][0]["label"][1] = datalist["test"][0]["image"]
    with pytest.raises(ValueError, match=r"must have a label of its own, got .*test0\.png, which is an image"):
        save_datalist(datalist, tmp_path / "list.json")


@pytest.mark.parametrize("name", ["free0", "test0_1"])
@pytest.mark.parametrize("place", ["folder", "broken link", "empty file", "text"])
def test_what_stands_in_the_place_of_a_file_is_named(tmp_path, datalist, capsys, name, place):
    file = tmp_path / f"{name}.png"
    file.unlink()
    if place == "folder":
        file.mkdir()
    elif place == "broken link":
        file.symlink_to(tmp_path / "nowhere")
    else:
        file.write_text("" if place == "empty file" else "no picture")
    printed = failing(tmp_path, capsys)
    assert f"{name}.png: the" in printed and "1 errors" in printed
