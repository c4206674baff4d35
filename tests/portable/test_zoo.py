"""What MONAI's model zoo would refuse of a bundle is told, and nothing of a folder runs before it is looked at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from common.portable import verify, zoo

ROOT = Path(__file__).parents[2]
REQUIRED = (  # by MONAI's specification of bundles, its model zoo, and MONAI Label
    *("schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version", "task", "description"),
    *("required_packages_version", "authors", "copyright", "network_data_format"),
)
TENSOR = ("type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "channel_def")
SMALL = [4, 4, 4, 4, 8, 4]


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A small one with the weights of its network."""
    folder = shutil.copytree(
        ROOT / "bundles" / "jsrt_rpg", tmp_path / "bundle", ignore=shutil.ignore_patterns("models")
    )
    (folder / "models").mkdir()
    changed(folder, "inference", lambda config: config["network_def"].update(features=SMALL))
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "models" / "model.pt")
    return folder


def changed(bundle: Path, name: str, change) -> None:
    path = bundle / "configs" / f"{name}.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def image(config: dict) -> dict:
    return config["network_data_format"]["inputs"]["image"]


def refused(bundle: Path, capsys, **options) -> list[str]:
    with pytest.raises(SystemExit) as ended:
        verify(bundle, **options)
    assert ended.value.code == 1
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("error: ")]


@pytest.fixture
def never(monkeypatch) -> None:
    """Nothing of the folder may be run."""
    monkeypatch.setattr(zoo, "zoo_problems", lambda root: pytest.fail(f"{root} was run"))


def test_a_folder_that_passes_stays_as_it_is(bundle, capsys):
    shutil.copytree(bundle / "scripts", bundle / "eval" / "scripts")  # a run is a bundle within it
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    verify(bundle)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{bundle}: 16 files, 0 errors"
    assert "known: configs/inference.json: network: $@network_def.to(@device)" in lines
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before


def metadata_problems(folder: Path, change) -> list[str]:
    """What is said of the metadata of a bundle with a change."""
    content = json.loads((ROOT / "bundles" / "jsrt_rpg" / zoo.METADATA).read_text())
    change(content)
    (folder / "configs").mkdir(exist_ok=True)
    (folder / zoo.METADATA).write_text(json.dumps(content))
    return list(zoo.metadata(folder))


def test_keys_that_metadata_lack(tmp_path):
    for key in REQUIRED:
        problems = metadata_problems(tmp_path, lambda content, key=key: content.pop(key))
        assert f"'{key}' is a required property." in problems[0]
        assert problems[0].startswith("configs/metadata.json: it must have the keys schema, version, ")


@pytest.mark.parametrize(("way", "tensor"), [("inputs", "image"), ("outputs", "pred")])
def test_keys_that_a_tensor_lacks(tmp_path, way, tensor):
    place = f"configs/metadata.json: network_data_format#{way}"
    for key in TENSOR:
        (problem,) = metadata_problems(tmp_path, lambda c, key=key: c["network_data_format"][way][tensor].pop(key))
        assert problem.startswith(f"{place}#{tensor} must have the keys ")
        assert problem.endswith(f": '{key}' is a required property.")
    (problem,) = metadata_problems(tmp_path, lambda c: c["network_data_format"][way].pop(tensor))
    assert problem == f"{place} must have the keys {tensor}: '{tensor}' is a required property."


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c.update(version="9.0"), "version must be a key of changelog, got 9.0: say there what is new."),
        (lambda c: c.update(schema="meta_schema.json"), "schema must be as the schema says"),
        (
            lambda c: c.update(supported_apps=["monai-label"]),
            "supported_apps must be as the schema says: ['monai-label']",
        ),
        (lambda c: c.update(references="a paper"), "references must be as the schema says: 'a paper'"),
        (lambda c: c.update(required_packages_version={"itk": 5}), "required_packages_version#itk must be as"),
        (lambda c: image(c).update(num_channels="1"), "network_data_format#inputs#image#num_channels must be as"),
        (lambda c: image(c).update(value_range=["0", "1"]), "network_data_format#inputs#image#value_range#0 must be"),
        (lambda c: c["network_data_format"]["outputs"].update(pred=1), "network_data_format#outputs#pred must be as"),
    ],
)
def test_metadata_of_other_values(tmp_path, change, problem):
    assert metadata_problems(tmp_path, change)[0].startswith(f"configs/metadata.json: {problem}")


