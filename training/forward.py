"""`LMF.forward` of many settings side by side, for autograd; the LSTM comes before it.

Shapes use: K members, B batch, D features, H width of the LSTM, R rank, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from training.parameters import LSTM_NAMES, Parameters


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
        self.modalities, self.running = parameters.modalities, running
        self.linears = {
            subnet: parameters.linears(subnet)
            for subnet in (f"{modality}_subnet" for modality in self.modalities)
            if subnet != "text_subnet"
        }
        self.leaves: dict[str, Tensor] = {}
        self.gradients: list[Tensor] = []
        used = self._names()
        lstm = LSTM_NAMES if "text" in self.modalities else []
        unknown = set(parameters.shapes) ^ {*used, *lstm}
        assert not unknown, f"LMF and the fast path differ in {', '.join(sorted(unknown))}"
        for name in used:
            parts = {name: slice(None)}
            if name.endswith("_factor"):  # the prepended 1 makes its first row a bias
                parts = {f"{name}.bias": slice(1), f"{name}.weight": slice(1, None)}
            for part, rows in parts.items():
                leaf = parameters.view(weights, name)[:, rows]
                self.leaves[part] = leaf.detach().requires_grad_()
                self.gradients.append(parameters.view(grads, name)[:, rows])

    def _names(self) -> list[str]:
        layers = [layer for linears in self.linears.values() for layer in linears]
        layers += [f"{subnet}.norm" for subnet in self.linears]
        layers += ["text_subnet.linear_1"] * ("text" in self.modalities)
        weights = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
        factors = [f"{modality}_factor" for modality in self.modalities]
        return [*factors, "fusion_weights", "fusion_bias", *weights]

    def __call__(self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None) -> Tensor:
        """Returns all members' outputs.

        Args:
            inputs: By modality, the features of the examples that each member takes; of text, the
                LSTM's final states.
            masks: By modality, what dropout multiplies them with; None: not in training.

        Shape:
            audio and video (B, K, D), their masks (K, B, D); text and its masks (K, B, H).
            Returns (K, B, O).
        """
        product = None
        for modality in self.modalities:
            x, mask = inputs[modality], masks[modality] if masks else None
            if modality == "text":
                x = self._linear("text_subnet.linear_1", x if mask is None else x * mask)
            else:
                x = self._subnet(f"{modality}_subnet", x, mask)
            name = f"{modality}_factor"
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

    def backward(self, loss: Tensor, final: Tensor | None) -> Tensor | None:
        """Writes the gradients of a loss into the rows for them; returns that of `final`."""
        inputs = [*self.leaves.values(), *([] if final is None else [final])]
        grads = torch.autograd.grad(loss, inputs)
        for target, grad in zip(self.gradients, grads, strict=False):
            target.copy_(grad)
        return None if final is None else grads[-1]
