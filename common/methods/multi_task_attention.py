"""Segmentation and the reconstruction of what it tells apart (Chen et al. 2019)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from monai.engines import SupervisedTrainer
from torch import Tensor, nn

from common.label_space import LabelSpace
from common.methods.popcorn import Popcorn
from common.ranks import is_distributed, world_size


class MultiTaskAttention(Popcorn):
    """Dice loss, and reconstructions of the lesions' region and of the background's (Chen et al. 2019).

    A comparator of Kamraoui et al. 2021 (section 3.2, table 2). A head of one 1 x 1 x 1 convolution makes two images r1
    and r0 of the network's penultimate features. They shall be the image x where the network's own segmentation p sees
    a lesion, and where it sees none:

    .. math::
        L = L_{seg} + \\lambda \\, \\frac{1}{N} \\sum_x
            \\left[ (r_1 - p \\, x)^2 + (r_0 - (1 - p) \\, x)^2 \\right]

    with L_seg the Dice losses of the pairs (eq. 1 and 5 of Kamraoui et al.) on labelled patches, and the mean over the
    N voxels of the labelled and the unlabelled patches alike; p is the probability of any class (for several labels
    that may overlap, 1 - prod(1 - p_c)).

    p counts as a given number in the reconstruction, without gradient: else the easiest way to a small error is one
    region that is empty, and unlabelled patches would be rewarded for a segmentation without lesions. So the term
    changes the features, which have to hold what tells the regions apart, and through them the segmentation.

    This is made from the description in Kamraoui et al., who name a supervised segmentation, an unsupervised
    reconstruction, and an attention with which regions of different classes are predicted. Ours are the equation, the
    attention without gradient and from the network's segmentation in labelled patches too, the head on a shared decoder
    instead of a decoder of its own, and the factor.

    Inference needs the network alone. All images are trained on from the start, none joins.

    Args:
        labels: the label space.
        reconstruction_weight: the factor lambda; 0 leaves the head and the unlabelled patches out.
        seed: seed of the head's first weights.
        curriculum: ``step_size``, ``step_epochs``, ``neighbors`` and ``share`` of :class:`Popcorn`, which a
            configuration may hold and which are without effect.

    Raises:
        ValueError: when a number is out of its range, the network has no ``final_conv``, or the state is another's.
    """

    unlabeled_batch = 2

    def __init__(
        self, labels: LabelSpace, reconstruction_weight: float = 1.0, seed: int = 0, **curriculum: Any
    ) -> None:
        super().__init__(labels, consistency_weight=0.0, selection="none", **curriculum)
        if reconstruction_weight < 0:
            raise ValueError(f"reconstruction_weight must not be negative, got {reconstruction_weight}.")
        self.reconstruction_weight, self.seed = reconstruction_weight, seed
        self.head: nn.Module | None = None

    def parameters(self, network: nn.Module) -> list[nn.Parameter]:
        """The network's parameters and the head's, which is made for this network at the first call."""
        if self.head is None:
            self.head = reconstruction_head(network, self.seed)
        return [*network.parameters(), *self.head.parameters()]

    def terms(self, network: nn.Module, batch: dict[str, dict[str, Any]], iteration: int) -> tuple[dict, dict]:
        labeled = batch["labeled"]
        features, outputs = network(labeled["image"], return_features=True)
        terms = {"dice": self.pair_loss(outputs, labeled)}
        if self.reconstruction_weight == 0:
            return terms, {}
        if self.head is None:
            raise ValueError("the reconstruction's head must be in the optimizer: give it method.parameters(network).")
        seen = [(labeled["image"], features, outputs)]
        if "unlabeled" in batch:  # in a pass of its own, as batch norm's statistics are those of one kind of image
            image = batch["unlabeled"]["image"]
            seen.append((image, *network(image, return_features=True)))
        image, features, outputs = (torch.cat(parts) for parts in zip(*seen, strict=True))
        error = reconstruction_error(self.head(features), image, foreground(self.labels, outputs))
        return terms | {"reconstruction": self.reconstruction_weight * error}, {}

    def before_step(self, engine: SupervisedTrainer) -> None:
        """Gives all processes the mean of the head's gradients, which the network's wrapper does not know."""
        if self.head is not None and is_distributed():
            for parameter in self.head.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= world_size()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.head is None else {"head": self.head.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.head is None:
            raise ValueError("the reconstruction's head must be made first: call method.parameters(network).")
        expected = {name: tuple(value.shape) for name, value in self.head.state_dict().items()}
        found = {name: tuple(value.shape) for name, value in state.get("head", {}).items()}
        if found != expected:
            raise ValueError(
                f"MultiTaskAttention's state must be a head of {expected}, got {found or sorted(state)} in the "
                f"checkpoint: resume with the method and the network it is of."
            )
        self.head.load_state_dict(state["head"])


def reconstruction_head(network: nn.Module, seed: int = 0) -> nn.Module:
    """A 1 x 1 x 1 convolution from the penultimate features to two images of the network's input channels.

    Its weights are Xavier's of the seed, the same in all processes, and on the network's device.

    Raises:
        ValueError: when the network has no ``final_conv``.
    """
    network = getattr(network, "module", network)  # inside a wrapper for distributed training
    final = getattr(network, "final_conv", None)
    if final is None:
        raise ValueError(
            f"the network must have a final_conv, from whose input images are reconstructed, got a "
            f"{type(network).__name__}: use common.networks.BasicUNet."
        )
    convolution = type(final)
    channels = next(module.in_channels for module in network.modules() if isinstance(module, convolution))
    state = torch.get_rng_state()
    head = convolution(final.in_channels, 2 * channels, kernel_size=1)
    torch.set_rng_state(state)  # torch draws weights by itself: a run's other draws stay what they are without a head
    nn.init.xavier_uniform_(head.weight, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(head.bias)
    return head.to(final.weight.device)


def foreground(labels: LabelSpace, outputs: Tensor) -> Tensor:
    """Probability that a pixel is of any class, ``B 1 H W [D]``, without gradient."""
    probabilities = labels.probabilities(outputs.detach().float())
    return 1 - (1 - probabilities).prod(1, keepdim=True) if labels.multilabel else 1 - probabilities[:, :1]


def reconstruction_error(reconstruction: Tensor, image: Tensor, attention: Tensor) -> Tensor:
    """Mean squared error of the two regions' reconstructions, added up.

    Args:
        reconstruction: ``B 2c H W [D]``, the lesions' region first.
        image: ``B c H W [D]``.
        attention: p, ``B 1 H W [D]``.
    """
    regions = torch.cat([attention * image, (1 - attention) * image], 1).float()
    return 2 * (reconstruction.float() - regions).square().mean()
