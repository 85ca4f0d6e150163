"""The six modules of an agent as a picture, drawn from its objects: what each is, and what trains what.

The arrangement is about that of LeCun 2022, figure 2: the configurator above, perception on the left, the world in the
middle, cost on the right, memory and actor below. A coloured bar on a box is a player of the objective that moves its
weights; a box without one does not learn.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol

from torch import nn

from worldformula.agent.actor import Actor
from worldformula.agent.configurator import Configuration
from worldformula.agent.cost import Cost
from worldformula.agent.memory import ShortTermMemory
from worldformula.agent.perception import Perception
from worldformula.agent.terms import modules_of
from worldformula.training.objective import Objective
from worldformula.world import World

WIDTH, HEIGHT, LINE, COLUMNS = 250, 142, 16, 34
COLOURS = ("#2f6fde", "#d9662b", "#2a9d6f", "#b24bb5", "#c2a21a")
_STYLE = (
    ":root.wf-modules{color:#1b1f24}@media(prefers-color-scheme:dark){:root.wf-modules{color:#e6e9ee}}"
    ".wf-modules{font-family:system-ui,'Helvetica Neue',Arial,sans-serif}"
    ".wf-modules rect.box{fill:none;stroke:currentColor;stroke-opacity:.55;stroke-width:1.3}"
    ".wf-modules text{fill:currentColor;font-size:12px}.wf-modules .title{font-size:14px;font-weight:600}"
    ".wf-modules .said{fill-opacity:.72;font-size:11.5px}.wf-modules .arrow text{font-size:11px;fill-opacity:.72}"
    ".wf-modules .arrow path{fill:none;stroke:currentColor;stroke-opacity:.7;stroke-width:1.3}"
    ".wf-modules .arrow polygon{fill:currentColor;fill-opacity:.7}.wf-modules .back path{stroke-dasharray:5 4}"
)


class SixModules(Protocol):
    """What is drawn."""

    perception: Perception
    world: World
    cost: Cost
    memory: ShortTermMemory
    actor: Actor | None
    configuration: Configuration
    objective: Objective


@dataclass(frozen=True)
class _Box:
    """A module: where it stands, its lines, and the players that move it."""

    x: float
    y: float
    title: str
    lines: Sequence[str]
    players: Sequence[str]
    width: float = WIDTH
    height: float = HEIGHT


def modules_svg(agent: SixModules) -> str:
    """A self-contained SVG in the colour of the page around it; alone, in that of the reader's scheme."""
    players = agent.objective.players
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(players)}
    boxes = _boxes(agent, {name: {id(p) for p in player.parameters()} for name, player in players.items()})
    left, middle, right, low, high = 20, 330, 640, 350, 160
    arrows = [
        _arrow([(left + WIDTH, high + 70), (middle, high + 70)], "s"),
        _arrow([(middle + WIDTH, high + 50), (right, high + 50)], "ŝ"),
        _arrow([(right + 125, low), (right + 125, high + HEIGHT)], "a"),
        _arrow(
            [
                (right, low + 60),
                (middle + WIDTH + 20, low + 60),
                (middle + WIDTH + 20, high + 120),
                (middle + WIDTH, high + 120),
            ],
            "a",
        ),
        _arrow([(middle + 95, high + HEIGHT), (middle + 95, low)], "s, C"),
        _arrow([(middle + 155, low), (middle + 155, high + HEIGHT)], "s, a"),
    ]
    planner = agent.configuration.planner
    if "dream" in agent.objective.attached or (planner is not None and planner.climbs):
        arrows.append(_arrow([(right, high + 95), (middle + WIDTH, high + 95)], "∇C", back=True))
    arrows += [_arrow([(x + 125, 20 + 92), (x + 125, high)], "", back=True) for x in (left, middle, right)]
    size = 520 + 20 * len(players)
    body = [*arrows, *(_drawn(box, colour) for box in boxes), _legend(agent, colour)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="wf-modules" role="img" width="910" height="{size}" '
        f'viewBox="0 0 910 {size}" aria-label="The six modules of an agent: {escape(_said(boxes))}">'
        f"<style>{_STYLE}</style>{''.join(body)}</svg>"
    )


def _boxes(agent: SixModules, moved: Mapping[str, set[int]]) -> list[_Box]:
    perception, world = agent.perception, agent.world
    seen = [f"{key} {list(perception.columns[key].encoded)} → {word}_t" for key, word in perception.names.items()]
    encoders = _encoders(world, set(perception.names.values()))
    heads = f"heads: {', '.join(world.heads)}" if world.heads else "no heads: it predicts its own latents"
    kept = [f"keeps {', '.join((*world.carried, *world.memory))}", f"and {', '.join(world.actions) or 'no action'}"]
    acts = [] if agent.actor is None else _factors(agent.actor)
    planner = agent.configuration.planner
    mode = "Mode-1 alone" if planner is None else f"Mode-2: {type(planner).__name__}"
    return [
        _Box(20, 20, "Configurator", _configured(agent.configuration), [], 870, 92),
        _Box(20, 160, "Perception", seen, _by(encoders, moved)),
        _Box(330, 160, "World", [*(str(level.prior) for level in world.levels.values()), heads], _by([world], moved)),
        _cost(agent, moved),
        _Box(330, 350, "Short-term memory", kept, []),
        _Box(640, 350, "Actor", [*map(str, acts), mode], _by(acts, moved)),
    ]


