"""The nearest labelled pixels in feature space, exactly and in little memory."""

from common.sources.nearest.labels import ReferenceLabels, reference_labels

__all__ = ["ReferenceLabels", "reference_labels"]
