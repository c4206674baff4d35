"""TCGA-LGG's layout: which slices are found, parts by patient, shares of labelled patients, what is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data import lgg_datalist, load_datalist
from common.data.layouts.lgg import find_lgg, shows_tumor
from common.grid.data import data_source

PARTS = ("labeled", "unlabeled", "validation", "test")


DATE = "_19960909"


def code_of(number):
    """A patient."""
    return f"TCGA_CS_{4940 + number}"


def name_of(number):
    """The folder of a patient's examination."""
    return code_of(number) + DATE


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)
    return path


def write_slice(root, patient, number, tumor=True, mask=True):
    image = save(root / patient / f"{patient}_{number}.tif", np.arange(48).reshape(4, 4, 3) + number)
    if mask:
        save(root / patient / f"{patient}_{number}_mask.tif", np.eye(4) * 255 * tumor)
    return image


def write_patients(root, numbers, tumor=True, mask=True):
    """Slices 1, 2 and 10 of each patient; the tumour is on slice 2."""
    for number in numbers:
        for place in (1, 2, 10):
            write_slice(root, name_of(number), place, tumor and place == 2, mask)
    return root


@pytest.fixture
def twelve(tmp_path):
    return write_patients(tmp_path / "lgg", range(1, 13))


def who(datalist, part):
    return sorted({item["patient"] for item in datalist[part]})


# ---- what is found


def test_slices_and_their_masks_are_found_at_any_depth_in_the_order_of_their_numbers(tmp_path):
    root = tmp_path / "lgg"
    write_patients(root / "kaggle_3m", [2])
    bare = write_slice(root / "a" / "b", name_of(1), 7, mask=False)
    (root / "kaggle_3m" / "data.csv").write_text("Patient,death01\n")
    (root / "kaggle_3m" / f"._{name_of(2)}_1.tif").write_bytes(b"")
    start = f"{root}/kaggle_3m/{name_of(2)}/{name_of(2)}"
    assert find_lgg(root) == [
        {"image": str(bare), "patient": code_of(1)},
        *(
            {"image": f"{start}_{place}.tif", "patient": code_of(2), "label": [f"{start}_{place}_mask.tif"]}
            for place in (1, 2, 10)
        ),
    ]


def test_two_examinations_are_of_one_patient(twelve):
    for place in (1, 2):
        write_slice(twelve, f"{code_of(3)}_19980101", place)
    assert sum(item["patient"] == code_of(3) for item in find_lgg(twelve)) == 5


def test_one_patient_s_folder_may_be_given(twelve):
    assert len(find_lgg(twelve / name_of(3))) == 3


def test_a_mask_without_its_image_is_named(twelve):
    (twelve / name_of(4) / f"{name_of(4)}_10.tif").unlink()
    with pytest.raises(ValueError, match=rf"each mask must have its image beside it, got none for {name_of(4)}_10_"):
        find_lgg(twelve)


@pytest.mark.parametrize(
    "name", ["scan.tif", f"{name_of(4)}.tif", f"{name_of(5)}_3.tif", f"{name_of(4)}_3_seg.tif", f"{name_of(4)}_x.TIFF"]
)
def test_a_wrong_name_is_named(twelve, name):
    """Of another form, or of another patient than the folder's."""
    save(twelve / name_of(4) / name, np.eye(4))
    with pytest.raises(ValueError, match=rf"named <patient>_<slice>.tif or .*, got {name_of(4)}/{name}: rename"):
        find_lgg(twelve)


def test_a_patient_that_is_there_twice_is_named_with_both_places(twelve):
    """The archive that is passed around holds everything twice."""
    write_patients(twelve / "kaggle_3m", [4])
    with pytest.raises(ValueError, match=rf"each patient once, got .*/{name_of(4)} and .*kaggle_3m/{name_of(4)}: keep"):
        find_lgg(twelve)


@pytest.mark.parametrize("ending", ["02.tif", "2.TIFF", "02_mask.tif"])
def test_a_slice_that_is_there_twice(twelve, ending):
    save(twelve / name_of(4) / f"{name_of(4)}_{ending}", np.eye(4))
    with pytest.raises(ValueError, match=rf"{name_of(4)} must hold each slice once, got .*_{ending}.* and .*: keep"):
        find_lgg(twelve)


