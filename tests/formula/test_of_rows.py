"""Statistics of all rows: Barlow Twins, InfoNCE, variance and covariance, against NumPy and loops by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.formula.defects.both import PATHS, refused, run
from worldformula import (
    KL,
    Covariance,
    Deterministic,
    E,
    InfoNCE,
    Mean,
    Normal,
    Redundancy,
    SIGReg,
    Sum,
    SwAV,
    Symbol,
    Value,
    Variance,
    norm2,
    sg,
)  # fmt: skip
from worldformula.errors import FormulaError, ShapeError, SupportError

B, T, D = 5, 4, 3
A, C = Value("a", shape=D), Value("c", shape=D)


def data(seed=0, **kind):
    rng = torch.Generator().manual_seed(seed)
    return {k: torch.randn(B, D, generator=rng, dtype=torch.float64) for k in "ac"}


def barlow(a, b, weight):
    """Zbontar et al., by loops."""
    a, b = ((x - x.mean(0)) / (x.std(0, ddof=1) + 1e-8) for x in (a, b))
    total = 0.0
    for i in range(a.shape[1]):
        for j in range(a.shape[1]):
            c = sum(a[n, i] * b[n, j] for n in range(len(a))) / len(a)
            total += (1 - c) ** 2 if i == j else weight * c**2
    return total


def nce(a, b, tau=1.0, cosine=False):
    """van den Oord et al., by loops."""
    if cosine:
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    found = []
    for n in range(len(a)):
        scores = np.array([a[n] @ b[m] for m in range(len(a))]) / tau
        found.append(-np.log(np.exp(scores[n]) / np.exp(scores).sum()))
    return np.mean(found)


def spread(a, target=1.0):
    return np.maximum(0, target - np.sqrt(a.var(0, ddof=1) + 1e-4)).mean()


def shared(a):
    c = np.cov(a.T)
    return ((c**2).sum() - (np.diag(c) ** 2).sum()) / a.shape[1]


CASES = {
    "redundancy": (Redundancy(A, C), lambda a, c: barlow(a, c, 5e-4)),
    "redundancy, weight": (Redundancy(A, C, weight=0.3), lambda a, c: barlow(a, c, 0.3)),
    "InfoNCE": (InfoNCE(A, C), nce),
    "InfoNCE, cosine": (InfoNCE(A, C, temperature=0.2, cosine=True), lambda a, c: nce(a, c, 0.2, cosine=True)),
    "variance": (Variance(A), lambda a, c: spread(a)),
    "variance, target": (Variance(A, target=2.5), lambda a, c: spread(a, 2.5)),
    "covariance": (Covariance(A), lambda a, c: shared(a)),
}


def needed(formula, given):
    return {k: v for k, v in given.items() if k in formula.program.inputs}


@PATHS
@pytest.mark.parametrize("case", CASES)
def test_values(case, path):
    formula, right = CASES[case]
    given = data()
    found = run(formula, path, **needed(formula, given)).value
    assert found.shape == ()
    torch.testing.assert_close(found.item(), right(*(given[k].numpy() for k in "ac")), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_gradients(case):
    formula, right = CASES[case]
    given = data(1)
    a = given["a"].requires_grad_()
    formula(**needed(formula, given)).value.backward()
    step, numbers = 1e-6, {k: given[k].detach().numpy().copy() for k in "ac"}
    for place in ((0, 0), (2, 1), (4, 2)):
        ends = []
        for sign in (1, -1):
            moved = numbers["a"].copy()
            moved[place] += sign * step
            ends.append(right(moved, numbers["c"]))
        assert a.grad[place].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8)


def test_what_is_printed():
    assert repr(Redundancy(A, sg(C))) == "<Expression Redundancy{λ=0.0005}[a, sg(c)]>"
    assert str(Redundancy(A, sg(C))) == r"\mathcal{B}_{0.0005}\left[ a,\, \mathrm{sg}\left[ c \right] \right]"
    a, c = Value("a_t", shape=D), Value("c_t", shape=D)
    assert repr(Redundancy(a, c, where=Value("w_t"))) == "<Expression Redundancy{λ=0.0005; 1:T; where}[a_t, c_t, w_t]>"
    assert str(Redundancy(a, c)) == r"\mathcal{B}_{0.0005,\, 1:T}\left[ a_{t},\, c_{t} \right]"
    assert repr(Variance(a, by_step=True)) == "<Expression Variance{γ=1; step}[a_t]>"
    assert repr(Covariance(a)) == "<Expression Covariance{1:T}[a_t]>"
    assert repr(InfoNCE(A, C, temperature=0.1, cosine=True)) == "<Expression InfoNCE{τ=0.1; cos}[a, c]>"
    assert str(InfoNCE(A, C)) == r"\mathrm{NCE}\left[ a,\, c \right]"
    assert repr(25.0 * Variance(A) + Covariance(A)) == "<Expression 25.0 * Variance{γ=1}[a] + Covariance[a]>"


# ------------------------------------------------------------------------------------------------------------- in time


def world():
    """A small latent model whose code is predicted by its state; W and the loss's pieces."""
    torch.manual_seed(0)
    embed = Deterministic("e_t = enc(x_t)", nn.Linear(2, D), shape=D)
    core = Deterministic("h_t = f(h_{t-1},z_{t-1})", nn.Bilinear(2, 2, 2), shape=2)
    post = Normal("q(z_t|h_t,e_t)", lambda h, e: torch.cat((h + e[..., :2], e[..., 1:]), -1), shape=2)
    prior = Normal("p(z_t|h_t)", nn.Linear(2, 4), shape=2)
    hat = Deterministic(r"\hat e_t = W(h_t,z_t)", lambda h, z: torch.cat((h, z[..., :1]), -1), shape=D)
    for net in (embed.net, core.net, prior.net):
        net.double()
    return embed, core, post, prior, hat


