"""What a time subscript means: where each network runs, what is carried, where it restarts."""

import re

import pytest
import torch
from torch import nn

from tests.formula.models import A, B, D, G, Join, K, T, X, Z, gradients, rssm, sequences
from worldformula import KL, Deterministic, E, Mean, Normal, OneHot, Sum, TwoHot, log, maximum, sg
from worldformula.errors import FormulaError

NETWORKS = ("enc", "f", "q_z_given_h_e", "p_z_given_h", "p_x_given_h_z", "p_r_given_h_z")


def blocks(code):
    """The emitted function cut at its comments: before the loop, in it, after it."""
    body = code.split("# before the loop")[1]
    before, _, rest = body.partition("# in the loop")
    loop, _, after = rest.partition("# after the loop")
    return before, loop, after


def test_the_encoder_runs_before_core_and_posterior_in_prior_decoder_and_heads_after_the_loop():
    places = [
        [n for n in NETWORKS if re.search(rf"\b{n}\(", re.sub("  #.*", "", block))] for block in blocks(rssm().code)
    ]
    assert places == [["enc"], ["f", "q_z_given_h_e"], ["p_z_given_h", "p_x_given_h_z", "p_r_given_h_z"]]


def test_each_network_runs_as_often_as_its_place_says():
    loss, data = rssm(), sequences()
    calls = {}
    for name, net in loss.named_children():
        net.register_forward_hook(lambda _, args, __, name=name: calls.setdefault(name, []).append(len(args[0])))
    loss(**data)
    in_the_loop = ("f", "q_z_given_h_e")
    assert calls == {name: [B] * T if name in in_the_loop else [B * T] for name in NETWORKS}


def test_the_design_formula_as_written():
    """Shapes only where a carry starts from zeros; reward and image without."""
    embed = Deterministic("e_t = enc(x_t)", Join(X, D))
    core = Deterministic("h_t = f(h_{t-1}, z_{t-1}, a_{t-1})", Join(D + G * K + A, D), shape=D)
    prior = OneHot("p(z_t|h_t)", Join(D, G * K), unimix=0.01)
    post = OneHot("q(z_t|h_t,e_t)", Join(2 * D, G * K), shape=(G, K), unimix=0.01)
    image = Normal("p(x_t|h_t,z_t)", Join(D + G * K, 2 * X))
    reward = TwoHot("p(r_t|h_t,z_t)", Join(D + G * K, 255))
    dyn, rep = KL(sg(post), prior), KL(post, sg(prior))
    step = E(embed * core * post, 1.0 * maximum(dyn, 1) + 0.1 * maximum(rep, 1) - log(image) - log(reward))
    loss = Sum("t", step, reset="first").mean()
    data = sequences()
    torch.testing.assert_close(loss(**data, seed=0).value, loss.interpret(**data, seed=0).value)
    samples = loss(**data).samples
    assert {k: tuple(v.shape) for k, v in samples.items()} == {"e": (B, T, D), "h": (B, T, D), "z": (B, T, G, K)}
    assert r"\mathbb{E}_{e_{t} = \mathrm{enc}(x_{t})" in str(loss)


def vrnn():
    """VRNN (Chung et al. 2015): the recurrence reads the draw, the prior reads the past."""
    core = Deterministic("h_t = f(x_t, z_t, h_{t-1})", Join(X + Z + D, D), shape=D)
    q = Normal("q(z_t|x_t,h_{t-1})", Join(X + D, 2 * Z, 3.0), shape=Z)
    prior, decode = Normal("p(z_t|h_{t-1})", Join(D, 2 * Z), shape=Z), Normal("p(x_t|z_t,h_{t-1})", Join(Z + D, 2 * X))
    return q, prior, decode, core, Sum("t", E(q * core, KL(q, prior) - log(decode)), reset="first")


