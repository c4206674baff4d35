"""A detector of objects beside the segmentation: trained on the labelled images alone, it looks at the unlabelled."""

from common.detection.boxes import component_boxes, filled, label_boxes
from common.detection.found_boxes import FoundBoxes
from common.detection.network import Detector, make_detector
from common.detection.scores import box_scores
from common.detection.stage import DetectorStage
from common.detection.steps import DetectorSteps

__all__ = [
    "Detector",
    "DetectorStage",
    "DetectorSteps",
    "FoundBoxes",
    "box_scores",
    "component_boxes",
    "filled",
    "label_boxes",
    "make_detector",
]
