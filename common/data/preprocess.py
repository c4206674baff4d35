"""Preprocessing of brain MRI: orientation, voxel size, bias field, brain mask and grey values, as files beside."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import itk
import nibabel
import numpy as np
from nibabel.processing import resample_from_to
from nibabel.spaces import vox2out_vox
from scipy import ndimage
from tqdm import tqdm

from common.data.brain_mask import brain_mask, is_brain_extracted, nonzero_mask
from common.data.files import ITK_SUFFIXES, NIFTI_SUFFIXES, file_stem, file_suffix
from common.data.volume_files import is_brain_mask, is_flair, is_lesion_mask, is_mask
from common.data.volumes import read_volume, read_volume_mask, save_volume
from common.files import read_json, replacing

VOLUME = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
N4_SHRINK_MM = 4.0  # the bias field is smooth: it is found on voxels this large
_logger = logging.getLogger(__name__)


def preprocess(
    source: str | Path,
    destination: str | Path,
    spacing: float = 1.0,
    n4: bool = True,
    extract_brain: bool = True,
) -> None:
    """Bring all brain MRI volumes of a folder into the form that training wants, as new files below another folder.

    Each volume is turned to RAS, resampled to isotropic voxels, corrected for its bias field (N4), set to 0 outside of
    the brain, and its grey values brought to mean 0 and standard deviation 1 in the brain. Masks of lesions beside it
    go the same way. Files keep their relative names (as .nii.gz), so that DESTINATION has the layout of SOURCE.

    The brain is that of a file called brain mask beside the volume; a volume whose outside is 0 already is taken to be
    brain-extracted; for others a brain mask is found by classical means, which is rough: a dedicated tool (SynthStrip,
    HD-BET) run before is better. What has been done with the same
    settings is skipped; a volume that cannot be read is named and left out.

    Args:
        source: folder of NIfTI files (or MHD, NRRD) and of DICOM series, one in each folder; names with mask, lesion,
            seg, consensus, gt or label as a word are masks of the volume in their folder or of the same stem.
        destination: folder to write to; never the source.
        spacing: side of the voxels in mm.
        n4: correct the bias field.
        extract_brain: look for the brain where it has not been extracted.
    """
    source, destination = Path(source), Path(destination)
    if not source.is_dir():
        raise FileNotFoundError(f"{source} must be a folder of volumes, got none.")
    if destination.resolve() == source.resolve() or source.resolve() in destination.resolve().parents:
        raise ValueError(f"destination must lie outside of {source}, got {destination}: originals are never changed.")
    if destination.exists() and not destination.is_dir():
        raise NotADirectoryError(f"{destination} must be a folder to write to, got a file: give another.")
    if not 0.3 <= spacing <= 5:
        raise ValueError(f"spacing must be 0.3 to 5 mm, got {spacing}.")
    volumes, masks = find_volumes(source)
    if not volumes:
        raise FileNotFoundError(f"{source} must hold volumes (NIfTI, MHD, NRRD or DICOM series), got none.")
    settings = {"spacing": spacing, "n4": n4, "extract_brain": extract_brain}
    done, skipped, rough, failed = 0, 0, [], {}
    owned = {mask for volume in volumes for mask in masks_of(volume, volumes, masks)}
    for mask in masks:
        if mask not in owned:
            _logger.warning("%s belongs to no volume by its name and folder, and is left out.", mask)
    for volume in tqdm(volumes, unit="volume", disable=None):
        target = destination / _nifti_name(volume.relative_to(source))
        note = target.with_name(target.name.replace(".nii.gz", ".json"))
        own_masks = masks_of(volume, volumes, masks)
        wanted = {**settings, "sources": [_identity(file) for file in (volume, *own_masks)]}
        known = read_json(note, "remove it, and the volume is preprocessed again") if note.exists() else None
        if isinstance(known, dict) and known.get("settings") == wanted:
            skipped += 1
            continue
        try:
            facts = preprocess_volume(volume, own_masks, source, destination, **settings)
        except (ValueError, OSError) as error:
            failed[volume] = str(error)
            _logger.warning("Left out %s: %s", volume, error)
            continue
        done += 1
        rough += [volume] if facts["brain mask"] == "found here" else []
        with replacing(note) as temporary:  # last: says that the files are whole
            temporary.write_text(json.dumps({"settings": wanted, **facts}, indent=1))
    print(f"{done} volumes preprocessed, {skipped} had been before, {len(failed)} left out; in {destination}")
    if rough:
        print(
            f"Warning: for {len(rough)} volumes the brain was found by classical means, which is rough. Look at them, "
            f"or run a dedicated tool (SynthStrip, HD-BET) before."
        )
    for volume, reason in failed.items():
        print(f"Left out {volume}: {reason}")
    if not done and not skipped:
        raise ValueError(
            f"{source} must hold a volume that can be read, got {len(failed)} that cannot, as named above."
        )


def find_volumes(folder: Path) -> tuple[list[Path], list[Path]]:
    """All volumes below a folder (files, and folders with DICOM slices), and all masks."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    images = [path for path in files if path.name.lower().endswith(VOLUME)]
    series = sorted({path.parent for path in files if path.suffix.lower() in (".dcm", ".ima")})
    masks = [path for path in images if is_mask(path.name)]
    return [path for path in images if path not in masks] + series, masks


