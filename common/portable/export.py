"""The network of a trained bundle as one file that other programs run: ONNX, TorchScript or OpenVINO."""

from __future__ import annotations

import inspect
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import torch
from monai.bundle import ConfigParser, ckpt_export
from monai.networks.utils import convert_to_onnx
from torch import Tensor, nn

from common.batches.checks import GRANULE
from common.files import read_json, replacing
from common.handlers.checkpoint import load_weights
from common.portable.package import require_trained, without_places

NEEDED = ("configs/inference.json", "configs/metadata.json", "models/model.pt")
PACKAGES = {".onnx": ("export", ("onnx", "onnxruntime")), ".xml": ("openvino", ("openvino",)), ".ts": ("", ())}
SIDE = 32  # of the images that a network is traced with
OTHER_SIDES = (48, 32, 64)  # of the one that it is compared with
TOLERANCE = 1e-4  # of the largest output, or of 1


def export(run: str | Path, output: str | Path) -> Path:
    """Writes the network of a run for other programs, in the form that the output's suffix says.

    The network takes ``image``, ``B C W H [D]`` in single precision, as the preprocessing of the bundle's
    ``inference.json`` leaves it, for any B and any sides that its pooling divides, and gives ``pred``, the logits ``B
    outputs W H [D]`` of ``network_def``. Before the file gets its name, what it computes on the processor is compared
    with the network, with another batch and other sides than it was made with.

    Args:
        run: folder of a run, or any bundle that has been trained.
        output: the file to write: ``.onnx``; ``.ts``, TorchScript as MONAI's ``ckpt_export`` makes it, with
            ``metadata.json`` and ``inference.json`` inside; or ``.xml``, OpenVINO's, with its ``.bin`` beside it.

    Returns:
        The file.

    Raises:
        FileNotFoundError: when there is no trained bundle.
        FileExistsError: when the output is there.
        ValueError: when it has another suffix, a package is missing, the bundle's size does not fit, the weights are
            damaged or another network's, or the file computes something else.
    """
    root, output = Path(run), Path(output)
    if output.suffix not in WRITERS:
        raise ValueError(f"output must be a {', '.join(WRITERS)} file, got {output}: choose one of these suffixes.")
    require_trained(root, NEEDED)
    require_packages(output)
    parser = inference_of(root)
    require_sides(parser, output)
    files = [output, output.with_suffix(".bin")] if output.suffix == ".xml" else [output]
    for file in files:
        if file.exists():
            raise FileExistsError(f"{file} must not be there yet, got one: remove it, or give another output.")
    network = trained_network(parser, root)
    with ExitStack() as stack:
        temporary = [stack.enter_context(replacing(file)) for file in files]
        # under its own name: an archive of TorchScript names its folder after the file, and MONAI Deploy looks there
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.")))
        WRITERS[output.suffix](network, folder / output.name, root)
        require_alike(network, folder / output.name, output)
        for written, file in zip(temporary, files, strict=True):
            (folder / file.name).replace(written)
    return output


def require_packages(output: Path) -> None:
    """Refuses to go on without the packages that a form needs."""
    extra, packages = PACKAGES[output.suffix]
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ValueError(f'{output} needs {" and ".join(missing)}, got none: pip install -e ".[{extra}]".')


def inference_of(root: Path) -> ConfigParser:
    """A bundle's ``inference.json``."""
    parser = ConfigParser()
    parser.read_config(read_json(root / "configs" / "inference.json", "make the bundle again"))
    return parser


def require_sides(parser: ConfigParser, output: Path) -> None:
    """Refuses a size of the bundle's own that the network pads, which scripts do and traced forms cannot."""
    for key in ("image_size", "patch_size"):
        sides = parser.get_parsed_content(key) if key in parser.config else []
        if output.suffix != ".ts" and any(side % GRANULE for side in sides):
            raise ValueError(
                f"{output} needs {key} in multiples of {GRANULE}, got {sides} in the bundle's inference.json: export "
                "to .ts, or train at another size."
            )


def trained_network(parser: ConfigParser, root: Path) -> nn.Module:
    """The network of a bundle as its ``inference.json`` makes it, with its weights, in evaluation mode."""
    network = parser.get_parsed_content("network_def")
    return load_weights(root / "models" / "model.pt", network).eval().requires_grad_(False)


def example(network: nn.Module) -> Tensor:
    """Two empty images with as many channels and dimensions as a network takes."""
    weight = next(network.parameters())
    return torch.zeros(2, weight.shape[1], *[SIDE] * (weight.dim() - 2))


def write_onnx(network: nn.Module, file: Path, root: Path | None = None) -> None:
    """Writes ONNX whose batch and sides are free; no file but ``file`` is needed."""
    image = example(network)
    axes = {0: "batch"} | dict(zip(range(2, image.dim()), "xyz", strict=False))
    # the exporter that needs no further packages; before torch 2.5 there was no other
    options = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of what will be removed, and of conditions on sides, which are compared
        convert_to_onnx(
            network, [image], ["image"], ["pred"], None, {"image": axes, "pred": axes}, str(file), **options
        )


def write_torchscript(network: nn.Module, file: Path, root: Path) -> None:
    """Writes the scripted network with the bundle's metadata and its configuration for inference inside."""
    config = file.with_name("inference.json")
    config.write_bytes(without_places(root / "configs" / "inference.json"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # dozens, of torch.jit
        ckpt_export(
            "network_def",
            filepath=str(file),
            ckpt_file=str(root / "models" / "model.pt"),
            meta_file=str(root / "configs" / "metadata.json"),
            config_file=str(config),
        )


def write_openvino(network: nn.Module, file: Path, root: Path | None = None) -> None:
    """Writes OpenVINO's form with weights in single precision, whose batch and sides are free."""
    openvino = imported_openvino()
    image = example(network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        shape = [-1, image.shape[1], *[-1] * (image.dim() - 2)]
        model = openvino.convert_model(network, example_input=image, input=shape)
    model.input(0).get_tensor().set_names({"image"})
    model.output(0).get_tensor().set_names({"pred"})
    openvino.save_model(model, file, compress_to_fp16=False)


WRITERS: dict[str, Callable[..., None]] = {".onnx": write_onnx, ".ts": write_torchscript, ".xml": write_openvino}


def computed(file: Path, image: Tensor) -> Tensor:
    """What an exported network gives for images, on the processor in single precision."""
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(["pred"], {"image": image.numpy()})[0])
    if file.suffix == ".xml":
        # where a processor has bfloat16, OpenVINO takes that if it is not told otherwise
        compiled = imported_openvino().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return torch.from_numpy(compiled({"image": image.numpy()})["pred"])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(file, map_location="cpu")(image)


def imported_openvino():
    """The package, without its companion that tells its makers of each import and conversion."""
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    return openvino


def require_alike(network: nn.Module, file: Path, output: Path) -> None:
    """Refuses a file that computes something else than the network."""
    shape = example(network).shape[1:2] + OTHER_SIDES[: example(network).dim() - 2]
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(image)
    difference = (computed(file, image) - expected).abs().max().item()
    if not difference <= TOLERANCE * max(1.0, expected.abs().max().item()):
        raise ValueError(
            f"{output} must give the network's outputs, got others by up to {difference:.1e}: it is not kept; try "
            f"another form, or other versions of the packages."
        )
