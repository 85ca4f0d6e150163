"""DreamerV3 with several actions, MultiDiscrete and flags among them, and masks: each is a factor of the policy."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldformula import catalogue
from worldformula.agent.acts import acts_of
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents import dreamer_v3
from worldformula.envs import ActionSpec, Column
from worldformula.envs.actions import by_name
from worldformula.errors import MissingInputError
from worldformula.run.config import EnvConfig, RunConfig
from worldformula.run.interact import Interact
from worldformula.training.settings import override

SPECS = {
    "choice": ActionSpec("discrete", 3),
    "force": ActionSpec("continuous", 2),
    "dice": ActionSpec("multi_discrete", 5, (2, 3)),
    "lamps": ActionSpec("flags", 2),
}
COLUMNS = {"vector": Column("vector", (4,), "float32")}
B, T = 2, 16


@pytest.fixture
def agent() -> ImaginationAgent:
    return dreamer_v3.build(dreamer_v3.tiny(), COLUMNS, SPECS, seed=0)


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    first, last = np.zeros((B, T), bool), np.zeros((B, T), bool)
    first[:, 0], last[0, 7], first[0, 8] = True, True, True
    return {
        "vector": rng.normal(size=(B, T, 4)).astype(np.float32),
        "action/choice": rng.integers(3, size=(B, T)),
        "action/force": rng.uniform(-1, 1, (B, T, 2)).astype(np.float32),
        "action/dice": rng.integers((2, 3), size=(B, T, 2)),
        "action/lamps": rng.integers(2, size=(B, T, 2)) > 0,
        "reward": rng.normal(size=(B, T)).astype(np.float32),
        "is_first": first, "is_last": last, "is_terminal": last,
    }  # fmt: skip


def test_every_choice_is_a_variable_of_its_own() -> None:
    acts = acts_of(SPECS)
    assert [(a.variable, a.action, a.kind, a.size, a.first) for a in acts] == [
        ("a_1", "choice", "choice", 3, 0),
        ("a_2", "force", "numbers", 2, 0),
        ("a_3", "dice", "choice", 2, 0),
        ("a_4", "dice", "choice", 3, 2),
        ("a_5", "lamps", "flags", 2, 0),
    ]
    assert [a.at for a in acts] == ["a_{1,t}", "a_{2,t}", "a_{3,t}", "a_{4,t}", "a_{5,t}"]
    assert [a.at for a in acts_of({"steer": ActionSpec("continuous", 2)})] == ["a_t"]


def test_the_world_reads_them_and_the_policy_has_a_factor_for_each(agent: ImaginationAgent) -> None:
    assert agent.world.actions == ("a_1", "a_2", "a_3", "a_4", "a_5")
    assert (
        str(agent.world.prior.factors[0])
        == "h_t = f(h_{t-1},z_{t-1},a_{1,t-1},a_{2,t-1},a_{3,t-1},a_{4,t-1},a_{5,t-1})"
    )
    assert [str(f) for f in agent.learner.policy.factors] == [f"π(a_{{{i},t}}|h_t,z_t)" for i in range(1, 6)]


def test_columns_become_variables_and_variables_columns(agent: ImaginationAgent) -> None:
    rows = batch()
    read = {k: v.numpy() for k, v in agent.perception.learn(rows, agent.device).items()}
    going = ~rows["is_last"]
    for variable, index, n in (
        ("a_1", rows["action/choice"], 3),
        ("a_3", rows["action/dice"][..., 0], 2),
        ("a_4", rows["action/dice"][..., 1], 3),
    ):
        assert (read[variable] == np.eye(n)[index] * going[..., None]).all()
    assert (read["a_2"] == rows["action/force"]).all()
    assert (read["a_5"] == rows["action/lamps"]).all()
    eye = torch.eye(3)
    told = agent.perception.act(
        {
            "a_1": eye[[2, 0]], "a_2": torch.tensor([[0.5, -1.0], [0.0, 1.0]]), "a_3": torch.eye(2)[[1, 1]],
            "a_4": eye[[0, 2]], "a_5": torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
        }
    )  # fmt: skip
    assert list(told) == list(SPECS)
    assert told["choice"].tolist() == [2, 0]
    assert told["dice"].tolist() == [[1, 0], [1, 2]]
    assert told["lamps"].tolist() == [[True, False], [False, False]]
    assert told["force"].tolist() == [[0.5, -1.0], [0.0, 1.0]]
    with pytest.raises(MissingInputError, match="perception needs the column 'action/dice'"):
        agent.perception.learn({k: v for k, v in rows.items() if k != "action/dice"}, agent.device)


def test_what_it_does_is_what_the_environment_takes(agent: ImaginationAgent) -> None:
    rows = {k: v[:, 0] for k, v in batch().items()}
    state = agent.initial(B)
    for explore in (True, False):
        actions, state = agent.act(rows, state, explore=explore)
        stored = by_name(actions, SPECS)
        assert stored.keys() == SPECS.keys()
        again = agent.perception.learn({**{k: v[:, None] for k, v in rows.items()}, **columns(stored)}, agent.device)
        for key in ("a_1", "a_3", "a_4", "a_5"):
            assert torch.equal(again[key][:, 0], state[key]), key


def columns(stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"action/{name}": value[:, None] for name, value in stored.items()}


def test_the_log_density_of_the_actions_is_the_sum_and_so_is_the_entropy(agent: ImaginationAgent) -> None:
    learner, N, S = agent.learner, 3, 4
    for factor in learner.policy.factors:  # away from uniform
        for weight in factor.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    start = agent.world.initial(N)
    torch.manual_seed(0)
    dream = agent.world.imagine(start, learner.policy, horizon=S - 1, seed=1)
    reward, cont = torch.randn(N, S), torch.rand(N, S)
    out = learner.dream(**learner.dreamed(dream, dream, reward, cont))
    h, z = dream["h"].flatten(0, 1), dream["z"].flatten(0, 1)
    log_prob, entropy = torch.zeros(N * S), torch.zeros(N * S)
    for factor in learner.policy.factors:
        a, head = dream[factor.variable.key].flatten(0, 1), factor.net(h, z)
        if factor.variable.key == "a_2":
            law = torch.distributions.Independent(torch.distributions.Normal(head["loc"], head["scale"]), 1)
        elif factor.variable.key == "a_5":
            law = torch.distributions.Independent(torch.distributions.Bernoulli(logits=head), 1)
        else:
            law = torch.distributions.OneHotCategorical(probs=0.99 * head.softmax(-1) + 0.01 / head.shape[-1])
        log_prob, entropy = log_prob + law.log_prob(a), entropy + law.entropy()
    weight, advantage = out.samples["w"].flatten(), out.samples["A"].flatten()
    by_hand = -(weight * (advantage * log_prob + 3e-4 * entropy)).view(N, S).mean()
    torch.testing.assert_close(out.value["actor"], by_hand)
    told = learner.metrics(out)["behaviour/policy_entropy"]
    torch.testing.assert_close(told, entropy.view(N, S).mean())


def test_an_update_moves_every_policy(agent: ImaginationAgent) -> None:
    rows = batch()
    before = {k: v.clone() for k, v in agent.state_dict().items()}
    for _ in range(3):
        metrics = agent.update(rows)
    assert all(torch.isfinite(torch.as_tensor(v)).all() for v in metrics.values())
    still = [k for k, v in agent.state_dict().items() if torch.equal(v, before[k])]
    assert not still, still


def test_masked_choices_are_never_taken_and_the_others_in_proportion(agent: ImaginationAgent) -> None:
    N = 3000
    rows = {k: np.repeat(v[:1, 0], N, 0) for k, v in batch().items()}
    rows["mask/choice"] = np.tile([True, False, True], (N, 1))
    rows["mask/dice"] = np.tile([False, True, False, False, False], (N, 1))  # nothing of the second die
    factors = {f.variable.key: f for f in agent.learner.policy.factors}
    with torch.no_grad():
        factors["a_1"].net.mlp.head.bias.copy_(torch.tensor([0.0, 3.0, 1.0]))
        torch.nn.init.zeros_(factors["a_1"].net.mlp.head.weight)
    actions, _ = agent.act(rows, agent.initial(N))
    counts = np.bincount(actions["choice"], minlength=3) / N
    probs = 0.99 * torch.tensor([0.0, 3.0, 1.0]).softmax(0).numpy() + 0.01 / 3
    expected = float(probs[2] / (probs[0] + probs[2]))
    assert counts[1] == 0
    assert counts[2] == pytest.approx(expected, abs=4 * (expected * (1 - expected) / N) ** 0.5)
    assert (actions["dice"] == [1, 0]).all(), "where nothing is allowed, the first choice"
    best, _ = agent.act(rows, agent.initial(N), explore=False)
    assert (best["choice"] == 2).all(), "the mode is that of what is allowed"


class Steered(gymnasium.Env):
    """Sees where it is; told by four actions; forbids one choice at each step, and says so."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Dict(
            choice=spaces.Discrete(3),
            force=spaces.Box(-1.0, 1.0, (2,)),
            dice=spaces.MultiDiscrete([2, 3]),
            lamps=spaces.MultiBinary(2),
        )

    def _info(self):
        return {"action_mask": {"choice": (np.arange(3) != self.count % 3).astype(np.int8)}}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.count = np.zeros(2, np.float32), 0
        return self.at, self._info()

    def step(self, action):
        assert action["choice"] != self.count % 3, "a forbidden choice was executed"
        self.at = self.at + action["force"]
        self.count += 1
        return self.at.astype(np.float32), float(action["lamps"].sum()), self.count == 8, False, self._info()


@pytest.mark.slow
def test_a_run_acts_stores_and_learns_with_masks(tmp_path: Path) -> None:
    if "tests/Steered-v0" not in gymnasium.registry:
        gymnasium.register("tests/Steered-v0", entry_point=Steered)
    system = catalogue.find("dreamer_v3")
    config = override(
        RunConfig(
            system.name, "tiny", EnvConfig("tests/Steered-v0", num=2), system.sizes("tiny"), steps=60, threads=1,
            capacity=400, checkpoint_every=30, eval_episodes=1, tensorboard=False,
        ),
        ["agent.batch=2", "agent.length=6", "agent.imag_last=3", "agent.prefill=16", "agent.train_ratio=4"],
    )  # fmt: skip
    loop = Interact(config, system.build, tmp_path / "run")
    result = loop.run()
    assert result.counters.updates > 5
    assert result.counters.failures == 0
    rows = loop.replay.sample(4, 6)
    assert {"action/choice", "action/force", "action/dice", "action/lamps", "mask/choice"} <= rows.keys()
    allowed = np.take_along_axis(rows["mask/choice"], rows["action/choice"][..., None], -1)[..., 0]
    assert allowed[~rows["is_last"]].all()
