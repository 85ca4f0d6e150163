"""World: filter, observe, imagine and decode against loops by hand; policies; what is refused."""

import copy
import pickle
import sys

import pytest
import torch
from torch import nn

from tests.formula.models import A, B, D, Join, T, X, Z
from worldformula import Categorical, Deterministic, E, Normal, OneHot, Sum, log
from worldformula.errors import FormulaError, MissingInputError, ShapeError, TimeError, UnknownVariableError
from worldformula.testing import check_world
from worldformula.world import World


def build(**changes):
    parts = {
        "core": Deterministic("h_t = f(h_{t-1}, z_{t-1}, a_{t-1})", Join(D + Z + A, D), shape=D),
        "post": Normal("q(z_t|h_t,x_t)", Join(D + X, 2 * Z, 2.0), shape=Z),
        "prior": Normal("p(z_t|h_t)", Join(D, 2 * Z, 2.0), shape=Z),
        "image": Normal("p(x_t|h_t,z_t)", Join(D + Z, 2 * X), shape=X),
        "initial": None,
    } | changes
    core, post, prior, image = (parts[k] for k in ("core", "post", "prior", "image"))
    step = E(core * post, log(post) - log(prior) - log(image))
    loss = Sum("t", step, reset="first", initial=parts["initial"]).mean()
    return World(prior=core * prior, posterior=core * post, heads=[image], loss=loss), parts


def batch():
    first = torch.zeros(B, T, dtype=torch.bool)
    first[1, 2] = True
    return {"x": torch.randn(B, T, X), "a": torch.randn(B, T, A), "first": first, "unread": torch.zeros(B, T)}


def posterior_by_hand(parts, data, noise):
    h, z, a = torch.zeros(B, D), torch.zeros(B, Z), torch.zeros(B, A)
    states = []
    for t in range(T):
        keep = ~data["first"][:, t, None]
        h = parts["core"].net(h * keep, z * keep, a * keep)
        loc, scale = parts["post"].params(h, data["x"][:, t])
        z, a = loc + scale * noise[:, t], data["a"][:, t]
        states.append((h, z))
    return [torch.stack(series, 1) for series in zip(*states, strict=True)]


def test_filter_is_the_loop_by_hand_and_the_loss_sees_the_same_states():
    world, parts = build()
    data, noise = batch(), torch.randn(B, T, Z)
    h, z = posterior_by_hand(parts, data, noise)
    states = world.filter(data, noise={"z": noise})
    torch.testing.assert_close(states, {"h": h, "z": z})
    out = world.loss(**{k: data[k] for k in ("x", "a", "first")}, noise={"z": noise})
    torch.testing.assert_close(out.samples["z"], z)
    h, z, x = h.flatten(0, 1), z.flatten(0, 1), data["x"].flatten(0, 1)
    ratio = parts["post"].log_prob(z=z, h=h, x=x) - parts["prior"].log_prob(z=z, h=h)
    expected = ratio - parts["image"].log_prob(x=x, h=h, z=z)
    torch.testing.assert_close(out.value, expected.unflatten(0, (B, T)).sum(1).mean())


def test_observe_goes_on_from_the_last_state_and_action():
    world, _ = build()
    data = batch()
    states = world.filter(data, deterministic=True)
    state = world.initial(B) | {"a": torch.zeros(B, A)}
    for t in range(T):
        seen = {"x": data["x"][:, t], "first": data["first"][:, t]}
        state = world.observe(seen, state, deterministic=True)
        torch.testing.assert_close(state, {k: v[:, t] for k, v in states.items()})
        state |= {"a": data["a"][:, t]}


def test_act_is_observe_and_then_the_policy():
    world, parts = build()
    policy = Normal("π(a_t|h_t,z_t)", Join(D + Z, 2 * A), shape=A)
    state = {"h": torch.randn(B, D), "z": torch.randn(B, Z), "a": torch.randn(B, A)}
    seen = {"x": torch.randn(B, X), "first": torch.tensor([False, True] + [False] * (B - 2))}
    noise = {"z": torch.randn(B, 1, Z), "a": torch.randn(B, 1, A)}
    for modes in (False, True):
        keep = ~seen["first"][:, None]
        h = parts["core"].net(*(state[k] * keep for k in "hza"))
        loc, scale = parts["post"].params(h, seen["x"])
        z = loc if modes else loc + scale * noise["z"][:, 0]
        loc, scale = policy.params(h, z)
        a = loc if modes else loc + scale * noise["a"][:, 0]
        found = world.act(seen, state, policy, noise=noise, deterministic=modes)
        torch.testing.assert_close(dict(found), {"h": h, "z": z, "a": a})
        torch.testing.assert_close(dict(copy.deepcopy(world).act(seen, state, policy, noise=noise)), dict(
            world.act(seen, state, policy, noise=noise)))  # fmt: skip
    with pytest.raises(MissingInputError, match="act: the state lacks a"):
        world.act(seen, {k: state[k] for k in "hz"}, policy)
    with pytest.raises(FormulaError, match="expected a policy over a given variables of the state"):
        world.act(seen, state, Normal("π(b_t|h_t)", Join(D, 2 * A), shape=A))


