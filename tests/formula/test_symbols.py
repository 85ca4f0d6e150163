"""Numbers of the call in settings: a Symbol in the place of a number is that number, in value and gradient."""

import copy
import dataclasses
import pickle

import pytest
import torch
from torch import distributions as td
from torch import nn

from tests.formula.defects.both import PATHS, run
from worldformula import (
    KL,
    MMD,
    Categorical,
    ContrastiveDivergence,
    Data,
    Deterministic,
    E,
    Entropy,
    Flow,
    Gibbs,
    GradientPenalty,
    LowRankNormal,
    Mixture,
    MoE,
    Multinomial,
    Normal,
    OneHot,
    RelaxedBernoulli,
    RelaxedOneHot,
    Renyi,
    ScoreMatching,
    SlicedWasserstein,
    Sum,
    Symbol,
    TruncatedNormal,
    Value,
    VRBound,
    Wrapped,
    clamp,
    families,
    log,
    sqrt,
    total,
)
from worldformula.errors import ConfigError, FormulaError, MissingInputError, ShapeError
from worldformula.families import Family, MixtureFamily, normal
from worldformula.formula.factors.joint import Factor
from worldformula.nets.coupling import RealNVP

B, T, X, Z = 5, 4, 3, 2
TAU = Symbol("tau")
KINDS = pytest.mark.parametrize("kind", [float, torch.tensor], ids=["number", "tensor"])


def net(width):
    """A network of x."""
    return nn.Linear(X, width)


# ------------------------------------------------------------------------------------------------ settings of families

PLAIN = {  # class, setting: the other settings, the event shape, two values
    ("BetaFamily", "min_concentration"): ({}, (2,), (0.1, 0.7)),
    ("CategoricalFamily", "unimix"): ({"classes": 4}, (), (0.0, 0.3)),
    ("DirichletFamily", "min_concentration"): ({}, (3,), (0.1, 0.7)),
    ("DiscretisedLogisticFamily", "min_log_scale"): ({"components": 2, "levels": 8}, (2,), (-7.0, -0.1)),
    ("GammaFamily", "min_concentration"): ({}, (2,), (0.1, 0.7)),
    ("GammaFamily", "min_rate"): ({}, (2,), (0.0, 0.7)),
    ("LaplaceFamily", "min_scale"): ({}, (2,), (0.0, 0.7)),
    ("LogNormalFamily", "min_scale"): ({}, (2,), (0.0, 0.7)),
    ("LowRankNormalFamily", "min_variance"): ({"cov_rank": 2}, (3,), (0.1, 0.7)),
    ("MixtureFamily", "temperature"): ({"component": normal, "components": 3, "factored": True}, (2,), (1.0, 2.5)),
    ("MultivariateNormalFamily", "min_scale"): ({}, (3,), (0.0, 0.7)),
    ("NegativeBinomialFamily", "min_count"): ({}, (2,), (0.1, 0.7)),
    ("NormalFamily", "min_scale"): ({}, (2,), (0.0, 0.7)),
    ("OneHotFamily", "unimix"): ({}, (2, 4), (0.0, 0.3)),
    ("PoissonFamily", "min_rate"): ({}, (2,), (0.1, 0.7)),
    ("RelaxedBernoulliFamily", "temperature"): ({}, (2,), (0.4, 1.7)),
    ("RelaxedOneHotFamily", "temperature"): ({}, (4,), (0.4, 1.7)),
    ("StudentTFamily", "min_df"): ({}, (2,), (2.0, 5.0)),
    ("StudentTFamily", "min_scale"): ({}, (2,), (0.0, 0.7)),
    ("TanhNormalFamily", "min_scale"): ({}, (2,), (0.1, 0.7)),
    ("TruncatedNormalFamily", "high"): ({"low": -2.0}, (2,), (2.0, 3.0)),
    ("TruncatedNormalFamily", "low"): ({"high": 2.0}, (2,), (-2.0, -3.0)),
    ("TruncatedNormalFamily", "min_scale"): ({}, (2,), (0.1, 0.7)),
    ("TwoHotFamily", "high"): ({"bins": 5, "low": -2.0}, (), (2.0, 3.0)),
    ("TwoHotFamily", "low"): ({"bins": 5, "high": 2.0}, (), (-2.0, -3.0)),
    ("UniformFamily", "min_width"): ({}, (2,), (0.1, 0.7)),
    ("VonMisesFamily", "min_concentration"): ({}, (2,), (0.1, 0.7)),
    ("VonMisesFisherFamily", "min_concentration"): ({}, (3,), (0.1, 0.7)),
    ("LogisticNormalFamily", "min_scale"): ({}, (3,), (0.1, 0.7)),
}
GUMBEL = {  # read by that estimator alone
    ("BernoulliFamily", "temperature"): ({}, (2,), (0.4, 1.7)),
    ("OneHotFamily", "temperature"): ({}, (2, 4), (0.4, 1.7)),
}
SAME = {("ExpertsFamily", "temperature")}  # as that of the mixture
SETTINGS = PLAIN | GUMBEL


