"""Where the circles of a small graph go, and how its arrows run between them.

The graphs of formulas are small (some twenty circles), so the layout minimises what a reader sees, directly: arrows
through circles, crossings, lengths. Rows are given; the search moves circles along their row. It is deterministic, and
ends early where there are so many arrows that a reader would wait: a world of a hundred choices has as many heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Columns = NDArray[np.int_]

RADIUS = 24.0
_GAP = 3  # half columns between the last circle of the earlier slice and the first of the current one
_HIT, _CROSSING = 4000.0, 260.0
_SHUFFLED = 3  # further starts of the search
_PAIRS = 2e7  # of arrows that are compared from one start, about a second; then what was found stands
_BEFORE = 64  # arrows drawn before that a further one is compared with
_STRAIGHT = (0.0, 0.2, -0.2, 0.34, -0.34, 0.5, -0.5)  # what an arrow may bend, as shares of its length
_BENT = (0.24, -0.24, 0.38, -0.38, 0.12, -0.12, 0.55, -0.55, 0.75, -0.75)
_HEAD = 9.0
PAD = 11.0  # between a plate and what is in it
Groups = Sequence[Sequence[int]]


LARGE = 60  # circles; of more the rows stay in written order, as a search among places takes minutes


@dataclass(frozen=True)
class Curve:
    """One arrow: a quadratic Bézier from border to border, whose ``head`` (a triangle) touches the target's circle."""

    start: Points
    control: Points
    tail: Points
    head: Points
    points: Points
    bend: float


def place(
    rows: Sequence[int],
    sides: Sequence[int],
    edges: Sequence[tuple[int, int]],
    radius: float = RADIUS,
    plates: Groups = (),
) -> Points:
    """Centres ``[N, 2]`` in pixels, y downwards.

    Args:
        rows: the row of every circle, 0 at the top.
        sides: the slice of every circle: below 0 left of the separation, the earlier the further left; 0 the others.
        edges: pairs (source, target).
        radius: of all circles.
        plates: the circles of every plate; the others stay out of its rectangle.
    """
    if not rows:
        return np.zeros((0, 2))
    scale = np.array([radius + 22.0, 2 * radius + 44.0])
    links = np.array(sorted({(min(e), max(e)) for e in edges if e[0] != e[1]}), int).reshape(-1, 2)
    row, side = np.array(rows), np.array(sides)
    picture = _Picture(row, side, links, scale, radius, [np.isin(np.arange(len(rows)), p) for p in plates])
    starts = _starts(row, side)
    if len(rows) > LARGE:
        columns = next(starts)
    else:
        columns = min((_descend(begin, picture) for begin in starts), key=lambda found: found[1])[0]
    centres: Points = np.stack([columns, row], 1) * scale
    return np.asarray(centres - centres.min(0))


def _starts(row: Columns, side: Columns) -> Iterator[Columns]:
    """The rows in written order, in reverse, and shuffled; always the same ones."""
    count, shuffle = len(row), np.random.default_rng(0)
    orders = [np.arange(count), np.arange(count)[::-1], *(shuffle.permutation(count) for _ in range(_SHUFFLED))]
    earlier = side < 0
    widest = max(np.sum((row == r) & (earlier == e)) for r in set(row) for e in set(earlier))
    for order in orders:
        columns = np.zeros(count, int)
        for e in set(earlier):
            for r in set(row):
                members = order[(row[order] == r) & (earlier[order] == e)]
                members = members[np.argsort(side[members], kind="stable")]
                first = widest - len(members)
                columns[members] = first + 2 * np.arange(len(members)) - (2 * widest - 2 + _GAP if e else 0)
        yield columns


@dataclass(frozen=True)
class _Picture:
    """What stays the same while circles move along their rows."""

    row: Columns
    side: Columns
    links: Columns
    scale: Points
    radius: float
    plates: Sequence[NDArray[np.bool_]]

    @cached_property
    def before(self) -> list[tuple[int, int]]:
        """Circles of slices before the current one, of which the first belongs left of the second."""
        past = np.flatnonzero(self.side < 0)
        return [(int(i), int(j)) for i in past for j in past if self.side[i] < self.side[j]]


def _descend(columns: Columns, picture: _Picture) -> tuple[Columns, float]:
    """Move one circle, or exchange two of a row, as long as the picture gets better, and `_PAIRS` are not compared."""
    best, left = float(_costs(columns[None], picture)[0]), _PAIRS
    improved = True
    while improved:
        improved = False
        for i in range(len(columns)):
            trials = np.stack(list(_moves(columns, picture.row, picture.side, i)))
            left -= len(trials) * len(picture.links) ** 2
            if left < 0:
                return columns, best
            costs = _costs(trials, picture)
            if costs.min() < best - 1e-9:
                columns, best, improved = trials[costs.argmin()], float(costs.min()), True
    return columns, best


