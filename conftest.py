"""Settings of the whole test run: one thread per process, a fixed seed for every test, the names of doctests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # the suite runs in two processes; more threads than cores only fight


@pytest.fixture(autouse=True)
def _seed(doctest_namespace: dict[str, object]) -> Iterator[None]:
    """Start every test and every doctest from the same state: seed 0, float32, gradients on."""
    doctest_namespace["torch"] = torch
    doctest_namespace["np"] = np
    torch.manual_seed(0)
    dtype = torch.get_default_dtype()
    with torch.enable_grad():
        yield
    torch.set_default_dtype(dtype)


@pytest.fixture
def terminal() -> Iterator[None]:
    """Ctrl-C as in a terminal: whoever starts the suite in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
