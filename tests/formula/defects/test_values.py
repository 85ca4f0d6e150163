"""Values that a reader of the formula would compute by hand: unlike families, two variables of a letter, weights."""

import math

import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.nn.functional import softplus

from tests.formula.defects.both import PATHS, refused, run
from worldformula import KL, Bernoulli, Beta, E, Laplace, Normal, PoE, Sum, Uniform, Value, log, total
from worldformula.errors import WorldformulaError

X = torch.tensor([[0.3, -1.2, 0.5], [2.0, 0.1, -0.7], [-0.4, 0.9, 1.1], [0.0, 0.0, 0.0], [1.5, -2.0, 0.2]])


def normal_laplace(loc, scale):
    """KL(N(loc, scale²) ‖ Laplace(0, 1)) by quadrature, element by element."""
    q, p = stats.norm(loc, scale), stats.laplace()
    ends = loc - 12 * scale, loc + 12 * scale
    return integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), *ends, points=[0.0, loc])[0]


def laplace_by_quadrature(head):
    """The same for a head [..., 2·D] of D Normals, summed over the event."""
    loc, scale = head.detach().double().chunk(2, -1)
    rows = zip(loc.flatten(), softplus(scale).flatten(), strict=True)
    return torch.tensor([normal_laplace(*map(float, row)) for row in rows]).reshape(loc.shape).sum(-1).float()


# ------------------------------------------------------------------------------ constants 0 and 1 of another family


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return nn.Linear(3, 4)


@PATHS
@pytest.mark.parametrize("prior", [{}, {"loc": 0.0, "scale": 1.0}, {"loc": 0, "scale": 1}])
def test_a_normal_against_a_standard_laplace(encoder, prior, path):
    loss = KL(Normal("q(z|x)", encoder, shape=2), Laplace("p(z)", shape=2, **prior))
    torch.testing.assert_close(run(loss, path, x=X).value, laplace_by_quadrature(encoder(X)), atol=1e-4, rtol=1e-4)


@PATHS
def test_a_normal_against_a_standard_laplace_at_every_step(encoder, path):
    loss = Sum("t", KL(Normal("q(z_t|x_t)", encoder, shape=2), Laplace("p(z_t)", shape=2)))
    series = torch.stack((X, 2 * X, -X), 1)
    expected = laplace_by_quadrature(encoder(series)).sum(1)
    torch.testing.assert_close(run(loss, path, x=series).value, expected, atol=1e-4, rtol=1e-4)


@PATHS
def test_the_gradient_against_a_standard_laplace_is_that_of_a_difference(encoder, path):
    encoder.double()
    loss, x = KL(Normal("q(z|x)", encoder, shape=2), Laplace("p(z)", shape=2)).sum(), X.double()
    (found,) = torch.autograd.grad(run(loss, path, x=x).value, [encoder.bias])
    loc, raw = encoder(x).detach().chunk(2, -1)
    h, expected = 1e-4, torch.zeros(4).double()
    for i in range(2):
        for place, left, right in ((i, (h, 0), (-h, 0)), (2 + i, (0, h), (0, -h))):
            for row in range(len(x)):
                up, down = (
                    normal_laplace(float(loc[row, i] + a), float(softplus(raw[row, i] + b))) for a, b in (left, right)
                )
                expected[place] += (up - down) / (2 * h)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@PATHS
def test_constants_other_than_0_and_1_and_products_of_experts_were_right(encoder, path):
    q = Normal("q(z|x)", encoder, shape=2)
    moved = KL(q, Laplace("p(z)", shape=2, loc=0.0, scale=2.0))
    loc, scale = q.params(X)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(loc, scale), torch.distributions.Laplace(torch.zeros(2), 2 * torch.ones(2))
    ).sum(-1)
    torch.testing.assert_close(run(moved, path, x=X).value, expected)
    both = PoE([Normal("p(z)", shape=2), q])
    precision = 1 + scale**-2
    head = torch.cat((loc * scale**-2 / precision, torch.expm1(precision**-0.5).log()), -1)  # softplus⁻¹ of the scale
    expected = laplace_by_quadrature(head)
    torch.testing.assert_close(run(KL(both, Laplace("p(z)", shape=2)), path, x=X).value, expected, atol=1e-4, rtol=1e-4)


