"""What changes a value is printed: operators with other settings never print alike, in any of the three notations."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import nn

from worldformula import (
    MMD,
    ContrastiveDivergence,
    Data,
    Expression,
    Gibbs,
    MoE,
    Normal,
    SIGReg,
    Value,
)
from worldformula.formula.print.mathml import mathml

data, z = Data("p_data(x)", shape=4), Value("z", shape=3)
prior, encode = Normal("p(z)", shape=3), Normal("q(z|x)", nn.Linear(4, 6), shape=3)
energy = Gibbs("p(x)", nn.Linear(4, 1), shape=4)
other = Normal("q(z|y)", nn.Linear(2, 6), shape=3)

ALTERNATIVES: dict[str, list[Callable[[], Expression]]] = {
    "MMD": [
        lambda: MMD(data * encode, prior),
        lambda: MMD(data * encode, prior, scale=2.0),
        lambda: MMD(data * encode, prior, scale=[1.0, 2.0]),
        lambda: MMD(data * encode, prior, scale=[1.0, 2.0], kernel="imq"),
    ],
    "SIGReg": [
        lambda: SIGReg(z),
        lambda: SIGReg(z, knots=5),
        lambda: SIGReg(z, directions=5),
        lambda: SIGReg(z, scaled=False, knots=5),
    ],
    "ContrastiveDivergence": [
        lambda: ContrastiveDivergence(energy),
        lambda: ContrastiveDivergence(energy, step_size=0.02),
        lambda: ContrastiveDivergence(energy, noise=0.02),
        lambda: ContrastiveDivergence(energy, start="x_0"),
        lambda: ContrastiveDivergence(energy, start=Normal("p(x)", shape=4)),
    ],
    "numbers": [lambda: Value("w") * 1234567890.2, lambda: Value("w") * 1234567890.4],
}


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_other_settings_print_otherwise(name: str) -> None:
    built = [build() for build in ALTERNATIVES[name]]
    notations: list[Callable[[Expression], str]] = [lambda e: e.latex, repr, lambda e: mathml(e.node)]
    for notation in notations:
        for a, b in itertools.combinations(map(notation, built), 2):
            assert a != b


def test_the_scale_that_is_printed_is_the_one_that_counts() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(6, 3), torch.randn(6, 3)

    def by_hand(scale: float) -> float:
        """The biased estimate with the Gaussian kernel, C = 2·D·scale²."""

        def k(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (-(a[:, None] - b[None]).square().sum(-1) / (6 * scale**2)).exp().mean()

        return float(k(x, x) + k(y, y) - 2 * k(x, y))

    a, b = Data("p_a(z)", shape=3), Normal("p(z)", shape=3)
    for scale in (1.0, 0.5):
        formula = MMD(a, b, scale=scale, unbiased=False)
        out = formula(z=x, noise=dict.fromkeys(formula.noise(z=x), y))
        assert float(out.value) == pytest.approx(by_hand(scale), abs=1e-5)
        assert ("0.5" in formula.latex) == (scale == 0.5)


def test_weights_of_a_mixture_keep_six_digits() -> None:
    shown = MoE([encode, other], weights=[1 / 3, 2 / 3]).latex
    assert shown == r"q(z \mid x, y) = 0.333333\, q(z \mid x) + 0.666667\, q(z \mid y)"


def test_small_settings_are_powers_of_ten_in_latex() -> None:
    assert r"\eta=10^{-5}" in ContrastiveDivergence(energy, step_size=1e-5).latex
