"""Heads by name, roles, several actions, pure priors and levels: against loops and networks called by hand."""

import copy
import pickle

import pytest
import torch
from torch import nn

from tests.formula.models import A, B, D, Join, T, X, Z
from worldformula import Bernoulli, Deterministic, E, Normal, OneHot, Sum, World, log
from worldformula.errors import FormulaError, MissingInputError, ShapeError, UnknownVariableError
from worldformula.nets.transformer import CausalTransformer
from worldformula.testing import check_world
from worldformula.world import Dynamics, PriorDynamics, State

U = 3
CORE = "h_t = f(h_{t-1}, z_{t-1}, a_{t-1})"


def world(*, heads=None, **more):
    core = Deterministic(CORE, Join(D + Z + A, D), shape=D)
    q, p = Normal("q(z_t|h_t,x_t)", Join(D + X, 2 * Z), shape=Z), Normal("p(z_t|h_t)", Join(D, 2 * Z), shape=Z)
    image = Normal("p(x_t|h_t,z_t)", Join(D + Z, 2 * X), shape=X)
    loss = Sum("t", E(core * q, log(q) - log(p) - log(image)), reset="first").mean()
    heads = [image] if heads is None else heads
    return World(prior=core * p, posterior=core * q, heads=heads, loss=loss, **more)


def data(**more):
    first = torch.zeros(B, T, dtype=torch.bool)
    first[1, 2] = True
    return {"x": torch.randn(B, T, X), "a": torch.randn(B, T, A), "first": first, **more}


# --------------------------------------------------------------------------------------------------------------- heads


def test_two_heads_of_one_variable_have_two_names():
    fine, coarse = Normal("p(x_t|h_t,z_t)", Join(D + Z, 2 * X), shape=X), Normal("p(x_t|h_t)", Join(D, 2 * X), shape=X)
    made = world(heads={"image": fine, "image_coarse": coarse})
    states = made.filter(data(), seed=0)
    decoded = made.decode(states)
    assert list(decoded) == ["image", "image_coarse"]
    h, z = (states[k].flatten(0, 1) for k in ("h", "z"))
    torch.testing.assert_close(decoded["image"], fine.params(h, z)[0].unflatten(0, (B, T)))
    torch.testing.assert_close(decoded["image_coarse"], coarse.params(h)[0].unflatten(0, (B, T)))
    assert list(made.decode(states, ["image_coarse"])) == ["image_coarse"]


def test_two_heads_of_one_variable_in_a_list_are_refused():
    fine, coarse = Normal("p(x_t|h_t,z_t)", Join(D + Z, 2 * X), shape=X), Normal("p(x_t|h_t)", Join(D, 2 * X), shape=X)
    with pytest.raises(FormulaError) as caught:
        world(heads=[fine, coarse])
    assert str(caught.value) == (
        "two heads predict x: p(x_t|h_t,z_t) and p(x_t|h_t)\ngive each a name, heads={'x': ..., 'x_coarse': ...}"
    )
    with pytest.raises(FormulaError, match="expected heads as factors"):
        world(heads=[nn.Linear(2, 2)])


# --------------------------------------------------------------------------------------------------------------- roles


def test_roles_name_heads_and_observations_name_variables():
    reward = Normal("p(r_t|h_t)", Join(D, 2), shape=())
    made = world(heads={"score": reward}, roles={"reward": "score"}, observations={"image": "x"})
    assert made.head_of("reward") == "score"
    assert made.observations == {"image": "x"}
    with pytest.raises(
        FormulaError, match=r"of this World has the role 'rewards' \(roles: reward is score; heads: score\)\. Did you"
    ):
        made.head_of("rewards")
    with pytest.raises(UnknownVariableError, match=r"no head has the name 'scor'; these are: score. Did you mean"):
        world(heads={"score": reward}, roles={"reward": "scor"})


@pytest.mark.parametrize(
    ("role", "meant"),
    [
        ("rewrd", "'reward'"),
        ("rewards", "'reward'"),
        ("Reward", "'reward'"),
        ("contine", "'continue'"),
        ("mask", "'mask/'"),
    ],
)
def test_a_misspelt_role_is_not_taken_for_one_of_somebodys_own(role, meant):
    reward = Normal("p(r_t|h_t)", Join(D, 2), shape=())
    with pytest.raises(FormulaError, match=f"nothing looks for this role. Did you mean {meant}"):
        world(heads={"score": reward}, roles={role: "score"})
    with pytest.raises(FormulaError, match=f"Did you mean {meant}"):
        PriorDynamics(world().levels[""].prior, {"score": reward}, roles={role: "score"})


