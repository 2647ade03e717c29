"""The fast path: K settings trained together, each to the result that `fit` gives it alone.

The members' weights lie side by side along a leading dimension, padded with zeros to the sizes of
their stack: padded units, their gradients and their Adam moments stay exactly 0. A member that has
come to its end leaves, and a waiting setting takes its place.

What a member computes does not depend on its neighbours or their number: its sizes follow from its
own setting, and every product is one of its own matrices. On the CPU the LSTM multiplies each word
of a batch once, and skips the zero frames in front of the words, where that pays. On CUDA a step of
all members is one captured graph.

Shapes use: K members, B batch, T time steps, F frames, D features, H width of the LSTM, R rank,
O outputs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.adam import adam

from training.adam import BETA_1, BETA_2, EPSILON, adam_wide
from training.graphs import _Graphs
from training.lstm import Text, Words, skipping_pays
from training.parameters import Layout, Sizes, padded, sizes
from training.randomness import batches, epoch_order, keep_mask, stream
from training.reference import initial_model, score
from training.result import Data, EarlyStopping, Limits, Result, Task, finished
from training.setting import Setting
from utils import Split

MODALITIES = ("audio", "video", "text")
VALID_CHUNK = 64  # examples of the valid split that go through a GPU's members at once


Job = tuple[Setting, int]  # a setting, and the seed to train it with
Listener = Callable[[Setting, int, int, float, float], None]


class _Member(NamedTuple):
    """A setting in training."""

    setting: Setting
    seed: int
    stopping: EarlyStopping
    seconds: list[float]  # its share of each epoch's time


class Stack:
    """Settings of one size in training: at most `slots` at a time, the others wait.

    Wide is how GPUs work: every operation goes over all members, none over one, padding included.
    """

    def __init__(
        self,
        size: Sizes,
        slots: int,
        data: Data,
        words: tuple[Words, Words],
        task: Task,
        limits: Limits,
        wide: bool | None = None,
    ) -> None:
        self.size, self.data, self.task, self.limits = size, data, task, limits
        self.device = data.train.label.device
        self.wide = self.device.type == "cuda" if wide is None else wide
        self.layout = Layout(size, data.input_dims, task.output_dim)
        self.members: list[_Member | None] = [None] * slots
        self.state = self._new_state(slots)
        train_words, valid_words = words
        skips = not self.wide and skipping_pays(size.text, size.batch_size)
        self.text = Text(train_words, size.batch_size, skips, self.wide)
        self.valid_text = Text(valid_words, len(data.valid), not self.wide, self.wide)
        order = valid_words.padding.argsort(stable=True)
        chunks = order.split(VALID_CHUNK if self.wide else len(order))
        self.audio, self.visual = padded(data.train.audio), padded(data.train.visual)
        self.valid_parts = [(index, Split(*data.valid[index])) for index in chunks]
        self.batches = batches(torch.arange(len(data.train)), size.batch_size)
        self._use(slots)

    def _new_state(self, slots: int) -> dict[str, Tensor]:
        """Returns everything that belongs to a slot, along dimension 0."""
        audio_in, video_in, _ = self.layout.input_dims
        rows = ("weights", "grads", "first", "second", "best")
        widths: dict[str, tuple[int, ...]] = {name: (self.layout.width,) for name in rows}
        for prefix in ("", "best_"):
            for subnet, width in (("audio_subnet", audio_in), ("video_subnet", video_in)):
                for statistic in ("running_mean", "running_var"):
                    widths[f"{prefix}{subnet}.norm.{statistic}"] = (width,)
        for modality in MODALITIES:
            widths[f"{modality}_dropout"] = (1, 1)
        for name in ("factor_learning_rate", "learning_rate", "weight_decay"):
            widths[name] = (1,)
        widths |= {"steps": (2,), "loss": ()}
        state = {name: torch.zeros(slots, *shape) for name, shape in widths.items()}
        state["order"] = torch.zeros(slots, len(self.data.train), dtype=torch.long)
        state["keys"] = torch.zeros(slots, len(MODALITIES), dtype=torch.long)
        return {name: value.to(self.device) for name, value in state.items()}

    def _use(self, slots: int) -> None:
        """Works on the first slots from now on."""
        self.slots = slots
        del self.members[slots:]
        self.now = {name: value[:slots] for name, value in self.state.items()}
        weights, grads = self.now["weights"], self.now["grads"]
        self.parameters: dict[str, Tensor] = {}
        self.gradients: list[Tensor] = []
        for name in self.layout.derived:
            values, gradients = self.layout.view(weights, name), self.layout.view(grads, name)
            parts = {name: slice(None)}
            if name.endswith("_factor"):  # the prepended 1 makes its first row a bias
                parts = {f"{name}.bias": slice(1), f"{name}.weight": slice(1, None)}
            for part, rows in parts.items():
                self.parameters[part] = values[:, rows].detach().requires_grad_()
                self.gradients.append(gradients[:, rows])
        self.graphs = _Graphs(self._step, slots, self.device) if self.wide else None

    def train(self, jobs: Iterator[Job], on_epoch: Listener | None = None) -> Iterator[Result]:
        """Yields the results of the jobs as they come to their ends."""
        self._fill(jobs)
        while any(self.members):
            started = time.perf_counter()
            train_losses, valid_losses = self._epoch()
            active = [(slot, member) for slot, member in enumerate(self.members) if member]
            share = (time.perf_counter() - started) / len(active)
            improved = []
            for slot, member in active:
                member.seconds.append(share)
                losses = train_losses[slot], valid_losses[slot]
                if member.stopping.update(*losses):
                    improved.append(slot)
                if on_epoch:
                    on_epoch(member.setting, member.seed, len(member.seconds), *losses)
            self._keep_best(improved)
            for slot, member in active:
                if member.stopping.done:
                    yield self._finish(slot, member)
                    self.members[slot] = None
            self._fill(jobs)

    def _fill(self, jobs: Iterator[Job]) -> None:
        """Gives free slots to waiting jobs, or gives the slots up if that pays."""
        for slot, member in enumerate(self.members):
            job = None if member else next(jobs, None)
            if job:
                self._join(slot, *job)
        used = [slot for slot, member in enumerate(self.members) if member]
        few = len(used) * 2 <= self.slots if self.graphs else len(used) < self.slots
        if used and few:  # on CUDA another number of slots needs another graph
            for value in self.state.values():
                value[: len(used)] = value[used]
            self.members = [self.members[slot] for slot in used]
            self._use(len(used))

    def _join(self, slot: int, setting: Setting, seed: int) -> None:
        model = initial_model(setting, seed, self.data.input_dims, self.task.output_dim)
        row = torch.zeros(self.layout.width)
        self.layout.pack(row, model.state_dict())
        for name, value in self.now.items():
            value[slot] = 1 if name.endswith("running_var") else 0
        self.now["weights"][slot] = row
        for name in ("factor_learning_rate", "learning_rate", "weight_decay"):
            self.now[name][slot] = getattr(setting, name)
        for modality, dropout in zip(MODALITIES, setting.dropouts, strict=True):
            self.now[f"{modality}_dropout"][slot] = dropout
        self.members[slot] = _Member(setting, seed, EarlyStopping(self.limits), [])

    def _epoch(self) -> tuple[list[float], list[float]]:
        """Trains all members for one epoch; returns their training and validation losses."""
        for slot, member in enumerate(self.members):
            if member:
                self._draw(slot, member)
        self.now["loss"].zero_()
        if self.graphs:
            self.graphs.run([len(batch) for batch in self.batches])
        else:
            positions = self.text.positions(self.now["order"])
            for batch in self.batches:
                self._step(positions[:, batch])
        examples = sum(map(len, self.batches))
        train_loss = self.now["loss"].double() / examples / self.task.loss_divisor
        valid_loss = self._valid_loss().double() / len(self.data.valid) / self.task.loss_divisor
        return train_loss.tolist(), valid_loss.tolist()

    def _draw(self, slot: int, member: _Member) -> None:
        setting, seed, epoch = member.setting, member.seed, len(member.seconds) + 1
        self.now["order"][slot] = epoch_order(setting, seed, epoch, len(self.data.train))
        keys = [stream(setting, seed, f"{modality} dropout", epoch) for modality in MODALITIES]
        self.now["keys"][slot] = torch.tensor(keys)

    @torch.no_grad()
    def _step(self, positions: Tensor) -> None:
        """Trains all members on one batch each: the examples at these positions (K, B)."""
        now = self.now
        index = now["order"].gather(1, positions)
        audio, visual = self.audio[index.T], self.visual[index.T]  # (B, K, D)
        final, traces = self.text.forward(index, self._rnn("weights"))
        final.requires_grad_()
        with torch.enable_grad():
            output = self._output(audio, visual, final, self._masks(positions))
            loss = self.task.loss(output, self.data.train.label[index]).sum(-1)  # not averaged
            *grads, d_final = torch.autograd.grad(loss.sum(), [*self.parameters.values(), final])
        for target, grad in zip(self.gradients, grads, strict=True):
            target.copy_(grad)
        now["loss"].add_(loss)
        rnn, d_rnn = self._rnn("weights"), self._rnn("grads")
        for members in self.text.backward(traces, d_final, rnn, d_rnn):
            self._adam(members)

    def _rnn(self, rows: str) -> list[Tensor]:
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        return [self.layout.view(self.now[rows], f"text_subnet.rnn.{name}") for name in names]

    def _masks(self, positions: Tensor) -> list[Tensor]:
        """Returns what dropout multiplies each modality with, (K, B, D)."""
        widths = (*self.layout.input_dims[:2], self.size.text)
        masks = []
        for i, (modality, width) in enumerate(zip(MODALITIES, widths, strict=True)):
            p = self.now[f"{modality}_dropout"]
            keep = keep_mask(self.now["keys"][:, i], positions, width, p)
            masks.append(keep * (1 / (1 - p)))
        return masks

    def _output(
        self, audio: Tensor, visual: Tensor, final: Tensor, masks: list[Tensor] | None
    ) -> Tensor:
        """Returns all members' outputs (K, B, O): `LMF.forward`, side by side."""
        parameters = self.parameters
        audio_mask, video_mask, text_mask = masks or (None, None, None)
        if text_mask is not None:
            final = final * text_mask
        representations = {
            "audio_factor": self._subnet("audio_subnet", audio, audio_mask),
            "video_factor": self._subnet("video_subnet", visual, video_mask),
            "text_factor": _linear(final, parameters, "text_subnet.linear_1"),
        }
        product = None
        for name, x in representations.items():
            bias, weight = parameters[f"{name}.bias"], parameters[f"{name}.weight"]
            projection = torch.baddbmm(bias.flatten(2), x, weight.flatten(2))  # (K, B, R * O)
            product = projection if product is None else product * projection
        assert product is not None
        product = product.unflatten(2, (self.size.rank, -1))  # (K, B, R, O)
        weights = parameters["fusion_weights"].unsqueeze(-1)  # (K, 1, R, 1)
        return (product * weights).sum(2) + parameters["fusion_bias"]

    def _subnet(self, name: str, x: Tensor, mask: Tensor | None) -> Tensor:
        """Returns (K, B, D) of (B, K, D); a mask means that it is training."""
        weight, bias = (self.parameters[f"{name}.norm.{part}"] for part in ("weight", "bias"))
        h = F.batch_norm(
            x.flatten(1),
            self.now[f"{name}.norm.running_mean"].view(-1),
            self.now[f"{name}.norm.running_var"].view(-1),
            weight.reshape(-1),
            bias.reshape(-1),
            training=mask is not None,
        )
        h = h.view(x.shape).transpose(0, 1)
        if mask is not None:
            h = h * mask
        for layer in (1, 2, 3):
            h = F.relu(_linear(h, self.parameters, f"{name}.linear_{layer}"))
        return h

    def _adam(self, members: slice) -> None:
        """Updates some members: the factors at one learning rate, all else at another."""
        end = self.layout.factors_end
        now = {name: value[members] for name, value in self.now.items()}
        for i, (part, rate) in enumerate(
            ((slice(0, end), "factor_learning_rate"), (slice(end, None), "learning_rate"))
        ):
            names = ("weights", "grads", "first", "second")
            weights, grads, first, second = (now[name][:, part] for name in names)
            steps = now["steps"][:, i : i + 1]
            if self.graphs:
                steps.add_(1)
                moments = (first, second)
                adam_wide(weights, grads, moments, steps, now[rate], now["weight_decay"])
                continue
            rows = zip(
                self.members[members], weights, grads, first, second, steps[:, 0], strict=True
            )
            for member, *row, step in rows:
                assert member is not None  # on the CPU an unused slot is given up at once
                adam(
                    *[[part] for part in row],
                    max_exp_avg_sqs=[],
                    state_steps=[step],
                    fused=True,
                    amsgrad=False,
                    beta1=BETA_1,
                    beta2=BETA_2,
                    lr=getattr(member.setting, rate),
                    weight_decay=member.setting.weight_decay,
                    eps=EPSILON,
                    maximize=False,
                )

    @torch.no_grad()
    def _valid_loss(self) -> Tensor:
        """Returns the members' summed losses on the valid split, (K,)."""
        total = torch.zeros(self.slots, device=self.device)
        for index, part in self.valid_parts:
            final, _ = self.valid_text.forward(index.expand(self.slots, -1), self._rnn("weights"))
            shape = (-1, self.slots, -1)
            inputs = padded(part.audio), padded(part.visual)
            audio, visual = (x.unsqueeze(1).expand(shape) for x in inputs)
            output = self._output(audio, visual, final, None)
            total += self.task.loss(output, part.label.expand(self.slots, -1, -1)).sum(-1)
        return total

    def _keep_best(self, improved: list[int]) -> None:
        for name in ("weights", *(name for name in self.now if name.startswith("best_"))):
            target = "best" if name == "weights" else name
            source = self.now[name.removeprefix("best_")]
            for slot in improved:
                self.now[target][slot] = source[slot]

    def _finish(self, slot: int, member: _Member) -> Result:
        started = time.perf_counter()
        setting, seed, stopping, seconds = member
        if stopping.diverged:
            return finished(setting, seed, stopping, {}, None, sum(seconds))
        model = initial_model(setting, seed, self.data.input_dims, self.task.output_dim)
        state = model.state_dict()
        self.layout.unpack(self.now["best"][slot].cpu(), state)
        for name, value in state.items():
            if ".norm.running_" in name:
                value.copy_(self.now[f"best_{name}"][slot, : len(value)])
            if name.endswith("num_batches_tracked"):
                value.fill_(stopping.best_epoch * len(self.batches))
        scores = score(model.to(self.device), self.data, self.task)
        elapsed = sum(seconds) + time.perf_counter() - started
        return finished(setting, seed, stopping, scores, state, elapsed)