def test_a_folder_that_is_missing_and_ones_without_slices(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent must be the folder of TCGA-LGG's patients, got no such"):
        find_lgg(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"must hold slices named <patient>/<patient>_<slice>\.tif, got none"):
        find_lgg(tmp_path)
    save(tmp_path / "p" / "p_1_mask.tif", np.eye(4))
    with pytest.raises(FileNotFoundError, match=r"got 1 masks alone"):
        find_lgg(tmp_path)


# ---- parts


def test_a_datalist_of_one_class(twelve):
    datalist = lgg_datalist(twelve, labeled=3, validation=2, test=4, split=5, seed=6)
    assert (datalist["name"], datalist["mode"], datalist["classes"]) == ("lgg", "multilabel", ["tumor"])
    assert (datalist["split"], datalist["seed"], datalist["left_out"]) == (5, 6, 0)
    for part in ("labeled", "validation", "test"):
        assert all(item["label"] == [item["image"].replace(".tif", "_mask.tif")] for item in datalist[part])
    assert all(item["truth"] == [item["image"].replace(".tif", "_mask.tif")] for item in datalist["unlabeled"])


@pytest.mark.parametrize("split", range(3))
def test_all_slices_of_a_patient_are_in_one_part_in_their_order(twelve, split):
    datalist = lgg_datalist(twelve, labeled=3, validation=2, test=4, split=split)
    assert [len(who(datalist, part)) for part in PARTS] == [3, 3, 2, 4]
    assert [len(datalist[part]) for part in PARTS] == [9, 9, 6, 12]
    assert sorted(name for part in PARTS for name in who(datalist, part)) == [code_of(n) for n in range(1, 13)]
    for part in PARTS:
        places = [int(Path(item["image"]).stem.rsplit("_", 1)[1]) for item in datalist[part]]
        assert places == [1, 2, 10] * len(who(datalist, part))


def test_labelled_patients_are_nested_and_the_test_stays(twelve):
    drawn = [lgg_datalist(twelve, labeled=labeled, validation=2, test=4, split=1) for labeled in range(1, 7)]
    for few, more in pairwise(drawn):
        assert set(who(few, "labeled")) < set(who(more, "labeled"))
        assert few["test"] == more["test"]
        assert few["validation"] == more["validation"]
    others = [who(lgg_datalist(twelve, labeled=1, validation=2, test=4, split=split), "test") for split in range(4)]
    assert len({tuple(each) for each in others}) > 1


@pytest.mark.parametrize(("share", "labeled"), [(1, 6), (0.5, 3), (0.75, 4), (0.3, 2), (0.01, 1)])
def test_a_share_of_the_patients_that_are_left(twelve, share, labeled):
    """12 - 2 - 4 = 6 are left; 0.75 of them is 4.5, rounded to even; at least one is labelled."""
    datalist = lgg_datalist(twelve, validation=2, test=4, split=1, share=share)
    assert len(who(datalist, "labeled")) == labeled
    assert datalist == lgg_datalist(twelve, labeled=labeled, validation=2, test=4, split=1)


def test_a_share_beside_test_patients_of_another_folder(twelve, tmp_path):
    other = write_patients(tmp_path / "others", [20, 21])
    datalist = lgg_datalist(twelve, validation=2, test=other, share=0.5)
    assert [len(who(datalist, part)) for part in PARTS] == [5, 5, 2, 2]
    assert who(datalist, "test") == [code_of(20), code_of(21)]


@pytest.mark.parametrize("share", [0, -0.5, 1.01, float("nan"), True, "half"])
def test_a_share_that_is_none(twelve, share):
    with pytest.raises(ValueError, match="share must be above 0 and at most 1, got"):
        lgg_datalist(twelve, validation=2, test=4, share=share)


def test_a_share_instead_of_a_number(twelve):
    with pytest.raises(ValueError, match=r"either labeled or share must be given, got labeled=3 and share=0\.5"):
        lgg_datalist(twelve, labeled=3, validation=2, test=4, share=0.5)
    with pytest.raises(ValueError, match="test must be a number or a folder where share is given, got none"):
        lgg_datalist(twelve, validation=2, test=None, share=0.5)
    with pytest.raises(ValueError, match="test must be a whole number of at least 0, got -1"):
        lgg_datalist(twelve, validation=2, test=-1, share=0.5)
    with pytest.raises(ValueError, match=r"labeled must be at most 0: of 12 .* 8 for validation and 4 for test"):
        lgg_datalist(twelve, validation=8, test=4, share=0.5)


def test_images_without_masks_are_unlabelled(twelve, caplog):
    write_patients(twelve, [13], mask=False)
    datalist = lgg_datalist(twelve, labeled=3, validation=2, test=4)
    assert [item["patient"] for item in datalist["unlabeled"] if "truth" not in item] == [code_of(13)] * 3
    labeled = who(datalist, "labeled")[0]
    write_slice(twelve, labeled + DATE, 11, mask=False)  # one of a patient whose other slices are labelled
    again = lgg_datalist(twelve, labeled=3, validation=2, test=4)
    assert [again[part] for part in PARTS] == [datalist[part] for part in PARTS]
    assert again["left_out"] == 1
    # a patient without any mask is unlabelled on purpose; a slice of one with masks may have lost its own
    (told,) = [record.getMessage() for record in caplog.records]
    assert f"1 slices have no mask, but others of their patients do: {labeled}{DATE}_11.tif." in told


def test_more_labelled_patients_than_there_are(twelve):
    with pytest.raises(ValueError, match=r"labeled must be at most 6: of 12 .* 2 for validation and 4 for test"):
        lgg_datalist(twelve, labeled=7, validation=2, test=4)


def test_labelled_patients_without_any_tumour_are_named(tmp_path):
    root = write_patients(tmp_path / "lgg", range(1, 6), tumor=False)
    labeled = who_is_labelled(write_patients(tmp_path / "same", range(1, 6)))
    with pytest.raises(ValueError, match=f"must have a tumour, got empty masks alone of {', '.join(labeled)}: label"):
        lgg_datalist(root, labeled=2, validation=1, test=1)
    write_slice(root, labeled[1] + DATE, 2)
    assert who_is_labelled(root) == labeled  # one of them is enough


def who_is_labelled(root):
    return who(lgg_datalist(root, labeled=2, validation=1, test=1), "labeled")


# ---- masks


def test_masks_that_are_read(tmp_path):
    assert shows_tumor(save(tmp_path / "a.tif", np.eye(4) * 255))
    assert shows_tumor(save(tmp_path / "b.tif", np.eye(4)))
    assert not shows_tumor(save(tmp_path / "c.tif", np.zeros((4, 4))))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.stack([np.eye(4) * 255] * 3, -1), r"a mask must have one channel, got 3 \(RGB\): is it an image"),
        (np.arange(48).reshape(4, 4, 3), r"a mask must have one channel, got 3 \(RGB\): is it an image"),
        (np.diag([255, 128, 255, 0]), "must be 0 outside and 255 inside, got 3 grey levels, 0, 128, 255: was it"),
    ],
)
@pytest.mark.parametrize("part", PARTS)
def test_masks_with_channels_or_grey_levels_are_named_in_every_part(twelve, values, message, part):
    patient = who(lgg_datalist(twelve, labeled=1, validation=2, test=4), part)[0] + DATE
    mask = save(twelve / patient / f"{patient}_10_mask.tif", values)
    assert len(find_lgg(twelve)) == 36
    with pytest.raises(ValueError, match=rf"{mask}: .*{message}"):
        lgg_datalist(twelve, labeled=1, validation=2, test=4)
    save(mask, np.eye(4))  # mended: it is read again
    assert lgg_datalist(twelve, labeled=1, validation=2, test=4)


