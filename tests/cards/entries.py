"""Measurements for the tests of the runner: their numbers are known beforehand."""

import os
import random
import signal
from pathlib import Path

import numpy as np
import torch


def square(seed):
    """The square of the seed, and its negative."""
    return {"square": seed**2, "negative": -seed}


def nothing(seed):
    """Not a number."""
    return {"square": float("nan"), "seed": seed}


def threads(seed):
    """How many threads torch uses."""
    return {"threads": torch.get_num_threads()}


def logged(seed):
    """The square, after a line in the file that LOGGED names; dies at seed 3 if DIES is set."""
    with Path(os.environ["LOGGED"]).open("a", encoding="utf-8") as file:
        file.write(f"{seed}\n")
    if seed == 3 and os.environ.get("DIES"):
        os.kill(os.getpid(), signal.SIGKILL)
    return {"square": seed**2, "negative": -seed}


def unseeded(seed):
    """What the global generators give to a measurement that forgets to seed them."""
    drawn = float(np.random.rand())  # noqa: NPY002
    return {"square": float(torch.rand(())) + drawn + random.random(), "seed": seed}