def _encoders(world: World, seen: set[str]) -> list[nn.Module]:
    """The factors of the posterior that read what is observed and nothing else, but for noise."""
    found: list[nn.Module] = []
    for factor in world.posterior.factors:
        if all(c.key in seen for c in factor.conditions):
            seen = seen | {v.key for v in factor.variables}
            found += [factor] if factor.conditions else []
    return found


def _configured(configuration: Configuration) -> list[str]:
    weights = ", ".join(f"{name} {float(weight):g}" for name, weight in configuration.weights.items())
    told = [f"weights: {weights or 'all 1'}"]
    if configuration.goal:
        goal = "made of the rows" if callable(configuration.goal) else ", ".join(configuration.goal)
        told.append(f"goal: {goal}")
    if configuration.switch is not None:
        told.append(f"thinks by {', '.join(type(doubt).__name__.lower() for doubt in configuration.switch.doubts)}")
    return told


def _cost(agent: SixModules, moved: Mapping[str, set[int]]) -> _Box:
    """What is fixed, and what learns: critics of the cost, and the value of a learner in dreams."""
    cost = agent.cost

    def weighed(name: str, sign: str = "") -> str:
        return f"{sign}{float(cost.weights[name]):g}·{name}" if name in cost.weights else f"{sign}{name}"

    fixed = [weighed("reward", "−")] if cost.rewarded else []
    fixed += [weighed(name) for name in cost.intrinsic]
    value = getattr(getattr(agent, "learner", None), "critic", None)
    judges = [module for term in cost.critics.values() for module in modules_of(term)]
    judges += [value] if isinstance(value, nn.Module) else []
    critics = [*(weighed(name) for name in cost.critics), *(["v"] if isinstance(value, nn.Module) else [])]
    lines = [f"fixed: {', '.join(fixed) or 'none'}", f"critics: {', '.join(critics) or 'none'}"]
    return _Box(640, 160, "Cost", lines, _by(judges, moved))


def _factors(actor: Actor) -> list[nn.Module]:
    policy = actor.policy
    return list(getattr(policy, "factors", (policy,)))


def _by(modules: Iterable[nn.Module], moved: Mapping[str, set[int]]) -> list[str]:
    """The players that move any weight of these."""
    own = {id(p) for module in modules for p in module.parameters()}
    return [name for name, weights in moved.items() if own & weights]


def _drawn(box: _Box, colour: Mapping[str, str]) -> str:
    lines = [part for line in box.lines for part in textwrap.wrap(line, int(COLUMNS * box.width / WIDTH)) or [""]]
    room = int((box.height - 40) // LINE)
    lines = lines if len(lines) <= room else [*lines[: room - 1], f"… and {len(lines) - room + 1} lines more"]
    text = "".join(
        f'<text class="said" x="{box.x + 12}" y="{box.y + 44 + LINE * i}">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    bars = "".join(
        f'<rect x="{box.x + 12 + 30 * i}" y="{box.y + box.height - 10}" width="26" height="4" fill="{colour[name]}"/>'
        for i, name in enumerate(box.players)
    )
    frame = f'<rect class="box" x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="8"/>'
    return f'<g>{frame}<text class="title" x="{box.x + 12}" y="{box.y + 23}">{escape(box.title)}</text>{text}{bars}</g>'


def _arrow(points: Sequence[tuple[float, float]], label: str, *, back: bool = False) -> str:
    (x0, y0), (x1, y1) = points[-2:]
    dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
    tip = [(x1, y1), (x1 - 8 * dx - 4 * dy, y1 - 8 * dy - 4 * dx), (x1 - 8 * dx + 4 * dy, y1 - 8 * dy + 4 * dx)]
    path = "M" + " L".join(f"{x},{y}" for x, y in points)
    (ax, ay), (bx, by) = points[0], points[1]
    shift = (0, -7) if ay == by else (8, 4)
    text = (
        f'<text x="{(ax + bx) / 2 + shift[0]}" y="{(ay + by) / 2 + shift[1]}">{escape(label)}</text>' if label else ""
    )
    kind = "arrow back" if back else "arrow"
    return f'<g class="{kind}"><path d="{path}"/><polygon points="{" ".join(f"{x},{y}" for x, y in tip)}"/>{text}</g>'


def _legend(agent: SixModules, colour: Mapping[str, str]) -> str:
    rows = []
    for i, (name, player) in enumerate(agent.objective.players.items()):
        terms = " + ".join(k if v == 1 else f"{v:g}·{k}" for k, v in player.weights.items())
        y = 520 + 20 * i
        rows.append(f'<rect x="20" y="{y - 5}" width="26" height="4" fill="{colour[name]}"/>')
        rows.append(f'<text x="54" y="{y}">{escape(name)} minimises {escape(terms)}</text>')
    return "".join(rows)


def _said(boxes: Sequence[_Box]) -> str:
    return "; ".join(f"{box.title}: {', '.join(box.lines)}" for box in boxes)
