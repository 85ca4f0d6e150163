"""Variables that all rows share: what is printed, drawn, explained and refused; code and interpreter agree."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from worldformula import (
    JS,
    KL,
    MMD,
    Bernoulli,
    Categorical,
    CrossEntropy,
    Deterministic,
    Dirichlet,
    E,
    Entropy,
    Min,
    Multinomial,
    MultivariateNormal,
    Normal,
    OneHot,
    PoE,
    Renyi,
    Sum,
    Symbol,
    Value,
    Variance,
    World,
    exp,
    log,
    maximum,
    norm2,
    ratio,
    together,
    total,
)
from worldformula.errors import FormulaError, GradientError, ShapeError, TimeError
from worldformula.formula.graph.graph import graph
from worldformula.formula.print.mathml import inline

prior = Normal("p(w)", shape=2, shared=True)
q = Normal("q(w)", nn.Parameter(torch.tensor([0.3, -0.2, 0.1, 0.5])), shape=2, shared=True)
lik = Bernoulli("p(y|x,w)", nn.Bilinear(2, 2, 1), shape=1)
rows = Sum("n", log(lik), rows="all")

mean = Normal("p(m)", shape=2, shared=True)
of_mean = Normal("p(z|m)", lambda m: {"loc": m, "scale": torch.ones_like(m)}, shape=2)
encode = Normal("q(z|x)", nn.Linear(2, 4), shape=2)
decode = Normal("p(x|z)", nn.Linear(2, 4), shape=2)
kind = Categorical("p(k|m)", lambda m: m, shape=(), classes=2)
of_kind = Normal("p(x|k)", lambda k: {"loc": k[..., None] * torch.ones(2), "scale": torch.ones(*k.shape, 2)}, shape=2)

topics = Dirichlet("p(β)", shape=(3, 4), concentration=0.5, shared=True)
q_topics = Dirichlet("q(β)", nn.Parameter(torch.zeros(3, 4)), shape=(3, 4), shared=True)
shares = Dirichlet("p(θ)", shape=3, concentration=0.7)
q_shares = Dirichlet("q(θ|c)", nn.Linear(4, 3), shape=3)
words = Multinomial(
    "p(c|θ,β)", lambda s, t: {"probs": (s[..., None, :] @ t).squeeze(-2)}, shape=4, total_count=5
)  # topics [B, 3, 4], one matrix for each row: a view

frames = Normal("p(x_t|z_t)", nn.Linear(2, 4), shape=2)
follow = Normal("p(z_t|z_{t-1},m)", lambda z, m: {"loc": z / 2 + m, "scale": torch.ones_like(z)}, shape=2)
of_steps = Normal("p(x_t|m)", lambda m: {"loc": m, "scale": torch.ones_like(m)}, shape=2)
latent = Normal("p(z_t|m)", lambda m: {"loc": m, "scale": torch.ones_like(m)}, shape=2)
iterated = Normal("p(z_l|z_{l-1},m)", lambda z, m: {"loc": z + m, "scale": torch.ones_like(z)}, shape=2)
drawn = Normal("p(x|z_l)", nn.Linear(2, 4), shape=2)
half = Deterministic("v = f(m)", lambda m: m[:, :1], shape=1)

FORMULAS = {
    "elbo": lambda: E(q, rows) - KL(q, prior),
    "scaled": lambda: E(q, Sum("n", log(lik), rows=60)) - Symbol("b") * KL(q, prior),
    "iwae": lambda: log(E(q, exp(rows + log(prior) - log(q)), samples=3)),
    "sticking": lambda: log(E(q, exp(rows + log(prior) - log(q)), "dreg", samples=3)),
    "plain sum": lambda: E(q, log(lik).sum(), samples=3),
    "rows of one draw": lambda: E(q, log(lik), samples=3).mean(),
    "score of rows": lambda: E(q, log(lik), "score").mean(),
    "vector with a covariance": lambda: E(
        MultivariateNormal("q(w)", nn.Parameter(torch.ones(5)), shape=2, shared=True), rows
    ),
    "experts": lambda: E(PoE([prior, q]), rows) - KL(PoE([prior, q]), prior),
    "operators": lambda: E(q, rows) - Renyi(q, prior, 0.5) - JS(q, prior, samples=4) + Entropy(q),
    "cross-entropy": lambda: E(q, rows) - CrossEntropy(q, prior),
    "free nats": lambda: E(q, rows) - maximum(KL(q, prior), 1.0),
    "two draws": lambda: E(q, rows) * E(q.fresh(), norm2(Value("w"))),
    "topics": lambda: E(q_topics, Sum("d", E(q_shares, log(words)) - KL(q_shares, shares), rows=9)),
    "topics by samples": lambda: log(
        E(q_topics, exp(Sum("d", log(E(q_shares, ratio(words * shares, q_shares), samples=2)), rows="all")), samples=3)
    ),
    "rows that read it alone": lambda: E(mean * of_mean, Sum("n", log(decode), rows="all")),
    "… by samples": lambda: log(E(mean * of_mean, exp(Sum("n", log(decode), rows="all")), samples=3)),
    "… below": lambda: E(mean, Sum("n", E(encode, log(decode)) - KL(encode, of_mean), rows="all"), samples=3),
    "enumerated rows": lambda: E(mean, Sum("n", log((kind * of_kind).marginal("k")), rows="all")),
    "… of samples": lambda: log(E(mean, exp(Sum("n", log((kind * of_kind).marginal("k")), rows="all")), samples=3)),
    "rows that say which": lambda: E(
        q * Normal("p(z_n)", shape=2), Sum("n", log(Normal("p(x_n|z_n)", nn.Linear(2, 4), shape=2)), rows="all")
    ),
    "its value": lambda: E(mean, Sum("n", norm2(Value("x", shape=2) - Value("m")), rows="all"), samples=3),
    "computed of it": lambda: E(mean * half, Sum("n", total(Value("x", shape=2) * Value("v")), rows="all"), samples=3),
    "steps": lambda: E(mean, Sum("n", Sum("t", E(follow, log(frames))), rows="all")),
    "steps inside": lambda: Sum("n", Sum("t", E(mean * follow, log(frames))), rows=8),
    "steps that restart": lambda: E(mean, Sum("n", Sum("t", E(follow, log(frames)), reset="first"), rows="all")),
    "steps that count": lambda: E(mean, Sum("n", Sum("t", E(follow, log(frames)), mask="valid"), rows="all")),
    "steps that read it alone": lambda: log(E(mean, exp(Sum("n", Sum("t", log(of_steps)), rows="all")), samples=3)),
    "draws of steps": lambda: E(mean, Sum("n", Sum("t", E(latent, log(frames))), rows="all")),
    "trajectories that read it": lambda: log(
        E(mean, exp(Sum("n", Sum("t", E(follow, log(frames), samples=1)), rows="all")), samples=3)
    ),
    "trajectories with it": lambda: log(E(mean * follow, exp(Sum("n", Sum("t", log(frames)), rows="all")), samples=3)),
    "trajectories of each row": lambda: E(
        mean, Sum("n", log(E(follow, exp(Sum("t", log(frames))), samples=2)), rows="all"), samples=3
    ),
    "particles of each row": lambda: E(
        mean, Sum("n", Sum("t", log(E(follow, exp(log(frames)), samples=2, resample="systematic"))), rows="all")
    ),
    "iterations": lambda: E(mean, Sum("n", Sum("l", E(iterated, log(drawn)), steps=3), rows="all"), samples=2),
    "given": lambda: log(prior) + rows,
    "nothing of rows": lambda: E(q, log(prior) - log(q), samples=3),
}


def inputs(formula, batch=5):
    """What a formula reads, with a random generator of its own."""
    rng = torch.Generator().manual_seed(0)
    flags = torch.zeros(batch, 4, dtype=torch.bool)
    flags[:, 0], flags[-1, 2] = True, True
    known = {
        "x": torch.randn((batch, 4, 2) if formula.program.plan.index else (batch, 2), generator=rng),
        "y": (torch.rand((batch, 1), generator=rng) < 0.5).float(),
        "c": torch.tensor([[2.0, 1.0, 0.0, 2.0]]).repeat(batch, 1),
        "w": torch.tensor([0.5, -0.5]),
        "first": flags,
        "valid": ~flags,
        "b": 0.5,
    }
    return {key: known[key] for key in formula.program.inputs}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("batch", [5, 1])
def test_code_and_interpreter_agree(name, batch):
    formula = FORMULAS[name]()
    given = inputs(formula, batch)
    code, walked = formula(**given, seed=3), formula.interpret(**given, seed=3)
    assert code.value.shape == ()
    assert code.value.isfinite()
    assert torch.allclose(code.value, walked.value, rtol=1e-4)
    for one, other in zip(code.samples.values(), walked.samples.values(), strict=True):
        assert one.shape == other.shape
    still = formula(**given, deterministic=True)
    assert torch.allclose(still.value, formula.interpret(**given, deterministic=True).value, rtol=1e-4, equal_nan=True)
    again = formula(**given, noise=formula.noise(**given, generator=torch.Generator().manual_seed(3)))
    assert torch.allclose(again.value, code.value)


def test_samples_have_no_batch_axis():
    x, y = torch.randn(5, 2), torch.ones(5, 1)
    assert E(q, rows)(x=x, y=y).samples["w"].shape == (2,)
    out = FORMULAS["topics by samples"]()(c=torch.tensor([[2.0, 1.0, 0.0, 2.0]]).repeat(5, 1))
    assert {key: tuple(v.shape) for key, v in out.samples.items()} == {"beta": (3, 3, 4), "theta": (2, 5, 3)}
    enumerated = Categorical("p(k)", shape=(), classes=3, shared=True)
    coin = Bernoulli("p(y|k)", lambda k: k[..., None] - 1.0, shape=1)
    found = E(enumerated, Sum("n", log(coin), rows="all"), "exact")(y=y)
    assert found.samples["k"].tolist() == [0, 1, 2]


def test_terms_are_reduced_as_the_formula_reduces_them():
    x, y = torch.randn(5, 2), torch.ones(5, 1)
    elbo = E(q, Sum("n", log(lik), rows=60)).named("fit") - KL(q, prior).named("cost")
    out = elbo(x=x, y=y, seed=0)
    assert set(out.terms) == {"fit", "cost"}
    assert torch.allclose(out.value, out.terms["fit"] - out.terms["cost"])
    w = out.samples["w"]
    by_hand = 12 * lik.log_prob(x=x, y=y, w=w.expand(5, 2)).sum()
    assert torch.allclose(out.terms["fit"], by_hand)
    both = together(a=E(q, rows), b=KL(q, prior))(x=x, y=y, seed=0).value
    assert both["a"].shape == both["b"].shape == ()


def test_print():
    whole, some = E(q, rows), E(q, Sum("n", log(lik), rows=60) - KL(q, prior))
    assert repr(whole) == "<Expression E_{q(w)}[Σ_{n=1..N} log p(y|x,w)]>"
    assert str(whole) == r"\mathbb{E}_{q(w)}\left[ \sum_{n=1}^{N} \log p(y \mid x, w) \right]"
    assert repr(some) == "<Expression E_{q(w)}[60/B Σ_{n=1..B} log p(y|x,w) - KL(q(w) ‖ p(w))]>"
    assert r"\frac{60}{B} \sum_{n=1}^{B} \log p(y \mid x, w) - D" in str(some)
    named = Sum("n", log(lik) - log(decode), rows=Symbol("N"))
    assert str(named) == r"\frac{N}{B} \sum_{n=1}^{B} \left( \log p(y \mid x, w) - \log p(x \mid z) \right)"
    assert repr(2 * whole * 3).count("(") == repr(2 * whole * 3).count(")")
    assert repr(-rows - rows) == "<Expression -Σ_{n=1..N} log p(y|x,w) - Σ_{n=1..N} log p(y|x,w)>"
    broken = (named + named).latex_lines(20)
    assert broken.count(r"\frac{N}{B} \sum_{n=1}^{B} \Bigl(") == 2
    shown = inline(some.node)
    assert "<mfrac><mn>60</mn><mi>B</mi></mfrac><munderover>" in shown
    assert "<mi>N</mi></munderover>" in inline(whole.node)


def test_code_reads_as_one_would_write_it():
    code = (E(q, Sum("n", log(lik), rows=60)) - KL(q, prior)).code
    assert "w = normal.sample(q_w, noise_w)" in code
    assert "(x, rows(w, 0, x.shape[:-1]))" in code
    assert "60.0 * log_p_y.mean()" in code


def test_explain_says_what_is_shared():
    x = torch.randn(5, 2)
    text = str((E(q, Sum("n", E(of_z := Normal("p(z)", shape=2), log(decode)), rows="all"))).explain())
    assert "w from q(w), one per call, shared by all rows" in text
    assert "z from p(z), one per row" in text
    assert "z from p(z|m), one per row" in str(E(mean * of_mean, log(decode)).explain())
    assert E(of_z, log(decode))(x=x).samples["z"].shape == (5, 2)


def test_graph_has_the_plate_around_the_rows():
    rows = Sum("d", E(q_shares, log(words)) - KL(q_shares, shares), rows=9)
    model = graph(E(q_topics, rows) - KL(q_topics, topics))
    assert {p.label: set(map(str, p.members)) for p in model.plates} == {"d = 1, …, 9": {"theta", "c"}}
    both = graph(E(mean * half, Sum("n", total(Value("x", shape=2) * Value("v")), rows="all"), samples=3))
    assert {p.label: set(map(str, p.members)) for p in both.plates} == {"K = 3": {"m", "v"}}


def test_direct_draws_and_densities():
    x, y = torch.randn(5, 2), torch.ones(5, 1)
    joint = prior * lik
    assert prior.sample().shape == (2,)
    assert {k: tuple(v.shape) for k, v in joint.sample(x=x).items()} == {"w": (2,), "y": (5, 1)}
    assert {k: tuple(v.shape) for k, v in joint.sample(x=x, sample_shape=(3,)).items()} == {"w": (3, 2), "y": (3, 5, 1)}
    assert (mean * Normal("p(s)", shape=2, shared=True)).log_prob(m=torch.zeros(2), s=torch.zeros(2)).shape == ()
    with pytest.raises(FormulaError, match="one number for all rows"):
        joint.log_prob(x=x, y=y, w=torch.zeros(2))
    one = joint.sample(x=x, seed=0)
    other = joint.sample(x=x[:2], seed=0)
    assert torch.equal(one["w"], other["w"])


def test_copies_are_shared_too():
    formula = E(q, rows) - KL(q, prior)
    x, y = torch.randn(5, 2), torch.ones(5, 1)
    kept = formula(x=x, y=y, seed=0).value
    assert torch.equal(copy.deepcopy(formula)(x=x, y=y, seed=0).value, kept)
    assert torch.equal(pickle.loads(pickle.dumps(formula))(x=x, y=y, seed=0).value, kept)
    assert prior.fresh().shared
    assert prior.rename(w="v").shared
    assert q.slow(0.9).shared


@pytest.mark.slow
def test_compiled():
    formula = FORMULAS["iwae"]()
    given = inputs(formula)
    kept = formula(**given, seed=0).value
    formula.compile(fullgraph=True)
    assert torch.allclose(formula(**given, seed=0).value, kept)


def test_what_is_given_of_a_shared_variable_is_one_value():
    formula = Sum("n", norm2(Value("y", shape=2) - Value("w")), rows="all") + log(prior)
    y, w = torch.randn(5, 2), torch.randn(2)
    expected = (y - w).square().sum() + torch.distributions.Normal(0.0, 1.0).log_prob(w).sum()
    for _ in range(2):  # the first call, and those that look at less
        torch.testing.assert_close(formula(y=y, w=w).value, expected)
    for run in (formula, formula.interpret):
        with pytest.raises(ShapeError, match=r"w is one value for all rows of a call.*without batch axes"):
            run(y=y, w=torch.randn(5, 2))


@pytest.mark.parametrize("give", [float, torch.tensor])
def test_a_number_of_rows_that_no_data_have_is_refused(give):
    formula = E(q, Sum("n", log(lik), rows=Symbol("N"))) - KL(q, prior)
    x, y = torch.randn(5, 2), torch.ones(5, 1)
    for number in (0.0, -3.0, math.nan):
        with pytest.raises(FormulaError, match=r"(?s)rows=.*at least 1, or write rows='all'"):
            formula(x=x, y=y, N=give(number))


def test_a_statistic_of_all_rows_is_a_number_of_the_call():
    x, y, seeds = torch.randn(5, 2), torch.ones(5, 1), {"seed": 0}
    cost, spread = E(q, Sum("n", log(lik), rows="all")) - KL(q, prior), MMD(encode, Normal("p(z)", shape=2))
    noise = (cost - 2 * spread).noise(x=x, y=y, **seeds)
    found = (cost - 2 * spread)(x=x, y=y, noise=noise).value
    alone = spread(x=x, noise={k: v for k, v in noise.items() if k in spread.noise(x=x)}).value
    torch.testing.assert_close(found, cost(x=x, y=y, noise={"w": noise["w"]}).value - 2 * alone)


ONE_ROW = "is one number for the whole call, and .* is one for each row"
REFUSED = {
    "a cost of the call beside rows": (lambda: E(q, log(lik)) - KL(q, prior), FormulaError, ONE_ROW),
    "inside the E": (lambda: E(q, log(lik) + log(prior)).mean(), FormulaError, ONE_ROW),
    "in a product": (lambda: E(q, log(lik * prior)).mean(), FormulaError, ONE_ROW),
    "in a ratio": (lambda: log(E(q, ratio(lik * prior, q), samples=3)).mean(), FormulaError, ONE_ROW),
    "in a ratio of one": (lambda: log(E(q, ratio(lik, q), samples=3)).mean(), FormulaError, ONE_ROW),
    "an energy of it": (lambda: E(q, log(lik) - norm2(Value("w"))).mean(), FormulaError, ONE_ROW),
    "a sum beside a row": (lambda: Sum("n", log(decode), rows="all") - KL(encode, of_mean), FormulaError, ONE_ROW),
    "in every step": (lambda: Sum("t", E(mean * follow, log(frames) + log(mean))).mean(), FormulaError, ONE_ROW),
    "a mean of the call": (lambda: KL(q, prior).mean(), FormulaError, "has no mean over the rows"),
    "rows of nothing": (lambda: Sum("n", KL(q, prior), rows=5), FormulaError, "nothing in it is of"),
    "rows of a statistic": (
        lambda: Sum("n", MMD(encode, Normal("p(z)", shape=2)), rows="all"),
        FormulaError,
        "nothing in it is of",
    ),
    "rows of rows": (lambda: Sum("n", Sum("m", log(lik), rows="all"), rows="all"), FormulaError, "nothing in it is of"),
    "rows in steps": (lambda: Sum("t", Sum("n", log(frames), rows="all")), TimeError, "inside the Sum over 't'"),
    "two that disagree": (
        lambda: E(Normal("q(w)", nn.Parameter(torch.zeros(4)), shape=2), log(prior)),
        FormulaError,
        "write shared=True on every factor of w, or on none",
    ),
    "experts that disagree": (
        lambda: PoE([prior, Normal("q(w|x)", nn.Linear(2, 4), shape=2)]),
        FormulaError,
        "shared by all rows of a call",
    ),
    "of a row": (
        lambda: E(Normal("q(w|x)", nn.Linear(2, 4), shape=2, shared=True), rows),
        FormulaError,
        "it reads x, which each row has of its own",
    ),
    "an index": (lambda: Normal("p(w_n)", shape=2, shared=True), FormulaError, "w_n has an index"),
    "no flag": (lambda: Normal("p(w)", shape=2, shared="yes"), FormulaError, "shared= as True or False"),
    "no number of rows": (lambda: Sum("n", log(lik), rows=0), FormulaError, "rows='all'"),
    "rows and steps": (lambda: Sum("n", log(lik), rows=5, steps=3), FormulaError, "steps= belongs to a sum over"),
    "rows and flags": (lambda: Sum("n", log(lik), rows=5, reset="f"), FormulaError, "reset= belongs to a sum over"),
    "not shared": (
        lambda: E(Normal("p(w)", shape=2), Sum("n", log(lik), rows="all")),
        FormulaError,
        "write shared=True on p",
    ),
    "statistics": (lambda: E(q, Variance(Value("w"))), FormulaError, "a statistic of the rows"),
    "distances of samples": (lambda: MMD(q, prior), FormulaError, "about values of the rows"),
    "the least over it": (
        lambda: Min(OneHot("p(k)", shape=2, shared=True), norm2(Value("k") - Value("x", shape=2))),
        FormulaError,
        "about values of the rows",
    ),
    "weights of rows": (lambda: log(E(q, ratio(lik, prior), "dreg", samples=3)), FormulaError, ONE_ROW),
    "weights of rows alone": (lambda: log(E(q, exp(log(lik)), "dreg", samples=3)), GradientError, "weights of its own"),
    "without a size": (
        lambda: E(mean * Normal("p(z|m)", lambda m: torch.cat([m, m], -1)), log(decode)),
        ShapeError,
        "write shape= on it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_words(name):
    build, error, words_of_it = REFUSED[name]
    with pytest.raises(error, match=words_of_it):
        _ = build().program


def test_a_world_is_given_what_is_shared():
    post = Normal("q(z_t|z_{t-1},x_t)", lambda z, x: torch.cat([z, x], -1), shape=2)
    loss = Sum("t", E(post, log(frames))).mean()
    with pytest.raises(FormulaError, match=r"given=\{'m'"):
        World(prior=mean * follow, posterior=post, heads=[frames], loss=loss)
    loss = -E(mean, Sum("n", Sum("t", E(post, log(frames) - KL(post, follow))), rows="all"))
    world = World(prior=follow, posterior=post, heads=[frames], loss=loss)
    assert loss(x=torch.randn(3, 4, 2)).value.shape == ()
    dream = world.imagine(world.initial(2), horizon=3, given={"m": torch.ones(2, 2)})
    assert dream["z"].shape == (2, 4, 2)
