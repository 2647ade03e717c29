"""Low-rank Multimodal Fusion: three modality subnetworks and the fusion of their outputs.

Z. Liu, Y. Shen, V. B. Lakshminarasimhan, P. P. Liang, A. Zadeh, L.-P. Morency, "Efficient Low-rank
Multimodal Fusion with Modality-Specific Factors", ACL 2018, https://aclanthology.org/P18-1209.

Shapes use: B batch, T time steps, D features of one modality, R rank, O outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from os import PathLike

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.checkpoints import check_alike, check_whole, read_checkpoint, without_waiting

MODALITIES: tuple[str, ...] = ("audio", "video", "text")


def low_rank_fusion(
    inputs: Sequence[Tensor], factors: Sequence[Tensor], weights: Tensor, bias: Tensor
) -> Tensor:
    """Returns the fusion of any number of modalities, without forming their outer product.

    Equal to the full tensor fusion of eq. 2, W · (z_1 ⊗ ... ⊗ z_M) + b with z_m = [1; x_m], whose
    weight tensor W is the rank-weighted sum of the outer products of the factors (eq. 4).

    Args:
        inputs: One representation per modality; a 1 is prepended to each here.
        factors: One factor per modality, in the same order.
        weights: What each rank counts in the sum over ranks.
        bias: Added to the output.

    Shape:
        inputs (B, D_m) each; factors (R, D_m + 1, O) each; weights (1, R); bias (1, O).
        Returns (B, O).

    Source:
        Paper, eq. 8 (eq. 6 and 7 hold for rank 1 only); learned rank weights as in the release.
    """
    product = None
    for x, factor in zip(inputs, factors, strict=True):
        z = torch.cat([x.new_ones(x.shape[0], 1), x], dim=1)  # (B, D + 1)
        projection = z @ factor  # (R, B, O)
        product = projection if product is None else product * projection
    if product is None:
        raise ValueError("low_rank_fusion expects at least one modality, got none")
    return torch.einsum("r,rbo->bo", weights[0], product) + bias


class SubNet(nn.Module):
    """Audio or video subnetwork: batch normalisation, dropout, three ReLU layers.

    Args:
        in_size: Features of the modality.
        hidden_size: Width of all three layers, and of the output.
        dropout: Probability that a normalised input feature is dropped.

    Shape:
        (B, in_size) to (B, hidden_size). In training mode B must be at least 2 (BatchNorm1d).

    Source:
        Paper, section 5.2; three layers and BatchNorm as in the release (the paper says two).
    """

    def __init__(self, in_size: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(in_size)
        self.drop = nn.Dropout(dropout)
        self.linear_1 = nn.Linear(in_size, hidden_size)
        self.linear_2 = nn.Linear(hidden_size, hidden_size)
        self.linear_3 = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the modality's representation, (B, hidden_size)."""
        h = self.drop(self.norm(x))
        h = F.relu(self.linear_1(h))
        h = F.relu(self.linear_2(h))
        return F.relu(self.linear_3(h))


