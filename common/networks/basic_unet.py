"""MONAI's BasicUNet that also gives its pixel-wise features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.networks.nets import BasicUNet as MonaiBasicUNet
from torch import Tensor, nn

from common.networks.seen import Seen


class BasicUNet(MonaiBasicUNet):
    """MONAI's ``BasicUNet``, split into a feature extractor and a pixel-wise classifier (Seibold et al. 2022).

    ``forward_features`` is the network up to its penultimate layer and ``forward_head`` the final 1 x 1 convolution;
    one after the other they are ``forward``. Parameters have the names of the stock class, so that a checkpoint of
    either loads into the other, and a bundle's inference needs the stock class alone. ``seen=True`` gives what methods
    need besides the outputs through ``forward``, which is what a wrapper for distributed training lets through.

    The defaults that differ from MONAI's are those of the RPG paper's experiments: batch norm, bilinear up-scaling and
    Xavier initialisation (Glorot and Bengio 2010).

    Args:
        spatial_dims, in_channels, out_channels, features, act, bias, dropout: as for ``monai.networks.nets.BasicUNet``.
        norm: normalisation, batch norm by default.
        upsample: up-scaling, ``"nontrainable"`` (linear interpolation) by default.
        xavier: initialise convolutions by Xavier's uniform rule instead of torch's default.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 2,
        features: tuple[int, ...] = (32, 32, 64, 128, 256, 32),
        act: str | tuple = ("LeakyReLU", {"negative_slope": 0.1, "inplace": True}),
        norm: str | tuple = "batch",
        bias: bool = True,
        dropout: float | tuple = 0.0,
        upsample: str = "nontrainable",
        xavier: bool = True,
    ) -> None:
        super().__init__(spatial_dims, in_channels, out_channels, features, act, norm, bias, dropout, upsample)
        self.given = {"features": features, "act": act, "norm": norm, "dropout": dropout, "upsample": upsample}
        if xavier:
            for module in self.modules():
                if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                    nn.init.xavier_uniform_(module.weight)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

    def settings(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one before."""
        return self.given

    def forward_encoder(self, x: Tensor) -> tuple[Tensor, ...]:
        """Features of all five levels of the encoder; the last is the bottleneck, ``B d H/16 W/16 [D/16]``."""
        levels = [self.conv_0(x)]
        for down in (self.down_1, self.down_2, self.down_3, self.down_4):
            levels.append(down(levels[-1]))
        return tuple(levels)

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Channels of the decoder's levels below full resolution, from coarse to fine: H/8, H/4 and H/2."""
        coarse = (self.upcat_4, self.upcat_3, self.upcat_2)
        return tuple(upcat.convs.conv_1.conv.out_channels for upcat in coarse)

    def forward_decoder(self, levels: tuple[Tensor, ...], kept: list[Tensor] | None = None) -> Tensor:
        """Features of the penultimate layer, ``B d H W [D]`` with d the last of ``features``.

        Args:
            levels: features of the encoder's levels.
            kept: a list that gets the features of all levels of the decoder, from coarse to fine.
        """
        *skipped, x = levels
        for level, upcat in zip(
            reversed(skipped), (self.upcat_4, self.upcat_3, self.upcat_2, self.upcat_1), strict=True
        ):
            x = joined(upcat, x, level)
            if kept is not None:
                kept.append(x)
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """Features of the penultimate layer from the image, ``B d H W [D]``."""
        return self.forward_decoder(self.forward_encoder(x))

    def forward_head(self, features: Tensor) -> Tensor:
        """Outputs (logits) of the pixel-wise classifier, ``B C H W [D]``, from features ``B d H W [D]``."""
        return self.final_conv(features)

    def forward(
        self,
        x: Tensor,
        seen: bool = False,
        perturb: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]] | None = None,
        bottleneck_only: bool = False,
        levels: bool = False,
    ) -> Tensor | Seen:
        """Outputs ``B C H W [D]``, or all that was seen.

        Args:
            x: image, ``B C H W [D]``; each side a multiple of 16, or at least 16.
            seen: give outputs, features and bottleneck as :class:`~common.networks.Seen`.
            perturb: what becomes of the features of the encoder's levels before the decoder gets them.
            bottleneck_only: give the bottleneck alone, without going through the decoder.
            levels: with ``seen``, give the features of the decoder's levels, too.
        """
        encoded = self.forward_encoder(x)
        if bottleneck_only:
            return encoded[-1]
        if perturb is not None:
            encoded = perturbed(encoded, perturb)
        kept = [] if levels else None  # else nothing keeps them in memory
        features = self.forward_decoder(encoded, kept)
        outputs = self.forward_head(features)
        return Seen(outputs, features, encoded[-1], tuple(kept[:-1]) if levels else None) if seen else outputs


@torch.compiler.disable
def perturbed(levels: tuple[Tensor, ...], perturb: Callable) -> tuple[Tensor, ...]:
    """The encoder's levels, changed by draws on the host, which a compiled network leaves to Python."""
    return perturb(levels)


def joined(upcat: nn.Module, x: Tensor, level: Tensor) -> Tensor:
    """MONAI's ``UpCat``, which pads images of odd sides, and copies all others for nothing."""
    if tuple(2 * side for side in x.shape[2:]) != tuple(level.shape[2:]):
        return upcat(x, level)
    return upcat.convs(torch.cat([level, upcat.upsample(x)], dim=1))
