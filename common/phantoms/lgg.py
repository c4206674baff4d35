"""Writes invented brain MRI with gliomas in the layout of TCGA-LGG."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from common.data.layouts.lgg import CLASSES, lgg_datalist
from common.phantoms import Phantom
from common.phantoms.brain import smooth_noise
from common.phantoms.folder import made_beside, require_at_least, require_empty, sizes_of_parts
from common.phantoms.head import Head, make_head
from common.phantoms.tumour import Tumour, make_tumour

SMALLEST = 48
FINE = 128  # below this size heads are drawn at twice the size, since folds are thinner than pixels
# Signal before contrast, on FLAIR, after contrast.
TISSUES = {
    "air": (0.02, 0.02, 0.02),
    "fat": (1.0, 0.92, 1.0),
    "muscle": (0.42, 0.34, 0.48),
    "mucosa": (0.5, 0.85, 0.85),
    "bone": (0.10, 0.09, 0.10),
    "marrow": (0.55, 0.6, 0.6),
    "eye": (0.16, 0.12, 0.16),
    "white": (0.50, 0.40, 0.51),
    "grey": (0.41, 0.45, 0.43),
    "csf": (0.17, 0.12, 0.18),
    "gliosis": (0.44, 0.72, 0.45),
    "vessel": (0.34, 0.22, 0.95),
    "oedema": (0.41, 0.66, 0.42),
    "tumour": (0.31, 0.76, 0.33),
    "dense": (0.38, 0.62, 0.42),
    "cyst": (0.17, 0.24, 0.18),
    "enhancing": (0.40, 0.66, 0.92),
}
TUMOUR = ("oedema", "tumour", "dense", "enhancing")
FLAIR, AFTER = 1, 2


@dataclass(frozen=True)
class Site:
    """A hospital's scanner.

    Args:
        gain: grey value of the signal 1.
        gamma: exponent of the signal, of T1 and of FLAIR.
        tumour: how far tumours stand out on FLAIR.
        noise: standard deviation of the Rician noise, as a signal.
        coil: how strongly the signal changes over the head.
        blur: standard deviation of the blur in mm.
    """

    gain: float
    gamma: tuple[float, float]
    tumour: float
    noise: float
    coil: float
    blur: float


SITES = {
    "A": Site(140, (1.0, 1.0), 1.0, 0.008, 0.10, 0.6),
    "B": Site(125, (0.8, 1.2), 0.9, 0.018, 0.20, 1.0),
    "C": Site(160, (1.2, 1.4), 1.1, 0.012, 0.30, 0.3),
    "D": Site(110, (0.7, 0.8), 0.8, 0.025, 0.15, 1.3),
}


def make_lgg_phantom(
    directory: str | Path, patients: int = 24, size: int = 64, slices: int = 20, seed: int = 0
) -> Path:
    """Write axial slices of heads with a glioma, from four sites in turn.

    ==========================================  ===========================================================
    ``PHANTOM_A_0001/PHANTOM_A_0001_1.tif``     three channels: T1 before contrast, FLAIR, T1 after contrast
    ``.../PHANTOM_A_0001_1_mask.tif``           255 where FLAIR shows tumour or oedema, else 0
    ==========================================  ===========================================================

    As of the real ones, most slices hold no tumour, what has been missing is replaced by FLAIR, and FLAIR is black on
    the lowest slice of some. Tumours are not all that is bright.

    Args:
        directory: folder to make; it must not hold anything yet.
        patients: number of patients.
        size: pixels along a row, for 240 mm.
        slices: number of slices, from the face to the top of the head.
        seed: the same seed gives the same patients.

    Raises:
        FileExistsError: when the folder holds something.
        ValueError: when a number is out of its range.
    """
    folder = require_empty(directory)
    require_at_least(seed, size=(size, SMALLEST), patients=(patients, 1), slices=(slices, 8))
    with made_beside(folder) as made:
        for number in tqdm(range(1, patients + 1), desc="phantoms", unit="patient", disable=None):
            site = list(SITES)[(number - 1) % len(SITES)]
            patient = f"PHANTOM_{site}_{number:04d}"
            (made / patient).mkdir()
            image, mask = make_patient(site, size, slices, seed, number)
            for index in range(slices):
                start = made / patient / f"{patient}_{index + 1}"
                Image.fromarray(image[:, :, index]).save(f"{start}.tif")
                Image.fromarray(mask[:, :, index] * np.uint8(255)).save(f"{start}_mask.tif")
    return folder


def make_patient(site: str, size: int, slices: int, seed: int, patient: int) -> tuple[np.ndarray, np.ndarray]:
    """Image ``rows columns slices channels`` in 8 bits and mask ``rows columns slices`` of 0 and 1."""
    shape_rng, scan_rng = (np.random.default_rng([seed, patient, part]) for part in (61, 62))
    times = 2 if size < FINE else 1
    head = make_head(shape_rng, times * size, slices)
    tumour = make_tumour(shape_rng, head)
    image = scan(head, tumour, SITES[site], times, scan_rng)
    return image, (_shrunk(tumour.extent, times) > 0.5).astype(np.uint8)


def scan(head: Head, tumour: Tumour, site: Site, times: int, rng: np.random.Generator) -> np.ndarray:
    """What a site's scanner makes of a head, in pixels ``times`` as wide; 8 bits, channels last."""
    contrast = site.tumour * rng.uniform(0.45, 1.25)
    signal = np.full((3, *head.inside.shape), TISSUES["air"][0], np.float32)
    for tissue, share in head.layers + tumour.layers:
        values = np.array(TISSUES[tissue])
        if tissue in TUMOUR:
            white = TISSUES["white"][FLAIR]
            values[FLAIR] = white + contrast * (values[FLAIR] - white)
        for channel, value in enumerate(values):
            signal[channel] += share * (np.float32(value) - signal[channel])
    signal[2] *= rng.uniform(0.8, 1.2)
    found = [
        _acquired(_shrunk(one, times), channel, head.voxel, site, times, rng) for channel, one in enumerate(signal)
    ]
    if rng.random() < 0.15:
        found[rng.choice([0, AFTER])] = found[FLAIR]
    if rng.random() < 0.2:
        found[FLAIR][..., 0] = 0
    return np.clip(np.stack(found, -1), 0, 255).astype(np.uint8)