def test_vrnn_against_a_loop_by_hand():
    q, prior, decode, core, loss = vrnn()
    data = {k: v for k, v in sequences().items() if k in ("x", "first")}
    noise = torch.randn(B, T, Z)
    h, total = torch.zeros(B, D), torch.zeros(B)
    for t in range(T):
        x, h = data["x"][:, t], h * ~data["first"][:, t, None]
        loc, scale = q.params(x, h)
        z = loc + scale * noise[:, t]
        d = [torch.distributions.Normal(*p) for p in ((loc, scale), prior.params(h), decode.params(z, h))]
        total = total + torch.distributions.kl_divergence(d[0], d[1]).sum(-1) - d[2].log_prob(x).sum(-1)
        h = core.net(x, z, h)
    out = loss(**data, noise={"z": noise})
    torch.testing.assert_close(out.value, total)
    torch.testing.assert_close(gradients(out.value.sum(), loss), gradients(total.sum(), loss))
    torch.testing.assert_close(out.last["h"], h)


def test_mean_over_time_and_terms():
    q, prior, decode, core, total = vrnn()
    mean = Mean("t", E(q * core, KL(q, prior) - log(decode)), reset="first").mean()
    data = {k: v for k, v in sequences().items() if k in ("x", "first")}
    out = mean(**data, seed=0)
    kl, log_p = out.terms.values()
    torch.testing.assert_close(out.value, kl - log_p)
    torch.testing.assert_close(out.value * T, total(**data, seed=0).value.mean())


def test_learnable_initial_state():
    start = nn.Parameter(torch.ones(D))
    core = Deterministic("h_t = f(h_{t-1}, x_t)", lambda h, x: h + x[:, :D])
    p = Normal("p(x_t|h_t)", nn.Linear(D, 2 * X))
    loss = Sum("t", E(core, log(p)), reset="first", initial={"h": start})
    assert "initial_state.h" in loss.state_dict()
    data = {k: v for k, v in sequences().items() if k in ("x", "first")}
    out = loss(**data)
    x = data["x"][..., :D]
    torch.testing.assert_close(out.samples["h"][1], 1 + x[1].cumsum(0))
    half = T // 2
    torch.testing.assert_close(out.samples["h"][0], 1 + torch.cat((x[0, :half].cumsum(0), x[0, half:].cumsum(0))))
    torch.testing.assert_close(loss.interpret(**data).value, out.value)
    assert torch.autograd.grad(out.value.sum(), start)[0].abs().sum() > 0
    given = loss(**data, start={"h": torch.zeros(B, D)})
    torch.testing.assert_close(given.samples["h"][1], x[1].cumsum(0))


def test_reset_zeroes_carry_and_shifted_series():
    core = Deterministic("h_t = f(h_{t-1}, a_{t-1})", lambda h, a: h + a, shape=1)
    loss = Sum("t", E(core, log(Normal("p(h_t)", shape=1))), reset="first")
    a = torch.arange(1.0, 6.0).view(1, 5, 1)
    first = torch.tensor([[1, 0, 0, 1, 0]])
    out = loss(a=a, first=first, start={"h": torch.full((1, 1), 100.0), "a": torch.full((1, 1), 50.0)})
    assert out.samples["h"].flatten().tolist() == [0, 1, 3, 0, 4]
    assert out.last == {"h": torch.tensor([[4.0]]), "a": torch.tensor([[5.0]])}


def test_series_shifted_beside_the_carry_in_two_chunks():
    loss, data = rssm(), sequences()
    noise = loss.noise(**data)
    parts, start = [], None
    for time in (slice(0, 2), slice(2, T)):
        out = loss(**{k: v[:, time] for k, v in data.items()}, noise={"z": noise["z"][:, time]}, start=start)
        start = out.last
        parts.append(out.value)
    torch.testing.assert_close(sum(parts), loss(**data, noise=noise).value)
    assert set(start) == {"h", "z", "a"}


def test_two_sums_share_draws_and_clock():
    q, p = Normal("q(z_t|z_{t-1},x_t)", Join(Z + X, 2 * Z), shape=Z), Normal("p(x_t|z_t)", Join(Z, 2 * X))
    two = Sum("t", E(q, log(p))) - Sum("t", E(q, log(q)))
    one = Sum("t", E(q, log(p) - log(q)))
    x = torch.randn(B, T, X)
    torch.testing.assert_close(two(x=x, seed=0).value, one(x=x, seed=0).value)
    assert len(re.findall(r"= (self\.)?q_z_given_z_prev_x\(", two.code)) == 1


