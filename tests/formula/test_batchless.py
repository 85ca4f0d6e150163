"""Values without batch axes: learned priors, means over the batch, symbols, formulas without data."""

import copy
import math

import pytest
import torch
from torch import nn

from worldformula import KL, E, Mean, Normal, OneHot, Sum, Symbol, Value, log, norm2
from worldformula.errors import SupportError, TimeError

B, Z = 3, 2


def prior(learned=True):
    loc = nn.Parameter(torch.randn(Z).double()) if learned else 0.5
    return Normal("p(z)", loc=loc, scale=1.5, shape=Z)


def posterior():
    return Normal("q(z|x)", nn.Linear(3, 2 * Z).double(), shape=Z)


def data():
    return torch.randn(B, 3).double()


@pytest.mark.parametrize("learned", [True, False])
def test_a_draw_from_a_prior_has_the_batch_of_the_call(learned):
    p, q, x = prior(learned), posterior(), data()
    out = E(p, log(q))(x=x)
    assert out.samples["z"].shape == (B, Z)
    torch.testing.assert_close(out.value, q.log_prob(z=out.samples["z"], x=x))


def test_the_batch_is_that_of_a_value():
    p, k = prior(), OneHot("p(k)", shape=4)
    assert E(p, Value("w") * norm2(Value("z")))(w=torch.ones(B).double()).samples["z"].shape == (B, Z)
    value = E(k, Value("w"), gradient="exact")(w=torch.arange(3.0))
    torch.testing.assert_close(value.value, torch.arange(3.0))


@pytest.mark.parametrize("samples", [2, B])  # B samples of B rows would broadcast without an error
@pytest.mark.parametrize("run", ["forward", "interpret"])
def test_a_kl_of_two_priors_beside_samples_is_one_number(samples, run):
    p, q, x = prior(), posterior(), data()
    closed = KL(p, Normal("r(z)", shape=Z))
    out = getattr(E(q, closed * log(p) + 0.5 * closed, samples=samples), run)(x=x, seed=0)
    kl = closed().value
    wanted = (kl * p.log_prob(z=out.samples["z"]) + 0.5 * kl).mean(0)
    torch.testing.assert_close(out.value, wanted)


@pytest.mark.parametrize("run", ["forward", "interpret"])
def test_a_mean_over_the_batch_beside_samples_is_one_number(run):
    p, q, x = prior(), posterior(), data()
    loss = E(q, log(p) * KL(q, p).mean(), samples=B)
    out = getattr(loss, run)(x=x, seed=0)
    torch.testing.assert_close(out.value, (p.log_prob(z=out.samples["z"]) * KL(q, p).mean()(x=x).value).mean(0))


@pytest.mark.parametrize("how", ["sum", "mean"])
def test_a_kl_of_two_priors_counts_at_every_step(how):
    x = torch.randn(B, 4, 3).double()
    closed, step = KL(prior(), Normal("r(z)", shape=Z)), log(Normal("p(x_t)", shape=3))
    value = Sum("t", closed + step)(x=x).value
    torch.testing.assert_close(value, 4 * closed().value + Sum("t", step)(x=x).value)
    torch.testing.assert_close(Sum("t", closed + step).interpret(x=x).value, value)


def test_a_sum_over_time_of_one_number_is_refused():
    q, step = Normal("q(z_t|x_t)", nn.Linear(3, 2 * Z), shape=Z), Symbol("beta") * KL(prior(), Normal("r(z)", shape=Z))
    with pytest.raises(TimeError, match="one number for the whole call belongs outside"):
        Sum("t", E(q, step))(x=torch.randn(B, 4, 3), beta=0.5)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("run", ["forward", "interpret"])
