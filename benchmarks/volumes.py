"""Patches per second of the loader and of training, and seconds of sliding-window inference on a whole volume.

    python benchmarks/volumes.py [--volumes 4] [--small]

The batches' patches come from DecodedImages (memory-mapped arrays), and beside it from MONAI's PersistentDataset, which
reads a whole volume for each patch, and from the NIfTI files. `--small` takes the demonstration's network and patches.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.data import PersistentDataset
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, NormalizeIntensityd, Orientationd, RandSpatialCropd
from scipy import ndimage

from common.batches import Batches
from common.data import DecodedImages
from common.label_space import LabelSpace
from common.methods import Popcorn, Step
from common.networks import BasicUNet
from common.transforms import LoadVolumed
from common.views import Chain, Flip, ImageQuality

SHAPE = (182, 218, 182)
LABELS = LabelSpace(["lesion"])


def make_volumes(folder: Path, number: int) -> list[dict]:
    """Volumes of smooth noise within an ellipsoid, with spots as lesions, of the size of a registered brain."""
    place = np.stack(np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in SHAPE], indexing="ij"))
    brain = (place**2).sum(0) < 0.8
    items = []
    for index in range(number):
        rng = np.random.default_rng(index)
        coarse = rng.normal(100, 10, [n // 4 + 1 for n in SHAPE]).astype(np.float32)
        image = ndimage.zoom(coarse, 4, order=1)[tuple(slice(n) for n in SHAPE)] * brain
        mask = (image > np.percentile(image[brain], 99.5)).astype(np.uint8)
        files = {"image": folder / f"image{index}.nii.gz", "label": folder / f"label{index}.nii.gz"}
        for key, values in (("image", image), ("label", mask)):
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), files[key])
        items.append({key: str(path) for key, path in files.items()})
    return items


def per_second(function, number: int, patches: int = 1) -> float:
    function(0)
    start = time.perf_counter()
    for index in range(1, number + 1):
        function(index)
    return number * patches / (time.perf_counter() - start)


def time_batches(volumes: DecodedImages, items: list[dict], transform: Compose, size: tuple, pairs: int, folder: Path):
    """Patches per second of our batches and of what MONAI has; gives a batch."""
    settings = {"labeled_batch": 2 * pairs, "patch_size": size, "value_range": None, "foreground": 0.3}
    method = Popcorn(LABELS, selection="none")
    plain = Batches(volumes, None, LABELS, method, **settings)
    augmented = Batches(volumes, None, LABELS, method, weak=Chain([Flip([0]), ImageQuality()]), **settings)
    print("\nbatches, one thread          patches/s")
    print(f"DecodedImages                {per_second(lambda i: plain[i], 30, 2 * pairs):9.0f}")
    print(f"DecodedImages, augmented     {per_second(lambda i: augmented[i], 15, 2 * pairs):9.0f}")
    # its defaults drop the metadata or decode again each time
    persistent = PersistentDataset(items, transform, folder / "persistent", track_meta=True, weights_only=False)
    for index in range(len(items)):
        persistent[index]
    crop, number = RandSpatialCropd(["image", "label"], size, random_size=False), len(items)
    print(f"PersistentDataset            {per_second(lambda i: crop(dict(persistent[i % number])), 8):9.1f}")
    print(f"NIfTI files                  {per_second(lambda i: crop(transform(dict(items[i % number]))), 2):9.1f}")
    return plain[0]


def time_network(network: BasicUNet, batch: dict, image: torch.Tensor, size: tuple, device: torch.device) -> None:
    """Patches per second of training, and seconds of sliding windows over a whole volume."""
    method = Popcorn(LABELS, selection="none")
    optimizer = torch.optim.Adam(method.prepare(network), 1e-4)
    labeled = batch["labeled"]
    labeled |= {key: value.to(device) for key, value in labeled.items() if isinstance(value, torch.Tensor)}

    def step(_: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, enabled=device.type == "cuda"):
            loss = sum(method.losses(Step(LABELS, network, batch, 1)).values())
        loss.backward()
        optimizer.step()
        loss.item()

    patches = len(labeled["image"])
    print(f"\ntraining step                {per_second(step, 20 if device.type == 'cuda' else 3, patches):9.1f}")
    network.eval()
    for overlap in (0.25, 0.5):
        inferer = SlidingWindowInferer(size, sw_batch_size=4, overlap=overlap, mode="gaussian")
        start = time.perf_counter()
        with torch.no_grad(), torch.autocast(device.type, enabled=device.type == "cuda"):
            inferer(image, network).sum().item()
        seconds = time.perf_counter() - start
        print(f"sliding window {' x '.join(map(str, SHAPE))}, overlap {overlap}: {seconds:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=4)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    side, pairs = (32, 2) if arguments.small else (64, 4)
    features = (8, 8, 16, 32, 64, 8) if arguments.small else (32, 32, 64, 128, 256, 32)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = (side,) * 3
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}; patches of {side}^3, {features}")
    load = [LoadVolumed(["image", "label"]), Orientationd(["image", "label"], axcodes="RAS", labels=None)]
    transform = Compose([*load, NormalizeIntensityd("image", nonzero=True)])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        items = make_volumes(folder, arguments.volumes)
        start = time.perf_counter()
        volumes = DecodedImages(items, transform, folder / "cache")
        print(f"decoded and cached: {(time.perf_counter() - start) / len(items):.2f} s a volume")
        again = DecodedImages(items, transform, folder / "cache")
        print(f"found in the cache: {again.hits} of {len(items)}")
        batch = time_batches(volumes, items, transform, size, pairs, folder)
        network = BasicUNet(3, 1, 1, features, norm="batch").to(device, memory_format=torch.channels_last_3d)
        time_network(network, batch, volumes[0]["image"].as_tensor()[None].to(device), size, device)


if __name__ == "__main__":
    main()
