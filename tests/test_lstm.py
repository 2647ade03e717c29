"""The hand-written parts of the fast path, each against torch's own: the LSTM and Adam."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from training.adam import adam_wide
from training.lstm import Text, Words, leading_zero_frames, lstm_backward, lstm_forward
from training.parameters import Layout, Sizes, padded, sizes
from training.reference import initial_model
from training.setting import Setting

BATCH, STEPS, FEATURES, WIDTH = 7, 5, 9, 6
NO_PADDING = [0] * BATCH
MIXED = [0, 0, 1, 2, 2, 4, 5]  # the last is nothing but zeros

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)  # of float64


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def padded_text(padding: Sequence[int], steps: int = STEPS) -> Tensor:
    """Returns (N, T, D) with so many zero frames in front."""
    text = torch.randn(len(padding), steps, FEATURES, dtype=torch.float64)
    for example, count in zip(text, padding, strict=True):
        example[:count] = 0
    return text


def torch_lstms(members: int) -> list[nn.LSTM]:
    return [nn.LSTM(FEATURES, WIDTH, batch_first=True).double() for _ in range(members)]


def in_our_order(lstms: list[nn.LSTM], which: str = "data") -> list[Tensor]:
    """Returns the weights, or their gradients, of all members, with gates as o, i, f, g."""
    stacked = []
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        values = [getattr(getattr(lstm, name), which) for lstm in lstms]
        stacked.append(torch.stack([v.unflatten(0, (4, -1))[[3, 0, 1, 2]] for v in values]))
    return [value.flatten(1, 2) for value in stacked]


def check_text(
    whole: Tensor, members: int, batch: Sequence[int], skips: bool, wide: bool = False
) -> Text:
    """Holds a batch of examples through `Text`, forward and backward, against nn.LSTM."""
    lstms = torch_lstms(members)
    text = Text(Words(whole), len(batch), skips, wide)
    index = torch.tensor(batch).expand(members, -1)
    index = index.gather(1, index * 0 + torch.stack([torch.randperm(len(batch))] * members))
    if text.skips:
        index = index.gather(1, text.words.padding[index].argsort(dim=1, stable=True))
    d_final = torch.randn(members, len(batch), WIDTH, dtype=torch.float64)
    w_ih, *others = in_our_order(lstms)
    weights = [padded(w_ih), *others]
    final, traces = text.forward(index, weights)
    grads = [torch.full_like(weight, torch.nan) for weight in weights]
    done = [list(range(members))[some] for some in text.backward(traces, d_final, weights, grads)]
    assert [k for some in done for k in some] == list(range(members))
    for k, lstm in enumerate(lstms):
        _, (expected, _) = lstm(whole[index[k]])
        close(final[k], expected[0].detach())
        (expected[0] * d_final[k]).sum().backward()
    assert not grads[0][..., FEATURES:].any()
    grads[0] = grads[0][..., :FEATURES]
    for ours, expected in zip(grads, in_our_order(lstms, "grad"), strict=True):
        close(ours, expected)
    return text


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("padding", [NO_PADDING, MIXED])
def test_the_lstm_and_its_gradients_are_those_of_torch(
    padding: list[int], members: int, wide: bool
) -> None:
    check_text(padded_text(padding), members, [2, 0, 6, 5, 1], skips=False, wide=wide)


@pytest.mark.parametrize("skips", [False, True])
def test_words_that_stand_several_times_are_as_good_as_others(skips: bool) -> None:
    vocabulary = torch.randn(4, FEATURES, dtype=torch.float64)
    text = vocabulary[torch.randint(4, (BATCH, STEPS))]
    text[3:6, :2] = 0
    words = Words(text)
    assert torch.equal(words.vectors[words.ids], padded(text))
    assert len(words.vectors) == 5
    assert not words.vectors[words.zero].any()
    assert check_text(text, 3, range(BATCH), skips).skips == skips


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize(
    "batch",
    [
        [0, 1, 2, 3, 4, 5, 6],
        [5, 2, 6],  # all are padded
        [1, 0],  # none is
        [6, 5],
        [4, 4, 3],  # all begin at one step
    ],
)
def test_skipping_padding_changes_neither_the_lstm_nor_its_gradients(
    batch: list[int], members: int
) -> None:
    assert check_text(padded_text(MIXED), members, batch, skips=True).skips


def test_text_of_zeros_alone_goes_through_the_lstm_as_through_torch() -> None:
    assert check_text(padded_text([STEPS] * 4), 2, range(4), skips=True).skips


def test_there_is_nothing_to_skip_where_nothing_is_padded() -> None:
    assert not check_text(padded_text(NO_PADDING), 2, range(4), skips=True).skips


def test_zero_frames_after_the_first_word_are_no_padding() -> None:
    text = padded_text([0, 2])
    text[0, 2:] = 0
    text[1, 3] = 0
    assert leading_zero_frames(text).tolist() == [0, 2]
    assert leading_zero_frames(torch.zeros(3, STEPS, 2)).tolist() == [STEPS - 1] * 3
    assert leading_zero_frames(padded_text([0, 1], steps=1)).tolist() == [0, 0]


def test_frames_of_the_padding_are_not_computed() -> None:
    text = Text(Words(padded_text(MIXED)), BATCH, skips=True, wide=False)
    w_ih, *others = in_our_order(torch_lstms(1))
    _, ((_, trace),) = text.forward(torch.arange(BATCH).unsqueeze(0), [padded(w_ih), *others])
    words = sum(max(STEPS - padding, 1) for padding in MIXED)
    assert len(trace.gates) == words + STEPS  # and one sequence of zeros


def test_a_zero_start_with_one_sequence_of_zeros_is_a_start_of_its_own() -> None:
    """Straight at `lstm_forward`: two sequences from the first step, two more later."""
    frames = torch.randn(STEPS, 4, FEATURES, dtype=torch.float64)
    frames[:, 0] = 0
    frames[:2, 2:] = 0
    counts = [2, 2, 4, 4, 4]
    ours = torch.cat([step[:count] for step, count in zip(frames, counts, strict=True)])
    lstms = torch_lstms(1)
    w_ih, w_hh, b_ih, b_hh = in_our_order(lstms)
    gates = ours @ w_ih[0].t() + b_ih + b_hh
    final, trace = lstm_forward(gates, counts, w_hh)
    expected = lstms[0](frames.transpose(0, 1))[1][0][0]
    close(final[0], expected.detach())
    d_final = torch.randn(1, 4, WIDTH, dtype=torch.float64)
    (expected * d_final[0]).sum().backward()
    d_w_hh = torch.empty_like(w_hh)
    d_gates = lstm_backward(trace, w_hh, d_final, d_w_hh)
    d_w_ih, expected_d_w_hh, d_bias, _ = in_our_order(lstms, "grad")
    close(d_w_hh, expected_d_w_hh)
    close(d_gates.t() @ ours, d_w_ih[0])
    close(d_gates.sum(0), d_bias[0])


def test_an_epoch_takes_each_batchs_examples_by_padding_and_batches_as_they_come() -> None:
    text = Text(Words(padded_text(MIXED)), 3, skips=True, wide=False)
    order = torch.stack([torch.randperm(BATCH) for _ in range(4)])
    positions = text.positions(order)
    for part in (slice(0, 3), slice(3, 6), slice(6, 7)):
        expected = torch.arange(BATCH)[part].expand(4, -1)
        assert torch.equal(positions[:, part].sort(dim=1).values, expected)
        padding = text.words.padding[order.gather(1, positions[:, part])]
        assert torch.equal(padding, padding.sort(dim=1).values)
    whole = Text(text.words, 3, skips=False, wide=False).positions(order)
    assert torch.equal(whole, torch.arange(BATCH).expand(4, -1))


def test_adam_over_many_members_is_torchs_adam_of_each() -> None:
    lrs, decays, delays = [0.003, 0.0003, 0.1, 0.01], [0.0, 0.01, 0.002, 0.0], [0, 0, 3, 7]
    start = torch.randn(4, 33)
    grads = torch.randn(60, 4, 33) * torch.logspace(-6, 2, 33)
    weights, first, second = start.clone(), torch.zeros(4, 33), torch.zeros(4, 33)
    steps = torch.zeros(4, 1)
    alone = [nn.Parameter(row.clone()) for row in start]
    optimizers = [
        torch.optim.Adam([parameter], lr=lr, weight_decay=decay)
        for parameter, lr, decay in zip(alone, lrs, decays, strict=True)
    ]
    for number, grad in enumerate(grads):
        for k, delay in enumerate(delays):
            if number == delay:  # a new member in this slot: its steps begin anew
                weights[k], steps[k] = start[k], 0
                first[k], second[k] = 0, 0
            if number >= delay:
                alone[k].grad = grad[k].clone()
                optimizers[k].step()
        steps += 1
        lr, decay = torch.tensor(lrs)[:, None], torch.tensor(decays)[:, None]
        adam_wide(weights, grad, (first, second), steps, lr, decay)
    # float32: a step's rounding is 1e-7 of its size, at most the learning rate; 60 steps add up
    torch.testing.assert_close(weights, torch.stack(list(alone)).detach(), rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("output_dim", [1, 2, 16])
def test_what_is_packed_into_a_row_comes_out_as_it_was(output_dim: int) -> None:
    setting = Setting(3, 17, 70, 0.0, 0.0, 0.0, 0.001, 0.001, 5, 4, 0.0)
    assert sizes(setting) == Sizes(4, 16, 32, 128, 16)
    layout = Layout(sizes(setting), (7, 5, 9), output_dim)
    model = initial_model(setting, 0, (7, 5, 9), output_dim)
    state = model.state_dict()
    row = torch.full((layout.width,), torch.nan)
    layout.pack(row, state)
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert int(row.count_nonzero()) == sum(int(p.count_nonzero()) for p in model.parameters())
    assert weights < layout.width
    back = {name: torch.full_like(value, 7) for name, value in state.items()}
    layout.unpack(row, back)
    for name in layout.shapes:
        assert torch.equal(back[name], state[name]), name
    assert set(layout.shapes) == {name for name, _ in model.named_parameters()}


def test_factors_lie_together_in_front_of_a_row() -> None:
    layout = Layout(Sizes(4, 16, 16, 64, 16), (7, 5, 9), 2)
    factors = {name for name, start in layout.starts.items() if start < layout.factors_end}
    assert factors == {"audio_factor", "video_factor", "text_factor"}
    for name, start in layout.starts.items():
        assert start % 16 == 0, name
