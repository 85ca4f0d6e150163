"""Mixtures read parameters as their components do; divergences of factors that do not have the same values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import tensor as T

from worldformula import (
    JS,
    KL,
    Bernoulli,
    Beta,
    Categorical,
    CrossEntropy,
    E,
    LowRankNormal,
    Mixture,
    Multinomial,
    MultivariateNormal,
    Normal,
    OneHot,
    Poisson,
    Uniform,
    log,
)
from worldformula.errors import FormulaError, HeadError
from worldformula.families import (
    CategoricalFamily,
    DiscretisedLogisticFamily,
    MixtureFamily,
    MultinomialFamily,
    TwoHotFamily,
    bernoulli,
    kl_pair,
    one_hot,
    two_hot,
)

DOUBLE = torch.float64

# ------------------------------------------------------------------------------------------- mixtures


def test_a_mixture_of_bernoullis_by_probs():
    p = Mixture("p(x)", components=2, shape=2, component=Bernoulli, probs=T([[0.1, 0.2], [0.3, 0.4]]))
    assert p.log_prob(x=T([[1.0, 0.0]])).exp().item() == pytest.approx(0.5 * (0.1 * 0.8 + 0.3 * 0.6))


def test_a_mixture_of_categoricals_by_probs():
    probs = T([[[0.2, 0.8], [0.5, 0.5]], [[0.6, 0.4], [0.1, 0.9]]])  # [K, event, classes]
    p = Mixture("p(y)", components=2, shape=2, component=Categorical, probs=probs, weights=T([0.25, 0.75]))
    assert p.log_prob(y=T([[1, 0]])).exp().item() == pytest.approx(0.25 * 0.8 * 0.5 + 0.75 * 0.4 * 0.1)


def test_classes_are_mixed_with_the_uniform_once():
    family = MixtureFamily(component=CategoricalFamily(unimix=0.1), components=2)
    params = family.params({"probs": T([[0.2, 0.8], [0.6, 0.4]])}, ())
    expected = 0.5 * (0.9 * 0.8 + 0.05) + 0.5 * (0.9 * 0.4 + 0.05)
    assert family.log_prob(params, T(1), 0).exp().item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["covariance_matrix", "scale_tril"])
def test_a_mixture_of_multivariate_normals(name):
    covariance = np.array([[[2.0, 0.5], [0.5, 1.0]], [[1.0, -0.3], [-0.3, 0.5]]])
    loc, x = np.array([[0.0, 1.0], [2.0, -1.0]]), np.array([0.5, 0.5])
    given = covariance if name == "covariance_matrix" else np.linalg.cholesky(covariance)
    p = Mixture("p(x)", components=2, shape=2, component=MultivariateNormal, loc=T(loc), **{name: T(given)})
    expected = 0.5 * sum(scipy.stats.multivariate_normal(m, c).pdf(x) for m, c in zip(loc, covariance, strict=True))
    assert p.log_prob(x=T(x)[None]).exp().item() == pytest.approx(expected, rel=1e-6)


def test_a_network_may_name_the_parameters_of_the_components():
    class Head(torch.nn.Module):
        def forward(self, z):
            return {"probs": z.sigmoid().reshape(-1, 2, 3), "weights": T([0.25, 0.75])}

    z, x = torch.randn(5, 6), torch.rand(5, 3).round()
    p = Mixture("p(x|z)", Head(), components=2, shape=3, component=Bernoulli)
    each = scipy.stats.bernoulli(scipy.special.expit(z.numpy().reshape(5, 2, 3))).pmf(x.numpy()[:, None]).prod(-1)
    assert p.log_prob(x=x, z=z).exp().numpy() == pytest.approx(each @ np.array([0.25, 0.75]), rel=1e-4)


def test_a_mixture_with_a_parameter_under_two_names_is_refused():
    family = MixtureFamily(component=bernoulli, components=2)
    with pytest.raises(HeadError, match="are names of one parameter"):
        family.params({"probs": torch.rand(2, 3), "logits": torch.randn(2, 3)}, (3,))
    with pytest.raises(HeadError, match="has no parameter"):
        family.params({"scale": torch.rand(2, 3)}, (3,))


# ------------------------------------------------------------------------------------------- unlike values


def four() -> Categorical:
    return Categorical("q(z)", logits=torch.zeros(3, 4), shape=3, classes=4)


def two() -> Categorical:
    return Categorical("q(z)", logits=T([[0.0, 1.0], [0.5, 0.5], [2.0, 0.0]]), shape=3, classes=2)


def hot(name: str = "q") -> OneHot:
    return OneHot(f"{name}(z)", logits=T([0.3, -0.2, 1.0]), shape=3)


def coins(name: str = "q") -> Bernoulli:
    return Bernoulli(f"{name}(z)", logits=T([0.0, 1.0, 2.0]), shape=3)


@pytest.mark.parametrize("operator", [KL, CrossEntropy, JS], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("q", "p", "words"),
    [
        (four, coins, "got 3"),
        (four, hot, "sum to 1"),
        (two, hot, "sum to 1"),
        (coins, hot, r"\[0.0, 0.0, 0.0\]"),
        (coins, two, "integer type"),
        (hot, four, "integer type"),
        (four, two, "from 0 to 1, got 3"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_a_q_with_values_that_p_cannot_have_is_refused(operator, q, p, words):
    with pytest.raises(FormulaError, match=words) as found:
        operator(q(), p().rename())
    assert "cannot have" in str(found.value)


def by_enumeration(q: np.ndarray, p: np.ndarray) -> tuple[float, float]:
    """KL and cross-entropy of two tables of probabilities of the same values."""
    return float((q * np.log(q / p)).sum()), float(-(q * np.log(p)).sum())


def test_values_that_p_has_among_others_are_summed():
    q = scipy.special.softmax([0.3, -0.2, 1.0])
    odds = scipy.special.expit([0.0, 1.0, 2.0])
    p = np.array([np.prod(np.where(row, odds, 1 - odds)) for row in np.eye(3)])
    kl, cross = by_enumeration(q, p)
    assert KL(hot(), coins("p"))().value.item() == pytest.approx(kl, rel=1e-5)
    assert CrossEntropy(hot(), coins("p"))().value.item() == pytest.approx(cross, rel=1e-5)
    with pytest.raises(FormulaError, match="cannot have"):  # a mixture of the two has values that only one side has
        JS(hot(), coins("p"))


def test_two_classes_are_a_bernoulli():
    table = scipy.special.softmax(two().constants.logits.numpy(), -1)
    odds = scipy.special.expit([0.0, 1.0, 2.0])
    rows = list(itertools.product([0, 1], repeat=3))
    q = np.array([np.prod([table[i, b] for i, b in enumerate(row)]) for row in rows])
    p = np.array([np.prod(np.where(row, odds, 1 - odds)) for row in rows])
    kl, cross = by_enumeration(q, p)
    assert KL(two(), coins("p"))().value.item() == pytest.approx(kl, rel=1e-5)
    assert CrossEntropy(two(), coins("p"))().value.item() == pytest.approx(cross, rel=1e-5)


def test_fewer_classes_within_more_of_them():
    q, p = Categorical("q(z)", shape=(), classes=3), Categorical("p(z)", shape=(), classes=4)
    assert KL(q, p)().value.item() == pytest.approx(math.log(4 / 3))
    assert CrossEntropy(q, p)().value.item() == pytest.approx(math.log(4))
    with pytest.raises(FormulaError, match="from 0 to 2, got 3"):
        KL(p, q)


def test_the_same_values_are_compared_as_before():
    q, p = hot(), OneHot("p(z)", logits=T([0.0, 0.5, -1.0]), shape=3)
    a, b = scipy.special.softmax([0.3, -0.2, 1.0]), scipy.special.softmax([0.0, 0.5, -1.0])
    m = 0.5 * (a + b)
    expected = 0.5 * (by_enumeration(a, m)[0] + by_enumeration(b, m)[0])
    assert JS(q, p)().value.item() == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------------------------------- the family's own KL


@pytest.mark.parametrize(
    ("family", "other"),
    [
        (MultinomialFamily(total_count=3), MultinomialFamily(total_count=4)),
        (TwoHotFamily(bins=5), TwoHotFamily(bins=5, low=-1.0)),
        (DiscretisedLogisticFamily(levels=4), DiscretisedLogisticFamily(levels=5)),
        (CategoricalFamily(classes=3), CategoricalFamily(classes=4)),
    ],
    ids=str,
)
def test_a_closed_kl_needs_the_same_values_on_both_sides(family, other):
    assert kl_pair(family, family) is not None
    assert kl_pair(family, other) is None
    assert kl_pair(other, family) is None


def test_kl_of_multinomials_and_of_two_hots_in_a_formula():
    q = counts("q(z)", [0.2, 0.3, 0.5])
    p = counts("p(z)", [0.5, 0.25, 0.25])
    expected = 7 * by_enumeration(np.array([0.2, 0.3, 0.5]), np.array([0.5, 0.25, 0.25]))[0]
    assert KL(q, p)().value.item() == pytest.approx(expected, rel=1e-5)
    head, other = torch.randn(4, 11, dtype=DOUBLE), torch.randn(4, 11, dtype=DOUBLE)
    family = TwoHotFamily(bins=11)
    tables = [scipy.special.softmax(x.numpy(), -1) for x in (head, other)]
    kls = [by_enumeration(a, b)[0] for a, b in zip(*tables, strict=True)]
    assert kl_pair(family, family)((head,), (other,), 0).numpy() == pytest.approx(np.array(kls))


def counts(header: str, probs: list[float]):
    return Multinomial(header, probs=T(probs), shape=3, total_count=7)


def test_a_two_hot_of_nothing_is_nothing():
    logits = torch.zeros(3, 255)
    value = two_hot.log_prob((logits,), T([math.nan, 0.0, math.inf]), 0)
    assert value[0].isnan()
    assert value[1:].tolist() == pytest.approx([-math.log(255)] * 2)


def test_enumeration_by_hand_goes_on():
    q, p = hot(), coins("p")
    by_hand = E(q, log(q) - log(p), gradient="exact")
    assert by_hand().value.item() == pytest.approx(KL(q, p)().value.item())
    assert one_hot.wrong_value(T([0.0, 1.0, 0.0]), 1) is None


@pytest.mark.parametrize(
    ("q", "width", "p"),
    [
        (MultivariateNormal, 9, lambda: Normal("p(z)", shape=3)),
        (MultivariateNormal, 9, lambda: Normal("p(z)", loc=torch.ones(3), scale=T([0.5, 1.0, 2.0]))),
        (LowRankNormal, 9, lambda: Normal("p(z)", shape=3)),
        (LowRankNormal, 9, lambda: MultivariateNormal("p(z)", shape=3)),
        (LowRankNormal, 9, lambda: MultivariateNormal("p(z)", loc=torch.ones(3), scale_tril=torch.ones(3, 3).tril())),
        (Bernoulli, 3, lambda: Poisson("p(z)", shape=3, rate=T([0.5, 1.0, 2.0]))),
        (Uniform, 6, lambda: Beta("p(z)", shape=3)),
    ],
)
def test_closed_kls_of_two_families_in_emitted_code(q, width, p):
    torch.manual_seed(0)
    encode = q("q(z|x)", torch.nn.Linear(4, width), shape=3)
    loss, x = KL(encode, p()).mean(), torch.randn(5, 4)
    value = loss(x=x).value
    assert torch.equal(value, loss.interpret(x=x).value)
    if q is not Uniform:  # whose random interval leaves [0, 1]
        assert value.item() > 0
        value.backward()
        assert all(w.grad.isfinite().all() for w in encode.parameters())
    else:
        assert value.item() == math.inf
