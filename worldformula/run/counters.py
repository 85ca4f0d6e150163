"""How far a run in environments is, and what it reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from worldformula.envs import Episode
from worldformula.run.evaluate import Evaluation


@dataclass
class Counters:
    """How far a run is. All of it is in every checkpoint."""

    steps: int = 0
    """Environment steps."""
    updates: int = 0
    episodes: int = 0
    failures: int = 0
    """Times that an environment failed and was made anew."""
    cut: int = 0
    """Episodes that did not come out the same when the run went on."""
    debt: float = 0.0
    """Updates that the train ratio still owes, below 1 after each turn."""
    last_return: float | None = None
    mean_return: float | None = None
    """Moving average over episodes."""
    evaluated: int = -1
    """Step of the latest evaluation."""
    best: float | None = None
    """Highest mean return of the evaluations on the way."""

    def ended(self, score: float) -> None:
        """Counts an episode."""
        self.episodes += 1
        self.last_return = score
        self.mean_return = score if self.mean_return is None else 0.9 * self.mean_return + 0.1 * score

    def better(self, reached: float) -> bool:
        """Notes the mean return of an evaluation; whether none before reached as much."""
        if self.best is not None and reached <= self.best:
            return False
        self.best = reached
        return True


@dataclass(frozen=True)
class Result:
    """What a run reached."""

    folder: Path
    counters: Counters
    evaluation: Evaluation | None
    seconds: float


def means(episodes: Sequence[Episode]) -> dict[str, float]:
    """Mean return, length and logged numbers of finished episodes, by the name of their metric."""
    if not episodes:
        return {}
    found = {"episode/return": fmean(e.score for e in episodes), "episode/length": fmean(e.length for e in episodes)}
    for key in dict.fromkeys(key for episode in episodes for key in episode.info):
        found[f"episode/{key}"] = fmean(e.info[key] for e in episodes if key in e.info)
    return found
