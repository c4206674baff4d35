"""nnU-Net on one of our datalists: planned, trained and run by its own commands, scored by our metrics.

    python benchmarks/nnunet.py lungs.json --bundle jsrt_rpg --size 64 64 --nnunet NNENV/bin --output nn/lungs
    python benchmarks/nnunet.py hippocampus.json --bundle ms_popcorn --nnunet NNENV/bin --output nn/hippocampus

Images are read, scaled and resized as the bundle does it, and nnU-Net learns from the labelled ones alone: neither the
validation images nor the unlabelled ones are handed to it. Networks of slices get volumes whose slices have ``--size``,
10 pixels apart so that nnU-Net takes them for slices; pictures are volumes of one slice, and those of a patient one
volume where the bundle scores patients. Probabilities are brought to the size at which the bundle scores, as its own
outputs are, and ``test.csv`` in the output's folder is what the bundle's evaluation writes, with the seconds of each of
nnU-Net's commands.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.transforms import Resize
from monai.utils import convert_to_dst_type
from torch import Tensor
from torch.utils.data import Dataset

from common.bundle_run import BUNDLES, environment
from common.errors import cause
from common.files import replacing
from common.handlers import CaseScores
from common.inferers import ResizedSlices
from common.label_space import LabelSpace

DATASET = "Dataset001_ours"
TRAINERS = Path(__file__).with_name("nnunet_trainers")
PLAN, TRAIN, PREDICT = (f"nnUNetv2_{name}" for name in ("plan_and_preprocess", "train", "predict"))
BETWEEN_SLICES = 10.0  # pixels: the longest spacing is what nnU-Net tells slices by
# On a CPU the commands take as many threads as there are cores, and OMP_THREAD_LIMIT below that hangs oneDNN.
LIMITED = """import multiprocessing, runpy, sys
multiprocessing.cpu_count = lambda threads=int(sys.argv[1]): threads
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")"""


class Ours(NamedTuple):
    """What a bundle makes of a datalist: items ``C H W [D]`` at the size that is scored, and how they are scored.

    ``resize`` brings a volume to the size of training where that is another one.
    """

    labels: LabelSpace
    labeled: Dataset
    test: Dataset
    resize: Resize | None
    slices: bool
    scores: CaseScores


def read_ours(datalist: Path, bundle: str, output: Path, size: Sequence[int] | None = None) -> Ours:
    """The labelled and test images of a datalist by a bundle's own configuration.

    Raises:
        ValueError: for a size where the bundle resizes nothing.
    """
    configs = BUNDLES / bundle / "configs"
    parser = ConfigParser()
    parser.read_config([str(configs / name) for name in ("train.json", "evaluate.json")])
    settings = {"bundle_root": str(configs.parent), "datalist": str(datalist), "output_dir": str(output)}
    if size is not None and "image_size" not in parser.config:
        raise ValueError(f"size must not be given for {bundle}, whose volumes are not resized, got {list(size)}.")
    parser.update({**settings, "cache_dir": None, **({} if size is None else {"image_size": list(size)})})
    place = [handler["_target_"] for handler in parser["validate#handlers"]].index("common.handlers.CaseScores")
    names = ("data", "labels", "validate#preprocessing", "validate#dataset", "validate#inferer")
    data, labels, transform, test, inferer = map(parser.get_parsed_content, names)
    return Ours(
        labels=labels,
        labeled=type(test)(data["labeled"], transform, progress=False),
        test=test,
        resize=inferer.resize if isinstance(inferer, ResizedSlices) else None,
        slices=parser["network_def#spatial_dims"] == 2,
        scores=parser.get_parsed_content(f"validate#handlers#{place}"),
    )


