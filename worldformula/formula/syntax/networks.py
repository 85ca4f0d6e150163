"""Networks as children of what is made of factors: each once, under a name from its factor that never changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from worldformula.formula.syntax.factor import Factor
from worldformula.formula.syntax.hidden import Found, Reached


def register_networks(owner: nn.Module, used: Iterable[Factor], initial: nn.Module | None = None) -> None:
    """Make every network of the factors a child of ``owner``, once, under a stable name: ``q_z_given_x``."""
    seen: set[int] = set()
    kind = type(owner)
    counts: dict[str, int] = {}  # of each name that is taken, the next number to try
    for factor in used:
        for part, suffix in _parts(factor):
            if id(_itself(part)) not in seen:
                seen.add(id(_itself(part)))
                name = wish = factor.header.identifier + suffix
                count = counts.get(wish, 2)
                while name in owner._modules or _is_taken(owner, kind, name):
                    name, count = f"{wish}_{count}", count + 1
                counts[wish] = count
                owner.add_module(name, part)
    if initial is not None:
        owner.add_module("initial_state", initial)


def _parts(factor: Factor) -> Iterator[tuple[nn.Module, str]]:
    """What a factor holds: its network, or the modules that its function reaches; its constants; a slow copy."""
    for part in factor.net.modules if isinstance(factor.net, Found) else (factor.net,):
        if isinstance(part, nn.Module):
            yield part, ""
    if factor.constants is not None:
        yield factor.constants, "_constants" if factor.net is not None else ""
    if factor.slow_weights is not None:
        yield factor.slow_weights, "_updates"


def _itself(part: nn.Module) -> nn.Module:
    """The module that a function reaches, which may be the network of another factor too."""
    return part.whole[0] if isinstance(part, Reached) else part


def _is_taken(owner: nn.Module, kind: type, name: str) -> bool:
    """Whether an attribute has the name; an instance is not asked by ``hasattr``, as it might compute."""
    return hasattr(kind, name) or name in vars(owner)


def networks(owner: nn.Module) -> dict[int, str]:
    """``id(network)`` -> attribute of the owner."""
    return {id(_itself(module)): name for name, module in owner.named_children()}
