"""Training of one hyperparameter setting: the reference that everything faster is held against.

`fit` is as plain as it can be. What the results depend on is as in the release: losses summed over
the batch, Adam with coupled L2 and two learning rates, early stopping on the validation loss.

Everything random about a (setting, seed) comes from streams that the two alone determine, so its
result does not depend on what trains beside it or before it, nor its randomness on the device.

Shapes use: B batch, T time steps, D features of one modality, O outputs, L columns of the label.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from model import LMF
from utils import Split


class Setting(NamedTuple):
    """One point of the search space, in the order of the CSV's columns."""

    audio_hidden: int
    video_hidden: int
    text_hidden: int
    audio_dropout: float
    video_dropout: float
    text_dropout: float
    factor_learning_rate: float
    learning_rate: float
    rank: int
    batch_size: int
    weight_decay: float

    @property
    def text_out(self) -> int:
        """Width of the text subnetwork's output, as in the release."""
        return self.text_hidden // 2

    @property
    def dropouts(self) -> tuple[float, float, float]:
        """Dropout probabilities of (audio, video, text)."""
        return self.audio_dropout, self.video_dropout, self.text_dropout

    def texts(self) -> tuple[str, ...]:
        """Returns the values as they stand in CSV files and seed the random streams."""
        return tuple(f"{value:.15g}" for value in self)


class Data(NamedTuple):
    """The three splits, each whole, on one device: no DataLoader stands between."""

    train: Split
    valid: Split
    test: Split

    @property
    def input_dims(self) -> tuple[int, int, int]:
        """Features of (audio, video, text)."""
        audio, visual, text, _ = self.train[:]
        return audio.shape[1], visual.shape[1], text.shape[2]

    def to(self, device: torch.device | str) -> Data:
        """Returns the same splits on a device."""
        return Data(*(split.to(device) for split in self))


class Scored(NamedTuple):
    """What scores are computed from: the best-validation weights' losses and outputs (B, O)."""

    valid_loss: float
    test_loss: float
    valid_output: np.ndarray
    valid_label: np.ndarray
    test_output: np.ndarray
    test_label: np.ndarray


class Task(NamedTuple):
    """What the training of one data set needs beside the data.

    Attributes:
        output_dim: Outputs of the model.
        loss: Losses (..., B) of the examples from outputs (..., B, O) and labels (..., B, L).
        loss_divisor: What reported losses are divided by, beside the number of examples.
        scores: The scores of the best-validation weights, by CSV column.
    """

    output_dim: int
    loss: Callable[[Tensor, Tensor], Tensor]
    loss_divisor: int
    scores: Callable[[Scored], dict[str, float]]


class Limits(NamedTuple):
    """When training stops: after `epochs`, or `patience` epochs without a better validation."""

    epochs: int
    patience: int


class Result(NamedTuple):
    """What came of one (setting, seed).

    Attributes:
        status: "ok"; "diverged" if a loss was NaN or infinite; "failed" if it could not be trained.
        valid_loss: The best validation loss; NaN unless ok.
        best_epoch: The epoch (from 1) of that loss; 0 unless ok.
        epochs: How many epochs were trained.
        seconds: How long that took; settings that train together share the time.
        scores: By CSV column; empty unless ok.
        history: Each epoch's training and validation loss.
        state_dict: The best-validation weights, on the CPU; None unless ok.
        reason: Why it failed.
    """

    setting: Setting
    seed: int
    status: str
    valid_loss: float
    best_epoch: int
    epochs: int
    seconds: float
    scores: dict[str, float]
    history: list[tuple[float, float]]
    state_dict: dict[str, Tensor] | None
    reason: str = ""


class EarlyStopping:
    """One setting's losses so far: which was best, and whether to go on.

    Source:
        As in the release: a new best validation loss restores full patience, an epoch without
        one costs 1.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.history: list[tuple[float, float]] = []
        self.best_loss = math.inf
        self.best_epoch = 0
        self.diverged = False

    def update(self, train_loss: float, valid_loss: float) -> bool:
        """Takes in an epoch's losses and returns whether the validation loss is a new best."""
        self.history.append((train_loss, valid_loss))
        self.diverged = not (math.isfinite(train_loss) and math.isfinite(valid_loss))
        if self.diverged or valid_loss >= self.best_loss:
            return False
        self.best_loss, self.best_epoch = valid_loss, len(self.history)
        return True

    @property
    def done(self) -> bool:
        """Whether the setting has come to its end."""
        epochs = len(self.history)
        waited = epochs - self.best_epoch
        return self.diverged or epochs >= self.limits.epochs or waited >= self.limits.patience