def test_a_role_of_ones_own_is_taken_and_what_is_no_mapping_is_told():
    reward = Normal("p(r_t|h_t)", Join(D, 2), shape=())
    for role in ("danger", "reward2", "reward/forward", "continuation"):
        assert world(heads={"score": reward}, roles={role: "score"}).head_of(role) == "score"
    for wrong in (["reward"], {"reward": reward}):
        with pytest.raises(FormulaError, match="expects names of heads by role"):
            world(heads={"score": reward}, roles=wrong)


# ------------------------------------------------------------------------------------------------------ several actions


def steered():
    """A world that is moved and turned."""
    core = Deterministic("h_t = f(h_{t-1}, z_{t-1}, m_{t-1}, u_{t-1})", Join(D + Z + A + U, D), shape=D)
    q, p = Normal("q(z_t|h_t,x_t)", Join(D + X, 2 * Z), shape=Z), Normal("p(z_t|h_t)", Join(D, 2 * Z), shape=Z)
    image = Normal("p(x_t|h_t,z_t)", Join(D + Z, 2 * X), shape=X)
    loss = Sum("t", E(core * q, log(q) - log(p) - log(image)), reset="first").mean()
    return World(prior=core * p, posterior=core * q, heads=[image], loss=loss), core, p


def test_given_actions_are_read_by_name():
    made, core, p = steered()
    assert made.actions == ("m", "u")
    start, m, u = made.initial(B), torch.randn(B, 3, A), torch.randn(B, 3, U)
    noise = torch.randn(B, 3, Z)
    dream = made.imagine(start, actions={"u": u, "m": m}, noise={"z": noise})
    h, z = torch.zeros(B, D), torch.zeros(B, Z)
    for t in range(3):
        h = core.net(h, z, m[:, t], u[:, t])
        loc, scale = p.params(h)
        z = loc + scale * noise[:, t]
        torch.testing.assert_close((dream["h"][:, t + 1], dream["z"][:, t + 1]), (h, z))
    torch.testing.assert_close((dream["m"], dream["u"]), (m, u))


def test_a_policy_is_a_product_of_one_factor_for_each_action_which_may_read_one_another():
    made, core, p = steered()
    turn = OneHot("π(u_t|h_t,m_t)", Join(D + A, U), shape=U)
    move = Normal("π(m_t|h_t,z_t)", Join(D + Z, A), shape=A, scale=0.3)
    start = State({"h": torch.randn(B, D), "z": torch.randn(B, Z)})
    H, noise = 3, {"z": torch.randn(B, 3, Z), "m": torch.randn(B, 4, A), "u": -torch.rand(B, 4, U).log()}
    dream = made.imagine(start, turn * move, horizon=H, deterministic=True)
    assert {k: tuple(v.shape) for k, v in dream.items()} == {
        "h": (B, H + 1, D), "z": (B, H + 1, Z), "m": (B, H + 1, A), "u": (B, H + 1, U),
    }  # fmt: skip
    h, z = start["h"], start["z"]
    for t in range(H + 1):
        m = move.params(h, z)[0]
        u = nn.functional.one_hot(turn.net(h, m).argmax(-1), U).float()
        torch.testing.assert_close([dream[k][:, t] for k in "hzmu"], [h, z, m, u])
        if t < H:
            h = core.net(h, z, m, u)
            z = p.params(h)[0]
    one, two = (made.imagine(start, turn * move, horizon=2, seed=3) for _ in range(2))
    torch.testing.assert_close(one, two)
    assert len(made.dynamics._policies) == 1, "one compiled rollout for the same factors"
    del noise["u"]
    drawn = made.imagine(start, turn * move, horizon=H, noise=noise | {"u": torch.zeros(B, 4, U)}, seed=0)
    torch.testing.assert_close(drawn["m"][:, 0], move.params(start["h"], start["z"])[0] + 0.3 * noise["m"][:, 0])