def test_every_setting_that_is_a_real_number_is_in_the_list():
    kinds = [c for c in vars(families).values() if isinstance(c, type) and issubclass(c, Family) and c is not Family]
    found = {(c.__name__, f.name) for c in kinds for f in dataclasses.fields(c) if f.type == "float"}
    assert found == {*SETTINGS, *SAME}


def built(case, value):
    """log p(y|x) of a factor with this setting; or the value of a draw, whose gradient the setting is in."""
    kind, name = case
    others, shape, _ = SETTINGS[case]
    family = getattr(families, kind)(**others, **{name: value})
    torch.manual_seed(0)
    factor = Factor("p(y|x)", net(family.head_width(shape)), family=family, shape=shape)
    if case in GUMBEL:
        weights = torch.linspace(-1.0, 2.0, shape[0] * (shape[-1] if len(shape) > 1 else 1)).reshape(shape)
        return E(factor, total(Value("y") * Value("w", shape=shape)), gradient="gumbel"), {
            "w": weights.expand(B, *shape),
            "x": torch.randn(B, X),
        }
    return log(factor), {} if factor.symbols else off_the_grid(factor, kind)


def off_the_grid(factor, kind):
    """Conditions, and values to score; those of bins are kinks of the density, so they lie beside."""
    x = torch.randn(B, X)
    drawn = factor.sample(x=x, seed=1).detach()
    return {"x": x, "y": drawn + 0.1 if kind == "TwoHotFamily" else drawn}


@PATHS
@KINDS
@pytest.mark.parametrize("case", SETTINGS, ids=lambda c: f"{c[0]} {c[1]}")
def test_a_symbol_as_a_setting_is_the_constant(case, kind, path):
    symbolic, _ = built(case, TAU)
    for value in SETTINGS[case][2]:
        constant, data = built(case, value)
        ours = run(symbolic, path, **data, tau=kind(value), seed=3).value
        theirs = constant(**data, seed=3).value
        torch.testing.assert_close(ours, theirs)
        for a, b in zip(
            *(torch.autograd.grad(v.sum(), m.parameters()) for v, m in ((ours, symbolic), (theirs, constant))),
            strict=False,
        ):
            torch.testing.assert_close(a, b)


@PATHS
@pytest.mark.parametrize("case", PLAIN, ids=lambda c: f"{c[0]} {c[1]}")
def test_the_gradient_reaches_a_tensor_that_is_a_setting(case, path):
    value = SETTINGS[case][2][1] + 0.01
    _, data = built(case, value)
    data = {k: v.double() if v.is_floating_point() else v for k, v in data.items()}
    symbolic = built(case, TAU)[0].double()
    tau = torch.tensor(value, dtype=torch.double, requires_grad=True)
    (slope,) = torch.autograd.grad(run(symbolic, path, **data, tau=tau).value.sum(), tau)
    up, down = (symbolic(**data, tau=value + d).value.sum() for d in (1e-6, -1e-6))
    torch.testing.assert_close(slope, (up - down) / 2e-6, rtol=1e-4, atol=1e-5)


WRONG = {"temperature": -1.0, "unimix": 1.0, "low": 2.5, "high": -2.5}  # else -1, as a floor is at least 0
BOUNDED = [case for case in SETTINGS if case[1] != "min_log_scale"]  # of which every number is possible


@PATHS
@KINDS
@pytest.mark.parametrize("case", BOUNDED, ids=lambda c: f"{c[0]} {c[1]}")
def test_a_wrong_setting_is_refused_by_the_message_of_the_constant(case, kind, path):
    value = WRONG.get(case[1], -1.0)
    with pytest.raises(ConfigError) as constant:
        built(case, value)
    symbolic, data = built(case, TAU)
    data |= built(case, SETTINGS[case][2][0])[1]
    with pytest.raises(ConfigError) as called:
        run(symbolic, path, **data, tau=kind(value))
    assert str(called.value) == str(constant.value)


def test_a_number_that_turns_wrong_later_is_refused_too():
    loss = log(RelaxedBernoulli("q(b|x)", net(Z), shape=Z, temperature=TAU))
    data = {"x": torch.randn(B, X), "b": torch.rand(B, Z)}
    loss(**data, tau=0.5)
    with pytest.raises(ConfigError, match=r"^relaxed_bernoulli: the temperature must be positive, got 0\.0\.$"):
        loss(**data, tau=0.0)


