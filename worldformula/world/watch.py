"""What is logged of latents that nothing decodes: whether they still differ, and whether they are foretold.

A joint-embedding world may make its loss small by a constant. Its loss does not tell; its latents do, and so does what
it foretells beside a copy of where it began (LeCun 2022, section 4.3; Garrido et al. 2023, arXiv:2210.02885).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from worldformula.metrics.collapse import CODES, diagnosed

if TYPE_CHECKING:
    from worldformula.world.model import World


@torch.no_grad()
def watched(world: World, batch: Mapping[str, Tensor], labels: Mapping[str, Tensor] | None = None) -> dict[str, float]:
    """The numbers of `worldformula.metrics.collapse.diagnosed` of every latent that a world calls an embedding.

    Args:
        world: with ``embeddings``; of another one nothing is told.
        batch: series ``[B, T, ...]`` that its posterior reads, with its actions and the flags of first rows.
        labels: what is known of the same rows and not observed, ``[B, T, ...]`` by name.

    Returns:
        ``codes/z/rank`` and so on; ``codes/z/copy`` is the squared error of a latent that is foretold under the true
        actions from the first step of a window to its last, over that of the first latent itself. Windows that hold
        the beginning of an episode behind their first step say nothing about time.
    """
    if not world.embeddings:
        return {}
    states = world.filter(batch, deterministic=True)
    flags = batch.get(world.reset_name or "")
    lead = states[world.embeddings[0]].shape[:2]
    whole = torch.ones(lead[0], dtype=torch.bool) if flags is None else ~flags[:, 1:].flatten(1).bool().any(1)
    found = {name: diagnosed(states[name], whole.to(states[name].device), labels) for name in world.embeddings}
    if len(world.levels) == 1 and lead[1] > 1 and bool(whole.any()) and all(a in batch for a in world.actions):
        part = {k: v[whole] for k, v in batch.items() if v.ndim and len(v) == lead[0]}
        start = world.filter({k: v[:, :1] for k, v in part.items()}, deterministic=True).last()
        acted = {name: part[name][:, :-1] for name in world.actions}
        how: dict[str, Any] = {"actions": acted} if acted else {"horizon": lead[1] - 1}
        dream = world.imagine(start, **how, deterministic=True)
        for name in world.embeddings:
            seen = states[name][whole]
            error, copied = ((x - seen[:, -1]).square().mean() for x in (dream[name][:, -1], seen[:, 0]))
            if copied > 0 and bool(torch.isfinite(error)):
                found[name]["copy"] = float(error / copied)
    return {f"{CODES}{name}/{what}": value for name, own in found.items() for what, value in own.items()}
