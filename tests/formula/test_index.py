"""The index of a sum as a number, ``t``: in formulas, as a condition, in worlds; against counting by hand."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal as Gauss

from tests.formula.defects.both import PATHS, refused, run
from worldformula import KL, Deterministic, E, Mean, Normal, Sum, Symbol, Value, World, log, norm2
from worldformula.errors import FormulaError, MissingInputError
from worldformula.formula.syntax.text import text
from worldformula.testing import check_world

B, T, X = 4, 6, 2


def flags():
    first = torch.zeros(B, T)
    first[1, 3], first[2, 1], first[2, 2], first[3, 0] = 1, 1, 1, 1
    return first


def numbers(first=None, start=0, steps=T):
    """1, 2, 3, … along each row, and 1 again where a flag stands: counted by hand."""
    rows = torch.zeros(B, steps)
    for b in range(B):
        now = start
        for t in range(steps):
            now = 1 if first is not None and first[b, t] else now + 1
            rows[b, t] = now
    return rows


@PATHS
@pytest.mark.parametrize("reset", [None, "first"])
@pytest.mark.parametrize("steps", [1, 2, T])
def test_steps_are_counted_from_one_and_a_reset_begins_again(steps, reset, path):
    x, given = torch.randn(B, steps, X), {"first": flags()[:, :steps]} if reset else {}
    each = Gauss(0.0, 1.0).log_prob(x).sum(-1)
    out = run(Sum("t", Value("t") * log(Normal("p(x_t)", shape=X)), reset=reset), path, x=x, **given)
    place = numbers(given.get("first"), steps=steps)
    torch.testing.assert_close(out.value, (place * each).sum(1))
    torch.testing.assert_close(out.last, {"t": place[:, -1]})


@PATHS
def test_a_discount_is_a_power_of_the_number(path):
    x = torch.randn(B, T, X)
    each = x.square().sum(-1)
    loss = Sum("t", Symbol("gamma") ** (Value("t") - 1) * norm2(Value("x_t", shape=X)))
    expected = (each * 0.9 ** torch.arange(T)).sum(1)
    torch.testing.assert_close(run(loss, path, x=x, gamma=0.9).value, expected)
    assert str(loss) == r"\sum_{t} \gamma^{t - 1} \, \left\| x_{t} \right\|^{2}"
    assert str(Sum("t", norm2(Value("x_t")) ** Value("t"))) == r"\sum_{t} \left( \left\| x_{t} \right\|^{2} \right)^{t}"
    plain = Sum("t", 0.9 ** Value("t") * norm2(Value("x_t", shape=X)))
    torch.testing.assert_close(run(plain, path, x=x).value, 0.9 * expected)
    mean = Mean("t", Value("t") * norm2(Value("x_t", shape=X)), burn_in=2)
    torch.testing.assert_close(run(mean, path, x=x).value, (each * torch.arange(1, T + 1))[:, 2:].mean(1))


@PATHS
def test_a_network_reads_the_number_in_value_and_gradient(path):
    class Timed(nn.Module):
        def __init__(self):
            super().__init__()
            self.place = nn.Embedding(T + 1, X)
            self.mix = nn.Linear(X, X)

        def forward(self, z, t):
            return self.mix(z) + self.place(t.long())

    step, decode = Timed(), Timed()
    core = Deterministic("z_t = f(z_{t-1},t)", step, shape=X)
    loss = Sum("t", E(core, log(Normal("p(x_t|z_t,t)", decode, shape=X, scale=1.0))), reset="first")
    x, first = torch.randn(B, T, X), flags()
    z, place, expected = torch.zeros(B, X), numbers(first), 0.0
    for t in range(T):
        z = step(z * (1 - first[:, t, None]), place[:, t])
        expected = expected + Gauss(decode(z, place[:, t]), 1.0).log_prob(x[:, t]).sum(-1)
    found = run(loss, path, x=x, first=first).value
    torch.testing.assert_close(found, expected)
    weights = [*step.parameters(), *decode.parameters()]
    for got, right in zip(*(torch.autograd.grad(v.sum(), weights) for v in (found, expected)), strict=True):
        torch.testing.assert_close(got, right)


@PATHS
@pytest.mark.parametrize("cut", [1, 3])
def test_chunks_go_on_counting(cut, path):
    core = Deterministic("z_t = f(z_{t-1},t)", lambda z, t: z + t[..., None], shape=X)
    loss = Sum("t", E(core, log(Normal("p(x_t|z_t)", lambda z: z, shape=X, scale=9.0))), reset="first")
    data = {"x": torch.randn(B, T, X), "first": flags()}
    whole = run(loss, path, **data)
    head = run(loss, path, **{k: v[:, :cut] for k, v in data.items()})
    tail = run(loss, path, **{k: v[:, cut:] for k, v in data.items()}, start=head.last)
    torch.testing.assert_close(head.value + tail.value, whole.value)
    torch.testing.assert_close(tail.last, whole.last)
    with refused("t        | number of the step | missing", error=MissingInputError):
        run(loss, path, **{k: v[:, cut:] for k, v in data.items()}, start={"z": head.last["z"]})


@PATHS
def test_the_number_beside_samples_and_one_row(path):
    x, noise = torch.randn(1, T, X), {"z": torch.randn(5, 1, T, X)}
    q = Normal("q(z_t|x_t)", lambda x: x, shape=X, scale=1.0)
    p = Normal("p(x_t|z_t,t)", lambda z, t: z * t[..., None], shape=X, scale=1.0)
    found = run(Sum("t", E(q, log(p), samples=5)), path, x=x, noise=noise).value
    place = torch.arange(1.0, T + 1)[:, None]
    expected = Gauss((x + noise["z"]) * place, 1.0).log_prob(x).sum((-1, -2)).mean(0)
    torch.testing.assert_close(found, expected)


@PATHS
def test_the_number_of_an_iteration_is_a_discount_too(path):
    x = torch.randn(B, 3, X)
    loss = Sum("l", Symbol("gamma") ** Value("l") * log(Normal("p(x_l)", shape=X)), steps=3)
    each = Gauss(0.0, 1.0).log_prob(x).sum(-1)
    found = run(loss, path, x=x, gamma=0.5).value
    torch.testing.assert_close(found, (each * torch.tensor([0.5, 0.25, 0.125])).sum(1))
    nested = Sum("t", Sum("l", Value("l") * Value("t") * norm2(Value("x_t", shape=X)), steps=2))
    torch.testing.assert_close(run(nested, path, x=x).value, (3 * x.square().sum(-1) * torch.arange(1, 4)).sum(1))


def test_a_whole_formula_without_other_data_needs_a_series():
    assert text(Sum("t", Value("t") * log(Normal("p(x_t)", shape=X))).node) == "Σ_t t * log p(x_t)"


def timed_world():
    class Net(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.layers = nn.Linear(inputs, outputs)

        def forward(self, *conditions):
            return self.layers(torch.cat([c[..., None] if c.ndim == 1 else c for c in conditions], -1))

    prior = Normal("p(z_t|z_{t-1},a_{t-1},t)", Net(2 * X + 1, 2 * X), shape=X)
    q = Normal("q(z_t|z_{t-1},a_{t-1},x_t)", Net(3 * X, 2 * X), shape=X)
    decode = Normal("p(x_t|z_t,t)", Net(X + 1, X), shape=X, scale=1.0)
    loss = Sum("t", E(q, KL(q, prior) - log(decode)), reset="first").mean()
    return World(prior=prior, posterior=q, heads=[decode], loss=loss), prior, decode


def test_the_state_of_a_world_holds_the_number():
    world, prior, decode = timed_world()
    batch = {"x": torch.randn(B, T, X), "a": torch.randn(B, T, X), "first": flags()}
    check_world(world, batch)
    states = world.filter(batch)
    torch.testing.assert_close(states["t"], numbers(batch["first"]))
    torch.testing.assert_close(world.initial(B)["t"], torch.zeros(B))
    begin, actions = states.last(), torch.randn(B, 3, X)
    dream = world.imagine(begin, actions=actions, deterministic=True)
    z, t = begin["z"], begin["t"]
    for k in range(3):
        z, t = prior.net(z, actions[:, k], t + 1).chunk(2, -1)[0], t + 1
        torch.testing.assert_close((dream["z"][:, k + 1], dream["t"][:, k + 1]), (z, t))
    torch.testing.assert_close(world.decode(dream)["x"][:, -1], decode.net(z, t))


# ------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "build",
    [
        lambda p: Value("t") * Sum("t", log(p)),
        lambda p: Sum("t", Value("t") * log(p)) + Value("t"),
        lambda p: Sum("t", Symbol("t") * log(p)),
        lambda p: Sum("t", log(p)) + log(Normal("p(y|t)", nn.Linear(1, 2), shape=1)),
    ],
)
def test_what_is_given_cannot_be_called_like_the_index(build):
    with pytest.raises(FormulaError) as caught:
        _ = build(Normal("p(x_t)", shape=X)).code
    assert str(caught.value).startswith(
        "inside the Sum over t the variable t is the number of the step, and elsewhere it would be given to the call\n"
        "rename what is given"
    )


def test_nothing_can_be_drawn_under_the_name_of_the_index():
    with refused("declares t, which is the number of the step\ncall the variable otherwise"):
        Sum("t", E(Normal("q(t)", shape=1), log(Normal("p(x_t|t)", nn.Linear(1, 2 * X), shape=X))))
    with refused("declares l, which is the number of the iteration\ncall the variable otherwise"):
        _ = Sum("l", E(Normal("q(l)", shape=1), log(Normal("p(x|l)", nn.Linear(1, 4), shape=2))), steps=2).code


def test_an_exponent_is_made_of_numbers():
    with pytest.raises(FormulaError) as caught:
        _ = 2 ** log(Normal("p(x)", shape=X))
    assert str(caught.value).startswith(
        "expected an exponent of numbers, symbols and the index, such as Value('t') - 1, got log p(x)\n"
        "write exp(... * log(...)) for other powers"
    )
