"""Rows and steps that lack their data: series read as a whole, flags of a wrong shape, masks over NaN, weights."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal as Gauss
from torch.distributions import kl_divergence

from tests.formula.defects.both import PATHS, finite_gradients, refused, run
from worldformula import KL, Deterministic, Dirichlet, E, Mean, MoE, Normal, PoE, Sum, Value, log, norm2, total
from worldformula.errors import WorldformulaError

D = 2


class Pooled(nn.Module):
    """A network of a whole series [B, T, 3]: the mean over its steps, then one layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2 * D)

    def forward(self, a):
        return self.layer(a.mean(1))


@pytest.fixture
def experts():
    torch.manual_seed(0)
    series = Normal("q(z|a_{1:T})", Pooled(), shape=D)
    still = Normal("q(z|x)", nn.Linear(2, 2 * D), shape=D)
    return Normal("p(z)", shape=D), series, still


def product(experts, a, x, has_a, has_x):
    """The precision-weighted product by hand, an absent expert left out; [B, D] each."""
    _, series, still = experts
    precision, mean = torch.ones(len(x), D), torch.zeros(len(x), D)
    for (loc, scale), has in ((series.params(a), has_a), (still.params(x), has_x)):
        weight = torch.where(has[:, None], scale**-2, 0.0)
        precision, mean = precision + weight, mean + torch.where(has[:, None], loc * scale**-2, 0.0)
    return Gauss(mean / precision, precision**-0.5)


STANDARD = Gauss(torch.zeros(D), torch.ones(D))


def batch(B, T):
    a, x = torch.randn(B, T, 3), torch.randn(B, 2)
    has = torch.ones(B, dtype=torch.bool)
    has[1::2] = False
    return a, x, has


# ------------------------------------------------------------------------------------------ a whole series is absent


@PATHS
@pytest.mark.parametrize(("B", "T"), [(5, 4), (4, 4), (3, 1), (2, 3)])
def test_an_absent_series_leaves_its_expert_out(experts, path, B, T):
    a, x, has = batch(B, T)
    loss = KL(PoE(experts), experts[0])
    expected = kl_divergence(product(experts, a, x, has, torch.ones(B, dtype=torch.bool)), STANDARD).sum(-1)
    torch.testing.assert_close(run(loss, path, a=a, x=x, present={"a": has}).value, expected)


@PATHS
@pytest.mark.parametrize(("B", "T"), [(5, 3), (4, 4)])
def test_nan_in_an_absent_series_reaches_neither_value_nor_gradient(experts, path, B, T):
    a, x, has = batch(B, T)
    loss = KL(PoE(experts), experts[0])
    expected = kl_divergence(product(experts, a, x, has, torch.ones(B, dtype=torch.bool)), STANDARD).sum(-1)
    a[~has] = torch.nan
    value = run(loss, path, a=a, x=x, present={"a": has}).value
    torch.testing.assert_close(value, expected)
    finite_gradients(value, loss)


@PATHS
def test_an_absent_series_in_a_mixture_of_experts(experts, path):
    a, x, has = batch(5, 3)
    _, series, still = experts
    loss = E(MoE([series, still]), log(experts[0]), gradient="stratified")
    noise = loss.noise(a=a, x=x)
    value = run(loss, path, a=a, x=x, present={"a": has}, noise=noise).value
    # Where the series is absent, all weight is on the other expert: the value does not change with the series.
    other = run(loss, path, a=a + 100.0, x=x, present={"a": has}, noise=noise).value
    torch.testing.assert_close(value[~has], other[~has])
    assert (value[has] - other[has]).abs().min() > 1e-3


@PATHS
def test_both_the_series_and_the_picture_may_be_absent(experts, path):
    a, x, has = batch(5, 4)
    only = torch.tensor([True, True, False, False, True])
    loss = KL(PoE(experts), experts[0])
    expected = kl_divergence(product(experts, a, x, has, only), STANDARD).sum(-1)
    torch.testing.assert_close(run(loss, path, a=a, x=x, present={"a": has, "x": only}).value, expected)


