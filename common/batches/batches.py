"""Batches of labelled and unlabelled images, 2D and 3D, as a function of the iteration's number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from common.batches.checks import check_images, check_settings, checked_patch, whole_size
from common.batches.class_cover import ClassCover, class_presence
from common.batches.training_image import TrainingImage, stacked
from common.data.decoded import DecodedImages
from common.draws import generator, on_device
from common.label_space import LabelSpace
from common.ranks import rank, world_size
from common.values import Values
from common.views import Changes, View, Weak
from common.views.geometry import probability

if TYPE_CHECKING:
    from common.methods import Method

TRIES = 50  # for a pixel that is not background


class Draw(NamedTuple):
    """A window of an image: its first pixel along each axis."""

    image: TrainingImage
    first: np.ndarray


class Boxes(Protocol):
    """A detector's boxes in the unlabelled images; see :class:`~common.detection.FoundBoxes`."""

    boxed: np.ndarray  # of which classes there are any, C

    def covered(self, index: int, first: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """What they cover of a window of an image, zeros around a smaller image: ``C H W [D]``, uint8."""


class Batches:
    """The batch of iteration t, whatever came before it.

    Which images an iteration sees, which windows of them, and how each is augmented is drawn from (seed, iteration,
    rank, part) and the list of training images alone. So a run that is resumed at iteration t sees what the
    uninterrupted run saw, and the position in the data is one number.

    A batch is what the method needs (:class:`~common.parts.Needs`). ``labeled`` holds ``image`` and ``label``,
    ``B C H W [D]`` in float32 on the device, ``name`` (the files), ``weight`` where a pseudo-label has one, and
    ``pairs``; ``unlabeled`` holds ``image``, ``name`` and ``truth``, a function that gives the hidden truth of all of
    the images or None, and for a method that asks for a detector's boxes ``boxes``, what they cover, ``B C H W [D]`` of
    0 and 1, and ``boxed``, of which classes there are any, ``C``; ``values`` says what the images' values mean.
    Labelled images are drawn such that every class occurs among them (:class:`~common.batches.class_cover.ClassCover`),
    with repetition where they are fewer than the batch; unlabelled images come in a new order in every pass. Where a
    method needs every class, patches show it too, as long as there are no fewer of them than classes, and images that
    have joined take the places that are left.

    A pair is, with probability ``same_patch``, one patch twice; else two patches of two images at the same place: the
    second one's centre has the same relative position in the bounding box of its image's pixels that are not 0, as the
    first one's. Both move in the same way, and differ in what else the augmentation does (POPCORN, section 2.2).

    Args:
        labeled: labelled images.
        unlabeled: unlabelled images, or None.
        labels: the label space.
        method: the method, which says what it needs.
        labeled_batch: number p of labelled images in a batch; the reference pool of RPG.
        unlabeled_batch: number of unlabelled images in a batch.
        patch_size: sides of the windows, multiples of 16; None for whole images, which must be of one size. With 1 as
            the last side, windows are slices of volumes, for a network of two axes: batches are ``B C H W`` then.
        weak: the weak augmentation of both; none where not given.
        value_range: lowest and highest value of the images, or None for images with mean 0 and standard deviation 1
            around a background of 0.
        foreground: probability that a window's centre is a pixel of a class; else, and in images without any, it is any
            pixel that is not 0.
        same_patch: see above.
        labeled_share: once images have joined, the probability that a training image (of a pair, the first one) is a
            labelled one; without it all training images are equally probable, as in the paper, however few are
            labelled.
        device: where batches go.
        seed: seed of all draws.

    Raises:
        ValueError: when the data cannot meet what the method needs, or a setting is out of its range.
    """

    def __init__(
        self,
        labeled: DecodedImages,
        unlabeled: DecodedImages | None,
        labels: LabelSpace,
        method: Method,
        labeled_batch: int = 3,
        unlabeled_batch: int = 2,
        patch_size: Sequence[int] | None = None,
        weak: View | None = None,
        value_range: Sequence[float] | None = (0.0, 1.0),
        foreground: float = 0.0,
        same_patch: float = 0.5,
        labeled_share: float | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        self.needs, self.labels, self.seed, self.device = method.needs, labels, seed, torch.device(device)
        self.values, self.weak = Values.of(value_range), weak or Weak()
        self.labeled_batch, self.unlabeled_batch = labeled_batch, unlabeled_batch
        self.foreground, self.same_patch = probability(foreground, "foreground"), probability(same_patch, "same_patch")
        self.labeled_share = None if labeled_share is None else probability(labeled_share, "labeled_share")
        self.stores = {"labeled": labeled, "unlabeled": unlabeled}
        check_settings(self.needs, labeled_batch, unlabeled_batch, self.values)
        check_images(method, labeled, unlabeled, self.values)
        stores = [store for store in (labeled, unlabeled) if store is not None]
        self.whole = patch_size is None
        self.patch_size = whole_size(stores) if self.whole else checked_patch(patch_size, stores, self.values)
        self.labeled = [TrainingImage(labeled, index) for index in range(len(labeled))]
        self.joined: list[TrainingImage] = []
        self.unlabeled = [TrainingImage(unlabeled, index) for index in range(len(unlabeled or ()))]
        self.boxes: Boxes | None = None  # of the unlabelled images, for methods that ask for them
        presence = class_presence([image.arrays()["label"] for image in self.labeled], labels)
        self.cover = ClassCover(presence, labeled_batch, labels.classes, needed=self.needs.class_cover)
        self._places: dict[tuple[int, int], np.ndarray] = {}
        self._last_order: tuple[int, np.ndarray] = -1, np.arange(0)
        self.rank, self.world_size = rank(), world_size()
        # both, also where the second one has no room any more
        self.resident = all([store.move_to(self.device) for store in self.stores.values() if store])

    def join(self, image: TrainingImage) -> None:
        """Adds a pseudo-labelled image to the training images."""
        self.joined.append(image)

    def __getitem__(self, iteration: int) -> dict[str, Any]:
        batch = {"labeled": self.labeled_images(iteration), "values": self.values}
        if self.needs.unlabeled:
            draws = self._unlabeled(iteration, generator(self.seed, iteration, "unlabeled"))
            batch["unlabeled"] = self._part(draws, iteration, "unlabeled")
        return batch

    def labeled_images(self, iteration: int) -> dict[str, Any]:
        """The labelled images of an iteration's batch."""
        draw = generator(self.seed, iteration, "labeled")
        draws = self._pairs(draw) if self.needs.pairs else self._labeled(draw)
        pairs = np.arange(len(draws)).reshape(2, -1).T if self.needs.pairs else None
        return self._part(draws, iteration, "labeled", pairs)

    def windows(self, places: Sequence[tuple[TrainingImage, np.ndarray]]) -> Tensor:
        """Windows as they are, each of an image and from a first pixel, ``B C H W [D]`` on the device."""
        crops = [image.crop(first, self.patch_size, ("image",)) for image, first in places]
        return stacked(crops, "image", self.device)

    def settings(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one before."""
        names = ("labeled_batch", "unlabeled_batch", "patch_size", "weak", "values", "foreground", "same_patch")
        images = {part: store.fingerprints() for part, store in self.stores.items() if store}
        kept = {name: getattr(self, name) for name in (*names, "labeled_share", "seed")}
        return {**kept, "processes": self.world_size, "images": images}

    # ---- what is drawn

    def _labeled(self, draw: np.random.Generator) -> list[Draw]:
        """The labelled images of a batch, or any training images once some have joined, and in each a window."""
        if self.needs.class_cover and not self.whole:
            return self._showing_every_class(draw)
        missing, draws = set(range(self.labels.num_classes)) if self.needs.class_cover else set(), []
        for index in self.cover.draw(draw):
            added = missing & set(np.flatnonzero(self.cover.presence[index]))
            image = self._training_image(draw)[0] if self.joined and not added else self.labeled[index]
            draws.append(self._window(image, draw))
            missing -= added
        return draws

    def _showing_every_class(self, draw: np.random.Generator) -> list[Draw]:
        """Windows around pixels of the classes that are missing so far, and where none is, any windows."""
        missing, draws, uses = set(range(self.labels.num_classes)), [], np.zeros(len(self.labeled), dtype=int)
        order = draw.permutation(len(self.labeled))
        for _ in range(self.labeled_batch):
            label = int(draw.choice(sorted(missing))) if missing else None
            holders = order if label is None else order[self.cover.presence[order, label]]
            index = int(holders[uses[holders].argmin()])  # those that were not taken yet first
            image = self.labeled[index]
            if label is None:
                draws.append(self._window(self._training_image(draw)[0] if self.joined else image, draw))
            else:
                draws.append(self._window(image, draw, self._pixel_of(index, label, draw)))
                shown = image.arrays()["label"][image.window(draws[-1].first, self.patch_size)]
                missing -= set(np.flatnonzero(class_presence([shown], self.labels)[0]))
            uses[index] += 1
        return draws

    def _pixel_of(self, index: int, label: int, draw: np.random.Generator) -> np.ndarray:
        """Any pixel of a class in a labelled image."""
        image = self.labeled[index]
        if (index, label) not in self._places:
            masks = self.labels.masks(torch.from_numpy(np.array(image.arrays()["label"]))[None])
            self._places[index, label] = np.flatnonzero(masks[0, label].numpy()).astype(np.int32)
        places = self._places[index, label]
        return np.array(np.unravel_index(places[draw.integers(len(places))], image.shape))

    def _pairs(self, draw: np.random.Generator) -> list[Draw]:
        """The first images of all pairs, then the second ones."""
        images, firsts, seconds = [*self.labeled, *self.joined], [], []
        for _ in range(self.labeled_batch // 2):
            one, first = self._training_image(draw)
            centre = self._centre(one, draw)
            firsts.append(self._window(one, draw, centre))
            if len(images) == 1 or draw.random() < self.same_patch:
                seconds.append(firsts[-1])
                continue
            second = int(draw.integers(len(images) - 1))
            other = images[second + (second >= first)]  # any but the first
            place = (centre - one.box[0]) / (one.box[1] - one.box[0])
            there = np.rint(other.box[0] + place * (other.box[1] - other.box[0])).astype(int)
            seconds.append(self._window(other, draw, there))
        return [*firsts, *seconds]

    def _training_image(self, draw: np.random.Generator) -> tuple[TrainingImage, int]:
        """Any training image, and its place among the labelled ones and those that have joined."""
        mostly = self.labeled_share is not None and draw.random() < self.labeled_share
        number = len(self.labeled) if mostly else len(self.labeled) + len(self.joined)
        index = int(draw.integers(number))
        return (self.labeled[index] if index < len(self.labeled) else self.joined[index - len(self.labeled)]), index

    def _unlabeled(self, iteration: int, draw: np.random.Generator) -> list[Draw]:
        """The unlabelled images of a batch: each image once in a pass, each pass in its own order."""
        first = (iteration * self.world_size + self.rank) * self.unlabeled_batch
        draws = []
        for place in range(first, first + self.unlabeled_batch):
            turn, offset = divmod(place, len(self.unlabeled))
            order = self._order(turn)
            draws.append(self._window(self.unlabeled[order[offset]], draw, labeled=False))
        return draws

    def _order(self, turn: int) -> np.ndarray:
        """The order of unlabelled images in a pass; that of the last one asked for is kept."""
        kept, order = self._last_order
        if kept != turn:
            order = np.random.default_rng([self.seed, turn]).permutation(len(self.unlabeled))
            self._last_order = turn, order
        return order

    def _window(
        self, image: TrainingImage, draw: np.random.Generator, centre: np.ndarray | None = None, labeled: bool = True
    ) -> Draw:
        """A window around a centre, any one where none is given; moved inwards at the borders."""
        room = np.maximum(np.subtract(image.shape, self.patch_size), 0)
        if not room.any():
            return Draw(image, room)
        centre = self._centre(image, draw, labeled) if centre is None else centre
        return Draw(image, np.clip(centre - np.array(self.patch_size) // 2, 0, room))

    def _centre(self, image: TrainingImage, draw: np.random.Generator, labeled: bool = True) -> np.ndarray:
        """A pixel of a class or, in an unlabelled image always, any pixel that is not 0.

        Along an axis of which a window is more than three quarters, nearly all centres are too near to a border, and
        windows would lie at one: there the window is drawn, not its centre.
        """
        if labeled and self.foreground and draw.random() < self.foreground:
            places = image.foreground(self.labels)
            if len(places):
                return np.array(np.unravel_index(places[draw.integers(len(places))], image.shape))
        values = image.store.arrays(image.index)["image"]
        size, shape = np.array(self.patch_size), np.array(image.shape)
        large = (4 * size > 3 * shape) & (shape > size)
        for _ in range(TRIES):
            centre = draw.integers(*image.box)
            if large.any():
                first = draw.integers(0, np.maximum(shape - size, 0) + 1)
                centre = np.where(large, first + size // 2, centre)
            if values[(slice(None), *centre)].any():
                break
        return centre

    # ---- what becomes of it

    def _part(self, draws: list[Draw], iteration: int, part: str, pairs: np.ndarray | None = None) -> dict[str, Any]:
        """The windows as a batch on the device, weakly augmented."""
        keys = ("image", "label", "weight") if part == "labeled" else ("image",)
        crops = [draw.image.crop(draw.first, self.patch_size, keys) for draw in draws]
        weights = [crop["weight"] for crop in crops if "weight" in crop]
        for crop in crops if weights else []:  # labels of people count fully
            crop.setdefault("weight", torch.ones_like(weights[0]))
        if len({len(crop["label"]) for crop in crops if "label" in crop}) > 1:  # some are soft
            for crop in crops:
                crop["label"] = self.labels.one_hot(crop["label"][None])[0]
        groups = None if pairs is None else np.arange(len(draws)) % len(pairs)
        draw = generator(self.seed, iteration, f"weak {part}")
        viewed = self.weak(stacked(crops, "image", self.device), draw, self.values, groups)
        found: dict[str, Any] = {"image": viewed.image, "name": [draw.image.name for draw in draws]}
        if part == "labeled":
            label, weight = (stacked(crops, key, self.device) for key in ("label", "weight"))
            found["label"], weight = viewed.change.of_label(label, weight)
            found |= {} if weight is None else {"weight": weight}
            found |= {} if pairs is None else {"pairs": torch.from_numpy(pairs).to(self.device, non_blocking=True)}
        else:
            found["truth"] = self._truth(draws, viewed.change)
            found |= self._boxes(draws, viewed.change) if self.needs.boxes else {}
        return found

    def _boxes(self, draws: list[Draw], change: Changes) -> dict[str, Tensor]:
        """What boxes cover of the windows, moved as they were; nothing of what was outside of an image."""
        if self.boxes is None:
            raise ValueError(
                "the method asks for a detector's boxes in the unlabelled images, got none: put a "
                "common.detection.DetectorStage of these batches among train#handlers."
            )
        masks = [self.boxes.covered(draw.image.index, draw.first, self.patch_size) for draw in draws]
        mask = stacked([{"boxes": torch.from_numpy(each)} for each in masks], "boxes", self.device)
        moved, _ = change.of_label(mask, torch.ones_like(mask[:, :1]))
        return {"boxes": moved, "boxed": on_device(self.boxes.boxed, mask)}

    def _truth(self, draws: list[Draw], change: Changes) -> Callable[[], Tensor | None]:
        """What the windows show in truth, changed as they were, once somebody wants to know."""

        def truth() -> Tensor | None:
            crops = [draw.image.crop(draw.first, self.patch_size, ("truth",)) for draw in draws]
            label = stacked(crops, "truth", self.device)
            return None if label is None else change.of_label(label, None)[0]

        return truth
