"""Data of whole numbers and flags: numbers where a formula computes with them, classes where networks read them."""

import copy

import pytest
import torch
from torch import nn
from torch.distributions import Categorical as Classes
from torch.distributions import Normal as Gauss

from tests.formula.defects.both import PATHS, run
from worldformula import (
    KL,
    Categorical,
    Data,
    Deterministic,
    E,
    Mean,
    Normal,
    Sum,
    Symbol,
    Value,
    clamp,
    exp,
    log,
    maximum,
    norm2,
    relu,
    sg,
    softplus,
    sqrt,
    together,
    total,
)
from worldformula.errors import HeadError

KINDS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool]
A, B_ = Value("a"), Value("b")
FORMULAS = {
    "sum": (lambda: A + B_ + B_, lambda a, b: a + b + b),
    "difference": (lambda: A - B_ - 1, lambda a, b: a - b - 1),
    "negative": (lambda: -A, lambda a, b: -a),
    "product": (lambda: A * B_ * 3, lambda a, b: a * b * 3),
    "number first": (lambda: 2 * A - 200 * B_, lambda a, b: 2 * a - 200 * b),
    "ratio": (lambda: A / 3 + B_, lambda a, b: a / 3 + b),
    "power": (lambda: A**2 + (A + 1) ** -1, lambda a, b: a**2 + 1 / (a + 1)),
    "Symbol": (lambda: Symbol("s") * A + Symbol("s"), lambda a, b: 3 * a + 3),
    "exponent": (lambda: A ** Symbol("s"), lambda a, b: a**3),
    "functions": (
        lambda: exp(-A) + softplus(B_) + relu(-A) + sqrt(A),
        lambda a, b: (-a).exp() + nn.functional.softplus(b) + a.sqrt(),
    ),
    "maximum": (lambda: maximum(A, B_) + maximum(A, 0.5), lambda a, b: torch.maximum(a, b) + a.clamp(min=0.5)),
    "clamp": (lambda: clamp(A, -0.5, 0.5) * 200, lambda a, b: a.clamp(-0.5, 0.5) * 200),
    "stopped": (lambda: sg(A) * 127 + A, lambda a, b: a * 128),
    "mean": (lambda: A.mean() + (A * B_).sum(), lambda a, b: a.mean() + (a * b).sum()),
    "itself": (lambda: A, lambda a, b: a),
}


def numbers(kind, *shape):
    """Zeros and ones for flags, and else numbers as large as the smallest kind holds."""
    high = 2 if kind == torch.bool else 101
    return torch.randint(0, high, shape).to(kind)


@PATHS
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", FORMULAS)
def test_data_of_whole_numbers_are_numbers_in_arithmetic(case, kind, path):
    build, right = FORMULAS[case]
    loss, a, b = build(), numbers(kind, 5), numbers(kind, 5)
    given = {"a": a, "b": b, "s": 3}
    found = run(loss, path, **{key: given[key] for key in loss.program.inputs}).value
    torch.testing.assert_close(found, right(a.float(), b.float()))


@PATHS
@pytest.mark.parametrize("kind", KINDS)
def test_reductions_over_an_event(kind, path):
    a, b = numbers(kind, 3, 4), numbers(kind, 3, 4)
    difference = Value("a", shape=4) - Value("b", shape=4)
    loss = norm2(difference) + total(Value("a", shape=4) * Value("a", shape=4)) - norm2(Value("b", shape=4))
    right = ((a.float() - b.float()) ** 2 + a.float() ** 2 - b.float() ** 2).sum(-1)
    torch.testing.assert_close(run(loss, path, a=a, b=b).value, right)


@PATHS
def test_pixels_do_not_wrap_around(path):
    pixels = torch.tensor([[200, 100]], dtype=torch.uint8)
    assert run(norm2(Value("a", shape=2)), path, a=pixels).value.item() == 50000
    assert run(Symbol("s") * Value("a"), path, a=pixels[0, 1:], s=3).value.item() == 300
    assert run(Value("a") + Value("b") + Value("c"), path, **dict.fromkeys("abc", torch.tensor([True]))).value == 3


@PATHS
@pytest.mark.parametrize("kind", KINDS)
def test_flags_through_time(kind, path):
    """The flags that restart a sum, read as data too: now, and a step before."""
    first = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0]]).to(kind)
    r = torch.randn(2, 4)
    loss = Sum("t", -Value("first_t") * Value("r_t") + (Value("first_{t-1}") - 1) * 200, reset="first")
    flags = first.float()
    before = torch.cat((torch.zeros(2, 1), flags[:, :-1]), 1) * (1 - flags)  # nothing lies before a restart
    right = (-flags * r + (before - 1) * 200).sum(1)
    torch.testing.assert_close(run(loss, path, first=first, r=r).value, right)


