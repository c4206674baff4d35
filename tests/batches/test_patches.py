"""Pairs of patches: of the same place and orientation, near lesions, a function of the iteration alone."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from common.data import PairedLoader, PairedPatches
from common.data.patches import crop, volume
from common.data.volume_cache import bounding_box

SIZE = (16, 16, 16)
WHOLE = np.array([[0, 0, 0], [40, 40, 40]])


class Volumes:
    """Stands for CachedVolumes: arrays whose voxels say where they are."""

    def __init__(self, shapes, lesion=True, seed=0):
        self.data = [{"image": f"scan{i}_{seed}.nii.gz"} for i in range(len(shapes))]
        self.content = []
        for i, shape in enumerate(shapes):
            place = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(np.float32)
            image = (1 + place[0] + 100 * place[1] + 10000 * place[2])[None]
            border = np.ones(shape, bool)
            border[2:-2, 3:-3, 4:-4] = False
            image[0][border] = 0
            label = np.zeros((1, *shape), np.uint8)
            if lesion:
                label[0, 5 + i, 6, 7] = 1
            self.content.append({"image": image, "label": label})

    def __len__(self):
        return len(self.data)

    def arrays(self, index):
        return self.content[index]

    def box(self, index):
        return np.array(bounding_box(self.content[index]["image"]))


def patches(shapes=((40, 44, 36), (40, 44, 36)), **settings):
    return PairedPatches(Volumes(shapes), patch_size=SIZE, **{"pairs": 3, **settings})


def test_shapes_and_halves():
    batch = patches()[1]["labeled"]
    assert batch["image"].shape == batch["label"].shape == (6, 1, *SIZE)
    assert "weight" not in batch


def test_is_a_function_of_seed_and_iteration():
    one, other = patches(seed=1), patches(seed=1)
    assert torch.equal(one[7]["labeled"]["image"], other[7]["labeled"]["image"])
    assert not torch.equal(one[7]["labeled"]["image"], one[8]["labeled"]["image"])
    assert not torch.equal(one[7]["labeled"]["image"], patches(seed=2)[7]["labeled"]["image"])


def test_the_same_patch_twice():
    batch = patches(same_patch=1.0)[3]["labeled"]
    assert torch.equal(batch["image"][:3], batch["image"][3:])


def test_augmented_on_their_own():
    class Noise:
        def set_random_state(self, seed):
            self.draw = np.random.default_rng(seed)

        def __call__(self, patch):
            return {**patch, "image": patch["image"] + float(self.draw.random())}

    batch = patches(same_patch=1.0, augment=Noise())[3]["labeled"]
    differences = (batch["image"][:3] - batch["image"][3:]).flatten(1)
    assert (differences.std(1) < 1e-2).all()  # of float32 at 10^5
    assert (differences.mean(1) != 0).all()


def test_other_image_same_place_and_orientation():
    """Two equal brains, the second moved by (4, 0, 8) voxels: patches of a pair show the same voxels."""
    volumes = Volumes([(40, 44, 36)])
    content = volumes.content[0]  # a border so wide that no patch is moved inwards
    volumes.content[0] = {key: np.pad(array, ((0, 0), (8, 8), (8, 8), (8, 8))) for key, array in content.items()}
    moved = np.pad(content["image"], ((0, 0), (12, 9), (8, 8), (16, 8)))
    volumes.data.append({"image": "moved.nii.gz"})
    volumes.content.append({"image": moved, "label": np.zeros(moved.shape, np.uint8)})
    data = PairedPatches(volumes, patch_size=SIZE, pairs=4, same_patch=0.0, lesion=0.0)
    for iteration in range(20):
        images = data[iteration]["labeled"]["image"]
        for one, other in zip(images[:4], images[4:], strict=True):
            assert torch.equal(one, other)
            assert one.any()


def test_mirrored_pairs_have_one_orientation():
    data = patches(same_patch=0.0, lesion=0.0)
    directions = []
    for iteration in range(10):
        for image in data[iteration]["labeled"]["image"]:
            values = image[0]
            along = values[1:] - values[:-1]
            inside = (values[1:] != 0) & (values[:-1] != 0)
            directions.append(float(along[inside].median()) if inside.any() else 0.0)
    pairs = np.array(directions).reshape(10, 2, 3)
    assert set(np.unique(pairs)) == {-1.0, 1.0}, "mirrored and not"
    np.testing.assert_array_equal(pairs[:, 0], pairs[:, 1])


def test_without_mirroring():
    values = patches(mirror=False, lesion=0.0)[0]["labeled"]["image"]
    along = values[:, :, 1:] - values[:, :, :-1]
    assert set(np.unique(along[(values[:, :, 1:] != 0) & (values[:, :, :-1] != 0)])) == {1.0}


def test_lesions_are_in_the_patch():
    always, never = patches(lesion=1.0, same_patch=1.0), patches(lesion=0.0, same_patch=1.0, shapes=((80, 80, 80),))
    assert all((always[i]["labeled"]["label"].flatten(1).sum(1) == 1).all() for i in range(5))
    found = [float(never[i]["labeled"]["label"].sum()) for i in range(30)]
    assert np.mean(found) < 3


def test_empty_masks_are_drawn_from_the_brain():
    data = PairedPatches(Volumes([(40, 40, 40)], lesion=False), patch_size=SIZE, lesion=1.0)
    batch = data[0]["labeled"]
    assert batch["label"].sum() == 0
    assert (batch["image"][:, 0, 8, 8, 8] != 0).all() or (batch["image"] != 0).any()


def test_volumes_smaller_than_a_patch_get_zeros_around():
    small = Volumes([(12, 40, 10)])
    patch = crop(volume("small", partial(small.arrays, 0), small.box(0)), np.array([6, 20, 5]), SIZE, False)
    assert patch["image"].shape == (1, *SIZE)
    np.testing.assert_array_equal(patch["image"][0, 2:14, :, 3:13], small.arrays(0)["image"][0, :, 12:28])
    assert patch["image"][0, :2].sum() == patch["image"][0, :, :, 13:].sum() == 0


def test_crop_by_hand():
    content = Volumes([(40, 44, 36)]).arrays(0)
    middle = volume("name", lambda: content, np.array(bounding_box(content["image"])))
    np.testing.assert_array_equal(middle.box, [[2, 3, 4], [38, 41, 32]])
    assert middle.lesions.tolist() == [np.ravel_multi_index((5, 6, 7), (40, 44, 36))]
    patch = crop(middle, np.array([20, 20, 20]), SIZE, mirrored=False)
    np.testing.assert_array_equal(patch["image"], content["image"][:, 12:28, 12:28, 12:28])
    mirrored = crop(middle, np.array([20, 20, 20]), SIZE, mirrored=True)
    np.testing.assert_array_equal(mirrored["image"], content["image"][:, 27:11:-1, 12:28, 12:28])
    corner = crop(middle, np.array([0, 43, 20]), SIZE, mirrored=False)
    np.testing.assert_array_equal(corner["label"], content["label"][:, :16, 28:44, 12:28])


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_mask_kept_as_places_is_the_mask(mirrored):
    rng = np.random.default_rng(3)
    image, mask = rng.random((1, 30, 12, 25)) + 1, (rng.random((2, 30, 12, 25)) > 0.7).astype(np.uint8)
    box = np.array(bounding_box(image))
    dense = volume("dense", lambda: {"image": image, "label": mask}, box)
    places = volume("places", lambda: {"image": image}, box, mask)
    np.testing.assert_array_equal(dense.lesions, places.lesions)
    for _ in range(20):
        centre = rng.integers((30, 12, 25))
        one, other = (crop(v, centre, SIZE, mirrored) for v in (dense, places))
        np.testing.assert_array_equal(one["label"], other["label"])
        np.testing.assert_array_equal(one["image"], other["image"])


def test_joined_images_are_drawn():
    data = patches(same_patch=1.0, lesion=0.0)
    shape = (1, 40, 40, 40)
    data.join("pseudo", lambda: {"image": np.full(shape, -7.0, np.float32)}, WHOLE, np.ones(shape, np.uint8))
    seen = [float(data[i]["labeled"]["image"][k, 0, 8, 8, 8]) == -7 for i in range(100) for k in range(3)]
    assert 0.25 < np.mean(seen) < 0.42  # one of three
    data.labeled_share = 1.0
    assert not any((data[i]["labeled"]["image"] == -7).any() for i in range(20))


def test_weights_of_some_are_ones_of_the_others():
    data = patches(same_patch=1.0, lesion=0.0)
    shape = (1, 40, 40, 40)
    arrays = {"image": np.full(shape, -7.0, np.float32), "label": np.ones(shape, np.float16)}
    data.join("pseudo", lambda: {**arrays, "weight": np.full(shape, 0.25, np.float16)}, WHOLE)
    for iteration in range(20):
        batch = data[iteration]["labeled"]
        if "weight" in batch:
            pseudo = (batch["image"] == -7).flatten(1).all(1)
            assert (batch["weight"][pseudo] == 0.25).all()
            assert (batch["weight"][~pseudo] == 1).all()
            assert pseudo.any()
            return
    pytest.fail("the weighted volume was never drawn")


def test_unlabelled_patches_take_turns():
    unlabeled = Volumes([(40, 40, 40), (50, 40, 40)], seed=1)
    data = PairedPatches(Volumes([(40, 44, 36)]), unlabeled, SIZE, unlabeled_batch=1)
    names = [data[i]["unlabeled"]["image"].meta["filename_or_obj"] for i in range(4)]
    assert [name[0] if isinstance(name, list) else name for name in names] == ["scan0_1.nii.gz", "scan1_1.nii.gz"] * 2
    assert "label" not in data[0]["unlabeled"]


def test_a_growing_loader_sees_what_joined():
    data = patches(same_patch=1.0, lesion=0.0)
    loader = PairedLoader(data, iterations=4, num_workers=1, growing=True)
    assert len(list(loader)) == 4
    shape = (1, 40, 40, 40)
    data.join("pseudo", lambda: {"image": np.full(shape, -7.0, np.float32)}, WHOLE, np.ones(shape, np.uint8))
    data.labeled.clear()
    assert all((batch["labeled"]["image"] == -7).all() for batch in loader)
    assert loader.position == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs": 0}, "pairs must be at least 1"),
        ({"patch_size": (20, 16, 16)}, "multiples of 16"),
        ({"lesion": 1.5}, "lesion must be a probability"),
        ({"labeled_share": -0.1}, "labeled_share must be a probability"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        PairedPatches(Volumes([(40, 40, 40)]), **{"patch_size": SIZE, **settings})


def test_refuses_nothing_to_train_on():
    with pytest.raises(ValueError, match="at least one volume"):
        PairedPatches(Volumes([]), patch_size=SIZE)
