"""Alarms of a run: latents that have collapsed are told of where a run evaluates, in the log and as a line of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from worldformula.data.replay import Replay
from worldformula.metrics.collapse import alarms
from worldformula.run.contract import Watched

GLIMPSE = 64  # sequences of a replay on which latents are watched


class Alarm:
    """Says a line once a latent has collapsed, and once it has recovered; ``say`` is called with each."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._before: frozenset[str] = frozenset()

    def of(self, row: Mapping[str, float], where: str, ended: bool) -> None:
        """Looks at numbers of the log, ``codes/z/rank``; ``where`` is such as "update 100", ``ended`` the last one."""
        now = alarms(row, ended=ended)
        for name in sorted(now.keys() - self._before):
            self.say(f"alarm at {where}: {now[name]}")
        for name in sorted(self._before - now.keys()):
            self.say(f"at {where} {name} has recovered")
        self._before = frozenset(now)

    def watched(self, agent: object, replay: Replay, step: int, ended: bool) -> Mapping[str, float]:
        """What an agent tells of its latents on sequences of its replay, from which nothing is drawn."""
        if not isinstance(agent, Watched) or not (seen := replay.glimpse(GLIMPSE, agent.config.length)):
            return {}
        found = agent.watched(seen)
        self.of(found, f"step {step:,}", ended)
        return found
