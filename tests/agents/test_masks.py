"""What a world says is allowed: the head of a mask, dreams that keep to it, and the policy that reads it."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, OneHotCategorical

from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents import dreamer_v2, dreamer_v3
from worldformula.envs import ActionSpec, Column
from worldformula.errors import FormulaError, MissingInputError
from worldformula.formula import Bernoulli, Deterministic, E, Normal, OneHot, Sum, log
from worldformula.nets.actor import MaskedActor
from worldformula.testing import check_dynamics, check_world
from worldformula.training.settings import override
from worldformula.world import PriorDynamics, State, World

SPECS = {
    "tool": ActionSpec("discrete", 3, masked=True),
    "force": ActionSpec("continuous", 2),
    "dice": ActionSpec("multi_discrete", 5, (2, 3), masked=True),
    "turn": ActionSpec("discrete", 4),
}
COLUMNS = {"vector": Column("vector", (4,), "float32")}
B, T = 3, 5


def batch(rows: int = B, steps: int = T) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    first, last = np.zeros((rows, steps), bool), np.zeros((rows, steps), bool)
    first[:, 0] = True
    tool, dice = rng.integers(2, size=(rows, steps, 3)) > 0, rng.integers(2, size=(rows, steps, 5)) > 0
    dice[0, 0] = [True, True, False, False, False]  # nothing of the second die
    return {
        "vector": rng.normal(size=(rows, steps, 4)).astype(np.float32),
        "action/tool": rng.integers(3, size=(rows, steps)),
        "action/force": rng.uniform(-1, 1, (rows, steps, 2)).astype(np.float32),
        "action/dice": rng.integers((2, 3), size=(rows, steps, 2)),
        "action/turn": rng.integers(4, size=(rows, steps)),
        "mask/tool": tool, "mask/dice": dice,
        "reward": rng.normal(size=(rows, steps)).astype(np.float32),
        "is_first": first, "is_last": last, "is_terminal": last,
    }  # fmt: skip


@pytest.fixture
def agent() -> ImaginationAgent:
    return spread(dreamer_v3.build(dreamer_v3.tiny(), COLUMNS, SPECS, seed=0))


@pytest.fixture(params=[dreamer_v3, dreamer_v2], ids=lambda module: module.__name__.rpartition(".")[2])
def dreamer(request: pytest.FixtureRequest) -> ImaginationAgent:
    return spread(request.param.build(request.param.tiny(), COLUMNS, SPECS, seed=0))


def spread(built: ImaginationAgent) -> ImaginationAgent:
    torch.manual_seed(0)
    for factor in (*built.learner.policy.factors, *built.world.heads.values()):  # away from uniform
        for weight in factor.parameters():
            nn.init.normal_(weight, std=0.3)
    return built


# ------------------------------------------------------------------------------------------------------- the policy


def inside(logits: Tensor, allowed: Tensor, unimix: float) -> Tensor:
    """Probabilities by hand: the softmax of the allowed ones alone, with a share of their uniform distribution."""
    found = torch.zeros_like(logits)
    for i, mask in enumerate(allowed):
        found[i, mask] = (1 - unimix) * logits[i, mask].softmax(-1) + unimix / int(mask.sum())
    return found


@pytest.mark.parametrize("unimix", [0.0, 0.05])
def test_a_masked_policy_is_the_policy_among_what_is_allowed(unimix: float) -> None:
    torch.manual_seed(0)
    net = MaskedActor(6, 4, 16, layers=1, outscale=1.0, unimix=unimix)
    policy = OneHot("π(a_t|h_t,M_t)", net, shape=4)
    h, mask = 3 * torch.randn(8, 6), torch.rand(8, 4) < 0.6
    mask[:, 0] |= ~mask.any(-1)
    probs = inside(net.mlp(h), mask, unimix)
    got = policy.params(h, mask.float())[0].exp()
    torch.testing.assert_close(got, probs)
    assert (got[~mask] == 0).all()
    taken = torch.nn.functional.one_hot(Categorical(probs).sample(), 4).float()
    by_hand = [OneHotCategorical(probs=p[m]) for p, m in zip(probs, mask, strict=True)]
    entropy = torch.stack([law.entropy() for law in by_hand])
    likely = torch.stack([law.log_prob(a[m]) for law, a, m in zip(by_hand, taken, mask, strict=True)])
    torch.testing.assert_close(policy.log_prob(a=taken, h=h, M=mask.float()), likely)
    assert policy.family is not None
    torch.testing.assert_close(policy.family.entropy(policy.params(h, mask.float()), 1), entropy)


def test_gradients_of_a_masked_policy_are_those_among_what_is_allowed() -> None:
    torch.manual_seed(0)
    net = MaskedActor(6, 4, 16, layers=1, outscale=1.0, unimix=0.05)
    policy = OneHot("π(a_t|h_t,M_t)", net, shape=4)
    h, mask = torch.randn(2, 6), torch.tensor([[True, False, True, True], [False, True, False, False]])
    taken = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    weights = tuple(net.parameters())
    own = (
        policy.log_prob(a=taken, h=h, M=mask.float()).sum()
        + policy.family.entropy(policy.params(h, mask.float()), 1).sum()
    )
    probs = inside(net.mlp(h), mask, 0.05)
    positive = probs[mask]
    hand = (probs * taken).sum(-1).log().sum() - (positive * positive.log()).sum()
    for got, right in zip(torch.autograd.grad(own, weights), torch.autograd.grad(hand, weights), strict=True):
        torch.testing.assert_close(got, right)


# -------------------------------------------------------------------------------------------- a tiny world, by hand


class Table(nn.Module):
    """Rows of a table by a one-hot."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(rows))

    def forward(self, place: Tensor, *_: Tensor) -> Tensor:
        return place @ self.rows


