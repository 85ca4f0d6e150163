"""The gallery: formula and graphical model of everything in the catalogue, as ``docs/gallery.md`` and SVG files.

python -m worldformula.report.gallery            # writes docs/gallery.md and docs/gallery/NAME.svg
python -m worldformula.report.gallery elsewhere  # into another folder
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from worldformula import Expression, Game
from worldformula.catalogue import System, discover
from worldformula.formula.graph.graph import Graph, graph, svg
from worldformula.formula.syntax.nodes import Group
from worldformula.training.game import losses

KINDS = {"models": "Models", "worlds": "Worlds"}
ENVIRONMENT = ({"image": (16, 16, 3)}, 2)  # observations and width of actions, for a world that asks for them
COMMAND = "python -m worldformula.report.gallery"

_HEAD = f"""# Gallery

Every model and world of the catalogue at its preset `tiny`: the loss as its file writes it, and the graphical model
that the formula implies. This page is written by `{COMMAND}`.

Circles are variables: shaded ones are observed, white ones latent; half shaded ones are observed in one term and drawn
in another; a double ring is computed. Solid arrows generate, dashed ones infer. A rectangle repeats what is in it: N
rows of data, K samples, iterations; of experts it says how they are joined. Left of a dotted line stands the step
before.
"""


@dataclass(frozen=True)
class Entry:
    """One system: what the page says of it.

    Attributes:
        system: its entry of the catalogue.
        losses: heading -> formula; one without a heading, or one for each player of a game.
    """

    system: System
    losses: Mapping[str, Expression]

    def graph(self) -> Graph:
        """The graphical model of all its losses together."""
        nodes = {name: loss.node for name, loss in self.losses.items()}
        whole = Group(tuple(nodes), tuple(nodes.values())) if len(nodes) > 1 else next(iter(nodes.values()))
        return graph(whole)

    def text(self) -> str:
        """Its section in Markdown."""
        name = self.system.name
        parts = [f"### {name}", f"{self.system.summary} {self.system.paper}."]
        for who, loss in self.losses.items():
            parts += [f"What {who} minimises:"] if who else []
            parts.append(f"```math\n{loss.latex_lines()}\n```")
        parts.append(f"![Graphical model of {name}](gallery/{name}.svg)")
        return "\n\n".join(parts) + "\n"


def entries(kind: str) -> Iterator[Entry]:
    """Everything of one kind that has a loss, by name."""
    for system in discover(kind):
        preset = "tiny" if "tiny" in system.presets else next(iter(system.presets))
        wanted = [p for p in inspect.signature(system.build).parameters.values() if p.default is p.empty]
        made = system.build(system.sizes(preset), *(ENVIRONMENT if len(wanted) > 1 else ()))
        loss = getattr(made, "loss", None)
        if isinstance(loss, (Game, Expression)):
            yield Entry(system, losses(loss))


def gallery() -> tuple[str, dict[str, Graph]]:
    """The page, and the graphical models by name."""
    page, graphs = [_HEAD], {}
    for kind, title in KINDS.items():
        page.append(f"## {title}\n")
        for entry in entries(kind):
            page.append(entry.text())
            graphs[entry.system.name] = entry.graph()
    return "\n".join(page), graphs


def write(folder: Path) -> list[Path]:
    """Writes ``gallery.md`` and ``gallery/NAME.svg`` into a folder, and removes pictures of what is gone.

    Returns:
        What was written.
    """
    page, graphs = gallery()
    images = folder / "gallery"
    images.mkdir(parents=True, exist_ok=True)
    for old in images.glob("*.svg"):
        if old.stem not in graphs:
            old.unlink()
    pictures = {images / f"{name}.svg": svg(found) + "\n" for name, found in graphs.items()}
    files = {folder / "gallery.md": page, **pictures}
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    return list(files)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Writes gallery.md and gallery/NAME.svg, one for each system.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("docs"), help="where to; docs, unless it is said")
    written = write(parser.parse_args().folder)
    sys.stdout.write(f"{written[0]}: {len(written) - 1} systems\n")
