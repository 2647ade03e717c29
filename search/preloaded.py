"""What the process that workers are forked from imports: all they need, the fast path compiled."""

from __future__ import annotations

import sklearn.metrics  # noqa: F401

import search.process  # noqa: F401
from search.jobs import set_torch_up
from training.warm_up import compile_fast_path

set_torch_up()
compile_fast_path()
