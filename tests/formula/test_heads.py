"""A network may return one tensor or a dict of parameters: a call computes what the interpreter computes."""

import pytest
import torch
from torch import nn

from tests.formula.models import B, T, X, Z, gradients
from worldformula import KL, Bernoulli, Categorical, Deterministic, E, Gamma, Normal, OneHot, Sum, TwoHot, families, log
from worldformula.errors import HeadError, ShapeError

CLASSES = 4


class Named(nn.Module):
    """What a family makes of one tensor, returned by name; ``scale`` alone may be a number."""

    def __init__(self, inputs, family, shape, features, number=False):
        super().__init__()
        self.linear, self.family, self.shape, self.number = nn.Linear(inputs, features), family, shape, number

    def forward(self, x):
        params = dict(zip(self.family.parameters, self.family.params(self.linear(x), self.shape), strict=True))
        return params | ({"scale": 0.5} if self.number else {})


CASES = {
    "normal": (Normal, families.normal, (Z,), 2 * Z, lambda: torch.randn(B, Z)),
    "bernoulli": (Bernoulli, families.bernoulli, (Z,), Z, lambda: torch.rand(B, Z).round()),
    "categorical": (Categorical, families.categorical, (), CLASSES, lambda: torch.randint(CLASSES, (B,))),
    "one_hot": (OneHot, families.OneHotFamily(), (2, 3), 6, lambda: torch.eye(3)[torch.randint(3, (B, 2))]),
    "two_hot": (TwoHot, families.TwoHotFamily(), (), 255, lambda: torch.randn(B)),
}


def build(case, kind, header, declared=True):
    factor, family, shape, features, _ = CASES[case]
    net = Named(X, family, shape, features, kind == "dict and number") if kind != "tensor" else nn.Linear(X, features)
    return factor(header, net, **({"shape": shape} if declared or case == "one_hot" else {}))


def same(loss, given):
    for options in ({"seed": 0}, {"deterministic": True}, {"seed": 1}):
        called, walked = loss(**given, **options), loss.interpret(**given, **options)
        torch.testing.assert_close(called.value, walked.value)
        for key, value in walked.samples.items():
            torch.testing.assert_close(called.samples[key], value)
        both = [gradients(out.value.sum(), loss) for out in (called, walked)]
        torch.testing.assert_close(*both)


KINDS = [(case, kind) for case in CASES for kind in ("tensor", "dict")] + [("normal", "dict and number")]


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(("case", "kind"), KINDS)
def test_a_density(case, kind, declared):
    y = CASES[case][-1]()
    same(log(build(case, kind, "p(y|x)", declared)).mean(), {"x": torch.randn(B, X), "y": y})


@pytest.mark.parametrize(("case", "kind"), [c for c in KINDS if c[0] != "two_hot"])
def test_a_divergence_and_an_expectation(case, kind):
    q, p = build(case, kind, "q(y|x)"), build(case, "tensor", "p(y|x)")
    gradient = None if q.family.reparametrised else "score"
    same((KL(q, p) + KL(p, q) - E(q, log(p), gradient)).mean(), {"x": torch.randn(B, X)})


@pytest.mark.parametrize(("case", "kind"), [c for c in KINDS if c[0] != "two_hot"])
def test_a_formula_through_time(case, kind):
    q, p = build(case, kind, "q(y_t|x_t)"), build(case, "tensor", "p(y_t|x_t)")
    gradient = None if q.family.reparametrised else "score"
    same(Sum("t", KL(q, p) - E(q, log(p), gradient)).mean(), {"x": torch.randn(B, T, X)})


def encoder(kind="dict", declared=True):
    q = build("normal", kind, "q(z|x)", declared)
    return (KL(q, Normal("p(z)", shape=Z)) - E(q, log(Normal("p(x|z)", nn.Linear(Z, 2 * X), shape=X)))).mean()


@pytest.mark.parametrize("declared", [True, False])
def test_the_first_call_draws_like_the_second(declared):
    """Also where the network draws as well, and whatever generator is used: a resumed run goes on bit for bit."""
    q = build("normal", "dict", "q(z|x)", declared)
    q.net.linear = nn.Sequential(nn.Dropout(), q.net.linear)
    loss, x = E(q, log(Normal("p(x|z)", nn.Linear(Z, 2 * X), shape=X))).mean(), torch.randn(B, X)
    values, after = [], []
    for _ in range(2):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(1)
        values += [torch.stack([loss(x=x).value, loss(x=x, generator=generator).value])]
        after += [torch.cat([torch.rand(3), torch.rand(3, generator=generator)])]
    assert torch.equal(*values)
    assert torch.equal(*after)


def test_the_first_call_counts_a_batch_once():
    loss, net = encoder(), nn.BatchNorm1d(2 * Z)
    loss.q_z_given_x.linear = nn.Sequential(loss.q_z_given_x.linear, net)
    loss(x=torch.randn(B, X))
    assert net.num_batches_tracked == 1


def test_other_factors_stay_written_out():
    loss = encoder()
    loss(x=torch.randn(B, X))
    assert "self.p_x_given_z(z).split_with_sizes" in loss.code
    assert "normal.params(self.q_z_given_x(x)" in loss.code


