"""What every bundle must hold: MONAI's checks, the model zoo's files, and this repository's form."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from bundle_runs import ROOT, configs, options, run_here
from monai.bundle import ConfigParser, ConfigWorkflow, verify_metadata

from common import methods
from common.data import find_datalist, save_datalist
from common.data.files import file_suffix
from common.data.metaimage import data_file
from common.errors import cause
from common.handlers.run_bundle import COPIED
from common.portable import verify
from common.portable.zoo import LARGE, METADATA, SCHEMA
from common.settings import keywords

BUNDLES = sorted(folder for folder in (ROOT / "bundles").iterdir() if (folder / "configs").is_dir())
SCRIPTS = ["scripts/folder.py", "scripts/dicom_seg.py"]  # equal in all of them
FILES = ["LICENSE", *SCRIPTS, "docs/README.md", "docs/data_license.txt", "configs/logging.conf"]
FILES += [f"configs/{name}.json" for name in ("train", "inference", "evaluate", "multi_gpu_train", "metadata")]
LINES = {"train": 160, "inference": 100, "evaluate": 40, "metadata": 80, "extended_fusion": 40}
OVERLAY_LINES, COLUMNS, EXPRESSION = 15, 110, 80


@pytest.fixture(params=BUNDLES, ids=lambda folder: folder.name)
def bundle(request) -> Path:
    return request.param


@pytest.fixture
def dataset_dir(bundle, data_of) -> Path:
    """A phantom of the bundle's data set."""
    return data_of(bundle.name)


def load(bundle: Path, name: str) -> dict[str, Any]:
    return json.loads((bundle / "configs" / f"{name}.json").read_text())


def strings(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        yield from content
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            yield from strings(part)
    if isinstance(content, str):
        yield content


def test_files(bundle):
    assert [file for file in FILES if not (bundle / file).is_file()] == []
    assert (bundle / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert {*SCRIPTS} <= {*COPIED}
    for script in SCRIPTS:
        assert (bundle / script).read_text() == (BUNDLES[0] / script).read_text()
    assert [file.name for file in bundle.glob("models/*.pt")] in ([], ["model.pt"])


def test_compact_configurations(bundle):
    for file in sorted((bundle / "configs").glob("*.json")):
        lines = file.read_text().splitlines()
        assert len(lines) <= LINES.get(file.stem, OVERLAY_LINES), file.name
        if file.stem != "metadata":  # sentences for people
            assert [line for line in lines if len(line) > COLUMNS] == [], file.name
        texts = list(strings(json.loads(file.read_text())))
        assert [text for text in texts if text.startswith("$") and len(text) > EXPRESSION] == [], file.name
        assert [text for text in texts if re.search(r"%.*\.json", text)] == [], file.name


def test_run_ids(bundle):
    train = load(bundle, "train")
    assert isinstance(train["run"], list)
    assert train["training"] == "$@run"
    assert isinstance(train["train"]["handlers"], list)  # MONAI Label adds to them
    for name, alias in (("evaluate", "evaluating"), ("inference", "inferring")):
        assert load(bundle, name)[alias] == "$@run"


def test_inference_needs_monai_and_torch_alone(bundle):
    texts = [*strings(load(bundle, "inference")), *((bundle / script).read_text() for script in SCRIPTS)]
    assert [text for text in texts if re.search(r"\bcommon\b", text)] == []


def test_metadata(bundle, tmp_path):
    metadata = load(bundle, "metadata")
    schema = {"hash_val": hashlib.sha256(SCHEMA.read_bytes()).hexdigest(), "hash_type": "sha256"}
    verify_metadata(meta_file=str(bundle / METADATA), filepath=str(SCHEMA), **schema)
    assert isinstance(metadata["supported_apps"], dict)
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "requirements.txt").read_text(), re.M)[::-1])
    stated = {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
    }
    stated |= metadata["required_packages_version"]
    assert {name: pinned[name] for name in stated} == stated


def test_classes_are_the_same_everywhere(bundle):
    inference = load(bundle, "inference")
    classes = inference["classes"]
    pred = load(bundle, "metadata")["network_data_format"]["outputs"]["pred"]
    assert pred["channel_def"] == {"0": "background"} | {str(j + 1): name for j, name in enumerate(classes)}
    assert pred["num_channels"] == len(classes) + (inference["mode"] == "multiclass")


def test_the_zoo_s_checks(bundle, tmp_path, capsys):
    """Of the bundle as it is given, with untrained weights: files, metadata, network, properties, TorchScript."""
    folder = shutil.copytree(bundle, tmp_path / "bundle", ignore=shutil.ignore_patterns("models", "eval", "cache"))
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    (folder / "models").mkdir()
    torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "models" / "model.pt")
    verify(folder)
    said = capsys.readouterr().out
    assert ", 0 errors" in said and "note: " not in said