def _acquired(signal: np.ndarray, channel: int, sides: tuple, site: Site, times: int, rng: np.random.Generator):
    """One sequence: contrast, an uneven coil, blur, ghosts of a moving head, noise."""
    voxel = (sides[0] * times, sides[1] * times, sides[2])
    gamma = site.gamma[channel == FLAIR] * rng.uniform(0.9, 1.1)
    coil = smooth_noise(rng, signal.shape, voxel, 120.0)
    signal = signal**gamma * np.exp(site.coil * np.clip(coil, -2, 2))
    sigma = site.blur / voxel[0]
    signal = ndimage.gaussian_filter(signal, (sigma, sigma, 0)) if sigma > 0.1 else signal
    if rng.random() < 0.3:
        shift, strength = int(rng.integers(signal.shape[0] // 8, signal.shape[0] // 3)), rng.uniform(0.02, 0.08)
        signal = signal + strength * (np.roll(signal, shift, 0) + np.roll(signal, -shift, 0))
    real, imaginary = rng.normal(0, site.noise * rng.uniform(0.6, 1.4), (2, *signal.shape))
    return np.sqrt((signal + real) ** 2 + imaginary**2) * site.gain * rng.uniform(0.8, 1.25)


def _shrunk(values: np.ndarray, times: int) -> np.ndarray:
    """Means over ``times`` x ``times`` pixels."""
    rows, columns, slices = values.shape
    return values.reshape(rows // times, times, columns // times, times, slices).mean((1, 3))


def phantom_datalist(
    directory: str | Path, labeled: int = 2, split: int = 0, seed: int = 0, output: str | Path | None = None
) -> dict | None:
    """A datalist of a phantom: an eighth of the patients for validation, a quarter for test.

    Raises:
        FileNotFoundError: when the folder is no phantom.
        ValueError: when there are fewer patients than asked for.
    """
    number = len([path for path in Path(directory).glob("PHANTOM_*") if path.is_dir()])
    name = f"LGG phantom {Path(directory).name}"
    return lgg_datalist(directory, labeled, split=split, seed=seed, name=name, output=output, **sizes_of_parts(number))


PHANTOM = Phantom(make_lgg_phantom, phantom_datalist, CLASSES, "multilabel")