def write_raw(ours: Ours, folder: Path) -> None:
    """Writes the labelled and the test images as nnU-Net's raw data set."""
    for name, dataset in (("imagesTr", ours.labeled), ("imagesTs", ours.test)):
        for index in range(len(dataset)):
            item = dataset[index]
            affine = item["image"].affine.numpy()
            spacing = [1, 1, BETWEEN_SLICES] if ours.slices else np.linalg.norm(affine[:3, :3], axis=0)
            image = item["image"].as_tensor()
            image = image if ours.resize is None else ours.resize(image)
            for number, channel in enumerate(image):
                write_volume(folder / name / f"case_{index:04}_{number:04}.nii.gz", channel, spacing)
            if dataset is ours.labeled:
                values = label_map(item["label"], ours, str(item["image"].meta["filename_or_obj"]))
                write_volume(folder / "labelsTr" / f"case_{index:04}.nii.gz", values, spacing)
    description = {
        "channel_names": {str(number): f"channel {number}" for number in range(len(image))},
        "labels": {"background": 0} | {f"{value} {name}": value for value, name in enumerate(ours.labels.classes, 1)},
        "numTraining": len(ours.labeled),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=1))


def label_map(label: Tensor, ours: Ours, file: str) -> Tensor:
    """0 for background and j + 1 for class j, at the size of training.

    Raises:
        ValueError: naming the image's file, where classes overlap.
    """
    label = label.as_subclass(Tensor)  # pictures' and volumes' have an affine, that of a patient's slices has none
    label = label if ours.resize is None else ours.resize(label, mode="nearest-exact", anti_aliasing=False)
    masks = ours.labels.masks(label[None])[0] > 0
    twice = masks.sum(0) > 1
    if twice.any():
        names = [name for name, mask in zip(ours.labels.classes, masks, strict=True) if (mask & twice).any()]
        raise ValueError(
            f"The masks of {file} must not overlap, since nnU-Net is given one class for each pixel, got "
            f"{int(twice.sum())} pixels in several of {', '.join(names)}: leave classes out of the datalist."
        )
    return (masks * torch.arange(1, len(masks) + 1).view(-1, *[1] * (masks.ndim - 1))).sum(0).to(torch.uint8)


def write_volume(file: Path, values: Tensor, spacing: Sequence[float]) -> None:
    """Values ``H W [D]`` as NIfTI, a picture as one slice. The orientation is left out: nnU-Net does not look at it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    volume = values[..., None] if values.ndim == 2 else values
    nib.save(nib.Nifti1Image(volume.numpy(), np.diag([*spacing, 1.0])), file)


def require_commands(folder: Path) -> None:
    """Refuses a folder without nnU-Net's commands and the Python that they belong to."""
    missing = [name for name in ("python", PLAN, TRAIN, PREDICT) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} must be the bin folder of an environment with nnU-Net, got no {', '.join(missing)} there: "
            "install nnunetv2 in an environment of its own, and give its bin folder by --nnunet."
        )


def run_nnunet(output: Path, arguments: argparse.Namespace, configuration: str) -> dict[str, float]:
    """Plans, trains and predicts in ``output/nnunet``; the seconds of each.

    Raises:
        ChildProcessError: when a command fails; the message names the log.
    """
    folder, threads = output / "nnunet", str(arguments.threads)
    folders = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    variables = {**environment(arguments.threads), **folders, "nnUNet_def_n_proc": threads}
    variables["nnUNet_extTrainer"] = str(TRAINERS)
    variables.pop("PYTHONPATH", None)  # of another environment
    device, trainer = ("-device", arguments.device), ("-tr", arguments.trainer)
    files = ("-i", str(folder / "raw" / DATASET / "imagesTs"), "-o", str(folder / "predicted"))
    commands = {
        "planning": (PLAN, "-d", "1", "-c", configuration, "-np", threads, "-npfp", threads),
        "training": (TRAIN, "1", configuration, "all", *trainer, *device),
        "prediction": (PREDICT, *files, "-d", "1", "-c", configuration, "-f", "all", *trainer, *device),
    }
    commands["prediction"] += ("-npp", threads, "-nps", threads, "--save_probabilities", "--disable_progress_bar")
    seconds = {}
    for name, (command, *words) in commands.items():
        # without a process for augmentation, training augments by itself; planning takes this number for threads
        augmenting = arguments.threads - (name == "training")
        call = [str(arguments.nnunet / "python"), "-c", LIMITED, threads, str(arguments.nnunet / command), *words]
        start = time.perf_counter()
        with (output / "log.txt").open("a") as log:
            log.write(f"{command} {' '.join(words)}\n")
            log.flush()
            own = {**variables, "nnUNet_n_proc_DA": str(augmenting)}
            done = subprocess.run(call, env=own, stdout=log, stderr=log, check=False)
        if done.returncode:
            raise ChildProcessError(f"{command} failed: see {output / 'log.txt'}.")
        seconds[name] = time.perf_counter() - start
    return seconds


