"""Serves a bundle in MONAI Label, with invented studies to annotate: `make label-demo`.

    .venv-label/bin/python label/demo.py FOLDER [BUNDLE] [--port 8000]

makes FOLDER/studies, what an annotator would draw in FOLDER/truth, and FOLDER/app with a copy of the bundle, set as its
demonstration is, and starts the server. What is there already stays.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monai.bundle import ConfigParser
from PIL import Image

from common.bundle_run import BUNDLES
from common.data.files import file_stem, file_suffix
from common.data.labels import load_label, load_volume_label
from common.data.layouts.monailabel import PATIENTS
from common.data.readers import read_image
from common.data.volumes import is_volume, read_volume
from common.label_space import LabelSpace
from common.phantoms import find_phantom
from common.untrained import save_untrained

APP = Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle"
MADE = ("models", "eval", "eval-*", "cache", "runs")  # by running a bundle
SERVED = ["*.nii.gz", "*.nii", "*.png", "*.tif", "*.dcm"]


def make_studies(folder: Path, bundle: str, **options: Any) -> None:
    """Writes invented images that a bundle is for as they would be sent to the server: PNG, TIFF or NIfTI.

    Args:
        folder: gets ``studies``, with the images and patients.csv, and ``truth``, with a label map of each, 0 for the
            background and 1, 2 and so on for the classes.
        bundle: the bundle's name, which begins with its phantom's.
        options: of the phantom: patients, size and so on.
    """
    phantom = find_phantom(bundle.split("_")[0])
    labels = LabelSpace(list(phantom.classes), phantom.mode)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        made = Path(place) / "phantom"
        phantom.make(made, **options)
        datalist = phantom.datalist(made)
        items = [item for part in ("labeled", "unlabeled", "validation", "test") for item in datalist[part]]
        items = {item["image"]: item for item in items}.values()  # of several labelled slices it is one volume
        for name in ("studies", "truth"):
            (Path(place) / name).mkdir()
        stems = [file_stem(item["image"]) for item in items]
        alike = len(set(stems)) < len(stems)  # each in a folder of its own
        names = [Path(item["image"]).parent.name for item in items] if alike else stems
        for name, item in zip(names, items, strict=True):
            write_study(name, item, labels, Path(place))
        with (Path(place) / "studies" / PATIENTS).open("w", newline="") as file:
            rows = zip(names, [item["patient"] for item in items], strict=True)
            csv.writer(file).writerows([("image", "patient"), *rows])
        for name in ("truth", "studies"):
            (Path(place) / name).rename(folder / name)


def write_study(name: str, item: Mapping[str, Any], labels: LabelSpace, folder: Path) -> None:
    """Writes an image and its label map under a name."""
    image, truth = item["image"], item.get("label", item.get("truth"))
    if is_volume(image):
        volume = read_volume(image)
        values = label_map(load_volume_label(truth, labels, volume), labels)
        nibabel.save(nibabel.Nifti1Image(values, volume.affine), folder / "truth" / f"{name}.nii.gz")
        nibabel.save(volume, folder / "studies" / f"{name}.nii.gz")
        return
    values = label_map(load_label(truth, labels), labels)
    Image.fromarray(values.T).save(folder / "truth" / f"{name}.png")
    if file_suffix(image) == ".tif":
        shutil.copy(image, folder / "studies" / f"{name}.tif")
    else:
        grey = read_image(image)
        Image.fromarray(np.rint(grey / grey.max() * 255).astype(np.uint8).T).save(folder / "studies" / f"{name}.png")


def label_map(label: np.ndarray, labels: LabelSpace) -> np.ndarray:
    """One number for each pixel or voxel: of classes that overlap the later one."""
    if not labels.multilabel:
        return label[0].astype(np.uint8)
    numbers = np.arange(1, len(label) + 1).reshape(-1, *[1] * (label.ndim - 1))
    return (label * numbers).max(0).astype(np.uint8)


def make_app(folder: Path, bundle: str, settings: Mapping[str, Any]) -> Path:
    """Copies MONAI Label's app for bundles, and a bundle into it, with settings and weights; gives the bundle's copy.

    Settings stand in ``train.json`` by their id, and in ``inference.json``, where it has them, too.
    """
    app = folder / "app"
    shutil.copytree(APP, app, ignore=shutil.ignore_patterns("__pycache__"))
    (app / "main.py").rename(app / "stock.py")
    shutil.copy(Path(__file__).with_name("strategies.py"), app / "main.py")
    copy = app / "model" / bundle
    shutil.copytree(BUNDLES / bundle, copy, ignore=shutil.ignore_patterns(*MADE))
    for name in ("train", "inference"):
        file = copy / "configs" / f"{name}.json"
        config = ConfigParser(json.loads(file.read_text()))
        for key, value in settings.items():
            if name == "train" or key in config:
                config[key] = value
        file.write_text(json.dumps(config.get(), indent=4))
    save_untrained(copy)
    return copy


def server(folder: Path, bundle: str, port: int) -> tuple[list[str], dict[str, str]]:
    """The command that starts the server, and its environment."""
    conf = {"models": bundle, "zoo_source": "local", "sam2": "false"}
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--app", str(folder / "app"), "--studies", str(folder / "studies")]
    command += [word for pair in conf.items() for word in ("--conf", *pair)]
    return command, {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps(SERVED)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a bundle in MONAI Label, with invented studies to annotate.")
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "bundle", nargs="?", default="jsrt_rpg", choices=sorted(path.name for path in BUNDLES.iterdir())
    )
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    folder = given.folder.resolve() / given.bundle
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "studies").exists():
        make_studies(folder, given.bundle)
    if not (folder / "app").exists():
        make_app(folder, given.bundle, json.loads((BUNDLES / given.bundle / "configs" / "demo.json").read_text()))
    command, environment = server(folder, given.bundle, given.port)
    print(f"Serving {folder / 'studies'}; what an annotator would draw lies in {folder / 'truth'}.", flush=True)
    os.chdir(folder)
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    main()