@pytest.mark.parametrize("fullgraph", [False, True])
def test_a_compiled_formula(fullgraph):
    loss, x = encoder(), torch.randn(B, X)
    value = loss.interpret(x=x, seed=0).value
    loss.compile(backend="eager", fullgraph=fullgraph)
    for _ in range(2):
        torch.testing.assert_close(loss(x=x, seed=0).value, value)


@pytest.mark.slow
def test_inside_a_compiled_function():
    loss, x = encoder(), torch.randn(B, X)
    noise = loss.noise(x=x)
    value = loss.interpret(x=x, noise=noise).value
    step = torch.compile(lambda x, noise: loss(x=x, noise=noise).value, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(step(x, noise), value)


def test_a_rollout_through_a_dict():
    walk = Deterministic("h_t = f(h_{t-1},x_t)", lambda h, x: h + x, shape=X)
    q = build("normal", "dict", "q(z_t|h_t)")
    same(Sum("t", E(walk * q, log(Normal("p(z_t)", shape=Z)))).mean(), {"x": torch.randn(B, T, X)})


def test_a_name_that_the_family_does_not_know():
    loss = log(Normal("p(y|x)", lambda x: {"mean": x, "scale": 1.0}, shape=X))
    with pytest.raises(HeadError, match="p\\(y\\|x\\): normal has no parameter 'mean'"):
        loss(x=torch.randn(B, X), y=torch.randn(B, X))


class Scaled(nn.Module):
    """Two outputs, of which a constant that the backward pass needs makes one."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(X, Z)
        self.register_buffer("constant", torch.randn(Z))

    def forward(self, x):
        hidden = self.linear(x) * self.constant
        return hidden, hidden + 1.0


def test_the_first_call_can_be_differentiated_beside_constant_buffers():
    net = Scaled()
    pair, p = Deterministic("a, b = g(x)", net, shape=[Z, Z]), Normal("p(y|a)", lambda a: a, scale=1.0, shape=Z)
    x, y = torch.randn(B, X), torch.randn(B, Z)
    value = E(pair, log(p))(x=x, y=y).value.sum()
    (found,) = torch.autograd.grad(value, [net.linear.bias])
    torch.testing.assert_close(found, ((y - net(x)[0]) * net.constant).sum(0))


def test_the_first_call_moves_the_statistics_of_a_batch_norm_once():
    net = nn.Sequential(nn.Linear(X, Z), nn.BatchNorm1d(Z))
    twice = Deterministic("a, b = g(x)", Split(net), shape=[Z, Z])
    x, y = torch.randn(B, X), torch.randn(B, Z)
    E(twice, log(Normal("p(y|a)", lambda a: a, scale=1.0, shape=Z)))(x=x, y=y)
    torch.testing.assert_close(net[1].running_mean, 0.1 * net[0](x).mean(0))


class Split(nn.Module):
    """The output of a network twice."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        hidden = self.net(x)
        return hidden, hidden


def forgets(x):
    """The network of a user who forgot ``return``."""
    x.exp()


@pytest.mark.parametrize("fixed", [{}, {"scale": 2.0}])
@pytest.mark.parametrize("ask", ["call", "interpret", "log_prob", "sample", "steps", "divergence"])
def test_a_network_that_returns_nothing_is_no_standard_distribution(ask, fixed):
    p = Normal("p(z|x)", forgets, shape=Z, **fixed)
    step = Normal("p(z_t|x_t)", forgets, shape=Z, **fixed)
    x, z = torch.randn(B, X), torch.randn(B, Z)
    asked = {
        "call": lambda: log(p)(x=x, z=z),
        "interpret": lambda: log(p).interpret(x=x, z=z),
        "log_prob": lambda: p.log_prob(x=x, z=z),
        "sample": lambda: p.sample(x=x),
        "steps": lambda: Sum("t", log(step))(x=x.expand(T, B, X), z=z.expand(T, B, Z)),
        "divergence": lambda: KL(p, Normal("p(z)", shape=Z))(x=x),
    }
    with pytest.raises(HeadError, match=r"its network returned None\nend it in return head"):
        asked[ask]()


@pytest.mark.parametrize("kind", ["bernoulli", "gamma"])
def test_nothing_is_refused_of_families_whose_code_is_written_out_and_of_others(kind):
    factor, y = {"bernoulli": (Bernoulli, torch.ones(B, Z)), "gamma": (Gamma, torch.rand(B, Z) + 0.1)}[kind]
    with pytest.raises(HeadError, match="its network returned None"):
        log(factor("p(y|x)", forgets, shape=Z))(x=torch.randn(B, X), y=y)
    concentrated = {"gamma": {"concentration": torch.full((Z,), 2.0)}, "bernoulli": {"probs": torch.full((Z,), 0.5)}}
    assert log(factor("p(y)", shape=Z, **concentrated[kind]))(y=y).value.isfinite().all()


def test_a_network_without_anything_to_read_is_told_what_its_header_lacks():
    p = Normal("p(z)", nn.Linear(X, 2 * Z), shape=Z)
    for ask in (lambda: log(p)(z=torch.zeros(B, Z)), lambda: p.log_prob(z=torch.zeros(B, Z))):
        with pytest.raises(ShapeError, match=r"names no condition[^\n]*\nname what it reads, p\(z\|\.\.\.\)"):
            ask()
