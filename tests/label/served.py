"""A MONAI Label server with one bundle, and a client that asks it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "label"))
import demo  # noqa: E402

ANNOTATED = 5
EPOCHS = 2  # fewer than there are between two validations, and than the configurations have
SECONDS = 1800  # for the server to start, or to train, on a machine that does much else


class Served:
    """A server with one bundle, and the folder with its studies and what an annotator draws."""

    def __init__(self, folder: Path, bundle: str) -> None:
        self.folder, self.bundle, self.copy = folder, bundle, folder / "app" / "model" / bundle
        self.log = folder / "log.txt"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.client = MONAILabelClient(f"http://127.0.0.1:{port}", tmpdir=str(folder))
        command, environment = demo.server(folder, bundle, port)
        environment |= {"OMP_NUM_THREADS": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        self.wait(self.up, SECONDS)

    def up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            return bool(self.client.info())
        except (OSError, MONAILabelClientException):
            return False

    def wait(self, done: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.5)

    def names(self) -> list[str]:
        return sorted(self.client.datastore()["objects"])

    def chosen(self) -> list[str]:
        """Images to annotate, of several patients, and not the first of each."""
        names = self.names()
        step = len(names) // ANNOTATED
        return names[step // 2 :: step][:ANNOTATED]

    def truth(self, name: str) -> Path:
        return next((self.folder / "truth").glob(f"{name}.*"))

    def infer(self, name: str) -> np.ndarray:
        """A mask as it comes from the server, axes x and y first."""
        kind = "".join(self.truth(name).suffixes)
        return values(Path(self.client.infer(self.bundle, name, {"result_extension": kind})[0]))

    def annotate(self, names: list[str], file: Path | None = None) -> None:
        for name in names:
            self.client.save_label(name, str(file or self.truth(name)), "final", {})

    def run(self) -> dict[str, Any]:
        """What the last training says of itself."""
        return json.loads((self.copy / "eval" / "run.json").read_text())

    def train(self, **changes: Any) -> tuple[str, str]:
        """What became of a training, and the last it said."""
        self.client.train_start(self.bundle, {"max_epochs": EPOCHS, "val_split": 0.2, **changes})
        self.wait(lambda: self.client.train_status()["status"] not in ("SUBMITTED", "RUNNING"), SECONDS)
        status = self.client.train_status()
        return status["status"], "\n".join(status.get("details", []))


def values(file: Path) -> np.ndarray:
    if file.suffix == ".png":
        return np.asarray(Image.open(file)).T
    return np.asarray(nibabel.load(file).dataobj)


def as_dicom(folder: Path) -> None:
    """Radiographs as DICOM files that say whom they show, in place of the pictures and their list."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    for file in sorted((folder / "studies").glob("*.png")):
        pixels, meta = np.asarray(Image.open(file)), FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID = ExplicitVRLittleEndian, generate_uid()
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
        data = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        data.is_little_endian, data.is_implicit_VR = True, False
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.StudyInstanceUID, data.SeriesInstanceUID = generate_uid(), generate_uid()
        data.PatientID, data.PhotometricInterpretation, data.Modality = f"id {file.stem}", "MONOCHROME2", "CR"
        data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel, data.PixelRepresentation = 1, 0
        data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
        data.PixelData = pixels.tobytes()
        data.save_as(file.with_suffix(".dcm"), write_like_original=False)
        file.unlink()
    (folder / "studies" / "patients.csv").unlink()
