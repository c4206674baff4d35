"""Which of the unlabelled images to annotate next."""

from common.annotation.order import STRATEGIES, AnnotationOrder, Place
from common.annotation.run import open_order, write_order

__all__ = ["STRATEGIES", "AnnotationOrder", "Place", "open_order", "write_order"]