def test_a_draw_outside_the_sum_is_shared_by_all_steps():
    g, p = Normal("q(g|y)", nn.Linear(2, 2 * Z), shape=Z), Normal("p(x_t|g)", nn.Linear(Z, 2 * X))
    x, y = torch.randn(B, T, X), torch.randn(B, 2)
    inside, outside = Sum("t", E(g, log(p))), E(g, Sum("t", log(p)))
    out = inside(x=x, y=y, seed=0)
    torch.testing.assert_close(out.value, outside(x=x, y=y, seed=0).value)
    z = out.samples["g"]
    expected = sum(p.log_prob(x=x[:, t], g=z) for t in range(T))
    torch.testing.assert_close(out.value, expected)
    divergence, density = KL(g, Normal("p(g)", shape=Z)), log(Normal("p(x_t)", shape=X))
    expected = divergence(y=y).value * T + Sum("t", density)(x=x).value
    torch.testing.assert_close(Sum("t", density + divergence)(x=x, y=y).value, expected)


def test_unconditional_factors_in_time():
    q, decode = Normal("p(z_t)", shape=Z), Normal("p(x_t|z_t)", nn.Linear(Z, 2 * X))
    loss = Sum("t", E(q, log(decode)))
    x = torch.randn(B, T, X)
    out = loss(x=x, seed=0)
    assert out.samples["z"].shape == (B, T, Z)
    torch.testing.assert_close(out.value, decode.log_prob(x=x, z=out.samples["z"]).sum(1))
    torch.testing.assert_close(loss.interpret(x=x, seed=0).value, out.value)
    assert "for t in range" not in loss.code


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(X, D), nn.BatchNorm1d(D)

    def forward(self, x):
        return self.norm(self.linear(x))


@pytest.mark.parametrize("carry", [True, False])
def test_batch_norm_stays_in_the_loop_and_says_so(carry):
    embed = Deterministic("e_t = enc(x_t)", Normed())
    names = "q(z_t|e_t,z_{t-1})" if carry else "q(z_t|e_t)"
    q = Normal(names, Join(D + Z * carry, 2 * Z), shape=Z)
    loss = Sum("t", E(embed * q, log(Normal("p(x_t|z_t)", nn.Linear(Z, 2 * X))))).mean()
    _, loop, _ = blocks(loss.code)
    assert "enc(x_s[t])" in loop
    assert "e_t = enc(x_t) depends on its batch, so it stays here" in loop
    assert "e_t = enc(x_t) stays in the loop over t: its result depends on the batch" in loss.explain()
    x = torch.randn(B, T, X)
    torch.testing.assert_close(loss(x=x, seed=0).value, loss.interpret(x=x, seed=0).value)


def test_explain_shows_every_stage():
    shown = rssm().explain(stages=True)
    assert [line for line in shown.splitlines() if line.startswith("---")] == [
        "--- lowered",
        "--- drop_unread",
        "--- hoist_before",
        "--- sink_after",
    ]
    assert "draws: z from q(z_t|h_t,e_t), once per step" in shown


def test_integer_inputs_and_one_step():
    loss, data = rssm(), sequences(length=1)
    assert loss(**data | {"first": data["first"].long()}).value.isfinite()
    assert torch.equal(loss(**data, seed=0).value, loss(**data | {"first": data["first"].float()}, seed=0).value)


def test_the_index_may_have_any_name():
    q = Normal("q(z_k|z_{k-1},x_k)", Join(Z + X, 2 * Z), shape=Z)
    loss = Sum("k", E(q, log(Normal("p(x_k|z_k)", nn.Linear(Z, 2 * X)))))
    x = torch.randn(B, T, X)
    torch.testing.assert_close(loss(x=x, seed=0).value, loss.interpret(x=x, seed=0).value)
    assert r"\sum_{k}" in str(loss)


