"""Products and mixtures of experts, against grids, torch.distributions and rows taken apart; others' defects (D, R)."""

import copy

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MixtureSameFamily
from torch.utils.data import default_collate

from worldformula import (
    KL,
    Bernoulli,
    Beta,
    Deterministic,
    E,
    Gamma,
    Laplace,
    LogNormal,
    MoE,
    MoPoE,
    MultivariateNormal,
    Normal,
    OneHot,
    PoE,
    Sum,
    log,
    ratio,
    sg,
    subsets,
)
from worldformula.errors import FormulaError
from worldformula.families import LaplaceFamily, normal
from worldformula.families.experts import mixed, poe
from worldformula.formula.factors.joint import Factor
from worldformula.formula.ops.each import each
from worldformula.formula.print.mathml import mathml

B, Z, X = 6, 2, 3
NAMES = "abc"
F64 = torch.float64


class Counted(nn.Linear):
    """A linear network that counts its calls."""

    calls = 0

    def forward(self, x):
        Counted.calls += 1
        return super().forward(x)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    Counted.calls = 0


@pytest.fixture
def prior():
    return Normal("p(z)", shape=Z)


@pytest.fixture
def experts():
    return [Normal(f"q(z|{m})", Counted(X, 2 * Z), shape=Z) for m in NAMES]


@pytest.fixture
def decoders():
    return [Normal(f"p({m}|z)", nn.Linear(Z, X), scale=0.5, shape=X) for m in NAMES]


@pytest.fixture
def rows():
    return {m: torch.randn(B, X, dtype=F64) for m in NAMES}


HERE = {"a": torch.tensor([1, 1, 1, 0, 0, 1]).bool(), "b": torch.tensor([1, 0, 1, 1, 0, 0]).bool()}  # c is always there


def losses(prior, experts, decoders):
    """One loss of every kind that the multimodal models are made of."""
    q_prod, q_mix, q_both = PoE([prior, *experts]), MoE(experts), MoPoE(experts, prior)
    joint = prior * decoders[0] * decoders[1] * decoders[2]
    likelihood = log(decoders[0] * decoders[1] * decoders[2])
    return {
        "poe": KL(q_prod, prior) - E(q_prod, likelihood),
        "moe": -E(q_mix, log(joint) - log(q_mix), gradient="stratified"),
        "mopoe": -E(q_both, log(joint) - log(q_both), gradient="stratified"),
        "bound": each(q_both, lambda q: KL(q, prior)) - E(q_both, likelihood, gradient="stratified"),
        "iwae": -log(E(q_mix, ratio(joint, q_mix), gradient="stratified", samples=3)),
        "looser": -each(q_mix, lambda q: log(E(q, ratio(joint, sg(q_mix)), gradient="dreg", samples=3))),
        "mvtcae": each(experts, lambda q: KL(PoE(experts), q)) - E(PoE(experts), likelihood),
    }


KINDS = ("poe", "moe", "mopoe", "bound", "iwae", "looser", "mvtcae")


@pytest.fixture(params=KINDS)
def loss(request, prior, experts, decoders):
    return losses(prior, experts, decoders)[request.param].double()


def gradient(value, loss):
    """Of the sum of a value with respect to all weights; zeros where it does not depend on them."""
    found = torch.autograd.grad(value.sum(), list(loss.parameters()), allow_unused=True, retain_graph=True)
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if g is None else g.flatten()
            for g, p in zip(found, loss.parameters(), strict=True)
        ]
    )


# ------------------------------------------------------------------------------------------------- products, mixtures


def test_product_equals_the_product_of_densities_on_a_grid(prior, experts, rows):
    """The moments of p(z) Π q(z|x_m), by a sum over a grid, against the closed form."""
    q = PoE([prior, *experts])
    for part in q.parts:
        part.double()
    loc, scale = q.params(*rows.values())
    grid = torch.linspace(-12, 12, 20001, dtype=F64)
    parts = [(0.0, 1.0), *(e.params(rows[m]) for e, m in zip(experts, NAMES, strict=True))]
    for row in range(B):
        for k in range(Z):
            pick = [p if isinstance(p[0], float) else (p[0][row, k], p[1][row, k]) for p in parts]
            density = sum(torch.distributions.Normal(*map(torch.as_tensor, p)).log_prob(grid) for p in pick)
            weight = density.softmax(0)
            mean = (weight * grid).sum()
            torch.testing.assert_close(loc[row, k], mean)
            torch.testing.assert_close(scale[row, k] ** 2, (weight * (grid - mean) ** 2).sum())


