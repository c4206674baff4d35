"""Terms: the summands of a method's loss beside the supervised one."""

from common.terms.bottleneck import BottleneckConsistency
from common.terms.contrast import Contrast
from common.terms.equivariance import Equivariance
from common.terms.match import Match
from common.terms.reconstruction import Reconstruction
from common.terms.term import Term

__all__ = ["BottleneckConsistency", "Contrast", "Equivariance", "Match", "Reconstruction", "Term"]