def test_imagine_under_actions_is_the_prior_step_by_step():
    world, parts = build()
    start = {"h": torch.randn(B, D), "z": torch.randn(B, Z)}
    actions, noise = torch.randn(B, 3, A), torch.randn(B, 3, Z)
    dream = world.imagine(start, actions=actions, noise={"z": noise})
    h, z = start["h"], start["z"]
    for t in range(3):
        h = parts["core"].net(h, z, actions[:, t])
        loc, scale = parts["prior"].params(h)
        z = loc + scale * noise[:, t]
        torch.testing.assert_close((dream["h"][:, t + 1], dream["z"][:, t + 1]), (h, z))
    torch.testing.assert_close((dream["h"][:, 0], dream["a"]), (start["h"], actions))


def test_imagine_with_a_policy_acts_on_the_states_it_reaches():
    world, parts = build()
    policy = Normal("π(a_t|h_t,z_t)", Join(D + Z, A), shape=A, scale=0.3)
    start = {"h": torch.randn(B, D), "z": torch.randn(B, Z)}
    H, noise = 3, {"z": torch.randn(B, 3, Z), "a": torch.randn(B, 4, A)}
    dream = world.imagine(start, policy, horizon=H, noise=noise)
    assert {k: tuple(v.shape) for k, v in dream.items()} == {"h": (B, 4, D), "z": (B, 4, Z), "a": (B, 4, A)}
    h, z = start["h"], start["z"]
    for t in range(H + 1):
        a = policy.params(h, z)[0] + 0.3 * noise["a"][:, t]
        torch.testing.assert_close((dream["h"][:, t], dream["z"][:, t], dream["a"][:, t]), (h, z, a))
        if t < H:
            h = parts["core"].net(h, z, a)
            loc, scale = parts["prior"].params(h)
            z = loc + scale * noise["z"][:, t]


def test_a_discrete_policy_gradient_seeds_and_modes():
    world, _ = build()
    policy = OneHot("π(a_t|h_t)", Join(D, A), shape=A)
    start = world.initial(B)
    torch.manual_seed(0)
    one = world.imagine(start, policy, horizon=2, seed=5)
    torch.manual_seed(1)
    two = world.imagine(start, policy, horizon=2, seed=5)
    torch.testing.assert_close(one, two)
    other = world.imagine(start, policy, horizon=2, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(one, other)
    assert set(one["a"].unique().tolist()) <= {0.0, 1.0}
    one["z"].sum().backward()
    assert policy.net.linear.weight.grad.abs().sum() > 0
    torch.testing.assert_close(*[world.imagine(start, policy, horizon=2, deterministic=True) for _ in range(2)])


def test_decode_is_the_mean_of_the_heads_at_any_batch_shape():
    world, parts = build()
    states = world.filter(batch())
    decoded = world.decode(states)
    loc, _ = parts["image"].params(states["h"].flatten(0, 1), states["z"].flatten(0, 1))
    torch.testing.assert_close(decoded, {"x": loc.unflatten(0, (B, T))})
    torch.testing.assert_close(world.decode({k: v[0, 0] for k, v in states.items()})["x"], decoded["x"][0, 0])
    assert world.decode(states, []) == {}


def test_a_learned_start_is_where_loss_filter_and_initial_begin():
    begin = nn.Parameter(torch.full((D,), 0.5))
    world, parts = build(initial={"h": begin})
    assert "initial_state.h" in dict(world.named_parameters())
    torch.testing.assert_close(world.initial(B)["h"], begin.expand(B, D))
    data = batch()
    states = world.filter(data, deterministic=True)
    h = parts["core"].net(begin.expand(B, D), torch.zeros(B, Z), torch.zeros(B, A))
    torch.testing.assert_close(states["h"][:, 0], h)
    torch.testing.assert_close(states["h"][1, 2], h[1])
    value = world.loss(**{k: data[k] for k in ("x", "a", "first")}, deterministic=True)
    torch.testing.assert_close(value.samples["h"], states["h"])


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda world: pickle.loads(pickle.dumps(world))])
def test_a_copy_computes_the_same_with_its_own_weights(twin):
    world, _ = build()
    data = batch()
    expected = world.filter(data, seed=0)
    policy = Normal("π(a_t|h_t)", Join(D, A), shape=A, scale=1.0)
    world.imagine(world.initial(B), policy, horizon=1)
    other = twin(world)
    assert list(other.state_dict()) == list(world.state_dict())
    torch.testing.assert_close(other.filter(data, seed=0), expected)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    assert other.filter(data, deterministic=True)["h"].abs().max() == 0
    assert all(p.abs().max() == 0 for p in other.loss.parameters())
    torch.testing.assert_close(world.filter(data, seed=0), expected)


