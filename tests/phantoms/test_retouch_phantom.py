"""The phantom of RETOUCH: the same volumes for the same seed, its files, and each fluid where it belongs."""

from __future__ import annotations

from itertools import pairwise

import itk
import numpy as np
import pytest

from common.data.volumes import read_volume, read_volume_labels
from common.phantoms.brain import smooth_noise
from common.phantoms.oct import VENDORS, between
from common.phantoms.retina import IRF, LAYERS, PED, SRF
from common.phantoms.retouch import FLUIDS, draw_volume, make_retouch_phantom

VOLUMES, SIZE, SLICES, SEED = 6, 64, 7, 3
CASES = [(name, index) for name in VENDORS for index in range(VOLUMES)]
HEADER = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 0 0 0
CenterOfRotation = 0 0 0
ElementSpacing = 0.09375 0.03 0.857143
DimSize = 64 64 7
ElementType = MET_USHORT
ElementDataFile = oct.raw
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_retouch_phantom(tmp_path_factory.mktemp("phantom") / "oct", VOLUMES, SIZE, SLICES, list(VENDORS), SEED)


@pytest.fixture(scope="module")
def drawn():
    return {(name, index): draw_volume(name, index, SIZE, SLICES, SEED) for name, index in CASES}


@pytest.fixture(scope="module")
def images(folder):
    return {case: np.asarray(read_volume(path(folder, *case, "oct.mhd")).dataobj) for case in CASES}


def path(folder, name, index, file):
    return folder / f"RETOUCH-TrainingSet-{name}" / f"TRAIN{VENDORS[name].first + index:03d}" / file


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def middles(depth):
    """Depths of the voxels' middles in mm, ``1 Y 1``."""
    return ((np.arange(SIZE) + 0.5) * depth / SIZE)[None, :, None]