@PATHS
@pytest.mark.parametrize("name", ["redundancy", "InfoNCE", "variance", "covariance", "InfoNCE, step", "variance, step"])
def test_in_time_the_rows_are_all_steps_of_all_rows(name, path):
    embed, core, post, prior, hat = world()
    first, second = Value(r"\hat e_t"), Value("e_t")
    term, right = {
        "redundancy": (Redundancy(first, sg(second)), lambda a, c: barlow(a, c, 5e-4)),
        "InfoNCE": (InfoNCE(first, sg(second)), nce),
        "variance": (Variance(first), lambda a, c: spread(a)),
        "covariance": (Covariance(first), lambda a, c: shared(a)),
        "InfoNCE, step": (InfoNCE(first, second, negatives="step"), nce),
        "variance, step": (Variance(first, by_step=True), lambda a, c: spread(a)),
    }[name]
    draws = embed * core * post * hat
    x = torch.randn(B, T, 2, dtype=torch.float64)
    flags = torch.zeros(B, T, dtype=torch.bool)
    flags[1, 2] = True
    plain = Mean("t", E(draws, KL(post, prior)), reset="first").mean()
    whole = Mean("t", E(draws, KL(post, prior) + 0.5 * term), reset="first").mean()
    without = run(plain, path, x=x, first=flags, seed=3)
    found = run(whole, path, x=x, first=flags, seed=3)
    samples = {k: v.detach().numpy() for k, v in found.samples.items()}
    a, c = samples["hat_e"], samples["e"]
    if name.endswith("step"):
        expected = np.mean([right(a[:, t], c[:, t]) for t in range(T)])
    else:
        expected = right(a.reshape(B * T, D), c.reshape(B * T, D))
    assert (found.value - without.value).item() == pytest.approx(0.5 * expected, rel=1e-9)


def test_a_target_that_is_stopped_gets_no_gradient_from_the_statistic():
    embed, core, post, _, hat = world()
    draws = embed * core * post * hat
    x = torch.randn(B, T, 2, dtype=torch.float64)
    for target, moved in ((sg(Value("e_t")), False), (Value("e_t"), True)):
        loss = Mean("t", E(draws, Redundancy(sg(Value(r"\hat e_t")), target))).mean()
        value = loss(x=x, seed=0).value
        gradient = torch.autograd.grad(value, embed.net.weight, allow_unused=True)[0] if value.requires_grad else None
        assert (gradient is not None and bool(gradient.abs().sum() > 0)) == moved


