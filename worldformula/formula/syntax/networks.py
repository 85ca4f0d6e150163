"""Networks as children of what is made of factors: each once, under a name from its factor that never changes."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from worldformula.formula.syntax.factor import Factor


def register_networks(owner: nn.Module, used: Iterable[Factor], initial: nn.Module | None = None) -> None:
    """Make every network of the factors a child of ``owner``, once, under a stable name: ``q_z_given_x``."""
    seen: set[int] = set()
    kind = type(owner)
    counts: dict[str, int] = {}  # of each name that is taken, the next number to try
    for factor in used:
        for part, suffix in ((factor.net, ""), (factor.constants, "_constants" if factor.net is not None else "")):
            if isinstance(part, nn.Module) and id(part) not in seen:
                seen.add(id(part))
                name = wish = factor.header.identifier + suffix
                count = counts.get(wish, 2)
                while name in owner._modules or hasattr(kind, name):  # an instance is not asked: it might compute
                    name, count = f"{wish}_{count}", count + 1
                counts[wish] = count
                owner.add_module(name, part)
    if initial is not None:
        owner.add_module("initial_state", initial)


def networks(owner: nn.Module) -> dict[int, str]:
    """``id(network)`` -> attribute of the owner."""
    return {id(module): name for name, module in owner.named_children()}
