"""Sources: where the label of an unlabelled image comes from, and what is known about it."""

from common.pseudo_label import Grid, PseudoLabel
from common.sources.monte_carlo import MonteCarloDropout
from common.sources.prediction import Prediction
from common.sources.references import References
from common.sources.teacher import Teacher

__all__ = ["Grid", "MonteCarloDropout", "Prediction", "PseudoLabel", "References", "Teacher"]
