"""Every environment of the package before Gymnasium's own checker, without a complaint, and before ours."""

from __future__ import annotations

import warnings

import pytest
from gymnasium.utils.env_checker import check_env as gymnasiums

from worldformula.envs import registry
from worldformula.testing import check_env

ENTRIES = [entry for entry in registry.entries() if getattr(entry.build, "resets", True)]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.alias)
def test_environments_answer_as_gymnasium_says(entry):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasiums(entry.build(**entry.options), skip_render_check=True)
    check_env(entry.build(**entry.options), steps=60)