@pytest.mark.parametrize("present", [None, torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 1, 0]]).bool()])
def test_density_of_a_mixture_equals_torch(present):
    params = [(torch.randn(4, Z, dtype=F64), torch.rand(4, Z, dtype=F64) + 0.3) for _ in range(3)]
    z = torch.randn(4, Z, dtype=F64)
    flags = () if present is None else tuple(present.unbind(1))
    q = MoE([Normal(f"q(z|{m})", nn.Linear(X, 2 * Z), shape=Z) for m in NAMES])
    ours = q.family.log_prob(mixed(*params, present=flags), z, 1)
    weights = torch.ones(4, 3, dtype=F64) if present is None else present.double()
    loc, scale = (torch.stack(column, 1) for column in zip(*params, strict=True))
    theirs = MixtureSameFamily(
        torch.distributions.Categorical(weights), Independent(torch.distributions.Normal(loc, scale), 1)
    )
    torch.testing.assert_close(ours, theirs.log_prob(z))


def test_every_subset_is_in_a_mixture_of_products(prior, experts):
    assert [" ".join(s) for s in subsets(NAMES)] == ["a", "b", "c", "a b", "a c", "b c", "a b c"]
    q = MoPoE(experts, prior)
    assert [[str(c) for c in p.conditions] for p in q.parts] == [list(s) for s in subsets(NAMES)]
    assert all(p.parts[0] is prior for p in q.parts)
    official = MoPoE(experts, prior, prior_in="full")
    assert [p.parts[0] is prior if p.parts else False for p in official.parts] == [False] * 6 + [True]


def test_one_encoder_call_per_modality_for_all_subsets(prior, experts, decoders):
    rows = {m: torch.randn(B, X) for m in NAMES}
    for kind, formula in losses(prior, experts, decoders).items():
        formula(**rows)
        for call in (formula, formula.interpret):
            Counted.calls = 0
            call(**rows)
            assert Counted.calls == 3, kind


def test_stratified_draws_every_component_and_samples_times(prior, experts, decoders, rows):
    """K draws of each expert on axes of their own: the value equals an explicit sum over both."""
    joint = prior * decoders[0] * decoders[1] * decoders[2]
    q = MoE(experts)
    loss = log(E(q, ratio(joint, q), gradient="stratified", samples=4)).double()
    noise = loss.noise(**rows)
    assert noise["z"].shape == (3, 4, B, 1 + Z)
    params = mixed(*(e.params(rows[m]) for e, m in zip(experts, NAMES, strict=True)))
    w = []
    for e, m, n in zip(experts, NAMES, noise["z"], strict=True):
        loc, scale = e.params(rows[m])
        for k in range(4):
            z = loc + scale * n[k, :, 1:]
            w.append(joint.log_prob(z=z, **rows) - q.family.log_prob(params, z, 1))
    expected = torch.stack(w).logsumexp(0) - torch.tensor(12.0, dtype=F64).log()
    torch.testing.assert_close(loss(**rows, noise=noise).value, expected)


