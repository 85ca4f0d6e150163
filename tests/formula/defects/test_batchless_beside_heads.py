"""A parameter without batch axes beside a head with them: samples, time, experts, estimators."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Gumbel, kl_divergence
from torch.distributions import Normal as Gauss

from tests.formula.defects.both import PATHS, refused, run
from worldformula import (
    KL,
    Bernoulli,
    Deterministic,
    E,
    Flow,
    Mixture,
    MoE,
    MultivariateNormal,
    Normal,
    PoE,
    Sum,
    Wrapped,
    log,
    ratio,
)

B, T, K, X, Z = 5, 4, 3, 3, 2
SCALE = [0.5, 1.5]
STANDARD = Gauss(torch.zeros(Z), torch.ones(Z))


class Fixed(nn.Module):
    """A network that returns its parameters by name, the scale the same for every row."""

    def __init__(self):
        super().__init__()
        self.layer, self.s = nn.Linear(X, Z), nn.Parameter(torch.tensor(SCALE).log())

    def forward(self, x, *others):
        return {"loc": self.layer(x) + sum(others), "scale": self.s.exp()}


def by_keyword(header, count):
    layer = nn.Linear(X, Z)
    return Normal(header, lambda x, *others: layer(x) + sum(others), shape=Z, scale=torch.tensor(SCALE)), layer


def by_network(header, count):
    net = Fixed()
    return Normal(header, net, shape=Z), net.layer


GIVEN = pytest.mark.parametrize("make", [by_keyword, by_network])


def drawn(layer, x, noise):
    return layer(x) + torch.tensor(SCALE) * noise


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@PATHS
@GIVEN
def test_k_samples_and_the_density_of_the_draw_itself(make, path):
    q, layer = make("q(z|x)", 1)
    x, noise = torch.randn(B, X), torch.randn(K, B, Z)
    z = drawn(layer, x, noise)
    expected = STANDARD.log_prob(z).sum(-1) - Gauss(layer(x), torch.tensor(SCALE)).log_prob(z).sum(-1)
    loss = E(q, log(Normal("p(z)", shape=Z)) - log(q), samples=K)
    torch.testing.assert_close(run(loss, path, x=x, noise={"z": noise}).value, expected.mean(0))
    estimate = KL(q, Normal("p(z)", shape=Z), samples=K)
    torch.testing.assert_close(run(estimate, path, x=x, noise={"z": noise}).value, -expected.mean(0))


@PATHS
@GIVEN
@pytest.mark.parametrize("rows", [1, K, Z])
def test_batches_as_large_as_the_samples_or_the_event(make, path, rows):
    q, layer = make("q(z|x)", 1)
    x, noise = torch.randn(rows, X), torch.randn(K, rows, Z)
    z = drawn(layer, x, noise)
    expected = Gauss(layer(x), torch.tensor(SCALE)).log_prob(z).sum(-1).mean(0)
    torch.testing.assert_close(run(E(q, log(q), samples=K), path, x=x, noise={"z": noise}).value, expected)


@PATHS
@GIVEN
def test_doubly_reparametrised_gradients(make, path):
    q, layer = make("q(z|x)", 1)
    prior, decode = Normal("p(z)", shape=Z), Normal("p(y|z)", lambda z: z, shape=Z, scale=2.0)
    loss = log(E(q, ratio(decode * prior, q), samples=K, gradient="dreg"))
    x, y, noise = torch.randn(B, X), torch.randn(B, Z), torch.randn(K, B, Z)
    z = drawn(layer, x, noise)
    weights = Gauss(z, 2.0).log_prob(y).sum(-1) + STANDARD.log_prob(z).sum(-1)
    weights = weights - Gauss(layer(x), torch.tensor(SCALE)).log_prob(z).sum(-1)
    expected = weights.logsumexp(0) - torch.tensor(float(K)).log()
    torch.testing.assert_close(run(loss, path, x=x, y=y, noise={"z": noise}).value, expected)


@PATHS
@GIVEN
def test_a_draw_in_a_loop_over_time(make, path):
    q, layer = make("q(z_t|x_t,z_{t-1})", 2)
    x, noise = torch.randn(B, T, X), torch.randn(B, T, Z)
    z, expected = torch.zeros(B, Z), 0.0
    for t in range(T):
        here = Gauss(layer(x[:, t]) + z, torch.tensor(SCALE).expand(B, Z))
        expected = expected + kl_divergence(here, STANDARD).sum(-1)
        z = here.mean + here.stddev * noise[:, t]
    loss = Sum("t", E(q, KL(q, Normal("p(z_t)", shape=Z))))
    torch.testing.assert_close(run(loss, path, x=x, noise={"z": noise}).value, expected)


@PATHS
@GIVEN
def test_a_density_behind_the_loop_of_a_draw_inside_it(make, path):
    q, layer = make("q(z_t|x_t,h_{t-1})", 2)
    core = Deterministic("h_t = f(h_{t-1},z_t)", lambda h, z: 0.5 * h + z, shape=Z)
    x, noise = torch.randn(B, T, X), torch.randn(B, T, Z)
    h, expected = torch.zeros(B, Z), 0.0
    for t in range(T):
        here = Gauss(layer(x[:, t]) + h, torch.tensor(SCALE).expand(B, Z))
        z = here.mean + here.stddev * noise[:, t]
        expected, h = expected + here.log_prob(z).sum(-1), 0.5 * h + z
    loss = Sum("t", E(q * core, log(q)), reset="first")
    first = torch.zeros(B, T)
    found = run(loss, path, x=x, first=first, noise={"z": noise}).value
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        run(loss, path, x=x, first=first, deterministic=True).value,
        Gauss(0.0, torch.tensor(SCALE)).log_prob(torch.zeros(Z)).sum().expand(B) * T,
    )


@PATHS
@GIVEN
def test_a_product_and_a_mixture_of_experts_with_samples(make, path):
    q, layer = make("q(z|x)", 1)
    other = Normal("q(z|y)", nn.Linear(X, 2 * Z), shape=Z)
    x, y, noise = torch.randn(B, X), torch.randn(B, X), torch.randn(K, B, Z)
    loc, scale = other.params(y)
    first, second, prior = torch.tensor(SCALE) ** -2, scale**-2, 1.0
    precision = first + second + prior
    both = Gauss((layer(x) * first + loc * second) / precision, precision**-0.5)
    product = PoE([Normal("p(z)", shape=Z), q, other])
    z = both.mean + both.stddev * noise
    loss = E(product, log(product), samples=K)
    found = run(loss, path, x=x, y=y, noise={"z": noise}).value
    torch.testing.assert_close(found, both.log_prob(z).sum(-1).mean(0))
    mixture, value = MoE([q, other]), torch.randn(B, Z)
    each = torch.stack([Gauss(layer(x), torch.tensor(SCALE)).log_prob(value), Gauss(loc, scale).log_prob(value)])
    expected = each.sum(-1).logsumexp(0) - torch.tensor(2.0).log()
    torch.testing.assert_close(run(log(mixture), path, x=x, y=y, z=value).value, expected)


@PATHS
@GIVEN
def test_a_row_without_its_data_in_a_product(make, path):
    q, layer = make("q(z|x)", 1)
    has = torch.tensor([True, False, True, True, False])
    x = torch.randn(B, X)
    precision = 1 + torch.where(has[:, None], torch.tensor(SCALE) ** -2, 0.0)
    mean = torch.where(has[:, None], layer(x) * torch.tensor(SCALE) ** -2, 0.0) / precision
    expected = kl_divergence(Gauss(mean, precision**-0.5), STANDARD).sum(-1)
    prior = Normal("p(z)", shape=Z)
    found = run(KL(PoE([prior, q]), prior), path, x=x, present={"x": has}).value
    torch.testing.assert_close(found, expected)


@PATHS
@GIVEN
def test_a_decoder_of_every_value_of_a_code(make, path):
    """Enumeration puts an axis of four codes in front of the batch."""
    p, layer = make("p(y|b)", 1)
    code = Bernoulli("q(b|w)", nn.Linear(1, 2), shape=2)
    lifted = Deterministic("c = f(b)", lambda b: torch.cat((b, b[..., :1]), -1), shape=X)
    p = p.rename(b="c")
    loss = E(code, E(lifted, log(p)), gradient="exact")
    w, y = torch.randn(B, 1), torch.randn(B, Z)
    probs, expected = code.net(w).sigmoid(), 0.0
    for bits in ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)):
        b = torch.tensor(bits)
        weight = torch.where(b == 1, probs, 1 - probs).prod(-1)
        loc = layer(torch.cat((b, b[:1])))
        expected = expected + weight * Gauss(loc, torch.tensor(SCALE)).log_prob(y).sum(-1)
    torch.testing.assert_close(run(loss, path, w=w, y=y).value, expected)


class Named(nn.Module):
    """Parameters by name, of which those that ``free`` holds have no batch axes, whatever the sizes are."""

    def __init__(self, inputs, outputs, name, free):
        super().__init__()
        self.layer, self.name, self.free = nn.Linear(inputs, outputs), name, nn.ParameterDict(free)

    def forward(self, z):
        return {self.name: self.layer(z), **self.free}


@PATHS
@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("samples", [1, 2])
def test_a_location_without_batch_axes_that_is_as_wide_as_the_samples_are_many(path, batch, samples):
    """K·B = 2 is also the width of the event: sizes cannot tell what an axis is."""
    loc = torch.tensor([1.0, -2.0])
    head = Named(Z, 2, "raw", {})
    net = nn.Linear(X, 2 * Z)
    p = Normal("p(y|z)", lambda z: {"loc": loc, "scale": head(z)["raw"].exp()}, shape=2)
    x, y, noise = torch.randn(batch, X), torch.randn(batch, 2), torch.randn(samples, batch, Z)
    value = run(E(Normal("q(z|x)", net, shape=Z), log(p), samples=samples), path, x=x, y=y, noise={"z": noise}).value
    mean, raw = net(x).chunk(2, -1)
    z = mean + nn.functional.softplus(raw) * noise
    expected = Gauss(loc, head.layer(z).exp()).log_prob(y).sum(-1).mean(0)
    torch.testing.assert_close(value, expected)


@PATHS
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_covariance_without_batch_axes_beside_a_location_with_them(path, batch):
    """A factor of the covariance [2, 2] looks as a location [K·B, 2] does."""
    net, head = nn.Linear(X, 2 * Z), Named(Z, 2, "loc", {"scale_tril": torch.tensor([[1.0, 0.0], [0.5, 2.0]])})
    p = MultivariateNormal("p(y|z)", head, shape=2)
    x, y, noise = torch.randn(batch, X), torch.randn(batch, 2), torch.randn(2, batch, Z)
    value = run(E(Normal("q(z|x)", net, shape=Z), log(p), samples=2), path, x=x, y=y, noise={"z": noise}).value
    mean, raw = net(x).chunk(2, -1)
    z = mean + nn.functional.softplus(raw) * noise
    right = torch.distributions.MultivariateNormal(head.layer(z), scale_tril=head.free["scale_tril"])
    torch.testing.assert_close(value, right.log_prob(y).mean(0))


@PATHS
def test_a_mixture_whose_weights_have_no_batch_axes_beside_its_locations(path):
    net = nn.Linear(X, 2 * Z)
    head, shares, scale = nn.Linear(Z, 4), torch.tensor([0.25, 0.75]), torch.tensor([[1.0, 1.0], [0.5, 2.0]])

    def decode(z):
        return {"weights": shares, "loc": head(z).unflatten(-1, (2, 2)), "scale": scale}

    p = Mixture("p(y|z)", decode, components=2, component=Normal, shape=2)
    x, y, noise = torch.randn(2, X), torch.randn(2, 2), torch.randn(2, 2, Z)
    value = run(E(Normal("q(z|x)", net, shape=Z), log(p), samples=2), path, x=x, y=y, noise={"z": noise}).value
    mean, raw = net(x).chunk(2, -1)
    z = mean + nn.functional.softplus(raw) * noise
    each = Gauss(head(z).unflatten(-1, (2, 2)), scale).log_prob(y.unsqueeze(-2)).sum(-1)
    torch.testing.assert_close(value, (shares.log() + each).logsumexp(-1).mean(0))


# ---------------------------------------------------------------------- distributions of torch, flows, batch statistics

SIZES = pytest.mark.parametrize(("samples", "batch", "steps"), [(1, 1, 2), (2, 1, 2), (2, 2, 2), (2, 3, 2), (3, 2, 1)])
LOC, WIDE = torch.tensor([1.0, -1.0]), torch.tensor([0.5, 1.5])


def over_time(p, density, path, samples, batch, steps):
    """E over one draw of w for all steps of Σ_t log p(y_t|w), and its value by hand."""
    net = nn.Linear(X, 2 * Z)
    x, y, noise = torch.randn(batch, X), torch.randn(batch, steps, 2), torch.randn(samples, batch, Z)
    loss = E(Normal("q(w|x)", net, shape=Z), Sum("t", log(p)), samples=samples)
    mean, raw = net(x).chunk(2, -1)
    w = mean + nn.functional.softplus(raw) * noise
    expected = sum(density(w, y[:, t]) for t in range(steps)).mean(0)
    torch.testing.assert_close(run(loss, path, x=x, y=y, noise={"w": noise}).value, expected)


@PATHS
@SIZES
@pytest.mark.parametrize("kind", ["by name", "an object"])
def test_a_distribution_of_torch_that_all_steps_of_all_samples_share(kind, path, samples, batch, steps):
    head = nn.Linear(Z, 2)

    def decode(w):
        return {"loc": LOC, "scale": head(w).exp()} if kind == "by name" else Gumbel(LOC, head(w).exp())

    p = Wrapped("p(y_t|w)", decode, of=Gumbel if kind == "by name" else None, shape=2)
    over_time(p, lambda w, y: Gumbel(LOC, head(w).exp()).log_prob(y).sum(-1), path, samples, batch, steps)


class Stretch(nn.Module):
    """An invertible network: u = 2x + c."""

    def forward(self, x, context):
        return 2 * x + context, torch.full(x.shape[:-1], 2 * math.log(2.0))

    def inverse(self, u, context):
        return (u - context) / 2


@PATHS
@SIZES
def test_a_flow_whose_base_has_no_batch_axes(path, samples, batch, steps):
    p = Flow("p(y_t|w)", Stretch(), shape=2, base=Normal("p(u)", shape=2, loc=LOC, scale=WIDE))

    def density(w, y):
        return Gauss(LOC, WIDE).log_prob(2 * y + w).sum(-1) + 2 * math.log(2.0)

    over_time(p, density, path, samples, batch, steps)


class OfTheBatch(nn.Module):
    """Parameters that depend on the whole batch, one of them the same for all its rows; a loop keeps such a network."""

    batch_dependent = True

    def __init__(self, kind):
        super().__init__()
        self.layer, self.kind = nn.Linear(Z, 2), kind

    def forward(self, h):
        loc, scale = self.layer(h), h.square().mean(0) + 0.1
        if self.kind == "a distribution":
            return Gauss(loc, scale)
        return {"loc": loc, "scale": scale} if self.kind == "both" else {"loc": loc, "scale": scale.mean()}


@PATHS
@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 2)])
@pytest.mark.parametrize("kind", ["both", "one number", "a distribution"])
def test_a_network_of_the_batch_gives_its_parameters_by_name_step_by_step(kind, path, batch, steps):
    net = OfTheBatch(kind)
    core = Deterministic("h_t = f(h_{t-1},x_t)", lambda h, x: torch.tanh(h + x), shape=Z)
    p = (Wrapped if kind == "a distribution" else Normal)("p(y_t|h_t)", net, shape=2)
    x, y = torch.randn(batch, steps, Z), torch.randn(batch, steps, 2)
    h, expected = torch.zeros(batch, Z), 0.0
    for t in range(steps):
        h = torch.tanh(h + x[:, t])
        scale = h.square().mean(0) + 0.1
        scale = scale.mean() if kind == "one number" else scale
        expected = expected + Gauss(net.layer(h), scale).log_prob(y[:, t]).sum(-1)
    torch.testing.assert_close(run(Sum("t", E(core, log(p))), path, x=x, y=y).value, expected)


@PATHS
@pytest.mark.parametrize(("samples", "batch", "steps"), [(1, 2, 2), (2, 1, 2), (2, 2, 2), (2, 3, 2), (3, 2, 1)])
def test_a_network_of_the_batch_that_sees_several_samples_step_by_step(path, samples, batch, steps):
    """It sees K·B rows, which share a scale that differs from step to step. A single draw has no axis of its own."""
    net, encode = OfTheBatch("both"), nn.Linear(Z, 2 * Z)
    core = Deterministic("h_t = f(h_{t-1},x_t)", lambda h, x: torch.tanh(h + x), shape=Z)
    q, p = Normal("q(w_t|h_t)", encode, shape=Z), Normal("p(y_t|w_t)", net, shape=2)
    x, y, noise = torch.randn(batch, steps, Z), torch.randn(batch, steps, 2), torch.randn(samples, batch, steps, Z)
    h, expected = torch.zeros(batch, Z), 0.0
    for t in range(steps):
        h = torch.tanh(h + x[:, t])
        mean, raw = encode(h).chunk(2, -1)
        w = mean + nn.functional.softplus(raw) * noise[:, :, t]
        scale = w.square().mean((0, 1)) + 0.1
        expected = expected + Gauss(net.layer(w), scale).log_prob(y[:, t]).sum(-1).mean(0)
    loss = Sum("t", E(core, E(q, log(p), samples=samples)))
    given = noise[0] if samples == 1 else noise
    torch.testing.assert_close(run(loss, path, x=x, y=y, noise={"w": given}).value, expected)


@PATHS
def test_a_network_of_the_batch_without_any_batch_axis_is_refused(path):
    class Mean(OfTheBatch):
        def forward(self, h):
            return {"loc": h.mean(0), "scale": h.square().mean(0)}

    core = Deterministic("h_t = f(h_{t-1},x_t)", lambda h, x: h + x, shape=Z)
    loss = Sum("t", E(core, log(Normal("p(y_t|h_t)", Mean("both"), shape=2))))
    with refused("batch axes"):
        run(loss, path, x=torch.randn(2, 2, Z), y=torch.randn(2, 2, 2))
