"""The fast path: K settings trained together, each to the result that `fit` gives it alone.

The members' weights lie side by side along a leading dimension, padded with zeros to the sizes of
their stack: padded units, their gradients and their Adam moments stay exactly 0. A member that has
come to its end leaves, and a waiting setting takes its place.

What a member computes does not depend on its neighbours or their number: its sizes follow from its
own setting, and every product is one of its own matrices. The LSTM is compiled on a CPU
(lstm_cpu.py); on a GPU all members go through every operation together (lstm_gpu.py), and a step
of all of them is one captured graph.

Shapes use: K members, B batch, N examples, D features, H width of the LSTM, P parameters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from model import MODALITIES
from training.adam import AdamArrays, adam_on_cpu, adam_on_gpu
from training.dropout_cpu import masks_on_cpu
from training.forward import Forward
from training.graphs import Graphs
from training.lstm_gpu import TextOnGpu
from training.memory import VALID_CHUNK, default_slots, members_that_fit
from training.parameters import Parameters, Sizes, padded, sizes
from training.randomness import batches, keep_mask
from training.reference import initial_model, outputs
from training.result import Data, EarlyStopping, Limits, Result, Scored, Task
from training.setting import Setting
from training.slots import Member, Slots
from training.text_cpu import TextOnCpu
from training.words import Words
from utils import Split

Job = tuple[Setting, int]  # a setting, and the seed to train it with
Listener = Callable[[Setting, int, int, float, float], None]


class Stack:
    """Settings of one size in training: at most `slots` at a time, the others wait.

    On a GPU, or with on_gpu (for tests elsewhere), every operation goes over all members, none over
    one.
    """

    def __init__(
        self,
        size: Sizes,
        slots: int,
        data: Data,
        words: tuple[Words, Words] | None,
        task: Task,
        limits: Limits,
        on_gpu: bool | None = None,
    ) -> None:
        self.size, self.data, self.task, self.limits = size, data, task, limits
        self.device = data.train.label.device
        self.on_gpu = self.device.type == "cuda" if on_gpu is None else on_gpu
        self.parameters = Parameters(size, data.input_dims, task.output_dim)
        self.members: list[Member | None] = [None] * slots
        self.all_slots = Slots.empty(slots, self.parameters, len(data.train), self.device)
        self.text = self.valid_text = None  # without text there are no words
        order = torch.arange(len(data.valid), device=self.device)
        if words:
            train_words, valid_words = words
            order = valid_words.padding.argsort(stable=True)
            if self.on_gpu:
                self.text = TextOnGpu(train_words, self.parameters, training=True)
                self.valid_text = TextOnGpu(valid_words, self.parameters, training=False)
            else:
                self.text = TextOnCpu(train_words, self.parameters, size.batch_size, slots)
                self.valid_text = TextOnCpu(valid_words, self.parameters, len(data.valid), 1)
        chunks = order.split(VALID_CHUNK if self.on_gpu else len(order))
        self.features = _features(data.train)
        valid = ((index, Split(*data.valid[index])) for index in chunks)
        self.valid_parts = [(index, _features(part), part.label) for index, part in valid]
        self.batches = batches(torch.arange(len(data.train)), size.batch_size)
        self._use(slots)

    def _use(self, count: int) -> None:
        """Works on the first slots from now on."""
        del self.members[count:]
        slots = self.slots = self.all_slots.head(count)
        self.forward = Forward(self.parameters, slots.weights, slots.grads, slots.running)
        self.graphs = Graphs(count, self.device) if self.on_gpu else None

    def train(self, jobs: Iterator[Job], on_epoch: Listener | None = None) -> Iterator[Result]:
        """Yields the results of the jobs as they come to their ends."""
        ended: Iterator[Result] = iter(())
        self._fill(jobs)
        while any(self.members):
            started = time.perf_counter()
            self._start_epoch()
            yield from ended  # scored while a GPU is at work
            train_losses, valid_losses = self._losses()
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
            self.slots.keep_best(self._places(improved))
            at_end = [
                (member, self._end(slot, member)) for slot, member in active if member.stopping.done
            ]
            ended = (member.result(self.task, *best) for member, best in at_end)
            if not self.on_gpu:
                yield from ended
            self._fill(jobs)
        yield from ended

    def _fill(self, jobs: Iterator[Job]) -> None:
        """Gives free slots to waiting jobs, or gives the slots up if that pays."""
        free = [slot for slot, member in enumerate(self.members) if not member]
        if joining := list(zip(free, jobs, strict=False)):  # free first: no job is lost
            self._join(joining)
        used = [slot for slot, member in enumerate(self.members) if member]
        # On a GPU another number of members needs another graph.
        enough = len(self.members) // 2 if self.on_gpu else len(self.members) - 1
        if used and len(used) <= enough:
            places = self._places(used)
            for value in self.all_slots.tensors():
                value[: len(used)] = value[places]
            self.members = [self.members[slot] for slot in used]
            self._use(len(used))

    def _join(self, joining: Sequence[tuple[int, Job]]) -> None:
        """Gives slots to jobs, all by the same few copies."""
        rows = torch.zeros(len(joining), self.parameters.width)
        for row, (slot, (setting, seed)) in zip(rows, joining, strict=True):
            model = initial_model(setting, seed, self.data.input_dims, self.task.output_dim)
            self.parameters.pack(row, model.state_dict())
            self.members[slot] = Member(setting, seed, EarlyStopping(self.limits), [])
        places = self._places([slot for slot, _ in joining])
        self.slots.start(places, rows, [setting for _, (setting, _) in joining])

    def _places(self, slots: Sequence[int]) -> Tensor:
        return torch.tensor(slots, dtype=torch.long).to(self.device)

    def _start_epoch(self) -> None:
        """Trains all members for one epoch; on a GPU that goes on after it returns."""
        self._draw()
        self.slots.loss.zero_()
        if self.graphs:
            self.graphs.run(self._step, [len(batch) for batch in self.batches])
        else:
            positions = torch.arange(len(self.data.train)).expand(len(self.members), -1)
            if isinstance(self.text, TextOnCpu):
                positions = self.text.positions(self.slots.order)
            for batch in self.batches:
                self._step(positions[:, batch])

    def _losses(self) -> tuple[list[float], list[float]]:
        """Returns the members' training and validation losses of the epoch."""
        examples = sum(map(len, self.batches))
        train_loss = self.slots.loss.double() / examples / self.task.loss_divisor
        valid_loss = self._valid_loss().double() / len(self.data.valid) / self.task.loss_divisor
        return train_loss.tolist(), valid_loss.tolist()

    def _draw(self) -> None:
        """Draws the epoch's orders and the keys of its masks."""
        active = [(slot, member) for slot, member in enumerate(self.members) if member]
        places = self._places([slot for slot, _ in active])
        drawn = [member.draws(len(self.data.train)) for _, member in active]
        orders, keys = zip(*drawn, strict=True)
        self.slots.order[places] = torch.stack(orders).to(self.device)
        self.slots.keys[places] = torch.tensor(keys).to(self.device)

    @torch.no_grad()
    def _step(self, positions: Tensor) -> None:
        """Trains all members on one batch each: the examples at these positions (K, B)."""
        slots = self.slots
        index = slots.order.gather(1, positions)
        inputs = {modality: _rows(x, index.T) for modality, x in self.features.items()}  # (B, K, D)
        if self.text:
            inputs["text"] = self.text.forward(index, slots.weights).requires_grad_()
        with torch.enable_grad():
            output = self.forward(inputs, self._masks(positions))
            loss = self.task.loss(output, self.data.train.label[index]).sum(-1)  # not averaged
            d_final = self.forward.backward(loss.sum(), inputs.get("text"))
        slots.loss.add_(loss)
        slots.steps.add_(1)
        if self.on_gpu:
            if isinstance(self.text, TextOnGpu) and d_final is not None:
                self.text.backward(d_final, slots.weights, slots.grads)
            adam_on_gpu(slots, self.parameters.factors_end)
        else:
            adam = _adam_on_cpu(slots, self.parameters)
            if isinstance(self.text, TextOnCpu) and d_final is not None:
                self.text.train(d_final, slots.weights, slots.grads[:1], adam)

    def _masks(self, positions: Tensor) -> dict[str, Tensor]:
        """Returns what dropout multiplies each modality with, (K, B, D)."""
        widths = (*self.parameters.input_dims[:2], self.size.text)
        masks = {}
        for i, (modality, width) in enumerate(zip(MODALITIES, widths, strict=True)):
            if modality not in self.parameters.modalities:
                continue
            keys, p = self.slots.keys[:, i].contiguous(), self.slots.dropouts[:, i].contiguous()
            if self.on_gpu:
                p = p.view(-1, 1, 1)
                masks[modality] = keep_mask(keys, positions, width, p) * (1 / (1 - p))
            else:
                masks[modality] = masks_on_cpu(keys, positions.contiguous(), width, p)
        return masks

    @torch.no_grad()
    def _valid_loss(self) -> Tensor:
        """Returns the members' summed losses on the valid split, (K,)."""
        count = len(self.members)
        total = torch.zeros(count, device=self.device)
        for index, features, label in self.valid_parts:
            inputs = {name: x.unsqueeze(1).expand(-1, count, -1) for name, x in features.items()}
            if self.valid_text:
                rows = index.expand(count, -1)
                inputs["text"] = self.valid_text.forward(rows, self.slots.weights)
            output = self.forward(inputs, None)
            total += self.task.loss(output, label.expand(count, -1, -1)).sum(-1)
        return total

    def _end(self, slot: int, member: Member) -> tuple[Scored | None, dict[str, Tensor] | None]:
        """Takes a member out of its slot; returns what its scores are of, and its best weights."""
        started = time.perf_counter()
        setting, seed, stopping, seconds = member
        self.members[slot] = None
        if stopping.status != "ok":
            return None, None
        model = initial_model(setting, seed, self.data.input_dims, self.task.output_dim)
        state = model.state_dict()
        self.parameters.unpack(self.slots.best[slot].cpu(), state)
        self.slots.unpack_best_running(slot, state, stopping.best_epoch * len(self.batches))
        scored = outputs(model.to(self.device), self.data, self.task)
        seconds.append(time.perf_counter() - started)
        return scored, state


