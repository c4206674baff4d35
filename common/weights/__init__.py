"""Weights: how much each pixel of a pseudo-label counts. They multiply."""

from common.weights.agreement import DetectorAgreement, PredictionAgreement, Reliable
from common.weights.class_entropy import ClassEntropy
from common.weights.confidence import Confidence
from common.weights.discriminator import Discriminator
from common.weights.entropy import EntropyShare
from common.weights.gate import ConfidenceMap, Gate, MeanConfidence
from common.weights.power import ClassSample, ConfidencePower
from common.weights.rank_similarity import RankSimilarity
from common.weights.reference_agreement import ReferenceAgreement
from common.weights.uncertainty import Uncertainty
from common.weights.weight import Ones, Product, Weight
from common.weights.within_class import WithinClass

__all__ = [
    "ClassEntropy",
    "ClassSample",
    "Confidence",
    "ConfidenceMap",
    "ConfidencePower",
    "DetectorAgreement",
    "Discriminator",
    "EntropyShare",
    "Gate",
    "MeanConfidence",
    "Ones",
    "PredictionAgreement",
    "Product",
    "RankSimilarity",
    "ReferenceAgreement",
    "Reliable",
    "Uncertainty",
    "Weight",
    "WithinClass",
]
