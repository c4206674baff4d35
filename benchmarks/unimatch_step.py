"""Time of a UniMatch step: the package's, and a plain loop whose loader's workers augment image by image.

    python benchmarks/unimatch_step.py                        # 256 x 256, 12 labelled and 12 unlabelled; for a GPU
    python benchmarks/unimatch_step.py --size 96 --batch 6 --features 8 16 32 64 128 8 --iterations 20   # a processor

Both train the bundle's network by the same losses (half cross-entropy and half Dice on labels, Dice on confident
pixels) on the same invented slices. The plain loop is written as scripts of this field are: a ``Dataset`` that turns,
flips, resizes, changes intensities of and draws boxes for one image at a time in NumPy, SciPy and Pillow, a second
loader for the images that boxes are filled from, a pass over those in evaluation mode, and 32-bit floats;
``--plain-amp`` gives it the package's mixed precision and memory layout. Both run with torch's fast settings
(``set_up`` with ``deterministic=False``), or with the bundle's by ``--deterministic``. ``--compile`` adds the package's
step with a compiled network. Printed are milliseconds a step after some to warm up, the seconds of those, which hold
what compiling takes, and the peak of memory.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from functools import partial

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import torch.nn.functional as F
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from PIL import Image, ImageEnhance, ImageFilter
from scipy import ndimage
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.batches import Batches, Loader
from common.data.decoded import DecodedImages
from common.determinism import set_up
from common.label_space import LabelSpace
from common.losses import CrossEntropy, Dice, Sum
from common.methods import UniMatch
from common.networks import BasicUNet
from common.views import Affine, Chain, Flip, QuarterTurn

# what the bundle's "compile": true does, and other ways
COMPILE = {
    "inductor": {"dynamic": False},
    "reduce-overhead": {"mode": "reduce-overhead", "dynamic": False},
    "cudagraphs": {"backend": "cudagraphs", "dynamic": False},
}
LABELS = LabelSpace(["right_ventricle", "myocardium", "left_ventricle"], "multiclass")
SLICES, THRESHOLD = 48, 0.95


def invented(index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth slice and its label map, a third larger than what is trained on."""
    rng = np.random.default_rng(index)
    image = ndimage.gaussian_filter(rng.normal(size=(4 * size // 3,) * 2), 4)
    image = ((image - image.min()) / np.ptp(image)).astype(np.float32)
    return image, np.digitize(image, [0.5, 0.6, 0.7]).astype(np.uint8)


# ---- the plain loop


class PlainSlices(Dataset):
    """One image at a time: weakly augmented with its label, or with two strong views and their boxes."""

    def __init__(self, slices: list[tuple[np.ndarray, np.ndarray]], size: int, labeled: bool) -> None:
        self.slices, self.size, self.labeled = slices, size, labeled

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> tuple:
        rng = np.random.default_rng(index)
        image, label = self.slices[index % len(self.slices)]
        if rng.random() < 0.5:
            turns, axis = rng.integers(4), rng.integers(2)
            image, label = (np.flip(np.rot90(each, turns), axis) for each in (image, label))
        elif rng.random() < 0.5:
            angle = rng.integers(-20, 20)
            image, label = (ndimage.rotate(each, angle, order=0, reshape=False) for each in (image, label))
        zoom = [self.size / side for side in image.shape]
        image, label = (ndimage.zoom(each, zoom, order=0) for each in (image, label))
        weak = torch.from_numpy(np.ascontiguousarray(image))[None]
        if self.labeled:
            return weak, torch.from_numpy(np.ascontiguousarray(label).astype(np.int64))
        picture = Image.fromarray((image * 255).astype(np.uint8))
        return weak, strong(picture, rng), strong(picture, rng), box(self.size, rng), box(self.size, rng)


def strong(image: Image.Image, rng: np.random.Generator) -> Tensor:
    """Brightness and contrast, and blur."""
    if rng.random() < 0.8:
        image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.5, 1.5))
        image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.5, 1.5))
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0)))
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]


def box(size: int, rng: np.random.Generator) -> Tensor:
    """A box of 2 to 40 % of the image in every second one."""
    mask = torch.zeros(size, size)
    if rng.random() < 0.5:
        return mask
    while True:
        area, ratio = rng.uniform(0.02, 0.4) * size * size, rng.uniform(0.3, 1 / 0.3)
        width, height = int(np.sqrt(area / ratio)), int(np.sqrt(area * ratio))
        x, y = rng.integers(size, size=2)
        if x + width <= size and y + height <= size:
            mask[y : y + height, x : x + width] = 1
            return mask


def soft_dice(probabilities: Tensor, label: Tensor, keep: Tensor | None = None) -> Tensor:
    """1 - Dice over all outputs and the whole batch."""
    target, loss = F.one_hot(label, 4).movedim(-1, 1).float(), 0.0
    for c in range(4):
        p, t = probabilities[:, c], target[:, c]
        p, t = (p, t) if keep is None else (p * keep, t * keep)
        loss = loss + 1 - (2 * (p * t).sum() + 1e-10) / ((p * p).sum() + (t * t).sum() + 1e-10)
    return loss / 4


