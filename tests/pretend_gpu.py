"""A pretend GPU: tensors on a device of their own, whose values are computed on the CPU.

It refuses what CUDA refuses, and what a captured step must not do: operations that mix devices,
and, while a step is captured, copies between host and device and reading values. A captured step
does nothing yet; its replay runs the operations again, on the same memory.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"
SETUP = "_setup_privateuseone_for_python_backend"  # torch 2.4 hasn't got it
COPIES = {"_to_copy", "copy_"}
READS = {"_local_scalar_dense", "nonzero", "unique_dim", "_unique2", "masked_select"}


class OnGpu(Tensor):
    """A tensor on the pretend GPU."""

    values: Tensor  # on the CPU
    alive: ClassVar[WeakValueDictionary[int, OnGpu]] = WeakValueDictionary()
    numbers = itertools.count()

    @staticmethod
    def __new__(cls, values: Tensor) -> OnGpu:
        tensor = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=torch.device(NAME, 0),
        )
        tensor.values = values
        cls.alive[next(cls.numbers)] = tensor
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    def tolist(self) -> list[Any]:
        return self.cpu().tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a tensor on a GPU was taken for an array")

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class Graph:
    """Takes the place of torch.cuda.CUDAGraph."""

    captured: ClassVar[Graph | None] = None  # the one whose step is being captured

    def __init__(self) -> None:
        self.operations: list[Callable[[], None]] = []

    def pool(self) -> Graph:
        return self

    def replay(self) -> None:
        for operation in self.operations:
            operation()


@contextlib.contextmanager
def capture(graph: Graph, **_: object) -> Iterator[None]:
    """Takes the place of torch.cuda.graph: all memory is afterwards as it was before."""
    storages = {t.values.data_ptr(): t.values.untyped_storage() for t in OnGpu.alive.values()}
    before = [(storage, storage.clone()) for storage in storages.values()]
    Graph.captured = graph
    try:
        yield
    finally:
        Graph.captured = None
        for storage, values in before:
            storage.copy_(values)


class Stream:
    """Takes the place of torch.cuda.Stream, and of what comes with it."""

    def __init__(self, *_: object) -> None:
        pass

    def wait_stream(self, other: Stream) -> None:
        """There is nothing to wait for."""


class Mode(TorchDispatchMode):
    """While it lasts, tensors can be made on the pretend GPU."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip it, torch would load its compiler: for seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if any(isinstance(leaf, OnGpu) for leaf in tree_leaves((args, kwargs))) or (
            device is not None and torch.device(device).type == NAME
        ):
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


CUDA = {  # what it puts in the place of torch.cuda's
    "CUDAGraph": Graph,
    "graph": capture,
    "Stream": Stream,
    "current_stream": Stream,
    "stream": contextlib.nullcontext,
    "device": contextlib.nullcontext,
}


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Computes an operation on the CPU, unless a GPU would refuse it."""
    name = func.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    here = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
    device = kwargs.get("device")
    to_here = bool(here) if device is None else torch.device(device).type == NAME
    mixed = len(here) not in (0, len(tensors)) or (bool(here) and not to_here)
    large = any(tensor.dim() for tensor in tensors if not isinstance(tensor, OnGpu))
    if mixed and large and name not in {*COPIES, "index", "index_put_"}:  # CUDA copies an index
        raise RuntimeError(f"{func} mixes devices: {[(t.device, t.shape) for t in tensors]}")
    if Graph.captured:
        masks = name == "index" and any(t.dtype == torch.bool for t in tree_leaves(args[1]))
        if name in READS or masks:
            raise RuntimeError(f"{func} waits for the GPU in a captured step")
        if mixed or (tensors and not here and to_here):
            raise RuntimeError(f"{func} takes from the host, or gives to it, in a captured step")
    on_cpu = {"device": torch.device("cpu")} if device is not None else {}
    plain_args, plain_kwargs = tree_map(
        lambda leaf: leaf.values if isinstance(leaf, OnGpu) else leaf, (args, {**kwargs, **on_cpu})
    )
    with torch.no_grad():
        compute = _lstm_cell if name == "_thnn_fused_lstm_cell" else func
        result = compute(*plain_args, **plain_kwargs)
    if Graph.captured:
        Graph.captured.operations.append(_again(func, plain_args, plain_kwargs, result))
    if not to_here or (name == "copy_" and not isinstance(args[0], OnGpu)):
        return result
    given = {id(tensor.values): tensor for tensor in here}  # which operations in place return

    def placed(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return given[id(leaf)] if id(leaf) in given else OnGpu(leaf)

    return tree_map(placed, result)


def _again(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> Callable[[], None]:
    """Returns what computes the result again, in the place where it lies."""

    before = tree_leaves(result)

    def again() -> None:
        with torch.no_grad():
            after = tree_leaves(func(*args, **kwargs))
        for old, new in zip(before, after, strict=True):
            if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                old.copy_(new)

    return again


def _lstm_cell(
    inputs: Tensor, hidden: Tensor, cell: Tensor, b_ih: Tensor, b_hh: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes torch.nn.LSTM's step on a GPU, for which a CPU has no kernel."""
    i, f, g, o = (inputs + hidden + b_ih + b_hh).chunk(4, 1)
    gates = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    cell = gates[1] * cell + gates[0] * gates[2]
    return gates[3] * cell.tanh(), cell, torch.cat(gates, 1)


def set_up() -> None:
    """Has torch know the device, for as long as this process lives."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        getattr(backend_registration, SETUP)(NAME)