def test_the_same_seed_gives_the_same_volumes(tmp_path):
    first, again, other = (
        contents(make_retouch_phantom(tmp_path / name, 2, 48, 3, seed=seed))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert len(first) == 2 * 4
    assert first == again
    images = [name for name in first if name.endswith("oct.raw")]
    assert all(first[name] != other[name] for name in images)
    assert len({first[name] for name in images}) == 2
    more = contents(make_retouch_phantom(tmp_path / "d", 3, 48, 3, ["Cirrus", "Spectralis"], seed=1))
    assert {name: more[name] for name in first} == first  # a volume does not depend on which others there are


def test_layout_and_headers_are_those_of_retouch(folder):
    assert sorted(child.name for child in folder.iterdir()) == [
        f"RETOUCH-TrainingSet-{name}" for name in sorted(VENDORS)
    ]
    for name, first in (("Cirrus", 1), ("Spectralis", 25), ("Topcon", 49)):
        cases = sorted((folder / f"RETOUCH-TrainingSet-{name}").iterdir())
        assert [case.name for case in cases] == [f"TRAIN{first + index:03d}" for index in range(VOLUMES)]
        for case in cases:
            names = sorted(file.name for file in case.iterdir())
            assert names == ["oct.mhd", "oct.raw", "reference.mhd", "reference.raw"]
            voxel = 2 if name == "Spectralis" else 1  # bytes
            assert (case / "oct.raw").stat().st_size == voxel * SIZE * SIZE * SLICES
            assert (case / "reference.raw").stat().st_size == SIZE * SIZE * SLICES
    assert path(folder, "Spectralis", 0, "oct.mhd").read_text() == HEADER
    reference = HEADER.replace("MET_USHORT", "MET_UCHAR").replace("oct.raw", "reference.raw")
    assert path(folder, "Spectralis", 0, "reference.mhd").read_text() == reference


@pytest.mark.parametrize(("name", "depth"), [("Spectralis", 1.92), ("Cirrus", 2.0), ("Topcon", 2.3)])
def test_image_and_reference_have_one_grid(folder, name, depth):
    image = read_volume(path(folder, name, 1, "oct.mhd"))
    label = read_volume_labels(path(folder, name, 1, "reference.mhd"), 3, like=image)
    assert image.shape == label.shape == (SIZE, SIZE, SLICES)
    spacing = np.abs(np.diag(image.affine))[:3]
    np.testing.assert_allclose(spacing, [6 / SIZE, depth / SIZE, 6 / SLICES], rtol=1e-5)
    np.testing.assert_array_equal(label.affine, image.affine)
    values = np.asarray(image.dataobj)
    assert values.min() >= 0 and 128 < values.max() <= 255


def test_voxels_are_written_along_a_row_first(folder, drawn):
    """NumPy's own reading of the bytes: X runs fastest, then depth, then B-scans."""
    bytes_of = np.fromfile(path(folder, "Cirrus", 0, "reference.raw"), np.uint8)
    np.testing.assert_array_equal(bytes_of.reshape(SLICES, SIZE, SIZE).transpose(2, 1, 0), drawn["Cirrus", 0].label)
    seen = itk.array_from_image(itk.imread(str(path(folder, "Spectralis", 0, "oct.mhd"))))
    assert seen.dtype == np.uint16
    np.testing.assert_array_equal(seen.ravel(), np.fromfile(path(folder, "Spectralis", 0, "oct.raw"), "<u2"))


def test_the_reference_is_what_was_drawn(folder, drawn):
    for case in CASES:
        label = np.asarray(read_volume_labels(path(folder, *case, "reference.mhd")).dataobj)
        np.testing.assert_array_equal(label, drawn[case].label)


def test_layers_lie_one_below_the_other(drawn):
    for (name, _), volume in drawn.items():
        tops = list(volume.tops.values())
        assert list(volume.tops) == [*LAYERS, "choroid"]
        for upper, lower in pairwise(tops):
            assert (upper <= lower + 1e-9).all()
        assert tops[0].min() > 0.05 and tops[-1].max() < VENDORS[name].depth


def test_each_fluid_is_at_its_place(drawn):
    """By half a voxel: IRF above the photoreceptors' segments, SRF above the pigment epithelium, PED below it."""
    found = dict.fromkeys((IRF, SRF, PED), 0)
    for (name, _), volume in drawn.items():
        y, slack = middles(VENDORS[name].depth), 0.5 * VENDORS[name].depth / SIZE + 1e-6
        between_tops = {
            IRF: ("inner nuclear", "inner segments"),
            SRF: ("subretinal fluid", "pigment epithelium"),
            PED: ("detachment", "Bruch's membrane"),
        }
        for value, (upper, lower) in between_tops.items():
            inside = volume.label == value
            low, high = volume.tops[upper][:, None] - slack, volume.tops[lower][:, None] + slack
            assert ((y > low) & (y < high))[inside].all()
            found[value] += inside.sum()
    assert min(found.values()) > 500


def test_the_pigment_epithelium_rises_over_a_detachment(drawn):
    """Between it and Bruch's membrane is the detachment and nothing else; elsewhere they touch."""
    for volume in drawn.values():
        lifted = volume.tops["Bruch's membrane"] - volume.tops["detachment"]
        inside = (volume.label == PED).any(axis=1)
        assert (lifted[inside] > 0).all()
        if not inside.any():
            assert lifted.max() < 1e-9


def test_fluid_is_smooth_over_b_scans():
    """A voxel of fluid has fluid of the same kind at its place in a neighbouring B-scan, where these lie densely."""
    label = draw_volume("Spectralis", FLUIDS.index("ISP"), 48, 96, seed=0).label
    for value in np.unique(label[label > 0]):
        inside = label == value
        near = np.zeros_like(inside)
        near[..., 1:] |= inside[..., :-1]
        near[..., :-1] |= inside[..., 1:]
        assert near[inside].mean() > 0.97


def test_fluids_among_volumes():
    """Of twelve volumes 8 hold IRF, 7 SRF, 6 PED, one none; among six in a row each is there three times."""
    counts = [sum(letter in fluids for fluids in FLUIDS) for letter in "ISP"]
    assert counts == [8, 7, 6] and FLUIDS.count("") == 1 and len(FLUIDS) == 12
    for start in range(12):
        window = [FLUIDS[(start + index) % 12] for index in range(6)]
        assert all(sum(letter in fluids for fluids in window) >= 3 for letter in "ISP")


@pytest.mark.parametrize(("slices", "size"), [(3, 48), (4, 48), (9, 64)])
def test_a_fluid_that_is_meant_is_there(slices, size):
    """In each of three seeds a volume with all three, however few B-scans; a seed shifts the order."""
    orders = set()
    for seed in range(3):
        volumes = [draw_volume("Topcon", index, size, slices, seed).label for index in range(12)]
        present = [
            "".join(letter for letter, v in zip("ISP", (1, 2, 3), strict=True) if (v == label).any())
            for label in volumes
        ]
        shift = next(k for k in range(12) if [*FLUIDS[k:], *FLUIDS[:k]] == present)
        orders.add(shift)
    assert len(orders) > 1


def test_diseased_volumes_show_fluid_in_about_half_of_their_b_scans():
    labels = [draw_volume("Cirrus", index, 48, 12, seed=5).label for index in range(12)]
    shares = [(label > 0).any(axis=(0, 1)).mean() for label in labels if label.any()]
    assert len(shares) == 11 and 0.4 < np.mean(shares) < 0.7


def test_the_fovea_is_a_pit_in_the_middle_b_scans():
    index = next(k for k in range(12) if not draw_volume("Cirrus", k, 48, 3, seed=0).label.any())
    tops = draw_volume("Cirrus", index, 96, 25, seed=0).tops
    inner = tops["inner segments"] - tops["nerve fibres"]
    thinnest = np.unravel_index(inner.argmin(), inner.shape)
    assert 36 < thinnest[0] < 60 and 9 < thinnest[1] < 16
    assert inner.min() < 0.6 * np.median(inner)
    assert inner[:, 0].min() > 1.3 * inner.min()


def test_vendors_differ_in_speckle_and_black_level(images):
    """In the vitreous, where there is no structure."""
    spread = {name: np.median([images[name, i][:, :3].std() for i in range(VOLUMES)]) for name in VENDORS}
    black = {name: np.median([images[name, i][:, :3] for i in range(VOLUMES)]) for name in VENDORS}
    assert spread["Cirrus"] > 1.3 * spread["Topcon"] > 1.3**2 * spread["Spectralis"]
    assert black["Cirrus"] > black["Topcon"] + 10 > black["Spectralis"] + 20


def best_dice(values, inside):
    """The Dice of the best threshold, below which all is taken for fluid."""
    levels = [values < level for level in range(256)]
    return max(2 * (taken & inside).sum() / (taken.sum() + inside.sum()) for taken in levels)


def test_fluid_is_dark_but_not_told_by_a_threshold(images, drawn):
    """It is darker than the retina at large, but vitreous, nuclear layers and shadows are as dark."""
    for name in VENDORS:
        within, everywhere = [], []
        for index in range(VOLUMES):
            volume, image, y = drawn[name, index], images[name, index], middles(VENDORS[name].depth)
            retina = (y > volume.tops["nerve fibres"][:, None]) & (y < volume.tops["choroid"][:, None])
            fluid = volume.label > 0
            if fluid.any():
                assert np.median(image[fluid]) < np.median(image[retina & ~fluid]) - 20
                within.append(best_dice(image[retina], fluid[retina]))
                everywhere.append(best_dice(image, fluid))
        assert np.mean(within) < 0.5 and max(everywhere) < 0.1


def test_between_is_the_share_of_a_voxel():
    """Voxels of 2 mm over 0 to 8; from 1 to 5 they are filled by 1/2, 1, 1/2 and 0."""
    y = (np.arange(4, dtype=np.float32) * 2 + 1)[None, :, None]
    share = between(y, np.full((1, 1), 1.0), np.full((1, 1), 5.0), 2.0)
    np.testing.assert_allclose(share.ravel(), [0.5, 1, 0.5, 0])
    assert not between(y, np.full((1, 1), 5.0), np.full((1, 1), 3.0), 2.0).any()


def test_noise_may_change_faster_along_one_axis():
    noise = smooth_noise(np.random.default_rng(0), (200, 200), (0.1, 0.1), (4.0, 0.5))
    steps = [np.abs(np.diff(noise, axis=axis)).mean() for axis in (0, 1)]
    assert steps[1] > 4 * steps[0]
    same = [
        smooth_noise(np.random.default_rng(1), (20, 30), *sizes) for sizes in ((0.5, 2.0), ((0.5,) * 2, (2.0,) * 2))
    ]
    np.testing.assert_array_equal(*same)


def test_refuses(folder, tmp_path):
    with pytest.raises(FileExistsError, match="oct must be empty, got a folder with files"):
        make_retouch_phantom(folder)
    for settings, message in (
        ({"size": 47}, "size must be at least 48, got 47"),
        ({"size": 10**9}, "size must be at most 1024, got 1000000000"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"slices": 2}, "slices must be at least 3, got 2"),
        ({"volumes": 0}, "volumes must be at least 1, got 0"),
        (
            {"vendors": ["Zeiss"]},
            r"vendors must be one or several of Spectralis, Cirrus, Topcon, each once, got \['Zeiss'",
        ),
        ({"vendors": ["Cirrus", "Cirrus"]}, "each once"),
        ({"vendors": []}, "vendors must be one or several"),
        (
            {"vendors": ["Cirrus", "Topcon"], "volumes": 25},
            "volumes must be at most 24 of each of several vendors, got 25",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make_retouch_phantom(tmp_path / "a", **settings)
    assert list(tmp_path.iterdir()) == []
