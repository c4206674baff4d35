"""The folder of a run as a bundle that infers on its own, wherever it is copied to."""

from __future__ import annotations

import copy as copying
import json
import re
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
from ignite.engine import Engine, Events
from torch import nn

from common.data.datalist import fingerprint
from common.files import replacing
from common.handlers.case_scores import LOGGED
from common.handlers.checkpoint import BestModel, settings_file
from common.label_space import LabelSpace
from common.networks import unwrapped
from common.parsed import parsed_configuration
from common.ranks import is_first_rank
from common.settings import described

COPIED = ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf", "configs/evaluate.json")
COPIED += ("scripts/folder.py", "scripts/dicom_seg.py", "scripts/patient.py")  # what inference needs beside MONAI
# where a bundle is and writes to: in its own folder, wherever that is
PLACES = {
    "bundle_root": ".",
    "ckpt_dir": "$@bundle_root + '/models'",
    "output_dir": "$@bundle_root + '/eval'",
    "cache_dir": "$@bundle_root + '/cache'",
    "resume": False,
}
PACKAGES = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}


class RunBundle:
    """Makes ``output_dir`` a bundle when a training ends: ``monai.bundle run inferring`` needs nothing else.

    It gets ``models/model.pt``, ``configs/inference.json`` with the run's settings in place of the defaults,
    ``configs/train.json``, the training's configuration with all that was set, ``configs/evaluate.json``,
    ``configs/metadata.json`` with its classes, what the run was, its scores, its data's fingerprint and the versions of
    the packages, and the bundle's licence and pages. Attach it after what saves the model.

    Args:
        bundle_root: the bundle that is trained.
        output_dir: folder of the run.
        model: the file of weights.
        labels: the label space of the network.
        settings: values of ``inference.json`` by name, or of the network in it.
        run: what the run was, for ``metadata.json``.
        network: the network, whose own settings inference takes over: another activation would not be noticed.
        data: the datalist.
        best_model: what chose the epoch, whose validation scores are told.

    Raises:
        FileNotFoundError: before the training, when the bundle lacks its configuration.
        ValueError: before the training, when ``inference.json`` has no such setting.
    """

    def __init__(
        self,
        bundle_root: str | Path,
        output_dir: str | Path,
        model: str | Path,
        labels: LabelSpace,
        settings: Mapping[str, Any],
        run: Mapping[str, Any] | None = None,
        network: nn.Module | None = None,
        data: Mapping[str, Any] | None = None,
        best_model: BestModel | None = None,
    ) -> None:
        self.root, self.folder, self.model = Path(bundle_root), Path(output_dir), Path(model)
        self.labels, self.settings, self.run = labels, dict(settings), dict(run or {})
        self.data, self.best_model, self.network = data, best_model, network
        self.inference = read(self.root, "inference")
        self.channel = self.inference.get("channel")  # which the bundle's metadata describe
        self.inference = with_settings(self.inference, settings)
        self.metadata = read(self.root, "metadata")
        self.training = parsed_configuration()
        if hasattr(unwrapped(network), "settings"):
            own = described(unwrapped(network).settings())
            self.inference["network_def"] |= {name: own[name] for name in ("act", "norm", "upsample")}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if not is_first_rank() or not self.model.exists():
            return
        target = self.folder / "models" / self.model.name
        if not (target.exists() and target.samefile(self.model)):
            settings_file(target).unlink(missing_ok=True)  # of other weights
            copy(self.model, target)
            copy(settings_file(self.model), settings_file(target))
        for name in COPIED:
            copy(self.root / name, self.folder / name)
        write(self.folder, "inference", self.inference)
        if self.training is not None:
            write(self.folder, "train", portable(self.training))
            for name in re.findall(r"@bundle_root \+ '/(configs/[^']+)'", json.dumps(self.training, default=str)):
                copy(self.root / name, self.folder / name)
        write(self.folder, "metadata", self.described(engine))

    def described(self, engine: Engine) -> dict[str, Any]:
        """The bundle's metadata with the classes of this run, and how its weights came about."""
        metadata = copying.deepcopy(self.metadata)
        prediction = metadata["network_data_format"]["outputs"]["pred"]
        prediction["num_channels"] = self.labels.num_outputs
        names, mode = ("background", *self.labels.classes), self.labels.mode
        classes = ", ".join(self.labels.classes)
        changed = {
            "label_classes": f"{classes}; {mode}",
            "pred_classes": f"logits, one channel for each of the network's {self.labels.num_outputs} outputs; {mode}",
        }
        channels = {str(value): name for value, name in enumerate(names)}
        if prediction.get("channel_def") not in (None, channels):  # of other data than the bundle is for
            data = (self.data or {}).get("name", "a folder of images")
            changed |= {
                "name": f"Segmentation of {classes}",
                "task": f"Segmentation of {classes} from few labels",
                "description": f"A U-Net trained on {data}",
                "data_source": str(data),
                "image_classes": "one channel",
                "references": [],
            }
            inputs = metadata["network_data_format"]["inputs"]["image"]
            inputs |= {"modality": "n/a", "channel_def": {"0": "image"}}
        prediction["channel_def"] = channels
        if self.inference.get("channel") != self.channel:
            number = next(unwrapped(self.network).parameters()).shape[1]
            names = range(number) if number > 1 else [self.inference["channel"]]
            named = {str(place): f"channel {name} of the picture" for place, name in enumerate(names)}
            metadata["network_data_format"]["inputs"]["image"] |= {"num_channels": number, "channel_def": named}
            changed["image_classes"] = ", ".join(named.values())
        versions = {key: found for key, name in PACKAGES.items() if (found := version_of(name))}
        others = metadata.get("required_packages_version", {})
        run = {**self.run, "mode": mode, "epochs": engine.state.epoch, "settings": described(self.settings)}
        if self.data is not None:
            run["datalist"] = fingerprint(self.data)
        run["validation"] = self.validation_scores()
        needed = {name: version_of(name) or given for name, given in others.items()}
        return {**metadata, **changed, **versions, "required_packages_version": needed, "run": run}

    def validation_scores(self) -> dict[str, float]:
        """The row of ``validation.csv`` of the epoch whose weights are the model; nothing where none was validated."""
        path = self.folder / "validation.csv"
        if not path.is_file():
            return {}
        table = pd.read_csv(path)
        if self.best_model is not None and self.best_model.keep:
            table = table[table["epoch"] == self.best_model.epoch]
        return {} if table.empty else {key: round(value, 6) for key, value in table.iloc[-1].dropna().items()}


