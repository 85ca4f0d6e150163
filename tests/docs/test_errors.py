"""docs/errors.md is what the docstrings of the errors say today."""

import importlib.util
import sys
from pathlib import Path

from worldformula.errors import FormulaError, WorldformulaError

PATH = Path(__file__).parents[2] / "docs/errors.py"
SPEC = importlib.util.spec_from_file_location("docs_errors", PATH)
MANUAL = sys.modules["docs_errors"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MANUAL)


def test_the_page_is_up_to_date():
    assert MANUAL.PAGE.read_text(encoding="utf-8") == MANUAL.page(), "python docs/errors.py --write"


def test_every_error_has_a_code_of_its_own_and_says_when():
    entries = [MANUAL.entry(kind) for kind in MANUAL.classes()]
    assert len(entries) > 20
    assert len({e.code for e in entries} | {WorldformulaError.code}) == len(entries) + 1
    assert all(e.when and ">>>" not in e.when for e in entries)


def test_every_error_of_the_language_shows_what_is_wrong_and_what_is_right():
    for kind in MANUAL.classes():
        if issubclass(kind, FormulaError):
            found = MANUAL.entry(kind)
            assert found.bad
            assert found.good
            assert found.message.startswith(f"{kind.__name__}: ")
