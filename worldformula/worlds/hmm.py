r"""Hidden Markov model (Rabiner 1989, Proceedings of the IEEE 77(2)), learnt by the gradient of its exact likelihood.

    log p(x_{1:T}) = log Σ_{z_{1:T}} p(z_1) Π_t p(z_t|z_{t-1}) p(x_t|z_t)        eq. 13c, by the recursion of eq. 20

    z_t  [B, K]  one of K states                    paper's Λ: p(z_1) is π, p(z_t|z_{t-1}) is A, p(x_t|z_t) is B
    b_t  [B, K]  p(z_t|x_{1:t}), the belief         α_t of eq. 18, normalised
    x_t  [B, X]  bits, or numbers

The value is in nats per sequence, and no bound: nothing is drawn. ``filter`` gives the belief exactly, and draws z_t
from it; a dream goes on from the z_t of its start by p(z_t|z_{t-1}), and knows its state. A start of zeros, before
anything is seen, is followed by p(z_1). Of an x_{1:t} whose probability is 0 there is no belief: NaN, until ``first``.
With ``actions``, a_{t-1} enters the transition.

Deviations     paper                      here                    why
learning       Baum–Welch (EM)            any optimiser           the gradient of the evidence is what EM's E-step
                                                                  finds, and the formula may have further terms
observations   symbols, or mixtures       bits, or one Normal     rows of data of any width
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.families import Family, bernoulli, normal
from worldformula.families.base import log_probs
from worldformula.formula import Bernoulli, Chain, Deterministic, Evidence, Normal, OneHot
from worldformula.formula.ops.recursions import joined, normalised
from worldformula.world import World
from worldformula.world.emission import Observed, check_observed

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Widths, and what an observation is made of."""

    pixels: int
    """X, of a frame."""
    states: int
    """K."""
    observed: Observed = "bits"
    """``bits`` are Bernoulli, ``numbers`` Normal."""
    actions: int = 0
    """Width of a_t; 0 for a model without actions."""
    places: int = 0
    """How many first steps have tables of their own, p(z_t|z_{t-1},t) and p(x_t|z_t,t); 0: all share one."""

    def __post_init__(self) -> None:
        check_observed(self.observed)
        if min(self.pixels, self.states - 1, self.actions + 1, self.places + 1) < 1:
            raise ConfigError(
                f"expected pixels ≥ 1, states ≥ 2, actions ≥ 0 and places ≥ 0, got {self.pixels}, {self.states}, "
                f"{self.actions} and {self.places}"
            )


def rows() -> Sizes:
    """The rows of an 8 × 8 digit as time, each with tables of its own: a mixture that may change its mind."""
    return Sizes(pixels=8, states=16, places=8)


def tiny() -> Sizes:
    """A few states, for tests."""
    return Sizes(pixels=8, states=6)


# ---------------------------------------------------------------------------------------------------------- networks


