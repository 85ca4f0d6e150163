"""What the language must be able to say about time, and what each of these formulas must then do.

Every system of ``temporal.py`` prints, runs as its interpreter does in value and gradient, may be cut into chunks and
into single steps, forgets at a reset, and counts the steps that a mask or a burn-in leaves.
"""

import pytest
import torch
from torch import nn

from tests.formula.models import B, D, Join, T, X, Z, gradients
from tests.formula.temporal import ITERATED, TEMPORAL, dmm, draw, gqn, jepa, newtonian, overshooting, td_vae
from worldformula import KL, Deterministic, E, Normal, Sum, Value, log, norm2
from worldformula.errors import FormulaError, UnknownVariableError

HALF = T // 2
CAUSAL = [case for case in TEMPORAL if case is not dmm]  # the encoder of a DMM reads the future


def made(case, **clock):
    """The same weights for every clock."""
    torch.manual_seed(0)
    found = case(**clock)
    return found._replace(loss=found.loss.double())


def cut(values, time):
    return {k: v[:, time] for k, v in values.items()}


def flags(*steps):
    """[B, T], set at these steps."""
    found = torch.zeros(B, T, dtype=torch.bool)
    found[:, list(steps)] = True
    return found


def by_steps(case, noise, start=None):
    """The value of every step [B, T], one call per step, with the last carry of one as the start of the next."""
    values = []
    for t in range(T):
        time = slice(t, t + 1)
        out = case.loss(**cut(case.data, time), noise=cut(noise, time), start=start)
        start = out.last
        assert set(start) == case.carried
        values.append(out.value)
    return torch.stack(values, 1), start


@pytest.mark.parametrize("case", TEMPORAL)
def test_the_formula_prints_and_its_code_is_its_interpreter(case):
    loss, data, *_ = made(case, reset="first")
    assert str(loss).startswith(r"\sum_{t")
    noise, first = loss.noise(**data, first=flags()), flags(HALF)
    first[0] = False
    out, walked = (run(**data, first=first, noise=noise) for run in (loss, loss.interpret))
    assert out.value.shape == (B,)
    torch.testing.assert_close(out.value, walked.value)
    torch.testing.assert_close(out.last, walked.last)
    torch.testing.assert_close(gradients(out.value.sum(), loss), gradients(walked.value.sum(), loss))


@pytest.mark.parametrize("case", TEMPORAL)
def test_every_weight_has_a_gradient(case):
    found = made(case)
    names = [name for name, _ in found.loss.named_parameters()]
    assert len(names) == len(set(names)) > 3
    pulls = gradients(found.loss(**found.data, seed=0).value.sum(), found.loss)
    unused = [name for name, pull in zip(names, pulls, strict=True) if pull is None or not pull.abs().sum() > 0]
    assert all("enc_bar" in name for name in unused), unused  # the target of a JEPA follows, it does not learn


@pytest.mark.parametrize("case", CAUSAL)
def test_a_sequence_is_its_chunks_and_its_single_steps(case):
    found = made(case)
    noise = found.loss.noise(**found.data)
    whole = found.loss(**found.data, noise=noise)
    values, last = by_steps(found, noise)
    torch.testing.assert_close(values.sum(1), whole.value)
    torch.testing.assert_close(last, whole.last)
    head = found.loss(**cut(found.data, slice(0, 3)), noise=cut(noise, slice(0, 3)))
    rest = found.loss(**cut(found.data, slice(3, T)), noise=cut(noise, slice(3, T)), start=head.last)
    torch.testing.assert_close(head.value + rest.value, whole.value)


@pytest.mark.parametrize("case", CAUSAL)
def test_a_reset_makes_two_sequences_of_one(case):
    one, plain = made(case, reset="first"), made(case)
    noise = plain.loss.noise(**plain.data)
    parts = [
        plain.loss(**cut(plain.data, time), noise=cut(noise, time)).value for time in (slice(0, HALF), slice(HALF, T))
    ]
    reset = one.loss(**plain.data, first=flags(HALF), noise=noise)
    torch.testing.assert_close(reset.value, sum(parts))
    whole = one.loss(**plain.data, first=flags(), noise=noise)
    assert not torch.allclose(whole.value, reset.value)


