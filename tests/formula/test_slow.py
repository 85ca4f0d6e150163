"""Slow copies: what they are and print, against targets that are copied and averaged by hand."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.formula.grower import Grower, Static, linear
from tests.formula.reader import read, same
from tests.formula.test_mathml import read as seen
from worldformula import (
    KL,
    Deterministic,
    E,
    Energy,
    Flow,
    Gibbs,
    MoE,
    Normal,
    OneHot,
    PoE,
    Sum,
    Value,
    log,
    norm2,
)
from worldformula.errors import FormulaError, HeaderError
from worldformula.formula.print.mathml import mathml
from worldformula.formula.syntax.names import read_header
from worldformula.formula.syntax.nodes import uses, walk
from worldformula.nets.coupling import RealNVP
from worldformula.training.slow import move_slow

B = 5


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def critic():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0)).double()
    return Deterministic("v = V(s)", net, shape=())


def temporal_difference(v, decay=0.98, **options):
    """(r + 0.9 v̄(s') − v(s))²"""
    later = v.slow(decay, **options).rename(v="v'", s="s'")
    return E(v * later, (Value("r") + 0.9 * Value("v'") - Value("v")) ** 2).mean()


def transitions():
    s, after, r = torch.randn(B, 3), torch.randn(B, 3), torch.randn(B)
    return {"s": s.double(), "s_prime": after.double(), "r": r.double()}


def shifted(module, by=1.0):
    """Other weights."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(by * torch.arange(p.numel()).view_as(p) / p.numel() + 0.1)


# ---------------------------------------------------------------------------------------------------- what it is


def test_it_starts_equal_with_weights_of_its_own_that_take_no_gradient():
    v = critic()
    target = v.slow(0.98)
    for fast, slow in zip(v.net.parameters(), target.net.parameters(), strict=True):
        assert torch.equal(fast, slow)
        assert fast.data_ptr() != slow.data_ptr()
        assert fast.requires_grad
        assert not slow.requires_grad
    assert (type(target), target.shape, target.family) == (type(v), v.shape, v.family)
    before = target.net[0].weight.clone()
    shifted(v.net)
    assert torch.equal(target.net[0].weight, before)


def test_one_copy_for_each_pair_of_numbers_shared_by_what_is_fresh_or_renamed():
    v = critic()
    target = v.slow(0.98)
    assert v.slow(np.float64(0.98), every=1) is target
    others = [v.slow(0.9), v.slow(0.98, every=2), critic().slow(0.98)]
    assert len({id(f.net) for f in (target, *others)}) == 4
    renamed = v.rename(s="s'").slow(0.98)
    assert renamed is not target
    assert renamed.net is v.fresh().slow(0.98).net is target.fresh().net is target.net
    assert renamed.origin is target.origin is target
    assert str(renamed) == str(target.rename(s="s'")) == r"v = \bar V(s')"


def test_a_fresh_copy_draws_by_itself_and_repeated_calls_share_the_draw():
    q = Normal("q(z|x)", nn.Linear(3, 4), shape=2)
    x = torch.randn(B, 3)
    again = E(q.slow(0.9), Value("z", 2)) - E(q.slow(0.9), Value("z", 2))
    assert torch.equal(again(x=x).value, torch.zeros(B, 2))
    fresh = E(q.slow(0.9), Value("z", 2)) - E(q.slow(0.9).fresh(), Value("z", 2))
    assert fresh(x=x).value.abs().min() > 0


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: critic().slow(1.0), "at least 0 and below 1, such as 0.98, got 1.0"),
        (lambda: critic().slow(-0.1), "got -0.1"),
        (lambda: critic().slow(float("nan")), "got nan"),
        (lambda: critic().slow(True), "got True"),
        (lambda: critic().slow("0.9"), "got '0.9'"),
        (lambda: critic().slow(0.9, every=0), "every= as a number of updates, at least 1, got 0"),
        (lambda: critic().slow(0.9, every=2.0), "got 2.0"),
        (lambda: critic().slow(0.9).slow(0.9), "a slow copy already"),
        (lambda: critic().slow(0.9).rename(s="x").slow(0.5), "a slow copy already"),
        (lambda: Normal("p(z)", shape=2).slow(0.9), "has no weights to average"),
        (lambda: Normal("p(z|x)", nn.Identity(), shape=2).slow(0.9), "has no weights to average"),
        (lambda: Normal("p(z|x)", lambda x: x, shape=2).slow(0.9), "is a function.*write it as an nn.Module"),
        (lambda: Normal("p(z|x)", nn.LazyLinear(4), shape=2).slow(0.9), "call it once before"),
    ],
)
def test_what_has_no_slow_copy_is_refused_with_what_to_write(build, said):
    with pytest.raises(FormulaError, match=said):
        build()


def test_a_network_that_cannot_be_copied_is_refused():
    net = nn.Linear(3, 4)
    net.computed = net.weight * 2
    with pytest.raises(FormulaError, match=r"cannot be copied by copy\.deepcopy"):
        Normal("q(z|x)", net, shape=2).slow(0.9)


@pytest.mark.parametrize("header", [r"\bar q(z|x)", r"\bar{q}(z|x)", r"\bar{q}_phi(z|x)"])
def test_a_bar_is_not_written_by_hand(header):
    with pytest.raises(HeaderError, match=r"without it, and \.slow\(0\.98\) behind"):
        Normal(header, nn.Linear(3, 4), shape=2)


# ------------------------------------------------------------------------------------------------------- the print


@pytest.mark.parametrize(
    ("written", "shown", "bar"),
    [
        (r"\bar q(z|x)", r"\bar q(z|x)", True),
        (r" \bar {\pi}_{old} ( a | s )", r"\bar pi_old(a|s)", True),
        (r"\bar h_t = \bar f(\bar h_{t-1}, x_t)", r"\bar h_t = \bar f(\bar h_{t-1},x_t)", True),
        (r"\bar h = bar(\bar x)", r"\bar h = bar(\bar x)", False),
    ],
)
def test_a_header_with_a_bar_reads_back(written, shown, bar):
    header = read_header(written, deterministic="=" in written)
    assert (str(header), header.bar) == (shown, bar)
    again = read_header(str(header), deterministic=header.deterministic)
    assert replace(again, written=written) == header


def test_the_letter_has_a_bar_in_every_notation():
    q, target = Normal("q_phi(z|x)", nn.Linear(3, 4), shape=2), critic().slow(0.98)
    assert str(q.slow(0.5)) == r"\bar q_phi(z|x)"
    assert q.slow(0.5).latex == r"\bar{q}_{\phi}(z \mid x),\quad \bar{w} \leftarrow 0.5\, \bar{w} + 0.5\, w"
    assert log(q.slow(0.5)).latex == r"\log \bar{q}_{\phi}(z \mid x)"
    assert str(E(target, Value("v"))) == r"\mathbb{E}_{v = \bar{V}(s)}\left[ v \right]"
    assert repr(target) == r"<Deterministic v = \bar V(s), shape=()>"
    assert seen(mathml(log(q.slow(0.5)).node)) == "logq¯φ(z∣x)whereq¯φ(z∣x):w¯←0.5w¯+0.5w"


@pytest.mark.parametrize(
    ("decay", "every", "rule"),
    [
        (0.98, 1, r"\bar{w} \leftarrow 0.98\, \bar{w} + 0.02\, w"),
        (0.99999, 3, r"\bar{w} \leftarrow 0.99999\, \bar{w} + 10^{-5}\, w\ \text{after every 3rd update}"),
        (0, 112, r"\bar{w} \leftarrow w\ \text{after every 112th update}"),
    ],
)
def test_decay_and_every_stand_below_the_formula_and_in_explain(decay, every, rule):
    loss = temporal_difference(critic(), decay, every=every)
    assert loss.latex_lines().splitlines()[2] == r"&\text{where}\quad v' = \bar{V}(s'):\; " + rule
    said = {0.98: "0.98 w̄ + 0.02 w after every", 0.99999: "after every 3rd update", 0: "w̄ ← w after every 112th"}
    assert said[decay] in loss.explain().splitlines()[-1]
    assert r"slow copy: v' = \bar V(s') with w̄ ←" in loss.explain()


def test_two_copies_of_one_factor_are_told_apart_below_the_formula():
    q, p = Normal("q(z|x)", nn.Linear(3, 4), shape=2), Normal("p(z)", shape=2)
    lines = (KL(q.slow(0.9), p) + KL(q.slow(0.5), p)).latex_lines()
    assert r"0.9\, \bar{w} + 0.1\, w" in lines
    assert r"0.5\, \bar{w} + 0.5\, w" in lines


def test_the_text_reads_back():
    v, q, p = critic(), Normal("q_phi(z|x)", nn.Linear(3, 4), shape=2), Normal("p(z)", shape=2)
    for f in (temporal_difference(v), KL(q, q.slow(0.9)) - log(q.slow(0.9).rename(z="z'") * p), E(q.slow(0), log(q))):
        line = repr(f).removeprefix("<Expression ").removesuffix(">")
        assert same(read(line, f.node), f.node)
        assert [u.factor.pace is None for n in walk(f.node) for u in uses(n)].count(False) == line.count(r"\bar ")


def test_the_picture_draws():
    assert "<svg" in temporal_difference(critic()).graph()


# ------------------------------------------------------------------------------------------------ value and gradient


def test_a_slow_critic_in_a_td_loss_is_the_one_written_by_hand():
    v, data = critic(), transitions()
    loss = temporal_difference(v)
    by_hand, target = copy.deepcopy(v.net), copy.deepcopy(v.net)
    shifted(v.slow(0.98).net, 0.3)
    shifted(target, 0.3)
    with torch.no_grad():
        later = target(data["s_prime"])
    expected = ((data["r"] + 0.9 * later - by_hand(data["s"])) ** 2).mean()
    expected.backward()
    for run in (loss, loss.interpret):
        v.net.zero_grad()
        out = run(**data)
        torch.testing.assert_close(out.value, expected, rtol=1e-14, atol=0)
        out.value.backward()
        for p, q in zip(v.net.parameters(), by_hand.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-13, atol=1e-16)
        assert all(p.grad is None for p in v.slow(0.98).net.parameters())


def test_gradients_flow_through_its_inputs_and_not_to_its_weights():
    enc = Deterministic("s = f(x)", nn.Linear(2, 3).double(), shape=3)
    target = critic().slow(0.9)
    x = torch.randn(B, 2).double()
    E(enc * target, Value("v")).mean()(x=x).value.backward()
    by_hand, frozen = copy.deepcopy(enc.net), copy.deepcopy(target.net)
    by_hand.zero_grad()
    frozen(by_hand(x)).mean().backward()
    assert enc.net.weight.grad.abs().max() > 0
    torch.testing.assert_close(enc.net.weight.grad, by_hand.weight.grad, rtol=1e-13, atol=0)
    assert all(p.grad is None for p in target.parameters())


def byol():
    """‖g(f(x)) − f̄(x')‖², with a BatchNorm in f (Grill et al. 2020, arXiv:2006.07733, without the normalisation)."""
    f = Deterministic("s = f(x)", nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double(), shape=3)
    g = Deterministic("u = g(s)", nn.Linear(3, 3).double(), shape=3)
    return f, g


@pytest.mark.parametrize(("decay", "every"), [(0.9, 1), (0.75, 3), (0.0, 7)])
def test_twenty_updates_of_byol_are_those_of_a_loop_by_hand(decay, every):
    f, g = byol()
    target = f.slow(decay, every).rename(s="s'", x="x'")
    loss = E(f * g * target, norm2(Value("u") - Value("s'"))).mean()
    online, predict = copy.deepcopy(f.net), copy.deepcopy(g.net)
    teacher = copy.deepcopy(online)
    views = torch.randn(20, 2, 8, 4).double()
    ours = torch.optim.AdamW(loss.parameters(), lr=0.03, weight_decay=0.1)
    theirs = torch.optim.AdamW([*online.parameters(), *predict.parameters()], lr=0.03, weight_decay=0.1)
    for n, (x, other) in enumerate(views, 1):
        ours.zero_grad()
        out = loss(x=x, x_prime=other)
        out.value.backward()
        ours.step()
        move_slow(loss)
        theirs.zero_grad()
        u = predict(online(x))
        with torch.no_grad():
            wanted = teacher(other)
        (u - wanted).square().sum(-1).mean().backward()
        theirs.step()
        with torch.no_grad():
            if n % every == 0:
                for w_bar, w in zip(teacher.parameters(), online.parameters(), strict=True):
                    expected = decay * w_bar + (1 - decay) * w
                    w_bar.lerp_(w, 1 - decay) if decay else w_bar.copy_(w)
                    torch.testing.assert_close(w_bar, expected, rtol=1e-12, atol=1e-15)
                for b_bar, b in zip(teacher.buffers(), online.buffers(), strict=True):
                    b_bar.copy_(b)
    assert torch.equal(ours_of(f.net), ours_of(online))
    assert torch.equal(ours_of(target.net), ours_of(teacher))
    assert target.slow_weights.count.item() == 20
    assert not torch.equal(ours_of(target.net), ours_of(f.net))


def ours_of(module):
    return torch.cat([t.flatten().double() for t in module.state_dict().values()])


def test_learnt_constants_are_averaged_and_fixed_ones_stay():
    loc = nn.Parameter(torch.zeros(2))
    p = Normal("p(z)", loc=loc, scale=2.0, shape=2)
    slow = p.slow(0.75)
    f = KL(slow, Normal("r(z)", shape=2)).mean()
    loc.data += 1.0
    move_slow(f)
    assert torch.equal(slow.given["loc"], torch.full((2,), 0.25))
    assert slow.given["scale"] == 2.0
    assert list(f.state_dict()) == ["slow_p_z.loc", "slow_p_z_updates.count"]
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(torch.full((2,), 0.25), 2.0), torch.distributions.Normal(torch.zeros(2), 1.0)
    ).sum()
    torch.testing.assert_close(f().value, expected)


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x))

    f = Deterministic("y = f(x)", Tied(), shape=3)
    slow = f.slow(0.5)
    before = slow.net.first.weight.clone()
    shifted(f.net)
    move_slow(slow)
    assert slow.net.first.weight is slow.net.second.weight
    torch.testing.assert_close(slow.net.first.weight, (before + f.net.first.weight) / 2)


