"""LeCun 2022: every module is differentiable. Central differences of the total energy of a dream, in float64, say what
its gradient is with regard to the encoder, the actions, the latents, what a memory holds, and the weights of the cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from worldformula.agent.cost import Cost
from worldformula.agent.terms import Distance, Effort
from worldformula.world import State
from worldformula.worlds import latent_jepa, recalling

B, T, H = 3, 4, 5


class Critic(nn.Module):
    """Something smooth of a state."""

    def __init__(self, *names: str, sizes: int) -> None:
        super().__init__()
        self.names, self.net = names, nn.Linear(sizes, 1).double()

    def forward(self, states: State) -> Tensor:
        return self.net(torch.cat([states[k] for k in self.names], -1))[..., 0].square()


def agrees(energy: Callable[[Mapping[str, Tensor]], Tensor], values: Mapping[str, Tensor], step: float = 1e-5) -> None:
    """The slopes of an energy along a random direction of each value, by autograd and by differences."""
    leaves = {k: v.detach().clone().requires_grad_() for k, v in values.items()}
    found = dict(zip(leaves, torch.autograd.grad(energy(leaves), tuple(leaves.values())), strict=True))
    for name, value in values.items():
        along = torch.randn_like(value)
        with torch.no_grad():
            ends = [float(energy({**values, name: value + sign * step * along})) for sign in (1, -1)]
        right = (ends[0] - ends[1]) / (2 * step)
        assert abs(right) > 1e-6, f"{name} does not matter"
        assert float((found[name] * along).sum()) == pytest.approx(right, rel=1e-4), name


def test_of_a_world_that_remembers() -> None:
    torch.manual_seed(0)
    sizes = recalling.tiny()
    world = recalling.build(sizes).double()
    for p in world.parameters():
        nn.init.normal_(p, std=0.3)
    goal = torch.randn(B, sizes.latent).double()
    critic = Critic("z", "m", sizes=2 * sizes.latent)
    batch = {"x": torch.randn(B, T, sizes.x), "a": torch.randn(B, T, sizes.a), "y": torch.randn(B, T, sizes.y)}
    batch = {k: v.double() for k, v in batch.items()} | {"first": torch.zeros(B, T, dtype=torch.bool)}
    seen = world.filter({k: v for k, v in batch.items() if k != "y"}).last()
    name, weight = next((k, p) for k, p in world.named_parameters() if p.ndim == 2 and p.shape[1] == sizes.x)

    def energy(of: Mapping[str, Tensor]) -> Tensor:
        weights = {"far": of["u"], "effort": 0.1, "ahead": of["v"]}
        cost = Cost(world, {"far": Distance("z"), "effort": Effort()}, {"ahead": critic}, weights)
        dream = State(world.imagine(seen | {"K": of["K"], "V": of["V"], "z": of["z"]}, actions=of["a"]), 2).span(1)
        held = goal[:, None].expand(-1, H, -1)
        return cost(State({k: v for k, v in dream.items() if k != "a"} | {"goal": held}, 2), {"a": of["a"]}).sum()

    values = {"a": torch.randn(B, H, sizes.a).double(), "K": seen["K"], "V": seen["V"], "z": seen["z"]}
    agrees(energy, {**values, "u": torch.tensor(0.7).double(), "v": torch.tensor(1.3).double()})

    def encoded(of: Mapping[str, Tensor]) -> Tensor:
        found = torch.func.functional_call(_Encoded(world), {f"world.{name}": of["weight"]}, (batch,))
        return energy({**values, "K": found["K"], "V": found["V"], "z": found["z"], "u": 0.7, "v": 1.3})

    agrees(encoded, {"weight": weight.detach()})


class _Encoded(nn.Module):
    """What a world infers, as a module that other weights may be put into."""

    def __init__(self, world: nn.Module) -> None:
        super().__init__()
        self.world = world

    def forward(self, batch: Mapping[str, Tensor]) -> State:
        return self.world.filter({k: v for k, v in batch.items() if k != "y"}).last()


def test_of_a_latent_that_says_which_future_it_is() -> None:
    torch.manual_seed(1)
    config = latent_jepa.LatentJEPAConfig(z="normal", codes=3, latent=6, units=16)
    world = latent_jepa.build(config, {"vector": (4,)}, 2).double()
    for p in world.parameters():
        nn.init.normal_(p, std=0.3)
    cost = Cost(world, {"near": Distance("s")}, {"ahead": Critic("s", sizes=6)})
    goal = torch.randn(B, 1, 6).double().expand(-1, H, -1)

    def energy(of: Mapping[str, Tensor]) -> Tensor:
        dream = State(world.imagine({"s": of["s"]}, actions={"a": of["a"], "z": of["z"]}), 2).span(1)
        return cost(State({"s": dream["s"], "goal": goal}, 2)).sum()

    sizes = {"s": (B, 6), "a": (B, H, 2), "z": (B, H, 3)}
    agrees(energy, {k: torch.randn(shape).double() for k, shape in sizes.items()})