@pytest.mark.parametrize("path", ["call", "interpret"])
@pytest.mark.parametrize("initial", [None, torch.ones(Z)])
def test_a_reset_leaves_nothing_of_a_broken_carry(path, initial):
    """NaN times zero is NaN, so the carry and the shifted series are replaced, not multiplied."""
    walk = Deterministic("h_t = f(h_{t-1},a_{t-1})", lambda h, a: h + a, shape=Z)
    seen = Normal("p(w_t|h_t)", lambda h: h, scale=1.0, shape=Z)
    loss = Sum("t", E(walk, log(seen)), reset="first", initial=None if initial is None else {"h": initial})
    first = torch.zeros(B, T, dtype=torch.bool)
    first[:, 2] = True
    a = torch.zeros(B, T, Z)
    a[:, :2] = float("nan")
    drawn = (loss if path == "call" else loss.interpret)(a=a, w=a.nan_to_num(), first=first).samples["h"]
    assert drawn[:, 1].isnan().all()
    torch.testing.assert_close(drawn[:, 2:], torch.full((B, T - 2, Z), 0.0 if initial is None else 1.0))


@pytest.mark.parametrize("clock", [{}, {"reset": "first"}])
def test_a_step_back_that_is_read_behind_the_step_itself_is_the_last_value(clock):
    """``w_{t-1}`` is first read by a factor behind the one that makes ``w_t``, and ``w_t`` is made of ``z_{t-1}``."""
    keep = Deterministic("w_t = keep(z_{t-1})", lambda z: z + 1, shape=Z)
    q = Normal("q(z_t|z_{t-1},w_{t-1},x_t)", lambda z, w, x: z + 2 * w + x, scale=1.0, shape=Z)
    loss, x = Sum("t", E(keep * q, -log(q)), **clock), torch.randn(B, T, Z)
    first = torch.zeros(B, T, dtype=torch.bool)
    first[1, 2] = bool(clock)
    z, w, noise, expected = torch.zeros(B, Z), torch.zeros(B, Z), torch.randn(B, T, Z), []
    for t in range(T):
        z, w = (torch.where(first[:, t, None], torch.zeros(B, Z), carry) for carry in (z, w))
        z, w = z + 2 * w + x[:, t] + noise[:, t], z + 1
        expected.append(torch.cat([z, w], -1))
    data = {"x": x, "first": first} if clock else {"x": x}
    for path in (loss, loss.interpret):
        drawn = path(**data, noise={"z": noise}).samples
        torch.testing.assert_close(torch.cat([drawn["z"], drawn["w"]], -1), torch.stack(expected, 1))


@pytest.mark.parametrize("net", [None, Join(A, X)])
@pytest.mark.parametrize("lead", [(B,), (T,), (B * T,)])
def test_a_parameter_of_each_row_is_no_constant_of_the_steps(net, lead):
    """Before the loop rows and steps are one axis, so that numbers of the rows would be read as those of the steps."""
    scale, x, a = torch.rand(*lead, X) + 0.1, torch.randn(B, T, X), torch.randn(B, T, A)
    p = Normal(f"p(x_t{'|a_t' if net else ''})", net, shape=X, scale=scale)
    for path in (Sum("t", log(p)), Sum("t", log(p)).interpret):
        with pytest.raises(FormulaError, match=r"scale= has more axes than an event.*\nlet a network return it"):
            path(x=x, **({"a": a} if net else {}))


@pytest.mark.parametrize("lead", [(6,), (2,), (2, 3)])
def test_a_learnt_head_of_each_row_is_no_head_of_the_steps(lead):
    x = torch.randn(2, 3, 4)
    loss = Sum("t", log(Normal("p(x_t)", nn.Parameter(torch.randn(*lead, 8)), shape=4)))
    with pytest.raises(FormulaError, match="what is learnt has more axes than an event.*one for all rows and steps"):
        loss(x=x)
    head = torch.randn(8)
    loc, raw = head.split(4)
    right = torch.distributions.Normal(loc, torch.nn.functional.softplus(raw)).log_prob(x).sum((1, 2))
    for kept in (head, head[None]):  # one row is one for all
        found = Sum("t", log(Normal("p(x_t)", nn.Parameter(kept.clone()), shape=4)))(x=x).value
        torch.testing.assert_close(found, right)


