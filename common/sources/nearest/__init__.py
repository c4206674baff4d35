"""The nearest labelled pixels in feature space, exactly and in little memory."""

from common.sources.nearest.by_class import labels_by_class
from common.sources.nearest.labels import ReferenceLabels, reference_labels

__all__ = ["ReferenceLabels", "labels_by_class", "reference_labels"]
