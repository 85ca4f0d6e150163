"""Choosing the device, and saying which one in the first line of a run."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Callable, Iterator

import torch

from worldformula.errors import ConfigError, near

KINDS = ("auto", "cpu", "cuda", "mps")


def choose(name: str = "auto") -> torch.device:
    """The device called ``name``: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``: the first of CUDA, MPS, CPU.

    Raises:
        ConfigError: no such kind of device, or this machine (or this build of torch) has none.
    """
    kind, _, index = name.partition(":")
    if kind not in KINDS or (index and not index.isdigit()):
        raise ConfigError(f"device={name!r} is not one of {', '.join(KINDS)}, cuda:N.{near(name, KINDS)}")
    has = {"auto": True, "cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not has[kind]:
        raise ConfigError(
            f"device={name!r}, but torch {torch.__version__} finds no such device here. Write device=auto."
        )
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise ConfigError(f"device={name!r}, but this machine has {torch.cuda.device_count()} CUDA device(s).")
    if kind == "auto":
        kind = next(k for k in ("cuda", "mps", "cpu") if has[k])
    return torch.device(f"{kind}:{index}" if index else kind)


def describe(device: torch.device) -> str:
    """``cuda (NVIDIA H200)``, ``cpu (x86_64)``: what a run says about where it runs."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()})"


def compiles(say: Callable[[str], None]) -> bool:
    """Whether ``torch.compile`` makes code here, with a C++ compiler on a CPU; ``say`` is told why it does not."""
    try:
        torch.compile(_probe)(torch.ones(3))
    except Exception as error:  # noqa: BLE001 - whatever it is, the run can go on without it
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        say(f"warning: torch.compile does not work here, so the run goes on without it (it says: {reason})")
        return False
    return True


def _probe(x: torch.Tensor) -> torch.Tensor:
    return (x * 2).sin()


KEPT = 1 << 30  # bytes; larger tensors are still given back
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of malloc.h


def keep_memory() -> bool:
    """Let this process keep the memory of tensors that are freed; whether it does.

    An update frees large tensors and asks for them again; glibc gives them back to the system each time, which then
    clears every page anew: a tenth of an update of DreamerV3 on a CPU. It is a setting of the whole process, so
    commands make it and the library does not; who sets MALLOC_ variables or GLIBC_TUNABLES has said what they want.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    change = getattr(ctypes.CDLL(None), "mallopt", None) if platform.libc_ver()[0] == "glibc" else None
    return change is not None and all(change(what, KEPT) for what in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many CPU threads of torch inside the block; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