# --------------------------------------------------------------------------------------------- every kind of factor


def test_experts_average_what_has_weights_and_share_the_copies_of_their_parts():
    prior = Normal("p(z)", shape=2)
    q, r = Normal("q(z|x)", nn.Linear(3, 4), shape=2), Normal("q(z|y)", nn.Linear(3, 4), shape=2)
    product = PoE([prior, q, r])
    slow = product.slow(0.5)
    assert slow.parts[0] is prior
    assert slow.parts[1] is q.slow(0.5)
    assert slow.definition == r"\bar q(z|x,y) ∝ p(z) \bar q(z|x) \bar q(z|y)"
    x, y = torch.randn(B, 3), torch.randn(B, 3)
    before = product.params(x, y)
    shifted(q.net)
    torch.testing.assert_close(slow.params(x, y), before)
    assert not any(p.requires_grad for p in slow.parameters())
    f = KL(slow, prior).mean()
    move_slow(f)
    assert q.slow(0.5).slow_weights.count.item() == 1
    mixed = MoE([q.slow(0.5), r])
    assert mixed.definition == r"q(z|x,y) = 1/2 (\bar q(z|x) + q(z|y))"
    assert r"\bar{q}(z \mid x):\; \bar{w}" in E(mixed, log(prior)).latex_lines()