def _moves(columns: Columns, row: Columns, side: Columns, i: int) -> Iterator[Columns]:
    """Circle ``i`` elsewhere in its row, exchanged with another, or together with its whole row."""
    reach = 2 * max(np.sum(row == r) for r in set(row)) + 2
    low, high = (-reach - _GAP, -_GAP) if side[i] < 0 else (0, reach - 1)
    mates = np.flatnonzero((row == row[i]) & (np.arange(len(row)) != i))
    own = np.flatnonzero((row == row[i]) & ((side < 0) == (side[i] < 0)))
    for column in range(low, high + 1):
        if np.all(np.abs(column - columns[mates]) >= 2):
            trial = columns.copy()
            trial[i] = column
            yield trial
    for other in own[own != i]:
        trial = columns.copy()
        trial[[i, other]] = columns[[other, i]]
        yield trial
    for shift in range(low - columns[own].min(), high - columns[own].max() + 1):
        trial = columns.copy()
        trial[own] += shift
        yield trial


def _costs(columns: Columns, picture: _Picture) -> Points:
    """What disturbs a reader of each picture, columns ``[T, N]``: earlier steps right of later ones, arrows through
    circles, circles in plates of others, crossings, slanted and long arrows, wide pictures and plates.
    """
    row, links = picture.row, picture.links
    costs: Points = 2.0 * np.ptp(columns, axis=1)
    for early, late in picture.before:
        costs += _HIT * (columns[:, early] >= columns[:, late])
    for inside in picture.plates:
        left, right = columns[:, inside].min(1, keepdims=True), columns[:, inside].max(1, keepdims=True)
        within = (row >= row[inside].min()) & (row <= row[inside].max()) & (columns > left - 2) & (columns < right + 2)
        costs += 3 * _HIT * (within & ~inside).sum(1) + 2.0 * (right - left)[:, 0]
    if not len(links):
        return costs
    centres = np.stack([columns, np.broadcast_to(row, columns.shape)], -1) * picture.scale
    a, b = centres[:, links[:, 0]], centres[:, links[:, 1]]
    hits = _distance(centres, a, b) < picture.radius + 9
    each = np.arange(len(links))
    hits[:, each, links[:, 0]] = hits[:, each, links[:, 1]] = False
    slant = np.square(columns[:, links[:, 0]] - columns[:, links[:, 1]]).sum(1)
    crossing = _crossing((a[:, :, None], b[:, :, None]), (a[:, None], b[:, None])).sum((1, 2)) // 2
    return np.asarray(costs + _HIT * hits.sum((1, 2)) + _CROSSING * crossing + 3.0 * slant)


def _distance(points: Points, a: Points, b: Points) -> Points:
    """Distance of every point [..., N, 2] from every segment a–b [..., M, 2]: ``[..., M, N]``."""
    along = (b - a)[..., None, :]
    offset = points[..., None, :, :] - a[..., None, :]
    t = (offset * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-9)
    return np.asarray(np.linalg.norm(offset - np.clip(t, 0, 1)[..., None] * along, axis=-1))


def _crossing(first: tuple[Points, Points], second: tuple[Points, Points]) -> NDArray[np.bool_]:
    """Whether segments [..., 2], each from one end to the other, cross away from shared ends."""

    def turn(p: Points, q: Points, r: Points) -> Points:
        (ax, ay), (bx, by) = np.moveaxis(q - p, -1, 0), np.moveaxis(r - p, -1, 0)
        return np.asarray(np.sign(ax * by - ay * bx))

    (p, q), (r, s) = first, second
    return np.asarray((turn(p, q, r) * turn(p, q, s) < 0) & (turn(r, s, p) * turn(r, s, q) < 0))


def route(
    centres: Points, edges: Sequence[tuple[int, int]], straight: Sequence[bool], radius: float = RADIUS
) -> list[Curve]:
    """One arrow per edge; ``straight`` edges bend only around circles, the others always bend.

    Edges are routed one after the other, the straight ones first, each with the bend that hits no circle and crosses
    and touches the fewest arrows before it.
    """
    if len(edges) > 2 * LARGE:
        return [
            _curve(centres, e, (_STRAIGHT if s else _BENT)[0], radius) for e, s in zip(edges, straight, strict=True)
        ]
    middle = centres.mean(0) if len(centres) else np.zeros(2)
    done: dict[int, Curve] = {}
    for i in sorted(range(len(edges)), key=lambda i: (not straight[i], _length(centres, edges[i]))):
        bends = _STRAIGHT if straight[i] else _BENT
        curves = [_curve(centres, edges[i], bend, radius) for bend in bends]
        rest = np.delete(centres, list(edges[i]), 0)
        others = list(done.values())[-_BEFORE:]
        costs = [_disturbance(curve, rest, others, radius, middle) for curve in curves]
        done[i] = curves[int(np.argmin(costs))]
    return [done[i] for i in range(len(edges))]