class BundleScores:
    """Tells the mean test scores of ``test.csv`` in the ``metadata.json`` of a run's bundle, where there is one.

    Attach it to the evaluator after what writes the table.

    Args:
        output_dir: folder of the run.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.folder = Path(output_dir)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        table, metadata = self.folder / "test.csv", self.folder / "configs" / "metadata.json"
        if not is_first_rank() or not table.is_file() or not metadata.is_file():
            return
        # names as they are written: a case may be called NA, a class 01
        found = pd.read_csv(table, dtype={"case": str, "class": str}, keep_default_na=False, na_values=[""])
        means = found.groupby("class", sort=False)[[name for name in LOGGED if name in found]].mean()
        content = json.loads(metadata.read_text())
        scores = {str(name): row.dropna().round(6).to_dict() for name, row in means.iterrows()}
        content.setdefault("run", {})["test"] = {"cases": int(found["case"].nunique()), **scores}
        write(self.folder, "metadata", content)


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A training's configuration that is right wherever its bundle lies; its data stay where they are."""
    changed = {**config, **{key: value for key, value in PLACES.items() if key in config}}
    for key in ("dataset_dir", "datalist"):
        value = changed.get(key)
        if isinstance(value, str | Path) and not str(value).startswith(("$", "@")):
            changed[key] = str(Path(value).absolute())
    return changed


def version_of(package: str) -> str | None:
    """The version of a package that is installed."""
    try:
        return version(package).split("+")[0]
    except PackageNotFoundError:
        return None


def read(bundle: Path, name: str) -> dict[str, Any]:
    """A configuration of a bundle."""
    path = bundle / "configs" / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be the bundle's {name}, got no such file: is bundle_root the bundle?")
    return json.loads(path.read_text())


def with_settings(config: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with other values for some of its keys, or of those of its network."""
    for name, value in settings.items():
        place = config if name in config else config["network_def"]
        if name not in place:
            raise ValueError(f"inference.json must have the setting {name}, got none: it infers with what was trained.")
        place[name] = value
    return config


def write(bundle: Path, name: str, config: dict[str, Any]) -> None:
    """Replaces a configuration of a bundle."""
    path = bundle / "configs" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(config, indent=4, default=str) + "\n")


def copy(source: Path, target: Path) -> None:
    """A file's copy, where there is one and it is another file."""
    if not source.exists() or (target.exists() and source.samefile(target)):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