def test_a_weight_and_a_temperature_of_the_call():
    given = data()
    for formula, constant, keyword in (
        (Redundancy(A, C, weight=Symbol("w")), Redundancy(A, C, weight=0.3), {"w": 0.3}),
        (InfoNCE(A, C, temperature=Symbol("w")), InfoNCE(A, C, temperature=0.3), {"w": 0.3}),
    ):
        torch.testing.assert_close(formula(**given, **keyword).value, constant(**given).value)
    with refused("positive number", "-1", error=FormulaError):
        InfoNCE(A, C, temperature=Symbol("w"))(**given, w=-1.0)


def test_the_bound_on_information_is_met_by_a_code_that_says_all():
    """log N − NCE → log N for rows that are told apart by far."""
    rows = 20 * torch.eye(6, dtype=torch.float64)
    formula = InfoNCE(Value("a", shape=6), Value("c", shape=6))
    assert formula(a=rows, c=rows).value.item() == pytest.approx(0.0, abs=1e-12)
    alike = torch.ones(6, 6, dtype=torch.float64)
    assert formula(a=alike, c=alike).value.item() == pytest.approx(np.log(6))


def test_sums_over_rows_of_halves_are_in_single_precision():
    given = {k: v.to(torch.bfloat16) for k, v in data().items()}
    for formula, _ in CASES.values():
        assert formula(**needed(formula, given)).value.dtype == torch.float32


# ------------------------------------------------------------------------------------------------------------- refused


def test_what_has_no_rows_or_unlike_ones():
    with refused("two or more", error=ShapeError):
        Redundancy(A, C)(**{k: v[:1] for k, v in data().items()})
    with refused("one width", "3 and 2", error=ShapeError):
        InfoNCE(A, Value("c", shape=2))(a=torch.randn(B, 3), c=torch.randn(B, 2))
    with refused("is one number", error=FormulaError):
        Redundancy(A, 2.0 * Symbol("s"))(a=torch.randn(B, 3), s=1.0)
    with refused("several draws", error=FormulaError):
        E(Normal("q(a|x)", nn.Linear(2, 6), shape=3), Variance(Value("a")), samples=4)(x=torch.randn(B, 2))
    for make, said in (
        (lambda: InfoNCE(A, C, temperature=0.0), "positive number"),
        (lambda: InfoNCE(A, C, negatives="row"), "Did you mean 'rows'"),
        (lambda: Redundancy(A, C, weight=-1), "at least 0"),
        (lambda: Variance(A, target=0.0), "positive number"),
    ):
        with refused(said, error=FormulaError):
            make()


def test_a_sum_whose_first_steps_do_not_count_is_refused():
    term = Redundancy(Value("a_t", shape=D), Value("c_t", shape=D))
    with refused("burn_in=", "mask=", error=FormulaError):
        _ = Sum("t", norm2(Value("a_t", shape=D)) + term, burn_in=1).program


# ------------------------------------------------------------------------------------------------------ rows that count


@PATHS
@pytest.mark.parametrize("case", CASES)
def test_rows_that_do_not_count_are_as_if_they_were_not_there(case, path):
    _, right = CASES[case]
    where = Value("w", shape=())
    made = {
        "redundancy": lambda: Redundancy(A, C, where=where),
        "redundancy, weight": lambda: Redundancy(A, C, weight=0.3, where=where),
        "InfoNCE": lambda: InfoNCE(A, C, where=where),
        "InfoNCE, cosine": lambda: InfoNCE(A, C, temperature=0.2, cosine=True, where=where),
        "variance": lambda: Variance(A, where=where),
        "variance, target": lambda: Variance(A, target=2.5, where=where),
        "covariance": lambda: Covariance(A, where=where),
    }[case]()
    assert "where" in repr(made)
    flags = torch.tensor([1, 0, 1, 1, 0], dtype=torch.float64)
    given = {k: v.clone() for k, v in data(2).items()}
    kept = [given[k][flags.bool()].numpy() for k in "ac"]
    for value in given.values():
        value[1] = torch.nan
        value[4] = 1e6
    for value in given.values():
        value.requires_grad_()
    out = run(made, path, **needed(made, given), w=flags).value
    assert out.item() == pytest.approx(right(*kept), rel=1e-7)
    gradient = torch.autograd.grad(out, given["a"])[0]
    assert gradient.isfinite().all()
    assert not gradient[[1, 4]].any()


