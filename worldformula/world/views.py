r"""Terms that compare a world with views of its pictures: what a state foresees of them, and which prototypes they are.

    "twister"      CPC_γ[\hat g, g'] beside the reconstruction                        TWISTER (Burchi & Timofte 2025)
    "cpc"          the same alone
        x' = crop(x, u),  e' = enc(x'),  g'^k = G_k(e'),  \hat z ~ p(z|h)
        \hat g^k_t = F_k(h_{t−k}, \hat z_{t−k}, a_{t−k}, …, a_{t−1}),   k = 0 … 9,   γ = 0.75
    "prototypes"   S[y, sg y'] + S[\hat y, sg y'] + (‖g‖ − 1)² + (‖\hat g‖ − 1)²      DreamerPro, arXiv:2110.14565
        x' = shift(x, u),  e' = \bar{enc}(x'),  g' = \bar W(e'),  g = W(e),  \hat g = V(h, z),  y = cosines to C

a_t is chosen at row t, so the actions named lead from row t − k to row t; a row counts for a horizon where the episode
had begun k rows before. Observations that are no pictures are seen as they are.

Deviations       authors' code                              here                             why
CPC, the code    of z ~ q(z|x'), which reads no h           of e'                            here q reads h_t, so that
                                                                                             F could tell it unseen
CPC, networks    two layers of 512, ELU                     two of `units`, norm and SiLU    as those of the heads
views            two of a step, both filtered, each         one, which the slow encoder      one pass more, without a
(prototypes)     assigned by the other; one shift for all   sees; the world filters what     gradient, and no second
                 steps of a sequence                        was observed; a shift a step     world
prototypes       stand still for 10,000 updates             learn from the first             many runs have fewer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldformula.formula import CPC, Deterministic, Expression, Factor, SwAV, Uniform, Value, norm2, sg, sqrt
from worldformula.nets.mlp import MLP
from worldformula.nets.views import Crop, Shift
from worldformula.world.observations import Names

HORIZONS, DECAY, WIDEST, LAYERS = 10, 0.75, 512, 2
SLOW, NUMBERS = 0.95, 32
TINY = 1e-12  # below which a length is 0 without a slope of infinity


class Ahead(nn.Module):
    """F_k: what is to be seen k rows on, from a state and the actions on the way, for k = 0 … ``horizons`` − 1."""

    def __init__(self, features: int, actions: int, outputs: int, units: int, horizons: int = HORIZONS) -> None:
        super().__init__()
        self.outputs = outputs
        self.nets = nn.ModuleList(MLP(features + k * actions, outputs, units, LAYERS) for k in range(horizons))

    def forward(self, *series: Tensor) -> tuple[Tensor, Tensor]:
        """h, z, actions ``[B, T, ...]`` and flags of first rows ``[B, T]``, to what was foretold of every row,
        ``[B, T, horizons, outputs]``, and which of it is of the same episode, ``[B, T, horizons]``.
        """
        h, z, *actions, first = series
        begun = (first != 0).long().cumsum(1)
        state = torch.cat((h, z.flatten(2)), -1)
        acted = torch.cat([a.reshape(*a.shape[:2], -1) for a in actions], -1)
        rows, steps = begun.shape
        told, counts = [], []
        for k, net in enumerate(self.nets):
            left = max(steps - k, 0)
            read = [state[:, :left], *(acted[:, j : j + left] for j in range(k if left else 0))]
            found = net(torch.cat(read, -1).flatten(0, 1)).unflatten(0, (rows, left)) if left else None
            like = state.new_zeros(rows, steps - left, self.outputs)
            told.append(like if found is None else torch.cat((like.to(found), found), 1))
            counts.append(F.pad((begun[:, k:] == begun[:, :left]).to(state), (steps - left, 0)))
        return torch.stack(told, 2), torch.stack(counts, 2)


class Apart(nn.Module):
    """G_k: a code of the embedding for every horizon, ``[N, width]`` to ``[N, horizons, outputs]``."""

    def __init__(self, width: int, outputs: int, units: int, horizons: int = HORIZONS) -> None:
        super().__init__()
        self.nets = nn.ModuleList(MLP(width, outputs, units, LAYERS) for _ in range(horizons))

    def forward(self, e: Tensor) -> Tensor:
        """One network a horizon."""
        return torch.stack([net(e) for net in self.nets], 1)


class Directions(nn.Module):
    """C: directions that codes are compared with, drawn at random in the beginning."""

    def __init__(self, numbers: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(count, numbers), dim=-1))

    def forward(self, *codes: Tensor) -> tuple[Tensor, ...]:
        """The cosines of codes ``[N, numbers]``, ``[N, count]`` of each."""
        directions = F.normalize(self.weight, dim=-1)
        return tuple(F.normalize(g, dim=-1) @ directions.T for g in codes)


def foreseen(
    embed: Deterministic, prior: Factor, pictures: Sequence[str], features: int, width: int,
    actions: Mapping[str, int], units: int, first: str = "first",
) -> tuple[tuple[Factor, ...], Expression]:  # fmt: skip
    """What is drawn for "cpc", and the term.

    Args:
        embed: e_t of a step's observations.
        prior: p(z_t|h_t).
        pictures: the variables of the pictures among them.
        features: the numbers of h_t and z_t together.
        width: of e_t.
        actions: the widths of the actions, by variable.
        units: of the networks.
        first: the variable of the flags of first rows.
    """
    units = min(units, WIDEST)
    seen, view = _view(embed, pictures, Crop())
    ahead = Ahead(features, sum(actions.values()), units, units)
    read = ", ".join(("h_{1:T}", r"\hat z_{1:T}", *(Names.at(a, "1:T") for a in actions), f"{first}_{{1:T}}"))
    hat = Deterministic(rf"\hat g_t, M'_t = F({read})", ahead, shape=[(HORIZONS, units), (HORIZONS,)])
    code = Deterministic("g'_t = G(e'_t)", Apart(width, units, units), shape=(HORIZONS, units))
    drawn = (*seen, view, prior.rename(z=r"\hat z"), hat, code)
    return drawn, CPC(Value(r"\hat g_t"), Value("g'_t"), decay=DECAY, where=Value("M'_t"))


def prototyped(
    embed: Deterministic, pictures: Sequence[str], features: int, width: int, count: int, first: str = "first"
) -> tuple[tuple[Factor, ...], Expression]:
    """What is drawn for "prototypes", and the term; ``count`` prototypes, and the rest as of `foreseen`."""
    seen, view = _view(embed.slow(SLOW), pictures, Shift())
    own = Deterministic("g_t = W(e_t)", nn.Linear(width, NUMBERS), shape=NUMBERS)
    slow = own.slow(SLOW).rename(g="g'", e="e'")
    hat = Deterministic(r"\hat g_t = V(h_t, z_t)", MLP(features, NUMBERS, NUMBERS, 0), shape=NUMBERS)
    scores = Deterministic(
        r"y_t, \hat y_t, y'_t = C(g_t, \hat g_t, g'_t)", Directions(NUMBERS, count), shape=[count] * 3
    )
    target = sg(Value("y'_t"))
    term = SwAV(Value("y_t"), target) + SwAV(Value(r"\hat y_t"), target, where=1 - Value(f"{first}_t"))
    for name in ("g_t", r"\hat g_t"):
        term = term + (sqrt(norm2(Value(name)) + TINY) - 1) ** 2
    return (*seen, view, own, slow, hat, scores), term


def _view(embed: Factor, pictures: Sequence[str], net: Crop | Shift) -> tuple[tuple[Factor, ...], Factor]:
    """The views of pictures, all cut out alike, and the embedding of these with what else is observed."""
    views = {word: f"{base}'{line}{number}" for word in pictures for base, line, number in [word.partition("_")]}
    drawn: list[Factor] = [Uniform("p(u_t)", shape=net.noise)] if pictures else []
    name = type(net).__name__.lower()
    drawn += [Deterministic(f"{Names.at(view)} = {name}({Names.at(word)}, u_t)", net) for word, view in views.items()]
    return tuple(drawn), embed.rename(e="e'", **views)
