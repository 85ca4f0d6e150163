"""THICK Dreamer's critics: Dreamer v2's at ψ = 1, the value of a known process, and the authors' way of counting."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError
from worldformula.formula import OneHot
from worldformula.learners.imagination import (
    JumpingActorCritic,
    JumpingSettings,
    MixedActorCritic,
    MixedSettings,
)
from worldformula.nets.plain import Plain
from worldformula.world import State

N, S, H, Z, C, A, GAMMA = 4, 6, 5, (2, 3), 3, 2, 0.9
SETTINGS = JumpingSettings(discount=GAMMA, lam=0.8, entropy=0.01)


@dataclass
class Known:
    """A process of two states that alternate: what is earned on the way, and how long it takes; c says which."""

    way: tuple[float, float] = (0.7, -0.4)
    time: tuple[int, int] = (3, 5)

    def imagine(self, start: State, policy=None, *, actions=None, horizon=None, given=None, generator=None) -> State:
        assert horizon == 1
        here = start["c"][:, 0].long()
        found = {
            "z": start["z"], "c": torch.cat((1 - start["c"][:, :1], start["c"][:, 1:]), 1),
            "G": torch.tensor(self.way).to(start["c"])[here], "n": torch.tensor(self.time).to(start["c"])[here],
        }  # fmt: skip
        return State({name: torch.stack((start[name], x), 1) for name, x in found.items()}, 2)

    def decode(self, states, heads=None):
        lead = states["G"].shape
        told = {"r_coarse": torch.full(lead, 2.0), "d_coarse": torch.full(lead, 0.5)}
        return {name: told[name].to(states["G"]) for name in heads}

    def value(self) -> Tensor:
        """v(s) = way(s) + γ^time(s) v(1 − s), solved as two equations."""
        (a, b), (m, n) = self.way, (GAMMA**t for t in self.time)
        return torch.tensor([(a + m * b) / (1 - m * n), (b + n * a) / (1 - m * n)], dtype=torch.float64)


class Exact(nn.Module):
    """The value itself, with one weight that learns."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.value = value

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        return self.value[c[:, 0].long()][:, None] + self.shift


def policy(given="h_t,z_t,c_t", width=H + 6 + C):
    torch.manual_seed(1)
    return OneHot(f"π(a_t|{given})", Plain(width, A, 7, 1, stopped=True), shape=A)


def dream(seed=0):
    g = torch.Generator().manual_seed(seed)
    states = {
        name: torch.randn(N, S, *shape, generator=g).double() for name, shape in (("h", (H,)), ("z", Z), ("y", Z))
    }
    states["c"] = torch.randint(2, (N, S, C), generator=g).double()
    act = nn.functional.one_hot(torch.randint(A, (N, S), generator=g), A).double()
    return states, act, torch.randn(N, S, generator=g).double(), torch.rand(N, S, generator=g).double()


def made(settings=SETTINGS, coarse=None, heads=("r_coarse", "d_coarse")):
    own = policy()
    torch.manual_seed(2)
    critic = Plain(H + 6 + C, 1, 7, 1)
    coarse = Plain(6 + C, 1, 7, 1) if coarse is None else coarse
    return JumpingActorCritic(own, critic, coarse, Known(), settings, heads).double(), own.double(), critic


