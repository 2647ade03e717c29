"""The model against the paper's equations, and against numbers of the released implementation."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model import LMF, MODALITIES, SubNet, TextSubNet, low_rank_fusion
from training.setting import ModelConfig

SOME_MODALITIES = [kept for n in (1, 2, 3) for kept in combinations(MODALITIES, n)]
FORWARD = np.load(Path(__file__).parent / "golden" / "forward.npz")
OUTPUTS = {"mosi": 1, "iemocap": 2, "pom": 16}
SUBNET_NAMES = [
    *(f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
    "norm.num_batches_tracked",
    *(f"linear_{i}.{name}" for i in (1, 2, 3) for name in ("weight", "bias")),
]
STATE_NAMES = [
    "audio_factor",
    "video_factor",
    "text_factor",
    "fusion_weights",
    "fusion_bias",
    *(f"audio_subnet.{name}" for name in SUBNET_NAMES),
    *(f"video_subnet.{name}" for name in SUBNET_NAMES),
    "text_subnet.rnn.weight_ih_l0",
    "text_subnet.rnn.weight_hh_l0",
    "text_subnet.rnn.bias_ih_l0",
    "text_subnet.rnn.bias_hh_l0",
    "text_subnet.linear_1.weight",
    "text_subnet.linear_1.bias",
]

close_to_golden = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-6)


def config(
    output_dim: int = 1, rank: int = 2, dropouts: Sequence[float] = (0, 0, 0)
) -> ModelConfig:
    """Returns how to build a model of the golden numbers' sizes."""
    return ModelConfig(
        input_dims=[6, 5, 7],
        hidden_dims=[4, 3, 6],
        text_out=3,
        dropouts=list(dropouts),
        output_dim=output_dim,
        rank=rank,
    )


def golden(prefix: str) -> dict[str, Tensor]:
    """Returns the arrays whose names begin so, by the rest of their names."""
    names = [name for name in FORWARD.files if name.startswith(prefix)]
    return {name.removeprefix(prefix): torch.from_numpy(FORWARD[name]) for name in names}


def golden_model(case: str) -> LMF:
    data_set, rank = case.split("_rank")
    model = LMF(**config(OUTPUTS[data_set], int(rank)))
    model.load_state_dict(golden(f"{case}/state/"))
    return model


def full_tensor_fusion(
    inputs: list[Tensor], factors: list[Tensor], weights: Tensor, bias: Tensor
) -> Tensor:
    """Returns W · (z_1 ⊗ ... ⊗ z_M) + b (eq. 2) with W formed from the factors (eq. 4)."""
    z: Tensor = torch.ones(len(inputs[0]), 1, dtype=bias.dtype)
    for x in inputs:
        with_one = torch.cat([torch.ones(len(x), 1, dtype=x.dtype), x], dim=1)
        z = (z.unsqueeze(2) * with_one.unsqueeze(1)).flatten(1)
    tensor = torch.zeros(z.shape[1], bias.shape[1], dtype=bias.dtype)
    for r in range(weights.shape[1]):
        for o in range(bias.shape[1]):
            outer = torch.ones(1, dtype=bias.dtype)
            for factor in factors:
                outer = (outer.unsqueeze(1) * factor[r, :, o].unsqueeze(0)).flatten()
            tensor[:, o] += weights[0, r] * outer
    return z @ tensor + bias


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_fusion_equals_the_full_tensor_form(modalities: int, seed: int) -> None:
    rng = np.random.default_rng([modalities, seed])
    batch, rank, outputs = (int(n) for n in rng.integers(1, 6, 3))
    widths = [int(n) for n in rng.integers(1, 7, modalities)]

    def random(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape))

    inputs = [random(batch, width) for width in widths]
    factors = [random(rank, width + 1, outputs) for width in widths]
    weights, bias = random(1, rank), random(1, outputs)
    fused = low_rank_fusion(inputs, factors, weights, bias)
    expected = full_tensor_fusion(inputs, factors, weights, bias)
    torch.testing.assert_close(fused, expected, rtol=1e-10, atol=1e-10)


def test_fusion_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one modality"):
        low_rank_fusion([], [], torch.ones(1, 2), torch.zeros(1, 1))


def test_fusion_refuses_factors_that_do_not_pair_with_inputs() -> None:
    x, factor = torch.ones(3, 2), torch.ones(2, 3, 1)
    with pytest.raises(ValueError, match="shorter"):
        low_rank_fusion([x, x], [factor], torch.ones(1, 2), torch.zeros(1, 1))


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("data_set", OUTPUTS)
def test_outputs_gradients_and_buffers_match_the_release(data_set: str, rank: int) -> None:
    case = f"{data_set}_rank{rank}"
    model, given = golden_model(case), golden(f"{case}/")
    inputs, label = (given["audio"], given["video"], given["text"]), given["label"]

    close_to_golden(model.eval()(*inputs), given["output_eval"])
    output = model.train()(*inputs)
    close_to_golden(output, given["output_train"])
    if data_set == "iemocap":
        loss = F.cross_entropy(output, label.argmax(1), reduction="sum")
    else:
        loss = F.l1_loss(output, label, reduction="sum")
    close_to_golden(loss, given["loss_train"])
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    close_to_golden(gradients, golden(f"{case}/grad/"))
    buffers = dict(model.named_buffers())
    close_to_golden(buffers, golden(f"{case}/buffer_after/"))


