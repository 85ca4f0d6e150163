"""A fit from the command line begins with the settings of its preset, and what is asked for wins."""

from __future__ import annotations

from worldformula.cli.fit import Fit


def test_settings_of_the_preset_are_where_a_fit_begins():
    found = Fit("vae", data="digits").config().fit
    assert (found.steps, found.batch, found.weight_decay) == (2300, 64, 3e-3)


def test_what_is_asked_for_wins():
    found = Fit("vae", data="digits", steps="7", settings=("weight_decay=0",)).config().fit
    assert (found.steps, found.batch, found.weight_decay) == (7, 64, 0.0)
