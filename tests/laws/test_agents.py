"""The laws of agents: every agent of the catalogue keeps them, DreamerV3 with masks too; what breaks one is named."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from tests.agents.test_several_actions import Steered
from worldformula.agents import dreamer_v2, dreamer_v3
from worldformula.catalogue import find, names
from worldformula.envs import Envs
from worldformula.errors import SpaceError
from worldformula.run.play import Randomly
from worldformula.testing import check_agent
from worldformula.training.objective import Objective
from worldformula.training.settings import leaves, override

SMALL = ["batch=2", "length=6", "imag_last=3", "imagine=3"]


@pytest.fixture
def envs() -> Envs:
    """Four actions, one of them with a mask; the environment asserts that nothing forbidden is executed."""
    if "tests/Steered-v0" not in gymnasium.registry:
        gymnasium.register("tests/Steered-v0", entry_point=Steered)
    return Envs("tests/Steered-v0", 2, seed=0)


def dreamer(envs: Envs, *settings: str) -> Any:
    config = override(dreamer_v3.tiny(), [*SMALL, *settings])
    return dreamer_v3.build(config, envs.observations, envs.actions, seed=0)


SWITCHED = (
    "curiosity.kind=icm", "curiosity.units=8", "curiosity.width=8", "world.harmony=true", "reset_every=4",
    "behaviour.slow_target=true", "behaviour.value_rate=0.1", "behaviour.advantage_rate=0.1",
    "behaviour.discount_learnt=false", "mixture.priority=0.5",
)  # fmt: skip


@pytest.mark.parametrize("settings", [(), ("masks=false", "one_trunk=true"), ("context=1",), SWITCHED])
def test_dreamer_keeps_them(envs: Envs, settings: tuple[str, ...]) -> None:
    check_agent(dreamer(envs, *settings), envs, turns=20)


def test_dreamer_v2_keeps_them_with_masks(envs: Envs) -> None:
    config = override(dreamer_v2.tiny(), [*SMALL, "world.free_nats=0"])
    check_agent(dreamer_v2.build(config, envs.observations, envs.actions, seed=0), envs, turns=20)


def test_what_acts_without_learning_keeps_them(envs: Envs) -> None:
    class Still(Randomly):
        """The same choice at every row: the first that is allowed."""

        def act(self, rows: Any, state: Any, explore: bool = True) -> Any:
            count = len(rows["is_first"])
            actions = {name: spec.zeros(count) for name, spec in envs.actions.items()}
            return actions | {"choice": rows["mask/choice"].argmax(1)}, state

    check_agent(Still(envs.actions), envs, turns=20)


class Anything(gymnasium.Env[Any, Any]):
    """Random pictures and numbers for whatever is done; episodes of five steps."""

    observation_space = gymnasium.spaces.Dict(
        {"image": gymnasium.spaces.Box(0, 255, (16, 16, 3), np.uint8), "speed": gymnasium.spaces.Box(-9, 9, (2,))}
    )

    def __init__(self, action_space: Any) -> None:
        self.action_space, self.count = action_space, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.count += 1
        return self._seen(), float(self.np_random.normal()), self.count == 5, False, {}

    def _seen(self) -> dict[str, Any]:
        image = self.np_random.integers(0, 256, (16, 16, 3), np.uint8)
        return {"image": image, "speed": self.np_random.normal(size=2).clip(-9, 9).astype(np.float32)}


SPACES = {
    "numbers": gymnasium.spaces.Box(-1, 1, (2,), np.float32),
    "choice": gymnasium.spaces.Discrete(3),
    "flags": gymnasium.spaces.Dict(
        {"push": gymnasium.spaces.MultiBinary(2), "dice": gymnasium.spaces.MultiDiscrete([2, 3])}
    ),
}
CHEAP = {"imagine": 3, "imag_last": 3, "batch": 2, "length": 8, "warmup": 1}


def anything(kind: str) -> Envs:
    name = f"tests/Anything-{kind}-v0"
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point=lambda: Anything(SPACES[kind]))
    return Envs(name, 2, seed=0)


def tiny(name: str) -> Any:
    """The preset, with short dreams and a cheap search."""
    found = find(name).sizes("tiny")
    known = {leaf.key for leaf in leaves(found)}
    found = replace(found, **{key: value for key, value in CHEAP.items() if key in known})
    cheap = [f"planner.{key}" for key in ("candidates=20", "elites=4", "iterations=2", "horizon=3")]
    cheap = cheap if "planner.horizon" in known else []
    cheap += ["dreams.population=4", "dreams.rollouts=2", "dreams.horizon=4"] if "dreams.horizon" in known else []
    free = ["world.free_nats=0"] if "world.free_nats" in known else []  # below them a prior learns nothing
    return override(found, [*cheap, *free, *(["dreams.every=2"] if "dreams.every" in known else [])])


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("name", names("agents"))
def test_every_agent_of_the_catalogue(name: str, kind: str) -> None:
    system, envs = find(name), anything(kind)
    if system.reads:
        with pytest.raises(SpaceError, match="expected an observation"):
            system.build(tiny(name), envs.observations, envs.actions, 0)
        if kind != "choice":  # of its own environment, which is the same for all
            return
        envs = Envs(system.env, 2, seed=0)
    wanted = {"numbers": {"numbers"}, "choice": {"choice"}, "flags": {"flags", "choice"}}[kind]
    if wanted <= set(system.acts):
        check_agent(system.build(tiny(name), envs.observations, envs.actions, 0), envs, turns=12)
        return
    fit = [other for other in names("agents") if wanted <= set(find(other).acts)]
    assert fit
    with pytest.raises(
        SpaceError, match=rf"{name} acts by numbers .+\ntake an agent for such actions: {', '.join(fit)}"
    ):
        system.build(tiny(name), envs.observations, envs.actions, 0)


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("lazy", "weights that learn and have not moved"),
        ("forgetful", "what takes its checkpoint learns on to the same bits"),
        ("restless", "it repeats itself, without exploring"),
        ("amnesic", "it infers while it acts what its world's filter does"),
        ("mute", "parts of its objective that it does not print"),
    ],
)
def test_a_fault_of_a_catalogued_agent_is_found(fault: str, law: str) -> None:
    envs = anything("numbers")

    class Faulty(dreamer_v3.ImaginationAgent):
        calls = 0

        def act(self, rows: Any, state: Any, explore: bool = True) -> Any:
            found, after = super().act(rows, state, explore)
            Faulty.calls += fault == "restless"
            if fault == "amnesic":  # of what it did last
                after = {**after, "a": torch.zeros_like(after["a"])}
            return found * (1 - 0.001 * Faulty.calls), after

        def checkpoint(self) -> Any:
            return {**super().checkpoint(), **({"optimiser": self.fresh} if fault == "forgetful" else {})}

    agent = find("dreamer_v1").build(tiny("dreamer_v1"), envs.observations, envs.actions, 0)
    agent.fresh = copy.deepcopy(agent.updates.state_dict())
    if fault == "lazy":
        agent.world.register_parameter("never", torch.nn.Parameter(torch.zeros(1)))

    class Mute(Objective):
        def __repr__(self) -> str:
            return "<Objective>"

    if fault == "mute":
        agent.objective.__class__ = Mute
    agent.__class__ = Faulty
    with broken(law):
        check_agent(agent, envs, turns=6)


def broken(law: str) -> Any:
    return pytest.raises(AssertionError, match=f"(?s){law}.*<- broken")


def test_what_breaks_a_law_is_named(envs: Envs) -> None:
    class Leaky(dreamer_v3.ImaginationAgent):
        """The first stream looks at the mean of all, and the state is written to."""

        def act(self, rows: Any, state: Any, explore: bool = True) -> Any:
            rows = {**rows, "vector": np.repeat(rows["vector"].mean(0, keepdims=True), len(rows["vector"]), 0)}
            actions, after = super().act(rows, state, explore)
            state["h"].add_(1.0)
            return actions, after

    agent = dreamer(envs)
    agent.__class__ = Leaky
    with broken("the state that it was given stays"):
        check_agent(agent, envs, turns=10)
    with broken("streams do not see each other"):
        check_agent(agent, envs, turns=10)

    class Stuck(dreamer_v3.ImaginationAgent):
        """Learns nothing, and keeps nothing."""

        def update(self, batch: Any) -> Any:
            return {"loss": torch.tensor(torch.nan)}

        def restore(self, state: Any) -> None:
            return

    agent = dreamer(envs)
    agent.__class__ = Stuck
    for law in (
        "an update gives finite numbers",
        "weights that learn and have not moved",
        "its checkpoint learns on to the same bits",
    ):
        with broken(law):
            check_agent(agent, envs, turns=5)


def test_an_agent_that_ignores_masks_is_told(envs: Envs) -> None:
    class Wild(dreamer_v3.ImaginationAgent):
        """Plays on what its masks forbid, in an environment that lets it."""

        def act(self, rows: Any, state: Any, explore: bool = True) -> Any:
            actions, after = super().act(rows, state, explore)
            return {**actions, "choice": np.asarray((~rows["mask/choice"]).argmax(1))}, after

    class Lenient(Steered):
        def step(self, action: Any) -> Any:
            return super().step({**action, "choice": (self.count + 1) % 3})

    if "tests/Lenient-v0" not in gymnasium.registry:
        gymnasium.register("tests/Lenient-v0", entry_point=Lenient)
    lenient = Envs("tests/Lenient-v0", 2, seed=0)
    agent = dreamer(lenient)
    agent.__class__ = Wild
    with broken("nothing forbidden is chosen, exploring"):
        check_agent(agent, lenient, turns=10)
