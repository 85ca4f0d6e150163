"""One whole update of Dynalang, beside DreamerV3's at equal sizes and the head of the word alone, in the same run.

    python -m benchmarks.words_step [--rounds 15] [--json benchmarks/results/words_step.json]

`dreamer` is the update of the same agent on rows without words, and then the network that predicts words, forward and
backward with their cross-entropy, on as many states: what words cost at least. `dynalang` reads them and predicts them.
Symbols and words of the smallest home, `dynalang.tiny`, one thread. The target is a ratio of 1.1 at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from benchmarks.timing import interleave, options, show
from worldformula.agents import dynalang
from worldformula.cards.run import machine, write_json
from worldformula.catalogue import find
from worldformula.envs import Envs
from worldformula.envs.columns import Column
from worldformula.training import devices

RESULT = Path(__file__).parent / "results" / "words_step.json"
CONFIG = dynalang.tiny()
B, T = CONFIG.batch, CONFIG.length
WORD = "token"


def sequences(
    columns: Mapping[str, Column], actions: int, latents: Mapping[str, tuple[int, ...]], seed: int = 0
) -> dict[str, NDArray[Any]]:
    """Random rows, every fourth sequence with an end in its middle; and what the replay keeps of the rows before."""
    rng = np.random.default_rng(seed)
    first, last = np.zeros((2, B, T), bool)
    last[::4, T // 2 - 1] = first[::4, T // 2] = True
    found = {key: rng.integers(0, min(c.classes), (B, T, *c.shape)) for key, c in columns.items()}
    found |= {"action": rng.integers(0, actions, (B, T)), "start/action": rng.integers(0, actions, B)}
    found |= {f"start/{name}": np.zeros((B, *shape), np.float32) for name, shape in latents.items()}
    reward = rng.normal(size=(B, T)).astype(np.float32)
    return found | {"reward": reward, "is_first": first, "is_last": last, "is_terminal": last}


def main() -> None:
    """Compare, print, store."""
    asked = options(__doc__, RESULT, rounds=15).parse_args()
    torch.set_num_threads(1)
    kept = devices.keep_memory()
    envs = Envs("home_dynamics", 1, seed=0)
    columns, actions = envs.observations, envs.actions
    seen = {key: column for key, column in columns.items() if key != WORD}
    reads = dynalang.build(CONFIG, columns, actions, seed=0)
    plain = find(dynalang.BASE).build(CONFIG, seen, actions, seed=0)
    size = next(iter(actions.values())).size
    batch = sequences(columns, size, reads.latents)
    without = {key: value for key, value in batch.items() if key != WORD}

    sizes, words = CONFIG.world.sizes, columns[WORD].width
    head = next(f.net for f in reads.world.heads.values() if f.shape in ((words,), (1, words)))
    h = torch.randn(B * T, sizes.deter, requires_grad=True)
    z = torch.randn(B * T, sizes.groups, sizes.classes, requires_grad=True)
    said, weights = torch.as_tensor(batch[WORD]).flatten(), [h, z, *head.parameters()]

    def dreamer() -> object:
        plain.update(without)
        loss = F.cross_entropy(head(h, z).flatten(1), said)
        return torch.autograd.grad(loss, weights)

    steps = {"dreamer": dreamer, "dynalang": lambda: reads.update(batch)}
    rows = interleave(steps, "dreamer", asked.rounds, seconds=0.5, warmup=2)
    title = f"Dynalang update, B {B}, T {T}, {words} words"
    show(title, rows)
    found = {"benchmark": "words_step", "time": "CPU time of one process", "seed": 0, "rounds": asked.rounds}
    write_json(asked.json, {**found, **machine(), "memory_kept": kept, "rows": {title: rows}})


if __name__ == "__main__":
    main()
