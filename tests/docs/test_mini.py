"""The mini edition runs, learns, prints what the library prints and has its value."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import worldformula as wf

PATH = Path(__file__).parents[2] / "docs/mini.py"


@pytest.fixture(scope="module")
def mini() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mini", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mini"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def nets() -> tuple[nn.Module, nn.Module]:
    return nn.Linear(5, 4), nn.Linear(2, 5)


def test_it_is_a_page_or_three(mini: ModuleType) -> None:
    lines = [line.strip() for line in PATH.read_text(encoding="utf-8").splitlines()]
    assert len([line for line in lines if line and not line.startswith(("#", '"""'))]) <= 200


def test_a_vae_learns_and_has_the_value_of_the_library(mini: ModuleType) -> None:
    loss, values, ours, theirs = mini.demo(steps=40)
    assert values[-1] < 0.7 * values[0]
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert "def formula" in loss.code


FORMULAS = {
    "vae": lambda m, p, q, d, mean: mean(m.KL(q, p) - m.E(q, m.log(d))),
    "joint": lambda m, p, q, d, mean: mean(m.E(q, m.log(q) - m.log(p) - m.log(d))),
    "weighted": lambda m, p, q, d, mean: mean(0.5 * (m.KL(q, p) - m.E(q, m.log(d))) * 2.0),
    "nested": lambda m, p, q, d, mean: mean(m.KL(q, p) - (m.E(q, m.log(d)) - 3.0)),
    "zero": lambda m, p, q, d, mean: mean(m.E(q, m.log(d)) - m.E(q, m.log(d))),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_print_value_and_gradient_are_those_of_the_library(
    mini: ModuleType, nets: tuple[nn.Module, nn.Module], name: str
) -> None:
    encoder, decoder = nets

    def write(m: Any, mean: Any) -> Any:
        p, q, d = m.Normal("p(z)", shape=2), m.Normal("q(z|x)", encoder), m.Bernoulli("p(x|z)", decoder)
        return FORMULAS[name](m, p, q, d, mean)

    ours, theirs = mini.Loss(write(mini, mini.mean)), write(wf, lambda f: f.mean())
    x, noise = torch.rand(7, 5), {"z": torch.randn(7, 2)}
    assert str(ours) == str(theirs)
    a, b = ours(x=x, noise=noise), theirs(x=x, noise=noise).value
    torch.testing.assert_close(a, b)
    weights = [*encoder.parameters(), *decoder.parameters()]
    for left, right in zip(
        torch.autograd.grad(a, weights), torch.autograd.grad(b, weights, allow_unused=True), strict=True
    ):
        torch.testing.assert_close(left, torch.zeros_like(left) if right is None else right, atol=1e-6, rtol=1e-5)


def test_a_network_runs_once(mini: ModuleType, nets: tuple[nn.Module, nn.Module]) -> None:
    q, d = mini.Normal("q(z|x)", nets[0]), mini.Bernoulli("p(x|z)", nets[1])
    code = mini.Loss(mini.mean(mini.E(q, mini.log(d)) + mini.E(q, mini.log(q)) - mini.KL(q, q))).code
    assert code.count("self.q_z_given_x(") == 1
    assert code.count("noise(") == 1


def test_two_factors_of_one_header_are_two(mini: ModuleType) -> None:
    p, r = mini.Normal("p(z)", shape=2), mini.Normal("p(z)", shape=2)
    loss = mini.Loss(mini.mean(mini.E(p, mini.log(p)) - mini.E(r, mini.log(r))))
    assert loss.code.count("noise(") == 2


def test_what_it_cannot_do_it_says(mini: ModuleType) -> None:
    b, p = mini.Bernoulli("q(z)", shape=2), mini.Normal("p(z)", shape=2)
    with pytest.raises(ValueError, match="no closed form"):
        mini.Loss(mini.KL(b, p))
    with pytest.raises(ValueError, match="gradient="):
        mini.Loss(mini.E(b, mini.log(p)))
    with pytest.raises(ValueError, match="expected a header"):
        mini.Normal("q(z|x", shape=2)
