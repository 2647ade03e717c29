"""Training of one hyperparameter setting: the reference that everything faster is held against.

`fit` is as plain as it can be. What the results depend on is as in the release: losses summed over
the batch, Adam with coupled L2 and two learning rates, early stopping on the validation loss.

Everything random about a (setting, seed) comes from streams that the two alone determine, so its
result does not depend on what trains beside it or before it, nor its randomness on the device.

Shapes use: B batch, T time steps, D features of one modality, O outputs, L columns of the label.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from model import LMF
from training.randomness import batches, epoch_order, replace_dropouts, start_epoch, stream
from training.result import Data, EarlyStopping, Limits, Result, Scored, Task, finished
from training.setting import Setting, model_config
from utils import Split


def initial_model(setting: Setting, seed: int, input_dims: Sequence[int], output_dim: int) -> LMF:
    """Returns the setting's model with the weights that (setting, seed) starts from, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(setting, seed, "weights"))
        return LMF(**model_config(setting, input_dims, output_dim))


def adam(model: LMF, setting: Setting) -> torch.optim.Adam:
    """Returns the optimizer: the factors at their own learning rate, all else at another.

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
    started, examples = time.perf_counter(), len(data.train)
    model = model or initial_model(setting, seed, data.input_dims, task.output_dim)
    model.to(data.train.label.device)
    dropouts, optimizer = replace_dropouts(model), adam(model, setting)
    stopping, best_state = EarlyStopping(limits), None

    while not stopping.done:
        epoch = len(stopping.history) + 1
        start_epoch(dropouts, setting, seed, epoch)
        order = epoch_order(setting, seed, epoch, examples) if shuffle else torch.arange(examples)
        train_loss = _train(model, optimizer, data.train, task, batches(order, setting.batch_size))
        valid_loss, _ = evaluate(model, data.valid, task)
        if stopping.update(train_loss, valid_loss):
            best_state = {name: value.clone() for name, value in model.state_dict().items()}
        if on_epoch:
            on_epoch(epoch, train_loss, valid_loss)

    if stopping.status != "ok" or best_state is None:
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


def outputs(model: LMF, data: Data, task: Task) -> Scored:
    """Returns what the model's scores are computed from."""
    valid_loss, valid_output = evaluate(model, data.valid, task)
    test_loss, test_output = evaluate(model, data.test, task)
    arrays = (valid_output, data.valid.label, test_output, data.test.label)
    return Scored(valid_loss, test_loss, *(part.cpu().numpy() for part in arrays))


def score(model: LMF, data: Data, task: Task) -> dict[str, float]:
    """Returns the model's scores, by CSV column."""
    return task.scores(outputs(model, data, task))
