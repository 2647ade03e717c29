"""Adam over the weights of many settings at once, each at its own learning rates.

Shapes use: K members, P parameters.

Source:
    Kingma, Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1, with weight
    decay coupled into the gradient, as torch.optim.Adam has it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from training.compiler import compiled
from training.slots import Slots

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # torch.optim.Adam's defaults


def adam_on_gpu(slots: Slots, factors_end: int) -> None:
    """Updates all members' weights: the factors at one learning rate, all else at another."""
    step = slots.steps.double().unsqueeze(1)
    root, decay = (1 - BETA_2**step).sqrt(), slots.weight_decay.unsqueeze(1)
    for part, lr in (
        (slice(factors_end), slots.factor_learning_rate),
        (slice(factors_end, None), slots.learning_rate),
    ):
        weights, grads, first, second = (
            rows[:, part] for rows in (slots.weights, slots.grads, slots.first, slots.second)
        )
        rate = -lr.unsqueeze(1) / (1 - BETA_1**step)
        grads = torch.addcmul(grads, weights, decay)
        first.lerp_(grads, 1 - BETA_1)
        second.mul_(BETA_2).addcmul_(grads, grads, value=1 - BETA_2)
        # The rates go into the denominator, and it into memory of no more use: each pass costs.
        denominator = torch.sqrt(second, out=grads)
        scale, offset = (1 / (rate * root)).float(), (EPSILON / rate).float()
        torch.addcmul(offset, denominator, scale, out=denominator)
        weights.addcdiv_(first, denominator)


class AdamArrays(NamedTuple):
    """What Adam needs of the members beside their weights and gradients, on a CPU.

    Shape:
        the moments first and second (K, P); step, lr, weight_decay (K,).
    """

    first: np.ndarray
    second: np.ndarray
    step: np.ndarray
    lr: np.ndarray
    weight_decay: np.ndarray


@compiled
def adam_of_member(
    k: int, start: int, stop: int, weights: np.ndarray, grads: np.ndarray, adam: AdamArrays
) -> None:
    """Updates columns start to stop of member k's row of weights (P,), in one pass."""
    step = adam.step[k]
    rate = np.float32(adam.lr[k] / (1 - BETA_1**step))
    correction = np.float32(1 / np.sqrt(1 - BETA_2**step))
    decay = np.float32(adam.weight_decay[k])
    keep_1, keep_2 = np.float32(BETA_1), np.float32(BETA_2)
    new_1, new_2 = np.float32(1 - BETA_1), np.float32(1 - BETA_2)
    epsilon = np.float32(EPSILON)
    w, g = weights[start:stop], grads[start:stop]
    m, v = adam.first[k, start:stop], adam.second[k, start:stop]
    for j in range(len(w)):
        gradient = g[j] + decay * w[j]
        m[j] = keep_1 * m[j] + new_1 * gradient
        v[j] = keep_2 * v[j] + new_2 * gradient * gradient
        w[j] -= rate * m[j] / (np.sqrt(v[j]) * correction + epsilon)


@compiled
def adam_on_cpu(
    start: int, stop: int, weights: np.ndarray, grads: np.ndarray, adam: AdamArrays
) -> None:
    """Updates columns start to stop of all members' weights (K, P)."""
    for k in range(len(weights)):
        adam_of_member(k, start, stop, weights[k], grads[k], adam)