def test_the_energy_of_a_gibbs_factor_is_that_of_the_slow_weights():
    p = Gibbs("p(x)", nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), shape=3)
    x = torch.randn(B, 3)
    before = Energy(p)(x=x).value.detach()
    assert p.energy.net is p.net  # made, and kept by the factor
    slow = p.slow(0.9)
    assert slow.energy.net is slow.net
    assert str(slow.energy) == r"e = \bar E(x)"
    shifted(p.net)
    torch.testing.assert_close(Energy(slow)(x=x).value, before)
    assert (Energy(p)(x=x).value - before).abs().min() > 0
    assert str(Energy(slow)) == r"\mathcal{E}\left[ \bar{p}(x) \right]"
    both = Energy(p) - Energy(slow)
    torch.testing.assert_close(both(x=x).value, p.net(x) - before)


def test_a_flow_and_its_base_are_copied():
    base = Normal("p(u)", loc=nn.Parameter(torch.zeros(2)), scale=1.0, shape=2)
    flow = Flow("p(x)", RealNVP(2), shape=2, base=base)
    x = torch.randn(B, 2)
    slow, before = flow.slow(0.9), flow.log_prob(x=x).detach()
    shifted(flow.net)
    torch.testing.assert_close(slow.log_prob(x=x), before)
    assert (flow.log_prob(x=x) - before).abs().max() > 0
    assert slow.latex.startswith(r"\bar{p}(x) = \bar{p}_{0}\left( f(x) \right)")


