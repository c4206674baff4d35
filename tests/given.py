"""Parts of a method that give what they were made with."""

from common.parts import Part
from common.sources import PseudoLabel
from common.weights import Weight


class GivenLabel(Part):
    """A source of one pseudo-label."""

    def __init__(self, label, grid=None):
        super().__init__()
        self.pseudo = PseudoLabel(label, grid)

    def forward(self, step):
        return self.pseudo


class GivenWeight(Weight):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, step, pseudo):
        return self.weight
