"""SegMatch's discriminator: whether a mask fits its image decides which images teach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from monai.networks.blocks import Convolution
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from common.label_space import LabelSpace
from common.networks import unwrapped
from common.parts import OwnOptimizer
from common.precision import without_autocast
from common.pseudo_label import PseudoLabel
from common.ranks import share_gradients
from common.weights.gate import Gate

if TYPE_CHECKING:
    from common.step import Step


class Discriminator(Gate, OwnOptimizer):
    """Images count whose predicted masks a discriminator takes for labels (SegMatch, section 3.3, eq. 1).

    A network D looks at an image and one class's mask at a time, with the same weights for all classes, so that it
    knows whether a mask fits, not of which class it is. With (x_l, y_l) an image and a class's mask of the labelled
    ones, and (x_u, p_u) an unlabelled image and what the network predicts of it, D minimises

    .. math::
        L_D = -\\frac{1}{2} \\left( \\overline{\\log D(x_l, y_l)} + \\overline{\\log (1 - D(x_u, p_u))} \\right)

    with means over images and classes: ln 2 where it knows nothing. A class's mask is accepted where D > tau. In
    multi-label each class of an image counts for itself; where classes exclude each other, an image counts if the masks
    of all its classes, the background not among them, are accepted, that is by the least D of them.

    D and the gate see the images as weakly augmented, and the predictions of the step before its update. D makes its
    own step of Adam after each of the optimizer's (where gradients are accumulated, by the sum of their losses). In an
    evaluation, without a training, every image counts.

    Args:
        threshold: tau.
        features: channels of the layers, each of which halves the image; a mean over pixels and a line follow.
        learning_rate: of Adam.
        spectral: divide each layer's weights by their largest singular value (Miyato et al. 2018).
        balanced: real and fake pairs weigh alike, however many there are of each, as in eq. 1, whose sum runs over
            both; else each pair does.
        hard: D sees the decided mask instead of probabilities, whose fuzziness gives a prediction away.
        labeled_fakes: predictions on labelled images are fakes, too, so that the image alone does not tell.
        seed: seed of the first weights.

    Raises:
        ValueError: when a number is out of its range; when the network has no convolution to take its input's size of.
    """

    def __init__(
        self,
        threshold: float = 0.5,
        features: Sequence[int] = (16, 32, 64, 64),
        learning_rate: float = 1e-4,
        spectral: bool = False,
        balanced: bool = True,
        hard: bool = False,
        labeled_fakes: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(threshold)
        if isinstance(features, int) or not features or min(features) < 1:
            raise ValueError(f"features must be the channels of one layer or more, got {features!r}.")
        if not learning_rate > 0:
            raise ValueError(f"learning_rate of the discriminator must be above 0, got {learning_rate}.")
        self.features, self.learning_rate, self.seed = tuple(features), learning_rate, seed
        self.spectral, self.balanced, self.hard, self.labeled_fakes = spectral, balanced, hard, labeled_fakes
        self.network: nn.Module | None = None
        self.loss: Tensor | None = None

    def prepare(self, network: nn.Module, labels: LabelSpace) -> None:
        if self.network is not None:
            return
        kinds = (nn.Conv2d, nn.Conv3d)
        first = next((module for module in unwrapped(network).modules() if isinstance(module, kinds)), None)
        if first is None:
            raise ValueError(
                f"the network must have convolutions, which tell the images' channels, got a {type(network).__name__}: "
                f"use common.networks.BasicUNet."
            )
        dimensions = 2 if isinstance(first, nn.Conv2d) else 3
        with torch.random.fork_rng(devices=[]):  # a run's other draws stay what they are without a discriminator
            torch.manual_seed(self.seed)
            self.network = MaskNetwork(dimensions, first.in_channels + 1, self.features, self.spectral)
        self.network.to(first.weight.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), self.learning_rate)

    def scores(self, step: Step, pseudo: PseudoLabel) -> Tensor:
        outputs, image = self.known(pseudo).detach(), step.unlabeled["image"]
        image = image if pseudo.grid is None else pseudo.grid.of(image)
        if self.network is None:
            return image.new_ones(len(image), step.labels.num_classes if step.labels.multilabel else 1)
        with without_autocast(image.device):
            fake = pairs(image, self.masks(step.labels, outputs))
            logits = self.learnt(step, fake) if torch.is_grad_enabled() else self.network.eval()(fake)
        scores = logits.detach().sigmoid().view(len(image), -1)
        return scores if step.labels.multilabel else scores.amin(1, keepdim=True)

    def learnt(self, step: Step, fake: Tensor) -> Tensor:
        """Logits of the unlabelled images' pairs; the loss for the step that follows is made along with them."""
        labels, image = step.labels, step.labeled["image"]
        real = pairs(image, labels.masks(step.labeled["label"]).clamp(0, 1))
        groups = [real, fake]
        if self.labeled_fakes:
            groups.append(pairs(image, self.masks(labels, step.see(image).outputs.detach())))
        logits = self.network.train()(torch.cat(groups)).split([len(real), sum(map(len, groups[1:]))])
        losses = F.softplus(-logits[0]), F.softplus(logits[1])  # -log D and -log (1 - D)
        loss = sum(each.mean() for each in losses) / 2 if self.balanced else torch.cat(losses).mean()
        self.loss = loss if self.loss is None else self.loss + loss
        real, fake = (each.detach().sigmoid().mean() for each in logits)
        step.numbers |= {"discriminator_loss": loss.detach(), "discriminator_real": real, "discriminator_fake": fake}
        return logits[1][: len(groups[1])]

    def masks(self, labels: LabelSpace, outputs: Tensor) -> Tensor:
        """The classes' predicted masks, ``B C H W [D]``: probabilities, or of a decision 0 and 1."""
        if self.hard:
            return labels.masks(labels.predict(outputs)).float()
        return labels.probabilities(outputs.float())[:, -labels.num_classes :]

    def after_step(self, step: Step) -> None:
        if self.loss is None:  # nothing was judged: labels alone are learnt from as yet
            return
        self.optimizer.zero_grad(set_to_none=True)
        self.loss.backward()
        share_gradients(self.network.parameters())
        self.optimizer.step()
        self.loss = None