@PATHS
def test_densities_at_a_temperature_against_torch(path):
    bits, cats = (
        RelaxedBernoulli("q(b|x)", net(Z), shape=Z, temperature=TAU),
        RelaxedOneHot("q(k|x)", net(3), shape=3, temperature=TAU),
    )
    x, b, k = torch.randn(B, X), torch.rand(B, Z), torch.rand(B, 3).softmax(-1)
    for tau in (0.3, 2.0):
        first = td.RelaxedBernoulli(torch.tensor(tau), logits=bits.net(x)).log_prob(b).sum(-1)
        second = td.RelaxedOneHotCategorical(torch.tensor(tau), logits=cats.net(x)).log_prob(k)
        torch.testing.assert_close(run(log(bits) + log(cats), path, x=x, b=b, k=k, tau=tau).value, first + second)


def test_one_symbol_in_several_places_is_one_argument():
    q, p = RelaxedOneHot("q(k|x)", net(3), shape=3, temperature=TAU), Normal("p(y)", shape=Z, scale=TAU)
    loss = TAU * (log(q) + log(p)) + clamp(Value("a"), TAU) ** TAU
    assert [name for name in loss.program.inputs if name == "tau"] == ["tau"]
    assert "def formula(self, k, x, y, a, tau):" in loss.code
    assert "relaxed_one_hot_now = completed(relaxed_one_hot, {'tau': tau})" in loss.code
    assert "relaxed_one_hot = RelaxedOneHotFamily(temperature=Given(name='tau'))" in loss.code


def test_emitted_source_runs_by_itself():
    loss = log(RelaxedOneHot("q(k|x)", net(3), shape=3, temperature=TAU))
    x, k, scope = torch.randn(B, X), torch.full((B, 3), 1 / 3), {}
    exec(str(loss.code), scope)
    value, _, _ = scope["formula"](loss, k, x, 0.7)
    torch.testing.assert_close(value, loss(x=x, k=k, tau=0.7).value)
    assert eval(repr(loss.node.p[0].factor.family), vars(families)) == loss.node.p[0].factor.family


# ---------------------------------------------------------------------------------------------------- fixed parameters


@PATHS
@KINDS
def test_parameters_of_the_call_against_torch(kind, path):
    loc, scale = Symbol("m"), Symbol("s")
    a, y = torch.randn(B, Z), torch.randn(B, Z)
    cases = {
        "both": (log(Normal("p(y)", shape=Z, loc=loc, scale=scale)), td.Normal(0.4, 1.7)),
        "scale beside a head": (log(Normal("p(y|a)", lambda a: a, shape=Z, scale=scale)), td.Normal(a, 1.7)),
        "loc beside a tensor": (log(Normal("p(y)", shape=Z, loc=loc, scale=torch.ones(Z))), td.Normal(0.4, 1.0)),
    }
    for formula, law in cases.values():
        given = {k: v for k, v in {"a": a, "m": kind(0.4), "s": kind(1.7)}.items() if k in formula.program.inputs}
        torch.testing.assert_close(run(formula, path, y=y, **given).value, law.log_prob(y).sum(-1))


@PATHS
@KINDS
def test_closed_forms_of_parameters_of_the_call(kind, path):
    q, p = Normal("q(z|x)", net(2 * Z), shape=Z), Normal("p(z)", shape=Z, loc=0.0, scale=TAU)
    x = torch.randn(B, X)
    ours, law = td.Normal(*q.params(x)), td.Normal(torch.zeros(Z), torch.full((Z,), 1.7))
    found = run(KL(q, p), path, x=x, tau=kind(1.7)).value
    torch.testing.assert_close(found, td.kl_divergence(ours, law).sum(-1))
    torch.testing.assert_close(run(Entropy(p), path, tau=kind(1.7)).value.float(), law.entropy().sum())
    other = Normal("q(z)", shape=Z, loc=TAU)
    expected = td.kl_divergence(td.Normal(torch.full((Z,), 1.7), 1.0), law).sum()
    torch.testing.assert_close(run(KL(other, p), path, tau=kind(1.7)).value.float(), expected)


@PATHS
@KINDS
def test_draws_at_parameters_of_the_call(kind, path):
    p, decode = (
        Normal("p(z)", shape=Z, loc=Symbol("m"), scale=TAU),
        Normal("p(x|z)", nn.Linear(Z, X), shape=X, scale=TAU),
    )
    for samples in (None, 3):
        loss = E(p, log(decode), samples=samples)
        noise = torch.randn(*(() if samples is None else (samples,)), B, Z)
        found = run(loss, path, x=torch.ones(B, X), m=kind(0.5), tau=kind(1.7), noise={"z": noise})
        z = 0.5 + 1.7 * noise
        value = td.Normal(decode.net(z), 1.7).log_prob(torch.ones(B, X)).sum(-1)
        torch.testing.assert_close(found.value, value if samples is None else value.mean(0))
    fixed = run(E(p, total(Value("z"))), path, m=kind(0.5), tau=kind(1.7), deterministic=True).value
    torch.testing.assert_close(fixed, torch.tensor(0.5 * Z))