def test_flags_tell_how_often_a_number_counts(learned, run):
    """The KL of two priors of a step, over the steps that count: by hand, those times that many."""
    loc = nn.Parameter(torch.tensor([0.5, 0.5]).double()) if learned else 0.5
    closed = KL(Normal("q(v_t)", shape=Z, loc=loc, scale=1.5), Normal("p(v_t)", shape=Z))
    each = Z * (0.5 * (1.5**2 + 0.5**2 - 1) - math.log(1.5))
    valid = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 1]]).bool()
    end = torch.tensor([[0, 0, 1, 0], [1, 0, 0, 0]]).bool()
    for flags, steps in (
        ({"mask": "valid"}, (3, 2)),
        ({"until": "end"}, (3, 1)),
        ({"mask": "valid", "until": "end"}, (2, 1)),
    ):
        given = {name: {"valid": valid, "end": end}[name] for name in flags.values()}
        found = getattr(Sum("t", closed, **flags), run)(**given).value
        torch.testing.assert_close(found.double(), each * torch.tensor(steps).double(), rtol=1e-6, atol=1e-6)
        mean = getattr(Mean("t", closed, **flags), run)(**given).value
        torch.testing.assert_close(mean.double(), torch.full((2,), each).double(), rtol=1e-6, atol=1e-6)
    with pytest.raises(TimeError, match="nothing tells how many steps there are"):
        Sum("t", closed)()


def test_without_data_the_weights_tell_the_dtype():
    k = OneHot("p(k|z)", nn.Linear(Z, 3).double(), shape=3)
    out = E(Normal("p(z)", shape=Z), log(Normal("p_l(z)", loc=nn.Parameter(torch.ones(Z).double()), shape=Z)))()
    assert out.value.dtype == torch.float64
    assert E(Normal("p(z)", shape=Z) * k, log(k))(seed=0).value.dtype == torch.float64


def test_leave_one_out_of_what_no_sample_changes_is_the_value_itself():
    q, x = posterior(), data()
    for body in (Value("w"), KL(q, prior())):
        loss = E(q, body, "score", samples=3, baseline="leave-one-out")
        given = {"x": x, "w": torch.ones(B).double()}
        given = {key: value for key, value in given.items() if key in loss.program.inputs}
        torch.testing.assert_close(loss(**given).value, body(**{k: given[k] for k in body.program.inputs}).value)


def test_an_estimator_beside_a_reparametrised_sample_is_for_the_discrete_one():
    q, k = posterior(), OneHot("q(k|z)", nn.Linear(Z, 4).double(), shape=4)
    f, x = log(OneHot("p(k|z)", nn.Linear(Z, 4).double(), shape=4)), data()
    nested, product = E(q, E(k, f, gradient="exact")), E(q * k, f, gradient="exact")
    noise = nested.noise(x=x)
    torch.testing.assert_close(product(x=x, noise=noise).value, nested(x=x, noise=noise).value)


FLAGS = {
    "first": (Sum("t", log(Normal("p(x_t|x_{t-1})", nn.Linear(1, 2), shape=1)), reset="first"), "first", False),
    "end": (Sum("t", log(Normal("p(x_t)", shape=1)), until="end"), "end", False),
    "valid": (Sum("t", log(Normal("p(x_t)", shape=1)), mask="valid"), "valid", True),
}


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.5, 2.0, -1.0])
def test_flags_that_are_neither_set_nor_unset_are_refused(name, bad):
    """NaN counted as set, and so did a half; a mask may hold weights."""
    loss, key, soft = FLAGS[name]
    loss, flags = copy.deepcopy(loss), torch.tensor([[1.0, 0.0, bad], [1.0, 0.0, 0.0]])
    x = torch.randn(2, 3, 1)
    if soft and math.isfinite(bad):
        each = -0.5 * x[..., 0] ** 2 - 0.5 * math.log(2 * math.pi)
        torch.testing.assert_close(loss(x=x, valid=flags).value, (each * flags).sum(1))
        return
    wanted = "finite weights" if soft else "flags as booleans, or as 0 and 1"
    with pytest.raises(SupportError, match=f"{key}: expected {wanted}, got {bad:g} among them"):
        loss(x=x, **{key: flags})
    for kind in (torch.bool, torch.uint8, torch.float64):
        loss(x=x, **{key: (flags == 1).to(kind)})


def test_flags_of_presence_are_set_or_unset():
    loss = log(Normal("p(x|y)", nn.Linear(1, 2), shape=1))
    x = torch.randn(2, 1)
    with pytest.raises(
        SupportError, match=r"present of x: expected flags .*, got 2 among them\nwrite e.g. present=\{'x': flags == 1\}"
    ):
        loss(x=x, y=x, present={"x": torch.tensor([2, 0])})
