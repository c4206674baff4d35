"""A match in the pseudo-label's place: a view's outputs are mapped back onto it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.losses import CrossEntropy
from common.terms.match import Match

if TYPE_CHECKING:
    from common.pseudo_label import PseudoLabel
    from common.step import Step, Viewed

WHOLE = 1 - 1e-3  # how much of a pixel's interpolation must come from inside


class MatchBack(Match):
    """A :class:`~common.terms.Match` in which outputs move, not the pseudo-label (SegMatch, algorithm 1, line 6).

    The loss is H(T^-1 f(T x), l') with T the view of the weakly augmented image x. As T comes on top of the weak view
    T1, the paper's T2 is T T1, and its T1 T2^-1 is T^-1. Outputs are interpolated before the softmax or sigmoid; those
    pixels of x count that lie wholly inside of the view, and the mean is over all. Each pixel of the pseudo-label stays
    where it was decided and counts once; in a :class:`~common.terms.Match` those of the view take the nearest one.
    Where T flips, turns by quarters or shifts by whole pixels, both are exact and the same.

    Args: as for :class:`~common.terms.Match`; the view must only move images, not elastically, and change intensities.

    Raises:
        ValueError: in a step, when the view cannot be undone.
    """

    def compared(self, step: Step, viewed: Viewed, outputs: Tensor, pseudo: PseudoLabel, weight: Tensor) -> Tensor:
        ones = torch.ones_like(outputs[:, :1])
        try:
            back = viewed.change.undo(torch.cat([outputs, ones], 1))
        except ValueError as error:
            raise ValueError(f"{error} Or let the pseudo-label move instead, by Match or mapped_back false.") from error
        back = back if pseudo.grid is None else pseudo.grid.of(back)
        inside = (back[:, -1:] > WHOLE).float()
        return step.compare(self.loss or CrossEntropy(), back[:, :-1], pseudo.label, weight * inside)
