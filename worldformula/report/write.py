"""``report.html`` of a run folder."""

from __future__ import annotations

import json
from pathlib import Path

from worldformula.report.evidence import Evidence, load
from worldformula.report.page import Run, page
from worldformula.report.video import stills
from worldformula.run.contract import Agent
from worldformula.run.folder import RunFolder, read_metrics, writing


def write(run: str | Path, agent: Agent | None = None, *, episodes: int = 10, device: str = "") -> Path:
    """Writes the page of a run; returns its path.

    With ``agent``, everything is measured anew (evaluation episodes, floor, dreams) and kept in ``report/`` and
    ``videos/`` of the run folder; without, the page shows what was measured last, and always the log.

    Args:
        run: the run folder.
        agent: the trained agent, as its checkpoint restores it.
        episodes: evaluation episodes to play.
        device: printed on the page; by default where the agent's weights are.

    Raises:
        RunFolderError: there is no run, it is damaged, or the page cannot be written.
    """
    folder = RunFolder(run)
    config = folder.config()
    if agent is not None:
        from worldformula.report.gather import gather

        evidence = gather(folder.path, agent, episodes=episodes, device=device)
        evidence.save(folder.path)
        stills(folder, {"strip": evidence.videos["strip"]} if "strip" in evidence.videos else {})
    else:
        evidence = load(folder.path) or Evidence()
    metrics = read_metrics(folder.metrics_file) if folder.metrics_file.is_file() else []
    shown = page(Run(folder.path.resolve().name, config, metrics, seconds(folder)), evidence)
    with writing(folder.path):
        draft = folder.report.with_suffix(".draft")
        draft.write_text(shown, encoding="utf-8")
        draft.replace(folder.report)
    return folder.report


def seconds(folder: RunFolder) -> float | None:
    """Time spent on a run until its last log line, over all its resumptions; None where it was not recorded."""
    if not folder.timing_file.is_file():
        return None
    total = last = 0.0
    for line in folder.timing_file.read_text(encoding="utf-8").splitlines():
        try:
            now = float(json.loads(line)["seconds"])
        except (ValueError, TypeError, KeyError):  # a line that a kill cut short
            continue
        total += now - last if now >= last else now  # the clock of a resumed run starts at 0
        last = now
    return total
