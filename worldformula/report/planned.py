"""What a planner makes of the present, as a page: the plan, the imagined path, what it costs, and the landscape around.

The landscape is what candidates cost that differ from the plan in their first action alone: over its first two
numbers, or choice by choice. A flat one has nothing to find; a ragged one is hard to search.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldformula.agent.acts import Act, space_of
from worldformula.agent.imagination import ImaginationAgent
from worldformula.agent.open_loop import called, newest
from worldformula.charts import Series, line_chart, short
from worldformula.errors import ConfigError
from worldformula.given import per_episode
from worldformula.planner import ActionSet, Plan, Planner, some
from worldformula.report.parts import both, document, pairs, picture, section
from worldformula.report.video import tile, webp
from worldformula.score import Score
from worldformula.wording import numbered
from worldformula.world import State

GRID = 17  # candidates along an axis of the landscape
LINES = 8  # numbers in one chart
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Planned:
    """A plan and what is shown of it.

    Attributes:
        name: of the planner.
        actions: ``[H, size]`` by variable.
        sets: what each action may be.
        costs: of every step, ``[H]``; total: of the plan, with the value behind it and all weights.
        trace: the best total after each iteration.
        calls: steps of the model; milliseconds: of processor time, the landscape apart.
        pictures: decoded states, uint8 ``[H + 1, h, w, C]``, None where the world decodes none.
        numbers: decoded numbers ``[H + 1, n]`` by head.
        landscape: totals ``[GRID, GRID]`` (the second number down, the first to the right), ``[GRID]`` of an action of
            one number, ``[size]`` of a choice, ∞ where it is forbidden; None of flags.
        apart: terms of the cost that were left out, as no planner is told of what they measure: bonuses of steps.
        violation: by how much the plan exceeds its worst constraint; None where there is none.
        words: what variables of actions, and heads, are called where the formula says it shorter: one name, or one for
            each of their numbers.
    """

    name: str
    actions: dict[str, Floats]
    sets: Mapping[str, ActionSet]
    costs: Floats
    total: float
    trace: list[float]
    calls: int
    milliseconds: float
    pictures: NDArray[np.uint8] | None
    numbers: dict[str, Floats]
    landscape: Floats | None
    apart: tuple[str, ...] = ()
    violation: float | None = None
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def said(self, variable: str, width: int = 1) -> list[str]:
        """A name for each number of a variable, as its environment calls them."""
        names = self.words.get(variable, [variable])
        return list(names) if len(names) == width else numbered(names[0], width)


@torch.no_grad()
def planned(agent: Any, planner: Planner, batch: Mapping[str, NDArray[Any]]) -> Planned:
    """A plan from the last row of a sequence ``[1, T, ...]`` of an agent's own experience.

    Raises:
        ConfigError: an agent without a world to plan in.
    """
    if not isinstance(agent, ImaginationAgent):
        raise ConfigError(f"a {type(agent).__name__} has no world to plan in: expected an agent that imagines")
    agent, apart = _without_bonuses(agent)
    world = agent.world
    row = {key: value[:, -1] for key, value in batch.items()}
    tokens = agent.tokens(row)
    state = world.filter(agent.perception.learn(batch, agent.device) | tokens, deterministic=True).last() | tokens
    task, masks = agent.task(agent.configuration.given(row)), agent.perception.masks(row, agent.device)
    space, began = space_of(agent.perception.acts), time.process_time()
    plan = planner.plan(world, task, state, space=space, mask=masks or None)
    took = 1000 * (time.process_time() - began)
    steps = State({k: v for k, v in plan.states.series.items() if k not in task.given}, 2)
    frames, numbers = _decoded(agent, steps)
    around = Score(
        world, replace(task, constraints={}), state, space, _horizon(plan), per_episode(None, 1, agent.device)
    )
    return Planned(
        type(planner).__name__, {k: v[0].cpu().numpy() for k, v in plan.actions.items()}, space,
        task.each(plan.states.span(1), plan.actions)[0].cpu().numpy(), float(plan.cost), [float(c) for c in plan.trace],
        plan.calls, took, frames, numbers, _landscape(plan, space, around, masks), apart,
        None if plan.violation is None else float(plan.violation), _words(agent, numbers),
    )  # fmt: skip


def _without_bonuses(agent: ImaginationAgent) -> tuple[ImaginationAgent, tuple[str, ...]]:
    """The agent with what planners can be told of its cost, and the terms that they cannot: bonuses of steps. One that
    wants nothing else wants the reward.
    """
    cost = agent.cost
    steps = tuple(k for k, t in cost.intrinsic.items() if getattr(t, "arrives", False) and cost.weights.get(k, 1.0))
    if not steps:
        return agent, ()
    names = [*(("reward",) if cost.rewarded else ()), *cost.intrinsic, *cost.critics]
    weights = {name: cost.weights.get(name, 1.0) for name in names} | dict.fromkeys(steps, 0.0)
    if cost.rewarded and not any(weights.values()):
        weights["reward"] = 1.0
    agent = copy(agent)  # the same networks, another cost
    agent.cost = replace(cost, weights=weights)
    return agent, steps


def _words(agent: ImaginationAgent, numbers: Mapping[str, Floats]) -> dict[str, list[str]]:
    """``move (a_1)`` of an action, ``arm 2 (a_2)`` of an element of one, ``force 1 (a)`` of several numbers; of heads
    ``reward (r)``, and what is observed as its environment calls it.
    """
    words = {head: called(agent.world, agent.perception, head, value.shape[1]) for head, value in numbers.items()}
    words |= {
        head: [f"{word} ({head})" for word in words[head]] for head in agent.world.roles.values() if head in words
    }
    for act in agent.perception.acts:
        name = act.action if act.element is None else f"{act.action} {act.element + 1}"
        words[act.variable] = [f"{word} ({act.variable})" for word in numbered(name, _numbers(act))]
    return words


def _numbers(act: Act) -> int:
    """How many lines an action is: a choice is one."""
    return 1 if act.kind == "choice" else act.size


def _horizon(plan: Plan) -> int:
    return int(next(iter(plan.actions.values())).shape[1])


def _decoded(agent: ImaginationAgent, states: State) -> tuple[NDArray[np.uint8] | None, dict[str, Floats]]:
    """Pictures and numbers that the world predicts along a plan."""
    pictures, numbers = None, dict[str, Floats]()
    masks = {head for role, head in agent.world.roles.items() if role.startswith("mask/")}
    heads = [name for name in agent.world.dynamics.heads if name not in masks]
    for name, value in agent.world.decode(states, heads).items() if heads else ():
        if value.ndim == 5 and pictures is None:
            pictures = (255 * newest(value[0]).clamp(0, 1)).round().to(torch.uint8).cpu().numpy()
            continue
        found = value[0].float().cpu().numpy()
        if found.ndim <= 2:
            numbers[name] = found.reshape(len(found), -1)
    return pictures, numbers


def _landscape(
    plan: Plan, space: Mapping[str, ActionSet], score: Score, masks: Mapping[str, torch.Tensor]
) -> Floats | None:
    """What candidates cost that differ in the first action of the first variable; ∞ where it is forbidden."""
    name, own = next(iter(space.items()))
    if own.kind == "flags":
        return None
    at = plan.actions[name][:, 0]
    if own.kind == "choice":
        firsts = torch.eye(own.size, device=at.device, dtype=at.dtype)
    else:
        line = torch.linspace(-1, 1, GRID, device=at.device, dtype=at.dtype)
        one = own.size == 1
        firsts = at.expand(GRID if one else GRID**2, -1).clone()
        firsts[:, 0] = line if one else line.repeat(GRID)
        if not one:
            firsts[:, 1] = line.repeat_interleave(GRID)
    tried = {k: v.unsqueeze(1).repeat(1, len(firsts), 1, 1) for k, v in plan.actions.items()}
    tried[name][0, :, 0] = firsts
    found = score(tried)[0]
    if name in masks:
        found = found.masked_fill(~some(masks[name])[0], torch.inf)
    costs: Floats = found.cpu().numpy()
    return costs.reshape(GRID, GRID) if own.kind == "numbers" and own.size > 1 else costs


# ---------------------------------------------------------------------------------------------------------------- page


def page(found: Planned, title: str, facts: Sequence[tuple[str, object]]) -> str:
    """The whole document; ``facts`` stand beside those of the plan."""
    told = [
        *facts, ("planner", found.name), ("steps", len(found.costs)), ("cost", short(found.total)),
        ("steps of the model", f"{found.calls:,}"), ("processor time", f"{found.milliseconds:.0f} ms"),
    ]  # fmt: skip
    told += [("left out", f"{', '.join(found.apart)}: bonuses of steps, of which planners are not told")] * bool(
        found.apart
    )
    told += [] if found.violation is None else [("exceeds its constraints by", short(found.violation))]
    parts = [f"<header><h1>{escape(title)}</h1></header>", pairs(told), _actions(found)]
    if found.pictures is not None:
        strip = tile(found.pictures[:, None], columns=len(found.pictures), gap=1)
        parts.append(section("What it imagines", picture(webp(strip, fps=1, scale=_scale(found.pictures)), "the plan")))
    parts += [_path(found), _search(found), _around(found)]
    return document(title, "".join(part for part in parts if part))


def _scale(pictures: NDArray[np.uint8]) -> int:
    return max(1, min(96, 920 // len(pictures)) // pictures.shape[1])


def _actions(found: Planned) -> str:
    """Numbers as lines, choices as the row of what is chosen."""
    shown = []
    for name, value in found.actions.items():
        if found.sets[name].kind == "choice":
            words = " ".join(str(k) for k in value.argmax(-1))
            shown.append(f"<p>{escape(found.said(name)[0])}, choices: <code>{words}</code></p>")
            continue
        lines = _lines(found.said(name, value.shape[1]), value)
        shown.append(both(lambda w, h, s=lines: line_chart(s, x_label="step", width=w, height=h)))  # type: ignore[misc]
    return section("The plan", *shown)


def _path(found: Planned) -> str:
    """What each step costs, and the numbers that the world predicts."""
    steps = [float(t) for t in range(1, 1 + len(found.costs))]
    lines = [Series("cost", steps, found.costs.tolist(), 0)]
    shown = [both(lambda w, h: line_chart(lines, x_label="step", y_label="cost of a step", width=w, height=h))]
    for name, value in found.numbers.items():
        several = _lines(found.said(name, value.shape[1]), value)
        shown.append(both(lambda w, h, s=several: line_chart(s, x_label="step", width=w, height=h)))  # type: ignore[misc]
    return section("Along the path", *shown)


def _lines(names: Sequence[str], values: Floats) -> list[Series]:
    """The first numbers along the steps, ``[T, n]``."""
    steps = [float(t) for t in range(len(values))]
    return [Series(name, steps, values[:, i].tolist(), i % 4) for i, name in enumerate(names[:LINES])]


def _search(found: Planned) -> str:
    if len(found.trace) < 2:
        return ""
    steps = [float(i) for i in range(1, 1 + len(found.trace))]
    line = [Series(found.name, steps, found.trace)]
    return section(
        "The search", both(lambda w, h: line_chart(line, x_label="iteration", y_label="best cost", width=w, height=h))
    )


def _around(found: Planned) -> str:
    """The landscape: cells, a line, or a row for each choice."""
    costs = found.landscape
    if costs is None:
        return ""
    name, own = next(iter(found.sets.items()))
    names = found.said(name, 1 if own.kind == "choice" else own.size)
    first = " and ".join(names[:2])
    told = f"What the plan would cost with another {escape(first)} at its first step, all else as planned."
    note = f'<p class="note">{told}</p>'
    if own.kind == "choice":
        rows = [(f"choice {k}", short(float(cost))) for k, cost in enumerate(costs)]
        return section("The landscape", note, pairs(rows))
    axis = np.linspace(-1, 1, GRID)
    if costs.ndim == 1:
        line = [Series("cost", axis.tolist(), costs.tolist())]
        chart = both(lambda w, h: line_chart(line, x_label=first, y_label="cost", width=w, height=h))
        return section("The landscape", note, chart)
    return section("The landscape", note, f"<figure>{cells(costs, found.actions[name][0, :2], names)}</figure>")


def cells(costs: Floats, at: Floats, names: Sequence[str], edge: int = 22) -> str:
    """Costs ``[n, n]`` over two numbers in [−1, 1] as squares, dark where they are low, a ring ``at`` the plan."""
    known = costs[np.isfinite(costs)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    size, pad = edge * len(costs), 44
    parts = []
    for i, row in enumerate(costs):
        for j, cost in enumerate(row):
            share = 1.0 if not np.isfinite(cost) else (float(cost) - low) / max(high - low, 1e-12)
            parts.append(
                f'<rect x="{pad + edge * j}" y="{edge * i}" width="{edge}" height="{edge}" fill="#2f6fde" '
                f'fill-opacity="{1 - 0.95 * share:.2f}"><title>{short(float(cost))}</title></rect>'
            )
    x, y = (pad + size * (float(v) + 1) / 2 for v in at)
    ring = f'<circle cx="{x:.1f}" cy="{y - pad:.1f}" r="7" fill="none" stroke="#d9662b" stroke-width="2.5"/>'
    words = [
        f'<text x="{pad + size * (v + 1) / 2}" y="{size + 18}" text-anchor="middle">{v:g}</text>'
        f'<text x="{pad - 8}" y="{size * (v + 1) / 2 + 4}" text-anchor="end">{v:g}</text>' for v in (-1, 0, 1)
    ]  # fmt: skip
    words.append(f'<text x="{pad + size / 2}" y="{size + 36}" text-anchor="middle">{escape(names[0])}</text>')
    turned = f'transform="rotate(-90 12 {size / 2})"'
    words.append(f'<text x="12" y="{size / 2}" text-anchor="middle" {turned}>{escape(names[1])}</text>')
    told = f"from {short(low)} (dark) to {short(high)}"
    wide, tall = size + pad + 8, size + 52
    head = f'<svg class="wf-chart" viewBox="0 -8 {wide} {tall}" width="{wide}" height="{tall}" role="img"'
    body = f"{''.join(parts)}{ring}{''.join(words)}"
    return f'{head} aria-label="cost {told}">{body}</svg><figcaption>{told}</figcaption>'
