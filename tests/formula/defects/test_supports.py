"""Values that no draw could have, parameters outside their set, and pictures of whole numbers."""

import pytest
import torch
from torch import nn

from tests.formula.defects.both import PATHS, refused, run
from worldformula import (
    KL,
    Bernoulli,
    Beta,
    Categorical,
    Dirichlet,
    E,
    Gamma,
    LogNormal,
    Mixture,
    Multinomial,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    OneHot,
    PoE,
    Poisson,
    Sum,
    TwoHot,
    Uniform,
    VonMises,
    log,
)
from worldformula.errors import WorldformulaError

T = torch.tensor
HALF = torch.full((5, 2), 0.5)


def one(value):
    """[5, 2] whose last entry is the value, the others 0.5."""
    x = HALF.clone()
    x[-1, -1] = value
    return x


OUTSIDE = {
    "pixels of 255": (lambda: Bernoulli("p(x)", shape=2), one(255.0)),
    "a negative pixel": (lambda: Bernoulli("p(x)", shape=2), one(-0.1)),
    "gamma": (lambda: Gamma("p(x)", shape=2), one(-3.0)),
    "log-normal": (lambda: LogNormal("p(x)", shape=2), one(-3.0)),
    "beta": (lambda: Beta("p(x)", shape=2), one(3.0)),
    "half a count": (lambda: Poisson("p(x)", shape=2), one(2.0) + 0.5),
    "a negative count": (lambda: Poisson("p(x)", shape=2), 2 * one(-0.5)),
    "half a count, negative binomial": (lambda: NegativeBinomial("p(x)", shape=2), one(2.5)),
    "three ones": (lambda: OneHot("p(x)", shape=3), torch.ones(5, 3)),
    "no one": (lambda: OneHot("p(x)", shape=(2, 3)), torch.zeros(5, 2, 3)),
    "too many counts": (lambda: Multinomial("p(x)", total_count=5, shape=3), torch.full((5, 3), 9.0)),
    "class 99 of 3": (lambda: Categorical("p(x)", shape=2, classes=3), T([[0, 99]]).expand(5, 2)),
    "class -1": (lambda: Categorical("p(x)", shape=(), classes=3), T([0, -1, 2, 1, 1])),
    "class 1.5": (lambda: Categorical("p(x)", shape=(), classes=3), T([0.0, 1.5, 2.0, 1.0, 1.0])),
    "not a simplex": (lambda: Dirichlet("p(x)", shape=3), torch.full((5, 3), 0.5)),
    "nan": (lambda: Normal("p(x)", shape=2), one(float("nan"))),
    "nan as bins": (lambda: TwoHot("p(x)", nn.Parameter(torch.zeros(11)), bins=11), T([0.0, float("nan")])),
}


@PATHS
@pytest.mark.parametrize("case", OUTSIDE)
def test_a_value_outside_the_support_is_refused(case, path):
    build, x = OUTSIDE[case]
    with refused("x"):
        run(log(build()), path, x=x)


@PATHS
def test_unscaled_images_are_told_from_others(path):
    with refused("x", "255"):
        run(log(Bernoulli("p(x)", shape=(3, 4, 4))), path, x=torch.rand(2, 3, 4, 4) * 255)


@PATHS
@pytest.mark.parametrize(
    "build",
    [
        lambda p, q: (KL(q, Normal("p(z)", shape=2)) - E(q, log(p))).mean(),
        lambda p, q: E(q, log(p), samples=3).mean(),
    ],
)
def test_and_inside_an_elbo(build, path):
    p, q = Bernoulli("p(x|z)", nn.Linear(2, 4), shape=4), Normal("q(z|x)", nn.Linear(4, 4), shape=2)
    with refused("x"):
        run(build(p, q), path, x=torch.rand(5, 4) * 255)


@PATHS
def test_and_at_every_step_of_a_series(path):
    p = Gamma("p(x_t|y_t)", nn.Linear(2, 4), shape=2)
    x = torch.rand(3, 4, 2)
    x[1, 2, 0] = -1.0
    with refused("x"):
        run(Sum("t", log(p)), path, x=x, y=torch.randn(3, 4, 2))


@PATHS
def test_and_in_a_program_for_absent_rows(path):
    prior = Normal("p(z)", shape=2)
    q, p = Normal("q(z|x)", nn.Linear(4, 4), shape=2), Bernoulli("p(x|z)", nn.Linear(2, 4), shape=4)
    loss = E(PoE([prior, q]), log(p)).mean()
    has = torch.tensor([True, True, False])
    good = torch.rand(3, 4)
    assert run(loss, path, x=good, present={"x": has}).value.isfinite()
    bad = good.clone()
    bad[0] = 200.0
    with refused("x"):
        run(E(PoE([prior, q]), log(p)).mean(), path, x=bad, present={"x": has})


