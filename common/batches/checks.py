"""Whether the data can meet what a method needs: refusals before the training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.data.decoded import SLICE, DecodedImages
from common.data.files import times
from common.parts import Needs
from common.values import Values

if TYPE_CHECKING:
    from common.methods import Method

logger = logging.getLogger(__name__)
GRANULE = 16  # the down-scaling of a U-Net of five levels


def check_settings(needs: Needs, labeled_batch: int, unlabeled_batch: int, values: Values) -> None:
    """Refuses settings that are out of their range or not what the method needs."""
    for name, value in (("labeled_batch", labeled_batch), ("unlabeled_batch", unlabeled_batch)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    if needs.pairs and labeled_batch % 2:
        raise ValueError(f"labeled_batch must be even for a method that learns from pairs, got {labeled_batch}.")
    if needs.unlabeled > unlabeled_batch:
        raise ValueError(f"unlabeled_batch must be at least {needs.unlabeled} for this method, got {unlabeled_batch}.")
    if needs.value_range is not None and (not values.clamp or tuple(needs.value_range) != (values.low, values.high)):
        found = [values.low, values.high] if values.clamp else "no range"
        raise ValueError(
            f"the method's views need images with values in {list(needs.value_range)}, got {found}: set value_range "
            f"and scale the images accordingly, or take other views."
        )


def check_images(method: Method, labeled: DecodedImages, unlabeled: DecodedImages | None, values: Values) -> None:
    """Refuses images that are missing, or whose values are not what is said of them."""
    name = type(method).__name__
    if not len(labeled):
        raise ValueError("there must be at least one labelled image, got none: name it in the datalist's 'labeled'.")
    for index in range(len(labeled)):
        if "label" not in labeled.arrays(index):
            raise ValueError(f"{labeled.name(index)} must have a label, got none: name one in the datalist.")
    if method.learns_from_unlabeled and not len(unlabeled or ()):
        aside = f" ({len(unlabeled.unreadable)} set aside)" if unlabeled is not None else ""
        raise ValueError(
            f"{name} learns from unlabelled images, got none{aside}: name some in the datalist's 'unlabeled', or train "
            f"on the labelled ones alone with --method::_target_ common.methods.Supervised."
        )
    if not values.clamp:
        warn_of_values(labeled, unlabeled)
        return
    low, high = values.low, values.high
    slack = 1e-3 * (high - low)
    for store in (labeled, unlabeled):
        for index in range(len(store or ())):
            found = store.range(index)
            if found[0] < low - slack or found[1] > high + slack:
                raise ValueError(
                    f"{store.name(index)} must have values in value_range, [{low:g}, {high:g}], got {found[0]:g} to "
                    f"{found[1]:g}: set value_range to what the preprocessing gives (null for mean 0 and standard "
                    f"deviation 1)."
                )


def warn_of_values(*stores: DecodedImages | None) -> None:
    """Says when images that should have mean 0 and standard deviation 1 have no value below 0, not one of them."""
    for store in stores:
        ranges = [store.range(index) for index in range(len(store or ()))]
        if ranges and all(low >= 0 for low, _ in ranges):
            low, high = ranges[0]
            logger.warning(
                f"{store.name(0)} and all {len(ranges)} images have no value below 0 ({low:g} to {high:g}), but "
                f"value_range null says mean 0 and standard deviation 1: normalise them, or set value_range to theirs."
            )


def whole_size(stores: Sequence[DecodedImages]) -> tuple[int, ...]:
    """The size of all images, where it is one."""
    size, name = stores[0].shape(0), stores[0].name(0)
    for store in stores:
        for index in range(len(store)):
            if store.shape(index) != size:
                raise ValueError(
                    f"whole images must be of one size, got {times(size)} of {name} and {times(store.shape(index))} of "
                    f"{store.name(index)}: set patch_size, or resize them."
                )
    return size


def checked_patch(patch_size: Sequence[int], stores: Sequence[DecodedImages], values: Values) -> tuple[int, ...]:
    """The sides of a patch, where they fit the network and the images."""
    size, dimensions = tuple(int(side) for side in patch_size), len(stores[0].shape(0))
    plane = size[:2] if len(size) == 3 and size[2] == 1 else size  # slices of volumes
    if len(size) != dimensions or any(side < GRANULE or side % GRANULE for side in plane):
        slices = ", or 1 at last for slices" if dimensions == 3 else ""
        raise ValueError(
            f"patch_size must be {dimensions} multiples of {GRANULE}, the network's down-scaling{slices}, got "
            f"{list(size)}."
        )
    single = [store.name(index) for store in stores for index, item in enumerate(store.data) if SLICE in item]
    if single and size[-1] != 1:
        raise ValueError(
            f"patch_size must have 1 as its last side where single slices are labelled, got {list(size)} and "
            f"{single[0]}: train on slices, or label whole volumes."
        )
    if values.background is not None:
        return size  # there are zeros around anyway
    for store in stores:
        for index in range(len(store)):
            if any(side > n for side, n in zip(size, store.shape(index), strict=True)):
                raise ValueError(
                    f"patch_size must not be larger than an image, got {list(size)} and {store.name(index)} of "
                    f"{times(store.shape(index))}: lower it, or enlarge the image."
                )
    return size
