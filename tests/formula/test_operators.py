"""Operators: values of closed forms, estimators within three standard errors of them, code equal to interpreter."""

import math

import pytest
import torch
from torch import nn

from tests.formula.models import Join
from worldformula import (
    CPC,
    JS,
    KL,
    MMD,
    Bernoulli,
    Categorical,
    ContrastiveDivergence,
    Covariance,
    CrossEntropy,
    Data,
    DensityRatio,
    Deterministic,
    E,
    Energy,
    EnergyDistance,
    Entropy,
    Expectile,
    FreeEnergy,
    Gibbs,
    GradientPenalty,
    InfoNCE,
    Min,
    Mixture,
    Normal,
    OneHot,
    Redundancy,
    Renyi,
    ScoreMatching,
    SIGReg,
    SlicedWasserstein,
    Sum,
    SwAV,
    Value,
    Variance,
    VRBound,
    log,
    norm2,
    sg,
    total,
)
from worldformula.errors import FormulaError, GradientError, NoClosedFormError, ShapeError, UnnormalisedError
from worldformula.formula.ops.sliced_wasserstein import sliced_wasserstein
from worldformula.formula.print.mathml import mathml

B, W, Z, X = 5, 2, 3, 4


def q_z(width=Z):
    return Normal("q(z|x)", Join(X, 2 * width), shape=width)


def p_z(width=Z):
    return Normal("p(z)", shape=width, loc=0.5, scale=1.5)


def joints():
    q = Normal("q(w|x)", Join(X, 2 * W), shape=W) * Normal("q(z|w)", Join(W, 2 * Z), shape=Z)
    p = Normal("p(z|w)", Join(W, 2 * Z), shape=Z) * Normal("p(w)", shape=W)
    return q, p


class Bowl(nn.Module):
    """The energy of a Normal: ½ Σ ((x − m)/s)²."""

    def __init__(self, width=2):
        super().__init__()
        self.m = nn.Parameter(torch.linspace(-0.5, 0.5, width))
        self.log_s = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return 0.5 * ((x - self.m) / self.log_s.exp()).square().sum(-1)


def critic(width=2, variable="x"):
    net = nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    return Deterministic(f"d = D({variable})", net, shape=())


def gradients(value, module):
    return torch.autograd.grad(value, list(module.parameters()), allow_unused=True)


DATA = Data("p_data(x)")


def generator():
    return Normal("p(u)", shape=3) * Deterministic("x = G(u)", nn.Linear(3, 2), shape=2)


def bits(header):
    return Bernoulli(header, Join(X, 2), shape=2)


def codes():
    return Deterministic("a = f(x)", nn.Sequential(Join(X, 6), nn.Unflatten(1, (2, 3))), shape=(2, 3))


CODE = OneHot("p(c|x)", Join(X, 3), shape=3)


def code():
    return CODE


def led():
    return E(Deterministic("y = f(x, c)", Join(X + 3, 2), shape=2), norm2(Value("y")))


def settled():
    return Deterministic("y = f(x, z)", Join(X + Z, 2), shape=2)