@PATHS
def test_a_beta_against_the_standard_uniform_is_minus_its_entropy(encoder, path):
    q = Beta("q(z|x)", encoder, shape=2)
    expected = -torch.distributions.Beta(*q.params(X)).entropy().sum(-1)
    torch.testing.assert_close(run(KL(q, Uniform("p(z)", shape=2)), path, x=X).value, expected)


# ---------------------------------------------------------------------------------- two variables with one letter


def labelled(name):
    return Normal(f"p({name}|w)", lambda w: 3 * w, shape=2, scale=2.0)


def kept_apart_or_refused(build, expected, **given):
    """Both inputs under their own names with the right value; or a message that names the two."""
    try:
        out = build()(**given)
    except WorldformulaError as error:
        said = str(error)
    else:
        torch.testing.assert_close(out.value, expected)
        return
    assert "rename" in said or "number them" in said, said


@pytest.mark.parametrize("other", ["x_u", "x_a"])
def test_two_inputs_of_one_letter_are_two_inputs(other):
    x, u, z, w = torch.randn(5, 2), torch.randn(5, 2), torch.randn(5, 2), torch.randn(5, 2)
    plain = Normal("p(x|z)", lambda z: z, shape=2, scale=1.0)
    expected = (
        torch.distributions.Normal(z, 1.0).log_prob(x) + torch.distributions.Normal(3 * w, 2.0).log_prob(u)
    ).sum(-1)
    kept_apart_or_refused(lambda: log(plain) + log(labelled(other)), expected, **{"x": x, other: u, "z": z, "w": w})
    kept_apart_or_refused(lambda: log(labelled(other)) + log(plain), expected, **{"x": x, other: u, "z": z, "w": w})


def test_one_of_the_two_read_as_a_condition_is_an_input_of_its_own():
    x, u, z = torch.randn(5, 2), torch.randn(5, 2), torch.randn(5, 2)
    first = Normal("p(x|z)", lambda z: z, shape=2, scale=1.0)
    second = Normal("p(y|x_u)", lambda u: 3 * u, shape=2, scale=2.0)
    expected = torch.distributions.Normal(z, 1.0).log_prob(x) + torch.distributions.Normal(3 * u, 2.0).log_prob(z)
    kept_apart_or_refused(lambda: log(first) + log(second), expected.sum(-1), x=x, x_u=u, y=z, z=z)


def test_experts_of_a_labelled_and_a_plain_input_read_each_its_own():
    prior = Normal("p(z)", shape=2)
    first = Normal("q(z|x)", lambda x: x, shape=2, scale=1.0)
    second = Normal("q(z|x_u)", lambda u: u, shape=2, scale=1.0)
    x, u = torch.randn(5, 2), torch.randn(5, 2)
    # Three unit precisions: N((x + u)/3, 1/3), and KL to N(0, 1) by hand.
    expected = 0.5 * (1 / 3 + ((x + u) / 3) ** 2 - 1 + math.log(3)).sum(-1)
    kept_apart_or_refused(lambda: KL(PoE([prior, first, second]), prior), expected, x=x, x_u=u)


def test_a_plain_input_beside_a_labelled_one_under_a_sum_over_time():
    x, u, z, w = torch.randn(5, 3, 2), torch.randn(5, 2), torch.randn(5, 3, 2), torch.randn(5, 2)
    step = Normal("p(x_t|z_t)", lambda z: z, shape=2, scale=1.0)
    expected = torch.distributions.Normal(z, 1.0).log_prob(x).sum((1, 2))
    expected = expected + torch.distributions.Normal(3 * w, 2.0).log_prob(u).sum(-1)
    kept_apart_or_refused(lambda: Sum("t", log(step)) + log(labelled("x_u")), expected, x=x, x_u=u, z=z, w=w)