# ------------------------------------------------------------------------------------------------------------- refused


def test_a_missing_series():
    world, _ = build()
    with pytest.raises(MissingInputError) as caught:
        world.filter({k: v for k, v in batch().items() if k != "first"})
    assert str(caught.value) == (
        "filter needs first\n"
        "  variable | declared           | got\n"
        "  a        | series [B, T, ...] | given\n"
        "  x        | series [B, T, ...] | given\n"
        "  first    | series [B, T, ...] | missing\n"
        "pass first=... in the batch"
    )


def test_a_start_without_the_last_action():
    world, _ = build()
    with pytest.raises(MissingInputError, match=r"a +\| last value of the series +\| missing"):
        world.filter(batch(), start=world.initial(B))


def test_prior_and_posterior_that_carry_different_variables():
    q = Normal("q(z_t|z_{t-1},x_t)", Join(Z + X, 2 * Z), shape=Z)
    p = Normal("p(z_t|x_{t-1})", Join(X, 2 * Z), shape=Z)
    with pytest.raises(FormulaError) as caught:
        World(prior=p, posterior=q, heads=[], loss=Sum("t", E(q, log(q) - log(p))).mean())
    assert str(caught.value) == (
        "prior and posterior carry different variables\n"
        "  variable | prior | posterior\n"
        "  z        | False | True\n"
        "read the same z_{t-1} in both"
    )


def test_a_head_that_reads_what_is_not_carried():
    with pytest.raises(FormulaError, match=r"the head p\(x_t\|e_t\) reads what a state does not hold"):
        build(image=Normal("p(x_t|e_t)", nn.Linear(D, 2 * X), shape=X))


def test_what_a_state_holds_is_told_where_the_prior_was_left_without_its_core():
    _, parts = build()
    told = r"h_t +\| p\(x_t\|h_t,z_t\) \| not in the state\n  z_t +\| p\(x_t\|h_t,z_t\) \| in the state\n.*: z$"
    post = parts["core"] * parts["post"]
    with pytest.raises(FormulaError, match=told):
        World(prior=parts["prior"], posterior=post, heads=[parts["image"]], loss=build()[0].loss)


def test_a_world_is_not_called():
    world, _ = build()
    with pytest.raises(FormulaError, match=r"world.loss\(x=...\) is what is minimised"):
        world(**batch())


def test_policies_and_horizons():
    world, _ = build()
    start, policy = world.initial(B), Normal("π(a_t|h_t)", Join(D, A), shape=A, scale=1.0)
    for call in (
        lambda: world.imagine(start),
        lambda: world.imagine(start, policy),
        lambda: world.imagine(start, policy, horizon=0),
        lambda: world.imagine(start, policy, actions=torch.zeros(B, 2, A), horizon=2),
        lambda: world.imagine(start, Normal("π(b_t|h_t)", Join(D, A), shape=A, scale=1.0), horizon=2),
        lambda: world.imagine(start, Normal("π(a_t|x_t)", Join(X, A), shape=A, scale=1.0), horizon=2),
    ):
        with pytest.raises(FormulaError, match="expected"):
            call()
    with pytest.raises(TimeError, match="its size must be known"):
        world.imagine(start, Normal("π(a_t|h_t)", Join(D, A), scale=1.0), horizon=2)
    with pytest.raises(MissingInputError, match=r"imagine: the start lacks z"):
        world.imagine({"h": start["h"]}, policy, horizon=2)


def test_unknown_heads_and_missing_states():
    world, _ = build()
    states = world.initial(B)
    with pytest.raises(UnknownVariableError, match=r"no head predicts 'xx'; these are: x. Did you mean 'x'\?"):
        world.decode(states, ["xx"])
    with pytest.raises(MissingInputError, match=r"decode: p\(x_t\|h_t,z_t\) needs z"):
        world.decode({"h": states["h"]})


def test_a_loss_without_time():
    p = Normal("p(z)", shape=Z)
    with pytest.raises(FormulaError, match="expected a loss over time"):
        World(prior=p, posterior=p, heads=[], loss=log(p).mean())


