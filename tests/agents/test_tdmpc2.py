"""TD-MPC2: a whole update against the same by hand in float64, published sizes, where gradients go, how it acts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.agents.early import CHOICE, COLUMNS, HALF_LOG_2PI, NUMBERS, A, Adam, Weights, double, normal, rows, tensors
from worldformula.agent.configurator import Configuration
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents import dreamer_v1, planet, tdmpc2
from worldformula.catalogue import discover
from worldformula.envs import ActionSpec, Column
from worldformula.errors import ConfigError, SpaceError
from worldformula.learners.imagination import LatentSettings
from worldformula.planners.cem import CEM
from worldformula.planners.mppi import MPPI
from worldformula.training.settings import differences
from worldformula.worlds.implicit import ImplicitConfig

STEPS, K, LATENT, UNITS, BINS, REACH, RHO, GAMMA = 3, 3, 8, 6, 11, 2.0, 0.6, 0.875
PAIRS = torch.tensor([*itertools.combinations(range(K), 2)])
WORLD = ImplicitConfig(latent=LATENT, simplex=4, encoder=5, units=UNITS, bins=BINS, reach=REACH, rho=RHO)
LEARNER = LatentSettings(
    GAMMA, RHO, K, UNITS, dropout=0.2, bins=BINS, reach=REACH, entropy=0.03, slow_rate=0.1, range_rate=0.4
)
CHEAP = MPPI(candidates=20, elites=4, iterations=2)
GRID = torch.linspace(-REACH, REACH, BINS, dtype=torch.float64)


def config(**changes: Any) -> tdmpc2.TDMPC2Config:
    return replace(
        tdmpc2.TDMPC2Config(WORLD, LEARNER, CHEAP, proposals=4, batch=3, length=5, units=UNITS, lr=1e-2, clip=1.0),
        **changes,
    )


def stirred(agent: ImaginationAgent) -> list[Any]:
    """The agent in float64, with weights at which nothing is zero or saturated."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in agent.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn_like(p))
        for slow, fast in zip(agent.learner.slow_critic.parameters(), agent.learner.critic.parameters(), strict=True):
            slow.copy_(fast + 0.1 * torch.randn_like(fast))
    return double(agent)


# ----------------------------------------------------------------------------------------------------------- by hand


def norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * scale + shift


def bend(x: Tensor) -> Tensor:
    return x * torch.tanh(torch.log1p(x.exp()))


def simplices(x: Tensor) -> Tensor:
    parts = [part.exp() / part.exp().sum(-1, keepdim=True) for part in x.split(4, -1)]
    return torch.cat(parts, -1)


def network(w: Mapping[str, Tensor], name: str, *inputs: Tensor, hidden: int, end: bool = False) -> Tensor:
    """Linear layers 0, 3, 6, … with a norm behind each; the last one linear, or a norm and simplices."""
    x = torch.cat(inputs, -1)
    for i in range(hidden + 1):
        x = x @ w[f"{name}.{3 * i}.weight"].T + w[f"{name}.{3 * i}.bias"]
        if i < hidden or end:
            x = norm(x, w[f"{name}.{3 * i + 1}.weight"], w[f"{name}.{3 * i + 1}.bias"])
            x = bend(x) if i < hidden else simplices(x)
    return x


def members(w: Mapping[str, Tensor], name: str, z: Tensor, a: Tensor, mask: Tensor | None) -> Tensor:
    """Logits of all Q-functions, one after the other: ``[B, T, K, bins]``."""
    found = []
    for k in range(K):
        x = torch.cat((z, a), -1)
        for i in range(2):
            x = x @ w[f"{name}.weights.{i}"][k] + w[f"{name}.biases.{i}"][k, 0]
            if mask is not None and i == 0:
                x = x * mask[..., k, :] / 0.8
            x = bend(norm(x, w[f"{name}.scales.{i}"][k, 0], w[f"{name}.shifts.{i}"][k, 0]))
        found.append(x @ w[f"{name}.weights.2"][k] + w[f"{name}.biases.2"][k, 0])
    return torch.stack(found, -2)


def mean(logits: Tensor) -> Tensor:
    y = (logits.softmax(-1) * GRID).sum(-1)
    return y.sign() * (y.abs().exp() - 1)


def cross(logits: Tensor, value: Tensor) -> Tensor:
    """Cross-entropy with the two bins beside the symlog of a value."""
    y = (value.sign() * (1 + value.abs()).log()).clamp(-REACH, REACH)
    place = (y + REACH) / (GRID[1] - GRID[0])
    near = (1 - (place.unsqueeze(-1) - torch.arange(BINS)).abs()).clamp(min=0)
    return -(near * logits.log_softmax(-1)).sum(-1)


