"""What may stand where: numbers of NumPy and of the call, stopped factors, empty batches, experts."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal as Gauss
from torch.nn.functional import softplus

from tests.formula.defects.both import PATHS, refused, run
from worldformula import (
    KL,
    Bernoulli,
    Categorical,
    Data,
    Deterministic,
    E,
    MoE,
    MoPoE,
    Normal,
    OneHot,
    PoE,
    RelaxedBernoulli,
    RelaxedOneHot,
    Renyi,
    Sum,
    Symbol,
    TwoHot,
    Value,
    clamp,
    each,
    log,
    norm2,
    sg,
    tanh,
    total,
)
from worldformula.errors import FormulaError, ShapeError, WorldformulaError

B, T, X, Z = 4, 3, 3, 2


# ------------------------------------------------------------------------------------------------ settings of families

NUMBERS = [np.float64, np.float32, np.int64]
HALVES = {
    "numpy": lambda: np.float64(0.5),
    "numpy, single": lambda: np.float32(0.5),
    "tensor": lambda: torch.tensor(0.5),
}


@PATHS
@pytest.mark.parametrize("kind", HALVES)
def test_a_temperature_may_be_any_number(kind, path):
    net, x = nn.Linear(X, Z), torch.randn(B, X)
    relaxed = [RelaxedBernoulli("q(b|x)", net, shape=Z, temperature=t) for t in (0.5, HALVES[kind]())]
    ours, theirs = (E(q, log(Normal("p(b)", shape=Z))) for q in relaxed)
    noise = ours.noise(x=x)
    torch.testing.assert_close(run(theirs, path, x=x, noise=noise).value, run(ours, "call", x=x, noise=noise).value)
    again = E(RelaxedOneHot("q(k|x)", net, shape=Z, temperature=HALVES[kind]()), log(Normal("p(k)", shape=Z)))
    assert run(again, path, x=x).value.isfinite().all()


@PATHS
@pytest.mark.parametrize("kind", HALVES)
def test_a_share_of_the_uniform_may_be_any_number(kind, path):
    net, x, k = nn.Linear(X, 3), torch.randn(B, X), torch.eye(3)[[0, 1, 2, 0]]
    expected = (0.5 * net(x).softmax(-1) + 0.5 / 3).log()[range(B), [0, 1, 2, 0]]
    factor = OneHot("p(k|x)", net, shape=3, unimix=HALVES[kind]())
    torch.testing.assert_close(run(log(factor), path, x=x, k=k).value, expected)


@PATHS
@pytest.mark.parametrize("number", [np.float64, np.float32, torch.tensor])
def test_ends_of_bins_may_be_any_number(number, path):
    net, x, r = nn.Linear(X, 5), torch.randn(B, X), torch.randn(B)
    ours, theirs = (
        log(TwoHot("p(r|x)", net, bins=n, low=low, high=high))
        for n, low, high in ((5, -2.0, 2.0), (np.int64(5), number(-2.0), number(2.0)))
    )
    torch.testing.assert_close(run(theirs, path, x=x, r=r).value, run(ours, "call", x=x, r=r).value)


@PATHS
@pytest.mark.parametrize("number", NUMBERS)
def test_bounds_and_orders_may_be_numbers_of_numpy(number, path):
    a = torch.tensor([-3.0, 0.2, 5.0])
    torch.testing.assert_close(run(clamp(Value("a"), number(-1), number(1)), path, a=a).value, a.clamp(-1, 1))
    torch.testing.assert_close(run(clamp(Value("a"), high=number(1)), path, a=a).value, a.clamp(max=1))


@PATHS
@pytest.mark.parametrize("number", NUMBERS)
def test_an_order_may_be_a_number_of_numpy(number, path):
    p, x, order = Normal("p(z)", shape=Z), torch.randn(B, X), number(2)
    loc, raw = nn.Linear(X, 2 * Z)(x).chunk(2, -1)
    scale = softplus(raw).clamp(max=0.9)
    q = Normal("q(z|x)", lambda _: {"loc": loc, "scale": scale}, shape=Z)
    # D_2 of N(m, s²) from N(0, 1), by hand: s* = 2 + (1 - 2) s².
    mixed = 2 - scale**2
    expected = (-scale.log() - 0.5 * mixed.log() + loc**2 / mixed).sum(-1)
    torch.testing.assert_close(run(Renyi(q, p, order), path, x=x).value, expected)


A, TAU = torch.tensor([0.5, 2.0, 3.0]), Symbol("tau")
HALVED = Normal("q(z|a)", lambda a: {"loc": a, "scale": 0.5 + 0 * a}, shape=1)
ANNEALED = {
    "lower bound": (lambda: clamp(Value("a"), TAU, 2.5), {"a": A}, lambda tau: A.clamp(tau, 2.5)),
    "upper bound": (lambda: clamp(Value("a"), -9.0, TAU), {"a": A}, lambda tau: A.clamp(max=tau)),
    "exponent": (lambda: Value("a") ** TAU, {"a": A}, lambda tau: A**tau),
    "scale": (
        lambda: log(Normal("p(y)", shape=1, loc=0.0, scale=TAU)), {"y": A[:, None]},
        lambda tau: Gauss(0.0, tau).log_prob(A),
    ),
    "scale beside a head": (
        lambda: log(Normal("p(y|a)", lambda a: a, shape=1, scale=TAU)), {"y": A[:, None], "a": 2 * A[:, None]},
        lambda tau: Gauss(2 * A, tau).log_prob(A),
    ),
    "order": (
        lambda: Renyi(HALVED, Normal("p(z)", shape=1), TAU),
        {"a": A[:, None]},
        lambda tau: renyi(A, torch.tensor(0.5), tau),
    ),
    "temperature": (
        lambda: log(RelaxedBernoulli("q(b)", shape=1, logits=torch.tensor([0.3]), temperature=TAU)),
        {"b": torch.tensor([[0.2], [0.5], [0.9]])},
        lambda tau: torch.distributions.RelaxedBernoulli(torch.tensor(tau), logits=torch.tensor(0.3)).log_prob(
            torch.tensor([0.2, 0.5, 0.9])
        ),
    ),
}  # fmt: skip


def renyi(loc, scale, order):
    """D_α of N(loc, scale²) from N(0, 1), by hand."""
    mixed = order + (1 - order) * scale**2
    return 0.5 * order * loc**2 / mixed - scale.log() - 0.5 * mixed.log() / (order - 1)


@PATHS
@pytest.mark.parametrize("case", ANNEALED)
@pytest.mark.parametrize("tau", [0.5, 2.0])
def test_numbers_of_the_call_may_stand_in_settings(case, tau, path):
    build, given, expected = ANNEALED[case]
    torch.testing.assert_close(run(build(), path, **given, tau=tau).value, expected(tau))


# -------------------------------------------------------------------------------------------- stopped factors, shapes


@PATHS
def test_stopped_factors_multiply(path):
    prior, q = Normal("p(w)", shape=1), Normal("q(z|x)", nn.Linear(X, 2 * Z), shape=Z)
    body = log(Normal("p(x|z,w)", lambda z, w: torch.cat((z, w), -1), shape=X, scale=1.0))
    x, noise = torch.randn(B, X), {"z": torch.randn(B, Z), "w": torch.randn(B, 1)}
    expected = run(E(q * prior, body), path, x=x, noise=noise).value
    for joint in (sg(q) * sg(prior), sg(q) * prior, q * sg(prior), q * prior):
        value = run(E(joint, body), path, x=x, noise=noise).value
        torch.testing.assert_close(value, expected)
        assert value.requires_grad == (joint.uses[0].stopped is False)


@PATHS
def test_sizes_may_be_whole_numbers_of_numpy(path):
    q = Normal("q(z|x)", nn.Linear(X, 2 * Z), shape=np.int64(Z))
    p = Normal("p(z)", shape=(np.int32(Z),))
    x, noise = torch.randn(B, X), torch.randn(5, B, Z)
    loc, scale = q.params(x)
    expected = Gauss(0.0, 1.0).log_prob(loc + scale * noise).sum(-1).mean(0)
    found = run(E(q, log(p), samples=np.int64(5)), path, x=x, noise={"z": noise}).value
    torch.testing.assert_close(found, expected)
    assert run(
        Sum("l", log(Normal("p(y_l)", shape=1)), steps=np.int64(2)), path, y=torch.zeros(B, 2, 1)
    ).value.shape == (B,)
    classes = Categorical("p(k|x)", nn.Linear(X, 3), shape=(), classes=np.int64(3))
    assert run(log(classes), path, x=x, k=torch.tensor([0, 1, 2, 0])).value.shape == (B,)


@PATHS
@pytest.mark.parametrize("through_time", [False, True])
def test_an_empty_batch_is_empty_or_refused_in_words(through_time, path):
    index = "_t" if through_time else ""
    q, p = Normal(f"q(z{index}|x{index})", nn.Linear(X, 2 * Z), shape=Z), Normal(f"p(z{index})", shape=Z)
    core = Deterministic("h_t = f(h_{t-1},z_t)", lambda h, z: h + z, shape=Z)
    loss = KL(q, p) - E(q, log(p), samples=2) - E(q, log(p))
    loss = Sum("t", loss + E(q * core, log(Normal("p(h_t)", shape=Z)))) if through_time else loss
    x = torch.zeros(0, T, X) if through_time else torch.zeros(0, X)
    try:
        found = run(loss, path, x=x).value
    except WorldformulaError as error:
        if not ("empty" in str(error) or "row" in str(error)):
            raise
        return
    assert found.shape == (0,)
    assert run(loss.sum(), path, x=x).value == 0


@PATHS
def test_a_mean_over_no_rows_is_refused_and_not_nan(path):
    q, p = Normal("q(z|x)", nn.Linear(X, 2 * Z), shape=Z), Normal("p(z)", shape=Z)
    loss = (KL(q, p) - E(q, log(p))).mean()
    assert run(loss, path, x=torch.zeros(B, X)).value.isfinite()  # from the second call on arguments go the quick way
    with refused("x has no rows", f"[0, {X}]", ".sum(), which is 0", error=ShapeError):
        run(loss, path, x=torch.zeros(0, X))


def test_compile_reaches_the_programs_of_absent_rows(monkeypatch):
    compiled = []

    def counting(function, **options):
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", counting)
    prior, q = Normal("p(z)", shape=Z), Normal("q(z|x)", nn.Linear(X, 2 * Z), shape=Z)
    loss, x = KL(PoE([prior, q]), prior).mean().compile(), torch.randn(B, X)
    before = len(compiled)
    loss(x=x)
    plain = len(compiled)
    loss(x=x, present={"x": torch.tensor([True, False, True, True])})
    assert before <= 1 <= plain
    assert len(compiled) > plain


def test_fit_says_what_a_batch_must_be():
    from torch.utils.data import DataLoader, TensorDataset

    from worldformula.training.fit import fit

    loss = log(Normal("p(x|y)", nn.Linear(X, 2 * Z), shape=Z)).mean()
    loader = DataLoader(TensorDataset(torch.randn(8, Z), torch.randn(8, X)), batch_size=4)
    try:
        fit(-loss, loader, steps=2, batch=4, progress=False)
    except WorldformulaError as error:
        if not ("dict" in str(error) or "inputs" in str(error) or "name" in str(error)):
            raise


# ------------------------------------------------------------------------------------------------ experts without data


@PATHS
@pytest.mark.parametrize("mixture", [MoE, MoPoE])
def test_each_expert_beside_a_constant_one(mixture, path):
    prior, q = Normal("r(z)", shape=Z, loc=0.0, scale=2.0), Normal("q(z|x)", nn.Linear(X, 2 * Z), shape=Z)
    standard = Normal("p(z)", shape=Z)
    loss = each(mixture([q, prior]), lambda e: KL(e, standard))
    x = torch.randn(B, X)
    loc, scale = q.params(x)
    experts = [Gauss(loc, scale), Gauss(torch.zeros(B, Z), torch.full((B, Z), 2.0))]
    if mixture is MoPoE:
        precision = scale**-2 + 0.25
        experts.append(Gauss(loc * scale**-2 / precision, precision**-0.5))
    expected = torch.stack(
        [torch.distributions.kl_divergence(e, Gauss(torch.zeros(Z), torch.ones(Z))).sum(-1) for e in experts]
    ).mean(0)
    torch.testing.assert_close(run(loss, path, x=x).value, expected)


@PATHS
def test_each_expert_beside_a_constant_one_with_absent_rows(path):
    prior, q = Normal("r(z)", shape=Z, loc=0.0, scale=2.0), Normal("q(z|x)", nn.Linear(X, 2 * Z), shape=Z)
    standard, has = Gauss(torch.zeros(Z), torch.ones(Z)), torch.tensor([True, False, True, False])
    x = torch.randn(B, X)
    own = torch.distributions.kl_divergence(Gauss(*q.params(x)), standard).sum(-1)
    other = torch.distributions.kl_divergence(Gauss(torch.zeros(Z), 2 * torch.ones(Z)), standard).sum()
    expected = torch.where(has, (own + other) / 2, other)
    loss = each(MoE([q, prior]), lambda e: KL(e, Normal("p(z)", shape=Z)))
    torch.testing.assert_close(run(loss, path, x=x, present={"x": has}).value, expected)


# ------------------------------------------------------------------------------------------- noise without parameters


@PATHS
def test_a_corruption_without_weights_needs_no_estimator(path):
    """D3PM: a one-hot is kept or replaced by a fixed rule; nothing in its draw can be learnt."""
    corrupt = OneHot("q(y|x)", lambda x: (0.7 * x + 0.1).log(), shape=X)
    model = OneHot("p(x|y)", nn.Linear(X, X), shape=X)
    loss, x = -E(corrupt, log(model)).mean(), torch.eye(X)[[0, 1, 2, 0]]
    value = run(loss, path, x=x, seed=0).value
    value.backward()
    assert model.net.weight.grad.abs().sum() > 0
    drawn = run(loss, path, x=x, seed=0).samples["y"]
    expected = -(model.net(drawn).log_softmax(-1) * x).sum(-1).mean()
    torch.testing.assert_close(run(loss, path, x=x, seed=0).value, expected)


@PATHS
def test_data_times_a_stopped_factor_draws(path):
    data = Data("p_data(x)", shape=X)
    corrupt, model = (
        Bernoulli("q(y|x)", nn.Linear(X, X), shape=X),
        Normal("p(x|y)", nn.Linear(X, X), shape=X, scale=1.0),
    )
    x = torch.rand(B, X)
    nested = run(E(data, E(sg(corrupt), log(model))), path, x=x, seed=0)
    found = run(E(data * sg(corrupt), log(model)), path, x=x, seed=0)
    torch.testing.assert_close(found.value, nested.value)
    torch.testing.assert_close(nested.value, Gauss(model.net(nested.samples["y"]), 1.0).log_prob(x).sum(-1))


def test_weights_in_the_corruption_still_need_one():
    corrupt = OneHot("q(y|x)", nn.Linear(X, X), shape=X)
    bits = Bernoulli("q(y|x)", nn.Linear(X, X), shape=X)
    with refused("gradient"):
        E(bits, total(Value("y", shape=X)))
    assert E(corrupt, total(Value("y", shape=X)), gradient="score") is not None
    with pytest.raises(FormulaError):
        log(Data("p_data(x)", shape=X) * bits)


# ------------------------------------------------------------------------------------------- experts that give numbers


def numbers(scale, loc=None):
    return Normal("q(z|x)", lambda x: {"loc": x if loc is None else loc, "scale": scale}, shape=3)


@PATHS
@pytest.mark.parametrize("present", [False, True])
def test_a_product_of_experts_whose_scales_are_numbers(present, path):
    q, prior = numbers(2.0), Normal("p(z)", shape=3)
    x, z, there = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([1.0, 0.0, 1.0, 1.0])
    given = {"present": {"x": there}} if present else {}
    found = run(log(PoE([prior, q])), path, x=x, z=z, **given).value
    precision = 1.0 + 0.25 * (there if present else torch.ones(4)).unsqueeze(-1)
    right = Gauss((precision - 1.0) * x / precision, precision**-0.5).log_prob(z).sum(-1)
    torch.testing.assert_close(found, right)


@PATHS
@pytest.mark.parametrize("mixture", [PoE, MoE])
def test_experts_of_numbers_alone_are_refused(mixture, path):
    with refused(mixture.__name__, "are numbers", "loc=torch.zeros(2)"):
        run(log(mixture([Normal("p(z)", shape=3), numbers(2.0, 0.5)])), path, x=torch.randn(4, 3), z=torch.randn(4, 3))


# ------------------------------------------------------------------------------------------- events of unlike shapes

UNLIKE = {
    "crosswise": lambda: norm2(Value("a", shape=(1, 3)) - Value("b", shape=(3, 1))),
    "of fewer axes": lambda: norm2(Value("a", shape=(3, 3)) * Value("b", shape=3)),
    "through a function": lambda: total(tanh(Value("a", shape=(2, 3))) + sg(Value("b", shape=(1, 3)))),
}


@PATHS
@pytest.mark.parametrize("unlike", UNLIKE)
def test_events_of_unlike_shapes_are_refused(unlike, path):
    with refused("unlike event shapes", "nothing is broadcast", "the same shape="):
        run(UNLIKE[unlike](), path, a=torch.ones(2, 1, 3), b=torch.ones(2, 3, 1))


@PATHS
def test_a_weight_of_another_shape_than_the_elements_of_a_density_is_refused(path):
    with refused("log p(x)", "unlike event shapes"):
        loss = total(Value("m", shape=2) * log(Normal("p(x)", shape=3), event=True))
        run(loss, path, x=torch.ones(2, 3), m=torch.ones(2, 2))


@PATHS
def test_events_of_one_shape_and_numbers_of_rows(path):
    torch.manual_seed(0)
    a, b, w = torch.randn(2, 1, 3), torch.randn(2, 1, 3), torch.randn(2)
    loss = norm2(Value("w") * Value("a", shape=(1, 3)) - 2 * Value("b", shape=(1, 3)))
    expected = (w[:, None, None] * a - 2 * b).square().sum((1, 2))
    torch.testing.assert_close(run(loss, path, a=a, b=b, w=w).value, expected)
