"""Handlers for MONAI's and ignite's engines."""

from common.handlers.cases import CasePictures
from common.handlers.checkpoint import BestModel, Checkpoint, LastModel, load_weights
from common.handlers.curriculum import Curriculum, CurriculumSteps
from common.handlers.lesion_scores import LesionScores
from common.handlers.pictures import TensorBoardPictures
from common.handlers.progress import LossProgressBar
from common.handlers.report import Report
from common.handlers.run_bundle import RunBundle
from common.handlers.run_folder import RunFolder
from common.handlers.scores import CaseScores, ValidationScores
from common.handlers.training_log import TrainingLog
from common.ranks import SameBuffers

__all__ = [
    "BestModel",
    "CasePictures",
    "CaseScores",
    "Checkpoint",
    "Curriculum",
    "CurriculumSteps",
    "LastModel",
    "LesionScores",
    "LossProgressBar",
    "Report",
    "RunBundle",
    "RunFolder",
    "SameBuffers",
    "TensorBoardPictures",
    "TrainingLog",
    "ValidationScores",
    "load_weights",
]