def predictions(ours: Ours, folder: Path) -> Iterator[dict[str, Any]]:
    """The test items with ``pred``, a mask of 0 and 1 for each class, by the probabilities that nnU-Net has saved."""
    for index in range(len(ours.test)):
        item = ours.test[index]
        saved = np.load(folder / f"case_{index:04}.npz")["probabilities"]  # class, then the axes from last to first
        found = torch.from_numpy(saved.astype(np.float32)).permute(0, 3, 2, 1)
        size = item["image"].shape[1:]
        size = (*size, 1) if len(size) == 2 else size
        found = found if found.shape[1:] == size else F.interpolate(found[None], size, mode="trilinear")[0]
        said = found.argmax(0).reshape(item["image"].shape[1:])
        masks = torch.stack([said == value for value in range(1, ours.labels.num_classes + 1)])
        label = convert_to_dst_type(ours.labels.masks(item["label"][None])[0], item["label"])[0]
        yield {"image": item["image"], "pred": masks.float(), "label": label}


def score(ours: Ours, items: Iterable[dict[str, Any]], seconds: dict[str, float]) -> pd.DataFrame:
    """Writes ``test.csv`` as the bundle's evaluation does, with the seconds in columns of their own."""
    engine = Engine(lambda _, item: [item])
    ours.scores.attach(engine)
    engine.run(items, epoch_length=len(ours.test))
    table = pd.read_csv(ours.scores.path, dtype=str, keep_default_na=False)
    table = table.assign(**{f"{name}_seconds": f"{value:.1f}" for name, value in seconds.items()})
    with replacing(ours.scores.path) as temporary:
        table.to_csv(temporary, index=False)
    return pd.read_csv(ours.scores.path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datalist", type=Path)
    parser.add_argument("--bundle", required=True, choices=sorted(path.name for path in BUNDLES.iterdir()))
    parser.add_argument("--nnunet", type=Path, required=True, help="bin folder of an environment with nnunetv2")
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    parser.add_argument("--size", type=int, nargs=2, help="image_size of the bundle, of one with networks of slices")
    parser.add_argument("--configuration", help="of nnU-Net; 2d for networks of slices, else 3d_fullres")
    parser.add_argument("--trainer", default="nnUNetTrainer", help="of nnU-Net, as nnUNetTrainer_5epochs")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    try:
        run(arguments)
    except (ValueError, OSError, RuntimeError) as error:  # MONAI's is one around what a configuration says
        sys.exit(f"Error: {cause(error)}")


def run(arguments: argparse.Namespace) -> None:
    output = arguments.output.resolve()
    require_commands(arguments.nnunet)
    for name, value in (("--size", min(arguments.size or (1,))), ("--threads", arguments.threads)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    if output.exists():
        raise FileExistsError(f"{output} must be a new folder, got one that is there: remove it, or give another.")
    torch.set_num_threads(arguments.threads)
    ours = read_ours(arguments.datalist.resolve(), arguments.bundle, output, arguments.size)
    write_raw(ours, output / "nnunet" / "raw" / DATASET)
    configuration = arguments.configuration or ("2d" if ours.slices else "3d_fullres")
    seconds = run_nnunet(output, arguments, configuration)
    table = score(ours, predictions(ours, output / "nnunet" / "predicted"), seconds)
    means = table.groupby("class", sort=False)[["iou", "dice"]].mean()
    means.loc["mean"] = means.mean()
    print(means.round(4).to_string())
    print(", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()))


if __name__ == "__main__":
    main()
