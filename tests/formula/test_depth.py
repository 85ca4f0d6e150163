"""Long chains: the work of lowering and interpreting grows with the number of operations, not of paths between them."""

import torch

from worldformula import Deterministic, E, Normal, log


def test_a_deep_chain_with_two_paths_at_every_link():
    """2⁴⁰ paths lead from d_1 to d_41: whoever walks them all does not come back."""
    links = [Deterministic(f"d_{n + 1} = f(d_{n}, e_{n})", torch.add, shape=2) for n in range(1, 41)]
    sides = [Deterministic(f"e_{n} = g(d_{n})", torch.neg, shape=2) for n in range(1, 41)]
    q = Deterministic("d_1 = up(x)", torch.sin, shape=2)
    for side, link in zip(sides, links, strict=True):
        q = q * side * link
    loss = E(q, log(Normal("p(y|d_41)", lambda d: torch.cat((d, d), -1), shape=2)))
    data = {"x": torch.randn(3, 2), "y": torch.randn(3, 2)}
    torch.testing.assert_close(loss(**data).value, loss.interpret(**data).value)
