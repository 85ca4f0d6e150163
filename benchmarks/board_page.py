"""docs/board.md, drawn from the rows of `benchmarks.agents`: a table and two pictures for each task."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.board import REACHED, Book, Budget, Row, Task, at, reached, score_of
from benchmarks.variants import GROUPS, RESULTS
from worldformula.charts import Level, Series, line_chart, short
from worldformula.training.history import Chart

PAGE = Path(__file__).parents[1] / "docs" / "board.md"
PICTURES = Path("images") / "board"  # from the folder of the page
NONE = "–"
AXES = (("steps", "environment steps", 0, 1.0), ("minutes", "CPU minutes of acting and learning", 1, 60.0))

DECODERS = {"1M": "targets_step", "12M": "targets_step_12m"}
ABLATIONS = {
    "representations": ("What a state has to tell", "The decoder's term replaced by another one, or by none."),
    "switches": ("What makes data go further", "One switch each."),
}


def write(book: Book, tasks: Sequence[Task], page: Path = PAGE) -> None:
    """The page and its pictures."""
    page.parent.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        if rows := book.of(task.name):
            for name, label, column, unit in AXES:
                place = page.parent / picture(task, name)
                place.parent.mkdir(parents=True, exist_ok=True)
                drawn(task, book.floors[task.name]["mean"], rows, label, column, unit).save(place)
    page.write_text(text(book, tasks), encoding="utf-8")


def picture(task: Task, axis: str) -> Path:
    """Where the curves of a task lie, from the folder of the page."""
    return PICTURES / f"{task.name}_{axis}.svg"


def text(book: Book, tasks: Sequence[Task]) -> str:
    """The page in Markdown."""
    lines = [
        "# The board",
        "",
        "Who learns what in how many minutes: agents of this library (`tiny`) and of stable-baselines3 (its defaults)",
        "on the same environments, on one thread. A score is the mean return of the same episodes at every look, by",
        "modes and means, and every seed is shown. Each run is compared twice: after equal environment steps, and",
        "after equal CPU seconds of acting and learning, where looks do not count. A dash: no run went so far.",
        "",
        "`python -m benchmarks.agents` makes the runs that are missing, `--write` draws this page; every point of the",
        "curves is in [agents.json](../benchmarks/results/agents.json).",
    ]
    for task in tasks:
        if rows := book.of(task.name):
            lines += ["", *section(task, book.floors[task.name], rows)]
    for group in GROUPS:
        if found := _held(group):
            lines += ["", *ablation(group, found)]
    if found := _held("agents_step"):
        lines += ["", *costs(found)]
    if sizes := {size: found for size, name in DECODERS.items() if (found := _held(name))}:
        lines += ["", *decoders(sizes)]
    missing = [f"- {task.title} (`{task.name}`)" for task in tasks if not book.of(task.name)]
    groups = [group for group in GROUPS if not _held(group)]
    missing += [f"- {ABLATIONS[group][0]} (`python -m benchmarks.variants {group}`)" for group in groups]
    lines += ["", "## Not run yet", "", *missing] if missing else []
    return "\n".join(lines) + "\n"


def section(task: Task, floor: Row, rows: Sequence[Row]) -> list[str]:
    """The part of one task."""
    agents = list(dict.fromkeys(row["agent"] for row in rows))
    score = score_of(task, floor["mean"])
    repeat = f", action repeat {task.env.action_repeat}" if task.env.action_repeat > 1 else ""
    printed = "; ".join(map(str, task.published)) or "none at this budget"
    target = "" if score is None else f" | to {short(score)}: steps, CPU minutes"
    by_steps, by_time = Budget(steps=task.steps), Budget(minutes=task.minutes)
    random = f"{_number(floor['mean'])} ± {floor['error']:.2g}, {floor['n']} episodes"
    lines = [
        f"## {task.title}", "",
        f"`{task.env.id}`{repeat}; {task.episodes} episodes a look. Floor (random actions): {random}.",
        f"Published: {printed}.",
        *([task.note] if task.note else []), "",
        f"| agent | seeds | after {by_steps} | CPU minutes | after {by_time} | steps{target} |",
        "|" + "---|" * (6 if score is None else 7),
    ]  # fmt: skip
    lines += [_agent(name, [row for row in rows if row["agent"] == name], by_steps, by_time, score) for name in agents]
    if score is not None:
        lines += ["", f"{short(score)} is {REACHED:.0%} of the way from the floor to {_number(task.ceiling)}."]
    lines += ["", asked(task, floor["mean"], rows)] if task.asked else []
    farther = beyond(rows, task.steps)
    lines += ["", *farther] if farther else []
    lines += ["", *(f"![Return over {label}]({picture(task, name).as_posix()})" for name, label, _, _ in AXES), ""]
    return [*lines, _measured(rows)]


def asked(task: Task, floor: float, rows: Sequence[Row]) -> str:
    """Which seeds have as many times the floor as the task asks for."""
    wanted, told = task.asked * floor, []
    for name in task.by:
        ends = {row["seed"]: at(row["curve"], Budget(steps=task.steps)) for row in rows if row["agent"] == name}
        scores = {seed: point[2] for seed, point in ends.items() if point is not None}
        missed = [f"seed {seed} has {_number(round(score))}" for seed, score in scores.items() if score < wanted]
        short_of = f" ({', '.join(missed)})" if missed else ""
        told.append(f"`{name}` has it on {len(scores) - len(missed)} of {len(scores)} seeds{short_of}")
    return f"{task.asked:g} times the floor, {_number(wanted)}, was asked after these steps: {'; '.join(told)}."


def beyond(rows: Sequence[Row], steps: int) -> list[str]:
    """Where runs that went on behind the budget of steps ended."""
    ends = [(row["agent"], row["seed"], row["curve"][-1]) for row in rows if row["curve"][-1][0] > steps]
    return [
        f"`{agent}`, seed {seed}, went on: {_value(end)} after {Budget(steps=int(end[0]))}, "
        f"{_minutes(end)} CPU minutes."
        for agent, seed, end in ends
    ]


def ablation(group: str, found: Row) -> list[str]:
    """The rows of `benchmarks.variants`: the demo's agent with one setting changed."""
    title, says = ABLATIONS[group]
    lines = [
        f"## {title}", "",
        f"{says} DreamerV3 `tiny` on the pendulum from 32 × 32 pixels, {found['steps']:,} environment steps, half of",
        "the demo's; the return of 50 episodes that training never saw, of every seed. The interval is that of the",
        f"mean over seeds, 95 %. Printed by `python -m benchmarks.variants {group}`.", "",
        "| what is changed | seeds | return | mean (95 %) | CPU minutes |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in found["summary"]:
        ends = row["interval"]
        between = f" ({_number(ends[0])} to {_number(ends[1])})" if ends else ""
        seeds, returns = ", ".join(map(str, row["seeds"])), ", ".join(_number(round(r)) for r in row["returns"])
        minutes = f"{row['cpu_seconds'] / 60:.1f}"
        lines.append(f"| {row['name']} | {seeds} | {returns} | {_number(row['mean'])}{between} | {minutes} |")
    return [*lines, "", _once(found)]


def costs(found: Row) -> list[str]:
    """The rows of `benchmarks.agents_step`."""
    lines = [
        "## What an update and a decision cost", "",
        "Presets `tiny` on the pendulum, from 32 × 32 pixels, `tdmpc2` from its numbers; processor time of one thread.",
        "Beside an update stand the matrix products and convolutions that it needs, alone, in the same run. PlaNet and",
        "TD-MPC2 decide by a search. Printed by `python -m benchmarks.agents_step`.", "",
        "| agent | weights | rows an update | update, ms | times its products | decision, ms | decisions a second |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, row in found["agents"].items():
        update, decision, rows = row["update"], row["decision"], " × ".join(map(str, row["rows"]))
        lines.append(
            f"| `{name}` | {row['weights']:,} | {rows} | {_number(update['ms'])} | {update['ratio']:.2f} "
            f"| {decision['ms']:.2f} | {_number(decision['per_second'])} |"
        )
    return [*lines, "", _once(found)]


def decoders(sizes: Mapping[str, Row]) -> list[str]:
    """The rows of `benchmarks.targets_step`, of each size: what is left of the time of a reconstruction."""
    found = [{key.split(",")[0]: row for key, row in own["rows"].items()} for own in sizes.values()]
    least = ", ".join(f"{own['update']['none']['ratio']:.2f} ({size})" for size, own in zip(sizes, found, strict=True))
    titles = [f"{what}, {size}" for size in sizes for what in ("world", "update")]
    lines = [
        "## What is saved where nothing is decoded", "",
        "DreamerV3 from 64 × 64 pixels, 8 sequences of 32 rows, dreams from all of their states: processor time of one",
        "thread over that with a reconstruction, of the world's loss and its gradients, and of a whole update.",
        f"An update of .6 was aimed at. With nothing at all in the decoder's place it is {least},",
        "so on this machine no term can reach that. Printed by `python -m benchmarks.targets_step`.", "",
        f"| what a state has to tell | {' | '.join(titles)} |", f"|{'---|' * (len(titles) + 1)}",
    ]  # fmt: skip
    for name in dict.fromkeys(name for own in found for name in own["update"]):
        cells = [f"{own[what][name]['ratio']:.2f}" if name in own[what] else NONE for own in found for what in own]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, "", _once(next(iter(sizes.values())))]


def _held(name: str) -> Row | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _once(found: Row) -> str:
    where = found["machine"]
    return f"Measured {found['date'][:10]} on {where['processor']}, {where['cores']} cores, one thread."


def _agent(name: str, rows: Sequence[Row], by_steps: Budget, by_time: Budget, score: float | None) -> str:
    """A row of the table: of every seed the run that went farthest."""
    best = {row["seed"]: row for row in rows}  # sorted by steps
    curves = [row["curve"] for row in best.values()]

    def cells(budget: Budget, shown: Callable[[Sequence[float]], str]) -> str:
        found = [at(curve, budget) for curve in curves]
        return ", ".join(NONE if point is None else shown(point) for point in found)

    found = [
        f"`{name}`", ", ".join(map(str, best)),
        cells(by_steps, _value), cells(by_steps, _minutes), cells(by_time, _value), cells(by_time, _steps),
    ]  # fmt: skip
    if score is not None:
        first = [reached(curve, score) for curve in curves]
        found.append("; ".join("not reached" if p is None else f"{_steps(p)}, {_minutes(p)}" for p in first))
    return f"| {' | '.join(found)} |"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4g}".replace("-", "−")


