"""Every tutorial runs from top to bottom, in one namespace and in seconds, and shows what it prints."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import torch

from tests.docs import fences

ROOT = Path(__file__).parents[2]
WRITE = "if that is right: python -m tests.docs.fences docs/tutorials/*.md"
PAGES = sorted((ROOT / "docs/tutorials").glob("[0-9]*.md"))


# The first one with every change, the others with the slow tests.
EACH = [PAGES[0], *(pytest.param(path, marks=pytest.mark.slow) for path in PAGES[1:])]


@pytest.mark.parametrize("path", EACH, ids=lambda p: p.stem)
def test_a_tutorial_runs_and_shows_what_it_prints(path: Path) -> None:
    torch.manual_seed(0)
    scope = fences.session(path)
    found = fences.blocks(path.read_text(encoding="utf-8"))
    assert found
    start = time.process_time()
    for block in found:
        printed = fences.run(block, scope, f"<{path.name}>")
        if block.shown is not None:
            assert fences.agrees(block.shown, printed), f"{path.name}:{block.line} prints\n{printed}\n{WRITE}"
    assert time.process_time() - start < 10
    for file, source in fences.figures(path.read_text(encoding="utf-8"), path):
        drawn, kept = eval(source, scope), file.read_text(encoding="utf-8")
        assert said(kept) == said(drawn), f"{file.name} is of another formula\n{WRITE}"


def said(picture: str) -> list[str]:
    """What a picture says, wherever it stands: its titles and its labels."""
    return sorted(re.findall(r">([^<>]+)</(?:title|tspan|text)>", picture))


def test_tutorials_are_numbered_without_a_gap() -> None:
    assert [int(p.name[:2]) for p in PAGES] == list(range(1, len(PAGES) + 1))


@pytest.mark.parametrize("path", [*PAGES, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.stem)
def test_every_local_link_of_a_page_leads_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)[^)]*\)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []
