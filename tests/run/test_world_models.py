"""World Models (Ha & Schmidhuber 2018, arXiv:1803.10122) in small: collect at random, fit V and M, evolve C; phases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.run.test_run import QUIET, config
from worldformula import KL, Deterministic, E, Mean, Normal, log
from worldformula.fitting import task
from worldformula.run.folder import RunFolder
from worldformula.run.interact import Interact
from worldformula.run.phases import Phase, Phases
from worldformula.run.play import Randomly
from worldformula.training.seeding import derived
from worldformula.world import PriorDynamics, State

X, Z, H, LENGTH = 3, 2, 8, 12  # the pendulum's numbers, codes, memory, rows of a sequence
OBSERVED = "vector"


class Joined(nn.Module):
    """A layer on its inputs side by side."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.net(torch.cat(inputs, -1)))


class Core(nn.Module):
    """The memory: a GRU cell on code and action."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(Z + 1, H)

    def forward(self, h: Tensor, z: Tensor, a: Tensor) -> Tensor:
        return torch.as_tensor(self.cell(torch.cat((z, a), -1), h))


class Evolution:
    """C, a linear policy, by a (1, λ) evolution inside the dream; its state is the best weights and the generation."""

    kind, every, threads, tensorboard = "python", 2, None, False
    goal, members, spread = 6, 8, 0.3

    def __init__(self, dream: PriorDynamics, starts: State, folder: RunFolder) -> None:
        self.dream, self.starts, self.folder = dream, starts, folder
        self.step, self.weights = 0, torch.zeros(Z + H + 1)

    def policy(self, weights: Tensor) -> Any:
        """π(a|z, h), linear."""
        net = nn.Linear(Z + H, 1)
        with torch.no_grad():
            net.weight.copy_(weights[None, :-1])
            net.bias.copy_(weights[-1:])
        return Deterministic("a_t = C(z_t,h_t)", Joined(net), shape=1)

    @torch.no_grad()
    def worth(self, weights: Tensor) -> float:
        """The mean reward of dreams under it; every member dreams with the same noise."""
        states = self.dream.imagine(self.starts, self.policy(weights), horizon=8, seed=1)
        return float(self.dream.decode(states, (self.dream.head_of("reward"),))["r"][:, 1:].mean())

    def advance(self, until: int, write: Callable[..., None], asked: Callable[[], bool]) -> None:
        while self.step < until and not asked():
            self.step += 1
            noise = torch.randn(self.members, Z + H + 1, generator=torch.Generator().manual_seed(derived(0, self.step)))
            tried = [self.weights, *(self.weights + self.spread * noise)]
            found = [self.worth(weights) for weights in tried]
            self.weights = tried[int(np.argmax(found))]
            write(self.step, {"reward": max(found)})

    def begin(self) -> None:
        pass

    def kept(self) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "weights": self.weights}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.step, self.weights = int(state["step"]), state["weights"]

    def written(self) -> Mapping[str, Any]:
        return {"members": self.members, "spread": self.spread}

    def differences(self, stored: Mapping[str, Any]) -> Mapping[str, tuple[Any, Any]]:
        return {k: (stored.get(k), v) for k, v in self.written().items() if stored.get(k) != v}

    def test(self) -> Mapping[str, float]:
        return {}

    def resume_hint(self) -> str:
        return "the same call"


def world_models(folder: Path) -> Phases:
    """The chain."""

    def collected(run: Interact) -> dict[str, Tensor]:
        batch = run.replay.sample(60, LENGTH)
        return {key: torch.from_numpy(batch[key]) for key in (OBSERVED, "action", "reward", "is_first")}

    def fit_v(folder: RunFolder, given: Mapping[str, Any]) -> Any:
        torch.manual_seed(0)
        q = Normal("q(z|x)", nn.Linear(X, 2 * Z), shape=Z)
        loss = E(q, KL(q, Normal("p(z)", shape=Z)) - log(Normal("p(x|z)", nn.Linear(Z, X), shape=X, scale=0.5))).mean()
        return task(loss, {"x": given["rows"][OBSERVED].flatten(0, 1)}, folder, steps=40, batch=32)

    def fit_m(folder: RunFolder, given: Mapping[str, Any]) -> Any:
        torch.manual_seed(1)
        rows, encode = given["rows"], given["encode"]
        core = Deterministic("h_t = rnn(h_{t-1}, z_{t-1}, a_{t-1})", Core(), shape=H)
        prior = Normal("p(z_t|h_t)", nn.Linear(H, 2 * Z), shape=Z)
        reward = Normal("p(r_t|z_t,h_t)", Joined(nn.Linear(Z + H, 1)), shape=(), scale=1.0)
        loss = Mean("t", E(core, -log(prior) - log(reward)), reset="first").mean()
        made = task(
            loss, {"z": encode(rows[OBSERVED]), "a": rows["action"], "r": rows["reward"], "first": rows["is_first"]},
            folder, steps=40, batch=16,
        )  # fmt: skip
        made.dream = PriorDynamics(core * prior, [reward], roles={"reward": "r"})
        return made

    def encoder(found: Any) -> Callable[[Tensor], Tensor]:
        net = next(m for m in found.fitting.loss.modules() if isinstance(m, nn.Linear) and m.in_features == X)
        return lambda x: net(x)[..., :Z].detach()

    def evolve(folder: RunFolder, given: Mapping[str, Any]) -> Evolution:
        z = given["encode"](given["rows"][OBSERVED][:, 0])
        return Evolution(given["dream"], given["dream"].initial(len(z)) | {"z": z}, folder)

    return Phases(
        [
            Phase("collect", lambda f, _: Interact(config(240, **QUIET), build, f), {"rows": collected}),
            Phase("V", fit_v, {"encode": encoder}, takes=("rows",)),
            Phase("M", fit_m, {"dream": lambda t: t.dream}, takes=("rows", "encode")),
            Phase("C", evolve, {"controller": lambda t: t.weights}, takes=("rows", "encode", "dream")),
        ],
        folder,
        say=lambda _: None,
    )


def build(agent: Any, observations: Any, actions: Any, seed: int) -> Randomly:
    """Random play."""
    return Randomly(actions)


def test_the_four_phases_and_a_chain_that_goes_on(tmp_path: Path) -> None:
    given = world_models(tmp_path / "whole").run()
    rewards = [
        float(line.split('"reward": ')[1].split("}")[0])
        for line in (tmp_path / "whole" / "C" / "metrics.jsonl").read_text().splitlines()
    ]
    assert rewards == sorted(rewards)  # the best of a generation stays
    assert rewards[-1] > rewards[0]
    again = world_models(tmp_path / "whole").run()  # finished: everything is made again from the checkpoints
    assert torch.equal(given["controller"], again["controller"])
    assert given["controller"].abs().sum() > 0
