"""Tensor fusion in full, which LMF's low-rank fusion stands in for.

Shapes use: B batch, T time steps, D features of one modality, O outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model import SubNet, TextSubNet


class TFN(nn.Module):
    """Tensor Fusion Network: LMF's subnetworks, and one weight per product of their outputs.

    Args:
        input_dims: Features of (audio, video, text).
        hidden_dims: Widths of the (audio, video, text) subnetworks.
        text_out: Width of the text subnetwork's output.
        output_dim: Outputs.

    Source:
        Paper, eq. 1 and 2; Zadeh et al., "Tensor Fusion Network", EMNLP 2017.
    """

    def __init__(
        self,
        input_dims: Sequence[int],
        hidden_dims: Sequence[int],
        text_out: int,
        output_dim: int,
    ) -> None:
        super().__init__()
        self.audio_subnet = SubNet(input_dims[0], hidden_dims[0], 0.0)
        self.video_subnet = SubNet(input_dims[1], hidden_dims[1], 0.0)
        self.text_subnet = TextSubNet(input_dims[2], hidden_dims[2], text_out, dropout=0.0)
        widths = (hidden_dims[0], hidden_dims[1], text_out)
        self.fusion = nn.Linear(math.prod(width + 1 for width in widths), output_dim)

    def forward(self, audio_x: Tensor, video_x: Tensor, text_x: Tensor) -> Tensor:
        """Returns predictions.

        Shape:
            audio_x (B, audio_in); video_x (B, video_in); text_x (B, T, text_in).
            Returns (B, output_dim).
        """
        inputs = self.audio_subnet(audio_x), self.video_subnet(video_x), self.text_subnet(text_x)
        return tensor_fusion(inputs, self.fusion.weight, self.fusion.bias)


def tensor_fusion(inputs: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """Returns W · (z_1 ⊗ ... ⊗ z_M) + b with z_m = [1; x_m], forming the outer product.

    Shape:
        inputs (B, D_m) each; weight (O, product of D_m + 1); bias (O,). Returns (B, O).

    Source:
        Paper, eq. 1 and 2.
    """
    product = inputs[0].new_ones(len(inputs[0]), 1)
    for x in inputs:
        z = torch.cat([x.new_ones(len(x), 1), x], dim=1)
        product = (product.unsqueeze(2) * z.unsqueeze(1)).flatten(1)
    return nn.functional.linear(product, weight, bias)