def test_dreams_with_several_actions_from_every_filtered_state():
    made, _, _ = steered()
    batch = {"x": torch.randn(B, T, X), "m": torch.randn(B, T, A), "u": torch.randn(B, T, U)}
    states = made.filter({**batch, "first": torch.zeros(B, T)}, seed=0)
    m, u = torch.randn(B, T, 2, A), torch.randn(B, T, 2, U)
    dream = made.imagine(states, actions={"m": m, "u": u}, deterministic=True)
    assert dream.axes == 3
    one = made.imagine(states.at(2), actions={"m": m[:, 2], "u": u[:, 2]}, deterministic=True)
    torch.testing.assert_close({k: v[:, 2] for k, v in dream.items()}, dict(one))
    with pytest.raises(MissingInputError, match="the state lacks m, u"):
        made.observe({"x": torch.zeros(B, X), "first": torch.zeros(B)}, made.initial(B))


def test_wrong_actions_and_policies_say_what_to_write():
    made, _, _ = steered()
    start = made.initial(B)
    with pytest.raises(FormulaError, match=r"reads 2 actions, got one tensor; write actions={'m': ..., 'u': ...}"):
        made.imagine(start, actions=torch.zeros(B, 2, A))
    with pytest.raises(FormulaError, match=r"expected the actions m, u by name, got m"):
        made.imagine(start, actions={"m": torch.zeros(B, 2, A)})
    with pytest.raises(
        ShapeError,
        match=r"the actions do not fit the start, or one another\n(.|\n)*u +\| \[3, H ≥ 1, ...\] \| \[3, 3, 3\]",
    ):
        made.imagine(start, actions={"m": torch.zeros(B, 2, A), "u": torch.zeros(B, 3, U)})
    move = Normal("π(m_t|h_t)", Join(D, A), shape=A, scale=1.0)
    with pytest.raises(FormulaError, match="expected a policy over m, u, one factor for each,"):
        made.imagine(start, move, horizon=1)
    with pytest.raises(FormulaError, match="expected one action series at t-1 in the prior .*, found: m, u"):
        _ = made.action
    ahead = move * Normal("π(u_t|m_{t-1})", Join(A, U), shape=U, scale=1.0)
    with pytest.raises(FormulaError, match=r"m_\{t-1\} +\| π\(u_t\|m_\{t-1\}\) +\| not in a state"):
        made.imagine(start, ahead, horizon=1)


# --------------------------------------------------------------------------------------------------------- pure priors


def test_a_prior_alone_imagines_what_the_world_around_it_imagines():
    made = world()
    alone = PriorDynamics(made.prior, made.heads)
    for what in (made, alone):
        assert isinstance(what, Dynamics)
        assert what.actions == ("a",)
    start, actions = made.initial(B), torch.randn(B, 3, A)
    torch.testing.assert_close(alone.initial(B), start)
    one, two = (what.imagine(start, actions=actions, seed=1) for what in (made, alone))
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(alone.decode(two), made.decode(one))
    names = {name for name, _ in alone.named_parameters()}
    assert names
    assert names <= {name for name, _ in made.named_parameters()}
    assert repr(alone) == "<PriorDynamics h_t = f(h_{t-1},z_{t-1},a_{t-1}) p(z_t|h_t); heads p(x_t|h_t,z_t)>"


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_of_a_prior_has_its_own_weights(twin):
    alone = PriorDynamics(world().prior)
    start, actions = alone.initial(B), torch.randn(B, 3, A)
    expected = alone.imagine(start, actions=actions, seed=1)
    other = twin(alone)
    torch.testing.assert_close(other.imagine(start, actions=actions, seed=1), expected)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    assert other.imagine(start, actions=actions, deterministic=True)["h"].abs().max() == 0
    torch.testing.assert_close(alone.imagine(start, actions=actions, seed=1), expected)


def test_a_prior_begins_where_it_is_told():
    begin = nn.Parameter(torch.full((D,), 0.5))
    alone = PriorDynamics(world().prior, initial={"h": begin, "z": Normal("p(z_0)", shape=Z, loc=3.0, scale=0.01)})
    assert any(p is begin for p in alone.parameters())
    start = alone.initial(B, seed=0)
    torch.testing.assert_close(start["h"], begin.expand(B, D))
    assert (start["z"] - 3).abs().max() < 0.1
    assert not torch.equal(start["z"], alone.initial(B, seed=1)["z"])


def test_a_simulator_by_hand_is_a_dynamics_and_a_network_is_none():
    class Simulator:
        actions = ("a",)

        def initial(self, batch, *, device=None, dtype=None, **options):
            return State({"s": torch.zeros(batch, 2)})

        def imagine(self, start, policy=None, *, actions=None, horizon=None, **options):
            raise NotImplementedError

        def decode(self, states, heads=None, **numbers):
            return {}

    assert isinstance(Simulator(), Dynamics)
    assert not isinstance(nn.Linear(1, 1), Dynamics)


