"""Colours change no character of the code."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldformula.report.highlight import highlight

FILES = sorted((Path(__file__).parents[2] / "worldformula" / "formula").glob("*.py"))


def plain(shown):
    return unescape(re.sub(r'</?span(?: class="\w+")?>', "", shown))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_our_own_code_survives(file):
    source = file.read_text(encoding="utf-8")
    assert plain(highlight(source)) == source


@given(st.text(alphabet="abc=()'\"\\\n {}#<>&\u20280f:é"))
def test_any_text_survives(source):
    assert plain(highlight(source)) == source


def test_kinds():
    shown = highlight('def step(x):  # <b>\n    return len("a") + 1.5\n')
    for kind, text in [
        ("keyword", "def"),
        ("name", "step"),
        ("comment", "# &lt;b&gt;"),
        ("builtin", "len"),
        ("number", "1.5"),
    ]:
        assert f'<span class="{kind}">{text}</span>' in shown
    assert '<span class="string">&quot;a&quot;</span>' in shown
    assert "builtin" not in highlight("x.sum()")
