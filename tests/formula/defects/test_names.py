"""Names that the emitted code, a module or a call already have, and flags that are data as well."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal as Gauss

from tests.formula.defects.both import PATHS, refused, run
from worldformula import KL, Deterministic, E, Normal, Sum, Value, log, sg, together
from worldformula.errors import WorldformulaError

B, T, Z = 4, 3, 2
WORDS = ["s", "loc", "scale", "raw", "logits", "flags", "carry"]
OTHERS = ["code", "program", "value", "formula", "T", "B", "t", "torch", "F", "keep", "steps", "flat", "rng", "node"]
FREE = ["present", "noise", "start", "horizon"]  # drawn, these are no options of the call
LONGER = [name for name in WORDS + OTHERS + FREE if len(name) > 1]


# ------------------------------------------------------------------------------------------------ variables by name


@PATHS
@pytest.mark.parametrize("name", WORDS + OTHERS + FREE)
def test_noise_and_samples_are_called_as_the_variable_is(name, path):
    q = Normal(f"q({name}|x)", nn.Linear(3, 2 * Z), shape=Z)
    p = Normal(f"p(x|{name})", nn.Linear(Z, 3), shape=3, scale=1.0)
    loss = KL(q, Normal(f"p({name})", shape=Z)) - E(q, log(p))
    x, noise = torch.randn(B, 3), torch.randn(B, Z)
    assert list(loss.noise(x=x)) == [name]
    out = run(loss, path, x=x, noise={name: noise})
    loc, scale = q.params(x)
    z = loc + scale * noise
    kl = torch.distributions.kl_divergence(Gauss(loc, scale), Gauss(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(out.samples[name], z)
    torch.testing.assert_close(out.value, kl - Gauss(p.net(z), 1.0).log_prob(x).sum(-1))


@PATHS
@pytest.mark.parametrize("name", WORDS + OTHERS)
def test_data_is_called_as_the_variable_is(name, path):
    p = Normal(f"p({name}|x)", nn.Linear(3, Z), shape=Z, scale=1.0)
    x, y = torch.randn(B, 3), torch.randn(B, Z)
    found = run(log(p), path, x=x, **{name: y}).value
    torch.testing.assert_close(found, Gauss(p.net(x), 1.0).log_prob(y).sum(-1))


@PATHS
@pytest.mark.parametrize("name", LONGER)
def test_a_carried_draw_is_called_so_through_time(name, path):
    q = Normal(f"q({name}_t|{name}_{{t-1}},x_t)", lambda z, x: z + x, shape=Z, scale=0.5)
    loss = Sum("t", E(q, log(Normal(f"p({name}_t)", shape=Z))))
    x, noise = torch.randn(B, T, Z), torch.randn(B, T, Z)
    z, expected = torch.zeros(B, Z), 0.0
    for t in range(T):
        z = z + x[:, t] + 0.5 * noise[:, t]
        expected = expected + Gauss(0.0, 1.0).log_prob(z).sum(-1)
    out = run(loss, path, x=x, noise={name: noise})
    torch.testing.assert_close(out.value, expected)
    torch.testing.assert_close(out.samples[name][:, -1], z)
    assert set(out.last) == {name}
    again = run(loss, path, x=x, noise={name: noise}, start={name: torch.zeros(B, Z)})
    torch.testing.assert_close(again.value, expected)


@pytest.mark.parametrize("name", ["seed", "generator", "noise", "start", "horizon", "deterministic", "present"])
def test_data_cannot_be_called_as_an_option_of_the_call(name):
    with refused(name, "option"):
        log(Normal(f"p({name}|x)", nn.Linear(3, Z), shape=Z, scale=1.0))(x=torch.randn(B, 3))


@PATHS
def test_a_variable_beside_the_word_that_it_would_become(path):
    """Two variables of which one is the other's name in emitted code: s and s_2, loc and loc_."""
    first = Normal("q(loc|x)", nn.Linear(3, 2 * Z), shape=Z)
    second = Normal("q(loc_2|x)", nn.Linear(3, 2 * Z), shape=Z)
    p = Normal("p(x|loc,loc_2)", lambda a, b: torch.cat((a, b[..., :1]), -1), shape=3, scale=1.0)
    loss = E(first * second, log(p))
    x, noise = torch.randn(B, 3), {"loc": torch.randn(B, Z), "loc_2": torch.randn(B, Z)}
    a, b = (f.params(x)[0] + f.params(x)[1] * n for f, n in zip((first, second), noise.values(), strict=True))
    expected = Gauss(torch.cat((a, b[..., :1]), -1), 1.0).log_prob(x).sum(-1)
    torch.testing.assert_close(run(loss, path, x=x, noise=noise).value, expected)


