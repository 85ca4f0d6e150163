"""What it takes to write, print and first run a formula, by its size: the slope of log time against log size.

    python -m benchmarks.build [--json benchmarks/results/build.json]

terms: a sum of decoders of one latent, 10 to 2,000 of them. depth: ``tanh(f) * 0.5 + 0.1`` inside itself, 10 to 1,000
times. steps: DRAW with 4 to 64 inner steps, `draw.paper` among them. modalities: PoE of 5 to 50 with ``present=``.
dropped: the memory and the source lines that 1,000 different formulas leave behind. walk: the functions of the language
that run from the header of a VAE's encoder to its emitted code.

Each time is processor time of one thread, from the first operator to the end of the first call with its gradient; the
least of three. Aimed at: slopes of at most 1.15 over the last decade; 2,000 terms in 5 s; the paper's DRAW in 10 s.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import linecache
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

import torch
from torch import nn

from worldformula import KL, Bernoulli, E, Normal, PoE, Value, log, tanh
from worldformula.cards.run import machine, write_json
from worldformula.formula.expressions.expression import Expression
from worldformula.models import draw

RESULT = Path(__file__).parent / "results" / "build.json"
SIZES = {"terms": (10, 100, 1000, 2000), "depth": (10, 100, 1000), "steps": (4, 16, 64), "modalities": (5, 15, 50)}
B, X, Z = 4, 8, 2


def terms(size: int) -> Callable[[], object]:
    """A sum of decoders, put together by ``+`` in a loop."""
    q = Normal("q(z|x)", nn.Linear(X, 2 * Z), shape=Z)
    decoders = [Bernoulli("p(x|z)", nn.Linear(Z, X), shape=X) for _ in range(size)]
    x = torch.rand(B, X)

    def run() -> object:
        total = log(decoders[0])
        for decoder in decoders[1:]:
            total = total + log(decoder)
        loss = -E(q, total).mean()
        return str(loss), loss(x=x).value.backward()

    return run


def depth(size: int) -> Callable[[], object]:
    """Arithmetic inside arithmetic."""
    s = torch.rand(B, requires_grad=True)

    def run() -> object:
        f: Expression = Value("s")
        for _ in range(size):
            f = tanh(f) * 0.5 + 0.1
        loss = f.mean()
        return str(loss), loss(s=s).value.backward()

    return run


def steps(size: int) -> Callable[[], object]:
    """The published canvas with so many glimpses."""
    sizes = replace(draw.paper(), steps=size)
    x = torch.rand(B, sizes.side**2)

    def run() -> object:
        loss = draw.build(sizes).loss
        return str(loss), loss(x=x).value.backward()

    return run


def modalities(size: int) -> Callable[[], object]:
    """A product of experts of which rows lack some, and their decoders."""
    names = [f"x_{i}" for i in range(size)]
    prior = Normal("p(z)", shape=Z)
    experts = [Normal(f"q(z|{name})", nn.Linear(X, 2 * Z), shape=Z) for name in names]
    decoders = [Bernoulli(f"p({name}|z)", nn.Linear(Z, X), shape=X) for name in names]
    given = {name: torch.rand(B, X) for name in names}
    present = {name: torch.arange(B) != i % B for i, name in enumerate(names)}

    def run() -> object:
        q = PoE([prior, *experts])
        total = log(decoders[0])
        for decoder in decoders[1:]:
            total = total + log(decoder)
        loss = -E(q, total).mean()
        return str(loss), loss(**given, present=present).value.backward()

    return run


def least(make: Callable[[int], Callable[[], object]], size: int, rounds: int = 3) -> float:
    """Seconds of processor time, the least of some rounds."""
    found = []
    for _ in range(rounds):
        torch.manual_seed(0)
        run = make(size)
        gc.collect()
        begin = time.process_time()
        run()
        found.append(time.process_time() - begin)
    return min(found)


def slope(sizes: tuple[int, ...], seconds: list[float]) -> float:
    """Of log time against log size, from the size that is a tenth of the largest (or next to it) on."""
    first = max(i for i, size in enumerate(sizes[:-1]) if size * 10 <= sizes[-1] or i == 0)
    return math.log(seconds[-1] / seconds[first]) / math.log(sizes[-1] / sizes[first])


def dropped(count: int = 1000) -> dict[str, int]:
    """What so many formulas leave behind: modules, source lines, objects that the garbage collector sees."""

    def sources() -> int:
        return sum(name.startswith("<formula") for name in linecache.cache)

    def once(number: int) -> None:
        q = Normal("q(z|x)", nn.Linear(X, 2 * Z), shape=Z)
        loss = (float(number) * E(q, log(Bernoulli("p(x|z)", nn.Linear(Z, X), shape=X)))).mean()
        loss(x=torch.rand(B, X)).value.backward()

    for number in range(20):
        once(number)
    gc.collect()
    before = sources(), len(gc.get_objects())
    for number in range(count):
        once(number)
    gc.collect()
    return {"formulas": count, "sources": sources() - before[0], "objects": len(gc.get_objects()) - before[1]}


def walk() -> dict[str, int]:
    """From ``Normal("q(z|x)", net)`` to the emitted code of a VAE: the functions of the language that run."""
    encoder, decoder, calls = nn.Linear(X, 2 * Z), nn.Linear(Z, X), list[tuple[str, str]]()

    def build() -> str:
        q, p = Normal("q(z|x)", encoder, shape=Z), Normal("p(z)", shape=Z)
        return (KL(q, p) - E(q, log(Bernoulli("p(x|z)", decoder, shape=X)))).mean().code

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and f"{os.sep}formula{os.sep}" in code.co_filename:
            calls.append((code.co_filename, code.co_qualname))

    build()  # what is done once for all formulas
    sys.setprofile(note)
    build()
    sys.setprofile(None)
    files = [file for file, _ in calls]
    changes = sum(a != b for a, b in itertools.pairwise(files))
    return {"calls": len(calls), "functions": len(set(calls)), "files": len(set(files)), "changes of file": changes}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, object] = {}
    for make in (terms, depth, steps, modalities):
        sizes = SIZES[make.__name__]
        seconds = [least(make, size, 1 if size > 500 else 3) for size in sizes]
        rows = dict(zip(map(str, sizes), (round(s, 3) for s in seconds), strict=True))
        found[make.__name__] = {"seconds": rows, "slope": round(slope(sizes, seconds), 2)}
        print(make.__name__, found[make.__name__], flush=True)
    found["dropped"] = dropped()
    print("dropped", found["dropped"])
    found["walk"] = walk()
    print("walk", found["walk"])
    write_json(args.json, {"benchmark": "build", "time": "CPU time of one thread", **machine(), **found})


if __name__ == "__main__":
    main()