def _value(point: Sequence[float]) -> str:
    return _number(point[2] if abs(point[2]) < 10 else round(point[2]))


def _minutes(point: Sequence[float]) -> str:
    return f"{point[1] / 60:.1f}"


def _steps(point: Sequence[float]) -> str:
    return f"{point[0]:,.0f}".replace(",", " ")


def _measured(rows: Sequence[Row]) -> str:
    """When, where and with what."""
    dates = sorted({row["date"][:10] for row in rows})
    commits = ", ".join(dict.fromkeys(f"`{row['commit']}`" for row in rows))
    machines = ", ".join(dict.fromkeys(f"{r['machine']['processor']}, {r['machine']['cores']} cores" for r in rows))
    peers = ", ".join(dict.fromkeys(f"{row['agent']} {row['version']}" for row in rows if "version" in row))
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"Measured {days} at {commits} on {machines}, one thread{f'; {peers}' if peers else ''}."


def drawn(task: Task, floor: float, rows: Sequence[Row], label: str, column: int, unit: float) -> Chart:
    """The curves of a task, every seed a line, a colour for each agent."""
    colours = {name: i for i, name in enumerate(dict.fromkeys(row["agent"] for row in rows))}
    named, series = set[str](), []
    for row in rows:
        x, y = [point[column] / unit for point in row["curve"]], [point[2] for point in row["curve"]]
        series.append(Series("" if row["agent"] in named else row["agent"], x, y, colours[row["agent"]] % 4))
        named.add(row["agent"])
    levels = [Level("random", floor)] + ([] if task.ceiling is None else [Level("ceiling", task.ceiling)])
    y_label = f"return, {task.name}"
    return Chart(line_chart(series, levels=levels, x_label=label, y_label=y_label, width=720, height=300))