@PATHS
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clock", ["mask", "until"])
def test_flags_that_count_steps_are_data_too(kind, clock, path):
    flags, r = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).to(kind), numbers(kind, 2, 4)
    loss = Sum("t", Value("k_t") * 2 - Value("r_t"), **{clock: "k"})
    each = flags.float() * 2 - r.float()
    counts = flags.float() if clock == "mask" else torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0]])
    torch.testing.assert_close(run(loss, path, k=flags, r=r).value, (each * counts).sum(1))


@PATHS
@pytest.mark.parametrize("kind", KINDS)
def test_sums_and_means_over_time(kind, path):
    a = torch.ones(2, 300).to(kind)
    torch.testing.assert_close(run(Sum("t", Value("a_t")), path, a=a).value, torch.full((2,), 300.0))
    torch.testing.assert_close(run(Mean("t", Value("a_t")), path, a=a).value, torch.ones(2))
    r = torch.randn(2, 300)
    right = Gauss(0.0, 1.0).log_prob(r).sum(1)
    found = run(Sum("t", log(Normal("p(r_t)", shape=())) + Value("a_t")), path, r=r, a=a).value
    torch.testing.assert_close(found, right + 300)


# ------------------------------------------------------------------------------------- what stays a class or a flag


@PATHS
@pytest.mark.parametrize("as_value", [False, True])
def test_classes_stay_whole_numbers_where_networks_read_them(as_value, path):
    net, k = nn.Embedding(5, 2), torch.tensor([0, 3, 4])
    p = Normal("p(x|k)", net, shape=2, scale=1.0)
    loss = log(p) + Value("k") * 2 if as_value else log(p)
    x = torch.randn(3, 2)
    right = Gauss(net(k), 1.0).log_prob(x).sum(-1) + (2.0 * k if as_value else 0.0)
    torch.testing.assert_close(run(loss, path, x=x, k=k).value, right)


@PATHS
@pytest.mark.parametrize("as_value", [False, True])
def test_classes_stay_whole_numbers_where_densities_score_them(as_value, path):
    net, seen = nn.Linear(3, 4), []
    p = Categorical("p(k|x)", net, shape=(), classes=4)
    spy = Deterministic("y = f(k)", lambda k: seen.append(k.dtype) or k.float()[..., None], shape=1)
    x, k = torch.randn(3, 3), torch.tensor([0, 3, 1])
    loss = log(p) + E(spy, total(Value("y", shape=1)))
    loss = loss + Value("k") / 2 if as_value else loss
    right = Classes(logits=net(x)).log_prob(k) + k + (k / 2 if as_value else 0.0)
    torch.testing.assert_close(run(loss, path, x=x, k=k).value, right)
    assert set(seen) == {torch.int64}


@PATHS
def test_data_factors_give_numbers_to_formulas_and_classes_to_networks(path):
    net, k = nn.Embedding(5, 1), torch.tensor([0, 3, 4])
    f = Deterministic("y = f(k)", net, shape=1)
    loss = E(Data("p_data(k)", shape=()) * f, norm2(Value("y", shape=1)) + Value("k") ** 30)
    right = net(k).squeeze(-1).square() + k.float() ** 30
    torch.testing.assert_close(run(loss, path, k=k).value, right)


# ------------------------------------------------------------------------------------------------ which numbers, where


@PATHS
@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64])
def test_whole_numbers_are_as_precise_as_the_data(kind, path):
    a, b = torch.tensor([2**24 + 1, 3]), torch.tensor([0.5, 0.25], dtype=kind)
    found = run(Value("a") + Value("b"), path, a=a, b=b).value
    wide = torch.promote_types(kind, torch.float32)
    assert found.dtype == wide
    torch.testing.assert_close(found, a.to(wide) + b.to(wide), rtol=0, atol=0)


@PATHS
def test_without_other_data_weights_say_how_precise(path):
    net = nn.Embedding(5, 1).double()
    f, k = Deterministic("y = f(k)", net, shape=1), torch.tensor([1, 4])
    n = torch.tensor([2**40 + 1, 3])
    found = run(E(f, total(Value("y", shape=1)) + Value("n")), path, k=k, n=n).value
    torch.testing.assert_close(found, net(k).squeeze(-1) + n.double(), rtol=0, atol=0)


