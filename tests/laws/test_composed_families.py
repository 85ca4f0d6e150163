"""Families of several numbers at once, of other families, of distribution objects: laws, references, sums to one."""

import math

import pytest
import torch
from torch import distributions as td
from torch import nn

from worldformula import (
    KL,
    E,
    LowRankNormal,
    Mixture,
    MultivariateNormal,
    Normal,
    OneHot,
    RelaxedBernoulli,
    RelaxedOneHot,
    Sum,
    Wrapped,
    log,
    sg,
)
from worldformula.errors import ConfigError, FormulaError, GradientError, HeadError, NoClosedFormError, ShapeError
from worldformula.families import (
    CategoricalFamily,
    DiscretisedLogisticFamily,
    LowRankNormalFamily,
    MixtureFamily,
    MultivariateNormalFamily,
    RelaxedBernoulliFamily,
    RelaxedOneHotFamily,
    WrappedFamily,
    bernoulli,
    low_rank_normal,
    multivariate_normal,
    normal,
    one_hot,
    relaxed_bernoulli,
    relaxed_one_hot,
)
from worldformula.testing import check_family

DOUBLE = torch.float64
CASES = [
    (MultivariateNormalFamily(min_scale=0.1), (2, 3)),
    (LowRankNormalFamily(cov_rank=2), (2, 3)),
    (DiscretisedLogisticFamily(components=3, levels=7), (2, 3)),
    (DiscretisedLogisticFamily(components=1, levels=2), ()),
    (RelaxedBernoulliFamily(temperature=0.5), (2, 3)),
    (RelaxedOneHotFamily(temperature=0.5), (2, 3)),
    (MixtureFamily(normal, 3), (4,)),
    (MixtureFamily(normal, 3), (2, 3)),
    (MixtureFamily(normal, 3, factored=True), (2, 3)),
    (MixtureFamily(bernoulli, 3), (4,)),
    (MixtureFamily(one_hot, 2), (2, 3)),
    (MixtureFamily(CategoricalFamily(classes=4), 2, factored=True), (2,)),
    (MixtureFamily(multivariate_normal, 2), (3,)),
    (MixtureFamily(low_rank_normal, 2), (2, 3)),
]


