"""One vector for a whole image: the bottleneck's features over a fixed grid of patches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.data.decoded import DecodedImages, bounding_box, flat, zeros_around


@torch.no_grad()
def image_latent(network: nn.Module, image: Tensor, patch_size: Sequence[int], grid: int | Sequence[int] = 2) -> Tensor:
    """The latent h(X) of a whole image, which the proximity graph compares (Kamraoui et al. 2021, section 2.3).

    Images have different sizes and are larger than a patch. So the bottleneck is taken of ``grid`` patches along each
    axis, spread evenly over the bounding box of the pixels that are not 0 such that the k-th patch is of the same
    region in every image, its features are averaged over the patch, and the patches' features are strung together: with
    256 features at the bottleneck and 2 x 2 x 2 patches, 2048 numbers.

    Args:
        network: gives the bottleneck alone with ``bottleneck_only=True``; in evaluation mode when this returns.
        image: ``C H W [D]``.
        patch_size: sides of a patch in pixels; with 1 as the last one, patches are slices of a volume.
        grid: number of patches along all axes or along each; 1 where a patch is the whole image.

    Returns:
        d numbers for each patch, float32.
    """
    network.eval()
    patches = flat(torch.stack(grid_patches(image, patch_size, grid)))
    bottleneck = network(patches, bottleneck_only=True)
    return bottleneck.float().flatten(2).mean(2).flatten()


def image_latents(
    network: nn.Module,
    images: Sequence[tuple[DecodedImages, int]],
    patch_size: Sequence[int],
    grid: Sequence[int],
    device: torch.device,
) -> list[Tensor]:
    """:func:`image_latent` of many images, each a row of a store, on the host, with a progress bar."""
    rows = tqdm(images, desc="latents", unit="image", leave=False, disable=None)
    return [image_latent(network, loaded(store, row).to(device), patch_size, grid).cpu() for store, row in rows]


def loaded(images: DecodedImages, row: int) -> Tensor:
    """An image ``C H W [D]``, float32."""
    return torch.from_numpy(np.array(images.arrays(row)["image"], dtype=np.float32))


def grid_of(shapes: Sequence[Sequence[int]], patch_size: Sequence[int]) -> list[int]:
    """How many patches along each axis: 2 where any image is larger than one, so that all latents are of one length."""
    return [1 if side >= max(sizes) else 2 for side, sizes in zip(patch_size, zip(*shapes, strict=True), strict=True)]


def grid_patches(image: Tensor, patch_size: Sequence[int], grid: int | Sequence[int]) -> list[Tensor]:
    """``grid`` patches along each axis, evenly spread over the box of the pixels that are not 0."""
    padding = zeros_around(patch_size, image.shape[1:])
    image = torch.nn.functional.pad(image, padding) if any(padding) else image
    axes = np.broadcast_to(grid, image.ndim - 1), *bounding_box(image), patch_size, image.shape[1:]
    starts = []
    for number, first, last, side, whole in zip(*axes, strict=True):
        # centres at (k + 1/2) / grid of the box; a patch may reach over the box, not over the image
        centres = first + (np.arange(number) + 0.5) / number * (last - first)
        starts.append(np.clip(np.round(centres - side / 2).astype(int), 0, whole - side))
    windows = [[slice(a, a + side) for a, side in zip(corner, patch_size, strict=True)] for corner in product(*starts)]
    return [image[(slice(None), *window)] for window in windows]
