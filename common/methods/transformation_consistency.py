"""The same segmentation of an image and of its elastically deformed self (Bortsova et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.label_space import LabelSpace
from common.methods.popcorn import Popcorn
from common.methods.semi_supervised import rise
from common.ranks import rank

ELASTIC = 30  # a stream of random numbers of its own
PARTS = ("labeled", "unlabeled")
INTERPOLATION = {2: "bilinear", 3: "trilinear"}


class TransformationConsistency(Popcorn):
    """Dice loss, and outputs that follow an elastic deformation of the image (Bortsova et al. 2019).

    A comparator of Kamraoui et al. 2021 (section 3.2, table 2):

    .. math::
        L = L_{seg} + \\lambda(t) \\, \\frac{1}{|V| C} \\sum_{x \\in V} \\sum_c
            \\left( T(p(X))_c(x) - p(T(X))_c(x) \\right)^2

    with L_seg the Dice losses of the pairs (eq. 1 and 5 of Kamraoui et al.) on the patches as they are, p the
    network's probabilities, T an elastic deformation of each patch (:func:`random_displacement`, :func:`deformed`), and
    V the voxels of all patches, labelled and unlabelled alike, that come from inside their patch. Gradients go through
    both outputs.

    This is made from the description in Kamraoui et al., who say that a consistency loss beside the primary one makes
    the predictions of an image under transformations consistent. Ours are the squared error over the voxels from
    inside, the deformation's size and shape, the gradients through both outputs, the factor and its rise
    exp(-5 (1 - t / ramp_up)^2) over the first iterations.

    Displacements are drawn from (seed, iteration, rank, kind of patch) alone, so that a resumed run draws what the
    uninterrupted one does. All images are trained on from the start, none joins.

    Args:
        labels: the label space.
        consistency_weight: the factor lambda; 0 leaves the term and the unlabelled patches out.
        ramp_up: number of iterations over which the factor rises; 0 for none.
        displacement: largest displacement along an axis, in voxels.
        spacing: distance of the points whose displacements are drawn, in voxels; at least twice the displacement, so
            that no two of them along an axis change places.
        seed: seed of the displacements.
        curriculum: ``step_size``, ``step_epochs``, ``neighbors`` and ``share`` of :class:`Popcorn`, which a
            configuration may hold and which are without effect.

    Raises:
        ValueError: when a number is out of its range.
    """

    unlabeled_batch = 2

    def __init__(
        self,
        labels: LabelSpace,
        consistency_weight: float = 1.0,
        ramp_up: int = 1000,
        displacement: float = 4.0,
        spacing: float = 16.0,
        seed: int = 0,
        **curriculum: Any,
    ) -> None:
        super().__init__(labels, consistency_weight=consistency_weight, selection="none", **curriculum)
        if ramp_up < 0 or displacement < 0 or seed < 0:
            raise ValueError(
                f"ramp_up, displacement and seed must not be negative, got {ramp_up}, {displacement} and {seed}."
            )
        if spacing < max(1, 2 * displacement):
            raise ValueError(
                f"spacing must be at least 1 and twice the displacement of {displacement} voxels, got {spacing}: the "
                f"images would be folded."
            )
        self.ramp_up, self.displacement, self.spacing, self.seed = ramp_up, displacement, spacing, seed

    def terms(self, network: nn.Module, batch: dict[str, dict[str, Any]], iteration: int) -> tuple[dict, dict]:
        outputs = network(batch["labeled"]["image"])
        terms = {"dice": self.pair_loss(outputs, batch["labeled"])}
        if self.consistency_weight == 0:
            return terms, {}
        error = voxels = 0.0
        for kind in PARTS:  # in passes of their own, as batch norm's statistics are those of one kind of image
            if kind in batch:
                image = batch[kind]["image"]
                outputs = outputs if kind == "labeled" else network(image)
                field = self.field(image, iteration, kind)
                changed = network(deformed(image, field).to(image.dtype))
                probability = deformed(self.labels.probabilities(outputs.float()), field)
                square = (probability - self.labels.probabilities(changed.float())).square().mean(1, keepdim=True)
                inside = comes_from_inside(field)
                error, voxels = error + (square * inside).sum(), voxels + inside.sum()
        factor = self.consistency_weight * rise(iteration, self.ramp_up)
        return terms | {"consistency": factor * error / voxels.clamp(min=1)}, {}

    def field(self, image: Tensor, iteration: int, kind: str) -> Tensor:
        """The displacements of an iteration's labelled or unlabelled patches ``B C H W [D]``."""
        draw = np.random.default_rng([self.seed, ELASTIC, iteration, rank(), PARTS.index(kind)])
        size = image.shape[2:]
        return random_displacement(len(image), size, self.displacement, self.spacing, draw).to(image.device)


def random_displacement(
    number: int, size: Sequence[int], displacement: float, spacing: float, draw: np.random.Generator
) -> Tensor:
    """Smooth random displacements, from a coarse grid of uniform draws with linear interpolation between.

    The grid's corners are the image's; its points lie ``spacing`` voxels apart or a little more, such that there is a
    whole number of them, and in an image smaller than that at its corners alone.

    Args:
        number: number B of images.
        size: sides of an image in voxels.
        displacement: largest displacement along an axis, in voxels.
        spacing: distance of the grid's points, in voxels.
        draw: where the numbers come from.

    Returns:
        ``B n H W [D]`` in voxels along each of the n axes, float32.
    """
    points = [max(2, int((side - 1) // spacing) + 1) for side in size]
    coarse = draw.uniform(-displacement, displacement, (number, len(size), *points)).astype(np.float32)
    return F.interpolate(torch.from_numpy(coarse), tuple(size), mode=INTERPOLATION[len(size)], align_corners=True)


def deformed(maps: Tensor, field: Tensor) -> Tensor:
    """Maps ``B C H W [D]`` with, at each voxel v, the value at v + field(v), interpolated linearly; in float32.

    Beyond the border the value at the border goes on. No displacement leaves the maps as they are.

    Args:
        maps: images or probabilities.
        field: ``B n H W [D]`` in voxels.
    """
    with torch.autocast(maps.device.type, enabled=False):  # half precision would move voxels to neighbouring places
        maps, places = maps.float(), sources(field)
        sides = places.new_tensor(maps.shape[2:]).view(-1, *[1] * (maps.ndim - 2))
        # -1 and 1 are the outer faces of the first and the last voxel, whose centres are half a voxel further in
        grid = ((2 * places + 1) / sides - 1).flip(1).movedim(1, -1)
        return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)


def comes_from_inside(field: Tensor) -> Tensor:
    """1 where v + field(v) lies between centres of voxels, 0 elsewhere; ``B 1 H W [D]``."""
    places = sources(field)
    last = places.new_tensor(field.shape[2:]).sub(1).view(-1, *[1] * (field.ndim - 2))
    return ((places >= 0) & (places <= last)).all(1, keepdim=True).float()


def sources(field: Tensor) -> Tensor:
    """Where each voxel's value comes from, ``B n H W [D]`` in voxels from the first one's centre; float32."""
    axes = [torch.arange(side, device=field.device, dtype=torch.float32) for side in field.shape[2:]]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")) + field.float()