class Both(nn.Module):
    """A linear layer on the concatenated inputs."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, *inputs):
        return self.linear(torch.cat(inputs, -1))


@pytest.mark.parametrize(("family", "shape"), CASES, ids=str)
def test_laws(family, shape):
    check_family(family, shape)


# ------------------------------------------------------------------------------------------- Normals with a covariance


def test_low_rank_is_the_full_covariance_that_it_stands_for():
    family = LowRankNormalFamily(cov_rank=2)
    q, p = (family.params(torch.randn(3, 16, dtype=DOUBLE), (4,)) for _ in range(2))
    full = []
    for loc, factor, diagonal in (q, p):
        covariance = factor @ factor.mT + torch.diag_embed(diagonal)
        full.append(multivariate_normal.params({"loc": loc, "covariance_matrix": covariance}, (4,)))
    x = torch.randn(3, 4, dtype=DOUBLE)
    torch.testing.assert_close(family.log_prob(q, x, 1), multivariate_normal.log_prob(full[0], x, 1))
    torch.testing.assert_close(family.kl(q, p, 1), multivariate_normal.kl(full[0], full[1], 1))
    noise = family.noise(family.noise_shape((200_000, 3), (4,)), dtype=DOUBLE)
    centred = family.sample(q, noise) - q[0]
    torch.testing.assert_close(torch.einsum("nbi,nbj->bij", centred, centred) / 200_000, full[0][1] @ full[0][1].mT,
                               rtol=0.02, atol=0.02)  # fmt: skip


def test_the_head_fills_the_triangle_row_by_row():
    _, scale = multivariate_normal.params(torch.arange(9.0).unsqueeze(0), (3,))
    softplus = nn.functional.softplus
    three, five, eight = softplus(torch.tensor([3.0, 5.0, 8.0])).tolist()
    torch.testing.assert_close(scale[0], torch.tensor([[three, 0, 0], [4, five, 0], [6, 7, eight]]))


@pytest.mark.parametrize(
    ("family", "head", "shape", "fixed", "words"),
    [
        (multivariate_normal, torch.zeros(5, 8), (3,), {}, ["3 (loc) + 6 (scale_tril)", "[..., 9]", "[5, 8]"]),
        (multivariate_normal, torch.zeros(5, 9), None, {}, ["Declare shape=D"]),
        (multivariate_normal, None, (3,), {"scale_tril": -1.0}, ["positive"]),
        (multivariate_normal, None, (3,), {"scale_tril": torch.ones(3)}, ["[..., D, D]", "[3]"]),
        (multivariate_normal, None, (3,), {"scale_tril": torch.eye(4)}, ["(3,)", "[4, 4]"]),
        (low_rank_normal, torch.zeros(5, 8), (3,), {}, ["3 (cov_factor)", "[..., 9]"]),
        (low_rank_normal, None, (3,), {"cov_factor": 1.0}, ["must be 0"]),
        (DiscretisedLogisticFamily(), None, (3,), {}, ["no standard distribution"]),
        (MixtureFamily(normal, 3), torch.zeros(5, 8), (3,), {}, ["[..., 21]", "3 logits and 3 times 6"]),
        (MixtureFamily(normal, 3), None, (3,), {"loc": torch.zeros(3, 3)}, ["scale of the components"]),
        (MixtureFamily(normal, 3), None, (3,), {"loc": 0.0, "scale": 1.0}, ["all alike"]),
        (MixtureFamily(normal, 3), None, (3,), {"weights": torch.ones(2)}, ["[..., 3]", "[2]"]),
        (WrappedFamily(), torch.zeros(3), (3,), {}, ["returns a torch.distributions.Distribution", "of="]),
    ],
)  # fmt: skip
def test_head_errors_say_what_to_do(family, head, shape, fixed, words):
    with pytest.raises(HeadError) as found:
        family.params(head, shape, fixed)
    assert all(word in str(found.value) for word in words), str(found.value)


@pytest.mark.parametrize(
    "build",
    [
        lambda: LowRankNormalFamily(cov_rank=0),
        lambda: DiscretisedLogisticFamily(levels=1),
        lambda: RelaxedOneHotFamily(temperature=0.0),
        lambda: RelaxedBernoulliFamily(temperature=-1.0),
        lambda: MixtureFamily(normal, 0),
        lambda: MixtureFamily(MixtureFamily(normal, 2), 2),
        lambda: MixtureFamily(multivariate_normal, 2, factored=True),
        lambda: MixtureFamily(one_hot, 2, factored=True),
    ],
)
def test_impossible_options(build):
    with pytest.raises(ConfigError):
        build()


def test_kl_of_a_full_covariance_to_a_standard_one_trains_the_whole_triangle():
    q = MultivariateNormal("q(z|x)", nn.Linear(5, 9), shape=3)
    loss = KL(q, MultivariateNormal("p(z)", shape=3)).mean()
    x = torch.randn(4, 5)
    loc, scale = q.params(x)
    expected = td.kl_divergence(
        td.MultivariateNormal(loc, scale_tril=scale), td.MultivariateNormal(loc * 0, torch.eye(3))
    )
    out = loss(x=x)
    torch.testing.assert_close(out.value, expected.mean())
    assert (torch.autograd.grad(out.value, q.net.weight)[0].abs().sum(1) > 0).all()


def test_covariances_as_parameters_of_a_factor_without_conditions():
    prior = MultivariateNormal("p(z)", shape=3, loc=torch.zeros(3), scale_tril=torch.eye(3) * 2)
    low = LowRankNormal("p(z)", shape=3, cov_rank=2, loc=0.0, cov_factor=nn.Parameter(torch.ones(3, 2)), cov_diag=1.0)
    z = torch.randn(5, 3)
    for factor, covariance in ((prior, torch.eye(3) * 4), (low, torch.eye(3) + 2)):
        expected = td.MultivariateNormal(torch.zeros(3), covariance).log_prob(z)
        torch.testing.assert_close(log(factor).mean()(z=z).value, expected.mean())
        assert factor.sample(sample_shape=(7,)).shape == (7, 3)
        assert E(factor, log(Normal("p(x|z)", nn.Linear(3, 8)))).mean()(x=torch.randn(6, 4)).value.shape == ()


# ------------------------------------------------------------------------------------------- discretised logistics


@pytest.mark.parametrize("levels", [2, 8, 256])
def test_levels_add_up_to_one(levels):
    family = DiscretisedLogisticFamily(components=4, levels=levels)
    params = family.params(3.0 * torch.randn(6, 12, dtype=DOUBLE), ())
    grid = torch.arange(levels).unsqueeze(-1).expand(-1, 6)
    every = family.log_prob(family.expand(params, (levels, 6), 0), grid, 0)
    torch.testing.assert_close(every.logsumexp(0), torch.zeros(6, dtype=DOUBLE), rtol=0, atol=1e-10)


def test_a_level_is_scored_by_the_difference_of_two_distribution_functions():
    family = DiscretisedLogisticFamily(components=2, levels=256)
    weights, loc, log_scale = [0.3, 0.7], [-0.5, 0.4], [-2.0, -3.0]
    given = {"logits": torch.tensor(weights).log(), "loc": torch.tensor(loc), "log_scale": torch.tensor(log_scale)}
    params = family.params(given, ())
    for level in (0, 1, 100, 180, 254, 255):
        x, h = 2 * level / 255 - 1, 1 / 255
        expected = 0.0
        for w, m, s in zip(weights, loc, log_scale, strict=True):
            up = 1.0 if level == 255 else 1 / (1 + math.exp(-(x + h - m) / math.exp(s)))
            down = 0.0 if level == 0 else 1 / (1 + math.exp(-(x - h - m) / math.exp(s)))
            expected += w * (up - down)
        assert family.log_prob(params, torch.tensor(level), 0).exp().item() == pytest.approx(expected, rel=1e-4)


def test_far_out_levels_keep_a_finite_score_and_gradient():
    family = DiscretisedLogisticFamily(components=1, levels=256)
    head = torch.tensor([[0.0, -1.0, -7.0]], requires_grad=True)
    score = family.log_prob(family.params(head, ()), torch.tensor([200]), 0).sum()
    assert torch.isfinite(score)
    assert torch.isfinite(torch.autograd.grad(score, head)[0]).all()


# ------------------------------------------------------------------------------------------- mixtures


def test_mixture_against_torch():
    factor = Mixture("p(x|h)", nn.Linear(3, 4 * 5), components=4, shape=2)
    h, x = torch.randn(6, 3), torch.randn(6, 2)
    weights, loc, scale = factor.params(h)
    mixed = td.MixtureSameFamily(td.Categorical(logits=weights), td.Independent(td.Normal(loc, scale), 1))
    torch.testing.assert_close(factor.log_prob(x=x, h=h), mixed.log_prob(x))
    torch.testing.assert_close(factor.family.mean((weights, loc, scale)), mixed.mean)
    posterior = (mixed.mixture_distribution.logits + mixed.component_distribution.log_prob(x.unsqueeze(1))).softmax(-1)
    torch.testing.assert_close(factor.responsibilities(x=x, h=h), posterior)
    each = Mixture("p(x|h)", nn.Linear(3, 2 * 4 * 3), components=4, shape=2, factored=True)
    weights, loc, scale = each.params(h)
    mixed = td.Independent(td.MixtureSameFamily(td.Categorical(logits=weights), td.Normal(loc, scale)), 1)
    torch.testing.assert_close(each.log_prob(x=x, h=h), mixed.log_prob(x))


def test_each_row_draws_its_own_component():
    far = torch.tensor([[-100.0, -100.0], [100.0, 100.0]])
    factor = Mixture("p(z)", components=2, shape=2, weights=torch.tensor([0.25, 0.75]), loc=far, scale=1.0)
    z = factor.sample(sample_shape=(40_000,), seed=0)
    right = z > 0
    assert (right[:, 0] == right[:, 1]).all()
    assert right[:, 0].float().mean().item() == pytest.approx(0.75, abs=0.01)
    torch.testing.assert_close((z - far[right[:, 0].long()]).std(0), torch.ones(2), rtol=0.02, atol=0)
    assert factor.sample(deterministic=True).tolist() == [100.0, 100.0]


def test_a_learnable_mixture_prior_gets_its_gradient():
    loc, weights = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.zeros(3))
    prior = Mixture("p(z)", components=3, shape=2, loc=loc, log_weights=weights, scale=torch.ones(3, 2))
    q = Normal("q(z|x)", nn.Linear(5, 4), shape=2)
    loss = E(q, log(q) - log(prior)).mean()
    loss(x=torch.randn(4, 5)).value.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loss.parameters())
    torch.testing.assert_close(loss(x=torch.ones(4, 5), seed=1).value, loss.interpret(x=torch.ones(4, 5), seed=1).value)


def test_a_mixture_takes_the_score_gradient_and_says_so():
    q = Mixture("q(z|x)", nn.Linear(5, 6), components=2, shape=1)
    p = Normal("p(x|z)", nn.Linear(1, 10), shape=5)
    with pytest.raises(GradientError, match="gradient='score'"):
        E(q, log(p))
    with pytest.raises(NoClosedFormError, match=r"E\(q, log\(q\) - log\(p\), gradient='score'\)"):
        KL(q, Normal("p(z)", shape=1))
    torch.manual_seed(0)
    x, target = torch.randn(1, 5), 0.3
    with torch.no_grad():
        q.net.bias.copy_(torch.tensor([0.2, -0.4, 1.0, 0.5, -1.0, 0.1]))  # two logits; loc and raw scale of each

    def expected(bias):  # E (z - target)², in closed form
        head = x[0] @ q.net.weight.T + bias
        w, (loc, raw) = head[:2].softmax(-1), head[2:].view(2, 2).unbind(-1)
        return (w * ((loc - target) ** 2 + nn.functional.softplus(raw) ** 2)).sum()

    exact = torch.autograd.grad(expected(q.net.bias), q.net.bias)[0]
    family, n = q.family, 100_000
    params = q.params(x.expand(n, -1))
    z = family.sample(params, family.noise(family.noise_shape((n,), (1,))))
    assert not z.requires_grad
    score = (family.log_prob(params, z, 1) * ((z[:, 0] - target) ** 2 - 2.0)).mean()  # the constant is a baseline
    torch.testing.assert_close(torch.autograd.grad(score, q.net.bias)[0], exact, rtol=0.1, atol=0.05)


def test_the_score_of_a_carried_mixture_would_miss_later_steps():
    post = Mixture("q(z_t|z_{t-1},x_t)", Both(2 + 3, 3 * 5), components=3, shape=2)
    prior = Mixture("p(z_t|z_{t-1})", nn.Linear(2, 15), components=3, shape=2)
    with pytest.raises(GradientError, match="later steps"):
        Sum("t", E(post, log(post) - log(prior), gradient="score")).mean()(x=torch.randn(4, 6, 3))


def test_a_mixture_density_head_of_a_recurrent_world():
    """The MDN of Ha and Schmidhuber: data is scored at every step, the draw is not carried."""
    core = Mixture("p(z_t|z_{t-1},a_{t-1})", Both(2 + 1, 2 * 5 * 3), components=5, shape=2, factored=True)
    loss = Sum("t", -log(core)).mean()
    data = {"z": torch.randn(4, 6, 2), "a": torch.randn(4, 6, 1)}
    torch.testing.assert_close(loss(**data).value, loss.interpret(**data).value)
    before = (
        torch.cat((torch.zeros(4, 1, 2), data["z"][:, :-1]), 1),
        torch.cat((torch.zeros(4, 1, 1), data["a"][:, :-1]), 1),
    )
    weights, loc, scale = core.params(*before)
    mixed = td.MixtureSameFamily(td.Categorical(logits=weights), td.Normal(loc, scale))
    torch.testing.assert_close(loss(**data).value, -mixed.log_prob(data["z"]).sum((1, 2)).mean())


# ------------------------------------------------------------------------------------------- relaxed categories


def test_d2_relaxed_categorical_scores():
    """A hard one-hot is scored by the hard family; the relaxed one has the density of the relaxed variable (D2)."""
    probs = torch.tensor([0.7, 0.2, 0.1], dtype=DOUBLE)
    hard, relaxed = OneHot("p(y)", shape=3, probs=probs), RelaxedOneHot("p(y)", shape=3, temperature=0.5, probs=probs)
    score = hard.log_prob(y=torch.tensor([[1.0, 0.0, 0.0]], dtype=DOUBLE))
    assert score.item() == pytest.approx(math.log(0.7), abs=1e-12)
    y = relaxed.sample(sample_shape=(50,), seed=0)
    reference = td.RelaxedOneHotCategorical(torch.tensor(0.5, dtype=DOUBLE), probs=probs)
    torch.testing.assert_close(relaxed.log_prob(y=y), reference.log_prob(y))
    many = relaxed.sample(sample_shape=(50_000,), seed=0)
    shares = nn.functional.one_hot(many.argmax(-1), 3).double().mean(0)
    torch.testing.assert_close(shares, probs, rtol=0, atol=0.01)


def test_relaxed_bernoulli_against_torch():
    logits = torch.randn(50, 3, dtype=DOUBLE, requires_grad=True)
    family = RelaxedBernoulliFamily(temperature=0.7)
    reference = td.RelaxedBernoulli(torch.tensor(0.7, dtype=DOUBLE), logits=logits)
    x = family.sample((logits,), family.noise((50, 3), dtype=DOUBLE)).detach()
    ours, theirs = family.log_prob((logits,), x, 1), reference.log_prob(x).sum(-1)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(s.sum(), logits)[0] for s in (ours, theirs)))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_relaxed_densities_integrate_to_one(temperature):
    grid = torch.linspace(-40, 40, 20_001, dtype=DOUBLE)  # over logits, where the density has no poles
    x = grid.sigmoid()
    density = RelaxedBernoulliFamily(temperature=temperature).log_prob((0.4,), x, 0) + (x * (1 - x)).log()
    assert torch.trapezoid(density.exp(), grid).item() == pytest.approx(1.0, abs=1e-4)
    pair = torch.stack((x, 1 - x), -1)
    params = relaxed_one_hot.params({"probs": torch.tensor([0.6, 0.4], dtype=DOUBLE)}, (2,))
    family = RelaxedOneHotFamily(temperature=temperature)
    density = family.log_prob(family.expand(params, (20_001,), 1), pair, 1) + (x * (1 - x)).log()
    inside = grid.abs() < 30  # 1 - x is exactly 0 beyond
    assert torch.trapezoid(density.exp()[inside], grid[inside]).item() == pytest.approx(1.0, abs=1e-3)


def test_relaxed_draws_train_their_network():
    for q in (
        RelaxedOneHot("q(z|x)", nn.Linear(5, 4), temperature=0.5, shape=4),
        RelaxedBernoulli("q(z|x)", nn.Linear(5, 4), temperature=0.5, shape=4),
    ):
        loss = E(q, log(q) - log(Normal("p(x|z)", nn.Linear(4, 10), shape=5))).mean()
        loss(x=torch.randn(6, 5)).value.backward()
        assert q.net.weight.grad.abs().sum() > 0
        with pytest.raises(FormulaError, match="no closed form"):
            q.family.mean(q.params(torch.randn(6, 5)))
    assert relaxed_bernoulli.log_prob((torch.zeros(2),), torch.tensor([0.0, 1.0]), 1).isfinite()


# ------------------------------------------------------------------------------------------- wrapped distributions


class Returns(nn.Module):
    """A network that returns a distribution object."""

    def __init__(self, inputs, outputs, build):
        super().__init__()
        self.linear, self.build = nn.Linear(inputs, 2 * outputs), build

    def forward(self, *inputs):
        return self.build(*self.linear(torch.cat(inputs, -1)).chunk(2, -1))


def gumbel(loc, raw):
    return td.Gumbel(loc, raw.exp())


def independent(loc, raw):
    return td.Independent(td.Normal(loc, raw.exp()), 1)


def logistic(loc, raw):
    base = td.TransformedDistribution(td.Uniform(0 * loc, 1.0), [td.SigmoidTransform().inv])
    return td.TransformedDistribution(base, [td.AffineTransform(loc, raw.exp())])


def test_an_object_is_scored_by_itself_and_drawn_from_given_noise():
    for build in (gumbel, independent, logistic):
        factor = Wrapped("q(z|x)", Returns(3, 2, build), shape=2)
        x, z = torch.randn(5, 3), torch.rand(5, 2)
        density = factor.net(x).log_prob(z)
        torch.testing.assert_close(factor.log_prob(z=z, x=x), density if density.ndim == 1 else density.sum(-1))
        noise = torch.randn(5, 2)
        first, second = (factor.sample(x=x, noise=noise) for _ in range(2))
        assert torch.equal(first, second)
        first.sum().backward()
        assert factor.net.linear.weight.grad.abs().sum() > 0
    many = Wrapped("p(z)", of=td.Gumbel, shape=2, loc=1.0, scale=2.0).sample(sample_shape=(50_000,), seed=0)
    torch.testing.assert_close(many.mean(0), td.Gumbel(1.0, 2.0).mean.expand(2), rtol=0, atol=0.05)
    torch.testing.assert_close(many.std(0), td.Gumbel(1.0, 2.0).stddev.expand(2), rtol=0, atol=0.05)


def test_a_class_takes_its_arguments_from_a_head():
    factor = Wrapped("p(x|z)", nn.Linear(3, 8), of=td.Laplace, shape=4)
    z, x = torch.randn(5, 3), torch.randn(5, 4)
    loc, raw = factor.net(z).chunk(2, -1)
    scale = td.transform_to(td.constraints.positive)(raw)
    torch.testing.assert_close(factor.log_prob(x=x, z=z), td.Laplace(loc, scale).log_prob(x).sum(-1))
    assert "WrappedFamily(of='torch.distributions.laplace:Laplace')" in log(factor).mean().code


def test_kl_and_entropy_of_objects_are_those_of_torch():
    q, p = Wrapped("q(z|x)", Returns(3, 2, gumbel), shape=2), Wrapped("p(z)", of=td.Gumbel, shape=2, loc=0.0, scale=1.0)
    x = torch.randn(5, 3)
    expected = td.kl_divergence(q.net(x), td.Gumbel(torch.zeros(2), torch.ones(2))).sum(-1)
    loss = KL(q, p).mean()
    torch.testing.assert_close(loss(x=x).value, expected.mean())
    torch.testing.assert_close(loss.interpret(x=x).value, expected.mean())
    torch.testing.assert_close(q.family.entropy(q.params(x), 1), q.net(x).entropy().sum(-1))
    other = Wrapped("q(z|x)", Returns(3, 2, logistic), shape=2)
    with pytest.raises(NoClosedFormError):
        KL(other, p).mean()(x=x)


@pytest.mark.parametrize("build", [gumbel, independent, logistic])
def test_objects_in_time_are_carried_stacked_and_repeated(build):
    """With arguments that are known (stacked into one object) and without (one object for each step)."""
    post = Wrapped("q(z_t|z_{t-1},x_t)", Returns(5, 2, build), shape=2)
    prior = Wrapped("p(z_t|z_{t-1})", Returns(2, 2, build), shape=2)
    image = Normal("p(x_t|z_t)", nn.Linear(2, 6), shape=3)
    loss = Sum("t", E(post, log(post) - log(prior) - log(image)), reset="first").mean()
    first = torch.zeros(4, 6, dtype=torch.bool)
    first[1, 3] = True
    data = {"x": torch.randn(4, 6, 3), "first": first, "noise": {"z": torch.randn(4, 6, 2)}}
    out, walked = loss(**data), loss.interpret(**data)
    torch.testing.assert_close(out.value, walked.value)
    weights = list(loss.parameters())
    torch.testing.assert_close(torch.autograd.grad(out.value, weights), torch.autograd.grad(walked.value, weights))


def test_a_stopped_object_has_no_gradient_to_its_network():
    q, p = Wrapped("q(z|x)", Returns(3, 2, gumbel), shape=2), Wrapped("p(z|y)", Returns(3, 2, gumbel), shape=2)
    loss = KL(sg(q), p).mean()
    loss(x=torch.randn(5, 3), y=torch.randn(5, 3)).value.backward()
    assert q.net.linear.weight.grad is None
    assert p.net.linear.weight.grad is not None
    unknown = Wrapped("q(z|x)", Returns(3, 2, logistic), shape=2)
    with pytest.raises(FormulaError, match="sg of a TransformedDistribution"):
        log(sg(unknown)).mean()(x=torch.randn(5, 3), z=torch.rand(5, 2))


def test_a_distribution_without_an_icdf_is_refused_with_a_way_out():
    q = Wrapped("q(z|x)", Returns(3, 2, lambda a, b: td.Gamma(a.exp(), b.exp())), shape=2)
    assert log(q).mean()(x=torch.randn(5, 3), z=torch.rand(5, 2)).value.isfinite()
    with pytest.raises(FormulaError, match="Gamma has no icdf"):
        q.sample(x=torch.randn(5, 3))
    with pytest.raises(ShapeError, match="declared event shape"):
        Wrapped("q(z|x)", Returns(3, 2, gumbel), shape=3).sample(x=torch.randn(5, 3))


@pytest.mark.parametrize("factored", [False, True])
def test_parameters_of_which_it_is_not_clear_what_they_belong_to_are_refused(factored):
    pair = torch.tensor([1.0, 2.0])
    write = "[D, K]" if factored else "[K, 1] or as [1, D]"
    for given in ({"loc": pair, "scale": 1.0}, {"loc": torch.zeros(2, 2), "scale": pair}):
        with pytest.raises(FormulaError, match="per component or per element") as told:
            Mixture("p(x)", components=2, shape=2, factored=factored, **given)
        assert write in str(told.value)
    wrong = torch.ones((1, 3) if factored else (3, 1))
    with pytest.raises(HeadError, match="an axis of K = 2 components"):
        Mixture("p(x)", components=2, shape=3, loc=wrong, scale=1.0, factored=factored).log_prob(x=torch.zeros(3))
    weighed = Mixture("p(x)", components=2, shape=2, loc=torch.eye(2), scale=1.0, weights=torch.tensor([0.5, 0.5]))
    assert weighed.log_prob(x=torch.zeros(2)).item() == pytest.approx(-math.log(2 * math.pi) - 0.5)