@PATHS
@KINDS
def test_numbers_of_the_call_through_time(kind, path):
    both = nn.Linear(Z + X, Z)

    def joined(z, x):
        return both(torch.cat((z, x), -1))

    scale, share = Symbol("s"), Symbol("u")
    post, prior = (
        Normal("q(z_t|z_{t-1},x_t)", joined, shape=Z, scale=scale),
        Normal("p(z_t|z_{t-1})", nn.Linear(Z, Z), shape=Z, scale=scale),
    )
    draw, code = (
        OneHot("q(k_t|x_t)", net(3), shape=3, unimix=share),
        OneHot("p(k_t|z_{t-1})", nn.Linear(Z, 3), shape=3, unimix=share),
    )
    loss = Sum("t", E(post * draw, KL(post, prior) - log(code)), reset="first").mean()
    x = torch.randn(B, T, X)
    given = {"x": x, "first": torch.zeros(B, T)}
    given["noise"] = noise = loss.noise(**given, s=kind(0.7), u=kind(0.2))
    found = run(loss, path, **given, s=kind(0.7), u=kind(0.2))
    z, value = torch.zeros(B, Z), torch.zeros(B)
    for t in range(T):
        mean, expected = joined(z, x[:, t]), prior.net(z)
        value = value + ((mean - expected) ** 2).sum(-1) / (2 * 0.7**2)
        shares = 0.8 * code.net(z).softmax(-1) + 0.2 / 3
        value = value - (shares.log() * found.samples["k"][:, t]).sum(-1)
        z = mean + 0.7 * noise["z"][:, t]
    torch.testing.assert_close(found.value, value.mean())


@PATHS
def test_a_tensor_without_axes_stays_what_it_is_in_a_loop(path):
    """A constant of that kind too."""
    both = nn.Linear(Z + X, Z)
    for scale, given in ((torch.tensor(0.7), {}), (TAU, {"tau": torch.tensor(0.7)}), (0.7, {})):
        post = Normal("q(z_t|z_{t-1},x_t)", lambda z, x: both(torch.cat((z, x), -1)), shape=Z, scale=scale)
        loss = Sum("t", E(post, KL(post, Normal("p(z_t)", shape=Z)))).mean()
        torch.manual_seed(0)
        x, noise = torch.randn(B, T, X), {"z": torch.randn(B, T, Z)}
        value = run(loss, path, x=x, noise=noise, **given).value
        z, expected = torch.zeros(B, Z), torch.zeros(B)
        for t in range(T):
            law = td.Normal(both(torch.cat((z, x[:, t]), -1)), torch.full((Z,), 0.7))
            expected = expected + td.kl_divergence(law, td.Normal(torch.zeros(Z), torch.ones(Z))).sum(-1)
            z = law.mean + 0.7 * noise["z"][:, t]
        torch.testing.assert_close(value, expected.mean())


@PATHS
@KINDS
def test_a_wrong_parameter_is_refused_by_the_message_of_the_constant(kind, path):
    with pytest.raises(FormulaError) as constant:
        Normal("p(y)", shape=Z, scale=-1.0)
    with pytest.raises(FormulaError) as called:
        run(log(Normal("p(y)", shape=Z, scale=TAU)), path, y=torch.randn(B, Z), tau=kind(-1.0))
    assert str(called.value) == str(constant.value) == "p(y): expected scale= greater than 0, got -1.0"


def test_what_a_call_does_not_give_is_refused():
    loss = log(Normal("p(y)", shape=Z, scale=TAU))
    with pytest.raises(MissingInputError, match=r"^the formula needs tau; pass tau=\.\.\.\n"):
        loss(y=torch.randn(B, Z))
    with pytest.raises(ShapeError, match=r"^tau: expected one number for the whole call, got a tensor of shape \[2\]"):
        loss(y=torch.randn(B, Z), tau=torch.ones(2))


# ---------------------------------------------------------------------------------------- bounds, exponents, operators


