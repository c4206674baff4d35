"""Numbers about segmentations and pseudo-labels that MONAI does not have."""

from common.metrics.pseudo_label import pseudo_label_statistics

__all__ = ["pseudo_label_statistics"]