def test_dreg_of_a_mixture_moves_the_draws_alone(prior, experts, decoders, rows):
    """sg(q) of the whole mixture: the gradient equals that of explicit weights with all densities detached."""
    joint, q = prior * decoders[0] * decoders[1] * decoders[2], MoE(experts)
    loss = (-each(q, lambda e: log(E(e, ratio(joint, sg(q)), gradient="dreg", samples=4)))).double()
    noise = loss.noise(**rows)
    params = [e.params(rows[m]) for e, m in zip(experts, NAMES, strict=True)]
    stopped = mixed(*((loc.detach(), scale.detach()) for loc, scale in params))
    surrogate = 0.0
    for (loc, scale), n in zip(params, noise.values(), strict=True):
        z = loc + scale * n
        many = {m: x.expand(4, B, X) for m, x in rows.items()}
        logw = joint.log_prob(z=z, **many) - q.family.log_prob(tuple(p.expand(4, *p.shape) for p in stopped), z, 1)
        share = logw.detach().softmax(0)
        surrogate = surrogate - (share**2 * logw).sum(0) / 3
    encoders = [p for e in experts for p in e.parameters()]
    ours = torch.autograd.grad(loss(**rows, noise=noise).value.sum(), encoders)
    theirs = torch.autograd.grad(surrogate.sum(), encoders)
    torch.testing.assert_close(ours, theirs)


# ----------------------------------------------------------------------------------------------------------- absences


def test_code_equals_interpreter_with_and_without_flags(loss, rows):
    for present in (None, HERE):
        given = dict(rows) if present is None else {**rows, "present": present}
        noise = loss.noise(**given)
        one, two = loss(**given, noise=noise), loss.interpret(**given, noise=noise)
        torch.testing.assert_close(one.value, two.value)
        torch.testing.assert_close(gradient(one.value, loss), gradient(two.value, loss))
        assert one.terms.keys() == two.terms.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_absent_is_removed_in_value_and_gradient(kind, prior, experts, decoders, rows):
    """Rows with the same set of modalities have the loss of a formula that never heard of the others."""
    loss = losses(prior, experts, decoders)[kind].double()
    noise = loss.noise(**rows, present=HERE)
    value = loss(**rows, present=HERE, noise=noise).value
    for held in ("abc", "ac", "bc", "c"):
        chosen = [m for m in NAMES if m in held]
        same = torch.stack([HERE[m] == (m in held) for m in "ab"]).all(0).nonzero().flatten()
        if not len(same):
            continue
        small = _without(kind, prior, experts, decoders, chosen).double()
        own = {m: rows[m][same] for m in chosen}
        want = small(**own, noise=_noise_of(kind, noise, same, chosen, small, own)).value
        torch.testing.assert_close(value[same], want)
        weights = [p for e in (*experts, *decoders) for p in e.parameters()]
        ours, theirs = (
            torch.autograd.grad(v.sum(), weights, allow_unused=True, retain_graph=True) for v in (value[same], want)
        )
        for g, w, p in zip(ours, theirs, weights, strict=True):
            torch.testing.assert_close(torch.zeros_like(p) if g is None else g, torch.zeros_like(p) if w is None else w)


def _without(kind, prior, experts, decoders, chosen):
    """The loss of a kind for some modalities alone."""
    qs = [e for e, m in zip(experts, NAMES, strict=True) if m in chosen]
    ps = [d for d, m in zip(decoders, NAMES, strict=True) if m in chosen]
    joint, likelihood = prior, None
    for p in ps:
        joint = joint * p
        likelihood = log(p) if likelihood is None else likelihood + log(p)
    q_mix, q_both = MoE(qs), MoPoE(qs, prior)
    q_prod, q_alone = PoE([prior, *qs]), PoE(qs)
    return {
        "poe": lambda: KL(q_prod, prior) - E(q_prod, likelihood),
        "moe": lambda: -E(q_mix, log(joint) - log(q_mix), gradient="stratified"),
        "mopoe": lambda: -E(q_both, log(joint) - log(q_both), gradient="stratified"),
        "bound": lambda: each(q_both, lambda q: KL(q, prior)) - E(q_both, likelihood, gradient="stratified"),
        "iwae": lambda: -log(E(q_mix, ratio(joint, q_mix), gradient="stratified", samples=3)),
        "looser": lambda: -each(q_mix, lambda q: log(E(q, ratio(joint, sg(q_mix)), gradient="dreg", samples=3))),
        "mvtcae": lambda: each(qs, lambda q: KL(q_alone, q)) - E(q_alone, likelihood),
    }[kind]()


