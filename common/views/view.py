"""What a view is, and views one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn

from common.draws import on_device
from common.parts import Needs, Part
from common.precision import without_autocast
from common.step import Perturb, Step, Viewed
from common.values import Values
from common.views.change import Change, Changes, Copies, Moved

# Matrices ``B n+1 n+1`` on the host, and displacements ``B n H W [D]`` on the device or None.
Motion = tuple[np.ndarray, "Tensor | None"]


class View(Part):
    """Shows a batch of images in another way; each image with parameters of its own.

    Everything random is drawn from ``draw``, on the host, but for whole images of noise, which are drawn on the device
    from a seed of ``draw``. Operations run where the images are, without waiting for the device, in float32
    (matrix products in TF32 where ``deterministic`` is false).

    Attributes:
        perturbs: it changes features instead of the images.
        asks: what the source of the pseudo-label must know about it, as for weights; None for nothing.
    """

    perturbs = False
    asks: str | None = None

    def forward(
        self,
        image: Tensor,
        draw: np.random.Generator,
        values: Values | None = None,
        groups: np.ndarray | None = None,
        step: Step | None = None,
    ) -> Viewed:
        """
        Args:
            image: ``B C H W [D]``.
            draw: where random numbers come from.
            values: what the images' values mean; [0, 1] where not given.
            groups: number of each image's group, ``B`` on the host: images of one group move in the same way (the two
                of a pair), whatever becomes of their intensities. Each image is a group of its own where not given.
            step: the training step, for views that need more than the images.
        """
        raise NotImplementedError


class Weak(View):
    """The weakly augmented image itself, as the loader gives it."""

    needs = Needs(weak_gradients=True)

    def forward(self, image, draw, values=None, groups=None, step=None) -> Viewed:
        return Viewed(image, Changes())


class Geometry(View):
    """A view that moves the images; several in a row are one movement."""

    elastic = False

    def motion(self, number: int, size: Sequence[int], draw: np.random.Generator, device: torch.device) -> Motion:
        """How so many images move: see :class:`~common.views.change.Moved`."""
        raise NotImplementedError

    def forward(self, image, draw, values=None, groups=None, step=None) -> Viewed:
        return Chain([self])(image, draw, values, groups, step)


class Intensity(View):
    """A view that changes the images' values and moves nothing."""

    def changed(self, image: Tensor, draw: np.random.Generator, values: Values) -> Tensor:
        """The images with other values; images, and results, are float32."""
        raise NotImplementedError

    def forward(self, image, draw, values=None, groups=None, step=None) -> Viewed:
        return Chain([self])(image, draw, values, groups, step)


class Chain(View):
    """Views one after the other. Movements that follow each other are made in one, and interpolated once.

    Args:
        views: the views, or a single one.

    Raises:
        ValueError: when a movement follows an elastic one.
    """

    def __init__(self, views: Sequence[View] | View) -> None:
        super().__init__()
        self.views = nn.ModuleList([views] if isinstance(views, View) else views)
        self.weak = any(getattr(part, "needs", Needs()).weak_gradients for part in self.modules())
        for view, following in zip(self.views, self.views[1:], strict=False):
            if isinstance(view, Geometry) and view.elastic and isinstance(following, Geometry):
                raise ValueError(
                    f"an elastic deformation must be the last of the movements in a row, got a "
                    f"{type(following).__name__} behind it: put it first."
                )

    @torch.no_grad()
    def forward(self, image, draw, values=None, groups=None, step=None) -> Viewed:
        values = values or Values()
        changes, perturbs, movement = [], [], Movement(image, groups)
        with without_autocast(image.device):
            seen = image.float()
            for view in self.views:
                if isinstance(view, Geometry):
                    movement.add(view, draw)
                    continue
                seen = movement.made(seen, changes)
                if isinstance(view, Intensity):
                    seen = kept(seen, view.changed(seen, draw, values), values)
                else:
                    viewed = view(seen, draw, values, groups, step)
                    seen = viewed.image
                    changes.append(viewed.change)
                    perturbs += [viewed.perturb] if viewed.perturb else []
            seen = movement.made(seen, changes)
        seen = seen.to(image.dtype)
        if seen is image and not self.weak:
            seen = image.view_as(image)  # it is looked at with gradients, though it happened to stay what it was
        return Viewed(seen, Changes(changes), in_turn(perturbs))


class Several(View):
    """Several views of each image in one batch, ``V*B C H W [D]``: one pass of the network sees them all.

    Args:
        views: the views; those that change features are not among them.

    Raises:
        ValueError: when there is none, or one changes features.
    """

    def __init__(self, views: Sequence[View]) -> None:
        super().__init__()
        self.views = nn.ModuleList(views)
        perturbing = [type(part).__name__ for part in self.modules() if getattr(part, "perturbs", False)]
        if not len(self.views) or perturbing:
            raise ValueError(
                f"views in one batch must be one or more that change images alone, got "
                f"{', '.join(perturbing) or 'none'}: give a view of features a term of its own."
            )

    def forward(self, image, draw, values=None, groups=None, step=None) -> Viewed:
        seen = [view(image, draw, values, groups, step) for view in self.views]
        return Viewed(torch.cat([viewed.image for viewed in seen]), Copies([viewed.change for viewed in seen]))


def in_turn(perturbs: Sequence[Perturb]) -> Perturb | None:
    """What happens to features one after the other, None for nothing."""
    return (lambda levels: reduce(lambda seen, perturb: perturb(seen), perturbs, levels)) if perturbs else None


def group_numbers(groups: np.ndarray | None, number: int) -> np.ndarray:
    """Number of each image's group, from 0 on without gaps; each of so many images is its own where not given."""
    return np.arange(number) if groups is None else np.unique(groups, return_inverse=True)[1]


class Movement:
    """Gathers the movements of a chain until they have to be made."""

    def __init__(self, image: Tensor, groups: np.ndarray | None) -> None:
        self.device, self.size = image.device, tuple(image.shape[2:])
        self.groups = group_numbers(groups, len(image))
        self.matrix: np.ndarray | None = None
        self.displacement: Tensor | None = None

    def add(self, view: Geometry, draw: np.random.Generator) -> None:
        """Puts a movement behind those that there are: what it moves is what they gave."""
        matrix, displacement = view.motion(int(self.groups.max()) + 1, self.size, draw, self.device)
        self.matrix = matrix if self.matrix is None else self.matrix @ matrix
        linear = self.matrix[:, :-1, :-1]
        if displacement is not None and (linear != np.eye(len(self.size))).any():
            # M (y + u(y)) = M y + (linear part of M) u(y)
            displacement = torch.einsum("bij,bj...->bi...", on_device(linear, displacement), displacement)
        self.displacement = displacement

    def made(self, image: Tensor, changes: list[Change]) -> Tensor:
        """The moved images; the movement joins the changes."""
        if self.matrix is None:
            return image
        displacement = self.displacement
        if displacement is not None and not np.array_equal(self.groups, np.arange(len(displacement))):
            displacement = displacement[on_device(self.groups, displacement)]
        changes.append(Moved(self.matrix[self.groups], displacement))
        self.matrix = self.displacement = None
        return changes[-1].of_image(image)


def kept(before: Tensor, after: Tensor, values: Values) -> Tensor:
    """Values after an operation on intensities: within their range, and what is background left alone."""
    if values.clamp:
        after = after.clamp(values.low, values.high)
    return after if values.background is None else torch.where(before == values.background, before, after)
