"""World Models as an agent and as a chain: what it sees and does, and kills between generations that change nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from worldformula.agent.controller import Dreams, policy
from worldformula.agent.stages import Stage
from worldformula.agents.world_models import WorldModelsConfig, build, car_racing, chain, paper, tiny, vision
from worldformula.envs import ActionSpec, Column, Envs
from worldformula.errors import ConfigError, RunFolderError, SpaceError
from worldformula.run.config import EnvConfig
from worldformula.run.folder import RunFolder, read_metrics
from worldformula.run.play import play
from worldformula.run.run import Run
from worldformula.training import checkpoint
from worldformula.training.seeding import seed_everything

SMALL = dataclasses.replace(
    tiny(), latent=3, depth=2, hidden=6, collect=200, v_steps=4, m_steps=4, generations=6, frames=8, batch=4, length=10,
    dreams=Dreams(population=4, rollouts=2, horizon=8, spread=0.5),
)  # fmt: skip
DODGE = EnvConfig("dodge", num=2, pixels=True, size=16)
COLUMNS = {"image": Column("image", (16, 16, 3), "uint8", 0, 255)}
ACTION = ActionSpec("discrete", 3)


def agent(config: WorldModelsConfig = SMALL, seed: int = 0) -> Any:
    return build(config, COLUMNS, ACTION, seed)


def windows(rows: int = 6, length: int = 10) -> dict[str, Any]:
    """Sequences of random pictures and actions, one of which ends and begins."""
    rng = np.random.default_rng(0)
    first, last = np.zeros((rows, length), bool), np.zeros((rows, length), bool)
    first[:, 0], last[1, 4], first[1, 5] = True, True, True
    return {
        "image": rng.integers(256, size=(rows, length, 16, 16, 3), dtype=np.uint8),
        "action": rng.integers(3, size=(rows, length)), "reward": np.ones((rows, length), np.float32),
        "is_first": first, "is_last": last, "is_terminal": last,
    }  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- the parts


def test_the_paper_has_its_sizes() -> None:
    sizes = vision(car_racing(), {"image": Column("image", (64, 64, 3), "uint8", 0, 255)})
    assert (sizes.latent, sizes.hidden, sizes.free) == (32, (32, 64, 128, 256), 0.5)
    big = {"image": Column("image", (64, 64, 3), "uint8", 0, 255)}
    race = build(car_racing(), big, ActionSpec("continuous", 3))
    assert sum(p.numel() for p in race.see.parameters()) == 4_348_547
    reward, lives = 256 + 32 + 1, 256 + 1  # heads that the paper's M of CarRacing lacks
    assert sum(p.numel() for p in race.memory.parameters()) == 422_368 + reward + lives
    assert race.controller.numbers == 867
    assert build(paper(), big, ActionSpec("continuous", 1)).controller.numbers == 1088


def test_rows_become_codes_actions_and_lives() -> None:
    made, data = agent(), windows()
    x = made.flat(data)
    assert x.shape == (6, 10, 768)
    torch.testing.assert_close(x[2, 3, 5].item(), data["image"][2, 3, 0, 1, 2] / 255)
    series = made.series(data)
    loc, raw = made.vision.encode.net(x[2]).split(3, -1)
    torch.testing.assert_close(series["mu"][2], loc)
    torch.testing.assert_close(series["sigma"][2], torch.nn.functional.softplus(raw))
    assert series["a"][0, 0].argmax() == data["action"][0, 0]
    assert not series["a"][1, 4].any()  # nothing is executed where an episode ended
    assert series["l"].tolist() == (1.0 - data["is_terminal"]).tolist()


def test_it_acts_at_random_until_it_has_evolved_and_then_by_its_controller() -> None:
    made, envs = agent(), Envs("dodge", 2, seed=0, pixels=True, size=16)
    torch.manual_seed(0)
    before = [turn.actions.tolist() for _, turn in zip(range(20), play(envs, made), strict=False)]
    assert {a for pair in before for a in pair} == {0, 1, 2}
    made.evolve(made.starts(made.series(windows()), 2, 0, 0))
    rows, state = envs.reset(), made.initial(2)
    for _ in range(5):
        action, after = made.act(rows, state, explore=False)
        seen = made.memory.observe(
            {**made.moments(made.flat(rows)), "first": torch.as_tensor(rows["is_first"])}, state, deterministic=True
        )
        w = made.controller.weights.reshape(3, -1)
        y = torch.cat((seen["z"], seen["h"]), -1) @ w[:, :-1].T + w[:, -1]
        assert action.tolist() == y.argmax(-1).tolist()
        rows, state = envs.step(action), after


@pytest.mark.parametrize(("sees", "width"), [("z", 3), ("h", 6), ("zh", 9), ("zhc", 15)])
def test_the_controller_reads_what_it_is_told_to(sees: str, width: int) -> None:
    made = agent(dataclasses.replace(SMALL, sees=sees))
    assert made.controller.numbers == 3 * (width + 1)
    assert np.isfinite(made.evolve(made.starts(made.series(windows()), 2, 0, 0))["C/mean"])


def remembered(made: Any, z: np.ndarray, a: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """h and c after the code and the action of the step before, by NumPy."""
    weights = {k: v.detach().double().numpy() for k, v in made.memory.named_parameters() if "gates" in k}
    w = next(v for k, v in weights.items() if k.endswith("weight"))
    bias = next(v for k, v in weights.items() if k.endswith("bias"))
    keep, write, show, new = np.split(np.concatenate((z, a, h), -1) @ w.T + bias, 4, -1)
    c = c / (1 + np.exp(-keep - 1)) + np.tanh(new) / (1 + np.exp(-write))
    return np.tanh(c) / (1 + np.exp(-show)), c


def test_what_the_controller_reads_is_of_one_step_in_truth_in_sequences_and_in_dreams() -> None:
    """h_t knows z_{t-1} and a_{t-1}; z_t stands beside it; and the action chosen by both reaches h_{t+1}."""
    made, envs = agent(), Envs("dodge", 2, seed=0, pixels=True, size=16)
    made.evolve(made.starts(made.series(windows()), 2, 0, 0))
    rows, state, seen, h, c = envs.reset(), made.initial(2), [], np.zeros((2, 6)), np.zeros((2, 6))
    for _ in range(6):
        mu = made.moments(made.flat(rows))["mu"].double().numpy()
        action, state = made.act(rows, state, explore=False)
        if not seen:  # the first row is predicted from zeros
            h, c = remembered(made, np.zeros((2, 3)), np.zeros((2, 3)), h, c)
        np.testing.assert_allclose(state["h"], h, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(state["z"], mu, rtol=1e-5)
        seen.append({**rows, **envs.stored(action)})
        h, c = remembered(made, mu, np.eye(3)[action], h, c)
        rows = envs.step(action)
    sequence = {k: np.stack([row[k] for row in seen], 1) for k in seen[0]}
    with torch.no_grad():
        filtered = made.memory.filter(made.series(sequence), deterministic=True)
        acting = policy(made.controller, made.sees, made.outputs)
        dream = made.dream.imagine(filtered.at(0).only(made.dream.carried), acting, horizon=4, tau=1.0)
    np.testing.assert_allclose(filtered["h"][:, -1], state["h"], rtol=1e-4, atol=1e-6)
    w = made.controller.weights.numpy().reshape(3, -1)
    for t in range(4):
        z, h, c = (dream[k][:, t].double().numpy() for k in "zhc")
        a = np.eye(3)[(np.concatenate((z, h), -1) @ w[:, :-1].T + w[:, -1]).argmax(-1)]
        np.testing.assert_array_equal(dream["a"][:, t], a)
        np.testing.assert_allclose(dream["h"][:, t + 1], remembered(made, z, a, h, c)[0], rtol=1e-4, atol=1e-6)


def test_a_first_row_starts_a_dream_and_a_last_one_too() -> None:
    made, data = agent(), windows()
    series = made.series(data)
    states = made.memory.filter(series, seed=3)
    for at in (0, -1):
        some = made.starts(series, 40, at, 3)
        for row in range(40):
            assert any(torch.equal(some["h"][row], states["h"][i, at]) for i in range(6))


def test_wrong_settings_are_refused() -> None:
    for change in ({"latent": 0}, {"lr_v": 0.0}, {"sees": "x"}, {"m_steps": -1}, {"length": 1}):
        with pytest.raises(ConfigError, match="expected"):
            dataclasses.replace(SMALL, **change)


def test_it_learns_as_it_acts_and_goes_on_from_its_checkpoint(tmp_path: Any) -> None:
    """Through a file: optimisers, the evolution and the counts; the other agent was made from another seed."""
    config = dataclasses.replace(SMALL, dreams=dataclasses.replace(SMALL.dreams, every=2))
    whole = agent(config)
    for _ in range(3):
        whole.update(windows())
    checkpoint.save(tmp_path, 3, {"agent": whole.checkpoint()})
    other = agent(config, seed=9)
    found = checkpoint.load_latest(tmp_path)
    assert found is not None
    other.restore(found.state["agent"])
    for _ in range(4):
        numbers = [one.update(windows()) for one in (whole, other)]
        assert {k: float(v) for k, v in numbers[0].items()} == {k: float(v) for k, v in numbers[1].items()}
    assert whole.search.generation == 3
    assert "C/best" not in numbers[0]
    pairs = zip(whole.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_dream_is_shown_beside_the_truth() -> None:
    made, data = agent(), windows()
    shown = made.open_loop(data, context=4)
    assert (shown["truth"] == data["image"]).all()
    assert shown["dream"].shape == data["image"].shape
    assert shown["dream"].dtype == np.uint8


# ----------------------------------------------------------------------------------------------------------- the chain


def quiet(_: str) -> None:
    """Says nothing."""


def weights(given: Mapping[str, Any]) -> list[torch.Tensor]:
    return [value.clone() for value in given["agent"].state_dict().values()]


class Killed(BaseException):
    """The end of a process, that nothing catches."""


def test_the_four_phases_and_a_chain_that_is_killed_between_generations(tmp_path: Any, monkeypatch: Any) -> None:
    whole = chain(SMALL, DODGE, tmp_path / "whole", say=quiet).run()
    assert whole["agent"].search.generation == 6
    assert whole["agent"].steps == {"V": 4, "M": 4}
    earlier = Stage.advance

    def killed(self: Stage, until: int, write: Any, asked: Any) -> None:
        earlier(self, until, write, asked)
        if self.part == "C" and self.step == 4:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Stage, "advance", killed)
        with pytest.raises(Killed):
            chain(SMALL, DODGE, tmp_path / "cut", say=quiet).run()
    seed_everything(77)  # another process knows nothing of the first one's generators
    cut = chain(SMALL, DODGE, tmp_path / "cut", say=quiet).run()
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(cut), strict=True))
    rows = [read_metrics(tmp_path / name / "act" / "metrics.jsonl") for name in ("whole", "cut")]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == [1, 2, 3, 4, 5, 6]
    again = chain(SMALL, DODGE, tmp_path / "whole", say=quiet).run()  # finished: made again from its checkpoints
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))
    assert whole["agent"].controller.weights.abs().sum() > 0


def test_what_learns_in_a_phase_is_its_part_alone() -> None:
    made, data = agent(), windows()
    kept = {part: [p.clone() for p in net.parameters()] for part, net in (("V", made.see), ("M", made.memory))}
    Stage(made, "V", 2, data, 8).advance(2, lambda *_: None, lambda: False)
    assert all(not torch.equal(a, b) for a, b in zip(kept["V"], made.see.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(kept["M"], made.memory.parameters(), strict=True))
    Stage(made, "C", 2, data, 8).advance(2, lambda *_: None, lambda: False)
    assert all(torch.equal(a, b) for a, b in zip(kept["M"], made.memory.parameters(), strict=True))
    assert made.search.generation == 2


def test_a_stage_refuses_a_folder_of_other_data(tmp_path: Any) -> None:
    Run(Stage(agent(), "M", 2, windows(), 8), RunFolder(tmp_path), say=quiet).go()
    with pytest.raises(RunFolderError, match="data"):
        Run(Stage(agent(), "M", 2, windows(rows=7), 8), RunFolder(tmp_path), say=quiet).go()


def test_only_gradients_of_m_are_cut() -> None:
    """Adam's first step is lr · sign(g) whatever is cut, so the moments tell: (1 − β₁) g, of M at most that of 1."""
    made, data = agent(dataclasses.replace(SMALL, clip=1e-4)), windows()
    made.learn_to_see(made.flat(data).flatten(0, 1))
    made.learn_to_remember(made.series(data))
    largest = {
        part: max(float(state["exp_avg"].abs().max()) for state in optimiser.state.values())
        for part, optimiser in made.optimisers.items()
    }
    assert largest["M"] == pytest.approx(0.1 * 1e-4, rel=1e-3)
    assert largest["V"] > 1.0


def test_what_is_allowed_is_not_read_and_so_refused() -> None:
    masked = dataclasses.replace(ACTION, masked=True)
    with pytest.raises(SpaceError, match="expected an action without masks"):
        build(SMALL, COLUMNS, masked, 0)
