"""The gallery says what the catalogue holds: its page word by word, its pictures by what they show."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path

import pytest

from worldformula.catalogue import names
from worldformula.formula.graph.graph import Graph
from worldformula.report.gallery import COMMAND, gallery, write

DOCS = Path(__file__).parents[2] / "docs"
SYSTEMS = [*names("models"), *names("worlds")]
REMEDY = f"run: {COMMAND}"


@cache
def now() -> tuple[str, dict[str, Graph]]:
    return gallery()


def section(page: str, name: str) -> str:
    found = re.search(rf"^### {name}\n.*?(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    return found[0] if found else ""


def shown(picture: str) -> set[str]:
    """Variables with their kinds, arrows with theirs, plates: what a picture says, wherever it stands."""
    root = ET.fromstring(picture)
    plates = {"".join(g.itertext()) for g in root.iter() if g.get("class") == "plate"}
    return {e.text or "" for e in root.iter() if e.tag.endswith("title")} | plates


def said(graph: Graph) -> set[str]:
    """The same of a graph that is not drawn."""
    vertices = {f"{v.name}: {v.kind.replace('partial', 'partly observed')}" for v in graph.vertices}
    return vertices | {f"{e.source} to {e.target}: {e.kind}" for e in graph.edges} | {p.label for p in graph.plates}


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_system_is_in_the_gallery_as_it_is(name):
    page, graphs = now()
    kept = (DOCS / "gallery.md").read_text(encoding="utf-8")
    assert section(page, name)
    assert section(kept, name) == section(page, name), REMEDY
    file = DOCS / "gallery" / f"{name}.svg"
    assert file.exists(), REMEDY
    assert shown(file.read_text(encoding="utf-8")) == said(graphs[name]), REMEDY
    assert file.stat().st_size < 40_000


def test_the_gallery_holds_nothing_else():
    kept = (DOCS / "gallery.md").read_text(encoding="utf-8")
    assert re.findall(r"^### (\w+)$", kept, re.MULTILINE) == re.findall(r"^### (\w+)$", now()[0], re.MULTILINE), REMEDY
    assert {f.stem for f in (DOCS / "gallery").iterdir()} == set(now()[1]), REMEDY


def test_a_picture_of_what_is_gone_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("worldformula.report.gallery.gallery", lambda: ("page", {"new": Graph((), (), None)}))
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "old.svg").touch()
    assert write(tmp_path) == [tmp_path / "gallery.md", tmp_path / "gallery" / "new.svg"]
    assert [f.name for f in (tmp_path / "gallery").iterdir()] == ["new.svg"]