@PATHS
@KINDS
def test_bounds_may_be_made_of_symbols(kind, path):
    a = torch.tensor([-3.0, 0.2, 0.9, 5.0])
    loss = clamp(Value("a"), TAU, 2 * TAU + 1)
    torch.testing.assert_close(run(loss, path, a=a, tau=kind(0.5)).value, a.clamp(0.5, 2.0))
    assert repr(loss) == "<Expression clamp(a, tau, 2 * tau + 1)>"
    assert loss.latex == r"\operatorname{clamp}\left( a,\, \tau,\, 2 \, \tau + 1 \right)"
    with pytest.raises(FormulaError) as refused:
        run(clamp(Value("a"), TAU, 1.0), path, a=a, tau=kind(2.0))
    assert str(refused.value) == "clamp: expected a lower bound below the upper one, got 2.0 and 1.0"
    with pytest.raises(FormulaError, match="expected numbers as bounds"):
        clamp(Value("a"), Value("b"), 1.0)


@PATHS
def test_the_gradient_reaches_bounds_and_exponents(path):
    a, tau = torch.tensor([-3.0, 0.2, 0.9]), torch.tensor(0.5, requires_grad=True)
    (slope,) = torch.autograd.grad(run(clamp(Value("a"), TAU).sum(), path, a=a, tau=tau).value, tau)
    assert slope == 2  # of two values the bound is taken
    (slope,) = torch.autograd.grad(run((Value("a") ** TAU).sum(), path, a=a.abs(), tau=tau).value, tau)
    torch.testing.assert_close(slope, (a.abs().log() * a.abs() ** 0.5).sum())
    assert (Value("a") ** (2 * TAU)).latex == r"a^{2 \, \tau}"


NOT_REAL = "is no real number\ngive the call a base of at least 0, or a whole exponent"
DIVIDES = "divides by 0\ngive the call another base, or an exponent from 0 on"


@PATHS
@KINDS
@pytest.mark.parametrize(
    ("build", "numbers", "says"),
    [
        (lambda: TAU ** Symbol("n"), (-2.0, 0.5), f"(-2.0) ** 0.5 {NOT_REAL}"),
        (lambda: (-2.0) ** TAU, (0.5, 1.0), f"(-2.0) ** 0.5 {NOT_REAL}"),
        (lambda: (TAU - 3) ** Symbol("n"), (1.0, 1.5), f"(-2.0) ** 1.5 {NOT_REAL}"),
        (lambda: clamp(Value("a"), TAU ** Symbol("n"), 3.0), (-2.0, 0.5), f"(-2.0) ** 0.5 {NOT_REAL}"),
        (lambda: TAU ** Symbol("n"), (0.0, -1.0), f"0.0 ** -1.0 {DIVIDES}"),
        (lambda: sqrt(TAU), (-4.0, 0.0), "sqrt(-4.0) is no real number\ngive the call a number of at least 0"),
        (lambda: log(2 * TAU), (-0.5, 0.0), "log(-1.0) is no real number\ngive the call a number of at least 0"),
    ],
)
def test_what_is_no_real_number_is_refused(build, numbers, says, kind, path):
    loss = Value("a") + Symbol("n") * 0 + build()
    given = {"a": torch.ones(B), "tau": kind(numbers[0]), "n": kind(numbers[1])}
    with pytest.raises(FormulaError) as refused:
        run(loss, path, **given)
    assert str(refused.value) == says


@PATHS
@KINDS
def test_powers_and_roots_that_are_real_are_computed(kind, path):
    power = Value("a") + TAU ** Symbol("n")
    a = torch.ones(B)
    for base, exponent, expected in ((-2.0, 3.0, -8.0), (-2.0, -2.0, 0.25), (0.0, 0.0, 1.0), (0.0, 2.5, 0.0)):
        found = run(power, path, a=a, tau=kind(base), n=kind(exponent)).value
        torch.testing.assert_close(found, torch.full((B,), 1.0 + expected))
    torch.testing.assert_close(run(Value("a") + sqrt(TAU), path, a=a, tau=kind(6.25)).value, torch.full((B,), 3.5))


def test_powers_that_turn_wrong_later_are_refused_too():
    loss = (Value("a") * TAU ** Symbol("n")).mean()
    assert loss(a=torch.ones(B), tau=4.0, n=0.5).value == 2.0
    with pytest.raises(FormulaError, match="is no real number"):
        loss(a=torch.ones(B), tau=-4.0, n=0.5)
    assert loss(a=torch.ones(B), tau=-4.0, n=2.0).value == 16.0


