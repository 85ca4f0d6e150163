"""Every proved failure of Pixyz, D1 to D31, has a test that names it: test_d01_…, test_d31_…."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
NAMED = re.compile(r"^def test_d(\d+)_\w", re.MULTILINE)


def numbers(text):
    return {int(number) for number in NAMED.findall(text)}


def test_all_31_defects_have_a_test():
    found = set().union(*(numbers(file.read_text(encoding="utf-8")) for file in TESTS.rglob("test_*.py")))
    assert found >= set(range(1, 32)), f"no test for D{sorted(set(range(1, 32)) - found)}"


def test_the_pattern_finds_names():
    assert numbers("def test_d04_x():\n    def test_d5_y():\ndef test_d31_z():") == {4, 31}
