"""One whole update of DreamerV3 on replayed sequences, beside the matrix products that it needs, in the same run.

    python -m benchmarks.dreamer_step [--rounds 10] [--compile] [--compile-peers sheeprl ...] [--json FILE]

Size 1M, 16 sequences of 64 rows, 24 numbers observed, 6 actions, dreams of 15 steps from all 1,024 states, one thread.
`products` are the matrix products and convolutions of one update, forward and backward, alone: what no implementation
of this model does without. Each contender runs an update in turn, and time is that of the process, which keeps the
memory that it frees, as `worldformula train` does. Other libraries take part where they are installed (`peers.py`).
What is compiled is compiled with an empty cache.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import peers
from benchmarks.timing import interleave, options, show
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents.dreamer_v3 import build, size1m
from worldformula.cards.run import machine, write_json
from worldformula.envs.actions import action_specs
from worldformula.envs.spaces import observation_parts
from worldformula.training import devices

RESULT = Path(__file__).parent / "results" / "dreamer_step.json"
B, T, NUMBERS, ACTIONS = 16, 64, 24, 6
PEERS = ("torchrl", "sheeprl")
PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_", "convolution", "convolution_backward")


def agent() -> ImaginationAgent:
    """The agent, untrained."""
    observed = spaces.Box(-np.inf, np.inf, (NUMBERS,), np.float32)
    columns = {key: part.column for key, part in observation_parts(observed).items()}
    return build(size1m(), columns, action_specs(spaces.Box(-1, 1, (ACTIONS,), np.float32)), seed=0)


def sequences(latents: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, NDArray[Any]]:
    """Random rows, every fourth sequence with an end in its middle; and what the replay keeps of the rows before."""
    rng = np.random.default_rng(seed)
    first, last = np.zeros((2, B, T), bool)
    last[::4, T // 2 - 1] = first[::4, T // 2] = True
    numbers = {"vector": rng.normal(size=(B, T, NUMBERS)), "reward": rng.normal(size=(B, T))}
    numbers |= {"action": rng.uniform(-1, 1, (B, T, ACTIONS))}
    flags = {"is_first": first, "is_last": last, "is_terminal": last}
    numbers |= {f"start/{name}": np.zeros((B, *shape)) for name, shape in latents.items()}
    numbers |= {"start/action": numbers["action"][:, 0]}
    return {key: value.astype(np.float32) for key, value in numbers.items()} | flags


class Recorder(TorchDispatchMode):
    """Counts matrix products and convolutions by the shapes, strides and options that they are called with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[Any, tuple[Any, ...]]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation; remembers what it was where it is one of `PRODUCTS`."""
        if func.overloadpacket.__name__ in PRODUCTS:
            call = func.overloadpacket.default if "out" in (kwargs or {}) else func
            self.calls[call, tuple(_shape(a) for a in args)] += 1
        return func(*args, **(kwargs or {}))


def _operations(_: Any, a: tuple[int, ...], b: tuple[int, ...], **__: Any) -> int:
    return 2 * math.prod(a) * b[-1]


IN_PLACE = {torch.ops.aten.addmm_: _operations, torch.ops.aten.baddbmm_: _operations}


def _shape(value: Any) -> Any:
    return ("tensor", tuple(value.shape), tuple(value.stride())) if isinstance(value, Tensor) else _frozen(value)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def products(update: Callable[[], object]) -> tuple[Callable[[], None], float, int]:
    """A function that runs the products of an update alone; how many 10⁹ operations on numbers, and how many calls."""
    update()  # a first call looks at what it is given, which costs products of its own
    with Recorder() as recorder:
        update()
    calls = [(func, [_made(a) for a in args], count) for (func, args), count in recorder.calls.items()]

    def run() -> None:
        for func, args, count in calls:
            for _ in range(count):
                func(*args)

    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as flops:
        run()
    return torch.no_grad()(run), flops.get_total_flops() / 1e9, sum(recorder.calls.values())


def _made(value: Any) -> Any:
    if isinstance(value, tuple) and value[:1] == ("tensor",):
        return torch.randn(2 * sum(s * (n - 1) for n, s in zip(value[1], value[2], strict=True)) + 1).as_strided(
            *value[1:]
        )
    return list(value) if isinstance(value, tuple) else value


class Clock:
    """How long something has compiled: by the clock, and of processor time with that of the compilers it has called."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), _processor()

    def told(self) -> dict[str, float]:
        """Seconds since it was made."""
        wall, cpu = time.perf_counter() - self.wall, _processor() - self.cpu
        return {"compile_seconds": round(wall, 1), "compile_cpu_seconds": round(cpu, 1)}


def _processor() -> float:
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def twice(update: Callable[[], object]) -> None:
    """The first call compiles, the second looks whether it holds."""
    for _ in range(2):
        update()


def main() -> None:
    """Measures and writes."""
    parser = options(__doc__, RESULT, rounds=10)
    parser.add_argument("--compile", action="store_true", help="measure the compiled update too; compiles for minutes")
    parser.add_argument("--compile-peers", nargs="*", default=(), choices=PEERS, help="these compiled too; for longer")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = (
            cache  # nothing was compiled before: the times of compiling are cold ones
        )
        measure(asked)


def measure(asked: argparse.Namespace) -> None:
    """All contenders in one run."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kept = devices.keep_memory()
    ours = agent()
    batch = sequences(ours.latents)
    alone, flops, count = products(lambda: ours.update(batch))
    steps: dict[str, Callable[[], object]] = {"products": alone, "eager": lambda: ours.update(batch)}
    weights = sum(p.numel() for p in ours.parameters() if p.requires_grad)
    told: Mapping[str, Any] = {"memory_kept": kept, "GFLOP": round(flops, 2), "products": count, "weights": weights}
    for name, make in zip(PEERS, (peers.torchrl, peers.sheeprl), strict=True):
        if importlib.util.find_spec(name):
            peer = make(size1m().world.sizes, batch, size1m().imagine)
            _, flops, count = products(peer.update)
            found = {"version": version(name), "GFLOP": round(flops, 2), "products": count, "weights": peer.weights}
            steps[name] = peer.update
            if name in asked.compile_peers:
                began = Clock()
                steps[f"{name}, compiled"] = make(size1m().world.sizes, batch, size1m().imagine, compiled=True).update
                twice(steps[f"{name}, compiled"])
                found |= began.told()
            told = {**told, name: found}
    if asked.compile:
        began = Clock()
        steps["compiled"] = partial(agent().compile().update, batch)
        twice(steps["compiled"])
        told = {**told, **began.told()}
    rows = interleave(steps, "products", asked.rounds, seconds=0.3, warmup=1)
    title = f"DreamerV3 update, size 1M, B {B}, T {T}, dreams of {size1m().imagine} from {B * T} states"
    show(title, rows)
    print(told)
    head = {"benchmark": "dreamer_step", "time": "CPU time of one process", "seed": 0, "rounds": asked.rounds}
    write_json(asked.json, {**head, **machine(), **told, "rows": {title: rows}})


if __name__ == "__main__":
    main()
