"""RPG+ whose two unlabelled terms count alike; a combination of our own."""

from __future__ import annotations

from torch import nn

from common.methods.rpg import RPGPlus
from common.methods.semi_supervised import Seen


class BalancedRPG(RPGPlus):
    """RPG+ in which consistency counts as much as the references do, not ten times as much (no paper).

    L = L_RPG + mean(W) CE(f(a_s(x)), a_s(l'(x))), where mean(W) is the mean density-based class entropy (eq. 7) of the
    batch's unlabelled pixels.

    In RPG+ (Seibold et al. 2022, eq. 11) nearly every pixel is confident and counts fully in the consistency term,
    while W averages 0.05 to 0.2: the network's own predictions, errors and all, outweigh the references tenfold. Small
    classes pay for it, whose missed pixels are confident background. With mean(W) as its factor the term also rises by
    itself, from next to nothing while features do not tell classes apart.

    Args: as for :class:`RPGPlus`.
    """

    def unlabeled_terms(self, network: nn.Module, seen: Seen, iteration: int) -> tuple[dict, dict]:
        terms, output = super().unlabeled_terms(network, seen, iteration)
        return terms | {"consistency": output["weight"].mean() * terms["consistency"]}, output