def test_one_formula_takes_both_kinds_by_turns():
    loss = norm2(Value("a", shape=2)) + Value("b")
    code, ints, floats = str(loss.code), torch.tensor([[200, 100]], dtype=torch.uint8), torch.tensor([[0.5, 2.0]])
    for _ in range(2):
        assert loss(a=ints, b=torch.ones(1)).value.item() == 50001
        assert loss(a=floats, b=torch.ones(1)).value.item() == 5.25
        assert loss(a=floats, b=torch.ones(1).bool()).value.item() == 5.25
    assert str(loss.code) == code
    assert "as_floats" not in code
    again = copy.deepcopy(loss)
    assert again(a=ints, b=torch.ones(1)).value.item() == 50001


def test_results_of_several_formulas_and_compiled_ones():
    a = torch.tensor([16, 17], dtype=torch.uint8)
    both = together(one=(Value("a") * Value("a")).mean(), two=(Value("a") + 250).sum())
    found = both(a=a).value
    assert (found["one"].item(), found["two"].item()) == (272.5, 533.0)
    square = Value("a") * Value("a")
    for compiled in (torch.compile(square, backend="eager", fullgraph=True), square.compile(backend="eager")):
        assert compiled(a=a).value.tolist() == [256.0, 289.0]


@PATHS
def test_noise_belongs_to_the_same_draws(path):
    q = Normal("q(z|x)", nn.Linear(2, 4), shape=2)
    loss = E(q, total(Value("z", shape=2)) * Value("w"))
    x, w = torch.randn(3, 2), torch.tensor([100, 2, 3], dtype=torch.int8)
    noise = loss.noise(x=x, w=w)
    loc, raw = q.net(x).chunk(2, -1)
    z = loc + nn.functional.softplus(raw) * noise["z"]
    out = run(loss, path, x=x, w=w, noise=noise)
    torch.testing.assert_close(out.value, z.sum(-1) * w)
    torch.testing.assert_close(out.samples["z"], z)


@PATHS
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("formula", [lambda k: total(k * k), norm2, lambda k: total(k + k), total])
def test_whole_numbers_of_a_network_are_not_computed_with(formula, kind, path):
    """They would wrap around: 200² is 64 in uint8; two flags add up to one."""
    k = Deterministic("k = f(x)", lambda x: x.to(kind), shape=2)
    loss = E(k, formula(Value("k")))
    with pytest.raises(HeadError) as refused:
        run(loss, path, x=torch.full((3, 2), 100.0))
    assert str(refused.value) == (
        f"k = f(x): its network returned k as {str(kind).removeprefix('torch.')}, and the formula computes with k\n"
        "whole numbers wrap around and flags do not add up: end the network in .float(); where another network reads "
        "them as classes, return both, 'k, n = f(...)'"
    )


@PATHS
def test_classes_that_a_network_computes_are_read_as_classes(path):
    table = nn.Embedding(5, 3)
    both = Deterministic("k, n = f(x)", lambda x: (x.argmax(-1), x.argmax(-1).float()), shape=[(), ()])
    look = Deterministic("e = g(k)", table, shape=3)
    x = torch.eye(5)[[3, 0, 4]]
    found = run(E(both * look, total(Value("e")) + 100 * Value("n")), path, x=x).value
    torch.testing.assert_close(found, table.weight[[3, 0, 4]].sum(-1) + torch.tensor([300.0, 0.0, 400.0]))


@PATHS
def test_whole_numbers_that_are_carried_are_not_computed_with(path):
    count = Deterministic("k_t = f(k_{t-1},x_t)", lambda k, x: (k + x).to(torch.uint8), shape=())
    with pytest.raises(HeadError, match="returned k_t as uint8, and the formula computes with k_t"):
        run(Sum("t", E(count, Value("k_t") * Value("k_t"))), path, x=torch.full((2, 3), 100.0))
    with pytest.raises(HeadError, match="returned k_t as uint8, and the formula computes with k_t"):
        run(Sum("t", E(count, Value("k_{t-1}") * 2 + Value("x_t"))), path, x=torch.full((2, 3), 100.0))


@PATHS
def test_parameters_of_whole_numbers_do_not_wrap_around(path):
    """KL(N(200, 1) ‖ N(0, 1)) = 200² / 2, and 200² is 64 in uint8."""
    q = Normal("q(z|x)", lambda x: {"loc": (x * 100).to(torch.uint8), "scale": x.to(torch.uint8) // 2}, shape=2)
    x = torch.full((3, 2), 2.0)
    found = run(KL(q, Normal("p(z)", shape=2)), path, x=x).value
    torch.testing.assert_close(found, torch.full((3,), 40000.0))
    density = run(log(q), path, x=x, z=torch.full((3, 2), 201.0)).value
    torch.testing.assert_close(density, Gauss(torch.tensor(200.0), 1.0).log_prob(torch.tensor(201.0)).expand(3) * 2)