OPERATORS = {
    "Rényi": (lambda v: Renyi(*sides(), v), 0.5, 1.0),
    "Rényi by samples": (lambda v: Renyi(*sides(), v, samples=4), 0.5, 1.0),
    "variational Rényi bound": (lambda v: VRBound(encode(), sides()[1] * decode(), v, samples=4), 0.5, 1.0),
    "gradient penalty": (lambda v: GradientPenalty(Deterministic("d = D(x)", critic(), shape=()), centre=v), 1.0, None),
    "sliced Wasserstein": (lambda v: SlicedWasserstein(Data("p_data(x)", shape=X), reference(), order=v), 1.5, 0.5),
    "score matching": (lambda v: ScoreMatching(Deterministic("s = s(x)", linear(X), shape=X), noise=v), 0.3, -1.0),
    "MMD": (lambda v: MMD(Data("p_data(x)", shape=X), reference(), scale=v), 0.7, -1.0),
    "contrastive divergence": (
        lambda v: ContrastiveDivergence(Gibbs("p(x)", critic(), shape=X), steps=3, step_size=v),
        0.1,
        -1.0,
    ),
    "noise of the chain": (
        lambda v: ContrastiveDivergence(Gibbs("p(x)", critic(), shape=X), steps=3, step_size=0.1, noise=v),
        0.2,
        -1.0,
    ),
}


def linear(width, seed=0):
    torch.manual_seed(seed)
    return net(width)


def encode():
    return Normal("q(z|x)", linear(2 * Z), shape=Z)


def sides():
    return encode(), Normal("p(z)", shape=Z, scale=1.5)


def decode():
    torch.manual_seed(1)
    return Normal("p(x|z)", nn.Linear(Z, X), shape=X, scale=1.0)


def reference():
    return Normal("p(x)", shape=X)


def critic():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(X, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))


@PATHS
@KINDS
@pytest.mark.parametrize("case", OPERATORS)
def test_a_symbol_as_a_setting_of_an_operator_is_the_constant(case, kind, path):
    build, value, wrong = OPERATORS[case]
    x = torch.randn(B, X)
    ours, theirs = build(TAU), build(value)
    found, expected = run(ours, path, x=x, tau=kind(value), seed=0).value, theirs(x=x, seed=0).value
    torch.testing.assert_close(found, expected)
    if list(ours.parameters()):
        pairs = ((found, ours), (expected, theirs))
        for a, b in zip(
            *(torch.autograd.grad(v.sum(), m.parameters(), allow_unused=True) for v, m in pairs), strict=False
        ):
            torch.testing.assert_close(a, b)
    assert "tau" in repr(ours)
    assert r"\tau" in ours.latex
    assert "τ" in ours._repr_html_()
    if wrong is not None:
        with pytest.raises(FormulaError) as constant:
            build(wrong)
        with pytest.raises(FormulaError) as called:
            run(build(TAU), path, x=x, tau=kind(wrong))
        assert str(called.value) == str(constant.value)


