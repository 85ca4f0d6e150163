"""DreamerV3 as assembled: published parameter counts, preprocessing, gradients, and one update."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from worldformula.agent.configurator import Configuration
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agents import dreamer_v3
from worldformula.envs import ActionSpec, Column
from worldformula.planners.cem import CEM

WALKER = {"orientations": (14,), "height": (1,), "velocity": (9,)}


def spaces(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    return {
        key: Column("image", shape, "uint8", 0, 255) if len(shape) == 3 else Column("vector", shape, "float32")
        for key, shape in shapes.items()
    }


def count(agent: ImaginationAgent) -> int:
    return sum(p.numel() for p in agent.parameters() if p.requires_grad)


def batch(shape: tuple[int, ...], actions: int, B: int = 2, T: int = 16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    first = np.zeros((B, T), bool)
    first[:, 0] = True
    last = np.zeros((B, T), bool)
    last[0, 7], first[0, 8] = True, True
    image = len(shape) == 3
    return {
        ("image" if image else "vector"): rng.integers(0, 256, (B, T, *shape), np.uint8)
        if image
        else rng.normal(size=(B, T, *shape)).astype(np.float32),
        "action": rng.uniform(-1, 1, (B, T, actions)).astype(np.float32),
        "reward": rng.normal(size=(B, T)).astype(np.float32),
        "is_first": first,
        "is_last": last,
        "is_terminal": last,
    }


def test_size1m_on_walker_walk_sensors_has_the_published_number_of_parameters() -> None:
    agent = dreamer_v3.build(dreamer_v3.size1m(), spaces(WALKER), ActionSpec("continuous", 6))
    assert count(agent) == 640_867


def test_size1m_on_pixels_has_the_published_number_of_parameters() -> None:
    agent = dreamer_v3.build(dreamer_v3.size1m(), spaces({"image": (64, 64, 3)}), ActionSpec("continuous", 6))
    assert count(agent) == 686_846


@pytest.fixture
def agent() -> ImaginationAgent:
    return dreamer_v3.build(dreamer_v3.tiny(), spaces({"image": (32, 32, 3)}), ActionSpec("continuous", 2), seed=0)


def test_acting_and_learning_see_the_same_pixels(agent: ImaginationAgent) -> None:
    rows = batch((32, 32, 3), 2)
    learned = agent.perception.learn(rows, agent.device)["x"][:, 3]
    acted = agent.perception.observe({k: v[:, 3] for k, v in rows.items()}, agent.device)["x"]
    assert torch.equal(learned, acted)
    assert learned.max() <= 1
    assert torch.allclose(learned, torch.as_tensor(rows["image"][:, 3]) / 255)


def test_continuation_target_is_the_discount_and_zero_at_the_end(agent: ImaginationAgent) -> None:
    c = agent.perception.learn(batch((32, 32, 3), 2), agent.device)["c"]
    assert c[0, 7] == 0
    assert c[0, 6] == pytest.approx(1 - 1 / 50)


def test_the_policy_depends_on_the_observation(agent: ImaginationAgent) -> None:
    rows = {k: v[:, 0] for k, v in batch((32, 32, 3), 2).items()}
    dark = {**rows, "image": np.zeros_like(rows["image"])}
    one, _ = agent.act(rows, agent.initial(2), explore=False)
    two, _ = agent.act(dark, agent.initial(2), explore=False)
    assert not np.allclose(one, two, atol=1e-6)


def test_the_first_row_forgets_the_state(agent: ImaginationAgent) -> None:
    rows = {k: v[:, 0] for k, v in batch((32, 32, 3), 2).items()}
    other = {k: torch.randn_like(v) for k, v in agent.initial(2).items()}
    one, _ = agent.act(rows, agent.initial(2), explore=False)
    two, _ = agent.act(rows, other, explore=False)
    assert np.array_equal(one, two)
    going = {**rows, "is_first": np.zeros(2, bool)}
    assert not np.array_equal(agent.act(going, other, explore=False)[0], one)


def test_the_behaviour_losses_reach_the_world_only_through_replayed_values(agent: ImaginationAgent) -> None:
    rows = batch((32, 32, 3), 2)
    torch.nn.init.normal_(agent.learner.critic.head.weight)  # at zero, as initialised, it passes no gradient
    outs = agent.objective.run(rows)
    weights = list(agent.world.parameters())
    for part in ("actor", "critic"):
        found = torch.autograd.grad(agent.objective.value(part, outs), weights, retain_graph=True, allow_unused=True)
        assert all(g is None for g in found)
    replayed = torch.autograd.grad(agent.objective.value("replay", outs), weights, allow_unused=True)
    encoder = {id(p) for p in agent.world.enc.parameters()}
    assert any(g is not None and g.abs().sum() > 0 for p, g in zip(weights, replayed, strict=True) if id(p) in encoder)
    acted = torch.autograd.grad(agent.objective.value("actor", agent.objective.run(rows)), agent.policy.parameters())
    assert any(g.abs().sum() > 0 for g in acted)


def test_one_update_changes_every_trained_tensor_and_moves_the_slow_critic(agent: ImaginationAgent) -> None:
    rows = batch((32, 32, 3), 2)
    before = {k: v.clone() for k, v in agent.state_dict().items()}
    for _ in range(
        3
    ):  # the first update of the warm-up has step size zero, and the zero-initialised heads need one more
        metrics = agent.update(rows)
    assert all(torch.isfinite(torch.as_tensor(v)).all() for v in metrics.values())
    still = [k for k, v in agent.state_dict().items() if torch.equal(v, before[k])]
    assert not still, still


def test_checkpoint_restores_the_next_update_bit_for_bit(agent: ImaginationAgent) -> None:
    rows = batch((32, 32, 3), 2)
    agent.update(rows)
    saved = agent.checkpoint()
    saved = copy.deepcopy(saved)
    other = dreamer_v3.build(dreamer_v3.tiny(), spaces({"image": (32, 32, 3)}), ActionSpec("continuous", 2), seed=7)
    other.restore(saved)
    for a in (agent, other):
        torch.manual_seed(3)
        a.update(rows)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in agent.state_dict().items())


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
@pytest.mark.parametrize(
    "shapes",
    [{"image": (32, 32, 3)}, {"vector": (5,)}, {"image": (32, 32, 1), "speed": (2,)}],
    ids=["pixels", "sensors", "both"],
)
def test_every_kind_of_observation_and_action_updates(kind: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    agent = dreamer_v3.build(dreamer_v3.tiny(), spaces(shapes), ActionSpec(kind, 3))
    rows: dict[str, np.ndarray] = {}
    for shape in shapes.values():
        rows |= batch(shape, 3)
    if kind == "discrete":
        rows["action"] = np.random.default_rng(0).integers(3, size=rows["reward"].shape)
    if "speed" in shapes:
        rows["speed"] = rows.pop("vector")
    assert np.isfinite(float(agent.update(rows)["loss/total"]))
    if "image" in shapes:
        frames = agent.open_loop(rows, context=4)
        assert frames["dream"].shape == frames["truth"].shape
        assert frames["dream"].dtype == np.uint8


def test_the_configurator_changes_cost_and_mode_without_touching_a_weight(agent: ImaginationAgent) -> None:
    rows = {k: v[:, 0] for k, v in batch((32, 32, 3), 2).items()}
    before = {k: v.clone() for k, v in agent.state_dict().items()}
    torch.nn.init.normal_(agent.world.heads["r"].net.head.weight)  # at zero, as initialised, every plan costs the same
    trained = {k: v.clone() for k, v in agent.state_dict().items()}
    policy, _ = agent.act(rows, agent.initial(2), explore=False)
    planner = CEM(horizon=3, candidates=20, elites=4, iterations=2)
    agent.configure(Configuration(planner=planner))
    planned, _ = agent.act(rows, agent.initial(2), explore=False)
    agent.configure(Configuration({"reward": -1.0}, planner))
    opposite, _ = agent.act(rows, agent.initial(2), explore=False)
    assert not np.allclose(policy, planned)
    assert not np.allclose(planned, opposite)
    assert all(torch.equal(v, trained[k]) for k, v in agent.state_dict().items())
    assert before.keys() == trained.keys()


def test_a_choice_is_read_as_a_one_hot_and_nothing_was_chosen_at_an_end() -> None:
    agent = dreamer_v3.build(dreamer_v3.tiny(), spaces({"vector": (5,)}), ActionSpec("discrete", 3))
    rows = batch((5,), 3)
    rows["action"] = np.random.default_rng(0).integers(3, size=(2, 16))
    read = agent.perception.learn(rows, agent.device)["a"].numpy()
    assert (read[~rows["is_last"]] == np.eye(3)[rows["action"]][~rows["is_last"]]).all()
    assert (read[rows["is_last"]] == 0).all()


def test_integers_flags_scalars_and_float_pictures_are_observed_learnt_and_dreamt() -> None:
    columns = {
        "camera": Column("image", (16, 16, 2), "float32", -1, 1),
        "token": Column("discrete", (), "int64", 2, 5, (4,), (2,)),
        "lamps": Column("flag", (2,), "bool", 0, 1),
        "heat": Column("vector", (), "float32"),
    }
    agent = dreamer_v3.build(dreamer_v3.tiny(), columns, ActionSpec("discrete", 3))
    rng, rows = np.random.default_rng(0), batch((5,), 3)
    rows |= {"action": rng.integers(3, size=(2, 16)), "token": rng.integers(2, 6, size=(2, 16))}
    rows |= {"lamps": rng.integers(2, size=(2, 16, 2)) > 0, "heat": rng.normal(size=(2, 16)).astype(np.float32)}
    rows["camera"] = rng.uniform(-1, 1, (2, 16, 16, 16, 2)).astype(np.float32)
    assert np.isfinite(float(agent.update(rows)["loss/total"]))
    frames = agent.open_loop(rows, context=4)
    assert frames["truth"].dtype == np.uint8
    assert frames["truth"] == pytest.approx(np.round((rows["camera"][..., -1:] + 1) / 2 * 255), abs=1)  # the newest


def test_without_pictures_numbers_are_dreamt_as_the_world_predicts_them() -> None:
    """Truth by hand, sign(x) log(1 + |x|) of the numbers in the order of their names; dreams by the world itself."""
    columns = {
        "speed": Column("vector", (), "float32"),
        "arm": Column("vector", (2,), "float32"),
        "token": Column("discrete", (), "int64", 0, 3, (4,), (0,)),
    }
    agent = dreamer_v3.build(dreamer_v3.tiny(), columns, ActionSpec("box", 2))
    rng, rows = np.random.default_rng(0), batch((5,), 2)
    rows |= {"speed": rng.normal(size=(2, 16)).astype(np.float32), "token": rng.integers(4, size=(2, 16))}
    rows["arm"] = 5 * rng.normal(size=(2, 16, 2)).astype(np.float32)
    found = agent.open_loop(rows, context=4)
    assert found["names"].tolist() == ["arm 1", "arm 2", "speed"]
    x = np.concatenate([rows["arm"], rows["speed"][..., None]], -1)
    assert np.allclose(found["truth"], np.sign(x) * np.log1p(np.abs(x)), atol=1e-6)
    inputs = agent.perception.learn(rows, agent.device)
    with torch.no_grad():
        seen = agent.world.filter({k: v[:, :4] for k, v in inputs.items()}, deterministic=True)
        dream = agent.world.imagine(seen.last(), actions=inputs["a"][:, 3:-1], deterministic=True)
        shown = agent.world.decode(dream, ("y",))["y"]
    assert np.allclose(found["dream"][:, 3:], shown.numpy(), atol=1e-6)
    assert found["dream"].shape == found["truth"].shape


def test_of_classes_alone_the_dream_shows_their_shares() -> None:
    agent = dreamer_v3.build(
        dreamer_v3.tiny(), {"token": Column("discrete", (), "int64", 0, 3, (4,), (0,))}, ActionSpec("box", 2)
    )
    rows = batch((5,), 2) | {"token": np.random.default_rng(0).integers(4, size=(2, 16))}
    found = agent.open_loop(rows, context=4)
    assert (found["truth"] == np.eye(4)[rows["token"]]).all()
    assert found["names"].tolist() == ["token 1", "token 2", "token 3", "token 4"]