@PATHS
@pytest.mark.parametrize("padding", [float("nan"), 300.0, -5.0])
def test_what_does_not_count_is_not_checked(padding, path):
    prior = Normal("p(z)", shape=2)
    q, p = Normal("q(z|x)", nn.Linear(4, 4), shape=2), Bernoulli("p(x|z)", nn.Linear(2, 4), shape=4)
    x = torch.rand(3, 4)
    x[2] = padding
    loss = E(PoE([prior, q]), log(p)).mean()
    assert run(loss, path, x=x, present={"x": T([True, True, False])}).value.isfinite()
    series, mask = torch.rand(3, 4, 2), torch.ones(3, 4)
    mask[:, -1], series[:, -1] = 0, padding
    step = Bernoulli("p(x_t|y_t)", nn.Linear(2, 2), shape=2)
    assert run(Sum("t", log(step), mask="m"), path, x=series, y=torch.randn(3, 4, 2), m=mask).value.isfinite().all()


SIMPLEX = T([0.2, 0.5, 0.3])
INSIDE = {
    "grey": (lambda: Bernoulli("p(x)", shape=2), one(1.0), lambda x: torch.full((5,), -2 * T(2.0).log().item())),
    "counts": (
        lambda: Poisson("p(x)", shape=2, rate=2.0), 2 * one(0.0), lambda x: torch.distributions.Poisson(2.0).log_prob(x)
    ),
    "uniform outside": (lambda: Uniform("p(x)", shape=2), one(7.0), lambda x: torch.where(x > 1, -torch.inf, 0.0)),
    "angles beyond a turn": (
        lambda: VonMises("p(x)", shape=2, loc=0.3, concentration=2.0), one(20.0),
        lambda x: torch.distributions.VonMises(0.3, 2.0).log_prob(x),
    ),
    "simplex": (
        lambda: Dirichlet("p(x)", shape=3, concentration=T([1.0, 2.0, 3.0])), SIMPLEX.expand(5, 3),
        lambda x: torch.distributions.Dirichlet(T([1.0, 2.0, 3.0])).log_prob(x)[:, None],
    ),
    "classes": (
        lambda: Categorical("p(x)", shape=2, classes=3), T([[0, 2]]).expand(5, 2), lambda x: -T(3.0).log().expand(5, 2)
    ),
}  # fmt: skip


@PATHS
@pytest.mark.parametrize("case", INSIDE)
def test_what_a_density_may_be_asked_stays(case, path):
    """Bounds of the support, grey pixels, and a uniform's zero density, which is a number: -inf."""
    build, x, expected = INSIDE[case]
    wanted = expected(x)
    torch.testing.assert_close(
        run(log(build()), path, x=x).value, wanted.sum(-1) if wanted.ndim == 2 else wanted, atol=1e-5, rtol=1e-5
    )


# -------------------------------------------------------------------------------------------------- parameters

PARAMETERS = {
    "probs": (lambda: Bernoulli("p(x)", shape=2, probs=T([0.5, 1.1])), HALF),
    "negative probs": (lambda: Bernoulli("p(x)", shape=2, probs=T([0.5, -0.1])), HALF),
    "probs of classes": (lambda: OneHot("p(x)", shape=3, probs=T([0.5, 0.8, -0.3])), torch.eye(3)),
    "low > high": (lambda: Uniform("p(x)", shape=2, low=T([0.0, 2.0]), high=T([1.0, 1.0])), HALF),
    "low > high, numbers": (lambda: Uniform("p(x)", shape=2, low=2.0, high=1.0), HALF),
    "upper triangle": (
        lambda: MultivariateNormal("p(x)", shape=2, loc=torch.zeros(2), scale_tril=T([[1.0, 0.7], [0.0, 1.0]])), HALF
    ),
    "negative diagonal": (
        lambda: MultivariateNormal("p(x)", shape=2, loc=torch.zeros(2), scale_tril=T([[1.0, 0.0], [0.2, -1.0]])), HALF
    ),
    "nan scale": (lambda: Normal("p(x)", shape=2, loc=0.0, scale=T([1.0, float("nan")])), HALF),
    "nan loc": (lambda: Normal("p(x)", shape=2, loc=T([1.0, float("nan")]), scale=1.0), HALF),
    "weights": (
        lambda: Mixture("p(x)", components=2, shape=2, weights=T([1.5, -0.5]), loc=torch.zeros(2, 2), scale=1.0), HALF
    ),
    "a scale from a network": (
        lambda: Normal("p(x|y)", lambda y: {"loc": y, "scale": y}, shape=2), HALF, {"y": -torch.ones(5, 2)}
    ),
    "probs from a network": (
        lambda: Bernoulli("p(x|y)", lambda y: {"probs": y}, shape=2), HALF, {"y": 1.5 * torch.ones(5, 2)}
    ),
}  # fmt: skip


