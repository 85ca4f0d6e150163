"""Every environment of the package before Gymnasium's own checker, without a complaint, and before ours."""

from __future__ import annotations

import warnings

import pytest
from gymnasium.utils.env_checker import check_env as gymnasiums

from worldformula.envs import registry
from worldformula.testing import check_env

ROBOTS = ("pendulum_noreset", "sphero_sim")  # what follows a reset depends on what was before it


@pytest.mark.parametrize("entry", [e for e in registry.entries() if e.alias not in ROBOTS], ids=lambda e: e.alias)
def test_environments_answer_as_gymnasium_says(entry):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for advice in ("probably too", "symmetric and normalized"):  # of ranges, which are those of the thing itself
            warnings.filterwarnings("ignore", message=f".*{advice}")
        gymnasiums(entry.build(**entry.options), skip_render_check=True)
    check_env(entry.build(**entry.options), steps=60)
