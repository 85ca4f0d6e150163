"""What a user of the language does first, and gets wrong first: formulas that work, and messages that teach."""

import math

import pytest
import torch
from torch import nn

from tests.formula.models import B, X, Z
from worldformula import (
    JS,
    KL,
    MMD,
    Autoregressive,
    Categorical,
    CrossEntropy,
    Deterministic,
    E,
    Entropy,
    Flow,
    Gamma,
    MoE,
    MoPoE,
    Multinomial,
    Normal,
    OneHot,
    PoE,
    Poisson,
    Renyi,
    SlicedWasserstein,
    Sum,
    Symbol,
    Value,
    Wrapped,
    clamp,
    log,
    maximum,
    minimum,
    norm2,
    ratio,
    sg,
)
from worldformula.errors import (
    ConfigError,
    FormulaError,
    GradientError,
    HeadError,
    MissingInputError,
    NoClosedFormError,
    ShapeError,
    UnknownVariableError,
)
from worldformula.nets.coupling import RealNVP
from worldformula.nets.masked import MaskedMLP

K, T, Y = 4, 5, 2


class Join(nn.Module):
    """One linear map of all inputs, with any batch axes."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, *given):
        return self.linear(torch.cat(given, -1))


def encoder(header="q(z|x)", inputs=X):
    return Normal(header, Join(inputs, 2 * Z), shape=Z)


def prior():
    return Normal("p(z)", shape=Z)


class Of(nn.Module):
    """A network that returns a distribution."""

    def __init__(self, inputs, outputs, wrap=lambda d: d):
        super().__init__()
        self.net, self.wrap = Join(inputs, 2 * outputs), wrap

    def forward(self, *given):
        loc, raw = self.net(*given).chunk(2, -1)
        return self.wrap(torch.distributions.Normal(loc, nn.functional.softplus(raw)))


def exp_of(base):
    return torch.distributions.TransformedDistribution(base, [torch.distributions.ExpTransform()])


# ------------------------------------------------------------------------------------------------- several draws


@pytest.mark.parametrize(
    "build",
    [
        lambda: Flow("p(x|z)", RealNVP(X, context=Z), shape=X),
        lambda: Flow("p(x|z)", RealNVP(X, context=Z), base=Normal("p(u|z)", Join(Z, 2 * X), shape=X), shape=X),
        lambda: Autoregressive("p(x|z)", MaskedMLP(X, 2, [8], context=Z), shape=X),
        lambda: Wrapped("p(x|z)", Of(Z, X), shape=X),
    ],
)
def test_what_a_decoder_returns_follows_the_samples(build):
    """A head that is no tensor is split into sample axis and batch as a tensor is."""
    q, p, x = encoder(), build(), torch.rand(B, X)
    out = E(q, log(p), samples=K)(x=x)
    z = out.samples["z"]
    torch.testing.assert_close(out.value, torch.stack([p.log_prob(x=x, z=row) for row in z]).mean(0))


def test_several_draws_of_a_distribution_object():
    q, x = Wrapped("q(z|x)", Of(X, Z), shape=Z), torch.rand(B, X)
    p = Normal("p(x|z)", Join(Z, 2 * X), shape=X)
    out = log(E(q, ratio(p * prior(), q), samples=K))(x=x)
    z = out.samples["z"]
    weights = torch.stack([p.log_prob(x=x, z=r) + prior().log_prob(z=r) - q.log_prob(x=x, z=r) for r in z])
    torch.testing.assert_close(out.value, weights.logsumexp(0) - math.log(K))


def test_several_draws_of_an_object_that_cannot_be_rebuilt():
    q, x = Wrapped("q(z|x)", Of(X, Z, exp_of), shape=Z), torch.rand(B, X)
    out = KL(q, prior(), samples=K)(x=x)
    assert out.value.shape == (B,)
    p = Wrapped("p(x|z)", Of(Z, X, exp_of), shape=X)
    with pytest.raises(FormulaError, match="Give the batch more rows instead"):
        E(q, log(p), samples=K)(x=x)


@pytest.mark.parametrize("operator", [SlicedWasserstein, MMD])
def test_samples_are_compared_at_every_step_of_time(operator):
    core = Deterministic("h_t = f(h_{t-1}, x_{t-1})", Join(Z + X, Z), shape=Z)
    q, p = Normal("q(z_t|h_t,x_t)", Join(Z + X, 2 * Z), shape=Z), Normal("p(z_t|h_t)", Join(Z, 2 * Z), shape=Z)
    loss, x = Sum("t", E(core, operator(q, p, samples=3))).mean(), torch.randn(B, T, X)
    out = loss(x=x, seed=0)
    torch.testing.assert_close(out.value, loss.interpret(x=x, seed=0).value)
    assert out.value.isfinite()


def test_categorical_with_its_number_of_classes():
    q, p = Categorical("q(k|x)", nn.Linear(X, 3), shape=(), classes=3), Categorical("p(k)", shape=(), classes=3)
    x = torch.randn(B, X)
    probs = q.net(x).softmax(-1)
    torch.testing.assert_close(KL(q, p)(x=x).value, (probs * (3 * probs).log()).sum(-1))
    mixed = (probs + 1 / 3) / 2
    js = 0.5 * ((probs * (probs / mixed).log()).sum(-1) - (3 * mixed).log().mean(-1))
    torch.testing.assert_close(JS(q, p)(x=x).value, js)
    value = E(q, log(q), gradient="exact")(x=x).value
    torch.testing.assert_close(value, -Entropy(q)(x=x).value)


# ----------------------------------------------------------------------------------------- marginals and products


def hidden():
    a, b = OneHot("p(a)", shape=2), OneHot("p(b|a)", Join(2, 3), shape=3)
    return a, b, Normal("p(x|a,b,y)", Join(5 + Y, 2 * X), shape=X)


def by_hand(a, b, p, x, y):
    total = 0.0
    for i in range(2):
        for j in range(3):
            first, second = torch.eye(2)[i].expand(B, 2), torch.eye(3)[j].expand(B, 3)
            total = total + 0.5 * (b.log_prob(b=second, a=first) + p.log_prob(x=x, a=first, b=second, y=y)).exp()
    return total.log()


def test_a_marginal_keeps_its_integral_under_condition_marginal_and_stop_gradient():
    a, b, p = hidden()
    x, y = torch.randn(B, X), torch.randn(B, Y)
    twice = (a * b * p).marginal("a").marginal("b")
    assert twice.latex == (a * b * p).marginal("a", "b").latex
    torch.testing.assert_close(log(twice)(x=x, y=y).value, by_hand(a, b, p, x, y))
    torch.testing.assert_close(log(sg(twice))(x=x, y=y).value, by_hand(a, b, p, x, y))
    assert not log(sg(twice))(x=x, y=y).value.requires_grad
    held = twice.condition(y=y[0])
    torch.testing.assert_close(log(held)(x=x).value, by_hand(a, b, p, x, y[:1].expand(B, Y)))
    assert set(held.sample(seed=0)) == {"x"}


@pytest.mark.parametrize(("names", "message"), [(("x",), "nothing is left"), (("a",), "no variable 'a'"), ((3,), "3")])
def test_a_marginal_says_what_it_still_declares(names, message):
    a, b, p = hidden()
    with pytest.raises(FormulaError, match=message):
        (a * b * p).marginal("a", "b").marginal(*names)


def test_the_marginal_of_one_factor_is_explained():
    with pytest.raises(FormulaError, match="nothing is left"):
        prior().marginal("z")


@pytest.mark.parametrize(("lead", "expected"), [((), (B,)), ((7,), (7, B))])
def test_a_product_draws_its_prior_for_every_row_of_what_is_given(lead, expected):
    """Generation by class: (p(z) p(x|z,y)).sample(y=labels)."""
    p, y = Normal("p(x|z,y)", Join(Z + Y, 2 * X), shape=X), torch.randn(B, Y)
    drawn = (prior() * p).sample(y=y, seed=0, sample_shape=lead)
    assert drawn["z"].shape == (*expected, Z)
    assert drawn["x"].shape == (*expected, X)
    assert drawn["z"].flatten(0, -2).unique(dim=0).shape[0] == math.prod(expected)
    for single in (
        (prior() * p).sample(y=y[0], seed=0, sample_shape=lead),
        (prior() * p).condition(y=y[0]).sample(seed=0, sample_shape=lead),
    ):
        assert single["z"].shape == (*lead, Z)
        assert single["x"].shape == (*lead, X)


# -------------------------------------------------------------------------------------------------- mistakes taught


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": "a"}, "seed= as a whole number"),
        ({"seed": 1.5}, "seed= as a whole number"),
        ({"generator": 3}, "torch.Generator"),
        ({"noise": 3}, "noise= as tensors by variable"),
        ({"noise": {"z": 1.0}}, "noise= as tensors by variable"),
        ({"present": 3}, "present= as flags by variable"),
        ({"present": ["x"]}, "present= as flags by variable"),
    ],
)
def test_impossible_options_of_a_call(options, message):
    loss = E(encoder(), log(prior()))
    for run in (loss, loss.interpret):
        with pytest.raises(FormulaError, match=message):
            run(x=torch.randn(B, X), **options)


@pytest.mark.parametrize(("options", "message"), [({"start": 3}, "start="), ({"horizon": "a"}, "horizon=")])
def test_impossible_options_of_a_call_with_time(options, message):
    loss = Sum("t", log(Normal("p(x_t)", shape=X)))
    with pytest.raises(FormulaError, match=message):
        loss(x=torch.randn(B, T, X), **options)


def test_a_horizon_that_the_data_contradict():
    loss, x = Sum("t", log(Normal("p(x_t)", shape=X))), torch.randn(B, T, X)
    with pytest.raises(FormulaError, match=r"x says how many steps there are, 5; cut the series, e\.g\. x\[:, :2\]"):
        loss(x=x, horizon=2)
    torch.testing.assert_close(loss(x=x, horizon=T).value, loss(x=x).value)


def test_a_network_that_returns_other_outputs_than_its_header_names():
    x = torch.randn(2, X)  # two rows, which could pass for two outputs
    two = Deterministic("a, b = f(x)", nn.Linear(X, 2))
    with pytest.raises(HeadError, match="a tuple of 2 tensors from its network, got Tensor"):
        E(two, Value("a") + Value("b"))(x=x)
    for wrong in (lambda x: (x, x), lambda x: None, lambda x: 3.0):
        with pytest.raises(HeadError, match="a tensor from its network"):
            E(Deterministic("a = f(x)", wrong), Value("a"))(x=x)


@pytest.mark.parametrize("head", [lambda x: (x, x.exp()), lambda x: "loc"])
def test_a_head_that_is_neither_tensor_nor_names(head):
    with pytest.raises(HeadError, match=r"Join its parts by torch.cat\(\[...\], -1\)"):
        KL(Normal("q(z|x)", head, shape=X), Normal("p(z)", shape=X))(x=torch.randn(B, X))


def test_direct_calls_of_a_factor():
    q, x = encoder(), torch.randn(B, X)
    with pytest.raises(FormulaError, match=r"a factor is not called; draw by .sample\(x=...\)"):
        q(x)
    with pytest.raises(FormulaError, match=r"sample_shape= as a tuple"):
        q.sample(x=x, sample_shape=3)
    with pytest.raises(FormulaError, match=r"sample_shape= as a tuple"):
        (q * prior().rename(z="w")).sample(x=x, sample_shape=3)
    with pytest.raises(ShapeError, match="x: expected a tensor"):
        q.sample(x=3.0)
    with pytest.raises(ShapeError, match="its network failed"):
        q.sample(x=torch.randn(B, X + 1))


def test_impossible_factors():
    with pytest.raises(FormulaError, match="scale= greater than 0, got -1"):
        Normal("p(z)", loc=torch.zeros(2), scale=torch.tensor([1.0, -1.0]), shape=2)
    with pytest.raises(FormulaError, match=r"shape= as positive integers"):
        Normal("p(z)", shape=2.5)
    with pytest.raises(ConfigError, match="total_count"):
        Multinomial("p(n)", total_count=2.5, shape=3)
    for kind in (PoE, MoE, MoPoE):
        with pytest.raises(FormulaError, match=rf"{kind.__name__}\(\[q_a, q_b\]\)"):
            kind(encoder())


@pytest.mark.parametrize(
    ("build", "instead"),
    [
        (lambda q, p: Entropy(q, samples=4), "-E(q, log(q), gradient='score', samples=4)"),
        (lambda q, p: CrossEntropy(q, p, samples=4), "-E(q, log(p), gradient='score', samples=4)"),
        (lambda q, p: KL(q, p, samples=4), "E(q, log(q) - log(p), gradient='score', samples=4)"),
        (lambda q, p: Entropy(q), "-E(q, log(q), gradient='score', samples=8)"),
        (lambda q, p: CrossEntropy(q, Gamma("p(n)", shape=2)), "-E(q, log(p), gradient='score')"),
        (lambda q, p: KL(q, Gamma("p(n)", shape=2)), "E(q, log(q) - log(p), gradient='score')"),
    ],
)
def test_what_is_advised_for_counts_can_be_written(build, instead):
    """Samples of a Poisson have no pathwise gradient, so no message may send the user to samples=."""
    q, p = Poisson("q(n|x)", nn.Linear(X, 2), shape=2), Poisson("p(n)", shape=2)
    with pytest.raises((GradientError, NoClosedFormError)) as caught:
        build(q, p)
    assert instead in str(caught.value)
    loss = eval(instead, {"E": E, "log": log, "q": q, "p": p})
    loss.mean()(x=torch.randn(B, X)).value.backward()
    assert q.net.weight.grad.isfinite().all()


def test_a_value_that_is_read_without_its_shape_says_so():
    q, x = encoder(), torch.randn(B, X)
    bare, declared = Deterministic("m = g(z)", Join(Z, X)), Deterministic("m = g(z)", Join(Z, X), shape=X)
    with pytest.raises(ShapeError, match=r"if m has event axes, declare them: shape=... on m = g\(z\)"):
        E(q * bare, norm2(Value("x", shape=X) - Value("m")))(x=x)
    with pytest.raises(ShapeError, match=r"if x has event axes, declare them: Value\('x', shape=...\)"):
        E(q * declared, norm2(Value("x") - Value("m")))(x=x)
    assert E(q * declared, norm2(Value("x", shape=X) - Value("m")))(x=x).value.shape == (B,)


def test_what_an_operator_draws_for_itself_is_not_carried():
    q, p = Normal("q(z_t|x_t)", Join(X, 2 * Z), shape=Z), Normal("p(z_t|z_{t-1})", Join(Z, 2 * Z), shape=Z)
    r, s = Normal("q(w_t|z_t)", Join(Z, 2), shape=1), Normal("p(w_t|z_t)", Join(Z, 2), shape=1)
    x = torch.randn(B, T, X)
    with pytest.raises(
        MissingInputError, match=r"q\(z_t\|x_t\) draws it for an operator alone.*write E over the factors"
    ):
        Sum("t", KL(q * r, p * s))(x=x)
    assert Sum("t", E(q * r, KL(q * r, p * s)))(x=x).value.shape == (B,)


def test_the_sum_of_a_list_prints_as_what_was_summed():
    terms = [KL(encoder(), prior()), log(prior())]
    assert str(sum(terms)) == str(terms[0] + terms[1])
    assert str(0.0 + terms[0]).startswith("0.0 + ")


def test_impossible_expressions():
    q, p = encoder(), prior()
    with pytest.raises(FormulaError, match=r"maximum\(f, g\)"):
        max(KL(q, p), 1)
    with pytest.raises(FormulaError, match="below the upper one"):
        clamp(KL(q, p), 2, 1)
    with pytest.raises(FormulaError, match="numbers as bounds"):
        clamp(KL(q, p), "a", 1)
    with pytest.raises(FormulaError, match="alpha="):
        Renyi(q, p, math.inf)
    with pytest.raises(UnknownVariableError):
        (q * Normal("p(w|z)", Join(Z, 2), shape=1)).marginal("v")


@pytest.mark.parametrize(("bound", "least"), [(maximum, True), (minimum, False)])
@pytest.mark.parametrize("value", [1.5, torch.tensor(1.5)], ids=["number", "tensor"])
def test_a_bound_may_be_a_number_of_the_call(bound, least, value):
    q, p = Normal("q(z|x)", nn.Linear(3, 4), shape=2), Normal("p(z)", shape=2)
    loss, x = bound(KL(q, p), Symbol("c")), torch.randn(6, 3)
    rate = KL(q, p)(x=x).value
    expected = rate.clamp(min=1.5) if least else rate.clamp(max=1.5)
    torch.testing.assert_close(loss(x=x, c=value).value, expected)
    torch.testing.assert_close(loss.interpret(x=x, c=value).value, expected)
    assert float(torch.as_tensor(bound(Symbol("a"), Symbol("b"))(a=2.0, b=3.0).value)) == (3.0 if least else 2.0)


def test_a_burn_in_that_leaves_no_step_is_refused():
    q = Normal("q(z_t|x_t)", nn.Linear(3, 4), shape=2)
    loss = Sum("t", KL(q, Normal("p(z_t)", shape=2)), burn_in=5).mean()
    assert loss(x=torch.randn(2, 6, 3)).value > 0
    with pytest.raises(ShapeError, match="x has 5 steps, and burn_in=5 counts none of them"):
        loss(x=torch.randn(2, 5, 3))


@pytest.mark.parametrize("flags", [torch.ones(3), [True] * 4], ids=["too few", "no tensor"])
def test_flags_of_present_rows_are_one_for_each_row(flags):
    prior = Normal("p(z)", shape=2)
    q = PoE([prior, Normal("q(z|a)", nn.Linear(3, 4), shape=2), Normal("q(z|b)", nn.Linear(3, 4), shape=2)])
    loss, x = KL(q, prior).mean(), torch.randn(4, 3)
    with pytest.raises(ShapeError, match="present: expected one flag for each row of b"):
        loss(a=x, b=x, present={"b": flags})