@PATHS
@pytest.mark.parametrize("case", PARAMETERS)
def test_a_parameter_outside_its_set_is_refused(case, path):
    build, x, *given = PARAMETERS[case]
    with refused():
        run(log(build()), path, x=x, **(given[0] if given else {}))


# ------------------------------------------------------------------------------------------ targets of whole numbers


@PATHS
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.uint8])
@pytest.mark.parametrize("samples", [None, 3])
def test_bits_of_any_type_of_number_score_as_bits(dtype, samples, path):
    torch.manual_seed(0)
    decode, z = Bernoulli("p(x|z)", nn.Linear(2, 4), shape=4), torch.randn(5, 2)
    bits = torch.randint(0, 2, (5, 4))
    expected = torch.distributions.Bernoulli(logits=decode.net(z)).log_prob(bits.float()).sum(-1)
    found = run(log(decode), path, x=bits.to(dtype), z=z).value
    torch.testing.assert_close(found, expected.to(found.dtype))
    if samples:
        draw = Normal("q(z|y)", nn.Linear(3, 4), shape=2)
        y, noise = torch.randn(5, 3), torch.randn(samples, 5, 2)
        loc, scale = draw.params(y)
        logits = decode.net(loc + scale * noise)
        expected = torch.distributions.Bernoulli(logits=logits).log_prob(bits.float()).sum(-1).mean(0)
        found = run(E(draw, log(decode), samples=samples), path, x=bits.to(dtype), y=y, noise={"z": noise}).value
        torch.testing.assert_close(found, expected.to(found.dtype))


@PATHS
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_bits_through_time_and_with_absent_rows(dtype, path):
    torch.manual_seed(0)
    decode, z = Bernoulli("p(x_t|z_t)", nn.Linear(2, 4), shape=4), torch.randn(5, 3, 2)
    bits = torch.randint(0, 2, (5, 3, 4))
    each = torch.distributions.Bernoulli(logits=decode.net(z)).log_prob(bits.float()).sum(-1)
    torch.testing.assert_close(run(Sum("t", log(decode)), path, x=bits.to(dtype), z=z).value, each.sum(1))
    has = torch.rand(5, 3) < 0.5
    found = run(Sum("t", log(decode)), path, x=bits.to(dtype), z=z, present={"x": has}).value
    torch.testing.assert_close(found, torch.where(has, each, 0.0).sum(1))


@PATHS
@pytest.mark.parametrize("likelihood", ["bernoulli", "normal"])
def test_whole_number_pictures_are_refused_or_divided_for_all_their_readers(likelihood, path):
    torch.manual_seed(0)

    class Encoder(nn.Module):
        """As the encoders of this library: whole numbers are pictures of 0…255."""

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 4)

        def forward(self, x):
            x = x.float() / 255 if x.dtype == torch.uint8 else x
            return self.layer(x.flatten(1))

    q = Normal("q(z|x)", Encoder(), shape=2)
    net = nn.Sequential(nn.Linear(2, 16), nn.Unflatten(-1, (4, 4)))
    p = (
        Bernoulli("p(x|z)", net, shape=(4, 4))
        if likelihood == "bernoulli"
        else Normal("p(x|z)", net, shape=(4, 4), scale=1.0)
    )
    loss = (KL(q, Normal("p(z)", shape=2)) - E(q, log(p))).mean()
    x, noise = torch.randint(0, 256, (3, 4, 4), dtype=torch.uint8), {"z": torch.randn(3, 2)}
    expected = run(loss, path, x=x.float() / 255, noise=noise).value
    try:
        found = run(loss, path, x=x, noise=noise).value
    except WorldformulaError as error:
        if "x" not in str(error):
            raise
        if not ("255" in str(error) or "uint8" in str(error)):
            raise
    else:
        torch.testing.assert_close(found, expected)


@PATHS
def test_no_bin_of_a_nan_is_an_index_out_of_range(path):
    factor = TwoHot("p(r|z)", nn.Linear(2, 11), bins=11)
    with refused("r"):
        run(log(factor), path, r=T([0.0, float("nan"), 1.0]), z=torch.randn(3, 2))
