"""Fine classes of the phantom: there, where they should be, and exactly the organs that they make up."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from common.data.files import list_images
from common.phantoms.fine import FINE_CLASSES, FINE_OF_ORGAN
from common.phantoms.jsrt import CLASSES, describe_patient, make_jsrt_phantom, render_patient

CASES = [(seed, patient, size) for seed in (0, 1, 7) for patient in range(4) for size in (96, 128)]


@pytest.fixture(scope="module")
def patients():
    return [(case, *render_patient(*case, fine=True)) for case in CASES]


def center(mask: np.ndarray) -> np.ndarray:
    """Mean row and column."""
    return np.argwhere(mask).mean(axis=0)


def test_there_are_many_classes():
    assert len(FINE_CLASSES) == len(set(FINE_CLASSES)) == 71
    assert list(FINE_CLASSES) == sorted(FINE_CLASSES)


def test_every_patient_shows_every_class(patients):
    empty = [(case, name) for case, _, masks in patients for name in FINE_CLASSES if not masks[name].any()]
    assert empty == []


def test_unions_are_the_organs(patients):
    for case, _, masks in patients:
        for organ in CLASSES:
            union = np.any([masks[name] for name in FINE_OF_ORGAN[organ]], axis=0)
            np.testing.assert_array_equal(union, masks[organ], err_msg=f"{case} {organ}")


def test_pictures_and_organs_are_those_without_fine_classes(patients):
    for case, image, masks in patients[::3]:
        plain_image, plain_masks = render_patient(*case)
        assert list(plain_masks) == list(CLASSES)
        np.testing.assert_array_equal(image, plain_image)
        for organ in CLASSES:
            np.testing.assert_array_equal(masks[organ], plain_masks[organ])


def test_order_from_head_to_foot(patients):
    runs = [[f"vertebra_t{number:02d}" for number in range(1, 13)]]
    runs += [[f"{side}_posterior_rib_{number:02d}" for number in range(1, 11)] for side in ("right", "left")]
    runs += [["right_upper_lobe", "right_lower_lobe"], ["left_upper_lobe", "left_lower_lobe"]]
    runs += [["trachea", "aortic_arch", "heart", "right_sub_diaphragm"], ["left_atrium", "right_ventricle"]]
    for _, _, masks in patients:
        for names in runs:
            assert np.all(np.diff([center(masks[name])[0] for name in names]) > 0), names


def test_sides(patients):
    """The patient's right lies on the image's left."""
    for _, _, masks in patients:
        for name in FINE_CLASSES:
            other = name.replace("right_", "left_")
            if name.startswith("right_") and other in FINE_CLASSES and "lobe" not in name:
                assert center(masks[name])[1] < center(masks[other])[1], name
        assert center(masks["superior_vena_cava"])[1] < center(masks["pulmonary_trunk"])[1]
        assert center(masks["ascending_aorta"])[1] < center(masks["descending_aorta"])[1]


def test_lobes_and_chambers_overlap_as_in_a_projection(patients):
    pairs = [("right_upper_lobe", "right_lower_lobe"), ("right_middle_lobe", "right_lower_lobe")]
    pairs += [("left_upper_lobe", "left_lower_lobe"), ("right_ventricle", "left_ventricle")]
    for one, other in pairs:
        assert all((masks[one] & masks[other]).any() for _, _, masks in patients)
    assert not any((masks["right_upper_lobe"] & masks["right_middle_lobe"]).any() for _, _, masks in patients)


def test_nothing_is_annotated_where_the_collimator_covers_it():
    """Of a film with blades all around, found by the tone of unexposed film."""
    seen = 0
    for patient in range(30):
        image, masks = render_patient(0, patient, 96, fine=True)
        edges = [image[0], image[-1], image[:, 0], image[:, -1]]
        for edge, place in zip(edges, [np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]], strict=True):
            if np.all(edge == np.float32(0.97)):
                seen += 1
                assert not any(masks[name][place].any() for name in FINE_CLASSES)
    assert seen > 3


def test_files(tmp_path):
    folder = make_jsrt_phantom(tmp_path / "fine", patients=2, size=64, seed=3, fine=True)
    plain = make_jsrt_phantom(tmp_path / "plain", patients=2, size=64, seed=3)
    for file in (path for path in plain.rglob("*") if path.is_file()):
        assert (folder / file.relative_to(plain)).read_bytes() == file.read_bytes()
    assert {path.name for path in folder.iterdir()} == {path.name for path in plain.iterdir()} | {"fine"}
    assert sorted(path.name for path in (folder / "fine").iterdir()) == list(FINE_CLASSES)
    masks = render_patient(3, 1, 64, fine=True)[1]
    for name in FINE_CLASSES:
        files = list_images(folder / "fine" / name)
        assert sorted(files) == sorted(describe_patient(3, index).name for index in (0, 1))
        with Image.open(files[describe_patient(3, 1).name]) as picture:
            np.testing.assert_array_equal(np.array(picture), 255 * masks[name].astype(np.uint8))
