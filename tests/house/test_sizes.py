"""A file fits in one sitting, a function on one screen."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("worldformula", "benchmarks", "examples")
FILES = sorted(f for folder in FOLDERS for f in (ROOT / folder).rglob("*.py"))
MAX_FILE, MAX_FUNCTION = 400, 60


def functions(source):
    tree = ast.parse(source)
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def length(function):
    return function.end_lineno - function.lineno + 1


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_file_and_its_functions_are_short(file):
    source = file.read_text(encoding="utf-8")
    lines = len(source.splitlines())
    assert lines <= MAX_FILE, f"{file.name} has {lines} lines; split it by what a reader looks for"
    long = {
        f.name: f.end_lineno - f.lineno + 1 for f in functions(source) if f.end_lineno - f.lineno + 1 > MAX_FUNCTION
    }
    assert not long, f"longer than {MAX_FUNCTION} lines: {long}"


def test_the_counter_counts():
    body = "\n".join(["def f():", *["    pass"] * 60])
    (only,) = functions(body)
    assert length(only) == 61