# -------------------------------------------------------------------------------------------------------------- levels


def levelled(**changes):
    """A fine level that moves with every action, and a coarse one that goes on by itself; one posterior of both."""
    c = Deterministic("c_t = slow(c_{t-1})", Join(D, D), shape=D)
    seen = Deterministic("c_t = sum(c_{t-1}, x_t)", Join(D + X, D), shape=D)
    h = Deterministic("h_t = f(h_{t-1}, z_{t-1}, c_{t-1}, a_{t-1})", Join(D + Z + D + A, D), shape=D)
    q = Normal("q(z_t|h_t,x_t)", Join(D + X, 2 * Z), shape=Z)
    p, p_c = Normal("p(z_t|h_t)", Join(D, 2 * Z), shape=Z), Normal("p(z_t|c_t)", Join(D, 2 * Z), shape=Z)
    fine = {"image": Normal("p(x_t|h_t,z_t)", Join(D + Z, 2 * X), shape=X)}
    coarse = {"image_coarse": Normal("p(x_t|c_t,z_t)", Join(D + Z, 2 * X), shape=X)}
    parts = {"c": c, "p_c": p_c, "h": h, "p": p, "fine": fine, "coarse": coarse, "q": seen * h * q} | changes
    step = log(q) - log(p) - log(p_c) - log(fine["image"]) - log(coarse["image_coarse"])
    levels = {
        "fine": PriorDynamics(parts["c"] * parts["h"] * parts["p"], parts["fine"], roles=changes.get("roles")),
        "coarse": PriorDynamics(parts["c"] * parts["p_c"], parts["coarse"]),
    }
    loss = Sum("t", E(seen * h * q, step), reset="first").mean()
    return World(posterior=parts["q"], loss=loss, levels=levels), parts


def test_levels_start_from_one_state_and_carry_their_own_part():
    made, parts = levelled()
    assert set(made.carried) == {"h", "z", "c"}
    states = made.filter(data(), seed=0)
    assert set(states) == set(made.initial(B)) == {"h", "z", "c"}
    coarse = made.levels["coarse"]
    assert (set(coarse.carried), coarse.actions, made.levels["fine"].actions) == ({"c", "z"}, (), ("a",))
    dream = coarse.imagine(states.last(), horizon=2, deterministic=True)
    c = parts["c"].net(states["c"][:, -1])
    torch.testing.assert_close(dream["c"][:, 1], c)
    torch.testing.assert_close(dream["z"][:, 1], parts["p_c"].params(c)[0])
    assert set(dream) == {"c", "z"}
    assert set(coarse.decode(dream)) == {"image_coarse"}
    fine = made.levels["fine"].imagine(states.last(), actions=torch.randn(B, 2, A), deterministic=True)
    assert set(made.levels["fine"].decode(fine)) == {"image"}
    assert set(made.decode(states)) == {"image", "image_coarse"}
    unique = [v.data_ptr() for v in made.state_dict().values() if v.numel()]
    assert len(unique) == len(set(unique))


def test_levels_of_different_pasts():
    """A fine level of the second order, a coarse one that attends to all draws: states hold what each of them needs."""
    q = Normal("q(z_t|z_{t-1},x_t)", Join(Z + X, 2 * Z), shape=Z)
    fine = Normal("p(z_t|z_{t-1},z_{t-2},a_{t-1})", Join(2 * Z + A, 2 * Z), shape=Z)
    coarse = Normal("p_c(z_t|z_{<t})", CausalTransformer(Z, 2 * Z, width=16, heads=2), shape=Z)
    image = Normal("p(x_t|z_t)", Join(Z, 2 * X), shape=X)
    loss = Sum("t", E(q, log(q) - log(fine) - log(coarse) - log(image)), reset="first").mean()
    levels = {"fine": PriorDynamics(fine, {"image": image}), "coarse": PriorDynamics(coarse)}
    made = World(posterior=q, loss=loss, levels=levels)
    assert [set(level.carried) | set(level.memory) for level in made.levels.values()] == [
        {"z", "z_m1"},
        {"z", "z_cache"},
    ]
    batch = data()
    check_world(made, batch)
    states = made.filter(batch, deterministic=True)
    assert set(states) == set(made.initial(B)) == {"z", "z_m1", "z_cache"}
    z, actions = states["z"], torch.randn(B, 2, A)
    dream = made.levels["fine"].imagine(states.last(), actions=actions, deterministic=True)
    first = fine.params(z[:, -1], z[:, -2], actions[:, 0])[0]
    torch.testing.assert_close(dream["z"][:, 1], first)
    torch.testing.assert_close(dream["z"][:, 2], fine.params(first, z[:, -1], actions[:, 1])[0])
    batch["first"][:, 1:] = False
    states = made.filter(batch, deterministic=True)
    ahead = made.levels["coarse"].imagine(states.last(), horizon=1, deterministic=True)
    whole = coarse.net(torch.cat((torch.zeros(B, 1, Z), states["z"]), 1))[:, -1, :Z]
    torch.testing.assert_close(ahead["z"][:, 1], whole, rtol=1e-4, atol=1e-5)