def plain(options: argparse.Namespace, network: BasicUNet, device: torch.device) -> Iterator[None]:
    """Steps of the plain loop."""
    slices = [invented(i, options.size) for i in range(SLICES)]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def batches(labeled: bool, seed: int) -> Iterator:
        data = PlainSlices(slices, options.size, labeled)
        shuffled = torch.Generator().manual_seed(seed)
        workers = {"num_workers": options.workers, "persistent_workers": options.workers > 0}
        return iter(DataLoader(data, options.batch, shuffle=True, drop_last=True, generator=shuffled, **workers))

    def drop(levels: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(F.dropout2d(level, 0.5) for level in levels)

    for (image, label), (weak, one, two, first, second), (other, mix_one, mix_two, _, _) in zip(
        batches(True, 0), batches(False, 1), batches(False, 2), strict=False
    ):
        image, label, weak, one, two, first, second, other, mix_one, mix_two = (
            each.to(device, non_blocking=True)
            for each in (image, label, weak, one, two, first, second, other, mix_one, mix_two)
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=options.plain_amp):
            network.eval()
            with torch.no_grad():
                p = network(other).float().softmax(1)
                mix_conf, mix_label = p.max(1)
            one[first[:, None] == 1] = mix_one[first[:, None] == 1]
            two[second[:, None] == 1] = mix_two[second[:, None] == 1]
            network.train()
            labeled, own = network(torch.cat([image, weak])).float().split(len(image))
            dropped = network(weak, perturb=drop).float()
            strong_one, strong_two = network(torch.cat([one, two])).float().softmax(1).chunk(2)
            conf, guess = own.detach().softmax(1).max(1)
            loss = (F.cross_entropy(labeled, label) + soft_dice(labeled.softmax(1), label)) / 2
            for prediction, mask, factor in ((strong_one, first, 0.25), (strong_two, second, 0.25)):
                target, sure = torch.where(mask == 1, mix_label, guess), torch.where(mask == 1, mix_conf, conf)
                loss = loss + factor * soft_dice(prediction, target, (sure >= THRESHOLD).float())
            loss = loss + 0.5 * soft_dice(dropped.softmax(1), guess, (conf >= THRESHOLD).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield


def time_plain(options: argparse.Namespace) -> tuple[float, float]:
    """Milliseconds a step of the plain loop, and seconds of those before."""
    device = torch.device(options.device)
    layout = torch.channels_last if options.plain_amp else torch.contiguous_format
    network = BasicUNet(2, 1, LABELS.num_outputs, options.features).to(device, memory_format=layout)
    steps, begin = plain(options, network, device), now(device)
    for iteration, _ in enumerate(steps, 1):
        if iteration == options.warm:
            start = now(device)
        if iteration == options.warm + options.iterations:
            return 1000 * (now(device) - start) / options.iterations, start - begin
    raise RuntimeError("the loop ended")


# ---- the package's


class Decoded:
    """A transform that gives the invented slices at the network's size."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, item: dict) -> dict:
        arrays = dict(zip(("image", "label"), invented(int(item["image"]), self.size), strict=True))
        zoom = self.size / arrays["image"].shape[0]
        return {
            key: MetaTensor(torch.from_numpy(ndimage.zoom(arrays[key].astype(np.float32), zoom, order=0)[None]))
            for key in item
        }


def time_ours(options: argparse.Namespace, compiled: str | None = None) -> tuple[float, float]:
    """Milliseconds a step of the package's trainer, and seconds of those before."""
    torch.compiler.reset()
    device = torch.device(options.device)
    dice = Dice(background=True)
    method = UniMatch(LABELS, THRESHOLD, loss=Sum([CrossEntropy(), dice]), unsupervised_loss=dice)
    network = BasicUNet(2, 1, LABELS.num_outputs, options.features).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(method.prepare(network), lr=0.01, momentum=0.9, weight_decay=1e-4)
    items = [[{"image": str(i)} | extra for i in range(SLICES)] for extra in ({"label": ""}, {})]
    stores = [DecodedImages(each, Decoded(options.size), progress=False) for each in items]
    weak = Chain([QuarterTurn(), Flip([0], prob=0.25), Affine(rotate=20, prob=0.25)])
    batches = Batches(*stores, LABELS, method, options.batch, options.batch, weak=weak, device=options.device)
    times = {"begin": now(device)}
    trainer = SupervisedTrainer(
        device=device, max_epochs=1, train_data_loader=Loader(batches, options.warm + options.iterations),
        network=network, optimizer=optimizer, loss_function=method.loss, iteration_update=method, decollate=False,
        optim_set_to_none=True, amp=device.type == "cuda", amp_kwargs={"dtype": torch.bfloat16},
        compile=compiled is not None, compile_kwargs=COMPILE.get(compiled),
    )  # fmt: skip
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=options.warm), lambda: times.update(start=now(device)))
    trainer.add_event_handler(Events.COMPLETED, lambda: times.update(end=now(device)))
    trainer.run()
    return 1000 * (times["end"] - times["start"]) / options.iterations, times["start"] - times["begin"]


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=12, help="labelled, and as many unlabelled images")
    parser.add_argument("--features", type=int, nargs=6, default=[16, 32, 64, 128, 256, 16])
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="of the plain loaders")
    parser.add_argument("--plain-amp", action="store_true", help="mixed precision for the plain loop, too")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--warm", type=int, default=20)
    parser.add_argument("--deterministic", action="store_true", help="as the bundle trains by default")
    parser.add_argument("--compile", nargs="*", choices=list(COMPILE), default=[], help="ways to compile the network")
    parser.add_argument("--no-plain", action="store_true", help="leave out the plain loop")
    options = parser.parse_args()
    set_up(0, deterministic=options.deterministic)
    rows = {} if options.no_plain else {"plain": time_plain}
    rows |= {"ours": time_ours} | {f"ours, {way}": partial(time_ours, compiled=way) for way in options.compile}
    print("| UniMatch step | ms | warm-up s | peak MB |\n|---|---:|---:|---:|")
    for name, measure in rows.items():
        if options.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        took, before = measure(options)
        peak = f"{torch.cuda.max_memory_allocated() / 2**20:.0f}" if options.device.startswith("cuda") else ""
        print(f"| {name} | {took:.1f} | {before:.0f} | {peak} |", flush=True)


if __name__ == "__main__":
    main()
