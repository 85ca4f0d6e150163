"""min_z E and free energies: against every value by hand, SciPy's minimiser and integral, and the envelope theorem."""

import copy
import math
import pickle

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import torch
from torch import nn
from torch.func import functional_call

from tests.formula.models import Join
from worldformula import (
    Bernoulli,
    Beta,
    Categorical,
    Data,
    Deterministic,
    E,
    FreeEnergy,
    Gibbs,
    Min,
    Normal,
    OneHot,
    Sum,
    Symbol,
    Value,
    log,
    maximum,
    norm2,
    total,
)
from worldformula.errors import FormulaError, GradientError, NoClosedFormError, SharedDrawError, TimeError

B, X, K = 6, 3, 4


def squared(net):
    """‖f(x, z) − y‖² with the predictor's network."""
    return E(Deterministic("w = f(x, z)", net, shape=2), norm2(Value("w") - Value("y", shape=2)))


def by_hand(net, x, y, codes):
    """The energies of all codes ``[K, B]``, one after another."""
    return torch.stack([(net(x, c.expand(len(x), -1)) - y).square().sum(-1) for c in codes])


@pytest.fixture
def data():
    torch.manual_seed(0)
    return torch.randn(B, X), torch.randn(B, 2)


def test_two_of_them_over_one_latent_are_two_numbers(data):
    """Nothing is drawn that products and ratios of them could share; of expectations over it there may be one."""
    x, y = data
    nets, prior = [Join(X + K, 2) for _ in range(2)], OneHot("p(z)", shape=K)
    one, two = (Min(prior, squared(net)) for net in nets)
    first, second = (by_hand(net, x, y, torch.eye(K)).amin(0) for net in nets)
    torch.testing.assert_close((one * two)(x=x, y=y).value, first * second)
    torch.testing.assert_close(maximum(one, two)(x=x, y=y).value, torch.maximum(first, second))
    soft = -torch.logsumexp(-by_hand(nets[0], x, y, torch.eye(K)), 0)
    torch.testing.assert_close((FreeEnergy(prior, squared(nets[0])) / two)(x=x, y=y).value, soft / second)
    known = Normal("p(y|z)", Join(K, 4), shape=2)
    mean = E(prior, log(known), "exact")
    torch.testing.assert_close((one * mean)(x=x, y=y).value, first * mean(y=y).value)
    torch.testing.assert_close((one * mean * mean)(x=x, y=y).value, first * mean(y=y).value ** 2)
    drawn = E(prior, log(known), "score")
    with pytest.raises(SharedDrawError, match="the product of two expectations"):
        _ = one * drawn * drawn


def test_the_least_of_all_codes_and_its_gradient(data):
    x, y = data
    net = Join(X + K, 2)
    found = Min(OneHot("p(z)", shape=K), squared(net))(x=x, y=y).value
    each = by_hand(net, x, y, torch.eye(K))
    torch.testing.assert_close(found, each.min(0).values)
    ours = torch.autograd.grad(found.sum(), list(net.parameters()))
    best = each.argmin(0)  # the envelope: the gradient of the energy at the code that won, which itself is held
    assert len(best.unique()) > 1
    theirs = torch.autograd.grad(each.gather(0, best[None]).sum(), list(net.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_a_regulariser_changes_which_code_is_least(data):
    x, y = data
    net, logits = Join(X + K, 2), torch.tensor([0.0, 1.0, -1.0, 0.5])
    p = OneHot("p(z)", shape=K, logits=logits)
    found = Min(p, squared(net) - 3.0 * log(p))(x=x, y=y).value
    each = by_hand(net, x, y, torch.eye(K)) - 3.0 * logits.log_softmax(-1)[:, None]
    torch.testing.assert_close(found, each.min(0).values)
    assert (each.argmin(0) != by_hand(net, x, y, torch.eye(K)).argmin(0)).any()


@pytest.mark.parametrize(
    ("latent", "values"),
    [
        (OneHot("p(z)", shape=K), torch.eye(K)),
        (Bernoulli("p(z)", shape=2), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])),
        (
            OneHot("p(z)", shape=(2, 2)),
            torch.tensor([[[a, 1 - a], [b, 1 - b]] for a in (0.0, 1.0) for b in (0.0, 1.0)]),
        ),
    ],
)
def test_every_kind_of_discrete_latent(latent, values):
    target = torch.randn(B, *values.shape[1:])
    found = Min(latent, norm2(Value("z") - Value("y", shape=tuple(values.shape[1:]))))(y=target).value
    each = (values[:, None] - target).square().flatten(2).sum(-1)
    torch.testing.assert_close(found, each.min(0).values)