def stream(setting: Setting, seed: int, purpose: str, epoch: int = 0) -> int:
    """Returns the key, in [0, 2**63), of a random stream that belongs to this use alone."""
    name = " ".join([*setting.texts(), str(seed), purpose, str(epoch)])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


class ModelConfig(TypedDict):
    """The arguments with which `LMF` makes a setting's model."""

    input_dims: list[int]
    hidden_dims: list[int]
    text_out: int
    dropouts: list[float]
    output_dim: int
    rank: int


def model_config(setting: Setting, input_dims: Sequence[int], output_dim: int) -> ModelConfig:
    """Returns the arguments with which `LMF` makes the setting's model."""
    return ModelConfig(
        input_dims=list(input_dims),
        hidden_dims=list(setting[:3]),
        text_out=setting.text_out,
        dropouts=list(setting.dropouts),
        output_dim=output_dim,
        rank=setting.rank,
    )


def initial_model(setting: Setting, seed: int, input_dims: Sequence[int], output_dim: int) -> LMF:
    """Returns the setting's model with the weights that (setting, seed) starts from, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(setting, seed, "weights"))
        return LMF(**model_config(setting, input_dims, output_dim))


def epoch_order(setting: Setting, seed: int, epoch: int, examples: int) -> Tensor:
    """Returns the order (examples,) in which an epoch, counted from 1, takes the train split."""
    generator = torch.Generator().manual_seed(stream(setting, seed, "order", epoch))
    return torch.randperm(examples, generator=generator)


def batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Returns the order cut into batches; a last one of a single example is left out.

    BatchNorm can't train on one example: the release crashed there.
    """
    return [batch for batch in order.split(batch_size) if len(batch) > 1]


def keep_mask(keys: Tensor, rows: Tensor, width: int, p: Tensor | float) -> Tensor:
    """Returns which units dropout keeps: the same on every device, whatever else is drawn.

    A unit's random bits are a hash of its key, row and column, so that any part of an epoch's
    mask, for any number of settings at once, can be had without the rest.

    Shape:
        keys (...) and rows (..., B), int64; p broadcasts. Returns (..., B, width), bool.

    Source:
        The hash is SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number
        generators", OOPSLA 2014.
    """
    columns = torch.arange(width, device=keys.device)
    x = (rows[..., None] << 20) + columns
    x = x * -0x61C8864680B583EB + keys[..., None, None]  # wraps around, as it should
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    x = x ^ (x >> 31 & 0x1FFFFFFFF)
    return (x & 0xFFFFFF) >= p * 2**24


class SeededDropout(nn.Module):
    """Dropout whose masks are those of a key, in the order in which rows pass through an epoch."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def start_epoch(self, key: int) -> None:
        """Sets the key of the epoch that begins."""
        self.key, self.row = torch.tensor(key), 0

    def forward(self, x: Tensor) -> Tensor:
        """Returns x (B, D), in training mode with units dropped and the rest scaled up."""
        if not self.training or self.p == 0:
            return x
        rows = torch.arange(self.row, self.row + len(x), device=x.device)
        keep = keep_mask(self.key.to(x.device), rows, x.shape[1], self.p)
        self.row += len(x)
        return x * (keep * (1 / (1 - self.p)))


def replace_dropouts(model: LMF) -> dict[str, SeededDropout]:
    """Puts seeded dropouts in place of the model's and returns them by modality."""
    subnets = {"audio": model.audio_subnet, "video": model.video_subnet, "text": model.text_subnet}
    for subnet in subnets.values():
        subnet.drop = SeededDropout(subnet.drop.p)
    return {modality: subnet.drop for modality, subnet in subnets.items()}


def adam(model: LMF, setting: Setting) -> torch.optim.Adam:
    """Returns the optimizer: the three factors at their own learning rate, all else at another.

    Source:
        As in the release: L2 coupled into the gradient, on both groups.
    """
    named = list(model.named_parameters())
    factors = [parameter for name, parameter in named if name.endswith("_factor")]
    others = [parameter for name, parameter in named if not name.endswith("_factor")]
    groups = [
        {"params": factors, "lr": setting.factor_learning_rate},
        {"params": others, "lr": setting.learning_rate},
    ]
    return torch.optim.Adam(groups, weight_decay=setting.weight_decay)


