"""Proximity of unlabelled images to the training set: which of them join it next."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.curriculum.distances import ELEMENTS, candidates, check_latents, pair_distances, sum_of_finite
from common.precision import full_precision

CHUNK = 4096, 1024  # unlabelled and training images at a time, where their latents are short
NOBODY = -1  # the id where there is no neighbour


class ProximityGraph:
    """The nearest training images of every unlabelled one (Kamraoui et al. 2021, eq. 6 and 7), kept as some join.

    P_ij = ||h(X_i) - h(X_j)||_2 between unlabelled i and training image j (eq. 6). The score of an unlabelled image is
    the sum of its p smallest P_ij; the K images with the smallest scores are selected (eq. 7). Once they have joined
    the training set, the others are compared with the new ones alone: a step costs (unlabelled) x (new) distances
    however many have joined before, and the U x p nearest are all that is kept, 12 bytes each. With fewer than p
    training images a score is the sum over those that there are, the same number for all.

    A distance is the norm of the difference, taken in float32 and summed in float64, and rounded to float32: right to
    1.2e-7 of itself, also of nearly equal latents far from the origin, and 0 for equal ones. The matrix product that
    finds whom to measure so is trusted only as far as its bound of rounding errors reaches. Scores are summed in
    float64. Nothing depends on ``chunk``. Of equally near training images those given or joined first are kept, of
    equal scores the lowest index is selected.

    Args:
        unlabeled: latents h(X) of the unlabelled images ``(U, d)``, float32; kept by reference, as those of training.
        training: latents of the labelled images ``(T, d)``, at least one, on the same device.
        neighbors: p; the paper's 5 is for 21 labelled images (section 3.3).
        chunk: unlabelled, or unlabelled and training images, at a time; by default at most 16 MB of each.

    Raises:
        ValueError: if shapes, types, devices or values do not fit; it says what was found and what to do.
    """

    def __init__(
        self, unlabeled: Tensor, training: Tensor, neighbors: int = 5, chunk: int | tuple[int, int] | None = None
    ) -> None:
        self.unlabeled, self.training = (latents.detach().as_subclass(Tensor) for latents in (unlabeled, training))
        check_latents(self.unlabeled, self.training)
        if neighbors < 1:
            raise ValueError(f"neighbors must be at least 1, got {neighbors}. The paper's is 5.")
        most = max(1, ELEMENTS // self.unlabeled.shape[1])
        default = min(CHUNK[0], most), min(CHUNK[1], most)
        self.chunk = default if chunk is None else (chunk, chunk) if isinstance(chunk, int) else chunk
        if min(self.chunk) < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}. Leave it out for the default.")
        total = sum_of_finite("unlabeled", self.unlabeled) + sum_of_finite("training", self.training)
        # rounding errors are shares of the norms, which are smallest around the middle
        self.center = (total / (len(self.unlabeled) + len(self.training))).float()
        images, self.neighbors = len(self.unlabeled), neighbors
        self.distances = self.unlabeled.new_full((images, neighbors), torch.inf)
        self.ids = torch.full_like(self.distances, NOBODY, dtype=torch.long)
        self.joined = self.ids.new_empty(0)
        self.is_unlabeled = torch.ones(images, dtype=torch.bool, device=self.ids.device)
        self.compare(self.training, torch.arange(len(self.training), device=self.ids.device))

    @property
    def remaining(self) -> Tensor:
        """Indices of the images still unlabelled, ascending."""
        return self.is_unlabeled.nonzero().squeeze(1)

    def select(self, k: int) -> Tensor:
        """Indices of the k remaining images with the smallest scores, smallest first; all where fewer remain (eq. 7).

        Raises:
            ValueError: if k is below 1.
        """
        if k < 1:
            raise ValueError(f"The number of images to select must be at least 1, got {k}. The paper's is 200.")
        remaining = self.remaining
        return remaining[self.scores(remaining).sort(stable=True).indices[:k]]

    def scores(self, rows: Tensor | Sequence[int]) -> Tensor:
        """Sums of the p smallest distances to the training set, ``(n,)`` in float64; see :meth:`nearest`."""
        distances = self.distances[self.indices(rows)].double()
        return distances.where(distances.isfinite(), 0).sum(1)

    def nearest(self, rows: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
        """Distances ``(n, p)``, nearest first, and ids ``(n, p)`` of the p nearest training images.

        Ids are 0 to T - 1 for those given, T + i for the unlabelled image i that has joined. Where there are fewer than
        p, distances are infinite and ids -1. Of an image that has joined, it is how things were when it did.
        """
        rows = self.indices(rows)
        return self.distances[rows], self.ids[rows]

    def join(self, rows: Tensor | Sequence[int]) -> None:
        """These images leave the unlabelled ones and become training images, in this order.

        Raises:
            ValueError: if an index is not of an unlabelled image, has joined before, or comes twice.
        """
        rows = self.indices(rows)
        again = rows[~self.is_unlabeled[rows]]
        values, counts = rows.unique(return_counts=True)
        again = torch.cat([again, values[counts > 1]])
        if len(again):
            raise ValueError(
                f"An image joins the training set once, got {again[0].item()} again. Take what select() returns."
            )
        self.is_unlabeled[rows] = False
        self.joined = torch.cat([self.joined, rows])
        for part in rows.split(self.chunk[1]):
            self.compare(self.unlabeled[part], len(self.training) + part)

    def state_dict(self) -> dict[str, Tensor | int]:
        """The order of joining and the tables of the nearest; the latents are not in it.

        Saving the tables (12 U p bytes) makes a resumed graph the same bit by bit, at no cost.
        """
        state = {name: getattr(self, name).clone() for name in ("joined", "distances", "ids")}
        return state | {"training": len(self.training)}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Continues from a state of a graph of the same latents.

        Raises:
            ValueError: if the state is not one of as many images and neighbours, or not of these latents.
        """
        found = (*state["distances"].shape, state["training"])
        expected = (*self.distances.shape, len(self.training))
        if found != expected:
            raise ValueError(
                f"The state is of {found[0]} unlabelled images with {found[1]} neighbours and {found[2]} training "
                f"images, expected {expected[0]}, {expected[1]} and {expected[2]}. Give the data it was saved with."
            )
        device = self.ids.device
        distances, ids, joined = (state[name].to(device, copy=True) for name in ("distances", "ids", "joined"))
        self.check_same_latents(distances, ids)
        self.distances, self.ids, self.joined = distances, ids, joined
        self.is_unlabeled[:] = True
        self.is_unlabeled[joined] = False

    def check_same_latents(self, distances: Tensor, ids: Tensor, images: int = 100) -> None:
        """Measures the nearest of some images again; a network on another device may differ in the last digits."""
        rows = torch.arange(0, len(ids), max(1, len(ids) // images), device=ids.device)
        given = len(self.training)
        for row, near, before in zip(rows, ids[rows, 0].tolist(), distances[rows, 0], strict=True):
            other = self.training[near] if near < given else self.unlabeled[near - given]
            now = torch.linalg.vector_norm(self.unlabeled[row] - other)
            size = torch.linalg.vector_norm(self.unlabeled[row] - self.center)
            if (now - before).abs() > 1e-3 * before + 1e-4 * size:
                raise ValueError(
                    f"The state is of other latents: unlabelled image {row.item()} was at distance {before.item():.6g} "
                    f"from its nearest, and is at {now.item():.6g}. Give the latents it was saved with."
                )

    def compare(self, new: Tensor, ids: Tensor) -> None:
        """Compares all remaining images with new training images ``(n, d)``, known by their ids ``(n,)``."""
        remaining = self.remaining
        with torch.no_grad(), full_precision(new.device):
            for some, some_ids in zip(new.split(self.chunk[1]), ids.split(self.chunk[1]), strict=True):
                centered = some - self.center
                for rows in remaining.split(self.chunk[0]):
                    self.compare_chunk(rows, some, centered, some_ids)

    def compare_chunk(self, rows: Tensor, new: Tensor, centered: Tensor, ids: Tensor) -> None:
        latents = self.unlabeled[rows]
        may_be_near = candidates(latents - self.center, centered, self.distances[rows, -1], self.neighbors)
        counts = may_be_near.sum(1)
        changed = counts.nonzero().squeeze(1)
        if not len(changed):
            return
        row, column = may_be_near.nonzero(as_tuple=True)
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        distances = latents.new_full((len(rows), int(counts.max())), torch.inf)
        distances[row, place] = pair_distances(latents, new, row, column)
        new_ids = torch.full_like(distances, NOBODY, dtype=torch.long)
        new_ids[row, place] = ids[column]
        rows = rows[changed]
        distances = torch.cat([self.distances[rows], distances[changed]], dim=1)
        distances, order = distances.sort(dim=1, stable=True)  # of equals, those known before come first
        self.distances[rows] = distances[:, : self.neighbors]
        order = order[:, : self.neighbors]
        self.ids[rows] = torch.cat([self.ids[rows], new_ids[changed]], dim=1).gather(1, order)

    def indices(self, rows: Tensor | Sequence[int]) -> Tensor:
        rows = torch.as_tensor(rows, device=self.ids.device).reshape(-1)
        rows = rows.long() if len(rows) == 0 else rows
        valid = (rows >= 0) & (rows < len(self.ids))
        if rows.is_floating_point() or rows.dtype is torch.bool or not valid.all():
            found = rows.dtype if valid.all() else rows[~valid][0].item()
            raise ValueError(f"Expected indices of unlabelled images, 0 to {len(self.ids) - 1}, got {found}.")
        return rows.long()