# -------------------------------------------------------------------------------------------- networks by name

FUNCTIONS = [
    "code", "program", "present", "value", "latex", "node", "mean", "sum", "named", "graph", "explain", "noise",
    "interpret", "compile", "forward", "train", "training", "parameters", "to", "double", "state_dict",
]  # fmt: skip


@PATHS
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_may_have_the_name_of_an_attribute(name, path):
    f = Deterministic(f"c = {name}(e)", nn.Linear(3, Z), shape=Z)
    loss = E(f, log(Normal("p(c)", shape=Z))).mean()
    e = torch.randn(B, 3)
    found = run(loss, path, e=e).value
    torch.testing.assert_close(found, Gauss(0.0, 1.0).log_prob(f.net(e)).sum(-1).mean())
    assert len(list(loss.parameters())) == 2
    assert "def formula" in loss.code
    assert len((2 * loss).state_dict()) == 2


def test_two_functions_of_one_name_have_weights_of_their_own():
    first, second = (Deterministic(f"{v} = code(e)", nn.Linear(3, Z), shape=Z) for v in ("c", "d"))
    loss = E(first * second, log(Normal("p(c)", shape=Z)) + log(Normal("p(d)", shape=Z)))
    e = torch.randn(B, 3)
    expected = sum(Gauss(0.0, 1.0).log_prob(f.net(e)).sum(-1) for f in (first, second))
    torch.testing.assert_close(loss(e=e).value, expected)
    assert len(loss.state_dict()) == 4


# ------------------------------------------------------------------------------------------------- parts by name


def parts():
    q = Normal("q(z|x)", nn.Linear(3, 2 * Z), shape=Z)
    return KL(q, Normal("p(z)", shape=Z)), log(Normal("p(x)", shape=3))


@pytest.mark.parametrize("factor", [1, -2])
def test_two_parts_of_one_name_are_refused_or_told_apart(factor):
    first, second = parts()
    try:
        out = (first.named("a") + factor * second.named("a"))(x=torch.randn(B, 3))
    except WorldformulaError as error:
        if "'a'" not in str(error):
            raise
        return
    assert len(out.terms) == 2
    assert not torch.equal(*out.terms.values())


def test_one_part_used_twice_is_one_term():
    first, _ = parts()
    part = first.named("rate")
    loss = part + 0.5 * sg(part)
    assert list(loss(x=torch.randn(B, 3)).terms) == ["rate"]
    both = together(a=part.mean(), b=(2 * part).mean())
    x = torch.randn(B, 3)
    torch.testing.assert_close(2 * both(x=x).value["a"], both(x=x).value["b"])


# --------------------------------------------------------------------------------------------- flags that are data

FIRST = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def clocked(kind, by):
    """A walk whose flags are read as data too: as a value, or by a network."""
    core = Deterministic("h_t = f(h_{t-1},x_t)", lambda h, x: h + x, shape=1)
    if by == "a value":
        body = log(Normal("p(x_t|h_t)", lambda h: h, shape=1, scale=1.0)) + Value("first_t")
    else:
        p = Normal("p(x_t|h_t,first_t)", lambda h, f: h + f.reshape(h.shape), shape=1, scale=1.0)
        body = log(p) + 0.0 * Value("first_t")
    return Sum("t", E(core, body), **{kind: "first"})


