"""A small but real agent: a linear policy over the vector observation, trained by stochastic gradient descent.

It regresses the actions that were followed by more reward than average, through dropout, so that weights, momentum, the
replay's sampler and torch's generator all decide the result: what a resume forgets shows in the weights.

As a script, ``python toy.py FOLDER STEPS`` answers each line of its input with a new process that trains in the folder,
or goes on there: first its number, then, once it has ended, its exit status. (A fork saves it the import of torch.)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from worldformula.catalogue import System
from worldformula.envs.actions import single
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.interact import Interact


@dataclass(frozen=True)
class Toy:
    batch: int = 4
    length: int = 5
    train_ratio: float = 7.0
    prefill: int = 40
    rate: float = 0.01


class ToyAgent(nn.Module):
    def __init__(self, config: Toy, observations: Mapping[str, Any], actions: Any, seed: int) -> None:
        super().__init__()
        self.config, action = config, single(actions)
        width = observations["vector"].shape[0] + action.size
        generator = torch.Generator().manual_seed(seed)
        self.net = nn.Sequential(nn.Dropout(0.2), nn.Linear(width, action.size))
        nn.init.normal_(self.net[1].weight, std=0.1, generator=generator)
        nn.init.zeros_(self.net[1].bias)
        self.optimiser = torch.optim.SGD(self.parameters(), lr=config.rate, momentum=0.9)

    def initial(self, num: int) -> dict[str, torch.Tensor]:
        return {"action": torch.zeros(num, self.net[1].out_features)}

    @torch.no_grad()
    def act(self, rows: Mapping[str, Any], state: dict[str, torch.Tensor], explore: bool = True) -> Any:
        self.train(explore)
        keep = 1 - torch.from_numpy(rows["is_first"]).float()[:, None]
        mean = self.net(torch.cat([torch.from_numpy(rows["vector"]), keep * state["action"]], -1))
        action = (mean + torch.randn_like(mean) if explore else mean).clamp(-1, 1)
        return action.numpy(), {"action": action}

    def update(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor | float]:
        self.train()
        data = {key: torch.from_numpy(value) for key, value in batch.items()}
        reward = data["reward"][:, 1:]
        better = (reward > reward.mean()).float()[..., None]
        inputs = torch.cat([data["vector"][:, 1:-1], data["action"][:, :-2]], -1)
        loss = (better[:, 1:] * (self.net(inputs) - data["action"][:, 1:-1]) ** 2).mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return {"loss": loss.detach(), "better": float(better.mean())}

    def checkpoint(self) -> dict[str, Any]:
        return {"weights": self.state_dict(), "optimiser": self.optimiser.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.load_state_dict(state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])


def config(steps: int = 600, **changes: Any) -> RunConfig:
    """Episodes of 23 steps, checkpoints every 100. The replay is full halfway."""
    values: dict[str, Any] = {"capacity": 300, "checkpoint_every": 100, "log_every": 70, "threads": 1} | changes
    values = {"eval_every": 250, "eval_episodes": 3, "tensorboard": False} | values
    return RunConfig("toy", "tiny", EnvConfig("pendulum", num=3, max_steps=23), Toy(), steps=steps, **values)


SYSTEM = System(
    name="toy",
    kind="agents",
    paper="none",
    bibtex="@misc{toy}",
    presets={"tiny": Toy, "slow": lambda: Toy(rate=0.001)},
    build=ToyAgent,
    summary="A linear policy.",
)

if __name__ == "__main__":
    for _ in sys.stdin:
        if (child := os.fork()) == 0:
            Interact(config(int(sys.argv[2])), ToyAgent, sys.argv[1]).run()
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
