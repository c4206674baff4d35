"""Numbers about segmentations and pseudo-labels that MONAI does not have."""

from common.metrics.comparisons import comparison_statistics, view_statistics
from common.metrics.gate import gate_statistics, image_dice
from common.metrics.lesions import lesion_scores
from common.metrics.mask import mask_scores
from common.metrics.presence import presence_scores
from common.metrics.pseudo_label import pseudo_label_statistics
from common.metrics.slices import slice_scores
from common.metrics.weights import weight_statistics

__all__ = [
    "comparison_statistics",
    "gate_statistics",
    "image_dice",
    "lesion_scores",
    "mask_scores",
    "presence_scores",
    "pseudo_label_statistics",
    "slice_scores",
    "view_statistics",
    "weight_statistics",
]
