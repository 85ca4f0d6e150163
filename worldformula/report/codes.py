"""The latents of a joint-embedding world on a page: what collapse would show in, and an alarm where it does."""

from __future__ import annotations

from html import escape

from worldformula.charts import Level, Series, line_chart
from worldformula.display import grouped
from worldformula.metrics.collapse import CODES, DEAD, LOW, READS, alarms
from worldformula.report.parts import Measured, column, section

SHOWN = {
    "rank": ("RankMe / D", LOW),
    "median": ("deviation, the median", DEAD),
    "least": ("deviation, the least", None),
    "copy": ("error over that of a copy", 1.0),
    "straightness": ("straightness", None),
    "lidar": ("LiDAR / D", None),
}
"""What is drawn of a latent: its title, and the value at which an alarm begins."""


def alarm(metrics: Measured, unit: str) -> str:
    """A paragraph for the head of the page where a latent has collapsed at the last evaluation; else nothing."""
    told = [line for line in metrics if any(key.startswith(CODES) for key in line)]
    found = alarms(told[-1]) if told else {}
    said = []
    for name, why in found.items():
        steps = [line["step"] for line in told]
        since = len(told) - 1
        while since and name in alarms(told[since - 1], ended=False):
            since -= 1
        said.append(f"{why} (since {unit} {grouped(steps[since])})")
    lines = "<br>".join(escape(line) for line in said)
    return f'<p class="alarm"><b>Alarm</b> {lines}</p>' if said else ""


def codes(metrics: Measured) -> str:
    """Curves of every latent that nothing decodes."""
    names = list(dict.fromkeys(key for line in metrics for key in line if key.startswith(CODES)))
    charts = []
    for latent in dict.fromkeys(key.removeprefix(CODES).rpartition("/")[0] for key in names):
        read = {key.rpartition("/")[2] for key in names if key.startswith(f"{CODES}{latent}/{READS}")}
        labels = {what: (f"R² of {what.removeprefix(READS)}, read by a linear map", None) for what in sorted(read)}
        for what, (title, limit) in {**SHOWN, **labels}.items():
            steps, values = column(metrics, f"{CODES}{latent}/{what}")
            if steps:
                levels = [] if limit is None else [Level("alarm", limit)]
                series = [Series("", steps, values, dots=True)]
                own = f"{latent}: {title}"
                charts.append(line_chart(series, title=own, width=300, height=170, levels=levels))
    if not charts:
        return ""
    note = (
        "Nothing decodes these latents, so that a constant would foretell itself best. RankMe counts the directions in "
        f"which they differ; below {LOW} D, or where half of their numbers have a deviation below {DEAD}, they have "
        "collapsed. At the end a predictor whose error is that of a copy of where it began is dead. LiDAR is RankMe of "
        "what differs between windows; straightness is the cosine between one step and the next. Latents may differ "
        "in everything but what matters: of labels that a run stores (env.labels) R² says what a linear map reads."
    )
    return section(
        "Latents that nothing decodes", f'<p class="note">{note}</p>', f'<div class="many">{"".join(charts)}</div>'
    )