def _noise_of(kind, noise, same, chosen, small, own):
    """The noise of the components that are left, for these rows."""
    if kind == "looser":
        kept = [n for n, m in zip(noise.values(), NAMES, strict=True) if m in chosen]
        return dict(zip(small.noise(**own), (n[:, same] for n in kept), strict=True))
    if kind in ("moe", "iwae"):
        return {"z": noise["z"][[NAMES.index(m) for m in chosen]][..., same, :]}
    if kind in ("mopoe", "bound"):
        places = [i for i, s in enumerate(subsets(NAMES)) if set(s) <= set(chosen)]
        return {"z": noise["z"][places][..., same, :]}
    return {"z": noise["z"][same]}


def test_nothing_leaks_from_absent_rows(loss, rows):
    """R13: NaN where a row lacks its modality; value and gradient are those of any other number there."""
    broken = {m: x.clone() for m, x in rows.items()}
    for m, here in HERE.items():
        broken[m][~here] = torch.nan
    noise = loss.noise(**rows, present=HERE)
    clean = loss(**rows, present=HERE, noise=noise).value
    dirty = loss(**broken, present=HERE, noise=noise).value
    torch.testing.assert_close(dirty, clean, rtol=0, atol=0)
    torch.testing.assert_close(gradient(dirty, loss), gradient(clean, loss), rtol=0, atol=0)
    assert gradient(dirty, loss).isfinite().all()


def test_flags_that_are_all_set_change_nothing(loss, rows):
    every = {m: torch.ones(B, dtype=torch.bool) for m in NAMES}
    noise = loss.noise(**rows)
    torch.testing.assert_close(loss(**rows, present=every, noise=noise).value, loss(**rows, noise=noise).value)


def test_order_of_rows_changes_nothing(loss, rows):
    """R8: no component is chosen by its place in the batch."""
    order = torch.randperm(B)
    noise = loss.noise(**rows, present=HERE)
    value = loss(**rows, present=HERE, noise=noise).value
    turned = {k: n[order] if n.ndim == 2 else n[..., order, :] for k, n in noise.items()}
    other = loss(
        **{m: x[order] for m, x in rows.items()}, present={m: f[order] for m, f in HERE.items()}, noise=turned
    ).value
    torch.testing.assert_close(other, value[order])


def test_order_of_modalities_changes_nothing(prior, experts, decoders, rows):
    for e in (*experts, *decoders):
        e.double()
    turned = [experts[2], experts[0], experts[1]]
    for make in (lambda qs: PoE([prior, *qs]), MoE, lambda qs: MoPoE(qs, prior)):
        one, two = make(experts), make(turned)
        z = torch.randn(B, Z, dtype=F64)
        values = [q.log_prob(z=z, **rows) for q in (one, two)]
        torch.testing.assert_close(*values)


def test_a_row_without_anything_has_the_prior(prior, experts, decoders, rows):
    loss = KL(PoE([prior, *experts]), prior).double()
    none = {m: torch.arange(B) > 0 for m in NAMES}
    value = loss(**rows, present=none).value
    assert value[0].item() == pytest.approx(0.0, abs=1e-12)
    assert (value[1:] > 0).all()
    mixture = log(MoE(experts)).double()
    assert mixture(z=torch.zeros(B, Z, dtype=F64), **rows, present=none).value.isnan().tolist() == [True] + [False] * 5


def test_a_network_that_needs_what_a_row_lacks_is_refused(prior, experts, rows):
    loss = KL(experts[0], prior).double()
    with pytest.raises(FormulaError, match=r"q\(z\|a\) reads a, which some rows lack"):
        loss(a=rows["a"], present={"a": HERE["a"]})
    inside = each(MoE(experts[:2]), lambda q: KL(experts[1], prior)).double()
    with pytest.raises(FormulaError, match=r"q\(z\|b\) reads b"):
        inside(a=rows["a"], b=rows["b"], present={"b": HERE["b"]})


