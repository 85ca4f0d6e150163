"""One step of acting, one stream, DreamerV3 `tiny`: the agent beside its bare networks called by hand, in the same run.

    python -m benchmarks.act_step [--rounds 30] [--json benchmarks/results/act_step.json]

`networks` encodes the observation, takes the core's step, draws the latent and the action: what no agent of this world
does without. `agent` is `agent.act` as a run calls it: rows of NumPy in, an array of NumPy out, resets, the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import interleave, options, show
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents.dreamer_v3 import build, tiny
from worldformula.cards.run import machine, write_json
from worldformula.envs import Envs

RESULT = Path(__file__).parent / "results" / "act_step.json"


def by_hand(agent: ImaginationAgent, seen: Tensor) -> Callable[[], Tensor]:
    """The networks of an agent with one observation ``x`` and one action of numbers."""
    embed, core, post = (factor.net for factor in agent.world.posterior.factors)
    policy: Any = agent.learner.policy
    begin = agent.initial(1)
    h, z, a = (begin[name] for name in "hza")
    groups, classes = z.shape[1:]

    @torch.no_grad()
    def step() -> Tensor:
        token = embed(seen)
        new = core(h, z, a)
        logits = post(new, token).view(-1, groups, classes)
        shares = 0.99 * logits.softmax(-1) + 0.01 / classes
        noise = -torch.log(-torch.log(torch.rand_like(shares).clamp_min(1e-38)))
        drawn = torch.nn.functional.one_hot((shares.log() + noise).argmax(-1), classes).float()
        found = policy.net(new, drawn)
        action: Tensor = found["loc"] + found["scale"] * torch.randn_like(found["loc"])
        return action

    return step


def main() -> None:
    """Measures and writes."""
    asked = options(__doc__, RESULT, rounds=30).parse_args()
    torch.set_num_threads(1)
    rows = {}
    for title, how in {"pictures of 32 × 32": {"pixels": True, "size": 32}, "3 numbers": {}}.items():
        envs = Envs("pendulum", 1, seed=0, **how)
        agent = build(tiny(), envs.observations, envs.actions, seed=0)
        now = envs.reset(0)
        state = agent.initial(1)
        actions, state = agent.act(now, state)
        now = envs.step(actions)
        seen = agent.perception.observe(now, torch.device("cpu"))["x"]
        steps = {"networks": by_hand(agent, seen), "agent": lambda a=agent, n=now, s=state: a.act(n, s)}
        rows[title] = interleave(steps, "networks", asked.rounds)
        show(f"one step of acting, {title}", rows[title])
    head = {"benchmark": "act_step", "time": "CPU time of one process", "seed": 0, "rounds": asked.rounds}
    write_json(asked.json, {**head, **machine(), "rows": rows})


if __name__ == "__main__":
    main()
