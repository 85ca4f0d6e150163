"""Measurements for the tests of the runner: their numbers are known beforehand."""

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
