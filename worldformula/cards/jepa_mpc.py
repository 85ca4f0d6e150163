"""Measures planning in the latents of a joint-embedding world: from pictures of two rooms to the picture of a goal."""

from __future__ import annotations

import functools
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from worldformula.cards.no_collapse import SIZE, learn, trained
from worldformula.cards.rooms import (
    SPACE,
    Acting,
    Episodes,
    Floats,
    at_random,
    oracle,
    play,
    replanning,
    straight,
)
from worldformula.envs.drawing import Canvas
from worldformula.envs.two_rooms import Layout, canvas, pictures
from worldformula.errors import CardError
from worldformula.formula import Deterministic, E, Value
from worldformula.nets.perceptron import Perceptron
from worldformula.planner import Plan, Planner, Task
from worldformula.planners.cem import CEM
from worldformula.planners.mppi import MPPI
from worldformula.world import World
from worldformula.worlds import jepa

COUNT, FINGERPRINT = 100, "e55930142bdc"
SEARCH = CEM(16, 64, 8, 4, std=0.8)
PATHS = MPPI(16, 64, 8, 4, temperature=5.0, most=0.8, answer="best")


def measure(seed: int) -> dict[str, float]:
    """Plays the same hundred episodes with each method.

    Returns:
        ``margin``: the lower end of Wilson's interval of the episodes that end at the goal, by MPPI on the latent
        distance summed over steps, less the share of a straight line; ``margin_cem``: the same of CEM. Of each method
        the share that ends there (``final``), its interval (``low``, ``high``), that ever comes there (``ever``), and
        milliseconds of a decision of one episode (``ms``): ``line``, ``random``, ``euclid`` and ``geodesic`` (CEM with
        the true moves), ``sum``, ``last`` and ``mppi`` in the latents, ``decoder`` in those of an autoencoder,
        ``cloned`` from the same data.
        ``calls``: steps of the world per decision of CEM.
    """
    episodes = fixed()
    seen = Pictures(episodes)
    world, decoder = trained("pldm", seed), trained("decoder", seed)
    methods = {
        "sum": planned(world, seen, SEARCH),
        "last": planned(world, seen, SEARCH, reduce="last"),
        "mppi": planned(world, seen, PATHS),
        "decoder": planned(decoder, seen, SEARCH),
        "cloned": Cloned.trained(seed).acting(seen),
    }
    found = dict(known()) | {
        k: v for name, acting in methods.items() for k, v in played(name, acting, episodes).items()
    }
    calls = SEARCH.horizon * SEARCH.candidates * SEARCH.iterations
    over = {name: found[low] - found["final_line"] for name, low in (("margin", "low_mppi"), ("margin_cem", "low_sum"))}
    return {**over, "calls": float(calls), **found}


def fixed() -> Episodes:
    """The episodes of the card.

    Raises:
        CardError: they are not the ones that its notes tell of.
    """
    episodes = Episodes.of("two", COUNT)
    if episodes.fingerprint != FINGERPRINT:
        raise CardError(f"jepa_mpc: expected the episodes {FINGERPRINT}, got {episodes.fingerprint}")
    return episodes


@functools.cache
def known() -> dict[str, float]:
    """What learns nothing, and so is the same for all seeds."""
    episodes = fixed()
    methods = {
        "random": at_random(),
        "line": straight(episodes),
        "euclid": oracle(episodes, SEARCH),
        "geodesic": oracle(episodes, SEARCH, geodesic=True),
    }
    return {k: v for name, acting in methods.items() for k, v in played(name, acting, episodes).items()}


def played(name: str, acting: Acting, episodes: Episodes) -> dict[str, float]:
    """What `measure` returns of a method."""
    found = play(episodes, acting)
    print(f"  {name:10s} final {found.final}  ever {found.ever}", flush=True)
    return {
        f"final_{name}": found.final.value,
        f"low_{name}": found.final.low,
        f"high_{name}": found.final.high,
        f"ever_{name}": found.ever.value,
        f"ms_{name}": found.milliseconds / len(episodes.starts),
    }


