"""What labels' files hold, and whether a label is its image's; see also the tests of LoadLabeld."""

from __future__ import annotations

import shutil

import nibabel
import numpy as np
import pytest
from PIL import Image

from common.data.labels import classes_present, load_label, load_volume_label, require_own_label, same_shape_up_to_scale
from common.label_space import LabelSpace

MASK = np.zeros((12, 16), np.uint8)
MASK[2:6, 3:9] = 255


def save(path, values):
    Image.fromarray(values).save(path)
    return str(path)


def test_the_label_of_a_single_class_is_its_mask_in_multilabel_alone(tmp_path):
    file = save(tmp_path / "m.png", MASK)
    np.testing.assert_array_equal(load_label(file, LabelSpace(["spot"]))[0], MASK.T > 0)
    assert classes_present(file, 1) == {0}
    with pytest.raises(
        ValueError, match=r"of 1 class \(spot\) must hold values 0 to 1, got \[255\]. Renumber 255 to 1, or"
    ):
        load_label(file, LabelSpace(["spot"], "multiclass"))
    for mode in ("multilabel", "multiclass"):
        with pytest.raises(
            ValueError, match=r"of 2 classes \(a, b\) must hold values 0 to 2, got \[255\]. Is it a mask of"
        ):
            load_label(file, LabelSpace(["a", "b"], mode))
    with pytest.raises(ValueError, match=r"m\.png: a label map of 2 classes must hold values 0 to 2, got \[255\]"):
        classes_present(file, 2)


def test_the_same_of_volumes(tmp_path):
    volume = nibabel.Nifti1Image(np.repeat(MASK[..., None], 3, 2), np.eye(4))
    nibabel.save(volume, tmp_path / "m.nii.gz")
    file = str(tmp_path / "m.nii.gz")
    assert load_volume_label(file, LabelSpace(["spot"]), volume).sum() == 3 * 24
    with pytest.raises(ValueError, match=r"got \[255\]. Renumber 255 to 1, or set the mode to multilabel"):
        load_volume_label(file, LabelSpace(["spot"], "multiclass"), volume)
    with pytest.raises(ValueError, match=r"m\.nii\.gz: each class must have a mask of its own, got this one for 2"):
        load_volume_label([file, file], LabelSpace(["a", "b"]), volume)


def test_one_mask_for_two_classes_is_refused_unless_it_is_empty(tmp_path):
    file, other = save(tmp_path / "m.png", MASK), tmp_path / "link.png"
    other.symlink_to(file)
    for files in ([file, file], [file, str(other)]):
        for read in (lambda files: load_label(files, LabelSpace(["a", "b"])), lambda files: classes_present(files, 2)):
            with pytest.raises(ValueError, match=r"m\.png: each class must have a mask of its own, got this one for 2"):
                read(files)
    empty = save(tmp_path / "empty.png", 0 * MASK)
    assert not load_label([empty, empty], LabelSpace(["a", "b"])).any()


def test_a_label_that_is_its_image_is_refused(tmp_path):
    image, other = save(tmp_path / "i.png", MASK), save(tmp_path / "m.png", MASK.T.copy())
    copied = str(shutil.copy(image, tmp_path / "copy.png"))
    require_own_label([other], image)
    require_own_label(None, image)
    for files in (copied, [other, copied]):
        with pytest.raises(
            ValueError, match=r"copy\.png: a label must be another file than its image, got the bytes of"
        ):
            require_own_label(files, image)


@pytest.mark.parametrize(
    ("size", "other", "same"),
    [
        ((2048, 2048), (1024, 1024), True),
        ((511, 400), (256, 200), True),
        ((100, 81), (200, 161), True),
        ((512, 400), (400, 512), False),
        ((512, 512), (512, 500), False),
        ((64, 64), (1024, 900), False),
    ],
)
def test_same_shape_up_to_scale(size, other, same):
    assert same_shape_up_to_scale(size, other) is same
    assert same_shape_up_to_scale(other, size) is same
