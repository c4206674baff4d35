"""Training a detector on the labelled images alone."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common.batches import Batches, Loader
from common.batches.class_cover import ClassCover
from common.detection.boxes import label_boxes
from common.detection.found_boxes import Found
from common.detection.looking import is_of_slices, window_of
from common.detection.network import Detector, anchor_shapes, make_detector
from common.draws import generator
from common.parts import Needs

LOOKED_AT = 16  # batches, for the shapes of objects
INTERVAL = 10  # iterations between two rows of the log
WARM_UP = 20  # iterations
LARGEST = 10.0  # norm of the gradients


def labeled_alone(batches: Batches, number: int, seed: int) -> Batches:
    """Batches of the labelled images of others, without those that join them, drawn in an order of their own."""
    alone = copy.copy(batches)
    alone.needs, alone.joined, alone.labeled_batch, alone.labeled_share = Needs(), [], number, None
    alone.cover = ClassCover(batches.cover.presence, number, batches.labels.classes, needed=False)
    alone.seed = int(generator(seed, 0, "detector").integers(2**31))
    return alone


def new_detector(
    batches: Batches, true: Sequence[Found], classes: Sequence[int], min_size: int, features: Sequence[int], width: int
) -> Detector:
    """A detector that has learnt nothing, with anchors of the shapes of the labelled images' objects.

    Args:
        batches: batches of labelled images, which show objects turned and cut; see :func:`labeled_alone`.
        true: boxes of the objects of the labelled images.
        classes: indices of the detector's classes among the foreground classes.
        min_size: see :func:`~common.detection.boxes.component_boxes`.
        features, width: see :class:`~common.detection.network.Pyramid`; small windows have no room for all levels.

    Raises:
        ValueError: when a class has no object.
    """
    names, there = batches.labels.classes, np.concatenate([each["labels"] for each in true])
    without = [names[index] for index in classes if index not in there]
    if without:
        raise ValueError(
            f"each class must have an object of more than {min_size} connected pixels on the labelled images for the "
            f"detector to learn from, got none of {', '.join(without)}: lower min_size, label an image that shows one, "
            f"or name it as background of the detector."
        )
    slices, window = is_of_slices(batches.patch_size), window_of(batches.patch_size)
    boxes = [each["boxes"][:, [0, 1, 3, 4]] if slices else each["boxes"] for each in true]
    for iteration in range(LOOKED_AT):
        shown = label_boxes(batches.labels, batches[iteration]["labeled"]["label"], classes, min_size)
        boxes += [each["boxes"].cpu().numpy() for each in shown]
    shapes = [np.minimum(shape, window).tolist() for shape in anchor_shapes(np.concatenate(boxes))]
    levels = max(3, int(min(window)).bit_length() - 1)  # of two pixels or more along each axis
    channels = len(batches.labeled[0].arrays()["image"])
    detector = make_detector(shapes, len(classes), channels, features[:levels], width)
    detector.set_sliding_window_inferer(window, sw_batch_size=4, overlap=0.25)
    return detector


def train_detector(
    detector: Detector,
    batches: Batches,
    classes: Sequence[int],
    min_size: int,
    iterations: int,
    learning_rate: float,
    num_workers: int = 2,
) -> list[dict[str, float]]:
    """Trains a detector by AdamW, with a learning rate that rises over 20 iterations and falls to 0 after that.

    Args:
        detector: the detector, on the device of the batches.
        batches: batches of labelled images; see :func:`labeled_alone`.
        classes: indices of its classes among the foreground classes.
        min_size: see :func:`~common.detection.boxes.component_boxes`.
        iterations: number of iterations.
        learning_rate: the highest one.
        num_workers: see :class:`~common.batches.Loader`.

    Returns:
        The log: rows with ``iteration``, ``seconds``, ``loss`` and its parts ``classification`` and ``box_regression``,
        means since the row before.

    Raises:
        FloatingPointError: when the loss is not finite.
    """
    parameters = [parameter for parameter in detector.network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-4)
    rise = lambda t: min((t + 1) / WARM_UP, (1 - t / iterations) ** 0.9)  # noqa: E731
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rise)
    rows, losses, start = [], [], time.perf_counter()
    bar = tqdm(Loader(batches, iterations, num_workers), desc="detector", unit="iteration", leave=False, disable=None)
    detector.train()
    for iteration, batch in enumerate(bar, start=1):
        image, label = batch["labeled"]["image"], batch["labeled"]["label"]
        parts = detector(image, label_boxes(batches.labels, label, classes, min_size))
        losses.append(step(parts, optimizer, parameters, iteration))
        scheduler.step()
        if iteration % INTERVAL == 0 or iteration == iterations:
            means = dict(zip(("loss", *parts), np.mean(losses, axis=0).tolist(), strict=True))
            rows.append({"iteration": iteration, "seconds": time.perf_counter() - start, **means})
            bar.set_postfix({name: f"{value:.3g}" for name, value in means.items()})
            losses = []
    return rows


def step(
    parts: dict[str, Tensor], optimizer: torch.optim.Optimizer, parameters: list[Tensor], iteration: int
) -> list[float]:
    """A step of the optimizer; the loss and its parts."""
    loss = sum(parts.values())
    values = [float(loss), *(float(part) for part in parts.values())]
    if not np.isfinite(values).all():
        raise FloatingPointError(
            f"the detector's loss must be finite, got {values[0]:g} in iteration {iteration}: lower its learning_rate."
        )
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, LARGEST)
    optimizer.step()
    return values
