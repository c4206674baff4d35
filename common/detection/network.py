"""A RetinaNet for small data sets, of MONAI's parts, without torchvision."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.networks.retinanet_network import RetinaNet
from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
from monai.losses.giou_loss import BoxGIoULoss
from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork
from monai.networks.nets.basic_unet import Down, TwoConv
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

FLOOR = 0.05  # lowest score of a box that is given


class Pyramid(nn.Module):
    """The encoder of a ``BasicUNet`` and MONAI's feature pyramid on it (Lin et al. 2017), of which it gives one level.

    A level of H/4 is fine enough for objects of 90 pixels, and has what the coarser ones see around them.

    Args:
        dimensions: 2 or 3.
        channels: channels of the images.
        features: channels of the encoder's levels, from full resolution to H/16.
        width: channels of the pyramid, a multiple of 8.
    """

    def __init__(self, dimensions: int, channels: int, features: Sequence[int], width: int) -> None:
        super().__init__()
        act, norm = ("LeakyReLU", {"negative_slope": 0.1, "inplace": True}), ("instance", {"affine": True})
        self.stem = TwoConv(dimensions, channels, features[0], act, norm, bias=True)
        self.downs = nn.ModuleList(Down(dimensions, a, b, act, norm, bias=True) for a, b in pairwise(features))
        self.pyramid = FeaturePyramidNetwork(dimensions, list(features[2:]), width)
        self.out_channels = width

    def forward(self, image: Tensor) -> list[Tensor]:
        x, levels = self.stem(image), OrderedDict()
        for level, down in enumerate(self.downs):
            x = down(x)
            if level:
                levels[str(level)] = x
        return [next(iter(self.pyramid(levels).values()))]


class Detector(RetinaNetDetector):
    """MONAI's RetinaNet (Lin et al. 2017), with its matching of anchors by ATSS (Zhang et al. 2020).

    Images and boxes are those of ``RetinaNetDetector``. That class looks whether its matcher is torchvision's, even
    where it is not, and fails without torchvision; this one does not look.
    """

    def compute_anchor_matched_idxs(self, anchors, targets, num_anchor_locs_per_level):
        found = []
        for places, target in zip(anchors, targets, strict=True):
            if not len(target["boxes"]):
                found.append(torch.full((len(places),), -1, dtype=torch.int64, device=places.device))
                continue
            boxes = target["boxes"].to(places)
            found.append(self.proposal_matcher(boxes, places, num_anchor_locs_per_level, self.num_anchors_per_loc)[1])
        return found


def anchor_shapes(boxes: np.ndarray, number: int = 6) -> list[list[float]]:
    """Shapes that stand for the boxes: the centres of clusters of their sides (Redmon and Farhadi 2017).

    The clusters are k-means' of the sides' logarithms, so that a tenth more counts alike in small and in large boxes.

    Args:
        boxes: ``n 4`` or ``n 6``, at least one.
        number: number of shapes; fewer where there are fewer different ones.
    """
    low, high = np.split(np.asarray(boxes, np.float64), 2, axis=1)
    sides = high - low
    distinct = np.unique(sides, axis=0)
    if len(distinct) <= number:
        return distinct.tolist()
    centres, _ = kmeans2(np.log(sides), number, minit="++", missing="warn", seed=0)
    return np.exp(centres[np.lexsort(centres.T)]).tolist()


def make_detector(
    shapes: Sequence[Sequence[float]],
    classes: int,
    channels: int = 1,
    features: Sequence[int] = (16, 32, 64, 128, 128),
    width: int = 32,
) -> Detector:
    """A detector whose weights are drawn from torch's generator.

    Args:
        shapes: shapes of the anchors at each place; their number of sides is that of the images.
        classes: number of classes.
        channels: channels of the images.
        features, width: see :class:`Pyramid`.
    """
    dimensions = len(shapes[0])
    pyramid = Pyramid(dimensions, channels, features, width)
    network = RetinaNet(dimensions, classes, len(shapes), pyramid, size_divisible=2 ** (len(features) - 1))
    for convolution in (*network.classification_head.conv, *network.regression_head.conv):
        if isinstance(convolution, (nn.Conv2d, nn.Conv3d)):
            nn.init.kaiming_normal_(convolution.weight)  # MONAI's 0.01 takes hundreds of iterations to get going
    detector = Detector(network, AnchorGeneratorWithAnchorShape((1,), shapes))
    detector.shapes = [list(shape) for shape in shapes]
    detector.set_box_regression_loss(BoxGIoULoss(reduction="mean"), encode_gt=False, decode_pred=True)
    detector.set_atss_matcher(num_candidates=4, center_in_gt=False)
    detector.set_hard_negative_sampler(batch_size_per_image=64, positive_fraction=0.5, pool_size=20, min_neg=16)
    detector.set_box_selector_parameters(score_thresh=FLOOR, nms_thresh=0.3, detections_per_img=100)
    return detector