def clocked_by_hand(kind, by, x):
    h, each = torch.zeros(B, 1), []
    for t in range(T):
        if kind == "reset":
            h = torch.where(FIRST[:, t, None] == 1, 0.0, h)
        h = h + x[:, t]
        flag = FIRST[:, t]
        mean = h + (flag[:, None] if by == "a network" else 0.0)
        each.append(Gauss(mean, 1.0).log_prob(x[:, t]).sum(-1) + (flag if by == "a value" else 0.0))
    each = torch.stack(each, 1)
    if kind == "mask":
        return (FIRST * each).sum(1)
    if kind == "until":
        return torch.where(FIRST.cumsum(1) - FIRST > 0, 0.0, each).sum(1)
    return each.sum(1)


@PATHS
@pytest.mark.parametrize("kind", ["reset", "mask", "until"])
@pytest.mark.parametrize("by", ["a value", "a network"])
def test_flags_may_be_read_as_data(kind, by, path):
    x = torch.randn(B, T, 1)
    found = run(clocked(kind, by), path, x=x, first=FIRST).value
    torch.testing.assert_close(found, clocked_by_hand(kind, by, x))


@PATHS
def test_one_series_may_be_reset_mask_and_data(path):
    x = torch.randn(B, T, 1)
    core = Deterministic("h_t = f(h_{t-1},x_t)", lambda h, x: h + x, shape=1)
    body = log(Normal("p(x_t|h_t)", lambda h: h, shape=1, scale=1.0)) * Value("first_t")
    loss = Sum("t", E(core, body), reset="first", mask="first")
    h, expected = torch.zeros(B, 1), 0.0
    for t in range(T):
        h = torch.where(FIRST[:, t, None] == 1, 0.0, h) + x[:, t]
        expected = expected + FIRST[:, t] * Gauss(h, 1.0).log_prob(x[:, t]).sum(-1)
    torch.testing.assert_close(run(loss, path, x=x, first=FIRST).value, expected)


@PATHS
def test_flags_of_whole_numbers_read_as_data(path):
    core = Deterministic("h_t = f(h_{t-1},first_t)", lambda h, f: h + f.reshape(h.shape).to(h.dtype), shape=1)
    loss = Sum(
        "t", E(core, log(Normal("p(x_t|h_t)", lambda h: h, shape=1, scale=1.0)) + 0.0 * Value("first_t")), reset="first"
    )
    x = torch.randn(B, T, 1)
    h, expected = torch.zeros(B, 1), 0.0
    for t in range(T):
        h = torch.where(FIRST[:, t, None] == 1, 0.0, h) + FIRST[:, t, None]
        expected = expected + Gauss(h, 1.0).log_prob(x[:, t]).sum(-1)
    torch.testing.assert_close(run(loss, path, x=x, first=FIRST.long()).value, expected)


@PATHS
@pytest.mark.parametrize("name", ["value", "training", "names", "positive", "float", "h"])
@pytest.mark.parametrize("given", ["it", "another"])
def test_a_carry_called_as_an_attribute_of_a_module_starts_from_what_it_is_given(name, given, path):
    """``training`` is true of a module: a start that nobody gave."""
    core = Deterministic(
        f"{name}_t, c_t = f({name}_{{t-1}},c_{{t-1}},x_t)", lambda h, c, x: (h + x, c - x), shape=[1, 1]
    )
    body = log(Normal(f"p(x_t|{name}_t,c_t)", lambda h, c: h + 2 * c, shape=1, scale=1.0))
    start = torch.tensor([0.5])
    loss = Sum("t", E(core, body), reset="first", initial={name if given == "it" else "c": start})
    x, expected = torch.randn(B, T, 1), 0.0
    first = [start if given == "it" else torch.zeros(1), torch.zeros(1) if given == "it" else start]
    h, c = (s.expand(B, 1) for s in first)
    for t in range(T):
        again = FIRST[:, t, None] == 1
        h, c = torch.where(again, first[0], h) + x[:, t], torch.where(again, first[1], c) - x[:, t]
        expected = expected + Gauss(h + 2 * c, 1.0).log_prob(x[:, t]).sum(-1)
    torch.testing.assert_close(run(loss, path, x=x, first=FIRST).value, expected)
