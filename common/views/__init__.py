"""Views: other looks at a batch of images, and what becomes of its labels."""

from common.values import Values
from common.views.boxes import CutMix, CutOut
from common.views.change import Change, Changes, Copies, Cut, Mixed, Moved, Pasted
from common.views.ctaugment import CTAugment
from common.views.dropout import FeatureDropout
from common.views.geometry import Affine, Elastic, Flip, QuarterTurn
from common.views.intensity import IntensityJitter
from common.views.mixing import ClassCopyPaste, ClassCutMix, LabeledCutMix
from common.views.quality import ImageQuality
from common.views.strong import Strong
from common.views.view import Chain, Geometry, Intensity, Several, View, Viewed, Weak

__all__ = [
    "Affine",
    "CTAugment",
    "Chain",
    "Change",
    "Changes",
    "ClassCopyPaste",
    "ClassCutMix",
    "Copies",
    "Cut",
    "CutMix",
    "CutOut",
    "Elastic",
    "FeatureDropout",
    "Flip",
    "Geometry",
    "ImageQuality",
    "Intensity",
    "IntensityJitter",
    "LabeledCutMix",
    "Mixed",
    "Moved",
    "Pasted",
    "QuarterTurn",
    "Several",
    "Strong",
    "Values",
    "View",
    "Viewed",
    "Weak",
]