def test_state_dict_has_the_names_and_order_of_old_checkpoints() -> None:
    assert list(LMF(**config()).state_dict()) == STATE_NAMES


def test_factors_start_with_the_xavier_deviation_of_convolution_kernels() -> None:
    torch.manual_seed(0)
    model = LMF((6, 5, 7), (63, 40, 32), 100, (0, 0, 0), output_dim=16, rank=12)
    for factor in (model.audio_factor, model.video_factor, model.text_factor):
        rank, width_and_one, outputs = factor.shape
        expected = (2 / ((width_and_one + rank) * outputs)) ** 0.5
        assert factor.std().item() == pytest.approx(expected, rel=0.04)
        assert factor.mean().item() == pytest.approx(0, abs=0.05 * expected)


@pytest.mark.parametrize("kept", SOME_MODALITIES, ids=" ".join)
def test_a_modality_without_features_leaves_the_product(kept: tuple[str, ...]) -> None:
    dims = {"audio": 6, "video": 5, "text": 7}
    sizes = [dims[modality] if modality in kept else 0 for modality in MODALITIES]
    model = LMF(sizes, (4, 3, 6), 3, (0, 0, 0), 2, 2).eval()
    names = [name for name in STATE_NAMES if name.startswith(("fusion", *kept))]
    assert list(model.state_dict()) == names
    shapes = {"audio": (5, 6), "video": (5, 5), "text": (5, 4, 7)}
    given = {modality: torch.randn(shapes[modality]) for modality in kept}
    inputs = [getattr(model, f"{modality}_subnet")(given[modality]) for modality in kept]
    factors = [getattr(model, f"{modality}_factor") for modality in kept]
    expected = low_rank_fusion(inputs, factors, model.fusion_weights, model.fusion_bias)
    assert torch.equal(model(*map(given.get, MODALITIES)), expected)
    noise = {modality: torch.full((5, 9), torch.nan) for modality in MODALITIES}
    assert torch.equal(model(*(noise | given).values()), expected)


def test_rank_weights_start_xavier_normal_and_the_bias_at_zero() -> None:
    torch.manual_seed(0)
    model = LMF((6, 5, 7), (2, 2, 2), 2, (0, 0, 0), output_dim=3, rank=5000)
    assert model.fusion_weights.std().item() == pytest.approx((2 / 5001) ** 0.5, rel=0.05)
    assert not model.fusion_bias.any()


def test_subnetworks_start_with_the_defaults_of_torch() -> None:
    torch.manual_seed(0)
    model = LMF((600, 500, 70), (80, 80, 60), 50, (0, 0, 0), output_dim=1, rank=1)
    weight = model.audio_subnet.linear_1.weight
    assert weight.abs().max().item() == pytest.approx(600**-0.5, rel=0.01)
    weight = model.text_subnet.rnn.weight_ih_l0
    assert isinstance(weight, Tensor)
    assert weight.abs().max().item() == pytest.approx(60**-0.5, rel=0.01)


def test_subnet_is_norm_then_dropout_then_three_relu_layers() -> None:
    subnet = SubNet(6, 4, dropout=1.0).train()  # every unit dropped: linear biases are left
    torch.nn.init.ones_(subnet.norm.bias)
    h = torch.zeros(3, 6)
    for layer in (subnet.linear_1, subnet.linear_2, subnet.linear_3):
        h = F.relu(layer(h))
    torch.testing.assert_close(subnet(torch.randn(3, 6)), h)