class Pictures:
    """What is seen in the rooms of episodes: of points ``[N, 2]``, one in each, ``[N, 33, 33, 3]`` in [0, 1]; ``look``
    is that of `worldformula.envs.two_rooms.pictures`.
    """

    def __init__(self, episodes: Episodes, **look: Any) -> None:
        nothing = np.zeros((0, 4)), np.zeros((0, 2), np.int64)
        self.edge, self.look = episodes.edge, look
        self.drawn: list[Canvas] = [canvas(Layout(self.edge, walls, *nothing), SIZE) for walls in episodes.walls]
        self.goals = self(episodes.goals)

    def __call__(self, at: Floats) -> Tensor:
        """At these places."""
        each = [
            pictures(own, self.edge, place[None], False, **self.look)[0]
            for own, place in zip(self.drawn, at, strict=True)
        ]
        return torch.from_numpy(np.stack(each)).float() / 255


def planned(world: World, seen: Pictures, planner: Planner, reduce: Literal["sum", "last"] = "sum") -> Acting:
    """A search for the squared distance to the latent of the goal's picture, of all steps or of the last."""
    count = len(seen.goals)
    generators = [torch.Generator().manual_seed(i) for i in range(count)]

    @torch.no_grad()
    def latent(images: Tensor) -> Tensor:
        batch = {"x": images[:, None], "a": torch.zeros(count, 1, 2), "first": torch.ones(count, 1, dtype=torch.bool)}
        found: Tensor = world.filter(batch)["z"][:, 0]
        return found

    goals = latent(seen.goals)

    def cost(states: object, _: object) -> Tensor:
        z: Tensor = states["z"]  # type: ignore[index]
        return (z - goals.repeat_interleave(len(z) // count, 0)[:, None]).square().sum(-1)

    task = Task(cost, reduce=reduce)

    def plan(at: Floats, warm: dict[str, Tensor] | None) -> Plan:
        state = {"z": latent(seen(at))}
        return planner.plan(world.dynamics, task, state, space=SPACE, generators=generators, warm=warm)

    return replanning(plan)


class Cloned(nn.Module):
    """Behaviour cloning: the action of a clip, from its frame and a later one, with an encoder as the world's; which
    later one is drawn, from ``seed``.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.later = torch.Generator().manual_seed(seed)
        config = jepa.tiny()
        self.encoder = jepa.Encoder(config.latent, config.channels, config.units, [(SIZE, SIZE, 3)], 0, standard=True)
        self.policy = Perceptron(2 * config.latent, 2, (config.units, config.units))

    @classmethod
    def trained(cls, seed: int) -> Cloned:
        """On the clips of the worlds, with as many updates."""
        torch.manual_seed(seed)
        found = cls(seed)
        learn(E(Deterministic("e = missed(x, a)", found, shape=()), Value("e", shape=())).mean(), seed)
        return found

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        """Squared error ``[B]`` of clips ``[B, T, ...]``: each frame with one behind it, drawn."""
        B, T = x.shape[:2]
        z = self.encoder(x.flatten(0, 1)).unflatten(0, (B, T))
        now = torch.arange(T - 1)
        then = now + 1 + (torch.rand(B, T - 1, generator=self.later) * (T - 1 - now)).long()
        goal = z.gather(1, then[..., None].expand(-1, -1, z.shape[-1]))
        return (self.towards(z[:, :-1], goal) - a[:, :-1]).square().mean((1, 2))

    def towards(self, z: Tensor, goal: Tensor) -> Tensor:
        """Latents ``[..., D]`` twice to actions."""
        found: Tensor = self.policy(z, goal - z)
        return found

    def acting(self, seen: Pictures) -> Acting:
        """An action at a time."""

        @torch.no_grad()
        def act(at: Floats) -> Floats:
            action = self.towards(self.encoder(seen(at)), self.encoder(seen.goals))
            return action[:, None].double().numpy()

        return act
