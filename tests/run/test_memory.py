"""An actor whose world remembers its past in a cache: killed within an episode, it goes on to the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.agent.systems.toy import config
from tests.worlds.sketches import transformer
from tests.worlds.sketches.parts import A, D, X
from worldformula.errors import CheckpointError
from worldformula.nets.causal import Memory, restored, stored
from worldformula.nets.transformer import CausalTransformer
from worldformula.nets.window import WindowMLP
from worldformula.run.config import RunConfig
from worldformula.run.interact import Interact
from worldformula.training import checkpoint


class Remembering(nn.Module):
    """Acts on what a transformer knows of the episode; it does not learn. Three numbers are seen, and a force done."""

    def __init__(self, *_: Any) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.world, self.policy, self.calls = transformer.build().eval(), nn.Linear(D, A), 0

    def initial(self, num: int) -> Any:
        return self.world.initial(num) | {"a": torch.zeros(num, A)}

    @torch.no_grad()
    def act(self, rows: Any, state: Any, explore: bool = True) -> Any:
        self.calls += 1
        x = torch.from_numpy(rows["vector"]).repeat(1, X // 3)
        seen = self.world.observe({"x": x, "first": torch.from_numpy(rows["is_first"])}, state)
        action = torch.tanh(3 * self.policy(seen["h"]) + 0.1 * torch.randn(len(x), A))
        return action[:, :1].numpy(), seen | {"a": action}


class Killed(BaseException):
    pass


QUIET: dict[str, Any] = {"eval_every": 0, "eval_episodes": 0}


def asked() -> RunConfig:
    return config(150, checkpoint_every=40, **QUIET)


def test_an_actor_with_a_cache_goes_on_exactly_in_the_middle_of_an_episode(tmp_path: Path) -> None:
    whole = Interact(asked(), Remembering, tmp_path / "whole")
    whole.run()
    parts = Interact(asked(), Remembering, tmp_path / "parts")
    act = parts.agent.act

    def fragile(*given: Any, **more: Any) -> Any:
        if parts.agent.calls == 38:  # type: ignore[attr-defined]
            raise Killed
        return act(*given, **more)

    parts.agent.act = fragile  # type: ignore[method-assign]
    with pytest.raises(Killed):
        parts.run()
    found = checkpoint.load_latest(tmp_path / "parts" / "checkpoints")
    assert found is not None
    cache = found.state["acting"]["h_cache"]
    assert cache["own"][0].shape[3] > 0, "there is a past to remember"
    again = Interact(asked(), Remembering, tmp_path / "parts")
    again.run()
    ends = [checkpoint.steps_in(tmp_path / name / "checkpoints")[-1] for name in ("whole", "parts")]
    for file in (checkpoint.TENSORS, checkpoint.TREE):
        assert (ends[0] / file).read_bytes() == (ends[1] / file).read_bytes()
    rows = [run.replay.sample(40, 6) for run in (whole, again)]
    assert all(np.array_equal(rows[0][key], rows[1][key]) for key in rows[0])
    assert len(np.unique(rows[0]["action"])) > 20


@pytest.mark.parametrize("window", [None, 3])
def test_a_cache_stores_what_it_holds(tmp_path: Path, window: int | None) -> None:
    """Through a file; then every further step is the same to the last bit, and the one that stored it is as before."""
    net = CausalTransformer(4, 5, width=16, heads=2, window=window)
    x, held = torch.randn(2, 30, 4), net.cache(2, 4)
    with torch.no_grad():
        for t in range(9):
            held, _ = net.step(held, x[:, t : t + 1])
        checkpoint.save(tmp_path, 1, stored({"past": held, "n": torch.ones(2)}))
        found = checkpoint.load(tmp_path / "000000000001").state
        kept = restored(found, {"past": net.cache(2, 1)}, torch.device("cpu"))["past"]
        for t in range(9, 30):
            (held, one), (kept, two) = net.step(held, x[:, t : t + 1]), net.step(kept, x[:, t : t + 1])
            assert torch.equal(one, two)


def test_frames_store_what_they_hold() -> None:
    net = WindowMLP(4, 5, context=3)
    held, _ = net.step(net.cache(2, 0), torch.randn(2, 7, 4))
    kept = restored(stored({"w": held}), {"w": net.cache(2, 0)}, torch.device("cpu"))["w"]
    assert torch.equal(kept.frames, held.frames)


def test_a_memory_that_cannot_be_stored_says_what_it_lacks(tmp_path: Path) -> None:
    class Mine(Memory):
        pass

    class Forgetful(Remembering):
        def initial(self, num: int) -> Any:
            return {"mine": Mine()}

        def act(self, rows: Any, state: Any, explore: bool = True) -> Any:
            return np.zeros((len(rows["reward"]), 1), np.float32), state

    with pytest.raises(CheckpointError, match=r"Mine cannot be stored: write stored\(\) and restored\(kept, device\)"):
        Interact(asked(), Forgetful, tmp_path / "run").run()