@pytest.mark.parametrize(("layers", "directions"), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_text_subnet_takes_the_last_layers_final_states(layers: int, directions: int) -> None:
    subnet = TextSubNet(7, 6, 3, layers, dropout=0.5, bidirectional=directions == 2).eval()
    x = torch.randn(5, 4, 7)
    states, _ = subnet.rnn(x)  # the last layer's, (5, 4, directions * 6)
    final = torch.cat([states[:, -1, :6], states[:, 0, 6:]], dim=1)
    torch.testing.assert_close(subnet(x), subnet.linear_1(final))


def test_text_dropout_acts_on_the_final_state() -> None:
    subnet = TextSubNet(7, 6, 3, dropout=1.0).train()
    expected = subnet.linear_1.bias.expand(5, 3)
    torch.testing.assert_close(subnet(torch.randn(5, 4, 7)), expected)


def test_use_softmax_returns_the_probabilities_of_the_logits() -> None:
    model = LMF(**config(output_dim=2)).eval()
    inputs = torch.randn(5, 6), torch.randn(5, 5), torch.randn(5, 4, 7)
    logits = model(*inputs)
    model.use_softmax = True
    torch.testing.assert_close(model(*inputs), logits.softmax(1))
    assert LMF(**config(), use_softmax=True).use_softmax


def test_a_fourth_dropout_is_accepted_and_said_to_be_without_effect() -> None:
    assert list(LMF(**config(dropouts=(0, 0, 0, 0))).state_dict()) == STATE_NAMES
    with pytest.warns(UserWarning, match="fourth dropout, 0.3, is not applied") as warned:
        model = LMF(**config(dropouts=(0, 0, 0, 0.3)))
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert list(model.state_dict()) == STATE_NAMES


@pytest.mark.parametrize(
    ("inputs", "hidden", "dropouts"),
    [
        ((6, 5), (4, 3, 6), (0, 0, 0)),
        ((6, 5, 7), (4, 3, 6, 2), (0, 0, 0)),
        ((6, 5, 7), (4, 3, 6), (0, 0)),
    ],
)
def test_a_wrong_number_of_sizes_is_refused(
    inputs: tuple[int, ...], hidden: tuple[int, ...], dropouts: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="expects 3 input_dims"):
        LMF(inputs, hidden, 3, dropouts, 1, 2)


def test_a_model_of_no_modality_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expects a modality with features, got \(0, 0, 0\)"):
        LMF((0, 0, 0), (4, 3, 6), 3, (0, 0, 0), 1, 2)


def test_load_gives_a_saved_model_back_ready_for_use(tmp_path: Path) -> None:
    saved = golden_model("mosi_rank2")
    how = config(dropouts=(0.5, 0.5, 0.5))
    torch.save({"config": how, "state_dict": saved.state_dict()}, tmp_path / "model.pt")
    loaded = LMF.load(tmp_path / "model.pt")
    given = golden("mosi_rank2/")
    output = loaded(given["audio"], given["video"], given["text"])
    close_to_golden(output, given["output_eval"])


class Harmful:
    """Its pickle makes a folder when it is read without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def cut_checkpoint(path: Path) -> None:
    torch.save({"config": config(), "state_dict": LMF(**config()).state_dict()}, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_weights(change: Callable[[Tensor], Tensor]) -> Callable[[Path], None]:
    """Returns what saves a checkpoint with its largest weights changed."""

    def save(path: Path) -> None:
        state = LMF(**config()).state_dict()
        name = max(state, key=lambda name: state[name].numel())
        state[name] = change(state[name])
        torch.save({"config": config(), "state_dict": state}, path)

    return save


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/version", "3")
        archive.writestr("model/data.pkl", bytes(10**6))


OTHER_FILES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("audio_hidden,video_hidden\n4,8\n"),
    "plain pickle": lambda path: path.write_bytes(pickle.dumps({"config": config()}, protocol=2)),
    "cut checkpoint": cut_checkpoint,
    "state_dict alone": lambda path: torch.save(LMF(**config()).state_dict(), path),
    "whole model": lambda path: torch.save(LMF(**config()), path),
    "tensor": lambda path: torch.save(torch.ones(3), path),
    "list": lambda path: torch.save([1, 2], path),
    "other sizes": lambda path: torch.save(
        {"config": config(rank=3), "state_dict": LMF(**config()).state_dict()}, path
    ),
    "weights of one value": with_weights(lambda weight: torch.ones(1).expand(weight.shape)),
    "sparse weights": with_weights(Tensor.to_sparse),
    "no weights": with_weights(lambda weight: weight.to("meta")),
    "compressed": bomb,
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "other options": lambda path: torch.save({"config": {"rank": 3}, "state_dict": {}}, path),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_load_names_a_file_that_is_no_model_of_a_train_script(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model_x.pt"
    OTHER_FILES[kind](path)
    with pytest.raises(ValueError, match=r"model_x\.pt: expected a model_\*\.pt file"):
        LMF.load(path)


class Largest(TorchDispatchMode):
    """Notes how large a tensor with values operations ever make."""

    elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type != "meta":
                self.elements = max(self.elements, leaf.numel())
        return result


@pytest.mark.parametrize("change", [{"hidden_dims": [4, 3, 12_000]}, {"rank": 10**9}])
def test_load_takes_no_more_memory_than_the_file_whatever_it_names(
    change: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    state = LMF(**config()).state_dict()
    torch.save({"config": {**config(), **change}, "state_dict": state}, path)
    with Largest() as largest, pytest.raises(ValueError, match="expected a model_"):
        LMF.load(path)
    assert largest.elements <= max(value.numel() for value in state.values())


@pytest.mark.parametrize(
    "write", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x, 2))]
)
def test_load_never_runs_code_of_a_file(
    write: Callable[[object, Path], object], tmp_path: Path
) -> None:
    path, mark = tmp_path / "model_x.pt", tmp_path / "harm"
    write({"config": config(), "state_dict": Harmful(mark)}, path)
    with pytest.raises(ValueError, match="expected a model_"):
        LMF.load(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Harmful(mark)))  # the proof that reading it carelessly would
    assert mark.exists()


def test_load_of_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LMF.load(tmp_path / "model_x.pt")
