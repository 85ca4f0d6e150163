"""Formulas over time through ``torch.compile``: the body of the loop is compiled once, and nothing changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.formula.models import B, D, Join, T, X, Z, gradients
from worldformula import KL, Deterministic, E, Mean, Normal, Sum, Value, log
from worldformula.formula.code.pieces import Repeated, _pieces
from worldformula.worlds import rssm


class Counted:
    """A backend that counts what it is asked to compile, and runs it as it is."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, _: object) -> object:
        self.graphs.append(graph)
        return graph.forward


def state_space():
    core = Deterministic("h_t = f(h_{t-1},z_{t-1},a_{t-1})", Join(D + Z + 2, D), shape=D)
    q = Normal("q(z_t|h_t,x_t)", Join(D + X, 2 * Z), shape=Z)
    p, dec = Normal("p(z_t|h_t)", nn.Linear(D, 2 * Z), shape=Z), Normal("p(x_t|h_t,z_t)", Join(D + Z, 2 * X), shape=X)
    return Sum("t", E(core * q, log(dec) - KL(q, p)), reset="first", mask="valid").mean()


def several_samples():
    core = Deterministic("h_t = f(h_{t-1},a_t)", Join(D + 2, D), shape=D)
    q, p = Normal("q(z_t|h_t)", nn.Linear(D, 2 * Z), shape=Z), Normal("p(x_t|z_t)", nn.Linear(Z, 2 * X), shape=X)
    return Sum("t", E(core, E(q, log(p), samples=3)), reset="first").mean()


def looking_ahead():
    core = Deterministic("h_t = f(h_{t-1},a_t)", Join(D + 2, D), shape=D)
    value = Deterministic("v_t = v(h_t)", nn.Sequential(nn.Linear(D, 1), nn.Flatten(0)), shape=())
    target = Deterministic("R_t = back(v_{1:T})", lambda v: v.flip(1).cumsum(1).flip(1), shape=())
    return Mean("t", E(core * value * target, (Value("R_t") - Value("v_t")) ** 2), reset="first").mean()


def memoryless():
    return Sum("t", log(Normal("p(x_t|a_t)", nn.Linear(2, 2 * X), shape=X))).mean()


CASES = {
    "state space": state_space, "several samples": several_samples, "looking ahead": looking_ahead,
    "no loop": memoryless,
}  # fmt: skip


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def series(loss, length=T):
    given = {
        "x": torch.randn(B, length, X), "a": torch.randn(B, length, 2),
        "first": (torch.rand(B, length) < 0.3).float(), "valid": (torch.rand(B, length) < 0.8).float(),
    }  # fmt: skip
    return {k: given[k] for k in loss.program.inputs}


@pytest.mark.parametrize("case", CASES)
def test_value_gradient_and_draws_are_those_of_the_whole_function(case) -> None:
    loss = CASES[case]()
    given = series(loss)
    before = loss(**given, seed=1)
    expected = gradients(before.value, loss)
    loss.compile(backend="aot_eager")
    for _ in range(2):
        out = loss(**given, seed=1)
        torch.testing.assert_close(out.value, before.value)
        torch.testing.assert_close(gradients(out.value, loss), expected)
    for key, drawn in before.samples.items():
        torch.testing.assert_close(out.samples[key], drawn)


@pytest.mark.parametrize("length", [3, 12])
def test_the_body_is_compiled_once_whatever_the_length(length) -> None:
    loss, backend = state_space(), Counted()
    loss.compile(backend=backend)
    given = series(loss, length)
    for _ in range(2):
        loss(**given, seed=1).value.backward()
    assert len(backend.graphs) == 3  # before, step, after
    sizes = sorted(len(graph.graph.nodes) for graph in backend.graphs)
    assert sizes[-1] < 150


def test_without_gradients_the_body_is_compiled_for_that_too() -> None:
    loss, backend = state_space(), Counted()
    loss.compile(backend=backend)
    given = series(loss)
    with torch.no_grad():
        assert not loss(**given, seed=1).value.requires_grad
    assert len(backend.graphs) == 3


def test_the_loop_of_an_rssm_is_cut_in_three() -> None:
    loss = rssm.build(rssm.tiny(), {"vector": (5,)}, 3).loss
    pieces = _pieces(loss.program.function(loss, deterministic=False))
    assert pieces is not None
    assert pieces.names == ("before", "step", "after")
    step = pieces.source.split("def step(")[1].split("def ")[0]
    assert "q_z = one_hot.params(q_z_given_h_e(h, e_s_at_t)" in step
    assert "log_prob" not in step


def test_a_formula_without_a_loop_is_compiled_whole() -> None:
    loss = memoryless()
    assert _pieces(loss.program.function(loss, deterministic=False)) is None


@pytest.mark.parametrize("case", ["state space", "no loop"])
def test_detached_results_leave_value_and_gradient_as_they_are(case) -> None:
    loss = CASES[case]()
    given = series(loss)
    before = loss(**given, seed=1)
    expected = gradients(before.value, loss)
    loss.compile(backend="aot_eager", detached=True)
    out = loss(**given, seed=1)
    torch.testing.assert_close(out.value, before.value)
    torch.testing.assert_close(gradients(out.value, loss), expected)
    assert not any(term.requires_grad for term in out.terms.values())


class Doubled(nn.Module):
    """Twice as much in training."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Join(D + 2, D)

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        return self.net(*given) * (2 if self.training else 1)


def test_a_loop_trusts_its_later_steps_and_no_other_call() -> None:
    """What changes between two calls is seen, as the mode of a network."""
    core = Deterministic("h_t = f(h_{t-1},a_t)", Doubled(), shape=D)
    loss, backend = Sum("t", E(core, log(Normal("p(x_t|h_t)", nn.Linear(D, 2 * X), shape=X)))).mean(), Counted()
    given = series(loss, 6)
    expected = {mode: loss.train(mode)(**given).value.item() for mode in (True, False)}
    loss.compile(backend=backend)
    for mode in (True, False, True):
        assert loss.train(mode)(**given).value.item() == pytest.approx(expected[mode])
    assert expected[True] != pytest.approx(expected[False])


def test_a_step_whose_arguments_change_is_looked_at_anew() -> None:
    seen = []

    def step(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    def backend(graph: torch.fx.GraphModule, inputs: list[object]) -> object:
        seen.append(inputs)
        return graph.forward

    compiled = torch.compile(step, backend=backend, dynamic=False)
    given = [torch.zeros(2), torch.zeros(2, dtype=torch.float64), torch.zeros(3), torch.zeros(3), torch.zeros(3)]
    with Repeated(compiled) as again:
        found = [again(x) for x in given]
    assert [(y.dtype, y.shape) for y in found] == [(x.dtype, x.shape) for x in given]
    assert len(seen) == 3
    torch.testing.assert_close(compiled(torch.zeros(5)), torch.ones(5))  # guards are looked at again
    assert len(seen) == 4


def test_a_stance_that_the_user_asked_for_holds_in_the_loop() -> None:
    loss, backend = state_space(), Counted()
    loss.compile(backend=backend)
    with torch.compiler.set_stance("force_eager"):
        loss(**series(loss, 6), seed=1)
    assert not backend.graphs