def masks_of(volume: Path, volumes: list[Path], masks: list[Path]) -> list[Path]:
    """The masks that belong to a volume: those in its folder if it is the only FLAIR or volume there, or of its stem.

    In ISBI's layout ``masks/training01_01_mask1.nii`` belongs to ``preprocessed/training01_01_flair_pp.nii``, in
    MSSEG's ``p1/Consensus.nii`` to ``p1/FLAIR.nii`` and not to ``p1/T1.nii``.
    """
    beside = [other for other in volumes if other.parent == volume.parent]
    flair = [other for other in beside if is_flair(other.name)]
    alone = beside == [volume] or flair == [volume]
    stem = re.split(r"[_\-. ]?flair", _stem(volume), flags=re.IGNORECASE)[0]
    found = []
    for mask in masks:
        near = mask.parent in (volume.parent, *volume.parents[1:2]) or mask.parent.parent == volume.parent.parent
        same = bool(stem) and re.match(re.escape(stem) + r"([_\-. ]|$)", _stem(mask), re.IGNORECASE) is not None
        if (alone and mask.parent == volume.parent) or (same and near):
            found.append(mask)
    return found


def preprocess_volume(
    volume: Path, masks: list[Path], source: Path, destination: Path, spacing: float, n4: bool, extract_brain: bool
) -> dict[str, Any]:
    """Writes one volume and its masks; gives what is worth knowing about it."""
    start = time.perf_counter()
    given = read_volume(volume)
    image = nibabel.as_closest_canonical(given)
    grid = vox2out_vox(image, (spacing,) * 3)
    was_extracted = is_brain_extracted(image.get_fdata(dtype=np.float32))
    moved = resample_from_to(image, grid, order=1)
    values = moved.get_fdata(dtype=np.float32)
    kind = "whole field of view"
    inside = np.ones(values.shape, bool)
    given_brain = [file for file in masks if is_brain_mask(file.name)]
    if given_brain:
        known = nibabel.as_closest_canonical(read_volume_mask(given_brain[0], like=given))
        kind, inside = "given", np.asarray(resample_from_to(known, grid, order=0).dataobj) > 0
    elif was_extracted:
        # where interpolation mixed brain and outside is outside
        known = nibabel.Nifti1Image(nonzero_mask(image.get_fdata(dtype=np.float32)).astype(np.float32), image.affine)
        kind, inside = "was extracted", resample_from_to(known, grid, order=1).get_fdata() > 0.5
    elif extract_brain:
        try:
            kind, inside = "found here", brain_mask(values, spacing)
        except ValueError as error:
            raise ValueError(f"{volume}: no brain could be found, {error}: extract it by another tool.") from error
    if n4:
        values = correct_bias(values, inside, spacing)
    values = normalise(values, inside, str(volume))
    save_volume(destination / _nifti_name(volume.relative_to(source)), values, moved.affine)
    lesions = [file for file in masks if is_lesion_mask(file.name)]
    for file in lesions:
        mask = nibabel.as_closest_canonical(read_volume_mask(file, like=given))
        on_grid = np.asarray(resample_from_to(mask, grid, order=0).dataobj).astype(np.uint8)
        save_volume(destination / _nifti_name(file.relative_to(source)), on_grid, moved.affine)
    return {
        "shape": list(map(int, values.shape)),
        "voxels before": [round(float(side), 4) for side in nibabel.affines.voxel_sizes(given.affine)],
        "orientation before": "".join(nibabel.aff2axcodes(given.affine)),
        "brain mask": kind,
        "brain ml": round(float(inside.sum() * spacing**3 / 1000), 1),
        "masks": [str(file.relative_to(source)) for file in lesions],
        "seconds": round(time.perf_counter() - start, 1),
    }


