"""What a return must be compared with: random play and the best controller that is known.

Both are measured when a report or an evaluation needs them, within a bounded number of actions, once per run folder.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from worldformula.envs import registry
from worldformula.envs.returns import Score, random_policy_return, reference_return
from worldformula.run.config import EnvConfig
from worldformula.run.folder import RunFolder, writing
from worldformula.training.seeding import derived
from worldformula.training.settings import to_dict

REPORT = 2  # what `derived` seeds are for; 1 is the evaluation during training
FILE = "yardsticks.json"


def floor(env: EnvConfig, seed: int) -> Score | None:
    """Return of a random policy in the run's environment; None where none is asked for, or no episode ends in time."""
    score = random_policy_return(env.id, env.floor_episodes, seed, **env.options()) if env.floor_episodes else None
    return score if score is not None and score.n else None


def reference(env: EnvConfig, seed: int, episodes: int = 20) -> Score | None:
    """Return of the environment's own controller; None where it has none, or where the run cuts episodes short."""
    if registry.find(env.id) is None or env.max_steps is not None or env.args or env.wrap:
        return None
    return reference_return(env.id, episodes, seed)


@dataclass(frozen=True)
class Yardsticks:
    """What a return must be compared with."""

    floor: Score | None
    best: Score | None

    def __str__(self) -> str:
        floor = "not known" if self.floor is None else f"{self.floor} (random policy)"
        best = "not known" if self.best is None else f"{self.best} (controller that sees the state)"
        return f"return: floor {floor}; best known {best}"


def measured(env: EnvConfig, seed: int, folder: RunFolder) -> Yardsticks | None:
    """What was measured before for a run, and is kept in its folder."""
    try:
        kept = json.loads((folder.path / FILE).read_text(encoding="utf-8"))
        if kept["asked"] == _asked(env, seed):
            return Yardsticks(*(None if kept[k] is None else Score(**kept[k]) for k in ("floor", "best")))
    except (OSError, ValueError, KeyError, TypeError):  # never measured, or no file of ours: measured anew when needed
        return None
    return None


def yardsticks(env: EnvConfig, seed: int, folder: RunFolder | None = None) -> Yardsticks:
    """Floor and best known return of a run, measured once and kept in its folder."""
    if folder is not None and (kept := measured(env, seed, folder)) is not None:
        return kept
    found = Yardsticks(floor(env, derived(seed, REPORT)), reference(env, derived(seed, REPORT)))
    if folder is not None and folder.path.is_dir():
        text = json.dumps({"asked": _asked(env, seed), **asdict(found)}, indent=1)
        with writing(folder.path):
            (folder.path / FILE).write_text(text + "\n", encoding="utf-8")
    return found


def _asked(env: EnvConfig, seed: int) -> dict[str, Any]:
    return {"env": to_dict(env), "seed": seed}
