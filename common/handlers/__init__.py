"""Handlers for MONAI's and ignite's engines."""

from common.handlers.case_scores import CaseScores
from common.handlers.cases import CasePictures
from common.handlers.checkpoint import BestModel, Checkpoint, LastModel, load_weights
from common.handlers.curriculum import Curriculum, CurriculumSteps
from common.handlers.pictures import TensorBoardPictures
from common.handlers.progress import LossProgressBar
from common.handlers.report import Report
from common.handlers.run_bundle import BundleScores, RunBundle
from common.handlers.run_folder import RunFolder
from common.handlers.scores import ValidationScores
from common.handlers.training_log import TrainingLog
from common.ranks import SameBuffers

__all__ = [
    "BestModel",
    "BundleScores",
    "CasePictures",
    "CaseScores",
    "Checkpoint",
    "Curriculum",
    "CurriculumSteps",
    "LastModel",
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
