"""`LMF.forward` of many settings side by side, for autograd; the LSTM comes before it.

Shapes use: K members, B batch, D features, H width of the LSTM, R rank, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from training.parameters import LSTM_NAMES, Parameters

MODALITIES = ("audio", "video", "text")
FACTORS = tuple(f"{modality}_factor" for modality in MODALITIES)
SUBNETS = ("audio_subnet", "video_subnet")


class Forward:
    """All members' subnetworks and fusion, on views of their rows.

    Args:
        parameters: Where the members' weights lie.
        weights: The members' rows (K, P).
        grads: Rows for their gradients, (K, P).
        running: The statistics of BatchNorm, (K, D) each, by their names in LMF.

    Raises:
        AssertionError: LMF has parameters that are not used here: they would stay untrained.
    """

    def __init__(
        self, parameters: Parameters, weights: Tensor, grads: Tensor, running: Mapping[str, Tensor]
    ) -> None:
        self.linears = {subnet: parameters.linears(subnet) for subnet in SUBNETS}
        self.running = running
        self.leaves: dict[str, Tensor] = {}
        self.gradients: list[Tensor] = []
        used = self._names()
        unknown = set(parameters.shapes) ^ {*used, *LSTM_NAMES}
        assert not unknown, f"LMF and the fast path differ in {', '.join(sorted(unknown))}"
        for name in used:
            parts = {name: slice(None)}
            if name in FACTORS:  # the prepended 1 makes its first row a bias
                parts = {f"{name}.bias": slice(1), f"{name}.weight": slice(1, None)}
            for part, rows in parts.items():
                leaf = parameters.view(weights, name)[:, rows]
                self.leaves[part] = leaf.detach().requires_grad_()
                self.gradients.append(parameters.view(grads, name)[:, rows])

    def _names(self) -> list[str]:
        layers = [*self.linears["audio_subnet"], *self.linears["video_subnet"]]
        layers += [*(f"{subnet}.norm" for subnet in SUBNETS), "text_subnet.linear_1"]
        weights = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
        return [*FACTORS, "fusion_weights", "fusion_bias", *weights]

    def __call__(
        self, audio: Tensor, visual: Tensor, final: Tensor, masks: Sequence[Tensor] | None
    ) -> Tensor:
        """Returns all members' outputs.

        Args:
            audio: Features, of the examples that each member takes.
            visual: Likewise.
            final: The LSTM's final states.
            masks: What dropout multiplies audio, visual and final with; None: not in training.

        Shape:
            audio, visual (B, K, D); final (K, B, H); masks (K, B, D) and (K, B, H).
            Returns (K, B, O).
        """
        audio_mask, video_mask, text_mask = masks or (None, None, None)
        if text_mask is not None:
            final = final * text_mask
        representations = (
            self._subnet("audio_subnet", audio, audio_mask),
            self._subnet("video_subnet", visual, video_mask),
            self._linear("text_subnet.linear_1", final),
        )
        product = None
        for name, x in zip(FACTORS, representations, strict=True):
            bias, weight = self.leaves[f"{name}.bias"], self.leaves[f"{name}.weight"]
            projection = torch.baddbmm(bias.flatten(2), x, weight.flatten(2))  # (K, B, R * O)
            product = projection if product is None else product * projection
        assert product is not None
        weights = self.leaves["fusion_weights"].transpose(1, 2).unsqueeze(1)  # (K, 1, R, 1)
        product = product.unflatten(2, (weights.shape[2], -1))  # (K, B, R, O)
        return (product * weights).sum(2) + self.leaves["fusion_bias"]

    def _subnet(self, name: str, x: Tensor, mask: Tensor | None) -> Tensor:
        """Returns (K, B, H) of (B, K, D); a mask means that it is training."""
        weight, bias = (self.leaves[f"{name}.norm.{part}"] for part in ("weight", "bias"))
        h = F.batch_norm(
            x.flatten(1),
            self.running[f"{name}.norm.running_mean"].view(-1),
            self.running[f"{name}.norm.running_var"].view(-1),
            weight.reshape(-1),
            bias.reshape(-1),
            training=mask is not None,
        )
        h = h.view(x.shape).transpose(0, 1)
        if mask is not None:
            h = h * mask
        for layer in self.linears[name]:
            h = F.relu(self._linear(layer, h))
        return h

    def _linear(self, name: str, x: Tensor) -> Tensor:
        """Returns x (K, B, D) through each member's linear layer."""
        weight, bias = self.leaves[f"{name}.weight"], self.leaves[f"{name}.bias"]
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))

    def backward(self, loss: Tensor, final: Tensor) -> Tensor:
        """Writes the gradients of a loss into the rows for them; returns that of `final`."""
        *grads, d_final = torch.autograd.grad(loss, [*self.leaves.values(), final])
        for target, grad in zip(self.gradients, grads, strict=True):
            target.copy_(grad)
        return d_final