def correct_bias(values: np.ndarray, inside: np.ndarray, spacing: float) -> np.ndarray:
    """N4 (Tustison et al. 2010): the field is found on large voxels and divided out at full resolution.

    Args:
        values: image ``X Y Z``; where it is not positive it stays as it is.
        inside: mask in which the field is found.
        spacing: side of the voxels in mm.
    """
    factor = spacing / N4_SHRINK_MM
    low, positive = min(float(values[inside].min()), 0.0), inside & (values > 0)
    small = ndimage.zoom(np.maximum(values - low, 0), factor, order=1)
    weight = ndimage.zoom(positive.astype(np.float32), np.array(small.shape) / positive.shape, order=1) > 0.5
    image, mask = (itk.image_from_array(np.ascontiguousarray(a.T)) for a in (small, weight.astype(np.uint8)))
    image.SetSpacing([N4_SHRINK_MM] * 3)
    mask.SetSpacing([N4_SHRINK_MM] * 3)
    kind = itk.Image[itk.F, 3]
    n4 = itk.N4BiasFieldCorrectionImageFilter[kind, itk.Image[itk.UC, 3], kind].New(image, MaskImage=mask)
    n4.SetMaximumNumberOfIterations([50, 50, 30])
    n4.SetNumberOfFittingLevels(3)
    n4.Update()
    corrected = itk.array_from_image(n4.GetOutput()).T
    log_field = np.where(weight & (corrected > 0), np.log(np.maximum(small, 1e-6) / np.maximum(corrected, 1e-6)), 0)
    # outside of the mask the field is that of the nearest voxel inside
    nearest = ndimage.distance_transform_edt(~weight, return_distances=False, return_indices=True)
    log_field = ndimage.gaussian_filter(log_field[tuple(nearest)], 1.0)
    field = np.exp(ndimage.zoom(log_field, np.array(values.shape) / log_field.shape, order=1))
    return (values / field).astype(np.float32)


def normalise(values: np.ndarray, inside: np.ndarray, name: str) -> np.ndarray:
    """Mean 0 and standard deviation 1 of the values between the 1st and 99th percentile inside; 0 outside."""
    low, high = np.percentile(values[inside], [1, 99])
    usual = values[inside & (values >= low) & (values <= high)]
    if not usual.std() > 0:
        raise ValueError(f"{name}: the brain must have different grey values, got one: look at the image.")
    scaled = (values - usual.mean()) / usual.std()
    # a brain's voxel that happens to be 0 must not count as outside
    return np.where(inside, np.where(scaled == 0, 1e-4, scaled), 0).astype(np.float32)


def _stem(path: Path) -> str:
    return file_stem(path) if file_suffix(path) in VOLUME else path.name  # x.dcm is a folder's


def _nifti_name(relative: Path) -> Path:
    return relative.with_name(f"{_stem(relative)}.nii.gz")


def _identity(path: Path) -> list:
    if path.is_dir():
        return [_identity(file) for file in sorted(path.iterdir()) if file.is_file()]
    return [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns]