def test_a_copy_of_levels_shares_nothing_with_its_original():
    made, _ = levelled()
    other = copy.deepcopy(made)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    start = State({k: torch.ones(B, *v.shape[1:]) for k, v in made.initial(B).items()})
    assert other.levels["coarse"].imagine(start, horizon=1, deterministic=True)["c"][:, 1].abs().max() == 0
    assert made.levels["coarse"].imagine(start, horizon=1, deterministic=True)["c"][:, 1].abs().max() > 0


def test_a_world_of_several_levels_asks_which():
    made, _ = levelled()
    for ask in (lambda: made.imagine(made.initial(B), horizon=1), lambda: made.prior, lambda: made.head_of("reward")):
        with pytest.raises(
            FormulaError, match=r"imagines at 2 levels, fine, coarse: take one of them, world.levels\['fine'\]"
        ):
            ask()


def test_levels_that_do_not_fit():
    lonely = Deterministic("w_t = g(w_{t-1})", Join(D, D), shape=D)
    with pytest.raises(FormulaError, match="let the posterior declare w too"):
        levelled(c=Deterministic("c_t = slow(c_{t-1})", Join(D, D), shape=D) * lonely)
    same = {"image": Normal("p(x_t|c_t)", Join(D, 2 * X), shape=X)}
    with pytest.raises(FormulaError, match="two levels have a head called 'image'"):
        levelled(coarse=same)
    made, parts = levelled()
    for wrong, told in (
        ({}, "expected World"),
        ({"prior": made.levels["fine"].prior, "levels": made.levels}, "expected World"),
        ({"levels": {}}, "at least one level"),
        ({"levels": {"fine": parts["h"]}}, "expected 'fine' as PriorDynamics"),
        ({"levels": {"fine": PriorDynamics(made.levels["fine"].prior, initial={"h": torch.ones(D)})}}, "has initial="),
    ):
        with pytest.raises(FormulaError, match=told):
            World(posterior=parts["q"], loss=made.loss, **wrong)


def test_a_head_of_flags_keeps_its_name_and_role_in_a_level():
    done = {
        "image": Normal("p(x_t|h_t,z_t)", Join(D + Z, 2 * X), shape=X),
        "end": Bernoulli("p(d_t|h_t)", Join(D, 1), shape=()),
    }
    made, _ = levelled(fine=done, roles={"continue": "end"})
    assert made.levels["fine"].head_of("continue") == "end"


# ------------------------------------------------------------------------------------------------- policies that pass


def test_policies_that_pass_by_are_forgotten_and_one_that_comes_back_acts_as_before():
    """Forty new policies leave no forty compiled functions behind, in dreams and in the filter alike."""
    torch.manual_seed(0)
    made = world()
    start = made.initial(B)
    first = Deterministic("a_t = g(h_t)", nn.Linear(D, A), shape=A)
    seen = {"x": torch.randn(B, X), "first": torch.zeros(B, dtype=torch.bool)}

    def both(policy):
        dream = made.imagine(start, policy, horizon=2, seed=1)["h"]
        return dream, made.act(seen, start | {"a": torch.zeros(B, A)}, policy, seed=1)["a"]

    before = both(first)
    for _ in range(40):
        both(Deterministic("a_t = g(h_t)", nn.Linear(D, A), shape=A))
    (level,) = made.levels.values()
    assert 0 < len(made._strides) <= 16
    assert 0 < len(level._policies) <= 16
    assert all(torch.equal(a, b) for a, b in zip(both(first), before, strict=True))