def test_at_psi_1_actor_and_critic_are_dreamer_v2s_to_the_bit():
    learner, own, critic = made(replace(SETTINGS, psi=1.0))
    renamed = policy("h_t,z_t,k_t").double()  # what v2 calls a continuation is a context here
    renamed.load_state_dict(own.state_dict())
    plain = MixedActorCritic(renamed, critic, MixedSettings(discount=GAMMA, lam=0.8, entropy=0.01)).double()
    states, act, reward, going = dream()
    terminal = torch.tensor([True, False, False, True])
    state = torch.get_rng_state()
    first = learner.dream(**learner.dreamed(states, act, reward, going, terminal))
    assert torch.equal(torch.get_rng_state(), state)  # nothing has jumped
    second = plain.dream(**plain.dreamed({**states, "k": states["c"]}, act, reward, going, terminal))
    for name in ("actor", "critic"):
        assert first.value[name].item() == second.value[name].item()
    gradients = [
        torch.autograd.grad(out.value["critic"], list(critic.parameters()), retain_graph=True)
        for out in (first, second)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    moved = [
        torch.autograd.grad(out.value["actor"], list(f.parameters())) for out, f in ((first, own), (second, renamed))
    ]
    assert all(torch.equal(a, b) for a, b in zip(*moved, strict=True))


def test_where_the_value_behind_a_jump_is_known_so_is_that_before_it():
    """Of a process that never ends and whose value two equations give, the critics learn that value at ψ = 0."""
    value = Known().value()
    learner, *_ = made(replace(SETTINGS, psi=0.0), Exact(value))
    states, act, reward, going = dream()
    out = learner.dream(**learner.dreamed(states, act, reward, torch.full_like(going, GAMMA)))
    torch.testing.assert_close(out.samples["M"], value[states["c"][..., 0].long()], rtol=0, atol=1e-6)
    (slope,) = torch.autograd.grad(out.value["coarse"], learner.coarse.net.shift)
    assert slope.abs() < 1e-6  # and the coarse critic, which knows it, has nothing to learn
    assert torch.autograd.grad(out.value["critic"], list(learner.critic.parameters()))[0].abs().sum() > 0


def test_returns_and_jumps_are_mixed_and_neither_critic_learns_through_the_copy():
    learner, *_ = made(replace(SETTINGS, psi=0.25))
    states, act, reward, going = dream()
    data = learner.dreamed(states, act, reward, going)
    out = learner.dream(**data)
    behind = learner.slow_coarse(data["Z"].flatten(0, 1), data["C"].flatten(0, 1)).view(N, S)
    here = states["c"][..., 0].long()
    on = going.clamp(max=GAMMA) / GAMMA  # how probably there is anything behind a state
    way = reward + on * (torch.tensor(Known().way).double()[here] - reward)
    share = on * GAMMA ** torch.tensor(Known().time).double()[here]
    torch.testing.assert_close(out.samples["M"], 0.25 * out.samples["R"] + 0.75 * (way + share * behind))
    weight = out.samples["w"]
    for name, said in (("critic", "V"), ("coarse", "W")):
        wanted = weight * (0.5 * (out.samples["M"] - out.samples[said]) ** 2 + 0.5 * torch.tensor(6.283185307).log())
        assert out.value[name].item() == pytest.approx(wanted.mean().item(), rel=1e-6)
    (out.value["critic"] + out.value["coarse"]).backward()
    assert all(p.grad is None for m in (learner.slow_coarse, learner.slow_critic) for p in m.parameters())
    assert all(p.grad is not None for m in (learner.coarse, learner.critic) for p in m.parameters())


def test_nothing_is_behind_a_state_that_ended_its_episode():
    """Dreams that begin at an end of the data, and states of which the world says so: r_t is all that there is."""
    learner, *_ = made(replace(SETTINGS, psi=0.3))
    states, act, reward, _ = dream()
    going = torch.full((N, S), GAMMA, dtype=torch.float64)
    going[1, 3] = 0.0
    terminal = torch.tensor([True, False, False, True])
    found = learner.dream(**learner.dreamed(states, act, reward, going, terminal)).samples["M"]
    for row, step in ((0, 0), (3, 0), (1, 3)):
        assert found[row, step].item() == pytest.approx(reward[row, step].item(), abs=1e-9)
    without = learner.dream(**learner.dreamed(states, act, reward, torch.full_like(going, GAMMA))).samples["M"]
    assert torch.equal(found[2], without[2])  # where nothing ends, all is as it was
    assert (found[:2, 0] != without[:2, 0]).tolist() == [True, True]


def test_the_authors_count_the_reward_behind_a_jump():
    learner, *_ = made(replace(SETTINGS, psi=0.0, behind="official"))
    states, act, reward, going = dream()
    data = learner.dreamed(states, act, reward, going)
    time = torch.tensor(Known().time)[states["c"][..., 0].long()].double()
    way = torch.tensor(Known().way).double()[states["c"][..., 0].long()]
    torch.testing.assert_close(data["J"], way + 0.5 ** (time - 1) * 2.0)
    torch.testing.assert_close(data["K"], 0.5**time)
    learner, *_ = made(replace(SETTINGS, psi=0.0, behind="official"), heads=("r_coarse", None))
    torch.testing.assert_close(learner.dreamed(states, act, reward, going)["K"], GAMMA**time)


@pytest.mark.parametrize("change", [{"psi": -0.1}, {"psi": 1.1}, {"behind": "other"}, {"lam": 2.0}])
def test_refused(change):
    with pytest.raises(ConfigError, match="expected"):
        replace(SETTINGS, **change)