def test_gradient_of_an_absent_likelihood_is_zero(prior, rows):
    decode = Bernoulli("p(a|z)", nn.Linear(Z, X), shape=X)
    expert = Normal("q(z|b)", nn.Linear(X, 2 * Z), shape=Z)
    loss = E(PoE([prior, expert]), log(decode)).double()
    nobody = {"a": torch.zeros(B, dtype=torch.bool)}
    value = loss(**{m: rows[m] for m in "ab"}, present=nobody).value
    assert value.tolist() == [0.0] * B
    assert not torch.autograd.grad(value.sum(), list(decode.parameters()))[0].any()


@pytest.mark.parametrize("family", [Beta, Gamma, LogNormal, Normal])
def test_gradients_are_finite_where_zero_is_no_possible_value(family, prior):
    decode = family("p(a|z)", nn.Linear(Z, 2 * X), shape=X)
    loss = E(PoE([prior, Normal("q(z|b)", nn.Linear(X, 2 * Z), shape=Z)]), log(decode))
    value = loss(a=torch.rand(B, X), b=torch.randn(B, X), present={"a": HERE["a"]}, seed=0).value
    value.sum().backward()
    assert all(p.grad.isfinite().all() for p in loss.parameters())


# --------------------------------------------------------------------------------------------------- mean over experts


def test_mean_of_each_prints_as_a_mean_and_follows_the_present_set(prior, experts, rows):
    """R10: 1/M is printed, and over the experts that a row has."""
    q = MoE(experts)
    loss = each(q, lambda e: KL(e, prior)).double()
    assert repr(loss) == "<Expression 1/3 [KL(q(z|a) ‖ p(z)) + KL(q(z|b) ‖ p(z)) + KL(q(z|c) ‖ p(z))]>"
    assert loss.latex.startswith(r"\frac{1}{3}\left[ D_{\mathrm{KL}}\left[ q(z \mid a) \,\|\, p(z) \right] + D_")
    assert "<mfrac>" in mathml(loss.node)
    kls = torch.stack([KL(e, prior)(**{m: rows[m]}).value for e, m in zip(experts, NAMES, strict=True)])
    here = torch.stack([HERE["a"], HERE["b"], torch.ones(B, dtype=torch.bool)]).double()
    torch.testing.assert_close(loss(**rows).value, kls.mean(0))
    torch.testing.assert_close(loss(**rows, present=HERE).value, (here * kls).sum(0) / here.sum(0))


def test_mean_of_the_kls_bounds_the_kl_of_the_mixture(prior, experts, rows):
    q = MoPoE(experts, prior)
    bound = each(q, lambda component: KL(component, prior)).double()(**rows).value
    carlo = E(q, log(q) - log(prior), gradient="stratified", samples=4000).double()(**rows, seed=0).value
    assert (carlo < bound).all()


@pytest.mark.parametrize("wrong", [lambda q: 1.0, lambda q: q])
def test_each_refuses_what_is_no_expression(wrong, experts):
    with pytest.raises(FormulaError, match="each: expected f to return an expression"):
        each(MoE(experts), wrong)
    with pytest.raises(FormulaError, match="expected a mixture"):
        each([], log)


# ---------------------------------------------------------------------------------------------------------------- time


class Core(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4 + Z, 4)

    def forward(self, h, z):
        return torch.tanh(self.net(torch.cat((h, z), -1)))


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4 + X, 2 * Z)

    def forward(self, h, x):
        return self.net(torch.cat((h, x), -1))


def mrssm():
    """Two sensors, a recurrent state, and a product of experts at every step (MRSSM)."""
    core = Deterministic("h_t = f(h_{t-1}, z_{t-1})", Core(), shape=4)
    prior = Normal("p(z_t|h_t)", nn.Linear(4, 2 * Z), shape=Z)
    sight, touch = (Normal(f"q(z_t|h_t,{m}_t)", Both(), shape=Z) for m in ("x", "y"))
    heads = [Normal(f"p({m}_t|h_t,z_t)", Both2(), scale=1.0, shape=X) for m in ("x", "y")]
    q = PoE([prior, sight, touch])
    step = KL(q, prior) - log(heads[0]) - log(heads[1])
    return Sum("t", E(core * q, step), reset="first").double(), (core, prior, sight, touch, heads)


