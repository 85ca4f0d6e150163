"""All the random formulas: ``python -m tests.formula.full`` examines 10,000 static ones and 3,000 over time.

    --static N, --temporal N, --first SEED    other numbers
    --awaited                                 each awaited feature and oddity alone: what it gives today
    --only FEATURE                            one feature, in every formula that can have it

Faults are printed by kind, the first of each shrunk to a small specification.
"""

import argparse
import dataclasses
import random
import sys
import time
import traceback
from collections import Counter, defaultdict

from tests.formula.build import Builder
from tests.formula.examine import Fault, examine, limited, line
from tests.formula.half import examine_half
from tests.formula.oddities_of_calls import ODDITIES
from tests.formula.pairs import cases, examine_pair
from tests.formula.soil import AWAITED, FEATURES
from tests.formula.spec import NODES, Det, Dist, Experts, Stopped
from tests.formula.spec_grower import StaticGrower
from tests.formula.timed_grower import TimedGrower
from worldformula.errors import WorldformulaError

SECONDS = 20  # for one formula
# What the grower may be refused, and nothing else.
LEGITIMATE = (
    "which some rows lack", "nothing inside has the index", "needs no series, so nothing tells how many steps",
    "is the number of the step, and elsewhere it would be given",
)  # fmt: skip


def kind_of(grown, tally=None):
    """None where all is well; else ``"refused"``, where that is legitimate, or the kind of fault; and its text."""
    try:
        with limited(SECONDS):
            examine(grown, tally=tally)
    except Fault as fault:
        return fault.kind, str(fault)
    except WorldformulaError as error:
        text = str(error).split("\n")[0]
        return "refused" if any(word in text for word in LEGITIMATE) else f"refused, {type(error).__name__}", text
    except Exception as error:  # noqa: BLE001 - whatever comes is what is reported
        place = traceback.extract_tb(error.__traceback__)[-1]
        file = "emitted code" if place.filename.startswith("<formula") else place.filename.split("/")[-1]
        return f"crash, {type(error).__name__} in {file}:{place.name}", str(error)
    return None


def grow(kind, seed, features=None, share=0.15):
    """The formula of a seed."""
    if kind == "temporal":
        return TimedGrower(seed, features, share).grown(2)
    return StaticGrower(seed, features, share).grown(3)


def smaller(node):
    """Every specification in which one node gives way to one of its parts."""
    factors = (Dist, Det, Stopped, Experts)
    for f in dataclasses.fields(node):
        value = getattr(node, f.name)
        if not isinstance(value, NODES) or isinstance(value, factors):
            continue
        yield value
        yield from (dataclasses.replace(node, **{f.name: small}) for small in smaller(value))


def shrunk(grown, kind, tries=60):
    """A smaller formula with the same kind of fault."""
    found, begin = grown, time.monotonic()
    while tries > 0 and time.monotonic() - begin < 60:
        for node in smaller(found.node):
            tries -= 1
            other = dataclasses.replace(found, node=node)
            if (got := kind_of(other)) and got[0] == kind:
                found = other
                break
            if tries <= 0:
                return found
        else:
            return found
    return found


def run(kind, seeds, features=None, share=0.15):
    """Counts and faults of many formulas: (what was examined, refusals, {kind: [(seed, text)]}, features used)."""
    refusals, faults, used, tally = Counter(), defaultdict(list), Counter(), Counter(grown=len(seeds))
    for seed in seeds:
        grown = grow(kind, seed, features, share)
        used.update(grown.used)
        tally["of 50 terms or levels and more"] += grown.reach >= 50
        tally["the longest or deepest"] = max(tally["the longest or deepest"], grown.reach)
        got = kind_of(grown, tally)
        if got and got[0] == "refused":
            refusals[got[1][:100]] += 1
        elif got:
            faults[got[0]].append((seed, got[1]))
    return tally, refusals, faults, used


def shown(grown):
    """The formula, or what it is made from where it cannot be built."""
    try:
        return line(Builder(grown.materials).expression(grown.node))
    except Exception:  # noqa: BLE001 - what is wrong with it is printed beside it
        return repr(grown.node)[:600]


def report(name, kind, seeds, features=None, share=0.15, shrink=True):
    """Run and print."""
    begin = time.monotonic()
    tally, refusals, faults, used = run(kind, seeds, features, share)
    wrong = sum(map(len, faults.values()))
    counts = ", ".join(f"{number} {what}" for what, number in tally.items())
    print(f"{name}: {counts}; {sum(refusals.values())} refused, {wrong} faults; {time.monotonic() - begin:.0f} s")
    print(f"    with {', '.join(f'{n} {f}' for f, n in used.most_common())}")
    for text, number in refusals.most_common(5):
        print(f"    {number} × {text}")
    for what, found in sorted(faults.items(), key=lambda item: -len(item[1])):
        seed, text = found[0]
        print(f"    {len(found)} × {what} (seeds {[s for s, _ in found[:5]]}): {text[:300]}")
        if shrink:
            small = shrunk(grow(kind, seed, features, share), what)
            got = kind_of(small)
            print(f"        small: {shown(small)}")
            print(f"        gives: {got[1][:300] if got else '-'}")
    sys.stdout.flush()
    return wrong


def odd(name, tries):
    """What an oddity gives: how often it is right, and its faults."""
    faults = {}
    for seed in range(tries):
        try:
            with limited(SECONDS):
                ODDITIES[name](random.Random(seed))
        except Exception as error:  # noqa: BLE001 - whatever comes is what is reported
            faults.setdefault(str(error)[:200], seed)
            if isinstance(error, Fault) and error.kind == "time":
                break
    print(f"{name}: {len(faults)} different faults")
    for text, seed in list(faults.items())[:4]:
        print(f"    seed {seed}: {text}")
    sys.stdout.flush()
    return len(faults)


def apart():
    """Pairs of families, and half precision: by their kinds of fault."""
    faults = defaultdict(list)
    for case in cases():
        for seed in range(4):
            try:
                examine_pair(*case, seed)
            except Fault as fault:
                faults[f"{fault.kind}: {case}"].append(str(fault)[:200])
    for seed in range(200):
        try:
            examine_half(seed)
        except Fault as fault:
            faults[fault.kind].append(f"seed {seed}: {str(fault)[:200]}")
    for what, found in faults.items():
        print(f"    {len(found)} × {what}: {found[0]}")
    return sum(map(len, faults.values()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--static", type=int, default=10_000)
    parser.add_argument("--temporal", type=int, default=3_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--awaited", action="store_true")
    parser.add_argument("--only")
    asked = parser.parse_args()
    sizes = {"static": asked.static, "temporal": asked.temporal}
    seeds = {kind: range(asked.first, asked.first + size) for kind, size in sizes.items()}
    wrong = 0
    if asked.only or asked.awaited:
        names = [asked.only] if asked.only else sorted(AWAITED)
        for feature in (n for n in names if n in FEATURES):
            features = (feature, *NEEDED.get(feature, ()))
            wrong += sum(report(f"{feature}, {k}", k, s, features, 1.0) for k, s in seeds.items())
        wrong += sum(odd(name, 8) for name in names if name in ODDITIES)
        wrong += apart() if asked.awaited else 0
    else:
        wrong = sum(report(kind, kind, s) for kind, s in seeds.items())
        wrong += sum(odd(name, 8) for name in ODDITIES if name not in AWAITED)
    print(f"{wrong} faults")
    return min(wrong, 1)


NEEDED = {"experts of given scales": ("experts",), "unbatched experts": ("experts",)}

if __name__ == "__main__":
    sys.exit(main())