@PATHS
@pytest.mark.parametrize("flag", [-1.0, 0.5, math.nan, 2])
def test_flags_that_are_none_are_refused(flag, path):
    w, v = Value("w", shape=()), Value("v", shape=())
    right, wrong = torch.tensor([1.0, 0, 1, 1, 0]), torch.tensor([1.0, flag, 1, 1, 0])
    for where, given in ((w, {"w": wrong}), (1 - w, {"w": wrong}), (v * (1 - w), {"v": right, "w": wrong})):
        with refused("w: expected flags as booleans, or as 0 and 1", "among them", error=SupportError):
            run(Variance(A, where=where), path, a=data()["a"], **given)


@PATHS
def test_steps_that_a_sum_leaves_out_have_any_flags(path):
    valid = torch.ones(B, T, dtype=torch.bool)
    valid[0, 2:] = valid[3, 1:] = False
    term = Variance(Value("a_t", shape=D), where=Value("w_t", shape=()))
    loss, again = (Mean("t", term, mask="valid").mean() for _ in range(2))  # flags are looked at by the first call
    a, w = torch.randn(B, T, D, dtype=torch.float64), torch.ones(B, T, dtype=torch.float64)
    found = run(loss, path, a=a, w=torch.where(valid, w, torch.nan), valid=valid).value
    assert found.item() == run(loss, path, a=a, w=w, valid=valid).value.item()
    with refused("w: expected flags", error=SupportError):
        run(again, path, a=a, w=torch.where(valid, torch.nan, w), valid=valid)


@PATHS
@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_rows_say_nothing(count, path):
    where = Value("w", shape=())
    flags = (torch.arange(B) < count).double()
    for made in (
        Redundancy(A, C, where=where),
        InfoNCE(A, C, where=where),
        Variance(A, where=where),
        Covariance(A, where=where),
        SIGReg(A, where=where),
        SwAV(A, C, where=where),
    ):
        given = {k: v.requires_grad_() for k, v in data(3).items()}
        out = run(made, path, **needed(made, given), w=flags, seed=0).value
        assert out.item() == 0.0, made
        assert not torch.autograd.grad(out, given["a"])[0].any()


@PATHS
def test_steps_that_a_sum_leaves_out_do_not_count(path):
    a, c = (torch.randn(B, T, D, dtype=torch.float64) for _ in "ac")
    valid = torch.ones(B, T, dtype=torch.bool)
    valid[0, 2:] = valid[3, 1:] = False
    for term, right in (
        (Redundancy(Value("a_t", shape=D), Value("c_t", shape=D)), lambda x, y: barlow(x, y, 5e-4)),
        (InfoNCE(Value("a_t", shape=D), Value("c_t", shape=D)), nce),
        (Covariance(Value("a_t", shape=D)), lambda x, y: shared(x)),
    ):
        loss = Mean("t", term, mask="valid").mean()
        given = {"a": a, "c": c, "valid": valid}
        found = run(loss, path, **{k: v for k, v in given.items() if k in loss.program.inputs}).value
        assert found.item() == pytest.approx(right(a[valid].numpy(), c[valid].numpy()), rel=1e-7)


def test_a_step_with_fewer_than_two_rows_says_nothing():
    a, c = (torch.randn(B, T, D, dtype=torch.float64) for _ in "ac")
    valid = torch.ones(B, T, dtype=torch.bool)
    valid[1:, 3] = False
    valid[2, 1] = False
    a_t, c_t = Value("a_t", shape=D), Value("c_t", shape=D)
    for term, right in (
        (InfoNCE(a_t, c_t, negatives="step"), nce),
        (Variance(a_t, by_step=True), lambda x, y: spread(x)),
        (Covariance(a_t, by_step=True), lambda x, y: shared(x)),
    ):
        loss = Mean("t", term, mask="valid").mean()
        given = {"a": a, "c": c, "valid": valid}
        found = loss(**{k: v for k, v in given.items() if k in loss.program.inputs}).value
        expected = np.mean([right(a[:, t][valid[:, t]].numpy(), c[:, t][valid[:, t]].numpy()) for t in range(3)])
        assert found.item() == pytest.approx(expected, rel=1e-7)