class MaskNetwork(nn.Module):
    """From an image with one mask, ``N c+1 H W [D]``, to the logit that they fit, ``N``: a small CNN of any size.

    Each layer is a convolution of 3 pixels in steps of 2, and LeakyReLU. Nothing is normalised over a batch: what it
    says of one image does not depend on others.

    Args:
        dimensions: 2 or 3.
        channels: of the input.
        features: channels of the layers.
        spectral: see :class:`Discriminator`.
    """

    def __init__(self, dimensions: int, channels: int, features: Sequence[int], spectral: bool = False) -> None:
        super().__init__()
        act = ("LEAKYRELU", {"negative_slope": 0.2})
        widths = zip((channels, *features), features, strict=False)
        layers = [Convolution(dimensions, a, b, strides=2, act=act, norm=None) for a, b in widths]
        self.layers, self.line = nn.Sequential(*layers), nn.Linear(features[-1], 1)
        if spectral:
            for module in [m for m in self.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d, nn.Linear))]:
                spectral_norm(module)

    def forward(self, x: Tensor) -> Tensor:
        return self.line(self.layers(x).flatten(2).mean(2)).squeeze(1)


def pairs(image: Tensor, masks: Tensor) -> Tensor:
    """Each image with each of its masks, ``B*C c+1 H W [D]`` in float32, all masks of one image in a row.

    Args:
        image: ``B c H W [D]``.
        masks: ``B C H W [D]``.
    """
    images = image.float().repeat_interleave(masks.shape[1], 0)
    return torch.cat([images, masks.float().flatten(0, 1).unsqueeze(1)], 1)
