"""The stage before a training in which a detector learns from the labelled images and looks at the unlabelled ones."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events

from common.batches import Batches
from common.data import DecodedImages
from common.detection.found_boxes import Found, FoundBoxes, packed, table_of, unpacked
from common.detection.looking import boxes_in, is_of_slices, true_boxes
from common.detection.network import FLOOR
from common.detection.scores import OVERLAP, box_scores
from common.detection.training import labeled_alone, new_detector, train_detector
from common.draws import generator
from common.files import replacing
from common.handlers.checkpoint import load_checkpoint
from common.handlers.training_log import write_table
from common.ranks import barrier, is_first_rank
from common.settings import described, differences

logger = logging.getLogger(__name__)
FILE, LOG, SCORES, TABLE = "detector.pt", "train.csv", "validation.csv", "boxes.csv"
FORMAT = 1  # of the file, and of how a detector is trained
SCORED = (0.05, 0.25, 0.5, 0.7, 0.85, 0.95)  # scores of the table of recall and precision


class DetectorStage:
    """Trains a detector when a training starts, and gives the batches its boxes (Howlader et al. 2024, section 3.3).

    The detector (:func:`~common.detection.network.make_detector`) is trained from scratch on the labelled images alone,
    on windows of the batches, weakly augmented. Its objects are the connected components of each class. Then it looks
    at each validation image, for its recall and precision, and at each unlabelled image, whose boxes the batches carry
    from then on. It is trained only for a method that asks for boxes (:class:`~common.weights.Reliable`,
    :class:`~common.weights.DetectorAgreement`).

    Weights, boxes, log and scores are files in ``folder``. They are used again where settings and images are the same,
    so that a run that is killed goes on behind the detector, or trains it again from the start to the same weights;
    once there is a checkpoint, the boxes are in it. Random numbers are the stage's own: the training after it draws the
    same ones with and without it. In a distributed run the first process trains, and the others wait.

    Attach it to the trainer behind the handlers of the run's folder and of the checkpoint.

    Args:
        batches: the batches that are trained on.
        folder: where its files are.
        validation: validation images, preprocessed as those of the batches; None for no scores.
        background: names of classes without boxes, which cover most of an image (the paper's sky and buildings).
        score: boxes of unlabelled images count with this score or a higher one; 0.85 and 0.95 in the paper.
        min_size: components of more than so many pixels are objects; 90 in the released code.
        iterations: number of iterations.
        batch: labelled images in an iteration.
        learning_rate: the highest one, of AdamW.
        features, width: channels of the network; see :func:`~common.detection.training.new_detector`.
        num_workers: threads that prepare batches ahead.
        seed: seed of weights and draws.

    Raises:
        ValueError: when a setting is out of its range, a name is of no class, or, once it starts, when a class has no
            object on the labelled images.
    """

    def __init__(
        self,
        batches: Batches,
        folder: str | Path,
        validation: DecodedImages | None = None,
        background: Sequence[str] = (),
        score: float = 0.85,
        min_size: int = 90,
        iterations: int = 1000,
        batch: int = 8,
        learning_rate: float = 0.002,
        features: Sequence[int] = (16, 32, 64, 128, 128),
        width: int = 32,
        num_workers: int = 2,
        seed: int = 0,
    ) -> None:
        self.batches, self.folder, self.validation = batches, Path(folder), validation
        self.background, self.score, self.min_size, self.iterations = list(background), score, min_size, iterations
        self.batch, self.learning_rate, self.features, self.width = batch, learning_rate, list(features), width
        self.num_workers, self.seed = num_workers, seed
        self.labels, self.stores = batches.labels, {**batches.stores, "validation": validation}
        self.found: list[Found] | None = None
        self.check()
        self.classes = [index for index, name in enumerate(self.labels.classes) if name not in self.background]
        self.slices = is_of_slices(batches.patch_size)

    def check(self) -> None:
        """Refuses settings that are out of their range."""
        names = self.labels.classes
        unknown = sorted(set(self.background) - set(names))
        if unknown or set(self.background) == set(names):
            raise ValueError(
                f"background of the detector must name some of the classes {', '.join(names)}, but not all, got "
                f"{', '.join(unknown or self.background)}: the others have boxes."
            )
        if not FLOOR <= self.score < 1:
            raise ValueError(
                f"score of the detector must be in [{FLOOR:g}, 1), got {self.score}: the paper has 0.85 and 0.95."
            )
        for name, least in (("iterations", 1), ("batch", 1), ("min_size", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} of the detector must be at least {least}, got {getattr(self, name)}.")
        if len(self.features) < 3 or self.width % 8:
            raise ValueError(
                f"features of the detector must be three or more numbers and width a multiple of 8, got "
                f"{self.features} and {self.width}."
            )

    @property
    def needed(self) -> bool:
        """Whether the method asks for boxes."""
        return self.batches.needs.boxes

    # ---- the stage

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)

    def start(self, engine: Engine) -> None:
        """Trains the detector, or takes the one that there is."""
        if not self.needed or self.found is not None:
            return
        if is_first_rank() and not self.is_made():
            device = torch.device(engine.state.device)
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(int(generator(self.seed, 1, "detector").integers(2**31)))
                self.make(device)
        barrier()
        content = load_checkpoint(self.folder / FILE)
        if self.validation:
            self.say_scores(*(unpacked(content[name]) for name in ("validation", "truth")))
        self.give(unpacked(content["unlabeled"]))

    def is_made(self) -> bool:
        """Whether the folder has a detector of these settings and images."""
        if not (self.folder / FILE).exists():
            return False
        theirs = load_checkpoint(self.folder / FILE).get("settings", "{}")
        other = differences(self.made_of(), json.loads(theirs))
        if other:
            logger.warning(f"The detector in {self.folder} is of {'; '.join(other[:4])}: another one is trained.")
        return not other

    def give(self, found: list[Found]) -> None:
        """Gives the batches the boxes of the unlabelled images, and says what was found nowhere."""
        store = self.stores["unlabeled"]
        shapes, names = zip(*((store.shape(index), store.name(index)) for index in range(len(store))), strict=True)
        boxes = FoundBoxes(found, shapes, names, self.labels.num_classes, self.score)
        self.found, self.batches.boxes = found, boxes
        if not is_first_rank():
            return
        missed = [self.labels.classes[index] for index in self.classes if not boxes.boxed[index]]
        logger.info(f"The detector has {len(boxes)} boxes in {len(store)} unlabelled images.")
        if missed:
            logger.warning(
                f"The detector found no {' and no '.join(missed)} with a score of {self.score:g} in {len(store)} "
                f"unlabelled images: what is known of it comes from labelled images alone; lower score, or train the "
                f"detector for more iterations."
            )

    def say_scores(self, found: list[Found], true: list[Found]) -> None:
        """Says recall and precision on the validation images."""
        whole = self.scores(found, true, self.score)[-1]
        recall, precision = ("unknown" if whole[name] is None else whole[name] for name in ("recall", "precision"))
        logger.info(
            f"The detector finds {whole['objects']} objects of {len(true)} validation images with recall {recall} and "
            f"precision {precision}, at a score of {self.score:g} and an overlap of {OVERLAP:g}."
        )

    def scores(self, found: list[Found], true: list[Found], score: float) -> list[dict[str, Any]]:
        """Recall and precision of the classes that have boxes, and of all."""
        rows = box_scores(found, true, self.labels.classes, score)
        return [{"score": score, **row} for row in rows if row["class"] not in self.background]

    # ---- making the detector

    def make(self, device: torch.device) -> None:
        """Trains a detector, lets it look at the images, and writes what comes of it."""
        alone, objects = labeled_alone(self.batches, self.batch, self.seed), (self.classes, self.min_size)
        detector = new_detector(alone, self.true("labeled"), *objects, self.features, self.width)
        detector.to(device)
        log = train_detector(detector, alone, *objects, self.iterations, self.learning_rate, self.num_workers)
        write_table(self.folder / LOG, log)
        dimensions, content = len(self.batches.patch_size), {"settings": json.dumps(self.made_of())}
        content["anchors"] = detector.shapes  # which the weights do not work without
        content["network"] = {name: value.cpu() for name, value in detector.network.state_dict().items()}
        if self.validation:
            true = [{**each, "scores": np.ones(len(each["labels"]), np.float32)} for each in self.true("validation")]
            found = boxes_in(detector, self.validation, self.classes, self.slices, device)
            content |= {"validation": packed(found, dimensions), "truth": packed(true, dimensions)}
            write_table(self.folder / SCORES, [row for score in SCORED for row in self.scores(found, true, score)])
        found = boxes_in(detector, self.stores["unlabeled"], self.classes, self.slices, device)
        content["unlabeled"] = packed(found, dimensions)
        store = self.stores["unlabeled"]
        names = [store.name(index) for index in range(len(store))]
        with replacing(self.folder / TABLE) as temporary:
            table_of(found, names, self.labels.classes, dimensions).to_csv(temporary, index=False, float_format="%.6g")
        with replacing(self.folder / FILE) as temporary:  # last, since it says that all is there
            torch.save(content, temporary)

    def true(self, images: str) -> list[Found]:
        """Boxes of the objects of labelled or validation images."""
        return true_boxes(self.stores[images], self.labels, self.classes, self.min_size, self.slices)

    # ---- what a resumed run must know

    def made_of(self) -> dict[str, Any]:
        """What the detector and the boxes depend on: settings and images."""
        names = ("background", "min_size", "iterations", "batch", "learning_rate", "features", "width", "seed")
        kept: dict[str, Any] = {"format": FORMAT, **{name: getattr(self, name) for name in names}}
        kept |= {name: getattr(self.batches, name) for name in ("patch_size", "weak", "foreground")}
        kept["classes"] = self.labels.classes
        kept["images"] = {name: store.fingerprints() for name, store in self.stores.items() if store}
        return json.loads(json.dumps(described(kept)))

    def settings(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one before; images are compared by the loader."""
        if not self.needed:
            return {}
        return {**{name: value for name, value in self.made_of().items() if name != "images"}, "score": self.score}

    def state_dict(self) -> dict[str, Any]:
        return packed(self.found or [], len(self.batches.patch_size))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.needed:
            self.give(unpacked(state))