def _adam_on_cpu(slots: Slots, parameters: Parameters) -> AdamArrays:
    """Updates all weights but the LSTMs'; returns what those are updated by."""
    weights, grads = slots.weights.numpy(), slots.grads.numpy()
    first, second, steps = slots.first.numpy(), slots.second.numpy(), slots.steps.numpy()
    factors, others = (
        AdamArrays(first, second, steps, rate.numpy(), slots.weight_decay.numpy())
        for rate in (slots.factor_learning_rate, slots.learning_rate)
    )
    adam_on_cpu(0, parameters.factors_end, weights, grads, factors)
    adam_on_cpu(parameters.factors_end, parameters.lstm_start, weights, grads, others)
    return others


def _features(split: Split) -> dict[str, Tensor]:
    """Returns audio and video (N, D), padded, as far as they are not left out."""
    parts = {"audio": split.audio, "video": split.visual}
    return {modality: padded(x) for modality, x in parts.items() if x.shape[1]}


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Returns values[index]; on a CPU index_select is five times as fast."""
    return values.index_select(0, index.flatten()).view(*index.shape, -1)


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
    texts = data.train.text, data.valid.text
    words = (Words(texts[0]), Words(texts[1])) if data.input_dims[2] else None
    groups: dict[Sizes, list[Job]] = {}
    for job in jobs:
        groups.setdefault(sizes(job[0]), []).append(job)
    for size, group in groups.items():
        most = slots or default_slots(size, data.train.label.device.type)
        while group:
            count = min(most, len(group), members_that_fit(size, data, task.output_dim))
            try:
                stack = Stack(size, count, data, words, task, limits)
                for result in stack.train(iter(list(group)), on_epoch):
                    group.remove((result.setting, result.seed))
                    yield result
            except torch.cuda.OutOfMemoryError:
                if count == 1:
                    raise
                most = count // 2
            stack = None  # before free memory is measured
