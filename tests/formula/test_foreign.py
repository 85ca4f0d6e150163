"""A family and an operator that a user defines, where they cannot be imported from, run in emitted code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from worldformula import KL, E, Entropy, Expression, Mixture, Normal, log
from worldformula.errors import NoClosedFormError
from worldformula.families import NormalFamily, kl_pair
from worldformula.families.base import Params
from worldformula.families.writing import Sign
from worldformula.formula.factors.joint import Factor
from worldformula.formula.syntax.nodes import Operator, Use


def wide_family() -> NormalFamily:
    @dataclass(frozen=True)
    class WideFamily(NormalFamily):
        """A Normal whose samples lie twice as far out."""

        name: ClassVar[str] = "wide"

        def sample(self, params: Params, noise: Tensor) -> Tensor:
            return super().sample(params, 2.0 * noise)

    return WideFamily()  # the text of a Normal, which it inherits, is not its own


def agree(loss: Expression, **given: Tensor) -> None:
    noise = loss.noise(**given)
    fast, slow = loss(**given, noise=noise), loss.interpret(**given, noise=noise)
    torch.testing.assert_close(fast.value, slow.value)


def test_a_family_of_ones_own_is_bound() -> None:
    family = wide_family()
    q = Factor("q(z|x)", nn.Linear(3, 4), family=family, shape=2)
    loss = E(q, log(Normal("p(x|z)", nn.Linear(2, 3), shape=3, scale=1.0))).mean()
    agree(loss, x=torch.randn(5, 3))
    assert "WideFamily" in loss.code
    noise = torch.ones(5, 2)
    drawn = loss(x=torch.zeros(5, 3), noise={"z": noise}).samples["z"]
    torch.testing.assert_close(drawn, q.sample(x=torch.zeros(5, 3), noise=noise))


def test_closed_forms_are_of_a_density_and_not_inherited_beside_another() -> None:
    """Half as wide a density: KL and entropy of the Normal would be those of another distribution."""

    @dataclass(frozen=True)
    class Narrow(NormalFamily):
        name: ClassVar[str] = "narrow"

        def log_prob(self, params: Params, value: Tensor, rank: int) -> Tensor:
            loc, scale = params
            return super().log_prob((loc, 0.5 * scale), value, rank)

        def sample(self, params: Params, noise: Tensor) -> Tensor:
            loc, scale = params
            return super().sample((loc, 0.5 * scale), noise)

    q, p = Factor("q(z|x)", nn.Linear(3, 4), family=Narrow(), shape=2), Normal("p(z)", shape=2)
    assert kl_pair(q.family, p.family) is None
    with pytest.raises(NoClosedFormError, match=r"Entropy\(q\(z\|x\)\): no closed form for narrow"):
        Entropy(q)(x=torch.zeros(5, 3))
    x = torch.randn(400, 3)
    loc, scale = q.params(x)
    own = torch.distributions.Normal(loc, 0.5 * scale)
    right = torch.distributions.kl_divergence(own, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    draws = KL(q, p, samples=400)(x=x, seed=0).value
    assert abs(draws - right).mean() < 0.1 * right.mean()
    assert kl_pair(wide_family(), p.family) is kl_pair(p.family, p.family)  # the density says what it is


def test_a_family_of_ones_own_is_a_component() -> None:
    p = Mixture("p(x|c)", nn.Linear(3, 10), component=wide_family(), components=2, shape=2)
    agree((-log(p)).mean(), x=torch.randn(5, 2), c=torch.randn(5, 3))


def test_an_operator_of_ones_own_needs_no_module() -> None:
    def doubled(loc: Any) -> Tensor:
        return 2 * loc[0].sum(-1)

    @dataclass(frozen=True, eq=False)
    class Doubled(Operator):
        q: Use
        symbol = Sign("Doubled", "D", "<mi>D</mi>")

        @property
        def parts(self) -> Any:
            return ((self.q,),)

        def lower(self, lowering: Any, scope: Any) -> Any:
            return lowering.call("doubled", doubled, lowering.params(self.q, scope))

        @property
        def estimator(self) -> tuple[str, str]:
            return "exact", "exact"

    q = Normal("q(z|x)", nn.Linear(3, 4), shape=2)
    loss = (Expression(Doubled(Use(q))) + KL(q, Normal("p(z)", shape=2))).mean()
    agree(loss, x=torch.randn(5, 3))