def test_a_held_condition_keeps_the_copy():
    q = Normal("q(z|x,y)", nn.Bilinear(3, 2, 4), shape=2)
    y = torch.randn(2)
    slow = q.slow(0.9).condition(y=y)
    assert str(slow) == r"\bar q(z|x)"
    f = log(slow).mean()
    shifted(q.net)
    move_slow(f)
    x, z = torch.randn(B, 3), torch.randn(B, 2)
    expected = q.slow(0.9).log_prob(x=x, y=y.expand(B, 2), z=z).mean()
    torch.testing.assert_close(f(x=x, z=z).value, expected)
    assert q.slow(0.9).slow_weights.count.item() == 1


def test_in_time_and_with_samples_it_runs_as_interpreted():
    core = Deterministic("h_t = f(h_{t-1}, x_t)", Pair(5, 2), shape=2)
    z = Normal("q(z_t|h_t)", nn.Linear(2, 4), shape=2)
    value = Deterministic("v_t = V(z_t)", nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)), shape=())
    slow = value.slow(0.9).rename(v="w")
    shifted(slow.net)
    f = Sum("t", E(core * z * value * slow, (Value("v_t") - Value("w_t")) ** 2), reset="first").mean()
    x, first = torch.randn(B, 4, 3), torch.zeros(B, 4)
    noise = f.noise(x=x, first=first)
    fast, walked = f(x=x, first=first, noise=noise), f.interpret(x=x, first=first, noise=noise)
    torch.testing.assert_close(fast.value, walked.value)
    h, total = torch.zeros(B, 2), 0.0
    for t in range(4):
        h = core.net(h, x[:, t])
        loc, raw = z.net(h).chunk(2, -1)
        drawn = loc + nn.functional.softplus(raw) * noise["z"][:, t]
        total = total + (value.net(drawn) - slow.net(drawn)) ** 2
    torch.testing.assert_close(fast.value, total.mean())
    k = OneHot("q(k|x)", nn.Linear(3, 4), shape=4)
    g = E(k.slow(0.5), log(k), gradient="exact").mean()
    entropy = torch.distributions.Categorical(logits=k.net(x[:, 0])).entropy()
    torch.testing.assert_close(g(x=x[:, 0]).value, -entropy.mean())