def test_dreams_start_from_every_filtered_state_at_once():
    world, _ = build()
    states = world.filter(batch(), seed=0)
    policy = Normal("π(a_t|h_t,z_t)", Join(D + Z, 2 * A), shape=A)
    dream = world.imagine(states, policy, horizon=3, deterministic=True)
    assert dream["h"].shape == (B, T, 4, D)
    assert dream["a"].shape == (B, T, 4, A)
    one = world.imagine({k: v[:, 2] for k, v in states.items()}, policy, horizon=3, deterministic=True)
    torch.testing.assert_close({k: v[:, 2] for k, v in dream.items()}, one)
    actions = torch.randn(B, T, 5, A)
    followed = world.imagine(states, actions=actions, deterministic=True)
    alone = world.imagine({k: v[1, 0] for k, v in states.items()}, actions=actions[1, 0], deterministic=True)
    torch.testing.assert_close({k: v[1, 0] for k, v in followed.items()}, alone)


def test_a_network_is_not_yet_a_policy():
    world, _ = build()
    with pytest.raises(FormulaError, match=r"got Join; write Normal\('π\(a_t\|h_t,z_t\)'"):
        world.imagine(world.initial(B), Join(D + Z, A), horizon=2)


@pytest.mark.parametrize("shape", [(B + 1, 3, A), (B, 0, A), (3,)])
def test_actions_that_do_not_fit_the_start(shape):
    world, _ = build()
    with pytest.raises(ShapeError, match="the actions do not fit the start"):
        world.imagine(world.initial(B), actions=torch.zeros(shape))


def test_all_states_of_a_filter_are_no_start_for_one_row_of_actions_each():
    world, _ = build()
    start = world.initial(B)
    series = type(start)({name: value[:, None].expand(B, 5, *value.shape[1:]) for name, value in start.items()})
    with pytest.raises(ShapeError, match=r"imagine\(states.last\(\), ...\)"):
        world.imagine(series, actions=torch.zeros(B, 3, A))
    with pytest.raises(ShapeError) as caught:
        world.imagine(start, actions=torch.zeros(B + 1, 3, A))
    assert "last" not in str(caught.value)


def test_observe_needs_the_last_action_in_the_state():
    world, _ = build()
    with pytest.raises(MissingInputError, match="the state lacks a"):
        world.observe({"x": torch.zeros(B, X), "first": torch.zeros(B)}, world.initial(B))
    with pytest.raises(MissingInputError, match=r"(?s)the state lacks h, z.*the observation first"):
        world.observe(world.initial(B), {"x": torch.zeros(B, X), "first": torch.zeros(B), "a": torch.zeros(B, A)})


def test_a_state_holds_what_the_heads_read_and_the_posterior_need_not_carry_all_of_it():
    """A latent that only the prior reads at t−1, and a head that reads what nobody carries."""
    belief, hold = (
        Deterministic("b_t = rnn(b_{t-1}, x_t)", Join(D + X, D), shape=D),
        Deterministic("b_t = hold(b_{t-1})", nn.Identity(), shape=D),
    )
    post = Normal("q(z_t|b_t)", Join(D, 2 * Z, 2.0), shape=Z)
    prior = Normal("p(z_t|z_{t-1})", Join(Z, 2 * Z, 2.0), shape=Z)
    feature = Deterministic("g_t = phi(z_t)", Join(Z, D), shape=D)
    image = Normal("p(x_t|g_t)", Join(D, 2 * X), shape=X)
    loss = Sum("t", E(belief * post * feature, log(post) - log(prior) - log(image)), reset="first").mean()
    world = World(prior=hold * prior * feature, posterior=belief * post * feature, heads=[image], loss=loss)
    assert world.carried == ("b", "z", "g")
    data = batch()
    check_world(world, {k: data[k] for k in ("x", "first")})
    states = world.filter(data, deterministic=True)
    dream = world.imagine({k: v[:, -1] for k, v in states.items()}, horizon=3, deterministic=True)
    torch.testing.assert_close(dream["b"], states["b"][:, -1:].expand(B, 4, D))
    torch.testing.assert_close(dream["g"][:, 2], feature.net(dream["z"][:, 2]))
    torch.testing.assert_close(dream["z"][:, 1], prior.params(states["z"][:, -1])[0])


def test_one_step_of_a_dream_looks_up_no_names():
    """Python calls, counted: what depends on the world alone is known before."""
    world, _ = build()
    state, actions = world.initial(B), torch.randn(B, 1, A)
    world.imagine(state, actions=actions)
    calls = 0

    def count(frame, event, arg):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        world.imagine(state, actions=actions)
    finally:
        sys.setprofile(None)
    assert calls <= 150


def test_class_numbers_are_decoded_as_probabilities():
    words = Categorical("p(w_t|h_t,z_t)", Join(D + Z, 5), shape=())
    world, _ = build(image=words)
    states = world.filter(batch(), seed=0)
    h, z = states["h"].flatten(0, 1), states["z"].flatten(0, 1)
    expected = words.net(h, z).softmax(-1).unflatten(0, (B, T))
    torch.testing.assert_close(world.decode(states)["w"], expected)
