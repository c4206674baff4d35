"""A detector of objects beside the segmentation: trained on the labelled images alone, it looks at the unlabelled."""

from common.detection.boxes import component_boxes, filled, label_boxes
from common.detection.found_boxes import FoundBoxes
from common.detection.network import Detector, make_detector
from common.detection.scores import box_scores
from common.detection.stage import DetectorStage

__all__ = [
    "Detector",
    "DetectorStage",
    "FoundBoxes",
    "box_scores",
    "component_boxes",
    "filled",
    "label_boxes",
    "make_detector",
]
