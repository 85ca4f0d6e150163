r"""What may stand where a decoder stood: one term that makes a state tell what the embedding of its step says.

    target            the term, with \hat e_t = W [h_t, z_t]                          published as
    "reconstruction"  −log p(x_t|h_t,z_t)                                             Dreamer
    "barlow"          0.05 · B_λ[\hat e, sg e], λ = 5e-4                              R2-Dreamer, arXiv:2603.18202
    "info_nce"        NCE[\hat e, sg e]                                               its baseline
    "next"            B_λ[\hat e, sg e], \hat e_t = g(h_{<t}, z_{<t}, a_{<t})        NE-Dreamer, arXiv:2603.02765
    "cpc"             CPC_γ[\hat g, g'], of crops that are seen up to nine steps on    see `worldformula.world.views`
    "twister"         the same beside the reconstruction                              TWISTER (Burchi & Timofte 2025)
    "prototypes"      S[\hat y, sg y'] and S[y, sg y'], assignments to prototypes      DreamerPro, arXiv:2110.14565
    "none"            nothing: reward and continuation alone                          an ablation

W has no bias; g is a causal transformer of two layers, which ends at resets, and a step without a past does not count.
The embedding that W predicts is a target only, and learns through q(z_t|h_t,e_t): the authors call the stop essential.
Rows are all steps of all sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError, near
from worldformula.formula import Deterministic, Expression, Factor, InfoNCE, Redundancy, Value, sg
from worldformula.nets.transformer import CausalTransformer
from worldformula.world.observations import Names

Target = Literal["reconstruction", "barlow", "info_nce", "next", "cpc", "twister", "prototypes", "none"]
DECODED = ("reconstruction", "twister")  # what decodes observations
BARLOW = 0.05  # the weight of the authors' code, for embeddings of their width
WIDEST = 256  # of the transformer


class Projection(nn.Module):
    """W of the features of a state, ``[N, ...]`` each, side by side: ``[N, width]``."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, width, bias=False)

    def forward(self, *features: Tensor) -> Tensor:
        """The features in the order of the formula."""
        found: Tensor = self.linear(torch.cat([x.flatten(1) for x in features], -1))
        return found


def predicted(
    target: Target, features: int, width: int, actions: Mapping[str, int], units: int = WIDEST
) -> tuple[tuple[Factor, ...], Expression | None]:
    """What is drawn for a term about e_t itself, and the term; nothing where there is none, as for a reconstruction.

    Args:
        target: one of the table.
        features: the numbers of h_t and z_t together.
        width: of e_t.
        actions: the widths of the actions, by variable.
        units: of the transformer, where it is used.
    """
    if target in ("none", "reconstruction"):
        return (), None
    ours, theirs = Value(r"\hat e_t"), sg(Value("e_t", shape=width))
    if target == "next":
        past = ", ".join(Names.at(name, "<t") for name in ("h", "z", *actions))
        net = CausalTransformer(features + sum(actions.values()), width, min(units, WIDEST))
        hat = Deterministic(rf"\hat e_t = g({past})", net, shape=width)
        return (hat,), Redundancy(ours, theirs, where=1 - Value("first_t"))
    hat = Deterministic(r"\hat e_t = W(h_t, z_t)", Projection(features, width), shape=width)
    return (hat,), BARLOW * Redundancy(ours, theirs) if target == "barlow" else InfoNCE(ours, theirs)


def require_target(target: str) -> None:
    """ConfigError for another word."""
    known = get_args(Target)
    if target not in known:
        raise ConfigError(f"expected target as one of {', '.join(known)}, got {target!r}.{near(target, known)}")
