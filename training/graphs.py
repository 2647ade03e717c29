"""An epoch's training steps on a GPU: each batch size's is captured once, then replayed."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from utils import InputError

CAPTURED_ON = "cuda"  # the kind of device
SWITCH = "LMF_CUDA_GRAPHS"  # the environment's; 0: steps are not captured


class Graphs:
    """The steps of one number of members. Elsewhere than on CUDA they just run, one by one."""

    def __init__(self, members: int, device: torch.device) -> None:
        self.members, self.device = members, device
        self.position = torch.zeros((), dtype=torch.long, device=device)
        self.captured: dict[int, torch.cuda.CUDAGraph | None] = {}

    def run(self, step: Callable[[Tensor], None], batch_sizes: Sequence[int]) -> None:
        """Runs one epoch.

        Args:
            step: A training step, given the batch's positions (K, B) in the epoch.
            batch_sizes: Of the epoch's batches.

        Raises:
            InputError: Steps can't be captured here.
        """
        self.position.zero_()
        if self.device.type != CAPTURED_ON or os.environ.get(SWITCH) == "0":
            for batch_size in batch_sizes:
                self.advance(step, batch_size)
            return
        with torch.cuda.device(self.device):  # else streams and graphs are those of the first GPU
            for batch_size in batch_sizes:
                self._run_captured(step, batch_size)

    def _run_captured(self, step: Callable[[Tensor], None], batch_size: int) -> None:
        stream = _side_stream(self.device)
        if batch_size not in self.captured:  # this sets up what can't be set up in a capture
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.advance(step, batch_size)
            torch.cuda.current_stream().wait_stream(stream)
            self.captured[batch_size] = None
            return
        graph = self.captured[batch_size]
        if graph is None:
            others = [graph for graph in self.captured.values() if graph]
            pool = others[0].pool() if others else None  # nothing in it outlives a replay
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, pool=pool, stream=stream):
                    self.advance(step, batch_size)
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                raise InputError(
                    f"expected a GPU that captures CUDA graphs, got: {reason}; set {SWITCH}=0 in "
                    "the environment to train without them, slower"
                ) from error
            self.captured[batch_size] = graph
        graph.replay()

    def advance(self, step: Callable[[Tensor], None], batch_size: int) -> None:
        """Takes the next examples through a training step: what CUDA captures."""
        positions = self.position + torch.arange(batch_size, device=self.device)
        step(positions.expand(self.members, batch_size))
        self.position.add_(batch_size)


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