@PATHS
def test_the_order_of_a_divergence_gets_its_gradient(path):
    x, alpha = torch.randn(B, X), torch.tensor(0.5, requires_grad=True)
    loss = Renyi(*sides(), TAU)
    (slope,) = torch.autograd.grad(run(loss, path, x=x, tau=alpha).value.sum(), alpha)
    up, down = (loss.double()(x=x.double(), tau=0.5 + d).value.sum() for d in (1e-6, -1e-6))
    torch.testing.assert_close(slope, ((up - down) / 2e-6).float(), rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------------------------------ what is refused


SIZES = {  # what the code is written for
    "multinomial: expected total_count=": lambda: Multinomial("p(k)", shape=3, total_count=TAU),
    "categorical: expected classes=": lambda: Categorical("p(k)", shape=(), classes=TAU),
    "low_rank_normal: expected cov_rank=": lambda: LowRankNormal("p(y|x)", net(9), shape=3, cov_rank=TAU),
    "mixture: expected components=": lambda: Mixture("p(y|x)", net(9), shape=3, components=TAU),
    "mixture: expected factored=": lambda: Mixture("p(y|x)", net(9), shape=3, components=1, factored=TAU),
}


@pytest.mark.parametrize("begin", SIZES)
def test_sizes_are_known_before_the_call(begin):
    with pytest.raises(ConfigError) as refused:
        SIZES[begin]()
    why = "as a number that is known before the call, as the code is written for it, got the Symbol tau."
    assert str(refused.value) == f"{begin} {why}"


def test_a_parameter_is_a_symbol_and_no_formula():
    with pytest.raises(FormulaError) as refused:
        Normal("p(y)", shape=3, scale=2 * TAU)
    assert str(refused.value) == (
        "p(y): expected scale= as a number, a tensor or a Symbol, got a formula, <Expression 2 * tau>\n"
        "write scale=Symbol('scale'), and give the call the number that the formula makes"
    )


def test_a_symbol_is_no_variable():
    with pytest.raises(FormulaError) as refused:
        Normal("p(y|tau)", net(3), shape=3, scale=TAU)
    assert str(refused.value) == (
        "p(y|tau): tau is both a condition and the Symbol of a setting, which a call could not tell apart\n"
        "rename one of them"
    )
    with pytest.raises(FormulaError) as refused:
        (log(Normal("p(y)", shape=3)) * Symbol("y"))(y=torch.randn(B, 3))
    assert str(refused.value) == (
        "the formula: y is both a Symbol, one number for the whole call, and a variable with a value per row\n"
        "rename one of them"
    )


# ------------------------------------------------------------------------------------------------ direct calls, copies


def test_direct_calls_take_the_numbers():
    q = RelaxedOneHot("q(k|x)", net(3), shape=3, temperature=TAU)
    x, k = torch.randn(B, X), torch.rand(B, 3).softmax(-1)
    plain = RelaxedOneHot("q(k|x)", q.net, shape=3, temperature=0.6)
    torch.testing.assert_close(q.sample(x=x, tau=0.6, seed=0), plain.sample(x=x, seed=0))
    torch.testing.assert_close(q.log_prob(x=x, k=k, tau=0.6), plain.log_prob(x=x, k=k))
    p = Normal("p(x)", shape=X, scale=Symbol("s"))
    drawn = (p * q).sample(s=2.0, tau=0.6, seed=0, sample_shape=(B,))
    assert drawn["k"].shape == (B, 3)
    expected = td.Normal(0.0, 2.0).log_prob(x).sum(-1) + plain.log_prob(x=x, k=k)
    torch.testing.assert_close((p * q).log_prob(x=x, k=k, s=2.0, tau=0.6), expected)
    for call in (lambda: q.sample(x=x), lambda: q.params(x), lambda: (p * q).sample(s=1.0)):
        with pytest.raises(MissingInputError, match=r"needs tau; pass tau=\.\.\.\n  variable \| declared by"):
            call()
    with pytest.raises(ConfigError, match="the temperature must be positive, got -1"):
        q.sample(x=x, tau=-1)


def test_copies_and_experts_keep_their_symbols():
    q = Normal("q(z|x)", net(Z), shape=Z, scale=TAU)
    x, y = torch.randn(B, X), torch.randn(B, X)
    other = q.rename(x="y")
    mixed = MoE([q, other])
    given = {"x": x, "y": y, "z": torch.randn(B, Z), "tau": 0.8}
    laws = [td.Normal(q.net(v), 0.8).log_prob(given["z"]).sum(-1) for v in (x, y)]
    expected = torch.stack(laws).logsumexp(0) - torch.tensor(2.0).log()
    loss = log(mixed)
    for formula in (loss, copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        torch.testing.assert_close(formula(**given).value, expected)
        torch.testing.assert_close(formula.interpret(**given).value, expected)
    torch.testing.assert_close(mixed.log_prob(**given), expected)
    slow = log(q.slow(0.5))(x=x, z=given["z"], tau=0.8).value
    torch.testing.assert_close(slow, laws[0])


def test_compiled_and_mapped():
    q = RelaxedOneHot("q(k|x)", net(3), shape=3, temperature=TAU)
    loss = (log(q) + log(Normal("p(y|x)", net(Z), shape=Z, scale=Symbol("s")))).mean()
    given = {"x": torch.randn(B, X), "k": torch.rand(B, 3).softmax(-1), "y": torch.randn(B, Z)}
    steps = [(0.9, 1.0), (0.8, 1.1), (torch.tensor(0.7), torch.tensor(1.2))]
    plain = [loss(**given, tau=tau, s=s).value for tau, s in steps]
    mapped = torch.func.vmap(lambda tau: loss(**given, tau=tau, s=1.0).value)(torch.tensor([0.9, 0.8]))
    torch.testing.assert_close(mapped[0], plain[0])
    compiled = loss.compile(backend="eager", fullgraph=True)
    for (tau, s), expected in zip(steps, plain, strict=True):
        torch.testing.assert_close(compiled(**given, tau=tau, s=s).value, expected)


@pytest.mark.parametrize("case", PLAIN, ids=lambda c: f"{c[0]} {c[1]}")
def test_nothing_waits_for_the_device(case):
    """On the meta device there are no numbers to wait for: what looks at one fails."""
    loss, _ = built(case, TAU)
    _, data = built(case, SETTINGS[case][2][0])
    given = {k: v.to("meta") for k, v in data.items()}
    loss.to("meta")
    for _ in range(2):
        value = loss(**given, tau=torch.tensor(1.0, device="meta")).value
    assert value.is_meta


def test_what_is_printed():
    q = RelaxedOneHot("q(k|x)", net(3), shape=3, temperature=TAU)
    p = Normal("p(y)", shape=Z, scale=Symbol("sigma"))
    assert q.latex == r"q(k \mid x),\quad \text{temperature} = \tau"
    shown = E(q, log(q) + log(p)).latex_lines()
    assert r"q(k \mid x):\; \text{temperature} = \tau" in shown
    assert r"p(y):\; \text{scale} = \sigma" in shown
    assert "<mtext>temperature</mtext><mo>=</mo><mi>τ</mi>" in E(q, log(q))._repr_html_()
    assert "<mtext>temperature</mtext><mo>=</mo><mi>τ</mi>" in q._repr_html_()


# --------------------------------------------------------------------------------------------------- mixtures at a τ


@PATHS
@KINDS
@pytest.mark.parametrize("factored", [False, True])
def test_a_tempered_mixture_against_torch(factored, kind, path):
    """Logits / τ and scales · √τ, in the density, the mean and the draws."""
    width = Z * 4 * 3 if factored else 4 * (1 + 2 * Z)
    tempered = Mixture("p(y|x)", net(width), components=4, shape=Z, factored=factored, temperature=TAU)
    plain = Mixture("p(y|x)", tempered.net, components=4, shape=Z, factored=factored)
    x, y, tau = torch.randn(B, X), torch.randn(B, Z), 1.7
    weights, loc, scale = plain.params(x)
    inner = td.Normal(loc, scale * tau**0.5)
    law = td.MixtureSameFamily(td.Categorical(logits=weights / tau), inner if factored else td.Independent(inner, 1))
    expected = law.log_prob(y).sum(-1) if factored else law.log_prob(y)
    torch.testing.assert_close(run(log(tempered), path, x=x, y=y, tau=kind(tau)).value, expected)
    fixed = Mixture("p(y|x)", tempered.net, components=4, shape=Z, factored=factored, temperature=tau)
    torch.testing.assert_close(fixed.log_prob(x=x, y=y), expected)
    torch.testing.assert_close(fixed.family.mean(fixed.params(x)), law.mean)
    drawn = tempered.sample(x=x[:1], tau=kind(tau), sample_shape=(60_000,), seed=0)[:, 0]
    torch.testing.assert_close(drawn.mean(0), law.mean[0], rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.var(0), law.variance[0], rtol=0.03, atol=0)
    parts = inner.log_prob(y[..., None] if factored else y[:, None])
    joint = (weights / tau).log_softmax(-1) + (parts if factored else parts.sum(-1))
    torch.testing.assert_close(tempered.responsibilities(x=x, y=y, tau=kind(tau)), joint.softmax(-1))


def test_a_temperature_of_a_mixture_is_of_normals_alone():
    with pytest.raises(ConfigError) as refused:
        Mixture("p(y|x)", net(9), components=3, shape=1, component=families.laplace, temperature=TAU)
    text = "mixture: a temperature widens Normal components, got laplace. Leave temperature= out."
    assert str(refused.value) == text
    assert repr(MixtureFamily(normal, 2)) == (
        "MixtureFamily(component=NormalFamily(min_scale=0.0), components=2, factored=False)"
    )


def test_objects_and_bases_of_flows_take_no_symbols():
    with pytest.raises(FormulaError) as refused:
        Wrapped("p(x)", of=td.Gumbel, loc=TAU, scale=1.0, shape=2)
    assert str(refused.value) == (
        "p(x): expected loc= as a number or a tensor, got a Symbol: an object of torch.distributions has the axes of "
        "its event, which a number of the call has not\nlet a network return the distribution"
    )
    with pytest.raises(FormulaError) as refused:
        Flow("p(x)", RealNVP(2), shape=2, base=Normal("p(u)", shape=2, scale=TAU))
    assert str(refused.value) == (
        "p(x): its base p(u) takes tau from the call, which the network of a flow does not see\n"
        "give the base numbers or a network"
    )
    with pytest.raises(FormulaError) as refused:
        MMD(Data("p_data(x)", shape=X), reference(), scale=[1.0, TAU])
    assert str(refused.value).startswith("MMD: expected scale= as positive numbers, or one Symbol, got [1.0, ")


def test_a_truncated_normal_whose_end_the_call_gives_needs_a_place_and_a_width():
    with pytest.raises(ConfigError, match=r"the call gives an end.*write loc=, scale="):
        log(TruncatedNormal("p(y)", shape=Z, low=Symbol("c"), high=2.0))
    found = log(TruncatedNormal("p(y)", shape=Z, low=Symbol("c"), high=2.0, loc=0.0, scale=1.0))
    mass = td.Normal(0.0, 1.0).cdf(torch.tensor(2.0)) - td.Normal(0.0, 1.0).cdf(torch.tensor(-1.5))
    expected = Z * (td.Normal(0.0, 1.0).log_prob(torch.tensor(0.5)) - mass.log())
    torch.testing.assert_close(found(y=torch.full((B, Z), 0.5), c=-1.5).value, expected.expand(B))
