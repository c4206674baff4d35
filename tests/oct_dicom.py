"""Writes ophthalmic tomography images, DICOM files of several frames, for tests of what reads them."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, OphthalmicTomographyImageStorage, generate_uid

# along a B-scan, in depth, between B-scans; a B-scan is a row to the left (LPS), depth points to the back
SPACING, ORIGIN = (0.0117, 0.0039, 0.12), (-3.0, 10.0, 40.0)
ROW, COLUMN = (1.0, 0, 0), (0, 1.0, 0)
OBLIQUE = ((0.8, 0.6, 0), (0, 0, -1.0))
VALUES = np.random.default_rng(0).integers(0, 250, (5, 6, 7))  # X, depth, B-scans
PLACES = SPACING[2] * np.arange(7)


def items(**attributes):
    item = Dataset()
    for name, value in attributes.items():
        setattr(item, name, value)
    return Sequence([item])


def write(path, values=VALUES, row=ROW, column=COLUMN, order=None, places=None, shared=(), measures=None, **attributes):
    """An ophthalmic tomography image; ``places`` are the frames' along their normal in mm, None for none at all."""
    order = list(range(values.shape[2])) if order is None else order
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, OphthalmicTomographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = OphthalmicTomographyImageStorage, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.StudyInstanceUID, data.Modality = generate_uid(), generate_uid(), "OPT"
    data.Columns, data.Rows, data.NumberOfFrames = values.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    group = Dataset()
    measures = (
        {"PixelSpacing": [SPACING[1], SPACING[0]], "SliceThickness": SPACING[2]} if measures is None else measures
    )
    group.PixelMeasuresSequence = items(**measures)
    group.PlaneOrientationSequence = items(ImageOrientationPatient=[*row, *column])
    for name, value in dict(shared).items():
        setattr(group, name, value)
    data.SharedFunctionalGroupsSequence = Sequence([group])
    frames = [Dataset() for _ in order]
    if places is not None:
        for frame, index in zip(frames, order, strict=True):
            position = np.array(ORIGIN) + places[index] * np.cross(row, column)
            frame.PlanePositionSequence = items(ImagePositionPatient=position.tolist())
    data.PerFrameFunctionalGroupsSequence = Sequence(frames)
    data.PixelData = values[..., order].T.astype(np.uint8).tobytes()
    for name, value in attributes.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path
