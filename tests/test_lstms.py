"""The hand-written parts of the fast path, each against torch's own: the LSTMs, Adam, the rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model import LMF, SubNet
from training.adam import AdamArrays, adam_on_cpu, adam_on_gpu
from training.dropout_cpu import masks_on_cpu
from training.forward import Forward
from training.lstm_gpu import TextOnGpu
from training.parameters import LSTM, Parameters, Sizes, padded, sizes
from training.products_cpu import multiply, multiply_transposed
from training.randomness import keep_mask
from training.reference import initial_model
from training.setting import Setting
from training.slots import Slots
from training.text_cpu import TextOnCpu
from training.words import Words, leading_zero_frames

DIMS = AUDIO, VIDEO, FEATURES = 5, 6, 9
EXAMPLES, STEPS = 7, 5
NO_PADDING = [0] * EXAMPLES
MIXED = [0, 0, 1, 2, 2, 4, 5]  # the last is nothing but zeros
PLAIN = Setting(3, 4, 6, 0.0, 0.0, 0.0, 0.001, 0.001, 2, EXAMPLES, 0.0)

close = partial(torch.testing.assert_close, rtol=1e-4, atol=2e-6)

on_both = pytest.mark.parametrize("on_gpu", [False, True], ids=["cpu", "gpu"])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def padded_text(padding: Sequence[int], steps: int = STEPS) -> Tensor:
    """Returns (N, T, D) with so many zero frames in front."""
    text = torch.randn(len(padding), steps, FEATURES)
    for example, count in zip(text, padding, strict=True):
        example[:count] = 0
    return text


def check_text(
    whole: Tensor, members: int, batch: Sequence[int], on_gpu: bool, width: int = 6
) -> TextOnCpu | TextOnGpu:
    """Holds a batch through the LSTM, forward and backward, against nn.LSTM of each member."""
    setting = PLAIN._replace(text_hidden=width, batch_size=len(batch))
    parameters = Parameters(sizes(setting), DIMS, 1)
    models = [initial_model(setting, seed, DIMS, 1) for seed in range(members)]
    rows = torch.zeros(members, parameters.width)
    for row, model in zip(rows, models, strict=True):
        parameters.pack(row, model.state_dict())
    words = Words(whole)
    index = torch.stack([torch.tensor(batch)[torch.randperm(len(batch))] for _ in models])
    if on_gpu:
        text = TextOnGpu(words, parameters, training=True)
    else:
        text = TextOnCpu(words, parameters, len(batch), members)
        index = index.gather(1, text.positions(index))
    final = text.forward(index, rows)
    d_final = torch.zeros_like(final)
    d_final[..., :width] = torch.randn(members, len(batch), width)
    grads = torch.full_like(rows, 7)
    if isinstance(text, TextOnGpu):
        text.backward(d_final, rows, grads)
    else:  # with an update of size 0
        first, second = np.zeros((2, *rows.shape), np.float32)
        ones = np.ones(members, np.float32)
        text.train(d_final, rows, grads, AdamArrays(first, second, ones, 0 * ones, ones))
    for k, model in enumerate(models):
        rnn = model.text_subnet.rnn
        _, (expected, _) = rnn(whole[index[k]])
        close(final[k, :, :width], expected[0].detach())
        assert not final[k, :, width:].any()
        (expected[0] * d_final[k, :, :width]).sum().backward()
        ours = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
        parameters.unpack(grads[k], ours)
        for name, parameter in rnn.named_parameters():
            assert parameter.grad is not None
            close(ours[f"{LSTM}{name}"], parameter.grad)
    assert (grads[:, : parameters.starts[f"{LSTM}weight_ih_l0"]] == 7).all()  # not the LSTM's
    return text


@on_both
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("padding", [NO_PADDING, MIXED, [STEPS] * EXAMPLES])
@pytest.mark.parametrize(
    "batch",
    [
        [2, 0, 6, 5, 1],
        [5, 2, 6],  # of the mixed ones, all are padded
        [1, 0],  # none is
        [6, 5],
        [4, 4, 3],  # all begin at one step
    ],
)
def test_the_lstm_and_its_gradients_are_those_of_torch(
    batch: list[int], padding: list[int], members: int, on_gpu: bool
) -> None:
    check_text(padded_text(padding), members, batch, on_gpu)


@on_both
@pytest.mark.parametrize("width", [64, 100, 256])
@pytest.mark.parametrize("examples", [1, 4, 70])
def test_the_lstm_is_right_at_real_widths_and_for_few_and_many_rows(
    examples: int, width: int, on_gpu: bool
) -> None:
    text = padded_text([i % (STEPS + 1) for i in range(examples)])
    check_text(text, 1, range(examples), on_gpu, width)


@on_both
def test_words_that_stand_several_times_are_as_good_as_others(on_gpu: bool) -> None:
    vocabulary = torch.randn(4, FEATURES)
    text = vocabulary[torch.randint(4, (EXAMPLES, STEPS))]
    text[3:6, :2] = 0
    words = Words(text)
    assert torch.equal(words.vectors[words.ids], padded(text))
    assert len(words.vectors) == 5
    assert not words.vectors[words.zero].any()
    check_text(text, 3, range(EXAMPLES), on_gpu)


def test_zero_frames_after_the_first_word_are_no_padding() -> None:
    text = padded_text([0, 2])
    text[0, 2:] = 0
    text[1, 3] = 0
    assert leading_zero_frames(text).tolist() == [0, 2]
    assert leading_zero_frames(torch.zeros(3, STEPS, 2)).tolist() == [STEPS - 1] * 3
    assert leading_zero_frames(padded_text([0, 1], steps=1)).tolist() == [0, 0]


def test_frames_of_the_padding_are_not_computed() -> None:
    text = check_text(padded_text(MIXED), 1, range(EXAMPLES), on_gpu=False)
    assert isinstance(text, TextOnCpu)
    words = sum(max(STEPS - padding, 1) for padding in MIXED)
    zeros = STEPS - 1  # of one row, until the last sequence begins
    assert text.traces.counts[0].sum() == words + zeros


def test_an_epoch_takes_each_batchs_examples_by_padding_and_batches_as_they_come() -> None:
    parameters = Parameters(sizes(PLAIN), DIMS, 1)
    text = TextOnCpu(Words(padded_text(MIXED)), parameters, 3, 4)
    order = torch.stack([torch.randperm(EXAMPLES) for _ in range(4)])
    positions = text.positions(order)
    for part in (slice(0, 3), slice(3, 6), slice(6, 7)):
        expected = torch.arange(EXAMPLES)[part].expand(4, -1)
        assert torch.equal(positions[:, part].sort(dim=1).values, expected)
        padding = text.words.padding[order.gather(1, positions[:, part])]
        assert torch.equal(padding, padding.sort(dim=1).values)


@pytest.mark.parametrize("rows", [1, 2, 4, 7, 63, 64, 130])
@pytest.mark.parametrize(("inner", "outer"), [(4, 5), (64, 256), (256, 1024), (1024, 256)])
def test_products_of_any_number_of_rows_are_numpys(inner: int, outer: int, rows: int) -> None:
    random = np.random.default_rng(0)
    x, w, y = (
        random.normal(size=size).astype(np.float32)
        for size in ((rows + 3, inner), (inner, outer), (rows + 3, outer))
    )
    out = np.full((rows + 3, outer), np.nan, np.float32)
    multiply(x, w, out, rows)
    np.testing.assert_allclose(out[:rows], x[:rows] @ w, rtol=1e-4, atol=1e-4)
    assert np.isnan(out[rows:]).all()
    multiply_transposed(x[:rows], y[:rows], w)
    np.testing.assert_allclose(w, x[:rows].T @ y[:rows], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_none(value: float) -> None:
    parameters = Parameters(sizes(PLAIN), DIMS, 1)
    rows = torch.zeros(1, parameters.width)
    rows[0, parameters.starts[f"{LSTM}bias_ih_l0"]] = value
    rows[0, parameters.starts[f"{LSTM}bias_hh_l0"]] = -value  # their sum is NaN
    text = TextOnCpu(Words(padded_text(NO_PADDING)), parameters, EXAMPLES, 1)
    final = text.forward(torch.arange(EXAMPLES).unsqueeze(0), rows)
    assert final[..., 0].isnan().all()


@pytest.mark.parametrize("width", [1, 16, 77])
def test_masks_are_those_of_the_reference(width: int) -> None:
    keys = torch.tensor([0, 1, 2**63 - 1, 12345678901234567])
    rows = torch.tensor([[0, 1, 2**20], [5, 6, 7], [1283, 0, 3], [9, 9, 8]])
    for values in ([0.0, 0.5, 0.15, 0.999], [0.1, 0.2, 0.3, 1e-9]):
        p = torch.tensor(values)
        wide = p.view(-1, 1, 1)
        expected = keep_mask(keys, rows, width, wide) * (1 / (1 - wide))
        assert torch.equal(masks_on_cpu(keys, rows, width, p), expected)


@on_both
def test_adam_over_many_members_is_torchs_adam_of_each(on_gpu: bool) -> None:
    lrs, decays, delays = [0.003, 0.0003, 0.1, 0.01], [0.0, 0.01, 0.002, 0.0], [0, 0, 3, 7]
    start = torch.randn(4, 33)
    grads = torch.randn(60, 4, 33) * torch.logspace(-6, 2, 33)
    weights, first, second = start.clone(), torch.zeros(4, 33), torch.zeros(4, 33)
    steps = torch.zeros(4)
    alone = [nn.Parameter(row.clone()) for row in start]
    optimizers = [
        torch.optim.Adam([parameter], lr=lr, weight_decay=decay)
        for parameter, lr, decay in zip(alone, lrs, decays, strict=True)
    ]
    numbers = steps, torch.tensor(lrs), torch.tensor(decays)
    for number, grad in enumerate(grads):
        for k, delay in enumerate(delays):
            if number == delay:  # a new member in this slot: its steps begin anew
                weights[k], steps[k] = start[k], 0
                first[k], second[k] = 0, 0
            if number >= delay:
                alone[k].grad = grad[k].clone()
                optimizers[k].step()
        steps += 1
        rows = weights, grad.contiguous(), first, second
        if on_gpu:
            none = torch.empty(0)
            lr, decay = numbers[1:]
            adam_on_gpu(
                Slots(*rows, none, {}, {}, none, none, lr, lr, decay, steps, none, none), 20
            )
        else:
            w, g, m, v, step, lr, decay = (value.numpy() for value in (*rows, *numbers))
            for start_at, stop in ((0, 20), (20, 33)):
                adam_on_cpu(start_at, stop, w, g, AdamArrays(m, v, step, lr, decay))
    # float32: a step's rounding is 1e-7 of its size, at most the learning rate; 60 steps add up
    torch.testing.assert_close(weights, torch.stack(list(alone)).detach(), rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("output_dim", [1, 2, 16])
def test_what_is_packed_into_a_row_comes_out_as_it_was(output_dim: int) -> None:
    setting = Setting(3, 17, 70, 0.0, 0.0, 0.0, 0.001, 0.001, 5, 4, 0.0)
    assert sizes(setting) == Sizes(4, 16, 32, 128, 16)
    parameters = Parameters(sizes(setting), DIMS, output_dim)
    model = initial_model(setting, 0, DIMS, output_dim)
    state = model.state_dict()
    row = torch.full((parameters.width,), torch.nan)
    parameters.pack(row, state)
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert int(row.count_nonzero()) == sum(int(p.count_nonzero()) for p in model.parameters())
    assert weights < parameters.width
    back = {name: torch.full_like(value, 7) for name, value in state.items()}
    parameters.unpack(row, back)
    for name in parameters.shapes:
        assert torch.equal(back[name], state[name]), name
    assert set(parameters.shapes) == {name for name, _ in model.named_parameters()}


def test_factors_lie_together_in_front_of_a_row_and_the_lstm_at_its_end() -> None:
    parameters = Parameters(Sizes(4, 16, 16, 64, 16), DIMS, 2)
    factors = {n for n, start in parameters.starts.items() if start < parameters.factors_end}
    assert factors == {"audio_factor", "video_factor", "text_factor"}
    assert [name.startswith(LSTM) for name in parameters.starts][-5:] == [False, *[True] * 4]
    for name, start in parameters.starts.items():
        assert start % 16 == 0, name


def forward_of_zeros() -> Forward:
    parameters = Parameters(sizes(PLAIN), DIMS, 1)
    rows = torch.zeros(1, parameters.width)
    return Forward(parameters, rows, rows, {})


def test_a_layer_that_the_fast_path_does_not_know_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forward_of_zeros()
    build = LMF.__init__

    def build_with_gate(self: LMF, *args: object, **options: object) -> None:
        build(self, *args, **options)  # pyright: ignore[reportArgumentType]
        self.gate = nn.Linear(2, 2)

    monkeypatch.setattr(LMF, "__init__", build_with_gate)
    with pytest.raises(AssertionError, match=r"differ in gate\.bias, gate\.weight"):
        forward_of_zeros()


def test_another_linear_layer_of_the_subnetworks_is_one_of_the_fast_path_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build = SubNet.__init__

    def build_deeper(self: SubNet, in_size: int, hidden_size: int, dropout: float) -> None:
        build(self, in_size, hidden_size, dropout)
        self.linear_4 = nn.Linear(hidden_size, hidden_size)

    monkeypatch.setattr(SubNet, "__init__", build_deeper)
    layers = forward_of_zeros().linears["audio_subnet"]
    assert layers == [f"audio_subnet.linear_{i}" for i in (1, 2, 3, 4)]
