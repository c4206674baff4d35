"""What every bundle must hold: MONAI's checks, the model zoo's files, and this repository's form."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_runs import ROOT, configs, options, run_here
from monai.bundle import ConfigParser, ConfigWorkflow, verify_net_in_out

from common import methods
from common.data import find_datalist, save_datalist
from common.data.files import file_suffix
from common.data.metaimage import data_file
from common.errors import cause
from common.handlers.run_bundle import COPIED
from common.settings import keywords

BUNDLES = sorted(folder for folder in (ROOT / "bundles").iterdir() if (folder / "configs").is_dir())
SCRIPTS = ["scripts/folder.py", "scripts/dicom_seg.py"]  # equal in all of them
FILES = ["LICENSE", *SCRIPTS, "docs/README.md", "docs/data_license.txt", "configs/logging.conf"]
FILES += [f"configs/{name}.json" for name in ("train", "inference", "evaluate", "multi_gpu_train", "metadata")]
LINES = {"train": 160, "inference": 100, "evaluate": 40, "metadata": 80, "extended_fusion": 40}
OVERLAY_LINES, COLUMNS, EXPRESSION = 15, 110, 80
REQUIRED = {  # of the schema meta_schema_20240725.json and of the model zoo
    "schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version",
    "required_packages_version", "task", "description", "authors", "copyright", "network_data_format",
}  # fmt: skip
TENSOR = {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "channel_def"}


@pytest.fixture(params=BUNDLES, ids=lambda folder: folder.name)
def bundle(request) -> Path:
    return request.param


@pytest.fixture
def dataset_dir(bundle, request) -> Path:
    """A phantom of the bundle's data set."""
    data = bundle.name.split("_")[0]
    return request.getfixturevalue({"jsrt": "phantom"}.get(data, f"{data}_data"))


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


def test_metadata(bundle):
    metadata = load(bundle, "metadata")
    assert set(metadata) >= REQUIRED
    assert metadata["version"] in metadata["changelog"]
    assert isinstance(metadata["supported_apps"], dict)
    for tensor in (
        metadata["network_data_format"][way][name] for way, name in (("inputs", "image"), ("outputs", "pred"))
    ):
        assert set(tensor) >= TENSOR
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


def test_verify_net_in_out(bundle):
    paths = {"meta_file": "metadata", "config_file": "inference"}
    paths = {key: str(bundle / "configs" / f"{name}.json") for key, name in paths.items()}
    verify_net_in_out(net_id="network_def", device="cpu", **paths)


@pytest.mark.parametrize(("kind", "config"), [("train", "train"), ("infer", "inference")])
def test_check_properties(bundle, dataset_dir, tmp_path, kind, config, caplog):
    folder = dataset_dir if kind == "train" else tmp_path / "none"
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / f"{config}.json"),
        workflow_type=kind,
        logging_file=False,
        bundle_root=str(bundle),
        dataset_dir=str(folder),
        output_dir=str(tmp_path),
        **({"cache_dir": str(tmp_path / "cache")} if kind == "train" else {}),  # inference has none
    )
    workflow.initialize()
    caplog.clear()
    assert workflow.check_properties() == []
    assert [record.message for record in caplog.records if record.name.startswith("monai.bundle")] == []


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