def law(w: Mapping[str, Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    loc, raw = network(w, "policy.net.mlp.layers", z, hidden=2).chunk(2, -1)
    return loc, (-10 + 6 * (raw.tanh() + 1)).exp()


def rolled(w: Mapping[str, Tensor], data: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Encoded latents, those of the rollouts, and the logits of rewards: ``[B, T, ...]``."""
    z = network(w, "world.e.net.layers", data["x"], hidden=1, end=True)
    found, logits = list[Tensor](), list[Tensor]()
    for t in range(z.shape[1]):
        before = found[-1] if t else torch.zeros_like(z[:, 0])
        given = before, data["a"][:, t - 1] if t else torch.zeros_like(data["a"][:, 0])
        begins = data["first"][:, t] | torch.tensor(t == 0)
        led = network(w, "world.d.layers", *given, hidden=2, end=True)
        logits.append(network(w, "world.R.layers", *given, hidden=2))
        found.append(torch.where(begins[:, None], z[:, t], led))
    return z, torch.stack(found, 1), torch.stack(logits, 1)


def steps(first: Tensor) -> Tensor:
    """How many rows lie between a row and the last start, ``[B, T]``."""
    count, found = torch.zeros(len(first)), []
    for t in range(first.shape[1]):
        count = torch.zeros_like(count) if t == 0 else torch.where(first[:, t], 0, count + 1)
        found.append(count)
    return torch.stack(found, 1).double()


class TwoRates(Adam):
    """Adam whose encoder goes three tenths of each step."""

    @torch.no_grad()
    def step(self, gradients: list[Tensor]) -> None:
        slower = [name for name in self.names if name.startswith("world.e.")]
        old = {name: self.weights[name].clone() for name in slower}
        super().step(gradients)
        for name in slower:
            self.weights[name].copy_(old[name] + 0.3 * (self.weights[name] - old[name]))


@pytest.mark.parametrize("squashed", [False, True], ids=["official", "paper"])
@pytest.mark.parametrize("episodic", [False, True], ids=["endless", "episodic"])
def test_it_updates_the_model_first_and_then_the_policy_as_by_hand(episodic: bool, squashed: bool) -> None:
    own = config(world=replace(WORLD, episodic=episodic), behaviour=replace(LEARNER, squashed=squashed))
    agent = tdmpc2.build(own, COLUMNS, NUMBERS, seed=0)
    stirred(agent)
    batch, hand = rows(), Weights(agent)
    data, scale = tensors(batch), 1.0
    slow = {name: p.detach().clone() for name, p in hand.items() if name.startswith("learner.slow_critic")}
    model = TwoRates(hand, hand.of("world", "learner.critic"), 1e-2, 1e-8, 1.0)
    actor = Adam(hand, hand.of("policy"), 1e-2, 1e-5, 1.0)
    since = steps(data["first"])
    for seed in range(STEPS):
        out = agent.updates.update(batch, seed=seed)
        z, led, logits = rolled(hand, data)
        weight = (since > 0) * RHO ** (since - 1)
        far = 20 * (led - z.detach()).square().mean(-1)
        world = (weight * (far + 0.1 * cross(logits, data["r"])))[:, 1:]
        if episodic:
            going = network(hand, "world.p_c_given_z.layers", led, hidden=2)[..., 0]
            c = GAMMA * data["alive"]
            ends = -(c * torch.nn.functional.logsigmoid(going) + (1 - c) * torch.nn.functional.logsigmoid(-going))
            world = world + ((since > 0) * ends)[:, 1:]
        drawn = out["value"].samples
        pair = PAIRS[drawn["k"].argmax(-1)]
        ahead = mean(members(slow, "learner.slow_critic", z[:, 1:], drawn["a_prime"], None)).gather(-1, pair)
        target = data["r"][:, 1:] + GAMMA * data["alive"][:, 1:] * ahead.min(-1).values
        assert (ahead[..., 0] > ahead[..., 1]).any()
        assert (ahead[..., 0] < ahead[..., 1]).any()
        q = members(hand, "learner.critic", led[:, :-1], data["a"][:, :-1], drawn["m"])
        valid = (~data["first"][:, 1:]).double()
        value = valid * RHO ** since[:, :-1] * cross(q, target.detach().unsqueeze(-1)).mean(-1)
        for got, expected in ((out["world"].value, world.mean()), (out["value"].value, value.mean())):
            torch.testing.assert_close(got.detach(), expected.detach(), rtol=1e-10, atol=1e-10)
        model.step(model.gradients(world.mean() + 0.1 * value.mean()))

        drawn, states = out["policy"].samples, led.detach()  # of the model that has moved since
        loc, deviation = law(hand, states)
        noise = ((torch.atanh(drawn["a"]) - loc) / deviation).detach()
        a = torch.tanh(loc + deviation * noise)
        q = mean(members(hand, "learner.critic", states, a, drawn["m"])).gather(-1, PAIRS[drawn["k"].argmax(-1)])
        q = q.mean(-1)
        low, high = (float(np.quantile(q[:, 0].detach().numpy(), x)) for x in (0.05, 0.95))
        scale = scale + 0.4 * (max(high - low, 1.0) - scale)
        if squashed:
            entropy = -(normal(torch.atanh(a), loc, deviation) - (1 - a.square()).log()).sum(-1)
        else:
            entropy = A * (deviation.log() + 0.5 + HALF_LOG_2PI).sum(-1)
        climbed = -(RHO**since * (q / scale + 0.03 * entropy)).mean()
        torch.testing.assert_close(out["policy"].value.detach(), climbed.detach(), rtol=1e-9, atol=1e-9)
        actor.step(actor.gradients(climbed))
        slow = {k: 0.9 * v + 0.1 * hand[k.replace("slow_critic", "critic")].detach() for k, v in slow.items()}
    for name, ours in agent.named_parameters():
        expected = hand[name] if ours.requires_grad else slow[name]
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")
    assert float(agent.learner.range.scale) == pytest.approx(scale, rel=1e-9)


# ---------------------------------------------------------------------------------------------------------- gradients


def test_no_gradient_reaches_targets_nor_another_players_weights() -> None:
    agent = tdmpc2.build(config(), COLUMNS, NUMBERS, seed=0)
    stirred(agent)
    outs = agent.objective.run(rows(), seed=0)
    encoder = [*agent.world.e.parameters()]
    policy = [*agent.policy.parameters()]
    slow = [*agent.learner.slow_critic.parameters()]

    def moved(value: Tensor, weights: list[nn.Parameter]) -> bool:
        found = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
        return any(g is not None and bool((g != 0).any()) for g in found)

    world, value, climbed = (outs[name].value for name in ("world", "value", "policy"))
    assert moved(value, encoder)  # along the rollout
    assert not moved(value, policy)
    assert not any(p.requires_grad for p in slow)
    assert moved(climbed, policy)
    assert not moved(climbed, encoder)
    # The encoder's gradient is that of the first rows alone: the rows that it is a target at give none.
    data = agent.perception.learn(rows(), agent.device)
    x = data["x"].requires_grad_()
    (gradient,) = torch.autograd.grad(agent.world.loss(**{**data, "x": x}, seed=0).value, x)
    begins = data["first"].clone()
    begins[:, 0] = True
    assert (gradient[~begins] == 0).all()
    assert (gradient[begins] != 0).any(-1)[:3].all()
    assert moved(world, encoder)


def test_what_follows_an_end_is_no_target_of_what_came_before() -> None:
    agent = tdmpc2.build(config(), COLUMNS, NUMBERS, seed=0)
    stirred(agent)
    batch = rows()
    other = {k: v.copy() for k, v in batch.items()}
    other["reward"][1, 3] += 5.0  # the reward of a reset row belongs to no action
    one, two = (agent.objective.run(b, seed=0) for b in (batch, other))
    assert torch.equal(one["world"].value, two["world"].value)
    assert torch.equal(one["value"].value, two["value"].value)


# -------------------------------------------------------------------------------------------------------------- sizes


def dense(*widths: int, norms: int) -> int:
    """Weights of linear layers, and of a norm behind the first so many."""
    return sum(i * o + o for i, o in itertools.pairwise(widths)) + sum(2 * w for w in widths[1 : 1 + norms])


@pytest.mark.parametrize(
    ("preset", "latent", "units", "critics", "total"),
    [("paper", 512, 512, 5, 4_960_618), ("official", 512, 512, 5, 4_960_618), ("size1m", 128, 384, 2, 1_214_651)],
)
def test_the_published_sizes_have_the_weights_of_their_layers(
    preset: str, latent: int, units: int, critics: int, total: int
) -> None:
    """By the layer list of the authors' code, for the 24 numbers and 6 actions of walker-walk."""
    encoder, dynamics = dense(24, 256, latent, norms=2), dense(latent + 6, units, units, latent, norms=3)
    reward, policy = dense(latent + 6, units, units, 101, norms=2), dense(latent, units, units, 12, norms=2)
    value = critics * dense(latent + 6, units, units, 101, norms=2)
    columns = {"body": Column("vector", (24,), "float32")}
    agent = tdmpc2.build(tdmpc2.SYSTEM.sizes(preset), columns, ActionSpec("continuous", 6))
    found = sum(p.numel() for p in agent.parameters() if p.requires_grad)
    assert found == encoder + dynamics + reward + policy + value == total


def test_paper_and_official_differ_in_the_entropy_alone() -> None:
    found = differences(tdmpc2.paper(), tdmpc2.official())
    assert found == {"behaviour.squashed": (True, False)}


def test_from_twenty_action_dimensions_on_the_search_has_two_more_iterations() -> None:
    for width, expected in ((19, 6), (20, 8)):
        agent = tdmpc2.build(replace(tdmpc2.tiny(), planner=MPPI()), COLUMNS, ActionSpec("continuous", width))
        assert agent.search is not None
        assert agent.search.planner.iterations == expected


# ---------------------------------------------------------------------------------------------------------------- acts


def test_choices_are_refused_and_the_agents_that_take_them_are_named() -> None:
    fit = ", ".join(system.name for system in discover("agents") if "choice" in system.acts)
    assert "dreamer_v3" in fit
    assert "tdmpc2" not in fit
    with pytest.raises(SpaceError, match=rf"tdmpc2 acts by numbers.*is a choice of 2\n.*: {fit}"):
        tdmpc2.build(tdmpc2.tiny(), COLUMNS, CHOICE)


def test_the_policy_proposes_and_the_search_explores_by_its_own_deviation(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = tdmpc2.build(config(proposals=5), COLUMNS, NUMBERS, seed=0)
    agent.updates.count = 1  # before the first update it explores at random
    given, found, plan = list[Any](), list[Any](), MPPI.plan

    def watched(self: MPPI, *args: Any, **options: Any) -> Any:
        given.append((args, options))
        found.append(plan(self, *args, **options))
        return found[-1]

    monkeypatch.setattr(MPPI, "plan", watched)
    seen = {"body": np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32), "is_first": np.ones(2, bool)}
    torch.manual_seed(0)
    explored, state = agent.act(seen, agent.initial(2))
    torch.manual_seed(0)
    still, _ = agent.act(seen, agent.initial(2), explore=False)
    (world, task, start), options = given[0]
    proposed = options["proposals"]["a"]
    assert proposed.shape == (2, 5, 3, A)
    # Each is π at the state that the ones before lead to, within three deviations and a half of its middle.
    z = start["z"].unsqueeze(1).expand(-1, 5, -1).flatten(0, 1)
    for t in range(3):
        params = agent.learner.policy.params(z)
        a = proposed[:, :, t].flatten(0, 1)
        assert (((torch.atanh(a) - params[0]) / params[1]).abs() < 3.5).all()
        z = world.imagine({"z": z, "l": torch.zeros(len(z), BINS)}, actions=a[:, None])["z"][:, 1]
    assert not torch.equal(proposed[:, 0], proposed[:, 1])
    assert torch.equal(torch.from_numpy(still), found[1].first["a"])
    noise = (torch.from_numpy(explored) - found[0].first["a"]) / found[0].spread["a"]
    assert 0 < noise.abs().max() < 4
    assert torch.equal(state["plan/a"], found[0].next["a"])
    assert task.discount == GAMMA


def test_a_plan_costs_its_rewards_and_the_value_behind_them() -> None:
    agent = tdmpc2.build(config(), COLUMNS, NUMBERS, seed=0)
    stirred(agent)
    hand = {**dict(agent.named_parameters())}
    z = torch.rand(2, LATENT, dtype=torch.float64)
    a = torch.rand(2, 3, A, dtype=torch.float64) * 2 - 1
    dream = agent.world.imagine({"z": z, "l": torch.zeros(2, BINS).double()}, actions=a)
    got = agent.task().of(dream.only(("z", "l")).span(1), {"a": a})
    total = torch.zeros(2, dtype=torch.float64)
    for t in range(3):
        total += GAMMA**t * mean(network(hand, "world.R.layers", z, a[:, t], hidden=2))
        z = network(hand, "world.d.layers", z, a[:, t], hidden=2, end=True)
    middle = torch.tanh(law(hand, z)[0])
    total += GAMMA**3 * mean(members(hand, "learner.critic", z, middle, None)).mean(-1)
    torch.testing.assert_close(got, -total, rtol=1e-9, atol=1e-9)


def test_proposals_and_a_value_are_open_to_every_agent_that_has_them() -> None:
    columns = {"body": Column("vector", (4,), "float32")}
    agent = dreamer_v1.build(replace(dreamer_v1.tiny(), imagine=3, noise=0.0), columns, NUMBERS, seed=0)
    agent.updates.count = 1
    agent.configure(Configuration(planner=CHEAP, proposals=4, value=True, noise="plan"))
    seen = {"body": np.zeros((2, 4), np.float32), "is_first": np.ones(2, bool)}
    action, _ = agent.act(seen, agent.initial(2))
    assert action.shape == (2, A)
    assert (np.abs(action) <= 1).all()
    state = agent.world.initial(2)
    assert agent.task().value is not None
    value = agent.learner.value(state["h"], state["z"])
    assert torch.equal(agent.task().value(state), -value)
    assert agent.task().discount == 0.98


def test_what_an_agent_lacks_is_refused() -> None:
    columns = {"body": Column("vector", (4,), "float32")}
    agent = planet.build(planet.tiny(), columns, NUMBERS, seed=0)
    with pytest.raises(ConfigError, match="neither a policy nor a value"):
        agent.configure(Configuration(planner=CHEAP, proposals=3))
    agent.configure(Configuration(planner=CEM(horizon=3, candidates=20, elites=4, iterations=2), noise="plan"))
    agent.updates.count = 1
    with pytest.raises(ConfigError, match="a plan of CEM says no deviation"):
        agent.act({"body": np.zeros((1, 4), np.float32), "is_first": np.ones(1, bool)}, agent.initial(1))
    with pytest.raises(ConfigError, match="fewer proposals than the 20 candidates, 20"):
        config(proposals=20)


def test_what_it_dreams_is_shown_as_its_reward() -> None:
    agent = tdmpc2.build(config(), COLUMNS, NUMBERS, seed=0)
    stirred(agent)
    hand, batch = dict(agent.named_parameters()), rows()
    found = agent.open_loop(batch, context=2)
    assert [*found["names"]] == ["reward"]
    np.testing.assert_array_equal(found["truth"][..., 0], batch["reward"])
    data = tensors(batch)
    z = network(hand, "world.e.net.layers", data["x"][:, 1], hidden=1, end=True)
    for t in range(2, 5):
        given = z, data["a"][:, t - 1]
        expected = mean(network(hand, "world.R.layers", *given, hidden=2))
        np.testing.assert_allclose(found["dream"][:, t, 0], expected.detach(), rtol=1e-5)
        z = network(hand, "world.d.layers", *given, hidden=2, end=True)


def test_several_actions_share_one_value() -> None:
    specs = {"push": NUMBERS, "turn": ActionSpec("continuous", 1)}
    agent = tdmpc2.build(config(), COLUMNS, specs, seed=0)
    batch = {k: v for k, v in rows().items() if k != "action"}
    rng = np.random.default_rng(0)
    batch |= {f"action/{k}": spec.random(rng, 15).reshape(3, 5, -1) for k, spec in specs.items()}
    before = [p.detach().clone() for p in agent.parameters()]
    for _ in range(3):
        metrics = agent.update(batch)
        assert all(math.isfinite(float(v)) for v in metrics.values())
    moved = [not torch.equal(p, old) for p, old in zip(agent.parameters(), before, strict=True)]
    assert all(moved)
    assert "a'_{1,t}" in repr(agent.loss.terms["value"])


def test_the_agent_prints_its_whole_objective() -> None:
    agent = tdmpc2.build(config(), COLUMNS, NUMBERS, seed=0)
    said = {name: repr(term) for name, term in agent.loss.terms.items()}
    assert "0.6 ^ (t - 2) * (20.0 * norm2(\\hat z_t - sg(z_t)) / 8 - 0.1 * log p(s_t|l_t))" in said["world"]
    assert "n_t = \\bar Q(z'_t,a'_t), U_t = low(n_t,k_t), y_t = backup(r_t,d_t,U_t)" in said["value"]
    assert "((-w_t * 0.6 ^ (t - 1)) * log Q(s_t|l_t)) / 3" in said["value"]
    assert "(v_t + 0.06 * H[ν(u_t|z_t)])" in said["policy"]
    for term in agent.loss.terms.values():
        assert "def formula(self" in term.code