class TextSubNet(nn.Module):
    """Text subnetwork: an LSTM's final hidden state, dropout, a linear layer.

    Args:
        in_size: Width of the word vectors.
        hidden_size: Width of the LSTM.
        out_size: Width of the output.
        num_layers: Layers of the LSTM. The final state is the last layer's.
        dropout: Probability that a unit of the final state, or between layers, is dropped.
        bidirectional: Whether the final states of both directions are concatenated.

    Shape:
        (B, T, in_size) to (B, out_size).

    Source:
        Paper, section 5.2. All T steps count, padding included, as in the release.
    """

    def __init__(
        self,
        in_size: int,
        hidden_size: int,
        out_size: int,
        num_layers: int = 1,
        dropout: float = 0.2,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        self.rnn = nn.LSTM(
            in_size,
            hidden_size,
            num_layers=num_layers,
            dropout=dropout if num_layers > 1 else 0.0,
            bidirectional=bidirectional,
            batch_first=True,
        )
        self.drop = nn.Dropout(dropout)
        self.linear_1 = nn.Linear(hidden_size * (1 + bidirectional), out_size)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the text's representation, (B, out_size)."""
        _, (final, _) = self.rnn(x)  # (layers * directions, B, hidden_size)
        directions = 1 + self.rnn.bidirectional
        h = final[-directions:].transpose(0, 1).flatten(1)  # (B, directions * hidden_size)
        return self.linear_1(self.drop(h))


class LMF(nn.Module):
    """Low-rank Multimodal Fusion network. The fusion's result is the prediction.

    Args:
        input_dims: Features of (audio, video, text). A modality of 0 features is left out: it has
            neither subnetwork nor factor, and what `forward` is given for it is not looked at.
        hidden_dims: Widths of the (audio, video, text) subnetworks.
        text_out: Width of the text subnetwork's output.
        dropouts: Probabilities for (audio, video, text, post-fusion). The fourth may be left out:
            the release built such a layer and never applied it. A warning says so.
        output_dim: Outputs: 1 for MOSI, 2 for IEMOCAP, 16 for POM.
        rank: Rank of the fusion's weight tensor.
        use_softmax: Whether `forward` returns probabilities. Leave it off for training with
            cross-entropy, which expects logits.

    Attributes:
        modalities: Those that are not left out, in this order.

    Raises:
        ValueError: A wrong number of sizes, or no modality with features.

    Source:
        Paper, section 3. Xavier initialisation of the factors as 3-D tensors, as in the release:
        std = sqrt(2 / ((width + 1 + rank) * output_dim)).
    """

    def __init__(
        self,
        input_dims: Sequence[int],
        hidden_dims: Sequence[int],
        text_out: int,
        dropouts: Sequence[float],
        output_dim: int,
        rank: int,
        use_softmax: bool = False,
    ) -> None:
        super().__init__()
        if len(input_dims) != 3 or len(hidden_dims) != 3 or len(dropouts) not in (3, 4):
            raise ValueError(
                "LMF expects 3 input_dims, 3 hidden_dims and 3 or 4 dropouts, got "
                f"{tuple(input_dims)}, {tuple(hidden_dims)} and {tuple(dropouts)}"
            )
        if any(dropouts[3:]):
            warnings.warn(
                f"the fourth dropout, {dropouts[3]}, is not applied: LMF has no layer after the "
                "fusion, and the released code never applied it either",
                stacklevel=2,
            )
        self.use_softmax = use_softmax
        self.input_dims: dict[str, int] = dict(zip(MODALITIES, input_dims, strict=True))
        self.modalities = [name for name, size in self.input_dims.items() if size]
        if not self.modalities:
            raise ValueError(f"LMF expects a modality with features, got {tuple(input_dims)}")

        audio_in, video_in, text_in = input_dims
        audio_hidden, video_hidden, text_hidden = hidden_dims
        if audio_in:
            self.audio_subnet = SubNet(audio_in, audio_hidden, dropouts[0])
            self.audio_factor = nn.Parameter(torch.empty(rank, audio_hidden + 1, output_dim))
        if video_in:
            self.video_subnet = SubNet(video_in, video_hidden, dropouts[1])
            self.video_factor = nn.Parameter(torch.empty(rank, video_hidden + 1, output_dim))
        if text_in:
            self.text_subnet = TextSubNet(text_in, text_hidden, text_out, dropout=dropouts[2])
            self.text_factor = nn.Parameter(torch.empty(rank, text_out + 1, output_dim))
        self.fusion_weights = nn.Parameter(torch.empty(1, rank))
        self.fusion_bias = nn.Parameter(torch.zeros(1, output_dim))
        for name, parameter in self.named_parameters(recurse=False):
            # of shapes alone, torch would load its compiler for this
            if name != "fusion_bias" and not parameter.is_meta:
                nn.init.xavier_normal_(parameter)

    def forward(
        self, audio_x: Tensor | None, video_x: Tensor | None, text_x: Tensor | None
    ) -> Tensor:
        """Returns predictions (logits for IEMOCAP, unless use_softmax).

        Shape:
            audio_x (B, audio_in); video_x (B, video_in); text_x (B, T, text_in).
            Returns (B, output_dim).
        """
        given: dict[str, Tensor | None] = {"audio": audio_x, "video": video_x, "text": text_x}
        output = low_rank_fusion(
            [getattr(self, f"{name}_subnet")(given[name]) for name in self.modalities],
            [getattr(self, f"{name}_factor") for name in self.modalities],
            self.fusion_weights,
            self.fusion_bias,
        )
        return output.softmax(dim=1) if self.use_softmax else output

    @torch.no_grad()
    def predict(
        self,
        audio: np.ndarray | Tensor | None,
        video: np.ndarray | Tensor | None,
        text: np.ndarray | Tensor | None,
    ) -> np.ndarray:
        """Returns what `forward` does in eval mode, of arrays or tensors on any device, as numpy.

        NaN and infinite features count as 0, as when loaded. What the model leaves out is ignored.

        Shape:
            audio (B, audio_in); video (B, video_in); text (B, T, text_in), of any T.
            Returns (B, output_dim).

        Raises:
            ValueError: The inputs have other shapes.
        """
        given = dict(zip(MODALITIES, (audio, video, text), strict=True))
        inputs = {name: self._finite(given[name]) for name in self.modalities}
        _check_inputs(inputs, self.input_dims)
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            return self(*map(inputs.get, MODALITIES)).cpu().numpy()
        finally:
            for module, mode in modes:
                module.training = mode

    def _finite(self, x: np.ndarray | Tensor | None) -> Tensor:
        x = torch.as_tensor(x if isinstance(x, Tensor) else np.array(x, float))
        return x.to(self.fusion_bias).nan_to_num(0.0, 0.0, 0.0)

    @classmethod
    def load(cls, path: str | PathLike[str], device: str | torch.device = "cpu") -> LMF:
        """Returns the trained model of a model_*.pt file in eval mode, ready for use.

        Args:
            path: A checkpoint that a train script wrote. No code in it is ever executed.
            device: Where the model is to be.

        Raises:
            ValueError: The file is no such checkpoint.
        """
        try:
            with open(path, "rb", opener=without_waiting) as file:
                checkpoint = read_checkpoint(file, device)
            with torch.device("meta"):  # shapes without memory, whatever the file asks for
                model = cls(**checkpoint["config"])
            state = checkpoint["state_dict"]
            check_whole(state)
            check_alike(model.state_dict(), state)
            model.load_state_dict(state, assign=True)
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            raise
        except Exception as error:  # other files make torch.load raise anything
            raise ValueError(
                f"{path}: expected a model_*.pt file written by a train script, got something "
                f"else ({type(error).__name__})"
            ) from error
        return model.to(device).eval()


def _check_inputs(inputs: Mapping[str, Tensor], input_dims: Mapping[str, int]) -> None:
    """Raises ValueError unless inputs are as wide as a model takes them, and of one length."""
    expected = {name: ("B", *["T"][name != "text" :], input_dims[name]) for name in inputs}
    shapes = {name: tuple(x.shape) for name, x in inputs.items()}
    are_right = all(
        len(shape) == len(expected[name]) and shape[-1] == input_dims[name] and all(shape)
        for name, shape in shapes.items()
    )
    if not are_right or len({shape[0] for shape in shapes.values()}) > 1:
        raise ValueError(f"the model expects {_listed(expected)}; got {_listed(shapes)}")


def _listed(shapes: Mapping[str, tuple[object, ...]]) -> str:
    return ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in shapes.items())