class Both2(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4 + Z, X)

    def forward(self, h, z):
        return self.net(torch.cat((h, z), -1))


def series(T=5):
    first = torch.zeros(3, T, dtype=torch.bool)
    first[:, 0] = True
    first[1, 2] = True
    present = torch.rand(3, T) > 0.4
    return {"x": torch.randn(3, T, X, dtype=F64), "y": torch.randn(3, T, X, dtype=F64), "first": first}, present


def test_flags_in_time_equal_a_loop_by_hand():
    """[B, T] flags: at every step the product is over the sensors that are there, and the carry goes on."""
    loss, (core, prior, sight, touch, heads) = mrssm()
    data, present = series()
    dirty = {**data, "y": torch.where(present[..., None], data["y"], torch.nan)}
    noise = loss.noise(**data, present={"y": present})
    value = loss(**dirty, present={"y": present}, noise=noise).value
    h, z = torch.zeros(3, 4, dtype=F64), torch.zeros(3, Z, dtype=F64)
    total = torch.zeros(3, dtype=F64)
    for t in range(5):
        keep = ~data["first"][:, t, None]
        h = core.net(h * keep, z * keep)
        p, x, y = prior.params(h), data["x"][:, t], data["y"][:, t]
        loc, scale = poe(p, sight.params(h, x), touch.params(h, y), present=(None, None, present[:, t]))
        z = loc + scale * noise["z"][:, t]
        total = total + normal.kl((loc, scale), p, 1) - heads[0].log_prob(x=x, h=h, z=z)
        total = total - torch.where(present[:, t], heads[1].log_prob(y=y, h=h, z=z), 0.0)
    torch.testing.assert_close(value, total)
    one = loss.interpret(**dirty, present={"y": present}, noise=noise).value
    torch.testing.assert_close(one, value)
    torch.testing.assert_close(gradient(one, loss), gradient(value, loss))
    assert gradient(value, loss).isfinite().all()


def test_a_sensor_that_is_never_there_is_no_sensor():
    loss, (core, prior, sight, _, heads) = mrssm()
    data, _ = series()
    never = torch.zeros(3, 5, dtype=torch.bool)
    noise = loss.noise(**data, present={"y": never})
    q = PoE([prior, sight])
    alone = Sum("t", E(core * q, KL(q, prior) - log(heads[0])), reset="first").double()
    given = {k: v for k, v in data.items() if k != "y"}
    torch.testing.assert_close(loss(**data, present={"y": never}, noise=noise).value, alone(**given, noise=noise).value)


# ------------------------------------------------------------------------------------------ what others got wrong: D, R


def test_d8_two_equal_experts_have_the_density_of_one():
    parts = [Normal(f"q(z|{m})", {"loc": torch.zeros(1), "scale": torch.ones(1)}, shape=1) for m in "ab"]
    q = MoE(parts)
    value = q.log_prob(z=torch.zeros(1, 1), a=torch.zeros(1, 1), b=torch.zeros(1, 1))
    assert value.item() == pytest.approx(-0.9189, abs=1e-4)


def test_d9_an_input_changed_in_place_is_seen(prior, experts):
    q, x = PoE([prior, *experts]), {m: torch.randn(B, X) for m in NAMES}
    before = q.params(*x.values())[0].detach().clone()
    x["b"].add_(1.0)
    assert not torch.allclose(q.params(*x.values())[0], before)


def test_d10_a_product_with_a_missing_modality_inside_a_joint(prior, experts, decoders, rows):
    """E over q(z|a,b,c) q(w|z), and the density of that joint, where rows lack b."""
    further = Normal("q(w|z)", nn.Linear(Z, 2 * Z), shape=Z)
    q = PoE([prior, *experts])
    joint = q * further
    loss = E(joint, log(joint) + log(decoders[1])).double()
    value = loss(**rows, present={"b": HERE["b"]}, seed=0).value
    assert value.isfinite().all()
    small = PoE([prior, experts[0], experts[2]])
    without = E(small * further, log(small * further)).double()
    noise = loss.noise(**rows, present={"b": HERE["b"]})
    ours = loss(**rows, present={"b": HERE["b"]}, noise=noise).value
    theirs = without(a=rows["a"], c=rows["c"], noise=noise).value
    torch.testing.assert_close(ours[~HERE["b"]], theirs[~HERE["b"]])


