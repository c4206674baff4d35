"""Exported networks give what the network gives, at other sizes than they were made with, and say what they are."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from monai.data import load_net_with_metadata
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from common.__main__ import Commands
from common.portable import export
from common.portable.export import computed

BUNDLES = Path(__file__).parents[2] / "bundles"
FEATURES = [4, 4, 4, 8, 8, 4]
FORMS = [".onnx", ".ts", ".xml"]
SHAPES = {"jsrt_rpg": [(1, 1, 96, 64), (3, 1, 16, 80)], "ms_popcorn": [(1, 1, 64, 32, 48), (3, 1, 32, 16, 48)]}
OUTPUTS = {"jsrt_rpg": 5, "ms_popcorn": 1}


def trained(name: str, folder: Path) -> tuple[Path, nn.Module]:
    """What a training of a small network leaves, and the network."""
    shutil.copytree(BUNDLES / name, folder, ignore=shutil.ignore_patterns("models", "eval", "cache"))
    file = folder / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["network_def"]["features"] = FEATURES
    file.write_text(json.dumps(config))
    dimensions = len(SHAPES[name][0]) - 2
    network = BasicUNet(dimensions, 1, OUTPUTS[name], FEATURES, norm="batch", upsample="nontrainable")
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=draw) - 0.4)
        for _ in range(20):  # the statistics of batch norm
            network(torch.randn(2, 1, *[32] * dimensions, generator=draw))
    (folder / "models").mkdir()
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder, network.eval()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, tuple[Path, nn.Module]]:
    return {name: trained(name, tmp_path_factory.mktemp(name) / "run") for name in SHAPES}


def images(name: str) -> list[Tensor]:
    return [torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in SHAPES[name]]


@pytest.mark.parametrize("suffix", FORMS)
@pytest.mark.parametrize("name", SHAPES)
def test_it_gives_what_the_network_gives_whatever_batch_and_sides(runs, tmp_path, name, suffix):
    root, network = runs[name]
    file = export(root, tmp_path / "made" / f"lungs.v2{suffix}")
    for image in images(name):
        with torch.no_grad():
            expected = network(image)
        found = computed(file, image)
        assert found.shape == expected.shape == (len(image), OUTPUTS[name], *image.shape[2:])
        assert expected.std() > 0.01
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    names = {"lungs.v2.xml", "lungs.v2.bin"} if suffix == ".xml" else {f"lungs.v2{suffix}"}
    assert {path.name for path in file.parent.iterdir()} == names


def test_torchscript_holds_metadata_and_configuration_where_monai_deploy_looks(runs, tmp_path):
    root, network = runs["jsrt_rpg"]
    config = json.loads((root / "configs" / "inference.json").read_text())
    file = export(root, tmp_path / "lungs.ts")
    loaded, metadata, extra = load_net_with_metadata(file, more_extra_files=("inference.json",))
    assert metadata == json.loads((root / "configs" / "metadata.json").read_text())
    assert json.loads(extra["inference.json"]) == config
    image = images("jsrt_rpg")[0]
    torch.testing.assert_close(loaded(image), network(image))
    with ZipFile(file) as archive:  # Deploy takes the folder in it to be called as the file
        assert json.loads(archive.read("lungs/extra/metadata.json")) == metadata
        assert json.loads(archive.read("lungs/extra/inference.json")) == config


def test_it_does_not_tell_where_the_data_were(tmp_path):
    root, _ = trained("jsrt_rpg", tmp_path / "run")
    file = root / "configs" / "inference.json"
    file.write_text(file.read_text().replace('"dataset_dir": "data"', '"dataset_dir": "/data/hospital"'))
    assert "/data/hospital" in file.read_text()
    assert b"/data/hospital" not in export(root, tmp_path / "lungs.ts").read_bytes()


def test_sides_that_pooling_does_not_divide_are_an_error_where_they_cannot_be_padded(runs, tmp_path):
    root, network = runs["jsrt_rpg"]
    image = torch.ones(1, 1, 48, 40)
    for suffix in (".onnx", ".xml"):
        with pytest.raises(Exception, match=r"(?i)concat"):
            computed(export(root, tmp_path / f"a{suffix}"), image)
    torch.testing.assert_close(computed(export(root, tmp_path / "a.ts"), image), network(image))


@pytest.mark.parametrize("suffix", FORMS)
def test_a_size_of_the_bundle_that_would_be_padded(tmp_path, suffix):
    root, _ = trained("jsrt_rpg", tmp_path / "run")
    file = root / "configs" / "inference.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_size": [72, 64]}))
    if suffix == ".ts":
        assert export(root, tmp_path / "a.ts").exists()
        return
    with pytest.raises(ValueError, match=r"needs image_size in multiples of 16, got \[72, 64\] in .*export to \.ts"):
        export(root, tmp_path / f"a{suffix}")


def test_openvino_tells_nobody(runs, tmp_path):
    export(runs["jsrt_rpg"][0], tmp_path / "a.xml")
    assert sys.modules["openvino_telemetry"] is None


def test_the_command(runs, tmp_path, capsys):
    Commands().export(str(runs["jsrt_rpg"][0]), str(tmp_path / "a.onnx"))
    assert capsys.readouterr().out == f"Wrote {tmp_path / 'a.onnx'}, which gives what the network gives.\n"


@pytest.mark.parametrize("output", ["a.pt", "a", "onnx"])
def test_other_suffixes(runs, tmp_path, output):
    with pytest.raises(ValueError, match=r"output must be a \.onnx, \.ts, \.xml file, got .*: choose one"):
        export(runs["jsrt_rpg"][0], tmp_path / output)


@pytest.mark.parametrize(("output", "there"), [("a.onnx", "a.onnx"), ("a.ts", "a.ts"), ("a.xml", "a.bin")])
def test_what_is_there_stays(runs, tmp_path, output, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(FileExistsError, match=rf"{there} must not be there yet"):
        export(runs["jsrt_rpg"][0], tmp_path / output)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_runs_without_weights_or_with_damaged_or_other_ones(tmp_path):
    root, _ = trained("jsrt_rpg", tmp_path / "run")
    weights = root / "models" / "model.pt"
    torch.save(BasicUNet(2, 1, 2, FEATURES).state_dict(), weights)
    with pytest.raises(ValueError, match=r"model\.pt must hold the weights of this network"):
        export(root, tmp_path / "made" / "a.ts")
    weights.write_bytes(weights.read_bytes()[:-99])
    with pytest.raises(ValueError, match=r"model\.pt must be a checkpoint of tensors and numbers"):
        export(root, tmp_path / "made" / "a.ts")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"finished run .* got none of its models/model\.pt: train first"):
        export(root, tmp_path / "made" / "a.ts")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("package", "suffix", "extra"),
    [("onnx", ".onnx", "export"), ("onnxruntime", ".onnx", "export"), ("openvino", ".xml", "openvino")],
)
def test_a_missing_package_is_told_with_its_extra(runs, tmp_path, monkeypatch, package, suffix, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf'needs {package}, got none: pip install -e "\.\[{extra}\]"'):
        export(runs["jsrt_rpg"][0], tmp_path / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [1.0, float("nan")])
def test_a_file_that_gives_something_else_is_not_kept(runs, tmp_path, monkeypatch, wrong):
    monkeypatch.setattr(sys.modules[export.__module__], "computed", lambda file, image: image * wrong)
    with pytest.raises(ValueError, match=r"a\.xml must give the network's outputs, got others by up to"):
        export(runs["jsrt_rpg"][0], tmp_path / "a.xml")
    assert list(tmp_path.iterdir()) == []