def renamed(config: dict) -> None:
    other = json.loads(json.dumps(config).replace("preprocessing", "prepare"))
    config.clear()
    config.update(other)


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("metadata", lambda c: image(c).update(num_channels=3), "network: "),
        ("inference", lambda c: c.pop("evaluator"), "properties: \"Property 'evaluator'"),
        ("inference", renamed, "configs/inference.json must have preprocessing under MONAI's name for it, got none"),
        ("inference", lambda c: c["network_def"].update(features=[8, *SMALL[1:]]), "torchscript: "),
    ],
)
def test_what_the_zoo_would_refuse(bundle, capsys, name, change, problem):
    changed(bundle, name, change)
    errors = refused(bundle, capsys, trusted=True)
    assert any(error.startswith(f"error: {problem}") for error in errors), errors


def test_weights_that_are_not_all_of_the_network(bundle, capsys):
    """MONAI's export reads them without a word."""
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    torch.save(state | {"more": torch.zeros(2)}, bundle / "models" / "model.pt")
    (error,) = refused(bundle, capsys)
    assert "more" in error


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("sitecustomize.py", "is not this installation's"),
        ("torch/__init__.py", "is not this installation's"),
        ("common/step.py", "is not this installation's"),
        ("fast.abi3.so", "is not this installation's"),
        ("configs/inference.yaml", "is not this installation's"),
        ("scripts/more/notes.txt", "is not this installation's"),
        ("scripts/__pycache__/folder.cpython-311.pyc", "code that is compiled"),
    ],
)
def test_code_that_lies_in_a_folder(bundle, capsys, never, name, word):
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_bytes(b"import os")
    (error,) = refused(bundle, capsys)
    assert word in error and error.split(" ")[1] in name


def test_folders_that_are_links(bundle, tmp_path, capsys, never):
    (tmp_path / "elsewhere").mkdir()
    (bundle / "monai").symlink_to(tmp_path / "elsewhere")
    assert refused(bundle, capsys) == [
        "error: monai must be a folder, got a link to one, which is not followed: copy it"
    ]


def test_expressions_of_others_are_not_evaluated(bundle, tmp_path, capsys, monkeypatch):
    """But where the folder is said to be one's own."""
    mark = tmp_path / "mark"
    run = f"$1 + (Path({str(mark)!r}).touch() or 0)"
    changed(bundle, "inference", lambda config: config["network_def"].update(in_channels=run))
    (error,) = refused(bundle, capsys)
    assert "configs/inference.json: network_def#in_channels would run" in error and not mark.exists()
    verify(bundle, trusted=True)
    assert f"other: configs/inference.json: network_def#in_channels: {run}" in capsys.readouterr().out
    assert mark.exists()


def test_one_s_own_is_a_folder(bundle, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(SystemExit, match=r"trusted must be left out of a packed bundle, got .*a\.zip"):
        verify(tmp_path / "a.zip", trusted=True)


def test_nothing_to_verify(tmp_path, capsys, never):
    assert len(refused(tmp_path, capsys)) == 4


def test_a_file_that_is_too_large_for_the_zoo(bundle, capsys, monkeypatch):
    monkeypatch.setattr(zoo, "LARGE", 50_000)
    monkeypatch.setattr(zoo, "zoo_problems", lambda root: [])
    verify(bundle, bundle.parent / "out")
    size = (bundle / "models" / "model.pt").stat().st_size
    assert f"note: models/model.pt has {size} bytes: to the model zoo it goes by an address" in capsys.readouterr().out
    assert (bundle.parent / "out" / "configs" / "train.json").is_file()
