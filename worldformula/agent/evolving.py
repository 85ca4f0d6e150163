"""An agent of three parts: V sees, M remembers and predicts, C acts; V and M learn by gradients, C evolves in dreams.

Ha & Schmidhuber 2018, arXiv:1803.10122. `worldformula.agents.world_models` configures it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldformula.agent import acts as chosen_acts
from worldformula.agent.acts import acts_of, named
from worldformula.agent.controller import Controllers, Dreams, policy, worths
from worldformula.agent.perception import encoded
from worldformula.envs.actions import Actions, ActionSpec, column_name
from worldformula.envs.columns import Column
from worldformula.errors import CheckpointError, ConfigError, SpaceError
from worldformula.formula import Expression, Factor
from worldformula.run.contract import LearningConfig
from worldformula.training.evolution import Evolution
from worldformula.training.seeding import derived
from worldformula.world import PriorDynamics, State, Values, World

V, M, C = "V", "M", "C"


class Vision(Protocol):
    """V: what it minimises over ``x=[N, X]``, all observations of a row side by side; q(z|x) and p(x|z)."""

    @property
    def loss(self) -> Expression:
        """It holds all weights."""
        ...

    @property
    def encode(self) -> Factor:
        """Normal."""
        ...

    @property
    def decode(self) -> Factor:
        """Its means are shown."""
        ...


class EvolvingAgent(nn.Module):
    """V, M and C.

    Args:
        config: its settings, which `checkpoint` does not hold.
        vision: V.
        memory: M, over V's codes: `worldformula.worlds.mdn_rnn`.
        dream: M's dynamics, at a temperature.
        sees: the variables of M's state that C reads.
        columns, actions: the agent's observations and actions by name.
        dreams: how C evolves.
        rates: learning rates of Adam, of V and of M.
        clip: the largest element of a gradient of M.
        bias: whether C has one.
        seed: of C's evolution, and of what V and M draw as they learn.

    Raises:
        SpaceError: rows say which choices of an action are allowed, which C does not read.

    Attributes:
        search: the evolution of C.
        steps: of V and of M so far.
        dream: M's dynamics, in which C evolves.
        controller: C.
    """

    vision: Vision
    dream: PriorDynamics
    _dreamt: Factor

    def __init__(
        self, config: LearningConfig, vision: Vision, memory: World, dream: PriorDynamics, sees: Sequence[str],
        columns: Mapping[str, Column], actions: ActionSpec | Mapping[str, ActionSpec], *,
        dreams: Dreams, rates: tuple[float, float], clip: float, bias: bool, seed: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config, self.columns, self.seed = config, dict(columns), seed
        self.dreams, self.clip = dreams, clip
        self.specifications, self.acts = named(actions), acts_of(named(actions))
        if masked := [act.action for act in self.acts if act.masked]:
            raise SpaceError(
                f"C chooses among all choices, and rows say which of {masked[0]!r} are allowed: expected an action "
                "without masks; dreamer_v2 and dreamer_v3 read them"
            )
        self.see, self.memory, self.sees = vision.loss, memory, tuple(sees)
        widths = memory.initial(1)
        features = sum(widths[key].shape[-1] for key in self.sees)
        self.controller = Controllers(features, self.acts, bias=bias)
        # Out of the module tree: they hold the same networks, or candidates, which are no part of the agent.
        self.__dict__["vision"], self.__dict__["dream"] = vision, dream
        self.__dict__["_dreamt"] = policy(Controllers(features, self.acts, bias=bias), self.sees, self.outputs)
        self.search = Evolution(self.controller.numbers, dreams.population, dreams.spread, derived(seed, 1))
        adam = partial(torch.optim.Adam, eps=1e-8)
        self.optimisers = {
            V: adam(vision.loss.parameters(), lr=rates[0]),
            M: adam(memory.parameters(), lr=rates[1]),
        }
        self.steps = {V: 0, M: 0}

    @property
    def outputs(self) -> int:
        """Width of all actions side by side."""
        return sum(act.size for act in self.acts)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.controller.weights.device

    # ------------------------------------------------------------------------------------------------------------- act

    def initial(self, num: int) -> State:
        """The memory before the first row, for ``num`` streams."""
        return self.memory.initial(num, device=self.device) | {"a": torch.zeros(num, self.outputs, device=self.device)}

    @torch.no_grad()
    def act(self, rows: Mapping[str, NDArray[Any]], state: Values, explore: bool = True) -> tuple[Actions, State]:
        """Actions at rows ``[num, ...]``, an array or one per name, and the next state.

        ``explore`` draws the code z_t, otherwise it is its mean; and anything at all until C has evolved once.
        """
        first = torch.as_tensor(rows["is_first"], device=self.device)
        observed = {**self.moments(self.flat(rows)), "first": first}
        seen = self.memory.observe(observed, state, deterministic=not explore)
        if explore and not self.search.generation:
            action = self._anything(len(first))
        else:
            action = self.controller(*(seen[key] for key in self.sees))
        parts = action.split([act.size for act in self.acts], -1)
        given = {act.variable: part for act, part in zip(self.acts, parts, strict=True)}
        return chosen_acts.chosen(self.acts, given), seen | {"a": action}

    def _anything(self, num: int) -> Tensor:
        """Uniform actions ``[num, outputs]``."""
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        drawn = {column_name(k): spec.random(rng, num) for k, spec in self.specifications.items()}
        return self.packed(drawn)

    # ----------------------------------------------------------------------------------------------------- what is read

    def flat(self, rows: Mapping[str, NDArray[Any]]) -> Tensor:
        """All observations of rows ``[..., *shape]`` side by side, ``[..., X]``; pictures in [0, 1]."""
        parts = [encoded(rows[key], column, self.device, key) for key, column in self.columns.items()]
        lead = rows["is_first"].shape
        return torch.cat([part.reshape(*lead, -1) for part in parts], -1)

    def packed(self, rows: Mapping[str, NDArray[Any]]) -> Tensor:
        """All actions of rows side by side, ``[..., outputs]``."""
        found = chosen_acts.encoded(self.acts, rows, self.device)
        return torch.cat([found[act.variable] for act in self.acts], -1)

    @torch.no_grad()
    def moments(self, x: Tensor) -> dict[str, Tensor]:
        """Mean and deviation of the codes of ``[..., X]``: mu and sigma, ``[..., Z]``."""
        loc, scale = self.vision.encode.params(x.flatten(0, -2))
        return {"mu": loc.unflatten(0, x.shape[:-1]), "sigma": scale.expand_as(loc).unflatten(0, x.shape[:-1])}

    def series(self, rows: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        """What M reads of sequences ``[B, T, ...]``."""
        terminal = torch.as_tensor(np.ascontiguousarray(rows["is_terminal"]), device=self.device).float()
        last = torch.as_tensor(np.ascontiguousarray(rows["is_last"]), device=self.device)[..., None]
        reward = torch.as_tensor(np.ascontiguousarray(rows["reward"]), device=self.device).float()
        first = torch.as_tensor(np.ascontiguousarray(rows["is_first"]), device=self.device)
        action = self.packed(rows) * ~last  # nothing is executed at the last row
        return {**self.moments(self.flat(rows)), "a": action, "l": 1 - terminal, "r": reward, "first": first}

    # ----------------------------------------------------------------------------------------------------------- learn

    def learn_to_see(self, x: Tensor) -> dict[str, Tensor]:
        """A step of V on rows ``[N, X]``."""
        return self._step(V, self.see, {"x": x})

    def learn_to_remember(self, series: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A step of M on the answer of `series`."""
        read = self.memory.loss.program.inputs
        return self._step(M, self.memory.loss, {key: value for key, value in series.items() if key in read})

    def _step(self, part: str, loss: Expression, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        optimiser, count = self.optimisers[part], self.steps[part]
        optimiser.zero_grad(set_to_none=True)
        out = loss(**inputs, seed=derived(self.seed, 2, ord(part), count))
        out.value.backward()
        if part == M:  # the paper's: V's squared errors are sums over pixels, of which nothing is to be cut
            nn.utils.clip_grad_value_(self.memory.parameters(), self.clip)
        optimiser.step()
        self.steps[part] = count + 1
        terms = {f"{part}/{text}": value.detach().mean() for text, value in out.terms.items()}
        return {f"{part}/loss": out.value.detach(), **terms}

    @torch.no_grad()
    def evolve(self, start: State) -> dict[str, float]:
        """A generation of C in dreams from states ``[R]``; then C is the middle of what the search favours."""
        dreams, asked = self.dreams, self.search.ask()
        candidates = torch.as_tensor(asked, dtype=torch.float32, device=self.device)
        found = worths(
            self.dream, self._dreamt, start, candidates, horizon=dreams.horizon, tau=dreams.tau,
            seed=derived(self.seed, 3, self.search.generation),
        )  # fmt: skip
        self.search.tell(found.double().cpu().numpy() - dreams.decay * (asked**2).mean(1))
        self._favour()
        return {"C/mean": float(found.mean()), "C/best": float(found.max())}

    def _favour(self) -> None:
        self.controller.weights = torch.as_tensor(self.search.mean[None], dtype=torch.float32, device=self.device)

    def starts(self, series: Mapping[str, Tensor], rows: int, at: int, seed: int) -> State:
        """States ``[rows]`` of M, drawn from those that sequences have at one step: 0 is their first, -1 their last."""
        with torch.no_grad():
            states = self.memory.filter(series, seed=seed).at(at)
        generator = torch.Generator().manual_seed(seed)
        return states.select(torch.randint(len(series["first"]), (rows,), generator=generator).to(self.device))

    def update(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, float | Tensor]:
        """A step of V and one of M on sequences ``[B, T, ...]``; at every ``dreams.every``-th a generation of C."""
        numbers: dict[str, float | Tensor] = dict(self.learn_to_see(self.flat(batch).flatten(0, 1)))
        series = self.series(batch)
        numbers |= self.learn_to_remember(series)
        if self.steps[M] % self.dreams.every == 0:
            numbers |= self.evolve(self.starts(series, self.dreams.rollouts, -1, derived(self.seed, 4, self.steps[M])))
        return numbers

    # ------------------------------------------------------------------------------------------------------------ show

    @torch.no_grad()
    def open_loop(self, batch: Mapping[str, NDArray[Any]], context: int = 5) -> dict[str, NDArray[Any]]:
        """Truth and dream: ``context`` filtered rows, then M on the true actions, as V decodes its codes.

        A single picture is uint8 ``[B, T, H, W, C]``, the newest of a stack; anything else numbers ``[B, T, X]``.
        """
        series, x = self.series(batch), self.flat(batch)
        states = self.memory.filter({k: v[:, :context] for k, v in series.items()}, deterministic=True)
        taken = series["a"][:, context - 1 : -1]
        future = self.memory.imagine(states.last(), actions=taken, deterministic=True)
        z = states.then(future.span(1))["z"]
        dream = self.show(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        column = next(iter(self.columns.values()))
        if len(self.columns) > 1 or column.kind != "image":
            names = np.array([f"x {i}" for i in range(1, x.shape[-1] + 1)])
            return {"truth": x.cpu().numpy(), "dream": dream.cpu().numpy(), "names": names}
        newest = 3 if column.shape[-1] % 3 == 0 else 1
        shown = [(v * 255).round().clamp(0, 255).to(torch.uint8).unflatten(-1, column.shape) for v in (x, dream)]
        return dict(zip(("truth", "dream"), (v[..., -newest:].cpu().numpy() for v in shown), strict=True))

    def show(self, z: Tensor) -> Tensor:
        """The means of what V decodes of codes ``[N, Z]``: ``[N, X]``."""
        decode = self.vision.decode
        assert decode.family is not None
        return torch.as_tensor(decode.family.mean(decode.params(z)))

    # ------------------------------------------------------------------------------------------------------ checkpoint

    def checkpoint(self) -> dict[str, Any]:
        """Weights, optimisers, and what the evolution was told."""
        optimisers = {part: optimiser.state_dict() for part, optimiser in self.optimisers.items()}
        return {
            "weights": dict(self.state_dict()), "optimisers": optimisers, "steps": dict(self.steps),
            "search": self.search.state(), "seed": self.seed,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Puts the answer of `checkpoint` back; raises CheckpointError where it is of another agent."""
        try:
            self.load_state_dict(state["weights"])
            for part, optimiser in self.optimisers.items():
                optimiser.load_state_dict(state["optimisers"][part])
        except (RuntimeError, ConfigError, ValueError, KeyError) as error:
            raise CheckpointError(f"the checkpoint is of another agent or size: {error}") from error
        self.steps = {part: int(count) for part, count in state["steps"].items()}
        self.seed = int(state["seed"])
        self.search.restore(state["search"])