def test_d11_a_product_over_a_set_of_inputs_of_one_network(prior):
    """One encoder for every element of a set: renamed factors share their weights."""
    q = Normal("q(z|x)", nn.Linear(X, 2 * Z), shape=Z).double()
    xs = torch.randn(4, B, X, dtype=F64)
    product = PoE([prior, *(q.rename(x=f"x_{k}") for k in range(1, 5))])
    loc, scale = product.params(*xs)
    each_loc, each_scale = q.params(xs)
    precision = 1 + each_scale.pow(-2).sum(0)
    torch.testing.assert_close(scale, precision.rsqrt())
    torch.testing.assert_close(loc, (each_loc * each_scale.pow(-2)).sum(0) / precision)
    assert len(list(KL(product, prior).parameters())) == 2


def test_d16_conditional_components_print_and_sample(experts, rows):
    q = MoE(experts[:2])
    assert str(q) == "q(z|a,b)"
    assert q.definition == "q(z|a,b) = 1/2 (q(z|a) + q(z|b))"
    assert q.sample(sample_shape=(5,), a=rows["a"].float(), b=rows["b"].float()).shape == (5, B, Z)


def test_r1_a_mixture_is_a_sum_of_densities_not_of_logs():
    parts = [(torch.zeros(1, 1), torch.ones(1, 1)), (torch.full((1, 1), 4.0), torch.ones(1, 1))]
    family = MoE([Normal(f"q(z|{m})", nn.Linear(1, 2), shape=1) for m in "ab"]).family
    value = family.log_prob(mixed(*parts), torch.zeros(1, 1), 1)
    assert value.item() == pytest.approx(-0.9189 - 0.6931 + 0.0003, abs=1e-4)  # log ½(1 + e^−8) − ½ log 2π


@pytest.mark.parametrize("family", [Normal, Laplace])
def test_r2_components_are_drawn_by_chance_in_a_batch_of_one(family):
    parts = [family(f"q(z|{m})", {"loc": torch.tensor([at]), "scale": torch.tensor([0.1])}, shape=1)
             for m, at in (("a", -5.0), ("b", 0.0), ("c", 5.0))]  # fmt: skip
    q, one = MoE(parts), {m: torch.zeros(1, 1) for m in NAMES}
    drawn = torch.cat([q.sample(**one, seed=s) for s in range(300)]).flatten()
    shares = [(drawn - at).abs().lt(2.5).float().mean().item() for at in (-5.0, 0.0, 5.0)]
    assert all(abs(s - 1 / 3) < 0.1 for s in shares), shares


def test_r3_training_on_the_same_tensors_goes_on(prior, experts, decoders):
    loss = losses(prior, experts, decoders)["poe"].mean()
    x = {m: torch.randn(B, X) for m in NAMES}
    optimiser = torch.optim.SGD(loss.parameters(), lr=0.01)
    values = []
    for _ in range(4):
        optimiser.zero_grad()
        value = loss(**x, seed=0).value
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 4


def test_r4_equal_formulas_in_time_have_equal_values():
    _, (core, prior, sight, touch, heads) = mrssm()
    q = PoE([prior, sight, touch])
    f, g = KL(q, prior), log(heads[0] * heads[1])

    def over(step):
        return Sum("t", step, reset="first")

    same = [
        over(E(core * q, f - g)),
        over(E(core * q, f) - E(core * q, g)),
        over(E(core * q, f)) - over(E(core * q, g)),
        -over(E(core * q, g - f)),
    ]
    data, present = series()
    values = [e.double()(**data, present={"y": present}, seed=0).value for e in same]
    for value in values[1:]:
        torch.testing.assert_close(value, values[0])


