"""C of World Models: linear controllers of a state, many at once, and what each is worth in dreams.

Ha & Schmidhuber 2018, arXiv:1803.10122: a = W [z, h] + b, evolved inside the dream. Dreams of all candidates are one
batch, [P · R] rows: candidate after candidate, each with R dreams; the r-th dream of each begins and goes on with the
same noise, so that candidates differ by their actions alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldformula.agent.acts import Act
from worldformula.errors import ConfigError, ShapeError
from worldformula.formula import Deterministic, Factor
from worldformula.training.seeding import derived
from worldformula.world import PriorDynamics, State

CHUNK = 25  # steps that are dreamt before it is asked whether anybody still lives


@dataclass(frozen=True)
class Dreams:
    """How controllers evolve; the defaults are the paper's, of VizDoom."""

    population: int = 64
    """Candidates of a generation."""
    rollouts: int = 16
    """Dreams of each candidate."""
    spread: float = 0.1
    """Deviation of the first candidates."""
    horizon: int = 2100
    """Steps of a dream that nothing ends."""
    tau: float = 1.15
    """The temperature of dreams."""
    decay: float = 0.01
    """What the mean square of a candidate's numbers costs."""
    every: int = 10
    """Updates from one generation to the next, where it evolves while V and M learn."""

    def __post_init__(self) -> None:
        if min(self.rollouts, self.horizon, self.every) < 1 or self.population < 4:
            raise ConfigError(
                "expected rollouts, horizon and every ≥ 1 and population ≥ 4, got "
                f"{self.rollouts}, {self.horizon}, {self.every} and {self.population}"
            )
        if min(self.spread, self.tau) <= 0 or self.decay < 0:
            raise ConfigError(
                f"expected spread and tau > 0 and decay ≥ 0, got {self.spread}, {self.tau} and {self.decay}"
            )


class Controllers(nn.Module):
    """P linear maps of the features, side by side, to all actions side by side: tanh, one-hots or flags.

    Rows ``[N, ...]`` belong to the P controllers in P equal parts, one after the other.

    Attributes:
        weights: ``[P, numbers]``; a buffer, as no gradient moves it.
    """

    weights: Tensor

    def __init__(self, features: int, acts: Iterable[Act], *, bias: bool = True) -> None:
        super().__init__()
        self.acts, self.features, self.bias = tuple(acts), features, bias
        self.outputs = sum(act.size for act in self.acts)
        self.register_buffer("weights", torch.zeros(1, self.numbers))

    @property
    def numbers(self) -> int:
        """Of one controller: a row of W, and its bias, for each output."""
        return self.outputs * (self.features + self.bias)

    def forward(self, *given: Tensor) -> Tensor:
        """Features ``[N, ...]`` in the order of the factor to ``[N, outputs]``.

        Raises:
            ShapeError: another width than the controllers have, or rows that cannot be shared out.
        """
        x, P = torch.cat(given, -1), len(self.weights)
        if x.shape[-1] != self.features or len(x) % P:
            raise ShapeError(f"{P} controllers expect [{P} · R, {self.features}] features, got {list(x.shape)}")
        w = self.weights.unflatten(-1, (self.outputs, -1))
        y = torch.einsum("prf,pof->pro", x.unflatten(0, (P, -1)), w[..., : self.features])
        y = y + w[..., self.features :].sum(-1).unsqueeze(1)  # of no bias, zeros
        parts = y.flatten(0, 1).split([act.size for act in self.acts], -1)
        return torch.cat([_squashed(act, part) for act, part in zip(self.acts, parts, strict=True)], -1)


def _squashed(act: Act, value: Tensor) -> Tensor:
    """Numbers in [−1, 1], the largest choice, or what is positive."""
    if act.kind == "choice":
        return nn.functional.one_hot(value.argmax(-1), act.size).to(value)
    return (value > 0).to(value) if act.kind == "flags" else value.tanh()


def policy(controllers: Controllers, sees: Sequence[str], outputs: int) -> Factor:
    """π as a factor of the language: ``a_t = C(z_t, h_t)``."""
    given = ", ".join(f"{key}_t" for key in sees)
    return Deterministic(f"a_t = C({given})", controllers, shape=outputs)


@torch.no_grad()
def worths(
    dream: PriorDynamics, acting: Factor, start: State, candidates: Tensor, *, horizon: int, tau: float, seed: int
) -> Tensor:
    """What candidates ``[P, numbers]`` earn in dreams that begin at states ``[R]``: means ``[P]``.

    The reward is that of the head with the role "reward", where there is one, else 1 a step. A dream ends where the
    head with the role "continue", where there is one, says so with more than ½, and the step that ends it counts.

    Args:
        dream: the dynamics, which take a temperature.
        acting: made by `policy`; its weights become the candidates.
        start: where the dreams begin; all candidates begin at each.
        candidates: their numbers.
        horizon: steps of a dream that nothing ends.
        tau: the temperature.
        seed: of the noise.
    """
    controllers = acting.net
    assert isinstance(controllers, Controllers)
    P, R = len(candidates), start.lead[0]
    controllers.weights = candidates
    state = start.only(dream.carried).select(torch.arange(R, device=candidates.device).repeat(P))
    roles = dream.roles
    earned, alive = candidates.new_zeros(P * R), candidates.new_ones(P * R)
    for begin in range(0, horizon, CHUNK):
        steps = min(CHUNK, horizon - begin)
        generator = torch.Generator(candidates.device).manual_seed(derived(seed, begin))
        still = {dream.action: candidates.new_zeros(R, steps, controllers.outputs)}  # the noise does not read it
        drawn = dream.dream_noise(state.select(torch.arange(R, device=candidates.device)), still, generator, tau=tau)
        noise = {key: value.repeat(P, *(1,) * (value.ndim - 1)) for key, value in drawn.items()}
        states = dream.imagine(state, acting, horizon=steps, noise=noise, tau=tau)
        after = states.span(1)
        seen = dream.decode(after, list(roles.values()))
        going = alive[:, None].expand(-1, steps)
        if "continue" in roles:
            going = alive[:, None] * (seen[roles["continue"]] > 0.5).to(alive).cumprod(1)
        before = torch.cat((alive[:, None], going[:, :-1]), 1)
        earned += (before * seen[roles["reward"]] if "reward" in roles else before).sum(1)
        alive, state = going[:, -1], states.last().only(dream.carried)
        if not alive.any():
            break
    return earned.unflatten(0, (P, R)).mean(1)