def fit(
    setting: Setting,
    seed: int,
    data: Data,
    task: Task,
    limits: Limits,
    *,
    model: LMF | None = None,
    shuffle: bool = True,
    on_epoch: Callable[[int, float, float], None] | None = None,
) -> Result:
    """Returns the result of training one setting to its end.

    Args:
        setting: The hyperparameters.
        seed: Which of the setting's random streams to use.
        data: The splits, on the device to train on.
        task: The loss and the scores.
        limits: When to stop.
        model: Starts from this model, and trains it, instead of the one of (setting, seed).
        shuffle: Whether each epoch has an order of its own; else the file's.
        on_epoch: Told each epoch's number, training loss and validation loss.
    """
    started = time.perf_counter()
    device = data.train.label.device
    if model is None:
        model = initial_model(setting, seed, data.input_dims, task.output_dim)
    model.to(device)
    dropouts = replace_dropouts(model)
    optimizer = adam(model, setting)
    stopping = EarlyStopping(limits)
    best_state = None

    while not stopping.done:
        epoch = len(stopping.history) + 1
        for modality, dropout in dropouts.items():
            dropout.start_epoch(stream(setting, seed, f"{modality} dropout", epoch))
        examples = len(data.train.label)
        order = epoch_order(setting, seed, epoch, examples) if shuffle else torch.arange(examples)
        train_loss = _train(model, optimizer, data.train, task, batches(order, setting.batch_size))
        valid_loss, _ = evaluate(model, data.valid, task)
        if stopping.update(train_loss, valid_loss):
            best_state = {name: value.clone() for name, value in model.state_dict().items()}
        if on_epoch:
            on_epoch(epoch, train_loss, valid_loss)

    if stopping.diverged or best_state is None:
        return finished(setting, seed, stopping, {}, None, time.perf_counter() - started)
    model.load_state_dict(best_state)
    scores = score(model, data, task)
    return finished(setting, seed, stopping, scores, best_state, time.perf_counter() - started)


def _train(
    model: LMF, optimizer: torch.optim.Adam, train: Split, task: Task, indices: list[Tensor]
) -> float:
    model.train()
    total = torch.zeros((), device=train.label.device)
    for index in indices:
        audio, visual, text, label = train[index.to(train.label.device)]
        optimizer.zero_grad()
        loss = task.loss(model(audio, visual, text), label).sum()  # as in the release: no mean
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return total.item() / sum(map(len, indices)) / task.loss_divisor


@torch.no_grad()
def evaluate(model: LMF, split: Split, task: Task) -> tuple[float, Tensor]:
    """Returns the reported loss on a whole split, and the outputs (B, O)."""
    model.eval()
    output = model(split.audio, split.visual, split.text)
    loss = task.loss(output, split.label).sum().item()
    return loss / len(split) / task.loss_divisor, output


def score(model: LMF, data: Data, task: Task) -> dict[str, float]:
    """Returns the model's scores, by CSV column."""
    valid_loss, valid_output = evaluate(model, data.valid, task)
    test_loss, test_output = evaluate(model, data.test, task)
    arrays = (valid_output, data.valid.label, test_output, data.test.label)
    return task.scores(Scored(valid_loss, test_loss, *(part.cpu().numpy() for part in arrays)))


def finished(
    setting: Setting,
    seed: int,
    stopping: EarlyStopping,
    scores: dict[str, float],
    state_dict: dict[str, Tensor] | None,
    seconds: float,
) -> Result:
    """Returns a setting's result once its training is over."""
    return Result(
        setting,
        seed,
        status="diverged" if stopping.diverged else "ok",
        valid_loss=math.nan if stopping.diverged else stopping.best_loss,
        best_epoch=0 if stopping.diverged else stopping.best_epoch,
        epochs=len(stopping.history),
        seconds=seconds,
        scores=scores,
        history=stopping.history,
        state_dict=state_dict and {name: value.cpu() for name, value in state_dict.items()},
    )


def failed(setting: Setting, seed: int, reason: str) -> Result:
    """Returns the result of a setting that could not be trained."""
    return Result(setting, seed, "failed", math.nan, 0, 0, 0.0, {}, [], None, reason)