def _linear(x: Tensor, parameters: dict[str, Tensor], name: str) -> Tensor:
    """Returns x (K, B, D) through each member's linear layer."""
    weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))


def fit_stacked(
    jobs: Iterable[Job],
    data: Data,
    task: Task,
    limits: Limits,
    *,
    slots: int | None = None,
    on_epoch: Listener | None = None,
) -> Iterator[Result]:
    """Yields the result of each job, as `fit` would return it, in the order in which they end.

    Equal to `fit` up to the rounding of float32 sums in another order.

    Args:
        jobs: Settings and the seeds to train them with, of any sizes: those of the same `sizes`
            train together.
        data: The splits, on the device to train on.
        task: The loss and the scores.
        limits: When a setting stops.
        slots: How many train together at most; None chooses by size and device.
        on_epoch: Told each setting, seed, epoch, training loss and validation loss.
    """
    words = Words(data.train.text), Words(data.valid.text)
    groups: dict[Sizes, list[Job]] = {}
    for job in jobs:
        groups.setdefault(sizes(job[0]), []).append(job)
    for size, group in groups.items():
        most = slots or min(default_slots(size, data.train.label.device.type), _fitting(size, data))
        stack = Stack(size, min(most, len(group)), data, words, task, limits)
        yield from stack.train(iter(group), on_epoch)


def default_slots(size: Sizes, device_type: str) -> int:
    """Returns how many settings of a size train together fastest, memory permitting."""
    return max(8, 1024 // size.text) if device_type == "cpu" else 256


def _fitting(size: Sizes, data: Data) -> int:
    """Returns how many members' memory fits a GPU: generously, as buffers are freed late."""
    device = data.train.label.device
    if device.type == "cpu":
        return sys.maxsize
    steps, words = data.train.text.shape[1:]
    parameters = 4 * size.text * (words + size.text)
    frames = steps * max(size.batch_size, VALID_CHUNK)
    floats = 8 * parameters + frames * (words + 16 * size.text)
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, int(0.7 * free) // (4 * floats))