@pytest.mark.parametrize("case", CAUSAL)
def test_masks_and_burn_in_count_what_is_left(case):
    plain = made(case)
    noise = plain.loss.noise(**plain.data)
    values, _ = by_steps(plain, noise)
    mask = torch.rand(B, T) < 0.6
    masked = made(case, mask="valid").loss(**plain.data, valid=mask, noise=noise)
    torch.testing.assert_close(masked.value, (values * mask).sum(1))
    late = made(case, burn_in=2).loss(**plain.data, noise=noise)
    torch.testing.assert_close(late.value, values[:, 2:].sum(1))
    both = made(case, mask="valid", burn_in=1).loss(**plain.data, valid=mask, noise=noise)
    torch.testing.assert_close(both.value, (values * mask)[:, 1:].sum(1))


@pytest.mark.parametrize("case", ITERATED)
def test_iterations_that_are_not_time(case):
    torch.manual_seed(0)
    loss, data = case()
    loss.double()
    noise = loss.noise(**data)
    out, walked = (run(**data, noise=noise) for run in (loss, loss.interpret))
    torch.testing.assert_close(out.value, walked.value)
    torch.testing.assert_close(gradients(out.value.sum(), loss), gradients(walked.value.sum(), loss))
    assert "_{l=1}^{" in str(loss)
    assert len([k for k in out.samples if k.startswith("z")]) == (4 if case is draw else 3)


# -------------------------------------------------------------------------------------------- what is particular to one


def test_dmm_reads_the_whole_series_before_the_loop():
    found = made(dmm)
    before, _, loop = found.loss.code.partition("# in the loop")
    assert before.count("self.birnn(") == 1
    assert "self.birnn(" not in loop
    birnn = dict(found.loss.named_children())["birnn"]
    samples = found.loss(**found.data).samples
    torch.testing.assert_close(samples["h"], birnn(found.data["x"]))
    valid = torch.rand(B, T) < 0.6
    noise = found.loss.noise(**found.data)
    terms = found.loss(**found.data, noise=noise)
    counted = made(dmm, mask="valid").loss(**found.data, valid=valid, noise=noise)
    every = made(dmm, mask="valid").loss(**found.data, valid=~valid, noise=noise)
    torch.testing.assert_close(counted.value + every.value, terms.value)


def test_overshooting_is_the_prior_rolled_on_by_hand():
    found = made(overshooting)
    noise = found.loss.noise(**found.data)
    samples = found.loss(**found.data, noise=noise).samples
    nets = dict(found.loss.named_children())
    assert sum(name.startswith(("f", "p_z")) for name in nets) == 2  # one core and one prior, whatever their names
    h, z, a = samples["h"], samples["z"], found.data["a"]
    h_1 = nets["f"](h[:, 0], z[:, 0], a[:, 0])
    torch.testing.assert_close(samples["h_prime"][:, 1], h_1)
    h_2 = nets["f"](h_1, samples["z_prime"][:, 1], a[:, 1])
    torch.testing.assert_close(samples["h_prime_prime"][:, 2], h_2)
    h_3 = nets["f"](h_2, samples["z_prime_prime"][:, 2], a[:, 2])
    torch.testing.assert_close(samples["h_prime_prime_prime"][:, 3], h_3)


def test_td_vae_jumps_back_by_what_it_drew():
    found = made(td_vae)
    samples = found.loss(**found.data, seed=1).samples
    jumps, beliefs = samples["d"].argmax(-1), samples["b"]
    for t in range(2, T):
        picked = torch.stack([beliefs[row, t - 1 - jumps[row, t]] for row in range(B)])
        torch.testing.assert_close(samples["b_prime"][:, t], picked)
    assert "p_B_z_given_b" in dict(found.loss.named_children())
    assert not any("z_prime" in name and name.startswith("p_B") for name, _ in found.loss.named_children())


def test_newtonian_velocity_is_the_difference_of_two_draws():
    found = made(newtonian)
    samples = found.loss(**found.data, seed=0).samples
    newton = dict(found.loss.named_children())["newton"]
    expected = newton(samples["x"][:, 1], samples["x"][:, 0], found.data["u"][:, 1])
    torch.testing.assert_close(samples["v"][:, 2], expected)


def test_a_variance_over_the_batch_is_taken_at_each_step():
    found = made(jepa)
    samples = found.loss(**found.data).samples
    spread = dict(found.loss.named_children())["spread"]
    for t in range(T):
        torch.testing.assert_close(samples["v"][:, t], spread(samples["s"][:, t]))
    assert "v_t = spread(s_t) stays in the loop over t" in found.loss.explain()


