"""Pseudo-labels as NIfTI files with a manifest that says where each comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from common.data.volumes import save_volume
from common.files import replacing

MANIFEST, LATENTS = "manifest.json", "latents.npz"


class PseudoLabelStore:
    """The folder ``pseudo_labels`` of a run.

    It holds ``<number>_<image>_step<s>.nii.gz`` for each image that joined in step s (and ``..._weight.nii.gz`` from
    methods that weight voxels), the weights ``step<s>.pt`` of the network that made them, ``latents.npz`` and
    ``manifest.json`` with one entry for each image in the order of joining: image, step, score, neighbours with their
    distances, checkpoint, label, lesion volume in ml and, where the truth is known, the Dice of the pseudo-label.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def save(self, name: str, label: np.ndarray, weight: np.ndarray | None, affine: np.ndarray) -> None:
        """Writes a pseudo-label ``C H W [D]`` and, where there is one, its weight, with one channel or C.

        A mask or a label map is one compressed file; of anything else patches are read from a NumPy file beside it, in
        half precision.
        """
        if weight is not None or not (label == label.round()).all():
            for part, values in (("", label), ("_weight", weight)):
                if values is not None:
                    with replacing(self.folder / f"{name}{part}.npy") as temporary:
                        np.save(temporary, values.astype(np.float16), allow_pickle=False)
        if weight is not None:
            self._save_nifti(f"{name}_weight", weight, affine)
        self._save_nifti(name, label, affine)

    def is_soft(self, name: str) -> bool:
        """Whether a pseudo-label holds more than whole numbers, or has a weight."""
        return (self.folder / f"{name}.npy").exists()

    def soft_label(self, name: str) -> dict[str, np.ndarray]:
        """``label`` and possibly ``weight`` of a soft pseudo-label, mapped into memory."""
        files = {"label": self.folder / f"{name}.npy", "weight": self.folder / f"{name}_weight.npy"}
        return {key: np.load(file, mmap_mode="r", allow_pickle=False) for key, file in files.items() if file.exists()}

    def load_label(self, name: str) -> np.ndarray:
        """A pseudo-label ``C H W [D]`` as it was written.

        Raises:
            FileNotFoundError: when it is not there.
        """
        path = self.folder / f"{name}.nii.gz"
        if not path.exists():
            raise FileNotFoundError(
                f"{path} must be a pseudo-label of this run, got no such file: resume with the folder as it was, or "
                f"start anew without resume."
            )
        values = np.asanyarray(nibabel.load(path).dataobj)  # H W D C
        values = np.moveaxis(values, -1, 0) if values.ndim == 4 else values.reshape(1, *values.shape)
        return values[..., 0] if values.ndim == 4 and values.shape[-1] == 1 else values

    def _save_nifti(self, name: str, values: np.ndarray, affine: np.ndarray) -> None:
        """One channel as a volume, several as its fourth axis; bytes where the values are whole. 2D is one slice."""
        kind = np.uint8 if (values == values.round()).all() else np.float32
        values = values[..., None] if values.ndim == 3 else values
        values = values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)
        save_volume(self.folder / f"{name}.nii.gz", values.astype(kind), affine)

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
