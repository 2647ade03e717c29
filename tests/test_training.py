"""The training of one setting: against the release's numbers, then what it promises of itself."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import EXPERIMENTS, tiny_data
from torch import Tensor

import train_mosi
from training import randomness
from training.randomness import SeededDropout, batches, epoch_order, keep_mask, stream
from training.reference import adam, evaluate, fit, initial_model, score
from training.result import Data, EarlyStopping, Limits, Result
from training.setting import Setting
from utils import Split

TRAINING = np.load(Path(__file__).parent / "golden" / "training.npz")
PLAIN = Setting(4, 3, 6, 0.0, 0.0, 0.0, 0.003, 0.001, 2, 5, 0.01)  # as the golden numbers' one
DROPPING = PLAIN._replace(audio_dropout=0.2, video_dropout=0.5, text_dropout=0.3)

close_to_golden = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


def golden(prefix: str) -> dict[str, Tensor]:
    """Returns the arrays whose names begin so, by the rest of their names."""
    names = [name for name in TRAINING.files if name.startswith(prefix)]
    return {name.removeprefix(prefix): torch.from_numpy(TRAINING[name]) for name in names}


def golden_data(data_set: str) -> Data:
    splits = [golden(f"{data_set}/{split}/") for split in ("train", "valid", "test")]
    names = ("audio", "video", "text", "label")
    return Data(*(Split(*(split[name] for name in names)) for split in splits))


def fit_mosi(
    setting: Setting, seed: int = 0, epochs: int = 4, patience: int = 9, data: Data | None = None
) -> Result:
    data = data or tiny_data()
    return fit(setting, seed, data, train_mosi.EXPERIMENT.task(data), Limits(epochs, patience))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_fit_matches_the_release(name: str) -> None:
    data = golden_data(name)
    task = EXPERIMENTS[name].task(data)
    model = initial_model(PLAIN, 0, data.input_dims, task.output_dim)
    model.load_state_dict(golden(f"{name}/state_before/"))
    states, outputs = [], []

    def on_epoch(_epoch: int, _train: float, _valid: float) -> None:
        states.append({key: value.clone() for key, value in model.state_dict().items()})
        outputs.append(evaluate(model, data.test, task)[1])

    result = fit(PLAIN, 0, data, task, Limits(6, 20), model=model, shuffle=False, on_epoch=on_epoch)
    train_losses, valid_losses = zip(*result.history, strict=True)
    close_to_golden(torch.tensor(train_losses), golden(f"{name}/train_loss")[""].float())
    close_to_golden(torch.tensor(valid_losses), golden(f"{name}/valid_loss")[""].float())
    close_to_golden(states[0], golden(f"{name}/state_after_1/"))
    close_to_golden(states[5], golden(f"{name}/state_after_6/"))
    close_to_golden(outputs[5], golden(f"{name}/test_output")[""])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_losses_are_those_of_torch_for_each_example_of_any_stack(name: str) -> None:
    label = golden_data(name).train.label  # (23, L)
    task = EXPERIMENTS[name].task(golden_data(name))
    output = torch.randn(3, 23, task.output_dim)
    losses = task.loss(output, label.expand(3, *label.shape))
    assert losses.shape == (3, 23)
    for stacked, one in zip(losses, output, strict=True):
        if name == "iemocap":
            expected = F.cross_entropy(one, label.argmax(1), reduction="none")
        else:
            expected = F.l1_loss(one, label, reduction="none").sum(1)
        torch.testing.assert_close(stacked, expected)


def test_fit_keeps_and_scores_the_weights_of_the_best_validation_loss() -> None:
    data = tiny_data()
    task = train_mosi.EXPERIMENT.task(data)
    setting = PLAIN._replace(factor_learning_rate=0.03, learning_rate=0.03, weight_decay=0.0)
    model = initial_model(setting, 0, data.input_dims, 1)
    states = []

    def on_epoch(_epoch: int, _train: float, _valid: float) -> None:
        states.append({key: value.clone() for key, value in model.state_dict().items()})

    result = fit(setting, 0, data, task, Limits(200, 5), model=model, on_epoch=on_epoch)
    losses = [valid_loss for _, valid_loss in result.history]
    best = int(np.argmin(losses))
    assert result.status == "ok"
    assert (result.best_epoch, result.valid_loss) == (best + 1, losses[best])
    assert result.epochs == len(states) == best + 1 + 5 < 200  # patience ran out
    assert result.state_dict is not None
    torch.testing.assert_close(result.state_dict, states[best], rtol=0, atol=0)
    assert any((states[best][name] != states[-1][name]).any() for name in states[-1])
    model.load_state_dict(states[best])
    assert result.scores == score(model, data, task)


def stop_after(losses: list[float], epochs: int, patience: int) -> EarlyStopping:
    stopping = EarlyStopping(Limits(epochs, patience))
    for loss in losses:
        if stopping.done:
            break
        stopping.update(1.0, loss)
    return stopping


@pytest.mark.parametrize(
    ("losses", "epochs", "patience", "trained", "best_epoch"),
    [
        ([3, 2, 1, 0.5], 3, 1, 3, 3),  # the limit of epochs
        ([3, 4, 5, 6], 10, 2, 3, 1),  # two epochs without a better one
        ([3, 4, 2, 4, 1, 4, 4, 4], 10, 2, 7, 5),  # a new best restores all patience
        ([3, 3, 3, 3], 10, 2, 3, 1),  # an equal loss is no better one
        ([3, 4], 10, 1, 2, 1),
    ],
)
def test_early_stopping(
    losses: list[float], epochs: int, patience: int, trained: int, best_epoch: int
) -> None:
    stopping = stop_after(losses, epochs, patience)
    assert stopping.done
    assert (len(stopping.history), stopping.best_epoch) == (trained, best_epoch)
    assert stopping.best_loss == losses[best_epoch - 1]
    assert stopping.status == "ok"


@pytest.mark.parametrize(
    ("losses", "trained", "status"),
    [
        ([4, 3.1], 2, "pruned"),
        ([4, 3, 9, 9], 4, "pruned"),  # equal is kept; the best so far counts, not the last
        ([4, 2, 9, 1, 2, 9], 6, "ok"),
        ([9, math.nan], 2, "diverged"),
        ([2.5, 4, 4, 4], 4, "ok"),  # it ended by its patience at that epoch
        ([4, 2.5, 3, 2.4, 2.3, 2.2, 2.1], 4, "pruned"),
    ],
)
def test_a_setting_above_a_bound_is_pruned(losses: list[float], trained: int, status: str) -> None:
    stopping = EarlyStopping(Limits(6, 3, ((2, 3.0), (3, math.inf), (4, 2.0))))
    for loss in losses:
        if not stopping.done:
            stopping.update(1.0, loss)
    assert (len(stopping.history), stopping.status) == (trained, status)
    assert stopping.done


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_a_nan_or_infinite_loss_ends_a_setting_as_diverged(bad: float, which: int) -> None:
    stopping = EarlyStopping(Limits(10, 10))
    assert stopping.update(2.0, 2.0)
    losses = (bad, 1.0) if which == 0 else (1.0, bad)
    assert not stopping.update(*losses)
    assert stopping.done
    assert stopping.status == "diverged"


def test_a_huge_learning_rate_is_reported_as_diverged() -> None:
    result = fit_mosi(PLAIN._replace(learning_rate=1e30, factor_learning_rate=1e30))
    assert result.status == "diverged"
    assert math.isnan(result.valid_loss)
    assert (result.best_epoch, result.scores, result.state_dict) == (0, {}, None)
    assert result.epochs == len(result.history) < 4


def test_a_last_batch_of_one_example_is_left_out() -> None:
    order = torch.randperm(23)
    sizes = [len(batch) for batch in batches(order, 11)]
    assert sizes == [11, 11]
    assert [len(batch) for batch in batches(order, 7)] == [7, 7, 7, 2]
    assert torch.equal(torch.cat(batches(order, 7)), order)


def test_training_goes_on_where_a_batch_of_one_example_is_left_over() -> None:
    result = fit_mosi(PLAIN._replace(batch_size=11), epochs=3)
    assert result.status == "ok"
    assert result.state_dict is not None
    steps = result.state_dict["audio_subnet.norm.num_batches_tracked"].item()
    assert steps == 2 * result.best_epoch


def test_keep_mask_keeps_its_share_of_the_units() -> None:
    for p in (0.0, 0.1, 0.15, 0.5):
        kept = keep_mask(torch.tensor([7, 2**62 + 1]), torch.arange(1000), 100, p).double()
        assert kept.mean(dim=(1, 2)).tolist() == pytest.approx([1 - p] * 2, abs=0.007)
        by_column, by_row = kept.mean(dim=1), kept.mean(dim=2)
        assert (by_column - (1 - p)).abs().max() < 0.08  # 5 standard deviations
        assert (by_row - (1 - p)).abs().max() < 0.26
    assert keep_mask(torch.tensor(1), torch.arange(10), 10, 0.0).all()


@pytest.mark.parametrize(("row_shift", "column_shift"), [(1, 0), (0, 1), (1, 1), (16, 0), (0, 64)])
def test_units_are_dropped_independently_of_their_neighbours(
    row_shift: int, column_shift: int
) -> None:
    key = torch.tensor(stream(PLAIN, 0, "audio dropout", 1))
    kept = keep_mask(key, torch.arange(500), 200, 0.5).double()
    one = kept[row_shift:, column_shift:].flatten()
    other = kept[: 500 - row_shift, : 200 - column_shift].flatten()
    assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1].item()) < 0.02


def test_masks_differ_between_modalities_epochs_seeds_and_settings() -> None:
    uses = [
        (PLAIN, 0, "audio dropout", 1),
        (PLAIN, 0, "video dropout", 1),
        (PLAIN, 0, "audio dropout", 2),
        (PLAIN, 1, "audio dropout", 1),
        (PLAIN._replace(rank=3), 0, "audio dropout", 1),
    ]
    keys = torch.tensor([stream(*use) for use in uses])
    masks = keep_mask(keys, torch.arange(300), 100, 0.5).flatten(1).double()
    correlations = torch.corrcoef(masks) - torch.eye(len(uses))
    assert correlations.abs().max().item() < 0.03


def test_each_modality_and_epoch_of_a_fit_has_masks_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = []

    def recording(key: Tensor, rows: Tensor, width: int, p: Tensor | float) -> Tensor:
        keys.append(int(key))
        return keep_mask(key, rows, width, p)

    monkeypatch.setattr(randomness, "keep_mask", recording)
    result = fit_mosi(DROPPING, epochs=4)
    assert result.epochs == 4
    assert len(set(keys)) == 3 * 4


def test_any_part_of_a_mask_is_the_same_part_of_the_whole() -> None:
    keys = torch.tensor([3, 4, 5])
    p = torch.tensor([0.1, 0.3, 0.5])[:, None, None]
    whole = keep_mask(keys, torch.arange(50), 20, p)
    assert torch.equal(keep_mask(keys, torch.arange(17, 26), 20, p), whole[:, 17:26])
    assert torch.equal(keep_mask(keys, torch.arange(50), 6, p), whole[:, :, :6])
    assert torch.equal(keep_mask(torch.tensor(4), torch.arange(50), 20, 0.3), whole[1])


def test_seeded_dropout_takes_an_epochs_mask_row_by_row_and_scales_what_is_left() -> None:
    dropout = SeededDropout(0.25).train()
    dropout.start_epoch(11)
    x = torch.rand(10, 6) + 1
    parts = torch.cat([dropout(x[:4]), dropout(x[4:])])
    keep = keep_mask(torch.tensor(11), torch.arange(10), 6, 0.25)
    torch.testing.assert_close(parts, x * keep / 0.75)
    assert torch.equal(dropout.eval()(x), x)
    dropout.train().start_epoch(11)
    assert torch.equal(dropout(x[:4]), parts[:4])


def test_each_epoch_has_an_order_of_its_own() -> None:
    orders = [epoch_order(PLAIN, seed, epoch, 100) for seed in (0, 1) for epoch in (1, 2)]
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(100))
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert torch.equal(orders[0], epoch_order(PLAIN, 0, 1, 100))


def test_the_same_setting_and_seed_give_the_same_result_whatever_came_before() -> None:
    torch.manual_seed(1)
    first = fit_mosi(DROPPING)
    fit_mosi(PLAIN, seed=5)
    torch.manual_seed(2)
    second = fit_mosi(DROPPING)
    assert first.history == second.history
    assert first.scores == second.scores
    torch.testing.assert_close(first.state_dict, second.state_dict, rtol=0, atol=0)


def test_fit_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    fit_mosi(DROPPING)
    assert torch.equal(torch.rand(4), expected)


def test_another_seed_and_another_setting_start_from_other_weights_and_orders() -> None:
    histories = [
        fit_mosi(PLAIN, seed=0).history,
        fit_mosi(PLAIN, seed=1).history,
        fit_mosi(PLAIN._replace(weight_decay=0.0100001), seed=0).history,
    ]
    assert len({history[0][1] for history in histories}) == 3


@pytest.mark.parametrize("modality", ["audio", "video", "text"])
def test_each_dropout_takes_part_in_training(modality: str) -> None:
    data = tiny_data()
    histories = []
    for p in (0.0, 0.5):
        setting = PLAIN._replace(**{f"{modality}_dropout": p})
        model = initial_model(PLAIN, 0, data.input_dims, 1)
        getattr(model, f"{modality}_subnet").drop.p = p
        task = train_mosi.EXPERIMENT.task(data)
        result = fit(setting, 0, data, task, Limits(1, 1), model=model, shuffle=False)
        histories.append(result.history)
    assert histories[0] != histories[1]


def test_adam_has_the_factors_in_a_group_of_their_own() -> None:
    model = initial_model(PLAIN, 0, (6, 5, 7), 1)
    factors, others = adam(model, PLAIN).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(parameter)] for parameter in factors["params"]} == {
        "audio_factor",
        "video_factor",
        "text_factor",
    }
    assert len(factors["params"]) + len(others["params"]) == len(names)
    assert (factors["lr"], others["lr"]) == (0.003, 0.001)
    assert factors["weight_decay"] == others["weight_decay"] == 0.01


def test_a_setting_is_written_with_the_numbers_of_the_grid() -> None:
    setting = PLAIN._replace(audio_dropout=0.15, learning_rate=0.0003, weight_decay=0.0)
    assert setting.texts() == ("4", "3", "6", "0.15", "0", "0", "0.003", "0.0003", "2", "5", "0")
    assert setting.text_out == 3


def test_what_was_trained_before_is_trained_the_same_again() -> None:
    """The streams are keyed by all of a Setting's texts: another field would change every row."""
    setting = Setting(4, 8, 64, 0.1, 0.2, 0.15, 0.0005, 0.001, 4, 8, 0.002)
    assert stream(setting, 3, "weights") == 5039307856163139048
    assert epoch_order(setting, 3, 2, 9).tolist() == [6, 7, 1, 3, 0, 4, 5, 8, 2]
    factor = initial_model(setting, 3, (5, 6, 7), 1).audio_factor
    assert factor[0, 0, 0].item() == pytest.approx(0.3236036897)