def test_gqn_has_one_core_per_iteration_and_ignores_the_order_of_its_views():
    torch.manual_seed(0)
    loss, data = gqn()
    loss.double()
    noise = loss.noise(**data)
    order = torch.randperm(4)
    turned = data | {k: data[k][:, order] for k in "xv"}
    torch.testing.assert_close(loss(**data, noise=noise).value, loss(**turned, noise=noise).value)
    assert "self.f[0](" in loss.code
    assert "self.f[2](" in loss.code


# ------------------------------------------------------------------------------- what no step of the loop reads is late


@pytest.mark.parametrize("reset", [None, "first"])
@pytest.mark.parametrize("initial", [None, {"z": nn.Parameter(torch.ones(Z))}])
def test_a_past_that_only_the_prior_reads_needs_no_loop(reset, initial):
    q, prior = Normal("q(z_t|x_t)", Join(X, 2 * Z), shape=Z), Normal("p(z_t|z_{t-1})", Join(Z, 2 * Z), shape=Z)
    decode = Normal("p(x_t|z_t)", Join(Z, 2 * X), shape=X)
    loss = Sum("t", E(q, KL(q, prior) - log(decode)), reset=reset, initial=initial)
    assert "for t in range" not in loss.code
    data = {"x": torch.randn(B, T, X)} | ({"first": flags(HALF)} if reset else {})
    noise = loss.noise(**data)
    out, walked = (run(**data, noise=noise) for run in (loss, loss.interpret))
    torch.testing.assert_close(out.value, walked.value)
    torch.testing.assert_close(gradients(out.value.sum(), loss), gradients(walked.value.sum(), loss))
    torch.testing.assert_close(out.last, walked.last)


@pytest.mark.parametrize("reset", [None, "first"])
def test_a_draw_that_no_later_step_of_the_loop_reads_is_made_after_it(reset):
    core = Deterministic("h_t = f(h_{t-1}, x_t)", Join(D + X, D), shape=D)
    q, prior = Normal("q(z_t|h_t)", Join(D, 2 * Z), shape=Z), Normal("p(z_t|z_{t-1})", Join(Z, 2 * Z), shape=Z)
    loss = Sum("t", E(core * q, KL(q, prior)), reset=reset)
    loop, after = loss.code.split("# in the loop")[1].split("# after the loop")
    assert "q_z_given_h" not in loop
    assert "z_prev = shift(z" in after
    data = {"x": torch.randn(B, T, X)} | ({"first": flags(HALF)} if reset else {})
    noise = loss.noise(**data)
    start = {"h": torch.randn(B, D), "z": torch.randn(B, Z)}
    out, walked = (run(**data, noise=noise, start=start) for run in (loss, loss.interpret))
    torch.testing.assert_close(out.value, walked.value)
    torch.testing.assert_close(out.last, walked.last)


# ----------------------------------------------------------------------------------------------------------- its names


def test_renaming_what_is_read_of_the_step_before_alone():
    core = Deterministic("h_t = f(h_{t-1}, z_{t-1})", Join(D + Z, D), shape=D)
    prior = Normal("p(z_t|h_t)", Join(D, 2 * Z), shape=Z)
    assert str(core.rename(h="h'", h_prev="h")) == "h'_t = f(h_{t-1},z_{t-1})"
    assert str(core.rename(h_prev="g")) == "h_t = f(g_{t-1},z_{t-1})"
    assert str((core * prior).rename(h="h'", h_prev="h", z_prev="z''")) == "h'_t = f(h_{t-1},z''_{t-1}) p(z_t|h'_t)"
    with pytest.raises(UnknownVariableError, match="h_prev"):
        prior.rename(h_prev="g")


def test_a_whole_series_is_the_series_of_its_steps_and_nothing_else():
    encode = Deterministic("g = enc(x_{1:M})", lambda x: x.mean(1), shape=X)
    decode = Normal("p(x|g)", Join(X, 2 * X))
    with pytest.raises(FormulaError, match="would both be 'x'"):
        E(encode, log(decode)).code  # noqa: B018
    energy = norm2(Value("g") - Value("x_t", shape=X))
    loss = Sum("t", E(Deterministic("g = enc(x_{1:T})", lambda x: x.mean(1), shape=X), energy))
    x = torch.randn(B, T, X)
    torch.testing.assert_close(loss(x=x).value, (x.mean(1, keepdim=True) - x).square().sum((1, 2)))