@pytest.mark.parametrize("shape", [(4, 2), (4, 1), (3,), ()])
def test_flags_are_one_for_each_row(experts, shape):
    prior, _, still = experts
    with refused("present", "one flag for each row"):
        KL(PoE([prior, still]), prior)(x=torch.randn(4, 2), present={"x": torch.ones(shape, dtype=torch.bool)})


@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4), (5, 3), (4,), (5, 4, 1)])
def test_flags_of_a_whole_series_are_one_for_each_row(experts, shape):
    prior, series, _ = experts
    with refused("present", "one flag for each row"):
        KL(PoE([prior, series]), prior)(a=torch.randn(5, 4, 3), present={"a": torch.ones(shape, dtype=torch.bool)})


# --------------------------------------------------------------------------------------------------- masks over steps

MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 1]]).bool()


@pytest.fixture
def step():
    torch.manual_seed(0)
    return Normal("p(x_t|y_t)", nn.Linear(2, 2), shape=1)


def series():
    torch.manual_seed(1)
    return torch.randn(3, 4, 1), torch.randn(3, 4, 2)


def by_step(step, x, y):
    return Gauss(*step.params(y)).log_prob(x).sum(-1)


OVER = pytest.mark.parametrize("over", [Sum, Mean])


@PATHS
@OVER
@pytest.mark.parametrize("padded", ["x", "y", "both"])
def test_padding_of_nan_gives_finite_gradients(step, over, path, padded):
    x, y = series()
    loss = over("t", log(step), mask="m")
    each = torch.where(MASK, by_step(step, x, y), 0.0)
    expected = each.sum(1) if over is Sum else each.sum(1) / MASK.sum(1)
    wanted = torch.autograd.grad(expected.sum(), [*step.parameters()])
    for data in [x] if padded == "x" else [y] if padded == "y" else [x, y]:
        data[~MASK] = torch.nan
    value = run(loss, path, x=x, y=y, m=MASK).value
    torch.testing.assert_close(value, expected)
    for ours, theirs in zip(finite_gradients(value, loss), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


@PATHS
@pytest.mark.parametrize("settings", [{"until": "last"}, {"burn_in": 1}])
def test_steps_that_do_not_count_for_another_reason_give_finite_gradients(step, path, settings):
    x, y = series()
    last = torch.tensor([[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    counts = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    counts = counts if "until" in settings else torch.arange(4).expand(3, 4) >= 1
    expected = torch.where(counts, by_step(step, x, y), 0.0).sum(1)
    x[~counts] = torch.nan
    loss = Sum("t", log(step), **settings)
    value = run(loss, path, x=x, y=y, **({"last": last} if "until" in settings else {})).value
    torch.testing.assert_close(value, expected)
    finite_gradients(value, loss)


@PATHS
@pytest.mark.parametrize("samples", [None, 3])
def test_padding_of_nan_under_an_elbo_of_every_step(path, samples):
    torch.manual_seed(0)
    q, p = Normal("q(z_t|x_t)", nn.Linear(1, 4), shape=D), Normal("p(x_t|z_t)", nn.Linear(D, 2), shape=1)
    loss = Sum("t", KL(q, Normal("p(z_t)", shape=D)) - E(q, log(p), samples=samples), mask="m")
    x, _ = series()
    lead = () if samples is None else (samples,)
    noise = torch.randn(*lead, 3, 4, D)
    loc, scale = q.params(x)
    each = kl_divergence(Gauss(loc, scale), STANDARD).sum(-1)
    drawn = Gauss(*p.params(loc + scale * noise)).log_prob(x).sum(-1)
    each = each - (drawn if samples is None else drawn.mean(0))
    expected = torch.where(MASK, each, 0.0).sum(1)
    x[~MASK] = torch.nan
    value = run(loss, path, x=x, m=MASK, noise={"z": noise}).value
    torch.testing.assert_close(value, expected)
    finite_gradients(value, loss)


@PATHS
def test_padding_of_nan_at_the_end_of_what_a_carry_reads(path):
    torch.manual_seed(0)
    layer = nn.Linear(D + 1, D)
    core = Deterministic("h_t = f(h_{t-1},x_t)", _Cat(layer), shape=D)
    p = Normal("p(x_t|h_{t-1})", nn.Linear(D, 2), shape=1)
    loss = Sum("t", E(core, log(p)), mask="m")
    keep = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    x, _ = series()
    h, expected = torch.zeros(3, D), 0.0
    for t in range(4):
        expected = expected + torch.where(keep[:, t], Gauss(*p.params(h)).log_prob(x[:, t]).sum(-1), 0.0)
        h = layer(torch.cat((h, x[:, t]), -1)).tanh()
    x[~keep] = torch.nan
    value = run(loss, path, x=x, m=keep).value
    torch.testing.assert_close(value, expected)
    finite_gradients(value, loss)


class _Cat(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, h, x):
        return self.layer(torch.cat((h, x), -1)).tanh()


WEIGHTS = torch.tensor([[1.0, 0.5, 0.25, 0.0], [0.0, 0.0, 0.1, 0.0], [2.0, 1.0, 1.0, 3.0]])


@PATHS
@OVER
def test_a_mask_of_weights_weighs(step, over, path):
    x, y = series()
    expected = (WEIGHTS * by_step(step, x, y)).sum(1)
    expected = expected if over is Sum else expected / WEIGHTS.sum(1)
    torch.testing.assert_close(run(over("t", log(step), mask="m"), path, x=x, y=y, m=WEIGHTS).value, expected)


@PATHS
def test_weights_and_an_end_of_the_sequence_together(step, path):
    x, y = series()
    last = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    alive = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    loss = Mean("t", log(step), mask="m", until="last", burn_in=1)
    weights = WEIGHTS * alive * (torch.arange(4) >= 1)
    expected = (weights * by_step(step, x, y)).sum(1) / weights.sum(1)
    torch.testing.assert_close(run(loss, path, x=x, y=y, m=WEIGHTS, last=last).value, expected)


@PATHS
@OVER
def test_a_row_without_any_step_is_zero_and_its_gradient_finite(step, over, path):
    x, y = series()
    empty = torch.zeros(3, 4)
    x[:] = torch.nan
    value = run(over("t", log(step), mask="m"), path, x=x, y=y, m=empty).value
    assert torch.equal(value, torch.zeros(3))
    finite_gradients(value, step)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float64])
def test_flags_of_any_type_of_number(step, dtype):
    x, y = series()
    expected = torch.where(MASK, by_step(step, x, y), 0.0).sum(1)
    torch.testing.assert_close(Sum("t", log(step), mask="m")(x=x, y=y, m=MASK.to(dtype)).value, expected)


def test_negative_or_missing_weights_are_refused_or_weigh(step):
    x, y = series()
    weights = torch.tensor([[1.0, -1.0, 0.0, 0.5]]).expand(3, 4)
    try:
        value = Sum("t", log(step), mask="m")(x=x, y=y, m=weights).value
    except WorldformulaError as error:
        if "m" not in str(error):
            raise
    else:
        torch.testing.assert_close(value, (weights * by_step(step, x, y)).sum(1))


def test_what_fills_a_step_that_does_not_count_need_not_be_possible():
    """No vector of equal numbers is a distribution over three classes, whatever the numbers."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.Softplus())
    p = Dirichlet("p(w_t|x_t)", lambda x: {"concentration": net(x)}, shape=3)
    loss = Sum("t", log(p), mask="valid").mean()
    w, x, valid = torch.rand(2, 4, 3).softmax(-1), torch.rand(2, 4, 2), torch.ones(2, 4)
    w[:, 3], valid[:, 3] = float("nan"), 0
    right = torch.distributions.Dirichlet(net(x[:, :3])).log_prob(w[:, :3]).sum(1).mean()
    for path in (loss, loss.interpret):
        out = path(w=w, x=x, valid=valid)
        torch.testing.assert_close(out.value, right)
        (slope,) = torch.autograd.grad(out.value, net[0].weight)
        assert slope.isfinite().all()


@PATHS
def test_nan_where_a_row_or_a_step_does_not_count_beside_a_mask(path):
    """The first call looks at what both kinds of flags leave."""
    y, h = torch.randn(3, 2, D), torch.randn(3, D)
    mask, has = (torch.tensor(f) == 1 for f in ([[1, 0], [1, 1], [0, 1]], [[1, 1], [0, 1], [1, 0]]))
    loss = Sum("t", log(Normal("p(y_t|h)", lambda h: h, shape=D, scale=1.0)), mask="m")
    expected = torch.where(mask & has, Gauss(h[:, None], 1.0).log_prob(y).sum(-1), 0.0).sum(1)
    dirty = y.where((mask & has)[..., None], float("nan"))
    torch.testing.assert_close(run(loss, path, y=dirty, h=h, m=mask, present={"y": has}).value, expected)


@PATHS
def test_present_is_a_mapping_of_flags(path):
    loss = log(Normal("p(y)", shape=D))
    with refused("present", "flags by variable"):
        run(loss, path, y=torch.zeros(3, D), present=torch.ones(3))


# ------------------------------------------------------------------------------- values made of what some rows lack


@PATHS
def test_a_value_that_is_made_of_an_absent_input(path):
    h = Deterministic("h = f(x)", nn.Linear(2, 3), shape=3)
    x, has = torch.randn(4, 2), torch.tensor([True, False, True, True])
    for loss in (E(h, total(Value("h", shape=3))), norm2(Value("x", shape=2))):
        with refused("depends on x", "some rows lack", "which is 0 there", "PoE"):
            run(loss, path, x=x, present={"x": has})
    found = run(E(h, total(Value("h", shape=3))), path, x=x).value
    torch.testing.assert_close(found, h.net(x).sum(1))


@PATHS
def test_a_carry_that_is_made_of_an_absent_input(path):
    h = Deterministic("h_t = f(h_{t-1},x_t)", torch.add, shape=2)
    decode = Normal("p(y_t|h_{t-1})", nn.Linear(2, 2), shape=2, scale=1.0)
    x, y, has = torch.randn(3, 4, 2), torch.randn(3, 4, 2), torch.rand(3, 4) < 0.6
    with refused("h_t = f(h_{t-1},x_t)", "made of x", "later steps", "PoE"):
        run(Sum("t", E(h, log(decode))), path, x=x, y=y, present={"x": has})


@PATHS
def test_an_expert_that_reads_what_is_made_of_an_absent_input_is_left_out(path):
    """Its draw may be read by arithmetic and carried on."""
    torch.manual_seed(0)
    f, g = nn.Linear(2, 3), nn.Linear(3, 4)
    prior, e = Normal("p(z)", shape=2), Deterministic("e = f(x)", f, shape=3)
    loss = E(e * PoE([prior, Normal("q(z|e)", g, shape=2)]), total(Value("z", shape=2)))
    x, has = torch.randn(4, 2), torch.tensor([True, False, True, False])
    loc, scale = g(f(x))[:, :2], nn.functional.softplus(g(f(x))[:, 2:])
    weight = torch.where(has[:, None], scale**-2, 0.0)
    expected = (loc * weight / (1 + weight)).sum(1)
    torch.testing.assert_close(run(loss, path, x=x, present={"x": has}, deterministic=True).value, expected)


@PATHS
def test_an_expert_of_the_step_before_is_refused_as_the_flags_are_those_of_another_step(path):
    prior, q = Normal("p(z_t)", shape=2), Normal("q(z_t|x_{t-1})", nn.Linear(2, 4), shape=2)
    x, has = torch.randn(2, 3, 2), torch.tensor([[True, False, True], [True, True, True]])
    with refused("x_{t-1}", "some rows lack", "a variable of their own"):
        run(Sum("t", KL(PoE([prior, q]), prior)), path, x=x, present={"x": has})
