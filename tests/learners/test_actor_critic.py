"""The behaviour losses against a plain loop over rollouts and steps, and where their gradients go."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldformula.errors import FormulaError, ShapeError
from worldformula.families.normal import normal
from worldformula.families.one_hot import OneHotFamily
from worldformula.formula import Factor, Normal, OneHot
from worldformula.formula.code.out import Out
from worldformula.learners.imagination import BehaviourSettings, ImaginationActorCritic
from worldformula.nets.actor import ContinuousActor, DiscreteActor
from worldformula.nets.mlp import MLP
from worldformula.training.slow import move_slow

N, S, D, G, K, A = 3, 5, 4, 2, 3, 2
WIDTH = D + G * K
BINS = 255


def policy_of(net: nn.Module, discrete: bool) -> Factor:
    header = "π(a_t|h_t,z_t)"
    return OneHot(header, net, shape=A, unimix=0.01) if discrete else Normal(header, net, shape=A)


class Case:
    """A learner with a critic that is not zero, a slow critic that differs, a policy, and random rollouts."""

    def __init__(self, discrete: bool, rate: float = 0.01) -> None:
        torch.manual_seed(0)
        critic = MLP(WIDTH, BINS, units=8, layers=1)
        self.net = (DiscreteActor if discrete else ContinuousActor)(WIDTH, A, 8, outscale=1.0).double()
        self.policy = policy_of(self.net, discrete)
        self.learner = ImaginationActorCritic(self.policy, critic, BehaviourSettings(return_rate=rate)).double()
        for p in self.learner.slow_critic.parameters():
            nn.init.normal_(p, std=0.4)
        self.discrete = discrete
        self.h = torch.randn(N, S, D).double().requires_grad_()
        self.z = torch.randn(N, S, G, K).double().requires_grad_()
        actions = F.one_hot(torch.randint(0, A, (N, S)), A) if discrete else torch.randn(N, S, A)
        self.actions = actions.double().requires_grad_()
        self.reward = torch.randn(N, S).double().requires_grad_()
        self.cont = torch.rand(N, S).double().requires_grad_()

    @property
    def features(self) -> dict[str, Tensor]:
        return {"h": self.h, "z": self.z}

    def losses(self, path: str = "call") -> Out:
        dream = self.learner.dream
        given = self.learner.dreamed(self.features, self.actions, self.reward, self.cont)
        return (dream if path == "call" else dream.interpret)(**given)

    def returns(self) -> Tensor:
        return self.losses().samples["R"]

    def inputs(self) -> list[Tensor]:
        return [self.h, self.z, self.actions, self.reward, self.cont]


def bins() -> Tensor:
    y = torch.linspace(-20, 20, BINS, dtype=torch.float64)
    return torch.sign(y) * torch.expm1(y.abs())


def two_hot_loss(logits: Tensor, target: float) -> Tensor:
    """Cross-entropy to the two neighbouring bins in real space, by search."""
    grid = bins()
    k = int((grid <= target).sum()) - 1
    upper = (target - grid[k]) / (grid[k + 1] - grid[k])
    logs = logits.log_softmax(-1)
    return -((1 - upper) * logs[k] + upper * logs[k + 1])


def value_of(net: nn.Module, case: Case, n: int, t: int) -> tuple[Tensor, float]:
    logits = net(case.h[n, t].detach()[None], case.z[n, t].detach()[None])[0]
    return logits, (logits.detach().softmax(-1) * bins()).sum().item()


def action_terms(case: Case, n: int, t: int) -> tuple[Tensor, Tensor]:
    """log π(a|s) and the entropy of π(·|s)."""
    head = case.net(case.h[n, t].detach()[None], case.z[n, t].detach()[None])
    a = case.actions[n, t].detach()
    if case.discrete:
        probs = 0.99 * head[0].softmax(-1) + 0.01 / A
        return probs[a.argmax()].log(), -(probs * probs.log()).sum()
    dist = torch.distributions.Normal(head["loc"][0], head["scale"][0])
    return dist.log_prob(a).sum(), dist.entropy().sum()


def reference(case: Case, scale: float) -> tuple[Tensor, Tensor]:
    policy_loss, value_loss = torch.zeros(()).double(), torch.zeros(()).double()
    lam, eta = 0.95, 3e-4
    for n in range(N):
        r, c = case.reward[n].tolist(), case.cont[n].tolist()
        critic = [value_of(case.learner.critic, case, n, t) for t in range(S)]
        returns = [0.0] * (S - 1) + [critic[-1][1]]
        for t in reversed(range(S - 1)):
            returns[t] = r[t + 1] + c[t + 1] * ((1 - lam) * critic[t + 1][1] + lam * returns[t + 1])
        for t in range(S - 1):
            weight = math.prod(c[: t + 1])
            log_prob, entropy = action_terms(case, n, t)
            advantage = (returns[t] - critic[t][1]) / scale
            policy_loss = policy_loss - weight * (advantage * log_prob + eta * entropy)
            slow = value_of(case.learner.slow_critic, case, n, t)[1]
            value_loss = value_loss + weight * (
                two_hot_loss(critic[t][0], returns[t]) + two_hot_loss(critic[t][0], slow)
            )
    return policy_loss / (N * (S - 1)), value_loss / (N * (S - 1))


@pytest.mark.parametrize("path", ["call", "interpret"])
@pytest.mark.parametrize("discrete", [True, False])
def test_losses_and_gradients_against_a_loop(discrete: bool, path: str) -> None:
    case = Case(discrete, rate=1.0)  # the scale is then the range of this very batch, if updated before use
    out = case.losses(path)
    quantiles = torch.quantile(out.samples["R"][:, :-1].flatten(), torch.tensor([0.05, 0.95]).double())
    scale = float(quantiles[1] - quantiles[0])
    assert scale > 2
    policy_loss, value_loss = reference(case, scale)
    torch.testing.assert_close(out.value["actor"], policy_loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out.value["critic"], value_loss, rtol=1e-6, atol=1e-6)
    params = [*case.net.parameters(), *case.learner.critic.parameters()]
    ours = torch.autograd.grad(out.value["actor"] + out.value["critic"], params)
    theirs = torch.autograd.grad(policy_loss + value_loss, params)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("discrete", [True, False])
def test_imagined_losses_reach_actor_and_critic_alone(discrete: bool) -> None:
    case = Case(discrete)
    out = case.losses()
    critic, actor = list(case.learner.critic.parameters()), list(case.net.parameters())
    everything = [*case.inputs(), *case.learner.slow_critic.parameters(), *critic, *actor]
    everything = [p for p in everything if p.requires_grad]
    of_policy = torch.autograd.grad(out.value["actor"], everything, allow_unused=True, retain_graph=True)
    of_value = torch.autograd.grad(out.value["critic"], everything, allow_unused=True)
    reached = {id(p) for p, g in zip(everything, of_policy, strict=True) if g is not None}
    assert reached == {id(p) for p in actor}
    reached = {id(p) for p, g in zip(everything, of_value, strict=True) if g is not None}
    assert reached == {id(p) for p in critic}
    assert not out.samples["R"].requires_grad


def test_the_return_bootstraps_from_the_critic_not_from_its_slow_copy() -> None:
    case = Case(discrete=True)
    before = case.returns()
    for p in case.learner.slow_critic.parameters():
        nn.init.normal_(p)
    assert torch.equal(case.returns(), before)
    for p in case.learner.critic.parameters():
        nn.init.normal_(p)
    assert not torch.allclose(case.returns(), before)


def test_the_return_scale_learns_while_training_only() -> None:
    case = Case(discrete=True)
    norm = case.learner.return_norm
    case.learner.eval()
    case.losses()
    assert norm.upper.item() == 0
    case.learner.train()
    case.losses()
    assert norm.upper.item() != 0


def test_the_last_action_is_never_scored() -> None:
    case = Case(discrete=False)
    case.learner.eval()
    before = case.losses().value["actor"]
    with torch.no_grad():
        case.actions[:, -1] += 5
    assert torch.equal(before, case.losses().value["actor"])
    with torch.no_grad():
        case.actions[:, -2] += 5
    assert not torch.equal(before, case.losses().value["actor"])


def test_at_the_start_the_value_is_zero_and_its_loss_ln_255() -> None:
    torch.manual_seed(0)
    net = ContinuousActor(WIDTH, A, 8)
    policy = policy_of(net, discrete=False)
    learner = ImaginationActorCritic(policy, MLP(WIDTH, BINS, units=8, layers=3, outscale=0.0))
    h, z = torch.randn(N, D), torch.randn(N, G, K)
    assert learner.value(h, z).tolist() == [0.0] * N
    ones = torch.ones(N, S)
    features = {"h": torch.randn(N, S, D), "z": torch.randn(N, S, G, K)}
    out = learner.dream(**learner.dreamed(features, torch.randn(N, S, A), 3 * ones, ones))
    assert out.value["critic"].item() == pytest.approx(2 * 5.541264, abs=1e-5)
    boot = out.samples["R"][:, :1].expand(N, S)
    no = torch.zeros(N, S).bool()
    replayed = learner.replay(**learner.replayed(features, ones, no, no, boot)).value
    assert replayed.item() == pytest.approx(2 * 5.541264, abs=1e-5)
    torch.nn.init.zeros_(net.mlp.head.weight)
    params = policy.params(h, z)
    assert params[1][0].tolist() == pytest.approx([0.892717] * A, abs=1e-6)
    assert (normal.entropy(params, 1) / A).tolist() == pytest.approx([1.305453] * N, abs=1e-6)


def test_replay_loss_against_a_loop_and_its_gradient_reaches_the_features() -> None:
    case = Case(discrete=True)
    torch.manual_seed(1)
    last = torch.tensor([[0, 0, 1, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 0]]).bool()
    terminal = torch.tensor([[0, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    boot = torch.randn(N, S).double()
    loss = case.learner.replay(**case.learner.replayed(case.features, case.reward, last, terminal, boot)).value
    gamma, expected = 1 - 1 / 333, torch.zeros(()).double()
    for n in range(N):
        after = boot[n, -1].item()
        for t in reversed(range(S - 1)):
            lam = 0.0 if last[n, t + 1] else 0.95
            going = 0.0 if terminal[n, t + 1] else gamma
            after = case.reward[n, t + 1].item() + going * ((1 - lam) * boot[n, t + 1].item() + lam * after)
            if last[n, t]:
                continue
            logits, _ = value_of(case.learner.critic, case, n, t)
            _, slow = value_of(case.learner.slow_critic, case, n, t)
            expected = expected + two_hot_loss(logits, after) + two_hot_loss(logits, slow)
    torch.testing.assert_close(loss, expected / (N * (S - 1)), rtol=1e-6, atol=1e-6)

    of_h, of_z = torch.autograd.grad(loss, [case.h, case.z])
    assert of_h[~last & (torch.arange(S) < S - 1)].abs().sum(-1).min() > 0
    assert not of_h[last].any()
    assert of_z.abs().max() > 0


def test_slow_critic_starts_as_a_copy_and_follows_at_two_percent() -> None:
    torch.manual_seed(0)
    critic = MLP(WIDTH, BINS, units=8, layers=1)
    learner = ImaginationActorCritic(policy_of(ContinuousActor(WIDTH, A, 8), discrete=False), critic)
    start = {k: v.clone() for k, v in critic.state_dict().items()}
    assert all(torch.equal(v, start[k]) for k, v in learner.slow_critic.state_dict().items())
    with torch.no_grad():
        for p in critic.parameters():
            p.add_(1.0)
    move_slow(learner)
    for name, slow in learner.slow_critic.state_dict().items():
        torch.testing.assert_close(slow, start[name] + 0.02)
    assert not any(p.requires_grad for p in learner.slow_critic.parameters())
    assert "slow_critic.head.weight" in learner.state_dict()
    assert "return_norm.upper" in learner.state_dict()


def test_reinforce_prefers_the_better_action() -> None:
    """A bandit in imagination: action 0 brings 1, action 1 brings 0; the policy learns it."""
    torch.manual_seed(0)
    net = DiscreteActor(1, 2, units=8, layers=1)
    family = OneHotFamily(unimix=0.01)
    policy = OneHot("π(a_t|s_t)", net, shape=2, unimix=0.01)
    learner = ImaginationActorCritic(policy, MLP(1, BINS, 8, 1, outscale=0.0))
    optimiser = torch.optim.Adam([*net.parameters(), *learner.critic.parameters()], lr=0.02)
    features = {"s": torch.ones(64, 2, 1)}
    for _ in range(60):
        with torch.no_grad():
            params = policy.params(torch.ones(64, 1))
            action = family.sample(params, family.noise((64, 2)))
        reward = torch.stack([torch.zeros(64), action[:, 0]], 1)
        cont = torch.tensor([1.0, 0.0]).expand(64, 2)
        out = learner.dream(**learner.dreamed(features, torch.stack([action, action], 1), reward, cont))
        optimiser.zero_grad()
        sum(out.value.values()).backward()
        optimiser.step()
        move_slow(learner)
    probs = family.mean(policy.params(torch.ones(1, 1)))
    assert probs[0, 0].item() > 0.9


def test_sequences_of_different_length_are_refused() -> None:
    case = Case(discrete=True)
    with pytest.raises(ShapeError, match=r"one action, reward and continuation per state"):
        case.learner.dreamed(case.features, case.actions[:, :-1], case.reward, case.cont)
    with pytest.raises(ShapeError, match=r"\n  r +\| \[3, 4\]"):
        case.learner.replayed(case.features, case.reward[:, 1:], case.cont, case.cont, case.cont)


def test_the_objective_prints_what_it_computes() -> None:
    shown = str(Case(discrete=False).learner.dream)
    for part in (
        r"R_{t} = \lambda_{\mathrm{return}}(r_{1:T}, c_{1:T}, V_{1:T})", r"A_{t} = \mathrm{scaled}(R_{1:T}, V_{1:T})",
        r"A_{t} \, \log \pi(a_{t} \mid h_{t}, z_{t}) + 0.0003 \, \mathbb{H}", r"\log v(R_{t} \mid l_{t})",
        r"m_{t} = \bar{\mathrm{critic}}(h_{t}, z_{t})",
    ):  # fmt: skip
        assert part in shown


def test_a_policy_without_time_or_with_a_name_of_the_losses_is_refused() -> None:
    critic = MLP(1, BINS, 8, 1)
    with pytest.raises(FormulaError, match=r"expected a policy over time .* such as π\(a_t\|h_t,z_t\)"):
        ImaginationActorCritic(OneHot("π(a|s)", DiscreteActor(1, 2, units=8, layers=1), shape=2), critic)
    with pytest.raises(FormulaError, match=r"call something of their own 'm'.*rename the variable of the world"):
        ImaginationActorCritic(OneHot("π(a_t|m_t)", DiscreteActor(1, 2, units=8, layers=1), shape=2), critic)


def test_a_policy_of_two_actions_of_which_one_reads_the_other() -> None:
    """log π = log π(m|h,z) + log π(u|h,m) and the entropies of both given what was drawn, by torch.distributions."""
    torch.manual_seed(0)
    move = Normal("π(x_t|h_t,z_t)", ContinuousActor(WIDTH, A, 8, outscale=1.0), shape=A)
    say = OneHot("π(y_t|h_t,x_t)", DiscreteActor(D + A, 3, 8, outscale=1.0), shape=3)
    learner = ImaginationActorCritic(move * say, MLP(WIDTH, BINS, units=8, layers=1))
    assert (learner.names, learner.actions) == (("h", "z"), ("x", "y"))
    h, z, x = torch.randn(N, S, D), torch.randn(N, S, G, K), torch.randn(N, S, A)
    y = F.one_hot(torch.randint(3, (N, S)), 3).float()
    states = {"h": h, "z": z, "x": x, "y": y}
    out = learner.dream(**learner.dreamed(states, states, torch.randn(N, S), torch.rand(N, S)))
    head, logits = move.net(h.flatten(0, 1), z.flatten(0, 1)), say.net(h.flatten(0, 1), x.flatten(0, 1))
    moved = torch.distributions.Normal(head["loc"], head["scale"])
    said = torch.distributions.OneHotCategorical(logits=logits)
    likely = moved.log_prob(x.flatten(0, 1)).sum(-1) + said.log_prob(y.flatten(0, 1))
    entropy = moved.entropy().sum(-1) + said.entropy()
    weight, advantage = out.samples["w"].flatten(), out.samples["A"].flatten()
    expected = -(weight * (advantage * likely + 3e-4 * entropy)).view(N, S).mean()
    torch.testing.assert_close(out.value["actor"], expected)
    torch.testing.assert_close(learner.metrics(out)["behaviour/policy_entropy"], entropy.mean())


def test_a_policy_that_reads_another_step_is_refused() -> None:
    late = OneHot("π(y_t|h_t,x_{t-1})", DiscreteActor(D + A, 3, 8), shape=3)
    move = Normal("π(x_t|h_t)", ContinuousActor(D, A, 8), shape=A)
    with pytest.raises(FormulaError, match="reads the state of its own step"):
        ImaginationActorCritic(move * late, MLP(WIDTH, BINS, units=8, layers=1))