def test_no_file_is_too_large_for_the_zoo(bundle):
    """Those of a training are not committed; where they lie here, larger ones are listed with an address."""
    lists = [yaml.safe_load(path.read_text())["large_files"] for path in bundle.glob("large_files.*")]
    listed = {entry["path"] for entries in lists for entry in entries if entry["url"]}
    kept = [path for path in bundle.rglob("*") if {"eval", "cache", "runs"}.isdisjoint(path.relative_to(bundle).parts)]
    large = {path.relative_to(bundle).as_posix() for path in kept if path.stat().st_size > LARGE}
    assert large - listed == set()


def test_check_properties(bundle, dataset_dir, tmp_path):
    """Those of a training; those of an inference are among the zoo's."""
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "train.json"),
        workflow_type="train",
        logging_file=False,
        bundle_root=str(bundle),
        dataset_dir=str(dataset_dir),
        output_dir=str(tmp_path),
        cache_dir=str(tmp_path / "cache"),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_training_refuses_a_file_that_is_also_scored(bundle, dataset_dir, tmp_path):
    """Whatever it is called: before an image is decoded, and nothing of a run is left behind."""
    datalist = find_datalist(dataset_dir)
    learnt = Path(datalist["unlabeled"][0]["image"])
    copy = shutil.copy(learnt, tmp_path / f"copy{file_suffix(learnt)}")
    if copy.suffix == ".mhd":
        shutil.copy(data_file(learnt), tmp_path)
    datalist["test"][0]["image"] = str(copy)
    file = save_datalist(datalist, tmp_path / "datalist.json")
    short = {"dataset_dir": str(dataset_dir), "datalist": str(file), "epochs": 1, "iterations": 1}
    settings = options(tmp_path / "run", tmp_path, bundle.name, short)
    with pytest.raises(RuntimeError) as raised:
        run_here("training", configs("train", bundle=bundle.name), settings)
    said = rf"{re.escape(str(copy))} \(test\) must be another image than {re.escape(str(learnt))} \(unlabeled\)"
    assert re.match(said, cause(raised.value))
    assert not (tmp_path / "run").exists()


def test_trained_weights_fit_the_network_of_inference(bundle, dataset_dir):
    shapes = []
    for name in ("train", "inference"):
        parser = ConfigParser()
        parser.read_config(str(bundle / "configs" / f"{name}.json"))
        parser["dataset_dir"] = str(dataset_dir)
        network: torch.nn.Module = parser.get_parsed_content("network_def")
        shapes.append({key: value.shape for key, value in network.state_dict().items()})
    assert shapes[0] == shapes[1]


def test_inference_prepares_images_as_training_does(bundle):
    """The transforms after loading; what is only for labels is left out."""
    train, inference = load(bundle, "train")["train"], load(bundle, "inference")["preprocessing"]["transforms"]
    train = train.get("load") or train["preprocessing"]["transforms"]
    steps = [
        {
            step["_target_"]: {
                key: first(value) for key, value in step.items() if key not in ("keys", "allow_missing_keys")
            }
        }
        for step in (*train, *inference)
        if isinstance(step, dict)  # others look at the file or what was read, and change nothing
        and step["_target_"] not in ("LoadImaged", "Lambdad", "CopyItemsd")
        and not step["_target_"].startswith("common.")
    ]
    assert len(steps) % 2 == 0
    assert steps[: len(steps) // 2] == steps[len(steps) // 2 :]


def first(value: Any) -> Any:
    """The image's value where there is one for each key."""
    return value[0] if isinstance(value, list) else value


def documented_keywords(text: str) -> Iterator[tuple[str, str]]:
    """Methods and keywords in the tables of a page, whose rows name a class of common.methods and end in keywords."""
    for row in re.findall(r"^\|(.+)\|$", text, flags=re.MULTILINE):
        cells = row.split("|")
        named = re.findall(r"`(?:common\.methods\.)?(\w+)`", "".join(cells[:2]))
        for name in {name for name in named if name in methods.__all__}:
            yield from ((name, word) for word in re.findall(r"`(\w+)`", cells[-1]) if len(cells) > 2)


def test_keywords_of_methods_in_the_pages_exist(bundle):
    found = list(documented_keywords((bundle / "docs" / "README.md").read_text()))
    assert len(found) > 10
    assert [(name, word) for name, word in found if word not in keywords(getattr(methods, name))] == []


def test_options_in_the_pages_exist(bundle):
    """An option of a page's table is a key of train.json, or lies within one."""
    rows = re.findall(r"^\| (`--.+?) \|", (bundle / "docs" / "README.md").read_text(), flags=re.MULTILINE)
    options = {word for row in rows for word in re.findall(r"--([\w#]+)", row)}
    assert len(options) > 10
    assert {option for option in options if option.split("#")[0] not in load(bundle, "train")} <= {"method"}