def test_a_parameter_of_each_row_is_given_as_the_refusal_says():
    scale, x = torch.rand(B, X) + 0.1, torch.randn(B, T, X)
    p = Normal("p(x_t|s)", lambda s: {"loc": torch.zeros(X), "scale": s}, shape=X)
    expected = torch.distributions.Normal(0.0, scale[:, None]).log_prob(x).sum((1, 2))
    torch.testing.assert_close(Sum("t", log(p))(x=x, s=scale).value, expected)
    one = Normal("p(x_t)", shape=X, scale=scale[:1])  # an axis of size 1 is no row of its own
    expected = torch.distributions.Normal(0.0, scale[0]).log_prob(x).sum((1, 2))
    torch.testing.assert_close(Sum("t", log(one))(x=x).value, expected)


@pytest.mark.parametrize("rows", [B, B * T])
def test_a_condition_that_is_held_at_values_of_the_rows_is_refused_in_steps_and_given_to_the_call(rows):
    p, x, s = Normal("p(x_t|s)", nn.Linear(Z, 2 * X), shape=X), torch.randn(B, T, X), torch.randn(rows, Z)
    with pytest.raises(FormulaError, match=r"(?s)held at one value for each row.*leave out .condition"):
        Sum("t", log(p.condition(s=s)))(x=x)
    one, each = Sum("t", log(p.condition(s=s[0])))(x=x).value, Sum("t", log(p))(x=x, s=s[:1].expand(B, Z)).value
    torch.testing.assert_close(one, each)
    scores = torch.stack([p.log_prob(x=x[:, t], s=s[:B]) for t in range(T)]).sum(0)
    torch.testing.assert_close(Sum("t", log(p))(x=x, s=s[:B]).value, scores)


def test_one_sample_of_what_is_carried_is_one_draw_which_a_maximum_of_its_mean_may_use():
    """Free nats of a batch, max(3, mean KL) − mean log p over the same draws, by hand; refused without samples=1."""
    q, p = Normal("q(z_t|z_{t-1},x_t)", Join(Z + X, 2 * Z), shape=Z), Normal("p(z_t|z_{t-1})", Join(Z, 2 * Z), shape=Z)
    image, x, first = Normal("p(x_t|z_t)", Join(Z, X), shape=X, scale=1.0), torch.randn(B, T, X), torch.zeros(B, T)
    first[1, 2] = 1
    with pytest.raises(FormulaError, match="the maximum of an expectation, which one draw estimates"):
        maximum(Mean("t", E(q, KL(q, p))).mean(), 3)
    values = {}
    for free in (0.01, 100.0):
        nats = Mean("t", E(q, KL(q, p), samples=1), reset="first").mean()
        loss = maximum(nats, free) + Mean("t", E(q, -log(image), samples=1), reset="first").mean()
        assert "1 shared sample " in loss.explain()
        noise = torch.randn(B, T, Z, generator=torch.Generator().manual_seed(0))
        out = loss(x=x, first=first, noise={"z": noise})
        z, kls, errors = torch.zeros(B, Z), [], []
        for t in range(T):
            z = z * (1 - first[:, t : t + 1])
            (m, s), (n, r) = (
                (h.chunk(2, -1)[0], torch.nn.functional.softplus(h.chunk(2, -1)[1]))
                for h in (q.net(z, x[:, t]), p.net(z))
            )
            kls.append((r.log() - s.log() + (s**2 + (m - n) ** 2) / (2 * r**2) - 0.5).sum(-1))
            z = m + s * noise[:, t]
            errors.append(-torch.distributions.Normal(image.net(z), 1.0).log_prob(x[:, t]).sum(-1))
        expected = torch.stack(kls).mean().clamp(min=free) + torch.stack(errors).mean()
        torch.testing.assert_close(out.value, expected)
        assert out.samples["z"].shape == (B, T, Z)
        torch.testing.assert_close(loss.interpret(x=x, first=first, noise={"z": noise}).value, expected)
        weights = [*p.net.parameters()]
        values[free] = torch.autograd.grad(out.value, weights, allow_unused=True, materialize_grads=True)
    assert any(g.any() for g in values[0.01])
    assert not any(g.any() for g in values[100.0])