class Table(nn.Module):
    """z [N, K] to a row of a table, [N, width]; of the table of its step, where ``places`` have one each."""

    def __init__(self, start: Tensor, places: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(start)
        self.places = places

    def forward(self, z: Tensor, t: Tensor | None = None) -> Tensor:
        """``t`` [N] counts from 1; behind the last place its table holds."""
        if t is None:
            return z @ self.rows
        place = (t.long() - 1).clamp(0, self.places - 1)
        return torch.einsum("ni,pij->npj", z, self.rows)[torch.arange(len(z), device=z.device), place]


def table(sizes: Sizes, width: int, scale: float, middle: Tensor | float = 0.0) -> Table:
    """A table that begins at random around ``middle``."""
    shape = (sizes.states, width)
    return Table(middle + scale * torch.randn(*((sizes.places,) if sizes.places else ()), *shape), sizes.places)


class Moves(nn.Module):
    """Logits of p(z_t|z_{t-1}, a_{t-1}, t); without a state, or behind zeros, those of p(z_1)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(sizes.states))
        self.stay = table(sizes, sizes.states, 0.1, 3 * torch.eye(sizes.states) if sizes.places else 0.0)
        self.acted = nn.Parameter(torch.zeros(sizes.actions, sizes.states, sizes.states)) if sizes.actions else None

    def forward(self, *given: Tensor) -> Tensor:
        """Nothing to [K]; z [N, K], and with actions a [N, A], and with places t [N], to [N, K]."""
        if not given:
            return self.first
        z, *others = given
        logits = self.stay(z, others[-1] if self.stay.places else None)
        if self.acted is not None:
            logits = logits + torch.einsum("ni,na,aij->nj", z, others[0], self.acted)
        return torch.where(z.sum(-1, keepdim=True) == 0, self.first, logits)


class Readout(nn.Module):
    """z [N, K], and with places t [N], to the parameters of p(x_t|z_t,t): logits [N, X], or loc and scale."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.loc = table(sizes, sizes.pixels, 1.0)
        self.scale = table(sizes, sizes.pixels, 0.0, 0.5) if sizes.observed == "numbers" else None

    def forward(self, z: Tensor, *t: Tensor) -> Tensor | dict[str, Tensor]:
        """A row of each table."""
        loc: Tensor = self.loc(z, *t)
        return loc if self.scale is None else {"loc": loc, "scale": F.softplus(self.scale(z, *t)) + 1e-3}


def filtering(moves: Moves, readout: Readout, family: Family, sizes: Sizes) -> Callable[..., Tensor]:
    """The belief of the next step from that of the last one, [N, K], and x [N, X]: eqs. 19 and 20, normalised."""
    states, shape = sizes.states, (sizes.pixels,)

    def step(b: Tensor, x: Tensor, *others: Tensor) -> Tensor:
        every, n = torch.eye(states, dtype=b.dtype, device=b.device), len(b)
        law = torch.where(b.sum(-1, keepdim=True) == 0, 0.0, log_probs(b))
        z, (x, *read) = every.repeat(n, 1), [v.repeat_interleave(states, 0) for v in (x, *others)]
        pair = moves(z, *read).log_softmax(-1).unflatten(0, (n, states))
        params = family.params(readout(z, *(read[-1:] if sizes.places else ())), shape, {})
        own = family.log_prob(params, x, 1).unflatten(0, (n, states))
        return told(normalised(joined(law, moves().log_softmax(-1), pair, own, first=1)))

    return step


def told(law: Tensor) -> Tensor:
    """A belief from its logarithm, [N, K]. Of what no state can show there is none: it is NaN until a sequence begins
    anew, where zeros would say that nothing was seen yet.
    """
    return torch.where((law == -torch.inf).all(-1, keepdim=True), torch.nan, law.exp())


# ----------------------------------------------------------------------------------------------------------- formula


def build(sizes: Sizes) -> World:
    """A hidden Markov model; ``world.loss(x=[B, T, X], first=[B, T])`` is −log p(x), and a=[B, T, A] with actions."""
    act, place, states = ",a_{t-1}" if sizes.actions else "", ",t" if sizes.places else "", sizes.states
    moves, readout = Moves(sizes), Readout(sizes)
    trans = OneHot(f"p(z_t|z_{{t-1}}{act}{place})", moves, shape=states)
    start = OneHot("p(z_1)", moves, shape=states)
    law = Bernoulli if sizes.observed == "bits" else Normal
    emit = law(f"p(x_t|z_t{place})", readout, shape=sizes.pixels)
    update = filtering(moves, readout, bernoulli if sizes.observed == "bits" else normal, sizes)
    chain = Chain("t", trans * emit, over="z", initial=start, reset="first")
    see = Deterministic(f"b_t = filter(b_{{t-1}}, x_t{act}{place})", update, shape=states)
    post = OneHot("q(z_t|b_t)", lambda b: {"probs": b}, shape=states)
    known = Deterministic("b_t = known(z_t, b_{t-1})", lambda z, _: z, shape=states)
    return World(prior=trans * known, posterior=see * post, heads=[emit], loss=-Evidence(chain).mean())


# ------------------------------------------------------------------------------------------------------------ system

FITS = {
    "rows": {
        "steps": 1500, "batch": 64, "lr": 0.1, "weight_decay": 1e-2, "clip": 10.0, "schedule": "cosine", "ema": 0.995
    }
}  # fmt: skip
SYSTEM = System(
    name="hmm",
    kind="worlds",
    paper="Rabiner 1989, Proceedings of the IEEE 77(2)",
    bibtex="""@article{rabiner1989hmm,
  title   = {A Tutorial on Hidden {Markov} Models and Selected Applications in Speech Recognition},
  author  = {Rabiner, Lawrence R.},
  journal = {Proceedings of the IEEE},
  volume  = {77},
  number  = {2},
  pages   = {257--286},
  year    = {1989},
}""",
    presets={"rows": rows, "tiny": tiny},
    fits=FITS,
    build=build,
    data="rolling",
    summary="A hidden Markov model, learnt by the gradient of its exact likelihood; its state is the exact belief.",
)


if __name__ == "__main__":
    world = build(tiny())
    print(world.loss, world.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(world.parameters(), lr=1e-2)
    x, first = torch.rand(32, 8, 8).bernoulli(), torch.zeros(32, 8, dtype=torch.bool)
    before = world.loss(x=x, first=first).value
    before.backward()
    optimiser.step()
    after = world.loss(x=x, first=first).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per sequence")
