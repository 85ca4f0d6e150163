"""CPC over horizons and assignments to prototypes, against NumPy: values, gradients, rows that do not count."""

import numpy as np
import pytest
import torch

from tests.formula.defects.both import PATHS, refused, run
from worldformula import CPC, Mean, SwAV, Symbol, Value, sg
from worldformula.errors import FormulaError, ShapeError
from worldformula.formula.ops.swav import sinkhorn

N, K, D, P = 6, 3, 4, 5
A, C, W = Value("a", shape=(K, D)), Value("c", shape=(K, D)), Value("w", shape=K)
Y, Z = Value("y", shape=P), Value("z", shape=P)


def foretold(seed=0):
    rng = torch.Generator().manual_seed(seed)
    given = {k: torch.randn(N, K, D, generator=rng, dtype=torch.float64) for k in "ac"}
    flags = torch.ones(N, K, dtype=torch.float64)
    flags[:2, 1] = flags[1:5, 2] = 0
    return {**given, "w": flags}


def scores(seed=0):
    rng = torch.Generator().manual_seed(seed)
    return {k: torch.rand(N, P, generator=rng, dtype=torch.float64) * 2 - 1 for k in "yz"}


def cpc(a, c, w=None, decay=0.75):
    """Each horizon by loops over the rows that count in it; the weights by hand."""
    total, whole = 0.0, 0.0
    for k in range(a.shape[1]):
        rows = [n for n in range(len(a)) if w is None or w[n, k]]
        found = []
        for n in rows:
            said = np.array([a[n, k] @ c[m, k] for m in rows])
            found.append(-np.log(np.exp(said[rows.index(n)]) / np.exp(said).sum()))
        total, whole = total + decay**k * (np.mean(found) if found else 0.0), whole + decay**k
    return total / whole


def shares(z, epsilon, iterations):
    """Sinkhorn and Knopp as it is written, by products: prototypes get alike, then rows are shared out whole."""
    q = np.exp(z / epsilon)
    for _ in range(iterations):
        q = q / q.sum(0, keepdims=True) / q.shape[1]
        q = q / q.sum(1, keepdims=True)
    return q


def assigned(y, z, tau=0.1, epsilon=0.05, iterations=3):
    """Caron et al., eq. 2."""
    p = np.exp(y / tau) / np.exp(y / tau).sum(1, keepdims=True)
    return -(shares(z, epsilon, iterations) * np.log(p)).sum(1).mean()


CASES = {
    "CPC": (CPC(A, C), foretold, "ac", cpc),
    "CPC, decay": (CPC(A, C, decay=0.3), foretold, "ac", lambda a, c: cpc(a, c, decay=0.3)),
    "CPC, rows": (CPC(A, C, where=W), foretold, "acw", cpc),
    "SwAV": (SwAV(Y, Z), scores, "yz", assigned),
    "SwAV, settings": (
        SwAV(Y, Z, temperature=0.5, epsilon=0.3, iterations=1), scores, "yz", lambda y, z: assigned(y, z, 0.5, 0.3, 1),
    ),
}  # fmt: skip


def given_to(case, seed=0):
    _, make, names, _ = CASES[case]
    return {k: v for k, v in make(seed).items() if k in names}