def test_r9_flags_survive_collation_and_copies(prior, experts, decoders):
    """Flags are tensors beside the data: collating rows, moving and copying a loss leave their meaning."""
    loss = losses(prior, experts, decoders)["mopoe"].mean().double()
    items = [
        {**{m: torch.randn(X, dtype=F64) for m in NAMES}, "present": {"b": torch.tensor(k % 2 == 0)}} for k in range(4)
    ]
    batch = default_collate(items)
    assert batch["present"]["b"].tolist() == [True, False, True, False]
    value = loss(**batch, seed=0).value
    assert value != loss(**{**batch, "present": {}}, seed=0).value
    torch.testing.assert_close(copy.deepcopy(loss)(**batch, seed=0).value, value)
    torch.testing.assert_close(nn.Sequential(loss)[0](**batch, seed=0).value, value)


def test_r12_the_prior_expert_is_written_and_printed(prior, experts):
    assert PoE([prior, *experts]).definition == "q(z|a,b,c) ∝ p(z) q(z|a) q(z|b) q(z|c)"
    assert PoE(experts).definition == "q(z|a,b,c) ∝ q(z|a) q(z|b) q(z|c)"
    loss = KL(PoE([prior, *experts]), prior)
    assert "q(z|a,b,c) ∝ p(z) q(z|a) q(z|b) q(z|c)" in loss.code


def test_letters_as_subscripts_are_indices_and_cannot_tell_modalities_apart(prior):
    """x_a and x_b would both be the input ``x``: refused, not read as one."""
    parts = [Normal(f"q(z|x_{m})", nn.Linear(X, 2 * Z), shape=Z) for m in "ab"]
    with pytest.raises(FormulaError, match="both be 'x' in a call"):
        KL(PoE([prior, *parts]), prior)(x=torch.zeros(1, X))


def test_parts_of_a_mixture_with_other_settings_are_refused():
    """The settings of the first were those of all."""
    q_a = OneHot("q(z|a)", nn.Linear(X, 3), shape=3, unimix=0.5)
    with pytest.raises(FormulaError) as refused:
        MoE([q_a, OneHot("q(z|b)", nn.Linear(X, 3), shape=3)])
    assert str(refused.value) == (
        "MoE: its parts are mixed as one family, one_hot, with the same settings\n"
        "  declared by | unimix\n"
        "  q(z|a)      | 0.5\n"
        "  q(z|b)      | 0.0\n"
        "give all parts the same unimix"
    )
    q_b = OneHot("q(z|b)", nn.Linear(X, 3), shape=3, unimix=0.5)
    a, b, k = torch.randn(B, X), torch.randn(B, X), torch.arange(B) % 3
    shares = [0.5 * q.net(x).softmax(-1) + 0.5 / 3 for q, x in ((q_a, a), (q_b, b))]
    expected = (0.5 * (shares[0] + shares[1]))[torch.arange(B), k].log()
    torch.testing.assert_close(log(MoE([q_a, q_b]))(a=a, b=b, z=torch.eye(3)[k]).value, expected)


def test_parts_of_a_mixture_keep_their_own_floors():
    family = [LaplaceFamily(min_scale=floor) for floor in (0.5, 0.0)]
    parts = [Factor(f"q(z|{n})", nn.Linear(X, 2), family=f, shape=1) for n, f in zip("ab", family, strict=True)]
    a, b, z = torch.randn(B, X), torch.randn(B, X), torch.randn(B, 1)
    each = []
    for part, x, floor in zip(parts, (a, b), (0.5, 0.0), strict=True):
        loc, raw = part.net(x).unbind(-1)
        each.append(torch.distributions.Laplace(loc, nn.functional.softplus(raw) + floor).log_prob(z[:, 0]))
    expected = torch.stack(each).logsumexp(0) - torch.tensor(2.0).log()
    torch.testing.assert_close(log(MoE(parts))(a=a, b=b, z=z).value, expected)


def test_experts_whose_parameters_have_axes_of_their_own_are_refused():
    parts = [MultivariateNormal(f"q(z|{n})", nn.Linear(X, 5), shape=2) for n in "ab"]
    with pytest.raises(FormulaError, match="MoE: multivariate_normal has parameters with other axes than its values"):
        MoE(parts)