class Pair(nn.Linear):
    def forward(self, *conditions):
        return super().forward(torch.cat(conditions, -1)).tanh()


class WithSlow(Static):
    """The static pool, and slow copies whose weights have moved away."""

    def __init__(self):
        super().__init__()
        q, p = Normal("q_b(z|x)", linear(3, 4), shape=2), Normal("p_b(y|z)", linear(2, 4), shape=2)
        k, m = OneHot("q_b(k|x)", linear(3, 3), shape=3), Deterministic("m = g(z)", linear(2, 2), shape=2)
        slow = [f.slow(0.9) for f in (q, p, k, m)]
        for f in slow:
            shifted(f.net, 0.5)
        z = {"z"}
        self.leaves = [*self.leaves, *[(set(), KL(q, slow[0])), (set(), KL(slow[2], k)), (z, log(slow[1]))] * 6]
        self.draws = [
            *self.draws,
            *[(z, set(), slow[0], (None, "score")), ({"m"}, z, slow[3], (None,))] * 4,
            *[({"k"}, set(), slow[2], (None, "exact", "score")), (z | {"m"}, set(), slow[0] * slow[3], (None,))] * 4,
        ]


def test_random_formulas_with_slow_copies_read_back_and_run_as_interpreted():
    pool, with_slow = WithSlow(), 0
    for seed in range(300):
        f = Grower(pool, seed).grow(3)
        line = repr(f).removeprefix("<Expression ").removesuffix(">")
        if r"\bar" not in line:
            continue
        assert same(read(line, f.node), f.node), line
        try:
            given = {key: pool.data[key] for key in f.program.inputs}
        except FormulaError:
            continue
        with_slow += 1
        noise = f.noise(**given, generator=torch.Generator().manual_seed(1))
        weights = [p for p in f.parameters() if p.requires_grad]
        found = []
        for out in (f(**given, noise=noise), f.interpret(**given, noise=noise)):
            value = torch.as_tensor(out.value).sum()
            grads = torch.autograd.grad(value, weights, allow_unused=True) if value.requires_grad else ()
            found.append([value.detach(), *(g for g in grads if g is not None)])
        size = max(1.0, *(t.abs().max().item() for t in found[0]))
        torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9 * size)
    assert with_slow > 100


