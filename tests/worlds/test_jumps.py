"""THICK's two levels: laws, the jumps' loss by hand, what a jump is, and that the C-RSSM learns nothing by it."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from tests.worlds.test_c_rssm import SMALL as LOW
from worldformula.errors import ConfigError, MissingInputError
from worldformula.nets.jumps import Arrived, Here
from worldformula.testing import check_world
from worldformula.world.jumps import JumpSettings
from worldformula.worlds import c_rssm

B, T, GAMMA = 3, 9, 0.9
JUMPS = JumpSettings(codes=3, units=6, act=0.3, time=0.2, even=0.7, discount=GAMMA, longest=4.0)
SMALL = replace(LOW, jumps=JUMPS)
SHAPES = {"speed": (3,)}


def made(config=SMALL, actions=4, kind="choice"):
    torch.manual_seed(0)
    world = c_rssm.build(config, SHAPES, actions, kinds={"a": kind})
    for factor in world.high:  # they begin near zero
        for p in factor.parameters():
            torch.nn.init.normal_(p, std=0.3)
    return world


def rows(dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    first = torch.zeros(B, T, dtype=torch.bool)
    first[:, 0] = first[1, 5] = True
    act = torch.nn.functional.one_hot(torch.randint(4, (B, T), generator=g), 4).to(dtype)
    return {
        "x": torch.randn(B, T, 3, generator=g, dtype=dtype), "a": act, "first": first,
        "r": torch.randn(B, T, generator=g, dtype=dtype), "d": torch.rand(B, T, generator=g, dtype=dtype),
    }  # fmt: skip


def test_the_laws():
    check_world(made(), rows())
    check_world(made(actions=2, kind="numbers"), rows() | {"a": torch.rand(B, T, 2) * 2 - 1})
    check_world(made(actions=2, kind="flags"), rows() | {"a": torch.randint(2, (B, T, 2)).float()})


def test_the_low_level_is_that_of_the_world_alone():
    """Of the same weights and noise the losses are equal, and so is what its states hold."""
    world = made()
    alone = c_rssm.build(LOW, SHAPES, 4)
    own = world.loss.state_dict()  # the network of p_c is called by what it draws first
    alone.loss.load_state_dict({name.replace("p_c_y", "p_c_z"): x for name, x in own.items()})
    noise = world.loss.noise(**rows(), generator=torch.Generator().manual_seed(3))
    first = alone.loss(**rows(), noise={name: noise[name] for name in ("epsilon", "z")})
    second = world.loss(**rows(), noise=noise)
    assert first.value.item() == second.value.item()
    assert torch.equal(first.samples["z"], second.samples["z"])


@pytest.mark.parametrize("ends", [False, True])
def test_the_jumps_loss_is_that_of_a_loop(ends):
    world, given = made(replace(SMALL, jumps=replace(JUMPS, ends=ends))).double(), rows(torch.float64)
    out = world.loss(**given, seed=4)
    s = {k: v.detach() for k, v in out.samples.items()}
    terminal = torch.zeros(B, T, dtype=torch.bool)
    terminal[2, 6] = True
    data = world.beside("jumps", out.samples, given, terminal)
    noise = world.jumps.noise(**data, generator=torch.Generator().manual_seed(5))
    found = world.jumps(**data, noise=noise)
    code = found.samples["A"].detach().unflatten(0, (B, T))
    nets = dict(world.jumps.named_children())

    def groups(logits):
        return Independent(Categorical(logits=logits.view(2, 4)), 1)

    total, count = torch.zeros(()), 0
    for b in range(B):
        for t in range(T):
            tau = None
            for k in range(t + 1, T):
                if given["first"][b, k]:
                    break
                if (s["Theta"][b, k] > 0).any() or (ends and terminal[b, k]):
                    tau = k
                    break
            if tau is None:
                continue
            count += 1
            z, c, y = (x[None] for x in (s["z"][b, t], s["c"][b, t], s["z"][b, tau - 1]))
            q = Categorical(logits=nets["q_A_given_z_c_C_Y"](z, c, s["c"][b, tau][None], y)[0])
            p = Categorical(logits=nets["p_A_given_z_c"](z, c)[0])
            f = nets["body"](z, c, code[b, t][None])
            read = [s[k][b, tau - 1][None] for k in ("c", "h", "e")]
            seen = groups(world.own.post.net(*read)[0])
            kl = 0.8 * kl_divergence(q, p) + 0.2 * kl_divergence(q, p)  # values: what is held does not matter
            kl = kl + 0.7 * (math.log(3) - q.entropy())
            kl = kl + kl_divergence(seen, groups(nets["p_Y_given_F"](f)[0]))
            act = Categorical(logits=nets["p_B_given_F"](f)[0]).log_prob(given["a"][b, tau - 1].argmax())
            span = nets["p_n_given_F"].net(f)[0]
            scale = torch.nn.functional.elu(span[1]) + 1.1
            time = Normal(span[0].relu(), scale).log_prob(torch.tensor(tau - 1.0 - t))
            earned = sum(GAMMA ** (k - t) * given["r"][b, k] for k in range(t, tau))
            way = Normal(nets["p_G_given_F"](f)[0, 0], 1.0).log_prob(earned)
            total = total + kl - 0.3 * act - 0.2 * time - way
    assert 0 < count < B * T
    assert found.value.item() == pytest.approx(total.item() / count, rel=1e-9)


def test_how_alike_codes_are_held_may_be_said_by_the_call():
    world, fixed = made(replace(SMALL, jumps=replace(JUMPS, even=None))), made()
    data = world.beside("jumps", world.loss(**rows(), seed=0).samples, rows())
    assert world.jumps(**data, even=0.7, seed=1).value.item() == pytest.approx(fixed.jumps(**data, seed=1).value.item())
    none, half, one = (world.jumps(**data, even=even, seed=1).value.item() for even in (0.0, 0.5, 1.0))
    assert one - none == pytest.approx(2 * (half - none), rel=1e-3)
    assert one > none
    with pytest.raises(MissingInputError, match="even"):
        world.jumps(**data, seed=1)
    plain = made(replace(SMALL, jumps=replace(JUMPS, even=0.0)))
    assert "kl_even" not in plain.jumps(**data, seed=1).terms


def test_the_world_learns_nothing_by_the_jumps_and_all_of_the_jumps_does():
    world = made()
    out = world.loss(**rows(), seed=0)
    world.jumps(**world.beside("jumps", out.samples, rows()), seed=0).value.backward()
    moved = {id(p) for p in world.parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    high = {id(p) for factor in world.high for p in factor.parameters()}
    assert moved == high
    assert not high & {id(p) for factor in world.low for p in factor.parameters()}
    assert high | {id(p) for factor in world.low for p in factor.parameters()} == {id(p) for p in world.parameters()}


def test_a_jump_is_a_coarse_step_from_where_it_says():
    """By the networks, one after another: the state before, the action, c and z behind them, reward and duration."""
    world = made()
    state, jump = world.filter(rows(), seed=0).last(), world.levels["jump"]
    assert jump.actions == ()
    assert "A" in jump.choices
    code = torch.eye(3)
    dream = jump.imagine(state, actions={"A": code[:, None]}, seed=7)
    again = jump.imagine(state, actions={"A": code[:, None]}, seed=7)
    assert torch.equal(dream["z"], again["z"])
    nets = {f.variable.key: f for f in jump.prior.factors}
    f = nets["F"].net(state["z"], state["c"], code)
    wanted = nets["n"].net.span(f)["loc"].clamp(0, 4.0) + 1
    torch.testing.assert_close(dream["n"][:, 1], wanted)
    torch.testing.assert_close(dream["G"][:, 1], nets["G"].net.net(f)[:, 0])
    noise = jump.dream_noise(state, {"A": code[:, None]}, torch.Generator().manual_seed(1))
    exact = jump.imagine(state, actions={"A": code[:, None]}, noise=noise)
    y = nets["Y"].family.sample(nets["Y"].params(f), noise["Y"][:, 0])
    b = nets["B"].family.sample(nets["B"].params(f), noise["B"][:, 0])
    c, _ = world.own.slow.factors[2].net(nets["u"].net(y, b), state["c"], 0.1 * noise["epsilon"][:, 0])
    torch.testing.assert_close(exact["c"][:, 1], c)
    reward = world.own.heads_coarse["r_coarse"].net
    way = (exact["G"][:, 1] - reward(state["z"], state["c"])[:, 0]) / GAMMA
    told = jump.decode(exact)["r_jump"][:, 1]
    arriving = reward(exact["z"][:, 1], c)[:, 0]
    torch.testing.assert_close(told, way + GAMMA ** (exact["n"][:, 1] - 1) * arriving)


def test_jumps_in_a_row_count_each_reward_once():
    """A known stretch of rewards, cut into three jumps: their discounted rewards are those of single steps."""
    rewards, cuts = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64), (0, 3, 4, 11)
    single = sum(GAMMA ** (k - 1) * rewards[k] for k in range(1, 12))

    def at(k):
        return torch.full((1, 1, 1), float(k)), torch.zeros(1, 1)

    class Known(torch.nn.Module):
        def forward(self, z, c):
            return rewards[z.flatten(1)[:, 0].long()][:, None]

    here, arrived = Here(Known()), Arrived(Known(), GAMMA)
    total, weight = 0.0, 1.0
    for begin, end in pairwise(cuts):
        collected = sum(GAMMA ** (k - begin) * rewards[k] for k in range(begin, end))[None]
        time = torch.tensor([end - begin]).double()
        total += weight * arrived(*at(end), collected, here(*at(begin)), time).item()
        weight *= GAMMA ** (end - begin)
    assert total == pytest.approx(single.item(), rel=1e-12)


def test_a_world_whose_fine_dreams_say_nothing_of_the_coarse_prior():
    world = made(replace(SMALL, jumps=replace(JUMPS, said=False)))
    check_world(world, rows())
    assert "y" in made().carried
    assert "y" not in world.carried


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"codes": 0}, "codes"),
        ({"discount": 1.5}, "discount"),
        ({"time": -1.0}, "time"),
        ({"even": -0.1}, "time and even ≥ 0"),
    ],
)
def test_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        replace(JUMPS, **change)
    with pytest.raises(ConfigError, match="expected actions of a, got 'b'"):
        c_rssm.build(SMALL, SHAPES, 2, kinds={"b": "choice"})


@pytest.mark.parametrize(
    "key", ["A", "B", "C", "F", "G", "Y", "l", "m", "n", "Theta", "epsilon", "beta", "c", "h", "q"]
)
def test_observations_may_be_called_as_the_formulas_name_their_own(key):
    """They get other names there: the loss of the same data under an innocent name is the same."""
    found = []
    for name in (key, "o"):
        torch.manual_seed(0)
        world = c_rssm.build(replace(SMALL, gates=None), {name: (3,), "speed": (2,)}, 4, kinds={"a": "choice"})
        given = rows()
        given |= {world.observations[name]: given["x"], world.observations["speed"]: given["x"][..., :2]}
        given = {k: v for k, v in given.items() if k in world.loss.program.inputs}
        out = world.loss(**given, beta=2.0, seed=0)
        jumps = world.jumps(**world.beside("jumps", out.samples, given), seed=1)
        assert not {"A", "B", "Theta", "beta"} & {*world.observations.values()}
        found.append((out.value.item(), jumps.value.item()))
    if key < "speed":  # the order of the networks is that of the keys, and "o" comes before "speed" too
        assert found[0] == found[1]
