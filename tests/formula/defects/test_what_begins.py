"""What stands before a first step: z_0 and x_1 mean one thing wherever they are read, or are refused."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal as Gauss
from torch.distributions import kl_divergence

from tests.formula.defects.both import PATHS, refused, run
from worldformula import KL, Data, Deterministic, E, Normal, Sum, Value, World, log, norm2, total
from worldformula.errors import DuplicateVariableError, FormulaError, ShapeError, TimeError

B, T, X, L = 3, 5, 2, 3
FIRST = torch.zeros(B, T)
FIRST[0, 2] = FIRST[1, 0] = FIRST[2, 1] = FIRST[2, 4] = 1


def series():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(B, T, X, generator=generator)


def copy(header):
    return Deterministic(header, lambda z, *_: z, shape=X)


def doubled(x):
    return torch.cat([x, 0 * x], -1)


def seen(header):
    """A Normal of scale 1 around its only condition."""
    return Normal(header, lambda z: z, shape=X, scale=1.0)


def density(x, at=0.0):
    return Gauss(at, 1.0).log_prob(x).sum(-1)


# ------------------------------------------------------------------------------- starts under reset= and who reads them


@PATHS
@pytest.mark.parametrize("conditions", ["x_1", "z_0"])
def test_a_factor_of_every_step_that_reads_a_start_under_resets_is_refused(conditions, path):
    start = Normal("q(z_0|x_1)", doubled, shape=X)
    loss = Sum("t", E(copy("z_t = f(z_{t-1})"), log(seen(f"p(x_t|{conditions})"))), initial=start, reset="first")
    with refused(conditions, "reset='first'", "Value('first_t')", "c_0", error=TimeError):
        run(loss, path, x=series(), first=FIRST)


@PATHS
def test_a_transition_that_reads_the_drawn_start_under_resets_is_refused(path):
    step = Deterministic("z_t = f(z_{t-1}, z_0)", lambda z, start: z + start, shape=X)
    body = E(step, log(seen("p(x_t|z_t)")))
    loss = Sum("t", body, initial=Normal("p(z_0)", shape=X), reset="first")
    with refused("z_0", "read c_t", error=TimeError):
        run(loss, path, x=series(), first=FIRST)
    with refused("z_0", error=TimeError):  # a chunk that goes on is no other formula
        run(loss, path, x=series(), first=FIRST, start={"z": torch.zeros(B, X)})


@PATHS
def test_a_posterior_that_reads_the_first_row_under_resets_is_refused(path):
    start, step = Normal("q(z_0|x_1)", doubled, shape=X), copy("z_t = f(z_{t-1})")
    post = Normal("q(w_t|z_t,x_1)", lambda z, x: doubled(x), shape=X)
    loss = Sum("t", E(step * post, log(seen("p(x_t|w_t)"))), initial=start, reset="first")
    with refused("x_1", error=TimeError):
        run(loss, path, x=series(), first=FIRST)


def test_a_world_whose_posterior_reads_the_first_row_under_resets_is_refused():
    start, step = Normal("q(z_0|x_1)", doubled, shape=X), Normal("p(z_t|z_{t-1})", doubled, shape=X)
    post = Normal("q(z_t|z_{t-1},x_1)", lambda z, x: doubled(x), shape=X)
    head = seen("p(x_t|z_t)")
    with refused("x_1", error=TimeError):
        world = World(prior=step, posterior=post, heads=[head], loss=Sum("t", E(post, KL(post, step) - log(head)),
                      initial=start, reset="first"))  # fmt: skip
        world.filter({"x": series(), "first": FIRST}, deterministic=True)


@PATHS
def test_without_resets_every_step_reads_the_first_row(path):
    start = Normal("q(z_0|x_1)", doubled, shape=X)
    loss = Sum("t", E(copy("z_t = f(z_{t-1})"), log(seen("p(x_t|x_1)"))), initial=start)
    x = series()
    expected = density(x, x[:, :1]).sum(1)
    torch.testing.assert_close(run(loss, path, x=x, deterministic=True).value, expected)


@PATHS
@pytest.mark.parametrize("weight", ["first", "2 first", "first / 2", "-first"])
def test_terms_about_the_start_count_where_a_sequence_begins(weight, path):
    start, prior, flags = Normal("q(z_0|x_1)", doubled, shape=X), Normal("p(z_0)", shape=X), Value("first_t")
    weighted, size = {
        "first": (flags, 1.0), "2 first": (2 * flags, 2.0), "first / 2": (flags / 2, 0.5), "-first": (-flags, -1.0),
    }[weight]  # fmt: skip
    body = log(seen("p(x_t|z_t)")) + weighted * (KL(start, prior) - log(prior))
    loss = Sum("t", E(copy("z_t = f(z_{t-1})"), body), initial=start, reset="first")
    x, place, expected = series(), torch.zeros(B, dtype=torch.long), torch.zeros(B)
    for t in range(T):
        place = torch.where(FIRST[:, t] == 1, t, place)
        z = x[torch.arange(B), place]
        about = kl_divergence(Gauss(x[:, t], nn.functional.softplus(0 * x[:, t])), Gauss(0.0, 1.0)).sum(-1)
        expected = expected + density(x[:, t], z) + size * FIRST[:, t] * (about - density(x[:, t]))
    found = run(loss, path, x=x, first=FIRST, deterministic=True).value
    torch.testing.assert_close(found, expected)


@PATHS
@pytest.mark.parametrize("back", ["w_t", "w_{t-1}"])
def test_a_draw_inside_a_term_about_the_start_is_not_for_later_steps(back, path):
    start, drawn = Normal("q(z_0|x_1)", doubled, shape=X), Normal("q(w_t|x_1)", doubled, shape=X)
    body = Value("first_t") * E(drawn, log(seen(f"p(x_t|{back})")))
    loss = Sum("t", E(copy("z_t = f(z_{t-1})"), log(seen("p(x_t|z_t)"))) + body, initial=start, reset="first")
    if back == "w_{t-1}":
        with refused("x_1", error=TimeError):
            run(loss, path, x=series(), first=FIRST)
        return
    x, place, expected = series(), torch.zeros(B, dtype=torch.long), 0.0
    for t in range(T):
        place = torch.where(FIRST[:, t] == 1, t, place)
        own = FIRST[:, t] * density(torch.zeros(B, X))
        expected = expected + density(x[:, t], x[torch.arange(B), place]) + own
    torch.testing.assert_close(run(loss, path, x=x, first=FIRST, deterministic=True).value, expected)


@PATHS
def test_what_the_message_says_to_write_holds_the_first_row(path):
    held, start = copy("c_t = f(c_{t-1})"), copy("c_0 = g(x_1)")
    loss = Sum("t", E(held, log(seen("p(x_t|c_t)"))), initial=start, reset="first")
    x, place, expected = series(), torch.zeros(B, dtype=torch.long), 0.0
    for t in range(T):
        place = torch.where(FIRST[:, t] == 1, t, place)
        expected = expected + density(x[:, t], x[torch.arange(B), place])
    torch.testing.assert_close(run(loss, path, x=x, first=FIRST).value, expected)
    a = run(loss, path, x=x[:, :3], first=FIRST[:, :3])
    b = run(loss, path, x=x[:, 3:], first=FIRST[:, 3:], start=a.last)
    torch.testing.assert_close(a.value + b.value, expected)


# --------------------------------------------------------------------------------------------- z_0 beside a zero start


@PATHS
def test_a_given_row_zero_that_the_first_step_would_not_read_is_refused(path):
    loss = Sum("t", log(seen("p(x_t|x_{t-1})"))) + log(Normal("p(x_0)", shape=X))
    with refused("x_{t-1}", "x_0", "initial=", error=TimeError):
        run(loss, path, x=series(), x_0=torch.ones(B, X))


@PATHS
def test_what_the_message_says_to_write_begins_with_the_given_row(path):
    kept, begin = copy("c_t = f(x_t)"), copy("c_0 = g(x_0)")
    loss = Sum("t", E(kept, log(seen("p(x_t|c_{t-1})"))), initial=begin) + log(Normal("p(x_0)", shape=X))
    x, x_0 = series(), torch.ones(B, X)
    before = torch.cat([x_0[:, None], x[:, :-1]], 1)
    expected = density(x, before).sum(1) + density(x_0)
    torch.testing.assert_close(run(loss, path, x=x, x_0=x_0).value, expected)


@PATHS
@pytest.mark.parametrize("how", ["drawn", "compared", "given", "elsewhere", "beside a constant"])
def test_a_start_that_the_sum_does_not_begin_with_is_refused(how, path):
    q0, p0, step = Normal("q(z_0)", shape=X), Normal("p(z_0)", shape=X), copy("z_t = f(z_{t-1})")
    begin = {"z": torch.ones(X)} if how == "beside a constant" else None
    body = Sum("t", E(step, log(seen("p(x_t|z_t)"))), initial=begin)
    loss = {
        "drawn": lambda: E(q0, body + total(Value("z_0", shape=X))),
        "compared": lambda: body + KL(q0, p0),
        "given": lambda: body + log(p0),
        "elsewhere": lambda: body + log(seen("p(y|z_0)")),
        "beside a constant": lambda: E(q0, body + log(p0)),
    }[how]()
    with refused("z_{t-1}", "z_0", "initial=", error=TimeError):
        run(loss, path, x=series())


@PATHS
def test_a_start_that_is_drawn_around_the_sum_too_is_refused(path):
    q0, step = Normal("q(z_0)", shape=X), copy("z_t = f(z_{t-1})")
    loss = E(q0, Sum("t", E(step, log(seen("p(x_t|z_t)"))), initial=q0) + total(Value("z_0", shape=X)))
    with refused("z_0", "initial=", error=DuplicateVariableError):
        run(loss, path, x=series())


@PATHS
def test_a_tenth_variable_is_no_start(path):
    """z_10 ends in the digit 0 and has the number ten."""
    loss = Sum("t", E(copy("z_t = f(z_{t-1},x_t)"), log(seen("p(x_t|z_t)")))) + log(Normal("p(z_10)", shape=X))
    x, ten = series(), torch.ones(B, X)
    torch.testing.assert_close(run(loss, path, x=x, z_10=ten).value, density(x).sum(1) + density(ten))


# ---------------------------------------------------------------------------------------------------------- iterations


@PATHS
def test_iterations_begin_with_what_is_drawn_around_them(path):
    start = Normal("q(z_0|x)", doubled, shape=X)
    step = Deterministic("z_l = f(z_{l-1}, z_{l-2})", lambda a, b: a + 2 * b, shape=X)
    loss = E(
        start, Sum("l", E(step, Value("l") * norm2(Value("z_l", shape=X))), steps=L) + total(Value("z_0", shape=X))
    )
    x = series()[:, 0]
    found = run(loss, path, x=x, seed=0)
    z, older, expected = found.samples["z_0"], torch.zeros(B, X), found.samples["z_0"].sum(-1)
    for number in range(1, L + 1):
        z, older = z + 2 * older, z
        expected = expected + number * (z**2).sum(-1)
        torch.testing.assert_close(found.samples[f"z_{number}"], z)
    torch.testing.assert_close(found.value, expected)


@PATHS
def test_iterations_begin_with_data_that_an_expectation_takes(path):
    step = copy("z_l = f(z_{l-1})")
    loss = E(Data("p_data(z_0)", shape=X), Sum("l", E(step, norm2(Value("z_l", shape=X))), steps=L))
    z = series()[:, 0]
    torch.testing.assert_close(run(loss, path, z_0=z).value, L * (z**2).sum(-1))


@PATHS
def test_iterations_beside_a_start_that_is_not_around_them_are_refused(path):
    step = Deterministic("z_l = f(z_{l-1}, x)", lambda z, x: z + x, shape=X)
    loss = Sum("l", E(step, norm2(Value("z_l", shape=X))), steps=L) + log(Normal("p(z_0)", shape=X))
    with refused("z_{l-1}", "z_0", "E(q(z_0)", error=TimeError):
        run(loss, path, x=series()[:, 0], z_0=torch.ones(B, X))


@PATHS
def test_a_start_of_another_shape_than_the_iterations_is_refused(path):
    start = Deterministic("z_0 = g(x)", lambda x: x[..., :1], shape=1)
    loss = E(start, Sum("l", E(copy("z_l = f(z_{l-1})"), norm2(Value("z_l", shape=X))), steps=L))
    with refused("z_0", "event shape", error=ShapeError):
        run(loss, path, x=series()[:, 0])


@PATHS
def test_a_variable_that_is_called_like_the_draw_of_an_iteration_is_refused(path):
    step, apart = Normal("q(z_l|z_{l-1},x)", lambda z, x: doubled(z + x), shape=X), Normal("q(z_2|x)", doubled, shape=X)
    loss = E(apart, Sum("l", E(step, norm2(Value("z_l", shape=X))), steps=L) + total(Value("z_2", shape=X)))
    with refused("iteration 2", "z_2", "rename", error=FormulaError):
        run(loss, path, x=series()[:, 0])
    other = Normal("q(z_4|x)", doubled, shape=X)
    loss = E(other, Sum("l", E(step, norm2(Value("z_l", shape=X))), steps=L) + total(Value("z_4", shape=X)))
    x = series()[:, 0]
    found = run(loss, path, x=x, deterministic=True)
    torch.testing.assert_close(found.value, x.sum(-1) + (1 + 4 + 9) * (x**2).sum(-1))
    for name, times in (("z_1", 1), ("z_2", 2), ("z_3", 3), ("z_4", 1)):
        torch.testing.assert_close(found.samples[name], times * x)


@PATHS
def test_the_noise_of_an_iteration_has_the_name_of_its_draw_too(path):
    step = Normal("q(z_l|z_{l-1},x)", lambda z, x: z + x, shape=X, scale=2.0)
    loss = Sum("l", E(step, Value("l") * norm2(Value("z_l", shape=X))), steps=L)
    x, noise = series()[:, 0], series()[:, 1 : 1 + L]
    z, expected = torch.zeros(B, X), 0.0
    for number in range(1, L + 1):
        z = z + x + 2 * noise[:, number - 1]
        expected = expected + number * (z**2).sum(-1)
    named = {f"z_{number}": noise[:, number - 1] for number in range(1, L + 1)}
    torch.testing.assert_close(run(loss, path, x=x, noise=named).value, expected)
    plain = dict(zip(loss.noise(x=x), noise.unbind(1), strict=True))
    torch.testing.assert_close(run(loss, path, x=x, noise=plain).value, expected)
    with refused("z_1", "one draw"):
        run(loss, path, x=x, noise={"z": x, "z_1": x})


@PATHS
def test_a_second_draw_beside_a_variable_of_its_number_keeps_both_apart(path):
    q, apart = Normal("q(z|x)", lambda x: x, shape=X, scale=1.0), Normal("q(z_2|x)", lambda x: -x, shape=X, scale=1.0)
    size, other = total(Value("z", shape=X)), total(Value("z_2", shape=X))
    loss = E(q, size) + 10 * E(q.fresh(), size) + 100 * E(apart, other)
    x = series()[:, 0]
    noise = loss.noise(x=x, seed=0)
    assert len(noise) == 3
    found = run(loss, path, x=x, noise=noise)
    assert len(found.samples) == 3
    torch.testing.assert_close(found.samples["z_2"], noise["z_2"] - x)
    (again,) = (key for key in noise if key not in ("z", "z_2"))
    expected = (noise["z"] + x).sum(-1) + 10 * (noise[again] + x).sum(-1) + 100 * (noise["z_2"] - x).sum(-1)
    torch.testing.assert_close(found.value, expected)


@pytest.mark.parametrize(
    "clock",
    [{"initial": {"z": torch.ones(X)}}, {"reset": "first"}, {"mask": "valid"}, {"burn_in": 1}, {"until": "end"}],
)
def test_iterations_with_what_belongs_to_time_say_what_is_wrong(clock):
    body = E(copy("z_l = f(z_{l-1})"), norm2(Value("z_l", shape=X)))
    with refused(f"{next(iter(clock))}= belongs to a sum over time", "steps=3"):
        Sum("l", body, steps=3, **clock)


@pytest.mark.parametrize("steps", [0, -1, 2.5, "three"])
def test_a_number_of_iterations_that_is_none_says_what_came(steps):
    with refused("positive number of iterations", repr(steps)):
        Sum("l", Value("w"), steps=steps)
