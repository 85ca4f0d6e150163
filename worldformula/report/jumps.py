"""An episode as a world of jumps has it: where its context changed, what happened there, and what the jumps foretold.

One drawing over the rows of the episode: the frames, the gates that opened, the events of the environment, where each
jump was to end, and below, decoded, the state that it said would be there just before.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldformula.agent.imagination import ImaginationAgent
from worldformula.agent.open_loop import newest
from worldformula.report.evidence import Timeline
from worldformula.report.parts import both, section
from worldformula.report.video import tile
from worldformula.world import State
from worldformula.world.jumps import Jumping

COLUMNS = 12  # frames that are shown
LANES = {"gates": 34, "events": 46, "jumps": 40}  # heights
NARROW, LETTER = 560, 7  # a page without room for the numbers of rows; the width of a letter
Frames = NDArray[np.uint8]
Draws = Callable[[NDArray[Any]], Frames]
"""Pictures ``[N, h, w, 3]`` of observed numbers ``[N, D]``."""


@torch.no_grad()
def timeline(
    agent: Any, columns: dict[str, NDArray[Any]], events: Sequence[Sequence[str]], frames: Frames | None,
    draws: Draws | None = None,
) -> tuple[Timeline, dict[str, Frames]] | None:  # fmt: skip
    """What to draw of an episode, its columns ``[T, …]``, and the stills ``seen`` and ``foreseen``.

    Args:
        agent: what acted.
        columns: its rows and actions.
        events: of each row, the names of what happened on arriving there.
        frames: ``[T, h, w, 3]``, where there are any.
        draws: of numbers that the world observes and predicts.

    Returns:
        None where the world has no jumps.
    """
    if not isinstance(agent, ImaginationAgent) or not isinstance(agent.world, Jumping):
        return None
    world = agent.world
    batch = {key: value[None] for key, value in columns.items()}
    states = world.filter(agent.perception.learn(batch, agent.device), deterministic=True)
    z, c = states["z"][0], states["c"][0]
    gates = torch.cat((torch.zeros(1), (c[1:] != c[:-1]).float().mean(-1).cpu()))
    said = world.foretold.sample(z=z, c=c, deterministic=True)
    begins = [0, *(t for t in range(1, len(c)) if gates[t])]
    ends = [t + float(said["n"][t]) + 1 for t in begins]
    count = min(COLUMNS, len(c))
    shown = [int((i + 0.5) * len(c) / count) for i in range(count)]
    stills = {} if frames is None else {"seen": frames[shown]}
    told = None if frames is None else _decoded(agent, columns, frames, (said["Y"][shown], c[shown]), draws)
    happened = tuple((t, name) for t, names in enumerate(events) for name in names)
    found = Timeline(
        tuple(gates.tolist()), happened, tuple(begins), tuple(ends),
        tuple(said["A"][begins].argmax(-1).tolist()), tuple(shown),
    )  # fmt: skip
    return found, stills if told is None else {**stills, "foreseen": told}


def _decoded(
    agent: ImaginationAgent, columns: dict[str, NDArray[Any]], frames: Frames, at: tuple[torch.Tensor, torch.Tensor],
    draws: Draws | None,
) -> Frames | None:  # fmt: skip
    """Pictures of what the coarse heads say at z and c; None where that is nothing that can be shown."""
    coarse, perception = agent.world.levels["coarse"], agent.perception
    words = dict(perception.of_kind("image"))
    if draws is not None and len(perception.names) == 1 and not words:
        (key,) = perception.names
        words = dict(perception.names) if np.array_equal(draws(columns[key][:1]), frames[:1]) else {}
    for key, word in words.items():
        kind = perception.columns[key]
        head = "k_coarse" if kind.kind == "discrete" else f"{word}_coarse"
        if head not in coarse.heads:
            continue
        said = coarse.decode(State({"z": at[0], "c": at[1]}), (head,))[head].cpu()
        if kind.kind == "image":
            return (255 * newest(said).clamp(0, 1)).round().to(torch.uint8).numpy()
        if kind.kind == "discrete":
            said = said.argmax(-1) + torch.tensor(kind.starts)
        return draws(said.numpy().reshape(-1, *kind.shape)) if draws is not None else None
    return None


def strip(frames: Frames) -> Frames:
    """Pictures ``[N, h, w, C]`` side by side, as a still."""
    return tile(frames[:, None], columns=len(frames), gap=1, background=255)


# ---------------------------------------------------------------------------------------------------------------- page


def drawn(found: Timeline | None, seen: bytes | None, foreseen: bytes | None) -> str:
    """The section of the page; nothing where nothing was measured."""
    if found is None:
        return ""
    note = (
        "One evaluation episode, row by row. A bar is the share of gates that opened on arriving at a row, over the "
        "largest: there the context changed. An arc goes from such a change to where the jump said that the next one "
        "would be; the number is its code. "
    )
    if foreseen is not None:
        note += (
            "Below each frame, the state that the jump from there says it will be in just before the next change, as "
            "the coarse level decodes it."
        )
    return section(
        "When its context changed, and what its jumps foretold", f'<p class="note">{note}</p>',
        both(lambda width, _: _drawing(found, seen, foreseen, width)),
    )  # fmt: skip


def _drawing(found: Timeline, seen: bytes | None, foreseen: bytes | None, width: int) -> str:
    parts, y, rows = list[str](), 0.0, len(found.gates)
    edge = width / len(found.shown)

    def at(row: float) -> float:
        return width * (min(row, rows - 0.5) + 0.5) / rows

    def lane(name: str) -> float:
        parts.append(f'<text x="0" y="{y + 13:.0f}" class="title">{escape(name)}</text>')
        return y + 20

    def pictures(name: str, data: bytes) -> float:
        top, code = lane(name), base64.b64encode(data).decode()
        parts.append(
            f'<image x="0" y="{top:.0f}" width="{width}" height="{edge:.1f}" preserveAspectRatio="none" '
            f'style="image-rendering:pixelated" href="data:image/webp;base64,{code}"/>'
        )
        return top + edge + 8

    titles = {"gates": "open gates", "events": "events", "jumps": "jumps, to where each was said to end"}
    if not found.events:
        titles["events"] += ": none in this episode"
    if seen is not None:
        rows_shown = f" {', '.join(map(str, found.shown))}" if width > NARROW else ""
        y = pictures(f"frames of rows{rows_shown}", seen)
    for name, draw in (("gates", _gates), ("events", _events), ("jumps", _arcs)):
        y = lane(titles[name])
        parts.append(draw(found, at, y))
        y += LANES[name]
    if foreseen is not None:
        y = pictures("foreseen, just before the next change", foreseen)
    head = f'<svg class="wf-chart" viewBox="0 0 {width} {y:.0f}" width="{width}" height="{y:.0f}" role="img"'
    told = f"{len(found.begins) - 1} changes and {len(found.events)} events in {rows} rows"
    return f'{head} aria-label="{told}">{"".join(parts)}</svg>'


def _gates(found: Timeline, at: Callable[[float], float], y: float) -> str:
    wide, most = min(8.0, max(2.0, at(1) - at(0) - 1)), max((*found.gates, 1e-6))
    tall = LANES["gates"] - 8
    bars = [
        f'<rect x="{at(t) - wide / 2:.1f}" y="{y + tall * (1 - share / most):.1f}" width="{wide:.1f}" '
        f'height="{tall * share / most:.1f}" fill="currentColor"><title>row {t}: {share:.2f} of them</title></rect>'
        for t, share in enumerate(found.gates) if share
    ]  # fmt: skip
    line = f'<path d="M{at(0):.1f} {y + tall:.1f}H{at(len(found.gates) - 1):.1f}" class="line faint"/>'
    return f'<g class="c0" style="color:var(--c0)">{line}{"".join(bars)}</g>'


def _events(found: Timeline, at: Callable[[float], float], y: float) -> str:
    parts, taken = list[str](), [-1.0] * 3  # to where names reach on each of three lines
    for t, name in found.events:
        x, wide = at(t), LETTER * len(name) + 8
        end = x + wide > at(len(found.gates))
        left, right = (x - wide, x) if end else (x, x + wide)
        line = next((i for i, edge in enumerate(taken) if edge <= left), 2)
        taken[line] = right
        low = y + 10 + 13 * line
        parts.append(
            f'<path d="M{x:.1f} {y - 2:.1f}V{low - 8 if end else low:.1f}" stroke="currentColor" fill="none"/>'
            f'<text x="{x - 4 if end else x + 4:.1f}" y="{low:.1f}" text-anchor="{"end" if end else "start"}" '
            f'style="fill:currentColor">{escape(name)}<title>row {t}</title></text>'
        )
    return f'<g style="color:var(--c2)">{"".join(parts)}</g>'


def _arcs(found: Timeline, at: Callable[[float], float], y: float) -> str:
    parts, low = list[str](), y + LANES["jumps"] - 12
    for begin, end, code in zip(found.begins, found.ends, found.codes, strict=True):
        x, to = at(begin), at(end)
        parts.append(
            f'<path d="M{x:.1f} {low:.1f}Q{(x + to) / 2:.1f} {y - 14:.1f} {to:.1f} {low:.1f}" stroke="currentColor" '
            f'fill="none" stroke-width="1.5"><title>from row {begin} to {end:.1f}, code {code}</title></path>'
            f'<circle cx="{to:.1f}" cy="{low:.1f}" r="3" fill="currentColor"/>'
        )
        if to - x > 12:
            parts.append(
                f'<text x="{(x + to) / 2:.1f}" y="{y + 18:.1f}" text-anchor="middle" style="fill:currentColor">'
                f"{code}</text>"
            )
    return f'<g style="color:var(--c1)">{"".join(parts)}</g>'
