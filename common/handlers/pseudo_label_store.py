"""Pseudo-labels as NIfTI files with a manifest that says where each comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from common.files import replacing

MANIFEST, LATENTS = "manifest.json", "latents.npz"


class PseudoLabelStore:
    """The folder ``pseudo_labels`` of a run.

    It holds ``<image>_step<s>.nii.gz`` for each image that joined in step s (and ``..._weight.nii.gz`` from methods
    that weight voxels), the weights ``step<s>.pt`` of the network that made them, ``latents.npz`` and ``manifest.json``
    with one entry for each image in the order of joining: image, step, score, neighbours with their distances,
    checkpoint, label, lesion volume in ml and, where the truth is known, the Dice of the pseudo-label.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def save_label(self, name: str, label: np.ndarray, affine: np.ndarray) -> Path:
        """Writes one mask ``H W D`` (bytes where it holds 0 and 1 alone, else floats)."""
        hard = np.isin(np.unique(label), (0, 1)).all()
        volume = nibabel.Nifti1Image(label.astype(np.uint8 if hard else np.float32), affine)
        volume.header.set_xyzt_units("mm")
        path = self.folder / f"{name}.nii.gz"
        with replacing(path) as temporary:
            # replacing() keeps the last ending only, and nibabel chooses the compression by the name's end
            whole = temporary.with_name(temporary.name.removesuffix(".gz") + ".nii.gz")
            nibabel.save(volume, whole)
            whole.replace(temporary)
        return path

    def load_label(self, name: str) -> np.ndarray:
        """One mask ``1 H W D`` as it was written.

        Raises:
            FileNotFoundError: when it is not there.
        """
        path = self.folder / f"{name}.nii.gz"
        if not path.exists():
            raise FileNotFoundError(
                f"{path} must be a pseudo-label of this run, got no such file: resume with the folder as it was, or "
                f"start anew without resume."
            )
        return np.asanyarray(nibabel.load(path).dataobj)[None]

    def write_manifest(self, images: list[dict[str, Any]], set_aside: dict[str, str]) -> None:
        """Replaces the manifest."""
        content = {
            "images": images,
            "set_aside": [{"image": image, "reason": reason} for image, reason in set_aside.items()],
        }
        with replacing(self.folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(content, indent=1))

    def write_latents(self, latents: np.ndarray, images: list[str], steps: list[int]) -> None:
        """Replaces the latents: ``N d``, the images' names, and each one's step (0 labelled, -1 not joined)."""
        with replacing(self.folder / LATENTS) as temporary:
            np.savez(temporary, latents=latents.astype(np.float32), images=np.array(images), steps=np.array(steps))

    def read_latents(self) -> np.ndarray:
        """The latents ``N d`` as they were written.

        Raises:
            FileNotFoundError: when they are not there.
        """
        path = self.folder / LATENTS
        if not path.exists():
            raise FileNotFoundError(
                f"{path} must hold this run's latents, got no such file: resume with the folder as it was, or start "
                f"anew without resume."
            )
        with np.load(path, allow_pickle=False) as content:
            return content["latents"]


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Dice of two masks; 1 where both are empty."""
    total = one.sum() + other.sum()
    return float(2 * np.logical_and(one, other).sum() / total) if total else 1.0
