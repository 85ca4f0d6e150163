"""What is learnt is found, and stays in its set: networks in functions, learnt conditions, learnt scales."""

# ruff: noqa: PLC3002, PLW0108   (functions that hide a module are what is tested here)

import copy
import functools

import pytest
import torch
from torch import nn

from tests.formula.defects.both import refused
from worldformula import (
    KL,
    Bernoulli,
    Beta,
    Deterministic,
    E,
    Gamma,
    Laplace,
    LogNormal,
    MoE,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
    Uniform,
    log,
)
from worldformula.errors import WorldformulaError

B, X, Z = 5, 3, 2


class Both(nn.Module):
    """An encoder and a decoder that share a module, each a method."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(X, 2 * Z), nn.Linear(Z, 2 * X)

    def encode(self, x, times=1.0):
        return self.inner(x) * times

    def decode(self, z):
        return self.outer(z)


class Holder:
    """No module, but callable, and it holds one."""

    def __init__(self, net):
        self.net = net

    def __call__(self, x):
        return self.net(x)


class Slotted:
    """The same where attributes lie in slots."""

    __slots__ = ("net",)

    def __init__(self, net):
        self.net = net

    def __call__(self, x):
        return self.net(x)


GLOBAL = nn.Linear(X, 2 * Z)
NETWORKS = {
    "bound method": lambda m: m.encode,
    "forward": lambda m: m.inner.forward,
    "partial": lambda m: functools.partial(m.inner),
    "partial of a method": lambda m: functools.partial(m.encode, times=2.0),
    "partial of a partial": lambda m: functools.partial(functools.partial(m.encode), times=2.0),
    "module as an argument": lambda m: functools.partial(lambda net, x: net(x), m.inner),
    "module as a keyword": lambda m: functools.partial(lambda x, net: net(x), net=m.inner),
    "lambda": lambda m: lambda x: m.inner(x),
    "lambda over a method": lambda m: (lambda encode: lambda x: encode(x))(m.encode),
    "lambda over a function": lambda m: (lambda f: lambda x: f(x))(lambda x: m.inner(x)),
    "lambda over a list": lambda m: (lambda nets: lambda x: nets[0](x))([m.inner]),
    "lambda over a dict": lambda m: (lambda nets: lambda x: nets["a"](x))({"a": m.inner}),
    "default": lambda m: lambda x, net=m.inner: net(x),
    "object": lambda m: Holder(m.inner),
    "object with slots": lambda m: Slotted(m.inner),
    "method of an object": lambda m: Holder(m.inner).__call__,
    "global": lambda m: lambda x: GLOBAL(x),
    "parameter": lambda m: (lambda w: lambda x: x @ w)(nn.Parameter(torch.randn(X, 2 * Z))),
}
HIDDEN = pytest.mark.parametrize("case", NETWORKS)


def built(case):
    """A KL whose network is hidden in a function, or None where that is refused with a way out."""
    torch.manual_seed(0)
    net = NETWORKS[case](Both())
    try:
        return KL(Normal("q(z|x)", net, shape=Z), Normal("p(z)", shape=Z)).mean()
    except WorldformulaError as error:
        if "module" not in str(error).lower():
            raise
        return None


@HIDDEN
def test_a_network_in_a_function_is_learnt_or_refused(case):
    loss, x = built(case), torch.randn(B, X)
    if loss is None:
        return
    weights = list(loss.parameters())
    assert weights
    before = loss(x=x).value
    optimiser = torch.optim.SGD(weights, lr=0.1)
    before.backward()
    optimiser.step()
    assert loss(x=x).value < before


@HIDDEN
def test_a_copy_has_weights_of_its_own(case):
    loss, x = built(case), torch.randn(B, X)
    if loss is None:
        return
    other, value = copy.deepcopy(loss), loss(x=x).value
    assert list(other.parameters())
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(1.0)
    assert not torch.allclose(other(x=x).value, value)
    torch.testing.assert_close(loss(x=x).value, value)


def test_methods_of_one_module_register_its_weights_once():
    module = Both()
    q, p = Normal("q(z|x)", module.encode, shape=Z), Normal("p(x|z)", module.decode, shape=X)
    loss = (KL(q, Normal("p(z)", shape=Z)) - E(q, log(p))).mean()
    assert {id(w) for w in loss.parameters()} == {id(w) for w in module.parameters()}
    state = loss.state_dict()
    assert len(state) == len(module.state_dict())
    loss.load_state_dict({k: torch.zeros_like(v) for k, v in state.items()})
    assert not any(w.any() for w in module.parameters())


@pytest.mark.parametrize("make", [lambda m: m.encode, lambda m: lambda x: m.inner(x)])
def test_functions_of_deterministic_factors_are_learnt_too(make):
    module = Both()
    loss = E(Deterministic("h = f(x)", make(module), shape=2 * Z), log(Normal("p(h)", shape=2 * Z))).mean()
    loss(x=torch.randn(B, X)).value.backward()
    assert {id(w) for w in module.inner.parameters()} <= {id(w) for w in loss.parameters()}


def test_functions_without_weights_need_none():
    loss = E(Deterministic("h = f(x)", lambda x: 2 * x, shape=X), log(Normal("p(h)", shape=X))).mean()
    assert list(loss.parameters()) == []
    loss = log(Normal("p(x|z)", functools.partial(torch.mul, torch.tensor(2.0)), shape=Z, scale=1.0)).mean()
    assert list(loss.parameters()) == []


# --------------------------------------------------------------------------------------------------- learnt conditions


def test_a_condition_held_at_a_parameter_is_learnt():
    q, pseudo = Normal("q(z|x)", nn.Linear(X, 2 * Z), shape=Z), nn.Parameter(torch.randn(X))
    held = q.condition(x=pseudo)
    assert any(w is pseudo for w in held.parameters())
    loss = log(held).mean()
    assert any(w is pseudo for w in loss.parameters())
    loss(z=torch.randn(B, Z)).value.backward()
    assert pseudo.grad.abs().sum() > 0


def test_the_pseudo_inputs_of_a_mixture_prior_are_learnt():
    """A VampPrior of three pseudo-inputs: the value is a log-mean-exp by hand, the gradient reaches all."""
    q = Normal("q(z|x)", nn.Linear(X, 2 * Z), shape=Z)
    pseudo = [nn.Parameter(torch.randn(X)) for _ in range(3)]
    prior = MoE([q.condition(x=u) for u in pseudo])
    loss, z = log(prior).mean(), torch.randn(B, Z)
    value = loss(z=z).value
    each = torch.stack([torch.distributions.Normal(*q.params(u[None])).log_prob(z).sum(-1) for u in pseudo])
    torch.testing.assert_close(value, (each.logsumexp(0) - torch.tensor(3.0).log()).mean())
    wanted = torch.autograd.grad((each.logsumexp(0)).mean(), pseudo)
    assert {id(u) for u in pseudo} <= {id(w) for w in loss.parameters()}
    for ours, theirs in zip(torch.autograd.grad(value, pseudo), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("others", [1, 2])
def test_one_of_several_conditions_held_at_a_parameter(others):
    class Add(nn.Module):
        def forward(self, *inputs):
            return sum(inputs)

    names = "abc"[: others + 1]
    p = Normal(f"p(x|{','.join(names)})", Add(), shape=X, scale=1.0)
    style = nn.Parameter(torch.zeros(X))
    loss = log(p.condition(**{names[-1]: style})).mean()
    given = {n: torch.randn(B, X) for n in names[:-1]}
    loss(x=torch.randn(B, X), **given).value.backward()
    assert any(w is style for w in loss.parameters())
    assert style.grad is not None


def test_a_condition_held_at_a_tensor_is_no_parameter():
    q = Normal("q(z|x)", nn.Linear(X, 2 * Z), shape=Z)
    loss = log(q.condition(x=torch.randn(X))).mean()
    assert len(list(loss.parameters())) == 2


# ----------------------------------------------------------------------------------------- learnt, and in their set


def pushed_below_zero(loss, **data):
    """The loss after 200 steps that pull every learnt number down by 10 in all."""
    optimiser = torch.optim.SGD(loss.parameters(), lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        sum(w.sum() for w in loss.parameters()).backward()
        optimiser.step()
    return loss(**data).value


def learnt(value):
    return nn.Parameter(torch.as_tensor(value))


INSIDE = {"x": torch.full((B, 2), 0.5)}
COUNTS = {"x": torch.full((B, 2), 3.0)}
BARE = {
    "scale": (lambda: Normal("p(x)", shape=2, loc=0.0, scale=learnt([1.0, 2.0])), INSIDE),
    "in a dict": (lambda: Normal("p(x)", {"loc": 0.0, "scale": learnt([1.0, 2.0])}, shape=2), INSIDE),
    "laplace": (lambda: Laplace("p(x)", shape=2, loc=0.0, scale=learnt([1.0, 2.0])), INSIDE),
    "log-normal": (lambda: LogNormal("p(x)", shape=2, loc=0.0, scale=learnt([1.0, 2.0])), INSIDE),
    "student": (lambda: StudentT("p(x)", shape=2, df=learnt([4.0, 2.0]), loc=0.0, scale=1.0), INSIDE),
    "gamma": (lambda: Gamma("p(x)", shape=2, concentration=2.0, rate=learnt([1.0, 2.0])), INSIDE),
    "gamma, both": (lambda: Gamma("p(x)", shape=2, concentration=learnt([1.0, 2.0]), rate=learnt([1.0, 2.0])), INSIDE),
    "beta": (
        lambda: Beta("p(x)", shape=2, concentration1=learnt([1.0, 2.0]), concentration0=learnt([2.0, 2.0])), INSIDE
    ),
    "poisson": (lambda: Poisson("p(x)", shape=2, rate=learnt([1.0, 2.0])), COUNTS),
    "negative binomial": (
        lambda: NegativeBinomial("p(x)", shape=2, total_count=learnt([1.0, 2.0]), logits=0.0), COUNTS
    ),
    "probs": (lambda: Bernoulli("p(x)", shape=2, probs=learnt([0.4, 0.6])), INSIDE),
    "uniform": (lambda: Uniform("p(x)", shape=2, low=-1.0, high=learnt([1.0, 2.0])), INSIDE),
    "triangle": (
        lambda: MultivariateNormal("p(x)", shape=2, loc=torch.zeros(2), scale_tril=learnt([[1.0, 0.0], [0.3, 1.0]])),
        INSIDE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BARE)
def test_a_bare_parameter_is_refused_or_stays_in_its_set(case):
    build, data = BARE[case]
    try:
        factor = build()
        loss = log(factor).mean()
    except WorldformulaError as error:
        if not any(way in str(error) for way in ("positive(", "logits", "the whole head")):
            raise
        return
    assert pushed_below_zero(loss, **data).isfinite()
    for name, value in zip(factor.family.parameters, factor.params(), strict=True):
        assert name in ("loc", "logits", "low", "high", "scale_tril") or bool((torch.as_tensor(value) > 0).all()), name


def test_a_bare_scale_beside_a_head_is_refused_or_stays_positive():
    net = nn.Linear(Z, X)
    try:
        loss = log(Normal("p(x|z)", net, shape=X, scale=learnt([1.0, 1.0, 1.0]))).mean()
    except WorldformulaError as error:
        if "positive(" not in str(error):
            raise
        return
    assert pushed_below_zero(loss, x=torch.randn(B, X), z=torch.randn(B, Z)).isfinite()


def test_training_by_the_loss_itself_does_not_cross_zero():
    """At x = loc the gradient pulls the scale to 0 and, with a step this long, beyond."""
    try:
        loss = -log(Normal("p(x)", shape=2, loc=0.0, scale=learnt([1.0, 0.5]))).mean()
    except WorldformulaError as error:
        if "positive(" not in str(error):
            raise
        return
    optimiser = torch.optim.SGD(loss.parameters(), lr=0.3)
    for _ in range(200):
        optimiser.zero_grad()
        loss(x=torch.zeros(B, 2)).value.backward()
        optimiser.step()
    assert loss(x=torch.zeros(B, 2)).value.isfinite()


START = torch.tensor([1.0, 0.2, 3.0])


@pytest.fixture
def positive():
    import worldformula

    return worldformula.positive


def test_positive_starts_at_the_given_value_and_is_learnt(positive):
    net = nn.Linear(Z, X)
    p = Normal("p(x|z)", net, shape=X, scale=positive(nn.Parameter(START.clone())))
    x, z = torch.randn(B, X), torch.randn(B, Z)
    loss = log(p).mean()
    value = loss(x=x, z=z).value
    torch.testing.assert_close(value, torch.distributions.Normal(net(z), START).log_prob(x).sum(-1).mean())
    torch.testing.assert_close(loss.interpret(x=x, z=z).value, value)
    assert len(list(loss.parameters())) == 3
    value.backward()
    assert all(w.grad is not None and w.grad.abs().sum() > 0 for w in loss.parameters())


def test_positive_is_softplus_of_what_moves(positive):
    p = Normal("p(x)", shape=3, loc=0.0, scale=positive(nn.Parameter(START.clone())))
    loss, x = log(p).mean(), torch.randn(B, 3)
    (raw,) = loss.parameters()
    with torch.no_grad():
        raw.copy_(torch.tensor([-4.0, 0.0, 2.0]))
    scale = nn.functional.softplus(torch.tensor([-4.0, 0.0, 2.0]))
    torch.testing.assert_close(loss(x=x).value, torch.distributions.Normal(0.0, scale).log_prob(x).sum(-1).mean())


@pytest.mark.parametrize("samples", [None, 4])
def test_positive_holds_against_200_steps_in_a_whole_elbo(positive, samples):
    q = Normal("q(z|x)", nn.Linear(X, Z), shape=Z, scale=positive(learnt([1.0, 1.0])))
    p = Normal("p(x|z)", nn.Linear(Z, X), shape=X, scale=positive(learnt([1.0, 1.0, 1.0])))
    loss = (KL(q, Normal("p(z)", shape=Z)) - E(q, log(p), samples=samples)).mean()
    assert pushed_below_zero(loss, x=torch.randn(B, X)).isfinite()


def test_positive_is_saved_loaded_and_copied(positive):
    loss = log(Normal("p(x)", shape=3, loc=0.0, scale=positive(nn.Parameter(START.clone())))).mean()
    other = log(Normal("p(x)", shape=3, loc=0.0, scale=positive(nn.Parameter(torch.ones(3))))).mean()
    other.load_state_dict(loss.state_dict())
    x = torch.randn(B, 3)
    torch.testing.assert_close(other(x=x).value, loss(x=x).value)
    torch.testing.assert_close(copy.deepcopy(loss)(x=x).value, loss(x=x).value)


@pytest.mark.parametrize("bad", [[1.0, 0.0], [-1.0, 2.0], [float("nan"), 1.0]])
def test_positive_refuses_a_start_outside_its_set(positive, bad):
    with refused("positive"):
        positive(learnt(bad))
