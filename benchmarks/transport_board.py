"""docs/transport.md: calls of the network that a draw costs, and how far draws are from data, of what carries noise.

    python -m benchmarks.transport_board --write

It draws the page and its two pictures from what the cards transport_plane and transport_digits have recorded; nothing
is trained here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldformula.cards import results
from worldformula.charts import Level, Series, line_chart
from worldformula.metrics.interval import mean
from worldformula.training.history import Chart

PAGE = Path(__file__).parents[1] / "docs" / "transport.md"
PICTURES = Path("images") / "transport"  # from the folder of the page
CALLS = (1, 2, 4, 16, 64)
PLANE = {"flow matching, Euler": "fm", "shortcut": "shortcut"}
DIGITS = {"flow matching, Euler": "fm", "shortcut": "shortcut", "DDPM by DDIM": "ddim"}
TRAINED = {"flow matching, Euler": "FlowMatching", "shortcut": "Shortcut", "DDPM by DDIM": "DDPM"}
TEXT = """\
# Transport: calls against distance

How good a draw is after so many calls of the network, of models that carry noise to data along a velocity, and of a
DDPM beside them. Mean over the seeds ± the deviation of one, as the cards
[transport_plane](../worldformula/cards/transport_plane.toml) and
[transport_digits](../worldformula/cards/transport_digits.toml) recorded them; protocol, floors and what was published
stand there. Measured {days} on {machine}, one thread. `python -m benchmarks.transport_board --write` draws this page.

## Three Gaussians in the plane: sliced Wasserstein distance

{plane}

Beside them, in one call: pairs by optimal transport {optimal_1}, straightened by reflow {reflow_1}; in four, by two
steps of the midpoint method, {midpoint_plane}. The exact −log p is {exact}. Fresh data are {fresh} from one another,
one Gaussian {gaussian}.

![Distance over calls, plane]({pictures}/plane.svg)

## Digits of 8 × 8 pixels and 17 levels: FD-32, at equal CPU time of training

{digits}

Beside them, in four calls by two steps of the midpoint method: {midpoint_digits}. A mixture of 20 Gaussians, which is
no network, has {mixture}, training digits {train}.

![Distance over calls, digits]({pictures}/digits.svg)
"""
Seeds = Sequence[Mapping[str, float]]


def measured(card: str) -> tuple[Seeds, Mapping[str, Any]]:
    """The metrics of every seed of a card, and the file that they stand in."""
    found = json.loads(results.place(card).read_text(encoding="utf-8"))
    return [row["metrics"] for row in found["rows"]], found


def cell(rows: Seeds, name: str) -> str:
    """Mean over the seeds, and the deviation of one."""
    if not all(name in row for row in rows):
        return "–"
    found = mean([row[name] for row in rows])
    return f"{found.value:.3g} ± {found.deviation:.1g}"


def table(rows: Seeds, kinds: Mapping[str, str], further: Mapping[str, Mapping[str, str]]) -> list[str]:
    """One line for each model: a column for every number of calls, then others by their title."""
    head = ["", *(f"{n} call{'s' if n > 1 else ''}" for n in CALLS), *further]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, key in kinds.items():
        own = [cell(rows, f"{key}_{n}") for n in CALLS]
        lines.append("| " + " | ".join([name, *own, *(cell(rows, by.get(name, "")) for by in further.values())]) + " |")
    return lines


def picture(rows: Seeds, kinds: Mapping[str, str], levels: Mapping[str, str], title: str) -> Chart:
    """Distance over calls, each doubling as wide as another; bars are deviations of one seed."""
    series = []
    for colour, (name, key) in enumerate(kinds.items()):
        found = [mean([row[f"{key}_{n}"] for row in rows]) for n in CALLS]
        bars = [f.deviation for f in found]
        x = [float(n.bit_length() - 1) for n in CALLS]
        series.append(Series(name, x, [f.value for f in found], colour, bars, dots=True))
    drawn = [Level(label, mean([row[key] for row in rows]).value) for label, key in levels.items()]
    return Chart(line_chart(series, levels=drawn, x_label="calls, as a power of 2", y_label=title, log=True))


def text() -> str:
    """The page in Markdown."""
    plane, own = measured("transport_plane")
    digits, other = measured("transport_digits")
    columns = {
        "bits per pixel": {"flow matching, Euler": "fm_bits"},
        "CPU s": {name: f"seconds_{kind}" for name, kind in TRAINED.items()},
    }
    return TEXT.format(
        days=" and ".join(sorted({own["date"][:10], other["date"][:10]})),
        machine=own["machine"]["processor"],
        plane="\n".join(table(plane, PLANE, {"−log p, nats": {"flow matching, Euler": "nll"}})),
        digits="\n".join(table(digits, DIGITS, columns)),
        pictures=PICTURES.as_posix(),
        **{key: cell(plane, key) for key in ("optimal_1", "reflow_1", "exact", "fresh", "gaussian")},
        **{key: cell(digits, key) for key in ("mixture", "train")},
        midpoint_plane=cell(plane, "midpoint_4"),
        midpoint_digits=cell(digits, "midpoint_4"),
    )


def write(page: Path = PAGE) -> None:
    """The page and its pictures."""
    place = page.parent / PICTURES
    place.mkdir(parents=True, exist_ok=True)
    levels = {"fresh data": "fresh", "one Gaussian": "gaussian"}
    picture(measured("transport_plane")[0], PLANE, levels, "sliced Wasserstein").save(place / "plane.svg")
    levels = {"training digits": "train", "20 Gaussians": "mixture"}
    picture(measured("transport_digits")[0], DIGITS, levels, "FD-32").save(place / "digits.svg")
    page.write_text(text(), encoding="utf-8")


def main() -> None:
    """Prints the page, or writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/transport.md and its pictures")
    if parser.parse_args().write:
        write()
    else:
        print(text())


if __name__ == "__main__":
    main()