def test_whole_numbers_are_a_latent_too():
    table = torch.randn(K)
    pick = Deterministic("w = f(z)", lambda z: table[z], shape=())
    found = Min(Categorical("p(z)", shape=(), classes=K), E(pick, (Value("w") - Value("y")) ** 2))(
        y=torch.tensor([0.3])
    )
    assert found.value.item() == pytest.approx(min((float(t) - 0.3) ** 2 for t in table), abs=1e-6)


def test_a_single_code_is_a_deterministic_predictor(data):
    x, y = data
    net = Join(X + 1, 2)
    one = OneHot("p(z)", shape=1)
    plain = (net(x, torch.ones(B, 1)) - y).square().sum(-1)
    torch.testing.assert_close(Min(one, squared(net))(x=x, y=y).value, plain)
    torch.testing.assert_close(FreeEnergy(one, squared(net), beta=3.0)(x=x, y=y).value, plain)


def test_a_descent_arrives_where_scipy_does(data):
    x, y = data
    torch.manual_seed(1)
    net = nn.Sequential(Join(X + 2, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    join = net[0]
    f = Deterministic("w = f(x, z)", lambda x, z: net[2](net[1](join(x, z))), shape=2)
    x, y = x.double(), y.double()
    energy = E(f, norm2(Value("w") - Value("y", shape=2))) + 0.3 * norm2(Value("z"))
    found = Min(Normal("p(z)", shape=2), energy, steps=400, step_size=0.1)(x=x, y=y).value

    def one(z, i):
        w = net[2](net[1](join(x[i : i + 1], torch.as_tensor(z)[None])))
        return float(((w - y[i]) ** 2).sum().detach() + 0.3 * (z**2).sum())

    for i in range(B):
        theirs = scipy.optimize.minimize(one, np.zeros(2), args=(i,), method="Nelder-Mead", options={"xatol": 1e-8})
        assert found[i].item() == pytest.approx(theirs.fun, abs=1e-6)


def test_the_gradient_at_the_end_of_a_descent_is_that_of_the_minimum():
    """E = ‖W z − y‖² + r ‖z‖² has its minimum at z* = (WᵀW + r)⁻¹ Wᵀ y, with the value yᵀ(y − W z*)."""
    torch.manual_seed(0)
    lead = nn.Linear(2, 3, bias=False).double()
    y, r = torch.randn(B, 3, dtype=torch.float64), 0.5
    energy = E(Deterministic("w = f(z)", lead, shape=3), norm2(Value("w") - Value("y", shape=3)))
    found = Min(Normal("p(z)", shape=2), energy + r * norm2(Value("z")), steps=300, step_size=0.1)(y=y).value
    W = lead.weight.detach().clone().requires_grad_()
    best = torch.linalg.solve(W.T @ W + r * torch.eye(2, dtype=torch.float64), W.T @ y.T).T
    value = (y * (y - best @ W.T)).sum(-1)
    torch.testing.assert_close(found, value)
    (ours,) = torch.autograd.grad(found.sum(), lead.weight)
    (theirs,) = torch.autograd.grad(value.sum(), W)
    torch.testing.assert_close(ours, theirs)


def test_a_descent_keeps_the_best_point_and_begins_where_the_factor_says():
    begin = Deterministic("z = g(x)", nn.Identity(), shape=1)
    energy = norm2(Value("z") - 2.0)
    x = torch.tensor([[5.0], [2.5]])
    wild = Min(begin, energy, steps=3, step_size=1.5)(x=x).value  # every step is twice too long: −2 times the distance
    torch.testing.assert_close(wild, torch.tensor([9.0, 0.25]))
    short = Min(begin, energy, steps=1, step_size=Symbol("eta"))(x=x, eta=0.25).value  # half the way
    torch.testing.assert_close(short, torch.tensor([2.25, 0.0625]))
    far = Min(Normal("p(z|x)", lambda x: torch.cat((x, x), -1), shape=1), energy, steps=1, step_size=0.25)
    torch.testing.assert_close(far(x=x).value, short)


def test_a_descent_reads_values_that_are_computed_around_it_and_works_without_gradients():
    torch.manual_seed(0)
    enc = nn.Linear(X, 2).double()
    s = Deterministic("s = e(x)", enc, shape=2)
    loss = E(s, Min(Normal("p(z)", shape=2), norm2(Value("s") - Value("z")) + norm2(Value("z")), steps=60))
    x = torch.randn(B, X, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(loss(x=x).value, 0.5 * enc(x).square().sum(-1))  # at z = s/2
    (slope,) = torch.autograd.grad(loss(x=x).value.sum(), enc.bias)
    torch.testing.assert_close(slope, enc(x).sum(0).detach())


def test_copies_saved_ones_and_other_weights_descend_with_their_own_networks(data):
    x, y = data
    net = Join(X + 2, 2)
    loss = Min(Normal("p(z)", shape=2), squared(net), steps=5, step_size=0.05).mean()
    before = loss(x=x, y=y).value.detach()
    names = [n for n, _ in loss.named_parameters()]
    assert len(names) == len(set(names)) == len(list(net.parameters()))
    other, saved = copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))
    nothing = {n: torch.zeros_like(v) for n, v in loss.named_parameters()}
    torch.testing.assert_close(functional_call(loss, nothing, (), {"x": x, "y": y}).value, y.square().sum(-1).mean())
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    torch.testing.assert_close(loss(x=x, y=y).value, y.square().sum(-1).mean())
    torch.testing.assert_close(other(x=x, y=y).value, before)
    torch.testing.assert_close(saved(x=x, y=y).value, before)


def test_a_discrete_latent_at_every_step_of_a_sum_over_time():
    torch.manual_seed(0)
    T, net = 5, Join(2 + K, 2)
    p = OneHot("p(c_t)", shape=K)
    f = Deterministic("w_t = f(x_{t-1}, c_t)", net, shape=2)
    loss = Sum("t", Min(p, E(f, norm2(Value("w_t") - Value("x_t", shape=2)))))
    x = torch.randn(B, T, 2)
    before = torch.cat((torch.zeros(B, 1, 2), x[:, :-1]), 1)
    each = torch.stack([(net(before.flatten(0, 1), c.expand(B * T, -1)) - x.flatten(0, 1)).square().sum(-1)
                        for c in torch.eye(K)])  # fmt: skip
    torch.testing.assert_close(loss(x=x).value, each.min(0).values.view(B, T).sum(1))
    torch.testing.assert_close(loss.interpret(x=x).value, loss(x=x).value)


# ------------------------------------------------------------------------------------------------------ free energy


def test_the_free_energy_of_all_codes_and_its_gradient(data):
    x, y = data
    net = Join(X + K, 2)
    p = OneHot("p(z)", shape=K)
    found = FreeEnergy(p, squared(net), beta=Symbol("beta"))(x=x, y=y, beta=0.7).value
    each = by_hand(net, x, y, torch.eye(K))
    hand = -((-0.7 * each).exp().sum(0)).log() / 0.7
    torch.testing.assert_close(found, hand)
    ours = torch.autograd.grad(found.sum(), list(net.parameters()))
    weights = (-0.7 * (each - hand)).exp().detach()
    torch.testing.assert_close(weights.sum(0), torch.ones(B))
    theirs = torch.autograd.grad((weights * each).sum(), list(net.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_the_free_energy_rises_with_beta_to_the_least_energy(data):
    x, y = data
    net = Join(X + K, 2)
    p = OneHot("p(z)", shape=K)
    least = Min(p, squared(net))(x=x, y=y).value
    previous = torch.full((B,), -math.inf)
    for beta in (0.1, 1.0, 10.0, 1000.0):
        value = FreeEnergy(p, squared(net), beta=beta)(x=x, y=y).value
        assert (value > previous).all()
        assert (value <= least + 1e-5).all()
        previous = value
    torch.testing.assert_close(previous, least, atol=2e-3, rtol=0)


def test_an_integral_by_draws_agrees_with_quadrature():
    def inside(z, y):
        return math.exp(-1.5 * ((math.tanh(z) - y) ** 2 + 0.5 * z**2))

    energy = E(Deterministic("w = tanh(z)", torch.tanh, shape=1), norm2(Value("w") - Value("y", shape=1)))
    energy = energy + 0.5 * norm2(Value("z"))
    y = torch.tensor([[0.4], [-1.0]], dtype=torch.float64)
    loss = FreeEnergy(Normal("p(z)", shape=1), energy, beta=1.5, samples=200_000)
    for got, target in zip(loss(y=y, seed=0).value, y[:, 0].tolist(), strict=True):
        whole, _ = scipy.integrate.quad(inside, -20, 20, args=(target,))
        assert got.item() == pytest.approx(-math.log(whole) / 1.5, abs=5e-3)


@pytest.mark.slow
def test_every_value_compiles_into_one_graph(data):
    x, y = data
    net, p = Join(X + K, 2), OneHot("p(z)", shape=K)
    for loss in (Min(p, squared(net)).mean(), FreeEnergy(p, squared(net), beta=2.0).mean()):
        plain = loss(x=x, y=y).value
        torch.testing.assert_close(loss.compile(backend="aot_eager", fullgraph=True)(x=x, y=y).value, plain)


# ------------------------------------------------------------------------------------------------- print and refuse


def test_it_names_its_estimator():
    p, n = OneHot("p(z)", shape=K), Normal("p(z)", shape=2)
    near = norm2(Value("z") - Value("y", shape=2))
    tried, sought = Min(p, norm2(Value("z"))), Min(n, near, steps=20, step_size=0.05)
    assert str(tried) == r"\min_{z}\left[ \left\| z \right\|^{2} \right]"
    assert repr(tried) == "<Expression min_{z}[norm2(z)]>"
    assert str(sought) == r"\min_{z}^{\nabla 20 \times 0.05}\left[ \left\| z - y \right\|^{2} \right]"
    assert repr(sought) == "<Expression min_{z; 20 steps of 0.05}[norm2(z - y)]>"
    assert "every value is tried" in tried.explain()
    assert "gradient descent, 20 steps of 0.05 from the mode of p(z)" in sought.explain()
    assert ".amin(0)" in tried.code
    assert "argmin_z(" in sought.code
    assert "steps=20, step_size=0.05" in sought.code
    assert str(FreeEnergy(p, norm2(Value("z")), beta=Symbol("beta"))).startswith(r"\mathcal{F}_{z}^{\beta=\beta}")


def test_refusals():
    p, n = OneHot("p(z)", shape=K), Normal("p(z)", shape=2)
    f = norm2(Value("z"))
    for wrong, message in (
        (lambda: Min(n, f), "no list of values"),
        (lambda: Min(OneHot("p(z)", shape=(20, 10)), f), "no list of values"),
        (lambda: Min(OneHot("p(z)", shape=(7, 4)), f), "no list of values"),
        (lambda: Min(Beta("p(z)", alpha=1.0, beta=1.0, shape=1), f, steps=3), "Normal or deterministic"),
        (lambda: Min(p, f, steps=3), "leave steps= out"),
        (lambda: Min(n, f, steps=3, step_size=0.0), "positive"),
        (lambda: Min(n, f, steps=0), "at least 1"),
        (lambda: Min(Data("p_data(z)"), f), "one latent variable"),
        (lambda: Min(Gibbs("p(z)", nn.Linear(2, 1), shape=2), f), "one latent variable"),
        (lambda: Min(p, 3.0), "energy as a formula"),
        (lambda: Min(p, norm2(Value("y", shape=2)))(y=torch.zeros(1, 2)), "does not read z"),
        (lambda: Min(n, norm2(Value("y", shape=2)), steps=2)(y=torch.zeros(1, 2)), "does not read z"),
        (Min(p, Value("z")), "total"),
        (lambda: Min(Normal("p(z|x)", Join(X, 4)), f, steps=2)(x=torch.zeros(1, X)), "event shape"),
        (lambda: FreeEnergy(p, f, beta=0.0), "positive"),
        (lambda: FreeEnergy(p, f, samples=3), "reparametrised"),
    ):
        with pytest.raises(FormulaError, match=message):
            wrong()
    with pytest.raises(NoClosedFormError, match="samples=64"):
        FreeEnergy(n, f)
    with pytest.raises(GradientError, match="noise"):
        Min(p, E(Normal("q(w|z)", Join(K, 4), shape=2), norm2(Value("w"))))
    with pytest.raises(TimeError, match="inside a sum over time"):
        Sum("t", Min(Normal("p(c_t)", shape=1), norm2(Value("c_t") - Value("x_t", shape=1)), steps=2))(
            x=torch.zeros(1, 2, 1)
        )


def test_the_least_of_what_is_itself_a_minimum():
    table = torch.randn(2, 3)
    a, b = OneHot("p(a)", shape=2), OneHot("p(b)", shape=3)
    pick = Deterministic("w = f(a, b)", lambda a, b: torch.einsum("ni,ij,nj->n", a, table, b), shape=())
    both = E(pick, Value("w") + 0 * Value("y"))
    y = torch.zeros(2)
    assert Min(a, Min(b, both))(y=y).value.tolist() == pytest.approx([table.min().item()] * 2)
    hand = -(-2 * table).logsumexp(1).div(2)
    assert Min(a, FreeEnergy(b, both, beta=2.0))(y=y).value.tolist() == pytest.approx([hand.min().item()] * 2)


def test_other_steps_and_terms_do_not_see_the_latent_that_was_tried():
    p = OneHot("p(z)", shape=2)
    loss = Min(p, total(Value("z") * Value("y", shape=2)))
    out = (loss + E(p, total(Value("z") * Value("y")), "exact"))(y=torch.tensor([[3.0, -1.0]]))
    assert out.value.item() == pytest.approx(-1.0 + 1.0)
    assert "z" not in loss(y=torch.zeros(1, 2)).samples
