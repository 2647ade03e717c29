"""Adam over the weights of many settings at once.

Shapes use: K members, P parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # torch.optim.Adam's defaults


def adam_wide(
    weights: Tensor,
    grads: Tensor,
    moments: tuple[Tensor, Tensor],
    step: Tensor,
    lr: Tensor,
    weight_decay: Tensor,
) -> None:
    """Updates many members' weights at once, each at its own learning rate, as torch's Adam does.

    Shape:
        weights, grads, and each of the moments (K, P); step, lr, weight_decay (K, 1).

    Source:
        Kingma, Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1, with
        weight decay coupled into the gradient, as torch.optim.Adam has it.
    """
    first, second = moments
    step = step.double()
    grads = torch.addcmul(grads, weights, weight_decay)
    first.lerp_(grads, 1 - BETA_1)
    second.mul_(BETA_2).addcmul_(grads, grads, value=1 - BETA_2)
    rate = (lr / (1 - BETA_1**step)).to(weights.dtype)
    correction = (1 - BETA_2**step).sqrt().to(weights.dtype)
    denominator = second.sqrt().div_(correction).add_(EPSILON)
    weights.addcdiv_(first * -rate, denominator)