class Walk(nn.Module):
    """Places 0, 1, 2 in a circle; choice k moves k steps on."""

    def forward(self, place: Tensor, choice: Tensor) -> Tensor:
        turned = torch.stack([place.roll(k, -1) for k in range(3)], 1)
        return (choice[..., None] * turned).sum(1) + 0 * place


MASKS = [[2.0, 3.0, -1.0], [-2.0, 0.5, 0.1], [-3.0, -1.0, -2.0]]
ALLOWED = {0: (0, 1), 1: (1, 2), 2: (1,)}  # of the last place nothing is more probable than ½: the most probable one
LOGITS = [[0.5, -0.5, 1.0], [0.0, 1.0, -1.0], [2.0, 0.0, 0.0]]


class Choosing(nn.Module):
    """A table of logits, masked."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table(LOGITS)

    def forward(self, place: Tensor, mask: Tensor) -> Tensor:
        return self.table(place).masked_fill(mask < 0.5, -1e9)


def circle() -> PriorDynamics:
    core = Deterministic("s_t = walk(s_{t-1}, a_{t-1})", Walk(), shape=3)
    return PriorDynamics(core, [Bernoulli("p(M_t|s_t)", Table(MASKS), shape=3)], roles={"mask/a": "M"})


def test_dreams_choose_among_what_the_world_allows_in_exact_proportion() -> None:
    """All sequences of three choices from each place, by enumeration."""
    world, policy, N, H = circle(), OneHot("π(a_t|s_t,M_t)", Choosing(), shape=3), 6000, 2
    for start in range(3):
        place = torch.eye(3)[start].expand(N, 3)
        dream = world.imagine({"s": place}, policy, horizon=H, seed=start)
        assert {k: tuple(v.shape) for k, v in dream.items()} == dict.fromkeys(("s", "a", "M"), (N, H + 1, 3))
        taken = dream["a"].argmax(-1)
        exact: dict[tuple[int, ...], float] = {}
        for path in product(range(3), repeat=H + 1):
            at, probability = start, 1.0
            for choice in path:
                among = torch.tensor([LOGITS[at][k] for k in ALLOWED[at]]).softmax(0)
                probability *= float(among[ALLOWED[at].index(choice)]) if choice in ALLOWED[at] else 0.0
                at = (at + choice) % 3
            exact[path] = probability
        assert sum(exact.values()) == pytest.approx(1.0)
        for path, probability in exact.items():
            share = float((taken == torch.tensor(path)).all(-1).float().mean())
            assert share == pytest.approx(probability, abs=4 * (probability * (1 - probability) / N) ** 0.5 + 1e-9), (
                path
            )


def test_the_mask_in_a_dream_is_the_decoded_one_and_never_empty() -> None:
    world, policy = circle(), OneHot("π(a_t|s_t,M_t)", Choosing(), shape=3)
    dream = world.imagine({"s": torch.eye(3)}, policy, horizon=3, deterministic=True)
    at = dream["s"].argmax(-1)
    for mask, place in zip(dream["M"].flatten(0, 1), at.flatten(), strict=True):
        assert mask.nonzero().flatten().tolist() == list(ALLOWED[int(place)])
    best = [[int(max(ALLOWED[int(p)], key=lambda k, p=p: LOGITS[int(p)][k])) for p in row] for row in at]
    assert dream["a"].argmax(-1).tolist() == best, "the mode is that of what is allowed"


def test_a_policy_that_reads_no_mask_dreams_as_before() -> None:
    world, N = circle(), 3000
    free = OneHot("π(a_t|s_t)", Table(LOGITS), shape=3)
    dream = world.imagine({"s": torch.eye(3)[0].expand(N, 3)}, free, horizon=1, seed=0)
    assert "M" not in dream
    share = dream["a"][:, 0].mean(0)
    right = torch.tensor(LOGITS[0]).softmax(0)
    assert torch.allclose(share, right, atol=float(4 * (0.25 / N) ** 0.5))


def test_the_laws_hold_of_a_world_with_a_mask_and_find_what_breaks_them() -> None:
    choices = nn.functional.one_hot(torch.tensor([[0, 1], [1, 1], [2, 0]]), 3).float()
    check_dynamics(circle(), {"a": choices})
    core = Deterministic("s_t = walk(s_{t-1}, a_{t-1})", Walk(), shape=3)
    small = Bernoulli("p(M_t|s_t)", Table([row[:2] for row in MASKS]), shape=2)
    with pytest.raises(AssertionError, match="mask/a is one number a choice"):
        check_dynamics(PriorDynamics(core, [small], roles={"mask/a": "M"}), {"a": choices})


def test_a_role_of_a_mask_says_whose_it_is() -> None:
    core = Deterministic("s_t = walk(s_{t-1}, a_{t-1})", Walk(), shape=3)
    head = Bernoulli("p(M_t|s_t)", Table(MASKS), shape=3)
    with pytest.raises(FormulaError, match="the prior has no action 'b'; its actions are: a"):
        PriorDynamics(core, [head], roles={"mask/b": "M"})
    numbers = Normal("p(M_t|s_t)", Table(MASKS), shape=3, scale=1.0)
    with pytest.raises(FormulaError, match="says of each choice whether it is allowed, such as Bernoulli"):
        PriorDynamics(core, [numbers], roles={"mask/a": "M"})
    with pytest.raises(FormulaError, match="expected a policy over a given variables of the state"):
        PriorDynamics(core, [head]).imagine(
            {"s": torch.eye(3)}, OneHot("π(a_t|s_t,M_t)", Choosing(), shape=3), horizon=1
        )


def test_a_world_learns_its_mask_by_its_own_loss() -> None:
    """A world of formulas with a posterior: the laws, and a mask that its loss can learn from data."""
    core = Deterministic("s_t = walk(s_{t-1}, a_{t-1})", Walk(), shape=3)
    head = Bernoulli("p(M_t|s_t)", Table([[0.0] * 3] * 3), shape=3)
    seen = Deterministic("s_t = see(s_{t-1}, a_{t-1}, x_t)", lambda s, a, x: x + 0 * s + 0 * a[..., :3], shape=3)
    world = World(
        prior=core, posterior=seen, heads=[head], roles={"mask/a": "M"},
        loss=Sum("t", E(seen, -log(head)), reset="first").mean(),
    )  # fmt: skip
    places = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    truth = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    data = {
        "x": torch.eye(3)[places], "a": torch.eye(3)[torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])], "M": truth[places],
        "first": torch.zeros(2, 4),
    }  # fmt: skip
    check_world(world, data)
    optimiser = torch.optim.Adam(world.parameters(), lr=0.1)
    for _ in range(100):
        optimiser.zero_grad()
        world.loss(**data).value.backward()
        optimiser.step()
    dream = world.imagine({"s": torch.eye(3)}, OneHot("π(a_t|s_t,M_t)", Choosing(), shape=3), horizon=1, seed=0)
    assert torch.equal(dream["M"], truth[dream["s"].argmax(-1)])


# ------------------------------------------------------------------------------------------------------- DreamerV3


def test_the_world_predicts_each_mask_and_the_policy_reads_it(agent: ImaginationAgent) -> None:
    assert {r: n for r, n in agent.world.roles.items() if r.startswith("mask/")} == {
        "mask/a_1": "M_1", "mask/a_3": "M_3", "mask/a_4": "M_4",
    }  # fmt: skip
    assert "p(M_{1,t} \\mid h_{t}, z_{t})" in str(agent.world.loss)
    assert [str(f) for f in agent.learner.policy.factors] == [
        "π(a_{1,t}|h_t,z_t,M_{1,t})", "π(a_{2,t}|h_t,z_t)", "π(a_{3,t}|h_t,z_t,M_{3,t})",
        "π(a_{4,t}|h_t,z_t,M_{4,t})", "π(a_{5,t}|h_t,z_t)",
    ]  # fmt: skip


def test_the_loss_of_the_mask_is_its_cross_entropy(agent: ImaginationAgent) -> None:
    rows = batch()
    read = agent.perception.learn(rows, agent.device)
    assert torch.equal(read["M_1"].bool(), first_if_none(rows["mask/tool"]))
    assert torch.equal(read["M_3"].bool(), first_if_none(rows["mask/dice"][..., :2]))
    assert torch.equal(read["M_4"].bool(), first_if_none(rows["mask/dice"][..., 2:]))
    assert read["M_4"][0, 0].tolist() == [1.0, 0.0, 0.0], "where nothing is allowed, the first choice"
    out = agent.world.loss(**read, seed=0)
    h, z = out.samples["h"].flatten(0, 1), out.samples["z"].flatten(0, 1)
    logits = agent.world.heads["M_1"].net(h, z).view(B, T, 3)
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, read["M_1"], reduction="none").sum(-1)
    torch.testing.assert_close(out.terms["log p(M_{1,t}|h_t,z_t)"], -entropy.mean())


def first_if_none(mask: np.ndarray) -> Tensor:
    found = torch.as_tensor(mask.copy())
    found[..., 0] |= ~found.any(-1)
    return found


def test_its_dreams_choose_what_their_world_allows(dreamer: ImaginationAgent) -> None:
    agent = dreamer
    start = State(agent.world.filter(agent.perception.learn(batch(), agent.device), seed=0)).only(("h", "z"))
    dream = agent.world.imagine(State(start, 2).starts(), agent.learner.policy, horizon=6, seed=1)
    for action, word in (("a_1", "M_1"), ("a_3", "M_3"), ("a_4", "M_4")):
        h, z = dream["h"].flatten(0, 1), dream["z"].flatten(0, 1)
        likely = agent.world.heads[word].net(h, z).sigmoid().view(*dream[word].shape)
        best = nn.functional.one_hot(likely.argmax(-1), likely.shape[-1]).bool()
        allowed = (likely > 0.5) | best
        assert torch.equal(dream[word].bool(), allowed)
        assert not allowed.all()
        assert (dream[action].bool() & ~allowed).sum() == 0


def test_log_density_and_entropy_are_those_of_the_masked_policy(agent: ImaginationAgent) -> None:
    learner, N, S = agent.learner, 4, 3
    dream = agent.world.imagine(agent.world.initial(N), learner.policy, horizon=S - 1, seed=1)
    reward, proceed = torch.randn(N, S), torch.rand(N, S)
    out = learner.dream(**learner.dreamed(dream, dream, reward, proceed))
    h, z = dream["h"].flatten(0, 1), dream["z"].flatten(0, 1)
    likely, entropy = torch.zeros(N * S), torch.zeros(N * S)
    for factor in learner.policy.factors:
        key = factor.variable.key
        a, word = dream[key].flatten(0, 1), "M" + key[1:]
        if key == "a_2":
            head = factor.net(h, z)
            law: Any = torch.distributions.Independent(torch.distributions.Normal(head["loc"], head["scale"]), 1)
            likely, entropy = likely + law.log_prob(a), entropy + law.entropy()
            continue
        mask = dream[word].flatten(0, 1).bool() if word in dream else torch.ones_like(a, dtype=torch.bool)
        probs = inside(factor.net.mlp(h, z), mask, 0.01)
        law = Categorical(probs)
        likely, entropy = likely + law.log_prob(a.argmax(-1)), entropy + law.entropy()
    weight, advantage = out.samples["w"].flatten(), out.samples["A"].flatten()
    by_hand = -(weight * (advantage * likely + 3e-4 * entropy)).view(N, S).mean()
    torch.testing.assert_close(out.value["actor"], by_hand, rtol=1e-4, atol=1e-5)


def test_an_update_moves_the_heads_of_the_masks(dreamer: ImaginationAgent) -> None:
    agent = dreamer
    before = {k: v.clone() for k, v in agent.world.heads["M_1"].state_dict().items()}
    for _ in range(2):
        metrics = agent.update(batch(8, 32))
    assert all(torch.isfinite(torch.as_tensor(v)).all() for v in metrics.values())
    assert "loss/log p(M_{1,t}|h_t,z_t)" in metrics
    after = agent.world.heads["M_1"].state_dict()
    assert not any(torch.equal(after[k], v) for k, v in before.items())


@pytest.mark.parametrize("module", [dreamer_v3, dreamer_v2])
def test_without_masks_the_dreams_know_none(module: Any) -> None:
    free = module.build(override(module.tiny(), ["masks=false"]), COLUMNS, SPECS, seed=0)
    assert not any(role.startswith("mask") for role in free.world.roles)
    assert not any("M" in str(f) for f in free.learner.policy.factors)
    rows = {k: v[:, 0] for k, v in batch().items()}
    actions, _ = free.act(rows, free.initial(B))
    allowed = first_if_none(rows["mask/tool"]).numpy()
    assert allowed[np.arange(B), actions["tool"]].all(), "when it acts, it keeps to the masks all the same"


@pytest.mark.parametrize("explore", [True, False])
def test_it_acts_within_the_mask_of_the_rows_and_not_the_predicted_one(
    dreamer: ImaginationAgent, explore: bool
) -> None:
    agent, N = dreamer, 400
    agent.update(batch())  # before it, Dreamer v2 acts at random
    rows = {k: np.repeat(v[:1, 0], N, 0) for k, v in batch().items()}
    rows["mask/tool"] = np.tile([False, True, True], (N, 1))
    with torch.no_grad():
        for weight in agent.world.heads["M_1"].parameters():
            weight.zero_()
        agent.world.heads["M_1"].net.head.bias.copy_(torch.tensor([9.0, -9.0, -9.0]))  # the world would forbid both
    actions, _ = agent.act(rows, agent.initial(N), explore=explore)
    assert set(actions["tool"]) <= {1, 2}
    with pytest.raises(MissingInputError, match="reads which choices of a_1 are allowed, and rows say it of a_3, a_4"):
        agent.act({k: v for k, v in rows.items() if k != "mask/tool"}, agent.initial(N))
    with pytest.raises(MissingInputError, match="perception needs the column 'mask/tool'"):
        agent.update({k: v for k, v in batch().items() if k != "mask/tool"})