@PATHS
@pytest.mark.parametrize("case", CASES)
def test_values(case, path):
    formula, _, _, right = CASES[case]
    given = given_to(case)
    found = run(formula, path, **given).value
    assert found.shape == ()
    assert found.item() == pytest.approx(right(*(v.numpy() for v in given.values())), rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_both_sides(case):
    formula, _, _, right = CASES[case]
    given = given_to(case, 1)
    numbers = {k: v.numpy().copy() for k, v in given.items()}
    sides = list(given)[:2]
    for name in sides:
        given[name] = given[name].clone().requires_grad_()
    formula(**given).value.backward()
    step = 1e-6
    for name in sides:
        for flat in (0, 7, numbers[name].size - 1):
            ends = []
            for sign in (1, -1):
                moved = {k: v.copy() for k, v in numbers.items()}
                moved[name].flat[flat] += sign * step
                ends.append(right(*moved.values()))
            slope = (ends[0] - ends[1]) / (2 * step)
            assert given[name].grad.flatten()[flat].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("case", CASES)
def test_the_order_of_the_rows_tells_nothing(case):
    formula, _, _, _ = CASES[case]
    given, order = given_to(case, 2), torch.randperm(N, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        formula(**{k: v[order] for k, v in given.items()}).value, formula(**given).value, rtol=1e-12, atol=0
    )


def test_a_target_that_is_stopped_gets_no_gradient():
    given = {k: v.requires_grad_() for k, v in scores().items()}
    SwAV(Y, sg(Z))(**given).value.backward()
    assert given["z"].grad is None
    assert given["y"].grad.abs().sum() > 0


def test_prototypes_get_as_much_of_all_rows_as_each_other():
    found = sinkhorn(4 * torch.randn(40, 6, dtype=torch.float64), None, 60)
    torch.testing.assert_close(found.sum(1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(found.sum(0), torch.full((6,), 40 / 6, dtype=torch.float64), rtol=1e-3, atol=0)
    torch.testing.assert_close(sinkhorn(torch.full((7, 4), 30.0), None, 1), torch.full((7, 4), 0.25))  # alike: evenly


def test_scores_that_no_exponential_holds():
    """cos/ε of ε = 0.001 is 1000; by products it is infinite."""
    given = {k: v.float() for k, v in scores().items()}
    out = SwAV(Y, Z, epsilon=0.001)(**given).value
    hard = shares(np.float64(given["z"]).astype(np.longdouble), np.longdouble(0.001), 3)
    p = np.exp(given["y"].double().numpy() / 0.1)
    right = -(hard * np.log(p / p.sum(1, keepdims=True))).sum(1).mean()
    assert out.item() == pytest.approx(float(right), rel=1e-4)


# ------------------------------------------------------------------------------------------------------ rows that count


@PATHS
def test_what_rows_hold_that_do_not_count_is_nothing(path):
    where = torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.float64)
    kept = where.bool()
    for formula, given, right in (
        (SwAV(Y, Z, where=Value("v")), scores(4), assigned),
        (CPC(A, C, where=W), {k: v for k, v in foretold(4).items() if k != "w"}, cpc),
    ):
        expected = right(*(v[kept].numpy() for v in given.values()))
        flags = {"v": where} if "y" in given else {"w": where[:, None].expand(N, K).clone()}
        filled = {k: v.clone() for k, v in given.items()}
        for value in filled.values():
            value[1], value[4] = torch.nan, 1e6
            value.requires_grad_()
        out = run(formula, path, **filled, **flags).value
        assert out.item() == pytest.approx(expected, rel=1e-7)
        gradients = torch.autograd.grad(out, list(filled.values()))
        assert all(g.isfinite().all() and not g[~kept].any() for g in gradients)


def test_a_horizon_that_nothing_reaches_counts_nothing():
    given = foretold()
    given["w"][:, 2] = 0
    out = CPC(A, C, where=W)(**given).value
    first = cpc(given["a"][:, :2].numpy(), given["c"][:, :2].numpy(), given["w"][:, :2].numpy())
    assert out.item() == pytest.approx(first * 1.75 / (1 + 0.75 + 0.75**2), rel=1e-9)
    assert CPC(A, C, where=W)(**{**given, "w": torch.zeros(N, K)}).value.item() == 0
    assert SwAV(Y, Z, where=Value("v"))(**scores(), v=torch.zeros(N)).value.item() == 0


@PATHS
def test_in_time_the_rows_are_all_steps_that_the_sum_counts(path):
    rng = torch.Generator().manual_seed(5)
    a, c = (torch.randn(3, 4, K, D, generator=rng, dtype=torch.float64) for _ in "ac")
    valid = torch.ones(3, 4, dtype=torch.bool)
    valid[0, 2:] = False
    loss = Mean("t", CPC(Value("a_t", shape=(K, D)), Value("c_t", shape=(K, D))), mask="valid").mean()
    found = run(loss, path, a=a, c=c, valid=valid).value
    assert found.item() == pytest.approx(cpc(a[valid].numpy(), c[valid].numpy()), rel=1e-9)
    y, z = a.flatten(2)[..., :P], c.flatten(2)[..., :P].sigmoid()
    loss = Mean("t", SwAV(Value("y_t", shape=P), Value("z_t", shape=P)), mask="valid").mean()
    found = run(loss, path, y=y, z=z, valid=valid).value
    assert found.item() == pytest.approx(assigned(y[valid].numpy(), z[valid].numpy()), rel=1e-9)


def test_numbers_of_the_call():
    given = scores()
    formula = SwAV(Y, Z, temperature=Symbol("tau"), epsilon=Symbol("eps"))
    torch.testing.assert_close(
        formula(**given, tau=0.2, eps=0.1).value, SwAV(Y, Z, temperature=0.2, epsilon=0.1)(**given).value
    )
    given = given_to("CPC")
    torch.testing.assert_close(CPC(A, C, decay=Symbol("g"))(**given, g=0.3).value, CPC(A, C, decay=0.3)(**given).value)
    with refused("positive number", "-1", error=FormulaError):
        formula(**scores(), tau=0.2, eps=-1.0)


def test_sums_over_rows_of_halves_are_in_single_precision():
    for case, (formula, *_) in CASES.items():
        assert formula(**{k: v.bfloat16() for k, v in given_to(case).items()}).value.dtype == torch.float32


# ------------------------------------------------------------------------------------------------- printed and refused


def test_what_is_printed():
    assert repr(CPC(A, C, where=W)) == "<Expression CPC{γ=0.75; where}[a, c, w]>"
    assert str(CPC(A, C)) == r"\mathrm{CPC}_{0.75}\left[ a,\, c \right]"
    assert repr(SwAV(Y, sg(Z))) == "<Expression SwAV{τ=0.1; ε=0.05}[y, sg(z)]>"
    assert repr(SwAV(Value("y_t"), Value("z_t"), iterations=5)) == "<Expression SwAV{τ=0.1; ε=0.05; 5; 1:T}[y_t, z_t]>"
    assert str(SwAV(Y, sg(Z))) == (
        r"\mathrm{SwAV}_{\tau=0.1,\, \epsilon=0.05}\left[ y,\, \mathrm{sg}\left[ z \right] \right]"
    )
    assert "cpc = cpc_(a, c, w, ranks=(2, 2), decay=0.75, each=True)" in CPC(A, C, where=W).code


def test_what_has_other_axes():
    given = given_to("CPC")
    with refused("[horizons, numbers]", "shape=(K, D)", error=ShapeError):
        CPC(Value("a", shape=D), Value("c", shape=D))(a=torch.randn(N, D), c=torch.randn(N, D))
    with refused("[horizons, numbers]", error=ShapeError):
        CPC(A, Value("c", shape=(2, D)))(a=given["a"], c=given["c"][:, :2])
    with refused("two or more", error=ShapeError):
        SwAV(Y, Z)(**{k: v[:1] for k, v in scores().items()})
    for make, said in (
        (lambda: CPC(A, C, decay=0), "positive number"),
        (lambda: SwAV(Y, Z, temperature=0.0), "temperature= as a positive number"),
        (lambda: SwAV(Y, Z, epsilon=-1), "epsilon= as a positive number"),
        (lambda: SwAV(Y, Z, iterations=0), "whole number of at least 1"),
    ):
        with refused(said, error=FormulaError):
            make()
