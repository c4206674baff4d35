"""What is true of every split, datalist and image, on whatever hypothesis comes up with."""

from __future__ import annotations

import json
import string
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from common.data.datalist import read_datalist, save_datalist
from common.data.datalist_rules import PARTS, validate_datalist
from common.data.readers import read_image, read_label, read_mask
from common.data.splits import make_datalist
from common.data.volumes import read_volume

QUICK = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NAMES = st.text(string.ascii_letters + string.digits + "äßα字_- .", min_size=1, max_size=8).map(str.strip).filter(bool)


@pytest.fixture(scope="module")
def mask(tmp_path_factory) -> str:
    """Of one class, for every image."""
    path = tmp_path_factory.mktemp("masks") / "mask.png"
    Image.fromarray(np.uint8([[0, 255], [255, 0]])).save(path)
    return str(path)


@st.composite
def cohorts(draw) -> list[tuple[str, int]]:
    """Patients, and how many images there are of each."""
    names = draw(st.lists(NAMES, min_size=4, max_size=12, unique_by=str.casefold))
    return [(name, draw(st.integers(1, 3))) for name in names]


@QUICK
@given(cohort=cohorts(), split=st.integers(0, 5), seed=st.integers(0, 5), data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_a_split_shares_no_patient_and_loses_no_image(mask, cohort, split, seed, data):
    images = [{"image": f"{name}_{i}.png", "label": [mask], "patient": name} for name, n in cohort for i in range(n)]
    labeled = data.draw(st.integers(1, len(cohort) - 2))
    test = data.draw(st.integers(0, len(cohort) - labeled - 1))
    choice = {"classes": ["lung"], "validation": 1, "split": split, "seed": seed, "test": test}
    made = make_datalist(images, labeled=labeled, **choice)
    assert made == make_datalist(images[::-1], labeled=labeled, **choice)  # whatever the order of the files
    patients = [{item["patient"] for item in made[part]} for part in PARTS]
    assert sum(map(len, patients)) == len(set.union(*patients))
    found = [item["image"] for part in PARTS for item in made[part]]
    assert len(found) == len(set(found)) and len(found) + made["left_out"] == len(images)
    assert (len(made["labeled"]), len(made["validation"]), len(patients[3])) == (labeled, 1, test)
    if labeled > 1:  # fewer labelled images are among more, and what is tested on is the same
        fewer = make_datalist(images, labeled=labeled - 1, **choice)
        assert fewer["labeled"] == made["labeled"][:-1]
        assert (fewer["test"], fewer["validation"]) == (made["test"], made["validation"])


@QUICK
@given(names=st.lists(NAMES, min_size=4, max_size=12, unique_by=str.casefold), where=NAMES)
@pytest.mark.filterwarnings("ignore")
def test_a_datalist_is_read_as_it_was_saved(tmp_path, names, where):
    """Whatever the names of files and folders."""
    folder = tmp_path / where
    items = [{"image": str(folder / f"{n}.png"), "label": [str(tmp_path / f"{n}.gif")], "patient": n} for n in names]
    parts = {part: items[index::4] for index, part in enumerate(PARTS)}
    parts["unlabeled"] = [{"truth" if key == "label" else key: v for key, v in i.items()} for i in parts["unlabeled"]]
    datalist = {"name": "a", "mode": "multilabel", "classes": ["lung"], "split": 1, "seed": 2, **parts}
    assert read_datalist(save_datalist(datalist, folder / "list.json")) == datalist


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from(["", "a", "multilabel", "lung"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["image", "label", "patient", "slice", "truth"]), inner, max_size=4)
    ),
    max_leaves=6,
)


@QUICK
@given(content=st.dictionaries(st.sampled_from(["classes", "mode", "evaluation_classes", *PARTS]), JSON), other=JSON)
@pytest.mark.filterwarnings("ignore")
def test_no_json_is_a_datalist_that_ends_in_another_error(tmp_path, content, other):
    path = tmp_path / "list.json"
    for datalist in (content, other, {"classes": ["lung"], "mode": "multilabel", "labeled": [], **content}):
        path.write_text(json.dumps(datalist))
        try:
            validate_datalist(read_datalist(path))
        except ValueError as error:
            assert str(path) in str(error)


def pictures(dtype: type, top: int) -> st.SearchStrategy:
    """Pictures of at least two values."""
    sides = arrays.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=9)
    values = arrays.arrays(dtype, sides, elements=st.integers(0, top))
    return values.filter(lambda picture: picture.min() < picture.max())


@QUICK
@given(picture=pictures(np.uint8, 255) | pictures(np.uint16, 65535), suffix=st.sampled_from([".png", ".tif"]))
def test_a_picture_is_read_as_it_was_saved(tmp_path, picture, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(picture).save(path)
    np.testing.assert_array_equal(read_image(path), picture.T)


@QUICK
@given(picture=pictures(np.uint8, 9))
def test_labels_and_masks_are_read_as_they_were_saved(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "map.png")
    np.testing.assert_array_equal(read_label(tmp_path / "map.png"), picture.T)
    Image.fromarray(np.uint8(picture > 4) * 255).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), picture.T > 4)


@QUICK
@given(
    values=arrays.arrays(
        st.sampled_from([np.uint8, np.int16, np.float32]),
        arrays.array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=6),
        elements=st.integers(0, 200),
    ).filter(lambda values: values.min() < values.max()),
    ending=st.sampled_from([".nii", ".nii.gz"]),
)
def test_a_volume_is_read_as_it_was_saved(tmp_path, values, ending):
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 2, 3, 1])), tmp_path / f"a{ending}")
    volume = read_volume(Path(tmp_path / f"a{ending}"))
    np.testing.assert_array_equal(np.asarray(volume.dataobj), values)
    np.testing.assert_array_equal(volume.affine, np.diag([1, 2, 3, 1]))