CASES = {
    "entropy": lambda: Entropy(q_z()),
    "entropy of a product": lambda: Entropy(joints()[0]),
    "entropy, sampled": lambda: Entropy(q_z(), samples=3),
    "cross-entropy": lambda: CrossEntropy(q_z(), p_z()),
    "cross-entropy of products": lambda: CrossEntropy(*joints()),
    "cross-entropy, sampled": lambda: CrossEntropy(*joints(), samples=3),
    "KL of products": lambda: KL(*joints()),
    "KL, sampled": lambda: KL(q_z(), p_z(), samples=3),
    "KL of products, sampled": lambda: KL(*joints(), samples=3),
    "JS, enumerated": lambda: JS(bits("p(y|x)"), bits("q(y|x)")),
    "JS, sampled": lambda: JS(q_z(), p_z(), samples=3),
    "Renyi": lambda: Renyi(q_z(), p_z(), 0.5),
    "Renyi, sampled": lambda: Renyi(q_z(), p_z(), 2.0, samples=3),
    "MMD": lambda: MMD(q_z(), p_z()),
    "MMD, biased": lambda: MMD(q_z(), p_z(), kernel="imq", scale=(0.5, 1, 2), unbiased=False, samples=2),
    "energy distance": lambda: EnergyDistance(q_z(), p_z()),
    "redundancy": lambda: E(q_z(), Redundancy(Value("z"), sg(Value("z")))),
    "InfoNCE": lambda: E(q_z(), InfoNCE(Value("z"), Value("z"), temperature=0.5, cosine=True)),
    "CPC": lambda: E(codes(), CPC(Value("a"), sg(Value("a")))),
    "SwAV": lambda: E(q_z(), SwAV(Value("z"), sg(Value("z")), temperature=0.5)),
    "variance": lambda: E(q_z(), Variance(Value("z"), target=2.0)),
    "covariance": lambda: E(q_z(), Covariance(Value("z"))),
    "expectile": lambda: E(q_z(), Expectile(total(Value("z")) - 0.2, 0.1)),
    "expectile, event by event": lambda: E(q_z(), total(Expectile(Value("z"), 0.8))),
    "SIGReg": lambda: E(q_z(), SIGReg(Value("z"), directions=3)),
    "sliced Wasserstein": lambda: SlicedWasserstein(q_z(), p_z()),
    "sliced Wasserstein, order 1": lambda: SlicedWasserstein(q_z(), p_z(), order=1, samples=2),
    "contrastive divergence": lambda: ContrastiveDivergence(Gibbs("p(x)", Bowl(X), shape=X), steps=4, step_size=0.1),
    "Gibbs chain": lambda: ContrastiveDivergence(
        Gibbs("p(x)", Bowl(X), shape=X),
        steps=2,
        blocks=[Bernoulli("p(h|x)", Join(X, 2), shape=2), Normal("p(x|h)", Join(2, 2 * X), shape=X)],
    ),
    "denoising, energy": lambda: ScoreMatching(Gibbs("p(x)", Bowl(X), shape=X), noise=0.5),
    "denoising, score": lambda: ScoreMatching(Deterministic("s = s(x)", Join(X, X), shape=X)),
    "sliced, energy": lambda: ScoreMatching(Gibbs("p(x)", Bowl(X), shape=X), "sliced"),
    "sliced, score": lambda: ScoreMatching(Deterministic("s = s(x)", Join(X, X), shape=X), "sliced"),
    "exact, energy": lambda: ScoreMatching(Gibbs("p(x)", Bowl(X), shape=X), "exact"),
    "ratio, energy": lambda: ScoreMatching(Gibbs("p(x)", Bowl(X), shape=X), "ratio"),
    "energy": lambda: E(Normal("q(x|y)", Join(X, 2 * X), shape=X), Energy(Gibbs("p(x|y)", Join2(), shape=X))),
    "least of all codes": lambda: Min(code(), led() + 0.5 * -log(code())),
    "least by descent": lambda: Min(p_z(), E(settled(), norm2(Value("y"))) + norm2(Value("z")), steps=3),
    "free energy": lambda: FreeEnergy(code(), led(), beta=2.0),
    "free energy, sampled": lambda: FreeEnergy(p_z(), E(settled(), norm2(Value("y"))), samples=3),
    "gradient penalty": lambda: GradientPenalty(critic(X)),
    "gradient penalty around 1": lambda: E(q_z(), GradientPenalty(critic(Z, "z"), centre=1)),
    "ratio, KL": lambda: DensityRatio(q_z(), p_z(), critic(Z, "z")).kl(),
    "ratio, JS": lambda: DensityRatio(q_z(), p_z(), critic(Z, "z")).js(),
    "ratio, Wasserstein": lambda: DensityRatio(q_z(), p_z(), critic(Z, "z")).wasserstein(),
    "ratio, loss": lambda: DensityRatio(q_z(), p_z(), critic(Z, "z")).loss(),
}


class Join2(Join):
    """An energy of two inputs."""

    def __init__(self):
        super().__init__(2 * X, 1)


def bits_of(*shape):
    return torch.randn(*shape).sign().clamp_min(0)


DRAWN = {"ratio, energy": bits_of}
"""What the data of a case are drawn by, where they are not Normal."""