# ------------------------------------------------------------------------------------------------------ plain PyTorch


def test_names_in_the_state_dict_are_those_of_the_header():
    assert list(temporal_difference(critic()).state_dict()) == [
        *(f"V.{i}.{what}" for i in (0, 2) for what in ("weight", "bias")),
        *(f"slow_V.{i}.{what}" for i in (0, 2) for what in ("weight", "bias")),
        "slow_V_updates.count",
    ]


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f)), lambda f: copy.deepcopy(f).float().double()],
    ids=["deepcopy", "pickle", "float and double"],
)
def test_a_copy_of_the_formula_follows_its_own_weights(copied):
    v = critic()
    loss = temporal_difference(v, 0.5)
    shifted(v.net)
    other = copied(loss)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    move_slow(other)
    after = other.state_dict()
    for key, value in before.items():
        if key.startswith("slow_V."):
            torch.testing.assert_close(after[key], (value + before[key.replace("slow_", "")]) / 2)
            assert not torch.equal(after[key], value)
    assert after["slow_V_updates.count"] == 1
    assert loss.state_dict()["slow_V_updates.count"] == 0
    assert torch.equal(loss.state_dict()["slow_V.0.weight"], before["slow_V.0.weight"])


def test_a_change_of_type_keeps_the_link():
    v = critic()
    loss = temporal_difference(v, 0.5).float()
    assert v.slow(0.5).net[0].weight.dtype == torch.float32
    shifted(v.net)
    half = (v.net[0].weight + v.slow(0.5).net[0].weight) / 2
    move_slow(loss)
    torch.testing.assert_close(v.slow(0.5).net[0].weight.data, half.data)
    v.net.double()  # the factor's weights alone
    move_slow(loss)
    assert v.slow(0.5).net[0].weight.dtype == torch.float32


def test_a_loaded_state_dict_brings_weights_and_counter():
    v, w = critic(), critic()
    one, other = temporal_difference(v, 0.5, every=2), temporal_difference(w, 0.5, every=2)
    shifted(v.net)
    move_slow(one)
    other.load_state_dict(one.state_dict())
    for loss, net in ((one, v.net), (other, w.net)):
        shifted(net)
        move_slow(loss)
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert w.slow(0.5, every=2).slow_weights.count.item() == 2


def test_gradients_asked_for_by_mistake_are_refused():
    loss = temporal_difference(critic())
    loss.requires_grad_(False)
    loss.requires_grad_(True)
    with pytest.raises(FormulaError, match=r"V\(s\): the weights of a slow copy get no gradient"):
        move_slow(loss)


def test_it_compiles_whole_and_sees_the_weights_that_moved():
    v, data = critic(), transitions()
    loss = temporal_difference(v, 0.5)
    whole = torch.compile(lambda **given: loss(**given).value, backend="eager", fullgraph=True)
    first = whole(**data).item()
    assert first == loss(**data).value.item()
    shifted(v.slow(0.5).net)
    assert whole(**data).item() == loss(**data).value.item() != first
