"""Products of Normals with full covariances: against NumPy's inverses, row by row, with diagonal ones among them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from worldformula import KL, E, Laplace, LowRankNormal, MultivariateNormal, Normal, PoE, log
from worldformula.errors import FormulaError
from worldformula.families import poe, poe_full

DOUBLE = torch.float64


def experts():
    torch.manual_seed(0)
    return (
        Normal("p(z)", shape=3),
        MultivariateNormal("q(z|x)", nn.Linear(4, 9), shape=3).double(),
        MultivariateNormal("q(z|y)", nn.Linear(4, 9), shape=3).double(),
        Normal("q(z|u)", nn.Linear(4, 6), shape=3).double(),
    )


def given(rows=5):
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(rows, 4, dtype=DOUBLE, generator=generator) for name in "xyu"}


def by_hand(parts, values, flags):
    """Mean and covariance of every row, by NumPy."""
    means, covariances = [], []
    for row in range(5):
        precision, weighted = np.zeros((3, 3)), np.zeros(3)
        for part in parts:
            names = [c.key for c in part.conditions]
            if all(flags.get(n, np.ones(5))[row] for n in names):
                loc, scale = (np.asarray(p.detach() if isinstance(p, torch.Tensor) else p)
                              for p in part.params(*(values[n][row] for n in names)))  # fmt: skip
                loc = np.broadcast_to(loc, 3)
                own = scale @ scale.T if scale.ndim == 2 else np.diag(np.broadcast_to(scale, 3) ** 2)
                precision, weighted = precision + np.linalg.inv(own), weighted + np.linalg.inv(own) @ loc
        covariances.append(np.linalg.inv(precision))
        means.append(covariances[-1] @ weighted)
    return np.array(means), np.array(covariances)


@pytest.mark.parametrize("places", [(1, 2), (0, 1, 2, 3), (1, 3), (0, 2)])
def test_precisions_and_their_pulls_add_up(places):
    parts, values = [experts()[i] for i in places], given()
    product = PoE(parts)
    loc, tril = product.params(*(values[c.key] for c in product.conditions))
    mean, covariance = by_hand(parts, values, {})
    assert loc.detach().numpy() == pytest.approx(mean, rel=1e-9, abs=1e-12)
    assert (tril @ tril.mT).detach().numpy() == pytest.approx(covariance, rel=1e-9, abs=1e-12)
    assert (tril.triu(1) == 0).all()
    assert (tril.diagonal(dim1=-2, dim2=-1) > 0).all()


def test_absent_experts_count_for_nothing_row_by_row_in_code_and_walk():
    parts, values = experts(), given()
    product = PoE(parts)
    flags = {"x": np.array([1, 1, 0, 0, 1]), "y": np.array([1, 0, 1, 0, 0]), "u": np.array([1, 0, 0, 0, 1])}
    mean, covariance = by_hand(parts, values, flags)
    z = torch.randn(5, 3, dtype=DOUBLE)
    expected = [
        torch.distributions.MultivariateNormal(torch.tensor(m), torch.tensor(c)).log_prob(row)
        for m, c, row in zip(mean, covariance, z, strict=True)
    ]
    present = {name: torch.tensor(flag) for name, flag in flags.items()}
    density = log(product)
    found = density(z=z, **values, present=present).value
    torch.testing.assert_close(found, torch.stack(expected))
    torch.testing.assert_close(density.interpret(z=z, **values, present=present).value, found)
    alone = PoE(parts[1:3])  # nobody there, no prior: N(0, 1)
    flags = {name: torch.zeros(5) for name in "xy"}
    rows = log(alone)(z=z, x=values["x"], y=values["y"], present=flags).value
    torch.testing.assert_close(rows, torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1))


def test_gradients_are_those_of_inverses_and_diagonals_agree_with_the_diagonal_product():
    locs, heads = torch.randn(2, 3, dtype=DOUBLE), torch.randn(2, 3, 3, dtype=DOUBLE)
    leaves = [t.clone().requires_grad_() for t in (*locs, *heads)]
    trils = [h.tril(-1) + torch.diag_embed(h.diagonal().exp()) for h in leaves[2:]]
    mean, tril = poe_full((leaves[0], trils[0]), (leaves[1], trils[1]))
    precisions = [torch.linalg.inv(t @ t.mT) for t in trils]
    covariance = torch.linalg.inv(sum(precisions))
    expected = covariance @ sum(p @ m for p, m in zip(precisions, leaves[:2], strict=True))
    torch.testing.assert_close(mean, expected)
    weight = torch.randn(3, 3, dtype=DOUBLE)
    ours = torch.autograd.grad((mean @ weight[0]) + (tril @ tril.mT * weight).sum(), leaves, retain_graph=True)
    theirs = torch.autograd.grad((expected @ weight[0]) + (covariance * weight).sum(), leaves)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    scales = [torch.rand(2, 4, 3) + 0.1 for _ in range(2)]
    diagonal = [(torch.randn(2, 4, 3), s) for s in scales]
    loc, scale = poe(*diagonal)
    full_loc, full_tril = poe_full(diagonal[0], (diagonal[1][0], torch.diag_embed(scales[1])), diagonal=(0,))
    torch.testing.assert_close(full_loc, loc)
    torch.testing.assert_close(full_tril, torch.diag_embed(scale))
    assert full_tril.dtype is torch.float32


def test_a_product_is_learnt_through_and_compared_in_closed_form():
    prior, q_x, q_y, _ = experts()
    product = PoE([prior, q_x, q_y])
    p = Normal("p(x|z)", nn.Linear(3, 8), shape=4).double()
    loss = (KL(product, prior) - E(product, log(p))).mean()
    values = {name: given()[name] for name in "xy"}
    out = loss(**values, seed=0)
    torch.testing.assert_close(out.value, loss.interpret(**values, seed=0).value)
    out.value.backward()
    assert all(part.net.weight.grad.abs().sum() > 0 for part in (q_x, q_y))
    assert "diagonal=(0,)" in loss.code
    assert product.definition == "q(z|x,y) ∝ p(z) q(z|x) q(z|y)"


def test_what_has_no_closed_product_is_refused():
    q_x = experts()[1]
    for other in (Laplace("q(z|y)", nn.Linear(4, 6), shape=3), LowRankNormal("q(z|y)", nn.Linear(4, 9), shape=3)):
        with pytest.raises(FormulaError, match="one variable, family and declared shape"):
            PoE([q_x, other])
    with pytest.raises(FormulaError, match="Normal or MultivariateNormal experts"):
        PoE([Laplace("q(z|y)", nn.Linear(4, 6), shape=3)])