@pytest.mark.parametrize("case", CASES)
def test_code_equals_interpreter_in_value_and_gradient(case):
    torch.manual_seed(0)
    loss = CASES[case]().mean()
    data = {name: DRAWN.get(case, torch.randn)(B, X) for name in loss.program.inputs}
    code, walked = loss(**data, seed=1).value, loss.interpret(**data, seed=1).value
    assert torch.allclose(code, walked, atol=1e-6)
    ours, theirs = gradients(code, loss), gradients(walked, loss)
    assert any(g is not None for g in ours)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(loss(**data, seed=1).value, code, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_prints_everywhere_explains_and_draws(case):
    loss = CASES[case]()
    assert loss.latex.count(r"\left[") == loss.latex.count(r"\right]")
    assert "nan" not in repr(loss)
    assert "estimator" in loss.explain()
    shown = mathml(loss.node)
    assert shown.startswith("<math")
    assert shown.count("<mrow>") == shown.count("</mrow>")
    assert loss.graph().startswith("<svg")


def test_what_is_printed():
    shown = {case: CASES[case]().latex for case in CASES}
    assert shown["KL, sampled"] == (r"\widehat{D}_{\mathrm{KL}}^{K=3}\left[ q(z \mid x) \,\|\, p(z) \right]")
    assert shown["KL of products"] == (
        r"D_{\mathrm{KL}}\left[ q(w \mid x)\, q(z \mid w) \,\|\, p(z \mid w)\, p(w) \right]"
    )
    assert shown["entropy"] == r"\mathbb{H}\left[ q(z \mid x) \right]"
    assert shown["ratio, KL"] == r"D_{\mathrm{KL}}^{\mathrm{adv}}\left[ q(z \mid x) \,\|\, p(z) \right]"
    assert shown["MMD"] == r"\mathrm{MMD}^{2}_{\mathrm{gaussian}}\left[ q(z \mid x) \,\|\, p(z) \right]"
    assert repr(KL(q_z(), p_z(), samples=8)) == "<Expression KL̂{K=8}[q(z|x) ‖ p(z)]>"
    assert repr(CrossEntropy(q_z(), p_z())) == "<Expression H[q(z|x), p(z)]>"


# ------------------------------------------------------------------------------------------------------- closed forms


def test_values_of_64_unit_normals():
    q, p = Normal("q(z)", shape=64), Normal("p(z)", shape=64, loc=1.0)
    assert Entropy(q)().value.item() == pytest.approx(90.8121, abs=1e-4)
    assert Entropy(Normal("q(z)", shape=10))().value.item() == pytest.approx(14.1894, abs=1e-4)
    assert KL(q, p)().value.item() == pytest.approx(32)
    assert CrossEntropy(q, p)().value.item() == pytest.approx(122.8121, abs=1e-4)
    assert Renyi(q, p, 0.5)().value.item() == pytest.approx(16)


def by_sampling(loss, data, rounds=40):
    """Mean and standard error of a loss over seeds, and the same of its gradients."""
    values, slopes = [], []
    for seed in range(rounds):
        value = loss(**data, seed=seed).value
        values.append(value.detach())
        slopes.append(torch.cat([g.flatten() for g in gradients(value, loss) if g is not None]))
    stacked = torch.stack(values), torch.stack(slopes)
    return [(s.mean(0), s.std(0) / rounds**0.5) for s in stacked]


@pytest.mark.parametrize("name", ["entropy", "cross-entropy", "KL"])
def test_monte_carlo_is_within_three_standard_errors_of_the_closed_form(name):
    torch.manual_seed(0)
    q, p = q_z(), p_z()
    loss, exact = {
        "entropy": (Entropy(q, samples=400), Entropy(q)),
        "cross-entropy": (CrossEntropy(q, p, samples=400), CrossEntropy(q, p)),
        "KL": (KL(q, p, samples=400), KL(q, p)),
    }[name]
    data = {"x": torch.randn(1, X)}
    truth = exact.mean()(**data).value
    slopes = torch.cat([g.flatten() for g in gradients(truth, exact)])
    (value, error), (slope, slope_error) = by_sampling(loss.mean(), data)
    assert abs(value - truth) < 3 * error
    assert ((slope - slopes).abs() < 3.5 * slope_error + 1e-6).double().mean() > 0.95


def test_chain_rule_agrees_with_monte_carlo():
    torch.manual_seed(0)
    q, p = joints()
    data = {"x": torch.randn(1, X).expand(4000, X)}
    for chain, rough in ((KL(q, p), KL(q, p, samples=5)), (CrossEntropy(q, p), CrossEntropy(q, p, samples=5)),
                         (Entropy(q), Entropy(q, samples=5))):  # fmt: skip
        a, b = chain(**data, seed=0).value, rough(**data, seed=1).value
        assert abs(a.mean() - b.mean()) < 3 * ((a.var() + b.var()) / 4000).sqrt()
        assert a.var() < b.var()  # a closed form has less noise than a sample


def test_chain_rule_of_independent_factors_draws_nothing():
    q = q_z() * Normal("q(w|x)", Join(X, 2 * W), shape=W)
    p = Normal("p(w)", shape=W) * p_z()
    loss = KL(q, p)
    assert not loss.program.plan.sites
    x = torch.randn(B, X)
    parts = [KL(use.factor, mate.factor)(x=x).value for use, mate in zip(q.uses, reversed(p.uses), strict=True)]
    assert torch.allclose(loss(x=x).value, sum(parts))


def test_chain_rule_enumerates_few_classes():
    torch.manual_seed(0)
    q = OneHot("q(y|x)", Join(X, 3), shape=3) * Normal("q(z|y)", Join(3, 2 * Z), shape=Z)
    p = OneHot("p(y)", shape=3) * Normal("p(z|y)", Join(3, 2 * Z), shape=Z)
    x = torch.randn(B, X)
    loss = KL(q, p)
    assert "every value" in loss.explain()
    (qy, qz), (py, pz) = ([u.factor for u in side.uses] for side in (q, p))
    eye = torch.eye(3)
    each = KL(qz, pz)(y=eye).value
    probs = qy.params(x)[0].softmax(-1)
    assert torch.allclose(loss(x=x).value, KL(qy, py)(x=x).value + probs @ each, atol=1e-5)


def test_divergence_to_a_mixture_of_discrete_values_is_enumerated():
    q = OneHot("q(y|x)", Join(X, 3), shape=3)
    p = Mixture("p(y)", components=2, component=OneHot, shape=3, weights=torch.tensor([0.3, 0.7]),
                logits=torch.randn(2, 3))  # fmt: skip
    x = torch.randn(B, X)
    probs, mixed = q.params(x)[0].softmax(-1), p.log_prob(y=torch.eye(3)).exp()
    exact = (probs * (probs.log() - mixed.log())).sum(-1)
    assert torch.allclose(KL(q, p)(x=x).value, exact, atol=1e-6)
    assert torch.allclose(CrossEntropy(q, p)(x=x).value, -(probs * mixed.log()).sum(-1), atol=1e-6)


def test_js_is_exact_for_bits_and_bounded_for_normals():
    torch.manual_seed(0)
    p, q = bits("p(y|x)"), bits("q(y|x)")
    x = torch.randn(B, X)
    values = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    a, b = (torch.stack([f.log_prob(y=v.expand(B, 2), x=x).exp() for v in values]) for f in (p, q))
    m = (a + b) / 2
    exact = 0.5 * (a * (a / m).log() + b * (b / m).log()).sum(0)
    assert torch.allclose(JS(p, q)(x=x).value, exact, atol=1e-6)
    far = Normal("p(z)", shape=1, loc=50.0)
    assert JS(Normal("q(z)", shape=1), far, samples=10)(seed=0).value.item() == pytest.approx(math.log(2))
    grid = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    n = torch.distributions.Normal
    u, v = n(0.0, 1.0).log_prob(grid).exp(), n(1.0, 1.0).log_prob(grid).exp()
    mid = (u + v) / 2
    truth = 0.5 * (u * (u / mid).log() + v * (v / mid).log()).sum() * (grid[1] - grid[0])
    near = Normal("p(z)", shape=1, loc=1.0)
    draws = torch.stack([JS(near, Normal("q(z)", shape=1), samples=500)(seed=s).value for s in range(30)])
    assert abs(draws.mean() - truth) < 3 * draws.std() / 30**0.5


@pytest.mark.parametrize("alpha", [0.3, 0.9, 1.4])
def test_renyi_equals_the_integral(alpha):
    grid = torch.linspace(-30, 30, 60001, dtype=torch.float64)
    q, p = torch.distributions.Normal(0.3, 0.8), torch.distributions.Normal(-0.5, 1.7)
    power = (alpha * q.log_prob(grid) + (1 - alpha) * p.log_prob(grid)).exp().sum() * (grid[1] - grid[0])
    ours = Renyi(Normal("q(z)", shape=2, loc=0.3, scale=0.8), Normal("p(z)", shape=2, loc=-0.5, scale=1.7), alpha)
    assert ours().value.item() == pytest.approx(2 * power.log().item() / (alpha - 1), rel=1e-4)


def test_renyi_is_kl_near_one_infinite_where_the_integral_is_and_estimated_elsewhere():
    q, p = Normal("q(z)", shape=2, scale=2.0), Normal("p(z)", shape=2, loc=1.0)
    assert Renyi(q, p, 1.0001)().value.item() == pytest.approx(KL(q, p)().value.item(), rel=1e-2)
    assert Renyi(q, p, 1.5)().value.item() == math.inf
    a, b = Normal("q(z)", shape=1), Normal("p(z)", shape=1, loc=0.5)
    rough = torch.stack([Renyi(a, b, 0.5, samples=2000)(seed=s).value for s in range(30)])
    assert abs(rough.mean() - Renyi(a, b, 0.5)().value) < 3 * rough.std() / 30**0.5 + 1e-3


def test_the_renyi_bound_lies_between_elbo_and_evidence():
    """p(x) = ∫ N(x; z, 1) N(z; 0, 1) dz = N(x; 0, 2), with a poor posterior."""
    prior, decode = Normal("p(z)", shape=1), Normal("p(x|z)", nn.Identity(), shape=1, scale=1.0)
    encode = Normal("q(z|x)", nn.Identity(), shape=1, scale=1.0)
    x = torch.full((3000, 1), 0.7)
    with torch.no_grad():
        bounds = [VRBound(encode, prior * decode, a, samples=20)(x=x, seed=0).value.mean() for a in (0, 0.5, 0.9)]
        elbo = (E(encode, log(decode)) - KL(encode, prior))(x=x, seed=0).value.mean()
    evidence = torch.distributions.Normal(0.0, 2**0.5).log_prob(torch.tensor(0.7))
    assert evidence + 0.01 > bounds[0] > bounds[1] > bounds[2] > elbo - 0.01
    assert abs(bounds[0] - evidence) < 0.05


# ---------------------------------------------------------------------------------------------- distances of samples


@pytest.mark.parametrize("n", [10, 100, 1000])
@pytest.mark.parametrize("distance", [MMD, EnergyDistance])
def test_a_distribution_is_at_distance_zero_from_itself(distance, n):
    p = Normal("p(img)", shape=4)
    loss = distance(p, p, samples=n)
    values = torch.stack([loss(seed=s).value for s in range(30 if n < 1000 else 8)])
    assert abs(values.mean()) < 3 * values.std() / len(values) ** 0.5
    assert values.abs().max() < 12 / n


def test_mmd_of_normals_is_the_integral_of_the_kernel():
    """E exp(−‖x − y‖²/C) between N(a, 1) and N(b, 1) in one dimension is √(C/(C+4)) exp(−(a − b)²/(C + 4))."""
    q, p = Normal("q(z)", shape=1), Normal("p(z)", shape=1, loc=1.0)
    c = 2.0
    exact = 2 * math.sqrt(c / (c + 4)) * (1 - math.exp(-1 / (c + 4)))
    for unbiased in (True, False):
        loss = MMD(q, p, samples=100, unbiased=unbiased)
        values = torch.stack([loss(seed=s).value for s in range(200)])
        bias = 0 if unbiased else 2 / 100 * (1 - math.sqrt(c / (c + 4)))
        assert abs(values.mean() - exact - bias) < 3 * values.std() / 200**0.5


def test_energy_distance_of_normals():
    """E|x − y| of N(d, 2) is the mean of a folded Normal."""

    def folded(d):
        return 2 / math.sqrt(math.pi) * math.exp(-(d**2) / 4) + d * math.erf(d / 2)

    loss = EnergyDistance(Normal("q(z)", shape=1), Normal("p(z)", shape=1, loc=1.0), samples=100)
    values = torch.stack([loss(seed=s).value for s in range(100)])
    assert abs(values.mean() - 2 * (folded(1) - folded(0))) < 3 * values.std() / 10


def test_sliced_wasserstein_of_a_shift_is_its_square_over_the_width():
    shift = torch.tensor([3.0, 0.0, 4.0])
    base = Normal("p(u)", shape=3)
    q = base * Deterministic("z = f(u)", nn.Identity(), shape=3)
    p = base * Deterministic("z = g(u)", lambda u: u + shift, shape=3)
    loss = SlicedWasserstein(q, p, samples=600)
    assert loss(seed=0).value.item() == pytest.approx(25 / 3, rel=0.12)


@pytest.mark.parametrize("distance", [MMD, EnergyDistance, SlicedWasserstein])
def test_distances_take_any_names_data_and_products(distance):
    encode = Normal("q(z|img)", Join(X, 2 * Z), shape=Z)
    decode = Normal("p(img|z)", Join(Z, 2 * X), shape=X)
    prior = Normal("p(z)", shape=Z)
    img = torch.randn(B, X)
    whole = (E(encode, -log(decode)) + 10 * distance(encode, prior)).mean()
    assert whole(img=img).value.ndim == 0
    assert distance(encode, prior)(img=img).value.ndim == 0
    to_data = distance(Data("p_data(img)"), prior * decode)
    assert to_data(img=img, seed=0).value.ndim == 0
    assert all(g is not None for g in gradients(to_data(img=img).value, to_data))


@pytest.mark.parametrize("distance", [MMD, EnergyDistance, SlicedWasserstein])
def test_distances_compare_the_batch_at_each_step_of_time(distance):
    torch.manual_seed(0)
    post = Normal("q(z_t|x_t)", Join(X, 2 * Z), shape=Z)
    core = Deterministic("h_t = f(h_{t-1}, z_{t-1})", Join(2 + Z, 2), shape=2)
    prior = Normal("p(z_t|h_t)", Join(2, 2 * Z), shape=Z)
    loss = Sum("t", E(core * post, distance(post, prior)), reset="first").mean()
    data = {"x": torch.randn(B, 3, X), "first": torch.zeros(B, 3, dtype=torch.bool)}
    out = loss(**data, seed=0)
    assert torch.allclose(out.value, loss.interpret(**data, seed=0).value)
    # The second step alone, from what the first one left: it must equal the difference of two and one steps.
    one = loss(**{k: v[:, :1] for k, v in data.items()}, noise={k: v[:, :1] for k, v in noises(loss, data).items()})
    two = loss(**{k: v[:, :2] for k, v in data.items()}, noise={k: v[:, :2] for k, v in noises(loss, data).items()})
    step = loss(
        **{k: v[:, 1:2] for k, v in data.items()},
        start=one.last,
        noise={k: v[:, 1:2] for k, v in noises(loss, data).items()},
    )
    assert torch.allclose(two.value, one.value + step.value, atol=1e-5)


def noises(loss, data):
    return loss.noise(**data, generator=torch.Generator().manual_seed(3))


# ---------------------------------------------------------------------------------------------------------- energies


def test_chains_move_data_to_the_model_and_no_gradient_passes_them():
    torch.manual_seed(0)
    bowl = Bowl()
    p = Gibbs("p(x)", bowl, shape=2)
    x = 3 + torch.randn(4000, 2)
    out = ContrastiveDivergence(p, steps=200, step_size=0.05).mean()(x=x, seed=0)
    end = out.samples["x_model"]
    assert not end.requires_grad
    assert torch.allclose(end.mean(0), bowl.m.detach(), atol=0.06)
    assert torch.allclose(end.var(0), torch.ones(2), atol=0.1)
    ours = torch.autograd.grad(out.value, bowl.m)[0]
    assert torch.allclose(ours, -(x - end).mean(0), atol=1e-4)  # ∂E/∂m = m − x


def test_a_chain_may_begin_at_a_buffer_or_at_a_factor():
    p = Gibbs("p(x)", Bowl(), shape=2)
    x = torch.randn(6, 2)
    still = ContrastiveDivergence(p, steps=3, step_size=1e-9, noise=0.0, start="x_0")
    assert torch.allclose(still(x=x, x_0=x + 1, seed=0).samples["x_model"], x + 1)
    drawn = ContrastiveDivergence(p, steps=3, step_size=1e-9, noise=0.0, start=Normal("p_0(x)", shape=2, loc=9.0))
    assert drawn(x=x, seed=0).samples["x_model"].mean() > 6


def test_gibbs_blocks_sample_a_small_boltzmann_machine():
    """A visible and a hidden unit with weight 2: p(v=1) by enumeration."""
    w = 2.0
    hidden = Bernoulli("p(h|v)", lambda v: w * v - 1, shape=1)
    visible = Bernoulli("p(v|h)", lambda h: w * h, shape=1)
    p = Gibbs("p(v)", lambda v: -nn.functional.softplus(w * v - 1).sum(-1), shape=1)
    out = ContrastiveDivergence(p, steps=20, blocks=[hidden, visible])(v=torch.zeros(20_000, 1), seed=0)
    weights = [1 + math.exp(-1), 1 + math.exp(w - 1)]
    exact = weights[1] / sum(weights)
    assert out.samples["v_model"].mean().item() == pytest.approx(exact, abs=0.015)


def test_score_matching_is_least_at_the_score_of_the_data():
    """Of N(1, 1): sliced and exact are ½E‖s − s*‖² − ½E‖s*‖²; denoising knows the score of N(1, 1 + σ²)."""
    torch.manual_seed(0)
    x = 1 + torch.randn(100_000, 1)

    def score(variance):
        return Deterministic("s = s(x)", lambda x: (1 - x) / variance, shape=1)

    for how in ("sliced", "exact"):
        values = [ScoreMatching(score(v), how).mean()(x=x, seed=0).value.item() for v in (0.7, 1.0, 1.5)]
        assert values[1] == min(values)
        assert values[1] == pytest.approx(-0.5, abs=0.02)
        assert values[0] - values[1] == pytest.approx(0.5 * (1 / 0.7 - 1) ** 2, abs=0.03)
    noisy = [ScoreMatching(score(v), noise=1.0).mean()(x=x, seed=0).value.item() for v in (1.0, 2.0, 3.0)]
    assert noisy[1] == min(noisy)


def test_the_two_energies_and_scores_of_one_model_agree():
    bowl = Bowl()
    p = Gibbs("p(x)", bowl, shape=2)
    s = Deterministic("s = s(x)", lambda x: -(x - bowl.m) / bowl.log_s.exp() ** 2, shape=2)
    x = torch.randn(B, 2)
    for how in ("denoising", "sliced", "exact"):
        a, b = (ScoreMatching(m, how)(x=x, seed=0).value for m in (p, s))
        assert torch.allclose(a, b, atol=1e-5)


def test_energy_stands_in_for_the_density_up_to_a_constant():
    bowl = Bowl()
    q, p = Normal("q(x|y)", Join(X, 4), shape=2), Gibbs("p(x)", bowl, shape=2)
    normal = Normal("p(x)", {"loc": bowl.m.detach(), "scale": torch.ones(2)}, shape=2)
    y = torch.randn(B, X)
    ours = E(q, log(q) + Energy(p))(y=y, seed=0).value
    theirs = E(q, log(q) - log(normal))(y=y, seed=0).value
    assert torch.allclose(ours + math.log(2 * math.pi), theirs, atol=1e-5)


def test_gibbs_refuses_density_and_draw_and_samples_by_chains():
    bowl = Bowl()
    p = Gibbs("p(x)", bowl, shape=2)
    q = Normal("q(x|y)", Join(X, 4), shape=2)
    for refused in (
        lambda: log(p),
        lambda: E(p, Energy(p)),
        lambda: KL(q, p),
        lambda: Entropy(p),
        lambda: p * q,
        lambda: MMD(q, p),
        lambda: p.log_prob(x=torch.zeros(1, 2)),
        p.sample,
    ):
        with pytest.raises(UnnormalisedError, match="ContrastiveDivergence"):
            refused()
    x = p.sample(torch.zeros(4000, 2), steps=100, step_size=0.1, seed=0)
    assert torch.allclose(x.mean(0), bowl.m.detach(), atol=0.08)
    assert torch.equal(x, p.sample(torch.zeros(4000, 2), steps=100, step_size=0.1, seed=0))


def test_gradient_penalty_of_a_linear_function():
    w = torch.tensor([3.0, 4.0])
    d = Deterministic("d = D(x)", lambda x: x @ w, shape=())
    x = torch.randn(B, 2)
    assert torch.allclose(GradientPenalty(d)(x=x).value, torch.full((B,), 25.0))
    assert torch.allclose(GradientPenalty(d, centre=1)(x=x).value, torch.full((B,), 16.0))
    two = Deterministic("d = D(x, y)", lambda x, y: (x * y).sum(-1), shape=())
    y = torch.randn(B, 2)
    assert torch.allclose(GradientPenalty(two, by="y")(x=x, y=y).value, x.square().sum(-1))


# ------------------------------------------------------------------------------------------------------------- ratios


def test_a_perfect_discriminator_gives_the_divergences():
    q, p = Normal("q(z|x)", torch.zeros_like, shape=1, scale=1.0), Normal("p(z)", shape=1, loc=1.0)
    d = Deterministic("d = D(z)", lambda z: (0.5 - z).squeeze(-1), shape=())
    ratio = DensityRatio(q, p, d)
    x = torch.zeros(100_000, 1)
    assert ratio.kl()(x=x, seed=0).value.item() == pytest.approx(0.5, abs=0.01)
    exact = JS(q.rename(z="z"), p, samples=1)(x=x, seed=0).value.mean().item()
    assert ratio.js()(x=x, seed=0).value.item() == pytest.approx(exact, abs=0.01)
    assert ratio.loss()(x=x, seed=0).value.item() == pytest.approx(2 * (math.log(2) - exact), abs=0.02)


def test_the_loss_of_a_discriminator_reaches_no_one_else():
    ratio = DensityRatio(q_z(), p_z(), critic(Z, "z"))
    loss = ratio.loss()
    value = loss(x=torch.randn(B, X)).value
    named = dict(loss.named_parameters())
    found = dict(zip(named, torch.autograd.grad(value, list(named.values()), allow_unused=True), strict=True))
    assert {n.partition(".")[0] for n, g in found.items() if g is not None} == {"D"}
    assert {n.partition(".")[0] for n in found} == {"D", "q_z_given_x"}
    whole = ratio.kl()
    assert all(g is not None for g in gradients(whole(x=torch.randn(B, X)).value, whole))


def test_values_of_one_ratio_share_their_draws():
    ratio = DensityRatio(DATA, generator(), critic())
    x = torch.randn(B, 2)
    both = (ratio.js() + 0.5 * ratio.loss())(x=x)
    assert both.value.item() == pytest.approx(math.log(2), abs=1e-6)


# ------------------------------------------------------------------------------------------------------------ refusals


REFUSED = {
    "entropy": (NoClosedFormError, "samples=8", lambda: Entropy(mixture("q(z)"))),
    "KL of a mixture": (NoClosedFormError, "log", lambda: KL(q_z(), mixture("p(z)"))),
    "JS": (NoClosedFormError, "samples=8", lambda: JS(q_z(), p_z())),
    "Renyi of a mixture": (NoClosedFormError, "samples=8", lambda: Renyi(mixture("q(z)"), p_z(), 0.5)),
    "order one": (FormulaError, "KL", lambda: Renyi(q_z(), p_z(), 1)),
    "opposite orders": (NoClosedFormError, "opposite", lambda: KL(joints()[0], opposite())),
    "other variables": (FormulaError, "same random variables", lambda: KL(joints()[0], p_z() * p_z().rename(z="u"))),
    "cross-entropy of others": (FormulaError, "same", lambda: CrossEntropy(q_z(), p_z().rename(z="u"))),
    "no common variable": (FormulaError, "common", lambda: MMD(q_z(), p_z().rename(z="u"))),
    "unknown kernel": (FormulaError, "gaussian", lambda: MMD(q_z(), p_z(), kernel="gausian")),
    "scale": (FormulaError, "positive", lambda: MMD(q_z(), p_z(), scale=0)),
    "discrete samples": (GradientError, "straight-through", lambda: MMD(bits("q(y|x)"), bits("p(y|x)"))),
    "discrete draws of KL": (GradientError, "gradient", lambda: KL(bits("q(y|x)"), bits("p(y|x)"), samples=2)),
    "an estimator of one number": (GradientError, "gumbel", lambda: MMD(q_z(), p_z(), gradient="score")),
    "score of a density": (FormulaError, "Gibbs", lambda: ScoreMatching(q_z())),
    "chain of a density": (FormulaError, "Gibbs", lambda: ContrastiveDivergence(q_z())),
    "blocks": (FormulaError, "no block", lambda: ContrastiveDivergence(Gibbs("p(x)", Bowl()), blocks=[q_z()])),
    "a ratio of something else": (FormulaError, "does not read", lambda: DensityRatio(q_z(), p_z(), critic())),
    "a penalty on something else": (FormulaError, "x", lambda: GradientPenalty(critic(), by="y")),
    "samples": (FormulaError, "samples", lambda: Entropy(q_z(), samples=0)),
}


def mixture(header):
    return Mixture(header, components=2, shape=Z, loc=torch.randn(2, Z), scale=1.0, weights=torch.tensor([0.5, 0.5]))


def opposite():
    return Normal("p(w|z)", Join(Z, 2 * W), shape=W) * p_z()


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_what_to_write(case):
    error, words, build = REFUSED[case]
    with pytest.raises(error, match=words):
        build()


def test_discrete_samples_are_compared_with_a_named_estimator():
    loss = MMD(bits("q(y|x)"), Bernoulli("p(y)", shape=2, probs=0.5), gradient="straight-through")
    assert all(g is not None for g in gradients(loss(x=torch.randn(B, X)).value, loss))
    with pytest.raises(NoClosedFormError, match="integral"):
        KL((p_z() * Categorical("p(c|z)", Join(Z, 3))).marginal("c"), p_z())


def test_one_sample_is_no_distance():
    with pytest.raises(FormulaError, match="samples="):
        MMD(Normal("q(z)", shape=2), Normal("p(z)", shape=2))()
    with pytest.raises(ShapeError, match="equally many"):
        sliced_wasserstein(torch.zeros(3, 2), torch.zeros(4, 2), torch.ones(3, 2), rank=1, order=2)


def in_time(body):
    q = Normal("q(w_t|x_t)", Join(X, 2 * W), shape=W) * Normal("q(z_t|w_t,h_t)", Join(W + 2, 2 * Z), shape=Z)
    p = Normal("p(w_t)", shape=W) * Normal("p(z_t|w_t)", Join(W, 2 * Z), shape=Z)
    core = Deterministic("h_t = f(h_{t-1}, z_{t-1})", Join(2 + Z, 2), shape=2)
    decode = Normal("p(x_t|z_t)", Join(Z, 2 * X), shape=X)
    return Sum("t", E(core, body(q, p) - E(q, log(decode))), reset="first").mean()


IN_TIME = {
    "KL": KL,
    "KL, sampled": lambda q, p: KL(q, p, samples=3),
    "entropy": lambda q, _: Entropy(q),
    "cross-entropy, sampled": lambda q, p: CrossEntropy(q, p, samples=2),
    "JS": lambda q, p: JS(q, p, samples=2),
    "MMD": lambda q, p: MMD(q, p.marginal("w")),
}


@pytest.mark.parametrize("case", IN_TIME)
def test_operators_in_time_keep_their_draws_to_themselves(case):
    torch.manual_seed(0)
    loss = in_time(IN_TIME[case])
    data = {"x": torch.randn(B, 4, X), "first": torch.zeros(B, 4, dtype=torch.bool)}
    data["first"][1, 2] = True
    code, walked = loss(**data, seed=0), loss.interpret(**data, seed=0)
    assert torch.allclose(code.value, walked.value, atol=1e-4)
    for a, b in zip(gradients(code.value, loss), gradients(walked.value, loss), strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-4)
    assert code.samples["z"].shape == (B, 4, Z)


def test_an_operator_inside_an_expectation_of_the_same_variable_draws_its_own():
    q, p = q_z(), p_z()
    x = torch.randn(B, X)
    alone, inside = JS(q, p, samples=4), E(q, JS(q, p, samples=4))
    noise = alone.noise(x=x, generator=torch.Generator().manual_seed(0))
    assert alone(x=x, noise=noise).value.shape == inside(x=x).value.shape == (B,)