def test_of_many_such_masks_the_first_is_told_and_the_names_of_others(twelve):
    for number in (2, 5, 7):
        save(twelve / name_of(number) / f"{name_of(number)}_1_mask.tif", np.ones((4, 4, 3)))
    with pytest.raises(ValueError, match=r"is it an image\? 2 more masks cannot be used: TCGA\S+, TCGA\S+\.$"):
        lgg_datalist(twelve, labeled=1, validation=2, test=4)


def test_a_mask_that_cannot_be_read(twelve):
    mask = twelve / name_of(4) / f"{name_of(4)}_1_mask.tif"
    mask.write_bytes(mask.read_bytes()[:20])
    with pytest.raises(ValueError, match=f"{mask}: the file cannot be decoded"):
        lgg_datalist(twelve, labeled=1, validation=2, test=4)


# ---- around


def test_a_datalist_is_written_and_summarized(twelve, tmp_path, capsys):
    output = tmp_path / "lists" / "split0.json"
    settings = {"labeled": 3, "validation": 2, "test": 4, "name": "gliomas"}
    assert lgg_datalist(twelve, output=output, **settings) is None
    assert "labeled: 9 images of 3 patients" in capsys.readouterr().out
    assert load_datalist(output) == lgg_datalist(twelve, **settings)


def test_a_grid_draws_from_the_layout_but_gives_the_number_itself(twelve):
    spec = {"layout": "lgg", "folder": str(twelve), "validation": 2, "test": 4}
    source = data_source(Path("grid.yaml"), spec)
    assert source.datalist(3, 1) == lgg_datalist(twelve, labeled=3, validation=2, test=4, split=1)
    with pytest.raises(ValueError, match=r"data must be of the keys .*, got 'share'"):
        data_source(Path("grid.yaml"), spec | {"share": 0.5})
