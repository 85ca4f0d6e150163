"""Every environment of the package before Gymnasium's own checker, without a complaint, and before ours."""

from __future__ import annotations

import warnings

import pytest
from gymnasium.utils.env_checker import check_env as gymnasiums

from worldformula.envs import registry
from worldformula.testing import check_env

ROBOTS = ("pendulum_noreset", "sphero_sim")  # what follows a reset depends on what was before it

HAPPENS = ("lever_door", "key_corridor", "home_dynamics", "messenger", "lang_room_mini", "pin_pad_three", "fork")


@pytest.mark.parametrize("entry", registry.entries(), ids=lambda e: e.alias)
def test_what_happens_is_among_the_events_that_are_declared(entry):
    """In episodes of the controller, and in random ones."""
    env, seen = entry.build(**entry.options), set[str]()
    env.action_space.seed(0)
    for seed in range(8):
        _, info = env.reset(seed=seed)
        for _ in range(60):
            act = entry.reference(info["state"]) if seed % 2 else env.action_space.sample()
            *_, terminated, truncated, info = env.step(act)
            seen |= set(info.get("event", ()))
            if terminated or truncated:
                break
    env.close()
    assert seen <= set(env.metadata.get("events", ()))
    assert seen or entry.alias not in HAPPENS


@pytest.mark.parametrize("entry", [e for e in registry.entries() if e.alias not in ROBOTS], ids=lambda e: e.alias)
def test_environments_answer_as_gymnasium_says(entry):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for advice in ("probably too", "symmetric and normalized"):  # of ranges, which are those of the thing itself
            warnings.filterwarnings("ignore", message=f".*{advice}")
        gymnasiums(entry.build(**entry.options), skip_render_check=True)
    check_env(entry.build(**entry.options), steps=60)
