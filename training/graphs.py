"""An epoch's training steps on a GPU, captured once and replayed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class _Graphs:
    """An epoch's training steps; on CUDA they are captured once, then replayed."""

    def __init__(self, step: Callable[[Tensor], None], slots: int, device: torch.device) -> None:
        self.step, self.slots, self.device = step, slots, device
        self.position = torch.zeros((), dtype=torch.long, device=device)
        self.captured: dict[int, torch.cuda.CUDAGraph] | None = None

    def run(self, batch_sizes: list[int]) -> None:
        """Runs one epoch."""
        self.position.zero_()
        if self.device.type == "cpu":
            for batch_size in batch_sizes:
                self.advance(batch_size)
            return
        if self.captured is None:  # the first epoch sets up what can't be set up in a capture
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for batch_size in batch_sizes:
                    self.advance(batch_size)
            torch.cuda.current_stream().wait_stream(stream)
            self.captured = {}
            return
        for batch_size in batch_sizes:
            if batch_size not in self.captured:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    self.advance(batch_size)
                self.captured[batch_size] = graph
            self.captured[batch_size].replay()

    def advance(self, batch_size: int) -> None:
        """Takes the next examples through a training step: what CUDA captures."""
        positions = self.position + torch.arange(batch_size, device=self.device)
        self.step(positions.expand(self.slots, batch_size))
        self.position.add_(batch_size)
