"""The curriculum: unlabelled images join the training images step by step, each with a pseudo-label."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from tqdm import tqdm

from common.batches import Batches, TrainingImage
from common.curriculum import Joining, ProximityGraph, PseudoLabelStore, grid_of, image_latents, loaded
from common.files import replacing
from common.label_space import LabelSpace
from common.methods import Method, Step
from common.metrics import image_dice
from common.networks import unwrapped
from common.ranks import SameBuffers, barrier, gathered_rows, is_first_rank, rank, world_size

logger = logging.getLogger(__name__)
RANDOM_SELECTION = 20  # a stream of random numbers of its own


class Curriculum:
    """Selects, pseudo-labels and lets join: steps 1 to 3 of Kamraoui et al. 2021, section 2.3.

    Training starts on the labelled images alone. After ``start`` epochs the latents of all images are taken from the
    network (section 2.4), and a step begins every ``step_epochs`` epochs of the method's
    :class:`~common.curriculum.Joining`: the proximity graph selects ``step_size`` unlabelled images, the network as it
    is now labels them, and they join the training images of ``batches``, until all have. A pseudo-label is never made
    again. The latents of the first step serve all steps, so that a step costs distances to the images that joined last
    alone; with ``refresh`` they are taken anew for each. With a method without any joining nothing happens.

    Whatever was selected is found again by a resumed run: the state holds who joined when, and the folder the files. A
    run that is killed within a step goes on from the last checkpoint and makes the same step again.

    It is made before the trainer, whose handler :class:`CurriculumSteps` calls it.

    Args:
        method: its ``joining`` says which images join, when, and what their label is.
        batches: the batches that are trained on; their unlabelled images join. Those that were set aside stay out and
            are named when the training ends.
        network: the network, on its device.
        inferer: MONAI's inferer, over sliding windows where images are larger than patches, for pseudo-labels.
        folder: folder of the pseudo-labels; see :class:`~common.curriculum.store.PseudoLabelStore`.
        start: number of epochs before the first step; long enough for the network to segment.
        refresh: take all latents anew for every step.
        seed: seed of the random selection.
        scored: the label space that truth is of, where it is another one than that of the training.

    Raises:
        ValueError: when ``start`` is below 1, or the checkpoint is of other unlabelled images.
    """

    def __init__(
        self,
        method: Method,
        batches: Batches,
        network: nn.Module,
        inferer: Any,
        folder: str | Path,
        start: int = 1,
        refresh: bool = False,
        seed: int = 0,
        scored: LabelSpace | None = None,
    ) -> None:
        if start < 1:
            raise ValueError(f"start must be at least 1 epoch, got {start}: there is no pseudo-label without training.")
        self.joining: Joining | None = method.joining
        self.batches, self.network, self.inferer = batches, network, inferer
        self.scored = scored or batches.labels
        self.labeled, self.unlabeled = batches.stores["labeled"], batches.stores["unlabeled"]
        self.store, self.start, self.refresh, self.seed = PseudoLabelStore(folder), start, refresh, seed
        self.plan = self.joining.plan(len(self.unlabeled)) if self.joining else []
        self.joined: list[list[int]] = []  # rows of the unlabelled images, for each step
        self.entries: list[dict[str, Any]] = []
        self.graph: ProximityGraph | None = None

    @property
    def last_start(self) -> int:
        """Number of epochs before the last step: from then on the training images stay what they are."""
        return self.start + (len(self.plan) - 1) * self.joining.step_epochs if self.plan else 0

    def announce(self, engine: Engine) -> None:
        """Says how many images will join, and warns when there are none or the epochs do not suffice for all."""
        if not self.plan or not is_first_rank():
            return
        needed = self.start + len(self.plan) * self.joining.step_epochs
        within = [
            n for s, n in enumerate(self.plan) if self.start + s * self.joining.step_epochs < engine.state.max_epochs
        ]
        logger.info(
            f"{sum(within)} of {len(self.unlabeled)} unlabelled images join in {len(within)} steps of up to "
            f"{max(self.plan)}, from epoch {self.start + 1} on."
        )
        if needed > engine.state.max_epochs:
            logger.warning(
                f"For all {sum(self.plan)} images to join and be trained on, epochs must be at least {needed}, got "
                f"{engine.state.max_epochs}: raise it, or let more images join in a step."
            )

    def epoch_started(self, engine: Engine) -> None:
        """Makes the step that is due before this epoch, if any."""
        if len(self.joined) == len(self.plan):
            return
        since = engine.state.epoch - 1 - self.start
        step = since // self.joining.step_epochs
        if since >= 0 and since % self.joining.step_epochs == 0 and step == len(self.joined):
            self.make_step(engine)

    def make_step(self, engine: Engine) -> None:
        """Selects the images of the next step, labels them and lets them join."""
        step = len(self.joined) + 1
        device = torch.device(engine.state.device)
        SameBuffers(unwrapped(self.network))(engine)  # each rank has its own running statistics of batch norm
        if self.joining.selection == "proximity" and (self.graph is None or self.refresh):
            self.set_graph(self.take_latents(device))
        rows, scores, neighbors = self.select(step)
        self.label(rows, step, device)
        self.joined.append(rows)
        for place, row in enumerate(rows):
            self.add(row, step)
            self.entries.append(self.entry(row, step, scores[place], neighbors[place]))
        if is_first_rank():
            self.store.write_manifest(self.entries, self.unlabeled.unreadable)
            if self.graph is not None:
                self.write_latents()
            known = [entry["dice"] for entry in self.entries[-len(rows) :] if entry["dice"] is not None]
            note = f", Dice of their pseudo-labels {np.mean(known):.3f}" if known else ""
            logger.info(f"Step {step}: {len(rows)} images joined, {self.left()} are left{note}.")

    def select(self, step: int) -> tuple[list[int], list[float | None], list[list[dict]]]:
        """Rows of the images that join, each one's score (eq. 7), and its nearest training images with distances."""
        count = self.plan[step - 1]
        if self.graph is None:
            before = {row for rows in self.joined for row in rows}
            rest = np.array([row for row in range(len(self.unlabeled)) if row not in before])
            draw = np.random.default_rng([self.seed, RANDOM_SELECTION, step])
            rows = [int(row) for row in draw.choice(rest, count, replace=False)]
            return rows, [None] * count, [[] for _ in rows]
        rows = [int(row) for row in self.graph.select(count)]
        scores = self.graph.scores(rows).tolist()
        distances, ids = self.graph.nearest(rows)
        names = [str(item["image"]) for item in (*self.labeled.data, *self.unlabeled.data)]
        neighbors = [
            [{"image": names[i], "distance": round(d, 6)} for d, i in zip(*pair, strict=True) if i >= 0]
            for pair in zip(distances.tolist(), ids.tolist(), strict=True)
        ]
        self.graph.join(rows)
        return rows, scores, neighbors

    def take_latents(self, device: torch.device) -> Tensor:
        """Latents of the labelled images, then of the unlabelled ones; the ranks share the work."""
        items = [(self.labeled, i) for i in range(len(self.labeled))]
        items += [(self.unlabeled, i) for i in range(len(self.unlabeled))]
        shapes, patch = [images.shape(row) for images, row in items], self.batches.patch_size
        mine = items[rank() :: world_size()]
        latents = image_latents(self.network, mine, patch, grid_of(shapes, patch), device)
        return gathered_rows(torch.stack(latents) if latents else None, len(items))

    def set_graph(self, latents: Tensor) -> None:
        """A new proximity graph, in which those that have joined have joined."""
        labeled, unlabeled = latents[: len(self.labeled)], latents[len(self.labeled) :]
        self.graph = ProximityGraph(unlabeled, labeled, self.joining.neighbors)
        for rows in self.joined:
            self.graph.join(rows)
        self.latents = latents

    @torch.no_grad()  # a graph of all windows of a volume would not fit into memory
    def label(self, rows: list[int], step: int, device: torch.device) -> None:
        """Writes the pseudo-labels of a step; each rank makes its share of them, and all wait until they are there."""
        if is_first_rank():
            with replacing(self.store.folder / f"step{step:02d}.pt") as temporary:
                torch.save(unwrapped(self.network).state_dict(), temporary)
        for row in tqdm(rows[rank() :: world_size()], desc=f"step {step}", unit="image", leave=False, disable=None):
            image, affine = loaded(self.unlabeled, row)[None].to(device), self.unlabeled.affine(row)
            self.network.eval()
            batch = {"unlabeled": {"image": image}, "values": self.batches.values}
            seen = Step(self.batches.labels, self.network, batch, seed=self.seed, inferer=self.inferer)
            label, weight = (
                None if part is None else part[0].float().cpu().numpy() for part in self.joining.label(seen)
            )
            self.store.save(self.name(row, step), label, weight, affine)
        barrier()

    def add(self, row: int, step: int) -> None:
        """Lets an image join the training images with the pseudo-label in its file."""
        name = self.name(row, step)
        soft = self.store.is_soft(name)
        label = self.store.soft_label(name)["label"] if soft else self.store.load_label(name)
        if label.shape[1:] != self.unlabeled.shape(row):
            raise ValueError(
                f"the pseudo-label {name} must have the shape of its image {self.unlabeled.shape(row)}, got "
                f"{label.shape[1:]}: resume with the size or spacing that the run was started with."
            )
        read = partial(self.store.soft_label, name) if soft else None
        self.batches.join(TrainingImage(self.unlabeled, row, read, None if soft else label))

    def entry(self, row: int, step: int, score: float | None, neighbors: list[dict]) -> dict[str, Any]:
        """The manifest's entry of an image."""
        name, truth, dice = self.name(row, step), self.unlabeled.arrays(row).get("truth"), None
        label = torch.from_numpy(self.store.load_label(name).astype(np.float32))[None]
        masks = self.scored.masks(label)[0] > 0.5
        volume_ml = None
        if masks.ndim == 4:
            voxel_ml = abs(np.linalg.det(self.unlabeled.affine(row)[:3, :3])) / 1000
            volume_ml = round(float(masks.any(0).sum() * voxel_ml), 4)
        if truth is not None:
            dice = round(float(image_dice(self.scored, label, torch.from_numpy(np.array(truth))[None]).mean()), 4)
        return {
            "image": self.unlabeled.name(row),
            "step": step,
            "score": score,
            "neighbors": neighbors,
            "checkpoint": f"step{step:02d}.pt",
            "label": f"{name}.nii.gz",
            "lesion_ml": volume_ml,
            "dice": dice,
            "truth": None if truth is None else "|".join(np.ravel(self.unlabeled.data[row]["truth"])),
        }

    def name(self, row: int, step: int) -> str:
        """Name of a pseudo-label's file: the image's place in the datalist tells namesakes apart."""
        stem = Path(self.unlabeled.name(row)).name.split(".")[0]
        return f"{row:04d}_{stem}_step{step:02d}"

    def left(self) -> int:
        """Number of images that have not joined."""
        return len(self.unlabeled or ()) - sum(map(len, self.joined))

    def write_latents(self) -> None:
        """Writes all latents with the step in which each image joined."""
        steps = np.full(len(self.latents), -1)
        steps[: len(self.labeled)] = 0
        for step, rows in enumerate(self.joined, start=1):
            steps[[len(self.labeled) + row for row in rows]] = step
        names = [str(item["image"]) for item in (*self.labeled.data, *self.unlabeled.data)]
        self.store.write_latents(self.latents.numpy(), names, steps.tolist())

    def summarize(self, engine: Engine) -> None:
        """Says at the end what joined, and what was set aside and why."""
        if is_first_rank() and self.plan:
            logger.info(f"{sum(map(len, self.joined))} unlabelled images have joined, {self.left()} have not.")
            for image, reason in self.unlabeled.unreadable.items():
                logger.warning(f"Was set aside: {image}: {reason}")

    def settings(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one before."""
        return {"start": self.start, "refresh": self.refresh, "seed": self.seed} if self.plan else {}

    def state_dict(self) -> dict[str, Any]:
        return {
            "images": [Path(str(item["image"])).name for item in self.unlabeled.data] if self.plan else [],
            "joined": [list(rows) for rows in self.joined],
            "plan": list(self.plan),
            "entries": self.entries,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        mine = self.state_dict()["images"]
        if state["images"] != mine:
            raise ValueError(f"it is of {len(state['images'])} unlabelled images, got {len(mine)} or others.")
        if state["plan"] != self.plan:
            raise ValueError(
                f"it is of a run in which {state['plan']} images join in its steps, got {self.plan}: resume with the "
                f"settings that the run was started with."
            )
        self.joined, self.entries = [list(rows) for rows in state["joined"]], list(state["entries"])
        self.batches.joined.clear()
        for step, rows in enumerate(self.joined, start=1):
            for row in rows:
                self.add(row, step)
        if self.joined and self.joining.selection == "proximity":
            self.set_graph(torch.from_numpy(self.store.read_latents()))


class CurriculumSteps:
    """Lets a curriculum make its steps while a trainer runs. Attach it after the checkpoint, which loads its state.

    Args:
        curriculum: the curriculum.
    """

    def __init__(self, curriculum: Curriculum) -> None:
        self.curriculum = curriculum

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.curriculum.announce)
        engine.add_event_handler(Events.EPOCH_STARTED, self.curriculum.epoch_started)
        engine.add_event_handler(Events.COMPLETED, self.curriculum.summarize)
