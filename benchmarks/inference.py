"""Images and volumes per second of a network as PyTorch, ONNX Runtime and OpenVINO run it, and whether masks are equal.

    python benchmarks/inference.py [--cases 2D 3D] [--rounds 5] [--batch 1] [--threads 2] [--device cpu]
    python benchmarks/inference.py --threads 1 --own-time       # on a machine that others use, too

The networks of jsrt_rpg (256 x 256, 5 classes) and ms_popcorn (64 x 64 x 64, 1 class) with the bundles' channels,
exported as `python -m common export` does. So that there are masks to compare, they first learn for `--steps` steps
where smooth noise is above a limit, one for each class. All forms take turns; a time is the best of the rounds.
Exported networks run on the processor alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from monai.networks.nets import BasicUNet
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from common.bundle_run import BUNDLES
from common.portable.export import imported_openvino, write_onnx, write_openvino

CASES = {"2D": ("jsrt_rpg", (256, 256)), "3D": ("ms_popcorn", (64, 64, 64))}
Form = Callable[[Tensor], Tensor]


def made_network(bundle: str) -> BasicUNet:
    """A bundle's network, untrained."""
    config = json.loads((BUNDLES / bundle / "configs" / "inference.json").read_text())
    definition = config["network_def"] | {"out_channels": len(config["classes"])}
    torch.manual_seed(0)
    return BasicUNet(**{key: value for key, value in definition.items() if key != "_target_"})


def smooth_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """``B 1 W H [D]``: noise of mean 0 and standard deviation 1 over 8 pixels, and finer noise on top."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(shape[0]):
        coarse = ndimage.zoom(rng.normal(size=[side // 8 + 1 for side in shape[2:]]), 8, order=1)
        coarse = coarse[tuple(slice(side) for side in shape[2:])]
        images.append(coarse / coarse.std() + rng.normal(0, 0.3, shape[2:]))
    return torch.from_numpy(np.stack(images)[:, None].astype(np.float32))


def learn(network: nn.Module, shape: tuple[int, ...], outputs: int, steps: int) -> None:
    """Where the image, without its finer noise, is above 0, 0.25, 0.5 and so on."""
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    limits = 0.25 * torch.arange(outputs).reshape(1, -1, *[1] * len(shape)).float()
    size, pool = (2, 1, *[min(side, 96 if len(shape) == 2 else 32) for side in shape]), f"avg_pool{len(shape)}d"
    for step in range(steps):
        image = smooth_noise(size, seed=step + 1)
        label = (getattr(F, pool)(image, 5, 1, 2) > limits).float()
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(network(image), label).backward()
        optimizer.step()
    network.eval().requires_grad_(False)


def torch_forms(network: nn.Module, device: torch.device, compiled: bool) -> Iterator[tuple[str, Form]]:
    """PyTorch, in single precision and less, and all of it compiled."""
    types = {"bf16": torch.bfloat16} | ({"fp16": torch.float16} if device.type == "cuda" else {})
    ways = {"eager": network} | ({"torch.compile": torch.compile(network)} if compiled else {})
    for precision in (None, *types):
        for name, form in ways.items():

            def run(image: Tensor, form: nn.Module = form, precision: str | None = precision) -> Tensor:
                reduced = torch.autocast(device.type, types[precision]) if precision else nullcontext()
                with torch.no_grad(), reduced:
                    return form(image).float()

            yield f"{name}, {precision}" if precision else name, run


def exported_forms(network: nn.Module, folder: Path, threads: int) -> Iterator[tuple[str, Form]]:
    """ONNX Runtime, and OpenVINO in single precision and in those below that the processor has."""
    write_onnx(network, folder / "a.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(folder / "a.onnx"), options, providers=["CPUExecutionProvider"])
    yield "ONNX Runtime", lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
    write_openvino(network, folder / "a.xml")
    core = imported_openvino().Core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for precision in [hint for hint, name in (("f32", "FP32"), ("f16", "FP16"), ("bf16", "BF16")) if name in able]:
        settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
        request = core.compile_model(folder / "a.xml", "CPU", settings).create_infer_request()

        def run(image: Tensor, request=request) -> Tensor:
            return torch.from_numpy(request.infer({"image": image.numpy()})["pred"])

        yield f"OpenVINO, {precision}", run


def seconds(form: Form, image: Tensor, own: bool = False) -> tuple[float, Tensor]:
    clock = time.process_time if own else time.perf_counter
    start = clock()
    outputs = form(image)
    if image.device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start, outputs


def measure(case: str, options: argparse.Namespace, folder: Path) -> None:
    """Prints the rows of a case."""
    bundle, shape = CASES[case]
    device = torch.device(options.device)
    network = made_network(bundle)
    outputs = network.final_conv.out_channels
    learn(network, shape, outputs, options.steps)
    network, image = network.to(device), smooth_noise((options.batch, 1, *shape), seed=0).to(device)
    forms = dict(torch_forms(network, device, not options.no_compile))
    if device.type == "cpu":
        forms |= dict(exported_forms(network, folder, torch.get_num_threads()))
    first, masks, best = {}, {}, dict.fromkeys(forms, float("inf"))
    for name, form in forms.items():
        first[name], logits = seconds(form, image)
        masks[name] = (logits > 0).cpu()
    for _ in range(options.rounds):
        for name, form in forms.items():
            best[name] = min(best[name], seconds(form, image, options.own_time)[0])
    covered = f"{case} {' x '.join(map(str, shape))}, masks cover {masks['eager'].float().mean():.0%}"
    for name in forms:
        differ = (masks[name] != masks["eager"]).float().mean().item()
        rate, share = options.batch / best[name], best[name] / best["eager"]
        told = f"{differ:.1e}" if differ else "none"
        print(f"| {covered} | {name} | {rate:.2f} | {share:.2f} | {first[name]:.1f} | {told} |", flush=True)
        covered = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=40, help="of learning")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-compile", action="store_true", help="leave out what takes minutes to start")
    parser.add_argument("--own-time", action="store_true", help="the process's: beside others, with --threads 1")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.device}, {options.threads} threads, torch {torch.__version__}, batch {options.batch}\n")
    print("| | | images/s | of eager's time | first call s | pixels that differ |\n|---|---|---:|---:|---:|---:|")
    for case in options.cases:
        with tempfile.TemporaryDirectory() as folder:
            measure(case, options, Path(folder))


if __name__ == "__main__":
    main()
