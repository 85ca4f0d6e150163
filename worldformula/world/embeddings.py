r"""What may stand where a decoder stood: one term that makes a state tell what the embedding of its step says.

    target            the term, with \hat e_t = W [h_t, z_t]                          published as
    "reconstruction"  −log p(x_t|h_t,z_t)                                             Dreamer
    "barlow"          0.05 · B_λ[\hat e, sg e], λ = 5e-4                              R2-Dreamer, arXiv:2603.18202
    "info_nce"        NCE[\hat e, sg e]                                               its baseline
    "none"            nothing: reward and continuation alone                          Dreamer v1, fig. 9

W has no bias. The embedding is a target only, and learns through q(z_t|h_t,e_t): the authors call the stop essential.
Rows are all steps of all sequences.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError, near
from worldformula.formula import Deterministic, Expression, InfoNCE, Redundancy, Value, sg

Target = Literal["reconstruction", "barlow", "info_nce", "none"]
BARLOW = 0.05  # the weight of the authors' code, for embeddings of their width


class Projection(nn.Module):
    """W of the features of a state, ``[N, ...]`` each, side by side: ``[N, width]``."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, width, bias=False)

    def forward(self, *features: Tensor) -> Tensor:
        """The features in the order of the formula."""
        found: Tensor = self.linear(torch.cat([x.flatten(1) for x in features], -1))
        return found


def predicted(target: Target, features: int, width: int) -> tuple[tuple[Deterministic, ...], Expression | None]:
    """What is drawn for the term, and the term; nothing where there is none, as for a reconstruction.

    Args:
        target: one of the table.
        features: the numbers of h_t and z_t together.
        width: of e_t.
    """
    if target in ("none", "reconstruction"):
        return (), None
    hat = Deterministic(r"\hat e_t = W(h_t,z_t)", Projection(features, width), shape=width)
    ours, theirs = Value(r"\hat e_t"), sg(Value("e_t", shape=width))
    return (hat,), BARLOW * Redundancy(ours, theirs) if target == "barlow" else InfoNCE(ours, theirs)


def require_target(target: str) -> None:
    """ConfigError for another word."""
    known = get_args(Target)
    if target not in known:
        raise ConfigError(f"expected target as one of {', '.join(known)}, got {target!r}.{near(target, known)}")
