"""The page of an agent's run: how it learnt, what it reached, what it dreams."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from worldformula.charts import Level, Series, line_chart, short, smoothed
from worldformula.display import grouped
from worldformula.envs.returns import Score
from worldformula.metrics.collapse import CODES
from worldformula.metrics.openloop import OpenLoop
from worldformula.report import jumps
from worldformula.report.codes import alarm, codes
from worldformula.report.curves import lines
from worldformula.report.evidence import PIXELS, Evidence
from worldformula.report.parts import (
    Measured,
    both,
    column,
    document,
    duration,
    foot,
    formulas,
    pairs,
    picture,
    section,
    settings,
    small,
)
from worldformula.report.video import DREAMING, LOOKING
from worldformula.report.words import words_part

_COUNTS = ("step", "updates", "episodes")
_AT = 15  # horizon whose ratio is printed


@dataclass(frozen=True)
class Run:
    """What a run folder says by itself.

    Attributes:
        name: of the folder.
        config: as in ``config.json``.
        metrics: the lines of ``metrics.jsonl``.
        seconds: spent on the run so far; None where the folder does not say.
    """

    name: str
    config: Mapping[str, Any]
    metrics: Measured
    seconds: float | None = None


def page(run: Run, evidence: Evidence) -> str:
    """The whole document."""
    body = "".join(
        [
            _learning(run, evidence),
            section("What was not measured", f"<p>{escape(evidence.left_out)}</p>") if evidence.left_out else "",
            _pictures(evidence),
            words_part(evidence.heard, evidence.videos),
            _numbers(evidence),
            jumps.drawn(evidence.jumps, evidence.videos.get("seen"), evidence.videos.get("foreseen")),
            horizon(evidence.open_loop, evidence.on),
            codes(run.metrics),
            formulas(evidence.formula, "The world model's loss"),
            _terms(run.metrics),
            settings(run.config),
        ]
    )
    return document(run.name, f"{_head(run, evidence)}{body}{foot(evidence.machine)}")


# ------------------------------------------------------------------------------------------------------------- headline


def _head(run: Run, evidence: Evidence) -> str:
    config = run.config
    env = config.get("env")
    place = env.get("id") if isinstance(env, Mapping) else env
    model = " ".join(str(config[key]) for key in ("model", "preset") if key in config)
    lead = " · ".join(str(part) for part in (model, place) if part)
    return (
        f'<header><p class="over">worldformula run</p><h1>{escape(run.name)}</h1>'
        f'<p class="lead">{escape(lead)}</p>{alarm(run.metrics, "step")}</header>'
        f'<div class="hero"><div>{_result(run, evidence)}</div>'
        f"{pairs(_facts(run, evidence))}</div>"
    )


def _facts(run: Run, evidence: Evidence) -> list[tuple[str, object]]:
    last = {key: value for line in run.metrics for key, value in line.items()}
    facts: list[tuple[str, object]] = []
    if "step" in last:
        facts.append(("environment steps", grouped(last["step"])))
    facts += [(name, grouped(last[name])) for name in ("episodes", "updates") if name in last]
    if run.seconds is not None:
        facts.append(("training time", duration(run.seconds)))
    device = evidence.machine.get("device") or run.config.get("device")
    facts += [
        (name, value) for name, value in (("device", device), ("seed", run.config.get("seed"))) if value is not None
    ]
    return facts


def _result(run: Run, evidence: Evidence) -> str:
    """The return that was reached, and where it lies between a random policy and the best known."""
    reached, what = evidence.reached, "mean return of {n} evaluation episodes that were not trained on"
    if reached is None:
        logged = (
            ("eval/return", "mean return of the last evaluation during training"),
            ("episode/return", "mean return of the latest training episodes"),
        )
        found = next(((key, text) for key, text in logged if any(key in line for line in run.metrics)), None)
        if found is None:
            return '<p class="what">No episode has ended yet.</p>'
        key, what = found
        last = next(line for line in reversed(run.metrics) if key in line)
        reached = Score(last[key], last.get(f"{key}_error", math.nan), 0)
    mean, error = rounded(reached.mean, reached.error)
    spread = f" <small>± {error}</small>" if error else ""
    number = f'<div class="big">{mean}{spread}</div><p class="what">{what.format(n=reached.n)}</p>'
    return number + _scale(reached, evidence.floor, evidence.best)


def _scale(reached: Score, floor: Score | None, best: Score | None) -> str:
    value = reached.mean
    marks = [("random policy", floor), ("best known", best)]
    known = [(label, score.mean) for label, score in marks if score is not None]
    low, high = min([value, *(m for _, m in known)]), max([value, *(m for _, m in known)])
    if not known or high <= low:
        return ""

    def at(v: float) -> float:
        return 100 * (v - low) / (high - low)

    parts = ['<div class="track"></div>']
    if floor is not None:
        left, right = sorted((at(floor.mean), at(value)))
        parts.append(f'<div class="way" style="left:{left:.1f}%;width:{right - left:.1f}%"></div>')
    for label, mean in known:
        side = "" if at(mean) < 20 else "end" if at(mean) > 80 else "mid"
        parts.append(
            f'<i style="left:{at(mean):.1f}%"></i><span class="{side}" style="left:{at(mean):.1f}%">{label}<br>'
            f"<b>{short(mean)}</b></span>"
        )
    parts.append(f'<i class="now" style="left:{at(value):.1f}%"></i>')
    share = ""
    if floor is not None and best is not None and best.mean > floor.mean:
        way = (value - floor.mean) / (best.mean - floor.mean)
        errors = [e for e in (reached.error, floor.error) if e > 0]  # of one episode it is not known
        share = f"<b>{_percent(way)}</b> of the way from a random policy to the best known return"
        if abs(value - floor.mean) < 2 * math.hypot(*errors):
            share = "No different from a random policy, within the errors"
        elif way < 0:
            share = "<b>Worse</b> than a random policy"
        share = f'<p class="what">{share}</p>'
    return f'<div class="scale">{"".join(parts)}</div>{share}'


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %".replace("-", "−")


def rounded(mean: float, error: float) -> tuple[str, str]:
    """A mean to the two leading digits of its standard error, and the error; no error without one.

    >>> rounded(812.3456, 12.34), rounded(1.23456, 0.0123), rounded(7.0, math.nan)
    (('812', '12'), ('1.235', '0.012'), ('7', ''))
    """
    if not (math.isfinite(error) and error > 0):
        return short(mean), ""
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{mean:.{digits}f}".replace("-", "−"), f"{error:.{digits}f}"


# ------------------------------------------------------------------------------------------------------------- sections


def _learning(run: Run, evidence: Evidence) -> str:
    steps, returns = column(run.metrics, "episode/return")
    tested, scores = column(run.metrics, "eval/return")
    errors = dict(zip(*column(run.metrics, "eval/return_error"), strict=True))
    if not steps and not tested:
        return ""
    window = max(1, len(returns) // 20)
    series = []
    if window > 1:
        series.append(Series("", steps, returns, faint=True))
    if steps:
        series.append(Series("training", steps, smoothed(returns, window)))
    if tested:
        series.append(Series("evaluation", tested, scores, 1, [errors.get(s, 0.0) for s in tested], dots=True))
    marks = (("random policy", evidence.floor, 3), ("best known", evidence.best, 2))
    levels = [Level(label, score.mean, colour) for label, score, colour in marks if score is not None]
    mean = f" The line is the mean of {window} log entries; the pale one is every entry." if window > 1 else ""
    dots = " Dots are evaluations with their standard error." if tested else ""
    return section(
        "Learning curve",
        f'<p class="note">Return of complete episodes against steps in the environment.{mean}{dots}</p>',
        both(
            lambda w, h: line_chart(
                series, levels=levels, x_label="environment steps", y_label="return", width=w, height=h
            )
        ),
    )


def _key(colour: tuple[int, int, int]) -> str:
    return f'<span class="key" style="background:rgb{colour}"></span>'


def _pictures(evidence: Evidence) -> str:
    videos = evidence.videos
    figures = []
    if "episode" in videos:
        caption = "One evaluation episode, played without exploration."
        figures.append(
            f"<figure>{picture(videos['episode'], 'video of an episode')}<figcaption>{caption}</figcaption></figure>"
        )
    if "dream" in videos:
        context = evidence.open_loop.context if evidence.open_loop else 0
        image = picture(videos["dream"], "videos of truth, dream and error")
        figures.append(
            f"<figure>{_rows('truth', 'dream', 'error', image=image)}<figcaption>{_key(LOOKING)}The world model sees "
            f"the first {context} frames; {_key(DREAMING)}then it dreams, given the true actions alone. Grey in the "
            "last row is no error. The sequences are from episodes of random actions that were not trained on."
            "</figcaption></figure>"
        )
    pair = f'<div class="pair">{"".join(figures)}</div>' if len(figures) == 2 else "".join(figures)
    if "strip" in videos:
        heads = "".join(f"<span>{'seen' if k == 0 else f'+{k}'}</span>" for k in evidence.strip_steps)
        image = picture(videos["strip"], "frames of truth and dream") + f'<div class="columns">{heads}</div>'
        caption = "The first sequence, still: frames by steps since the last one that the model saw."
        pair += f"<figure>{_rows('truth', 'dream', image=image)}<figcaption>{caption}</figcaption></figure>"
    pair += f'<p class="note">{escape(evidence.undreamt)}</p>' if evidence.undreamt else ""
    return section("What it does, and what it dreams", pair) if pair else ""


def _numbers(evidence: Evidence) -> str:
    """What a world that observes no pictures dreams."""
    if not evidence.curves or evidence.open_loop is None:
        return ""
    return section(
        "What it dreams",
        f'<p class="note">The numbers of one window that vary most: {escape(evidence.on)}. The world model sees the '
        f"first {evidence.open_loop.context} rows, then it dreams, given the true actions alone. The window is from an "
        "episode of random actions that was not trained on.</p>",
        lines(evidence.curves, evidence.open_loop.context),
    )


def _rows(*names: str, image: str) -> str:
    """A picture with the names of its rows to the left."""
    labels = "".join(f"<span>{name}</span>" for name in names)
    return f'<div class="dream"><div class="rows">{labels}</div>{image}</div>'


def horizon(found: OpenLoop | None, on: str = PIXELS, *, acted: bool = True) -> str:
    """The error of a dream against how far it is, beside that of repeating what was seen last; ``acted``: under the
    actions of the data.
    """
    if found is None:
        return ""
    k = min(_AT, found.horizon)
    horizons = list(range(1, found.horizon + 1))
    error = found.model_error if all(map(math.isfinite, found.model_error)) else None
    series = [
        Series("persistence", horizons, found.persistence, 3),
        Series("world model", horizons, found.model, 0, error),
    ]
    x, y = "steps since the last seen frame", "mean squared error"
    under = " with the true actions" if acted else ""
    return section(
        "Prediction error against horizon",
        f'<p class="note">Mean squared error on {escape(on)}, open loop{under} after '
        f"{found.context} frames of context, over {found.sequences} sequences; the band is the standard error. "
        f"Persistence repeats the last frame that was seen. <b>At {k} steps the model makes {found.ratio(k):.2g} "
        "times the error of persistence.</b></p>",
        both(lambda w, h: line_chart(series, x_label=x, y_label=y, width=w, height=h)),
    )


def _terms(metrics: Measured) -> str:
    names = list(dict.fromkeys(key for line in metrics for key in line))
    names = [n for n in names if n not in _COUNTS and not n.startswith(("episode/", "eval/", CODES))]
    losses = [n for n in names if n.split("/")[0] == "loss"]
    others = [n for n in names if n not in losses]
    parts = [small(metrics, losses)] if losses else []
    if others:
        parts.append(("<h3>Other measurements</h3>" if losses else "") + small(metrics, others))
    return section("Terms of the loss" if losses else "Measurements", *parts) if parts else ""