@dataclass(frozen=True)
class Frame:
    """The rectangle of a plate, and where its label stands: the base line's start or end, as ``anchor`` says."""

    low: Points
    high: Points
    label: Points
    anchor: Literal["start", "end"] = "end"


def boxes(
    centres: Points, plates: Groups, radius: float, labels: Sequence[tuple[float, float]], curves: Sequence[Curve]
) -> list[Frame]:
    """The rectangle of every plate, around its circles and the plates inside it, with room for its label.

    Args:
        centres: of all circles, ``[N, 2]``.
        plates: the circles of every plate.
        radius: of all circles.
        labels: width and height of every label, which stands in the corner where the fewest arrows pass.
        curves: the arrows.
    """
    found: dict[int, Frame] = {}
    passing = np.concatenate([c.points for c in curves]) if curves else np.zeros((0, 2))
    for i in sorted(range(len(plates)), key=lambda i: len(plates[i])):
        inside = [found[j] for j in found if set(plates[j]) <= set(plates[i])]
        own, (width, height) = centres[list(plates[i])], labels[i]
        low = np.min([own.min(0) - radius, *(f.low for f in inside)], 0) - PAD
        high = np.max([own.max(0) + radius, *(f.high for f in inside)], 0) + PAD
        high[0] = max(high[0], low[0] + width + 12)
        corners = [_framed(low, high, height, right, below) for below in (True, False) for right in (True, False)]
        found[i] = min(corners, key=lambda f: _passing(f, width, height, passing))
    return [found[i] for i in range(len(plates))]


def _framed(low: Points, high: Points, height: float, right: bool, below: bool) -> Frame:
    """The rectangle, made higher by a label in one of its corners."""
    room = np.array([0.0, height])
    low, high = (low, high + room) if below else (low - room, high)
    label = np.array([high[0] - 7 if right else low[0] + 7, high[1] - 6 if below else low[1] + height - 3])
    return Frame(low, high, label, "end" if right else "start")


def _passing(frame: Frame, width: float, height: float, points: Points) -> int:
    """How many points of arrows lie where a label stands."""
    left = frame.label[0] - (width if frame.anchor == "end" else 0)
    x, y = points.T - np.array([[left], [frame.label[1]]])
    return int(((x > -3) & (x < width + 3) & (y > -height) & (y < 4)).sum())


def _length(centres: Points, edge: tuple[int, int]) -> float:
    return float(np.linalg.norm(centres[edge[1]] - centres[edge[0]]))


def _curve(centres: Points, edge: tuple[int, int], bend: float, radius: float) -> Curve:
    a, b = centres[edge[0]], centres[edge[1]]
    length = max(_length(centres, edge), 1e-9)
    normal = np.array([b[1] - a[1], a[0] - b[0]]) / length
    control = (a + b) / 2 + normal * np.sign(bend) * max(abs(bend) * length, 26.0 if bend else 0.0) * 1.25
    start, end = (c + (control - c) / np.linalg.norm(control - c) * radius for c in (a, b))
    into = (b - end) / radius
    tail = end - into * (_HEAD - 1)
    side = np.array([-into[1], into[0]]) * _HEAD * 0.42
    t = np.linspace(0, 1, 25)[:, None]
    points = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * tail
    head = np.stack([end, end - into * _HEAD + side, end - into * _HEAD - side])
    return Curve(start, control, tail, head, points, bend)


def _disturbance(curve: Curve, rest: Points, others: Sequence[Curve], radius: float, middle: Points) -> float:
    """What disturbs about one arrow, given the circles that it does not join and the arrows before it."""
    nearest = np.linalg.norm(rest[:, None] - curve.points[None], axis=-1).min(1, initial=np.inf)
    outward = float(np.linalg.norm(curve.control - middle))
    hits = 1000.0 * int((nearest < radius + 2).sum()) + 200.0 * int((nearest < radius + 6).sum())
    cost = hits + 90.0 * abs(curve.bend) - 0.004 * outward
    if not others:
        return cost
    lines = np.stack([other.points for other in others])
    ours, theirs = curve.points[None, :, None], lines[:, None]
    crossings = _crossing((ours[:, :-1], ours[:, 1:]), (theirs[:, :, :-1], theirs[:, :, 1:]))
    apart = np.linalg.norm(ours[:, 5:-5] - theirs[:, :, 5:-5], axis=-1).min((1, 2))
    return cost + 30.0 * int(crossings.sum()) + 40.0 * int((apart < 7).sum())