@PATHS
def test_a_drawn_noisy_variable_beside_the_data_of_its_letter_goes_on(path):
    """As in diffusion: x is data, x_t is drawn from it."""
    noisy = Normal("q(x_t|x)", lambda x: 0.5 * x, shape=2, scale=0.1)
    clean = Normal("p(x|x_t)", lambda x: 2 * x, shape=2, scale=1.0)
    x, noise = torch.randn(5, 2), torch.randn(5, 2)
    expected = torch.distributions.Normal(x + 0.2 * noise, 1.0).log_prob(x).sum(-1)
    loss = E(noisy, log(clean))
    (name,) = loss.noise(x=x)
    torch.testing.assert_close(run(loss, path, x=x, noise={name: noise}).value, expected)


# ------------------------------------------------------------------------------------------- weights of elements

BITS, WEIGHTS = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]]), torch.rand(3, 4)
PROBS = torch.tensor([0.1, 0.2, 0.7, 0.4])
ELEMENTS = BITS * PROBS.log() + (1 - BITS) * (1 - PROBS).log()


@pytest.fixture
def bits():
    return Bernoulli("p(y)", probs=PROBS, shape=4)


@pytest.mark.parametrize(
    "product",
    [
        lambda d: total(Value("m", shape=4) * log(d)),
        lambda d: total(log(d) * Value("m", shape=4)),
        lambda d: total(Value("m", shape=4) * (log(d) + 1.0)),
        lambda d: Value("m", shape=4) * -log(d),
        lambda d: total(Value("m", shape=4) + log(d)),
        lambda d: total(Value("m", shape=4) * KL(d, Bernoulli("r(y)", shape=4))),
        lambda d: E(d, total(Value("y", shape=4) * log(d)), gradient="exact"),
    ],
)
def test_event_values_do_not_join_what_is_summed_over_the_event(bits, product):
    given = {"m": WEIGHTS, "y": BITS}
    with refused("event"):
        loss = product(bits)
        loss(**{key: given[key] for key in loss.program.inputs})


def test_the_refusal_names_the_density_element_by_element(bits):
    with refused("log(", "event=True"):
        total(Value("m", shape=4) * log(bits))(m=WEIGHTS, y=BITS)


@PATHS
def test_the_density_element_by_element_takes_weights(bits, path):
    loss = total(Value("m", shape=4) * log(bits, event=True))
    torch.testing.assert_close(run(loss, path, m=WEIGHTS, y=BITS).value, (WEIGHTS * ELEMENTS).sum(-1))
    torch.testing.assert_close(run(total(log(bits, event=True)), path, y=BITS).value, ELEMENTS.sum(-1))


@PATHS
def test_weighted_elements_inside_sums_over_time_and_samples(path):
    decode = Normal("p(y_t|z_t)", nn.Linear(2, 3), shape=3, scale=0.5)
    draw = Normal("q(z_t|y_t)", nn.Linear(3, 4), shape=2)
    loss = Sum("t", E(draw, total(Value("m_t", shape=3) * log(decode, event=True)), samples=5))
    y, m, noise = torch.randn(3, 4, 3), torch.rand(3, 4, 3), torch.randn(5, 3, 4, 2)
    loc, scale = draw.params(y)
    drawn = decode.net(loc + scale * noise)
    expected = (m * torch.distributions.Normal(drawn, 0.5).log_prob(y)).sum(-1).mean(0).sum(-1)
    torch.testing.assert_close(run(loss, path, y=y, m=m, noise={"z": noise}).value, expected)


def test_a_matrix_event_has_a_density_for_each_entry():
    p = Laplace("p(x)", shape=(2, 3), loc=0.0, scale=1.0)
    x, m = torch.randn(5, 2, 3), torch.rand(5, 2, 3)
    loss = total(Value("m", shape=(2, 3)) * log(p, event=True))
    expected = (m * torch.distributions.Laplace(0.0, 1.0).log_prob(x)).sum((1, 2))
    torch.testing.assert_close(loss(x=x, m=m).value, expected)
