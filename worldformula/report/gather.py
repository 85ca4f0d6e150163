"""Measuring an agent for its report: evaluation episodes, floor, reference, and dreams of episodes it never saw."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from worldformula.envs import Envs, registry
from worldformula.envs.returns import Score
from worldformula.errors import ConfigError
from worldformula.metrics.openloop import open_loop_error
from worldformula.report import jumps
from worldformula.report.curves import varying
from worldformula.report.evidence import Evidence, machine, written
from worldformula.report.video import dream_video, filmstrip, webp
from worldformula.report.words import heard, titled
from worldformula.report.yardsticks import REPORT, yardsticks
from worldformula.run.config import EnvConfig
from worldformula.run.contract import Agent, Batch
from worldformula.run.folder import RunFolder
from worldformula.run.play import LONGEST, Randomly, executed, patience, play, sight, unended
from worldformula.training import settings
from worldformula.training.devices import describe
from worldformula.training.seeding import derived, forked

LEFT_OUT = (
    "This run acted on a robot that is not simulated, and nobody acts on it for a page: there are no evaluation "
    "episodes of the page's own, no return of a random policy, and no dreams. Where env.max_steps is set, worldformula "
    "eval plays episodes on it."
)
CONTEXT, HORIZON = 5, 30
SHORT = (
    f"No dream is shown: a world model sees {CONTEXT} rows before it dreams, and the longest episode of random actions "
    "has {rows}."
)
SEQUENCES, SHOWN = 48, 6
STRIP = (0, 1, 5, 10, 15, 20, 25, 30)
VIDEO_PIXELS = 288
OPENING = 300  # rows that are kept of an environment without ends

Columns = dict[str, NDArray[Any]]


@runtime_checkable
class Dreams(Protocol):
    """An agent that can show what its world model predicts."""

    def open_loop(self, batch: Batch, context: int) -> Mapping[str, NDArray[Any]]:
        """``truth`` and ``dream``, pictures uint8 ``[B, T, H, W, C]``: filtered for ``context`` rows, then imagined
        with the actions of the batch. Where none are observed, numbers ``[B, T, D]``, and their ``names`` ``[D]``.
        """


def gather(run: str | Path, agent: Agent, *, episodes: int = 10, device: str = "") -> Evidence:
    """Plays evaluation episodes and measures everything that a report shows. The agent is not changed.

    With a robot that is not simulated nobody acts: what needs it is left out, and the page says so.

    Args:
        run: the run folder; its configuration says which environment and which seed.
        agent: the trained agent. With ``world.loss`` the report shows the formula, with ``open_loop`` the dreams.
        episodes: evaluation episodes, all different from those of the training and of its evaluations.
        device: printed on the page; by default where the agent's weights are.

    Raises:
        RunFolderError: there is no run.
        ConfigError: no episodes asked for.
    """
    if episodes < 1:
        raise ConfigError(f"expected at least one evaluation episode, got {episodes}")
    config = RunFolder(run).config()
    env = settings.from_dict(EnvConfig(""), config["env"])
    seed = derived(int(config["seed"]), REPORT)
    loss = getattr(getattr(agent, "world", None), "loss", None)
    formula, where = None if loss is None else written(loss), machine(device or _device(agent))
    if real(env):
        return Evidence(formula=formula, left_out=LEFT_OUT, machine=where)
    with forked(seed):
        events = list[list[str]]()
        played, pictures = recorded(agent, env, episodes, seed, events)
        videos = {"episode": webp(pictures, fps=15, scale=_scale(pictures))} if pictures is not None else {}
        # Under random actions: a policy that holds an unstable balance makes every open-loop prediction fail.
        wandering, _ = recorded(None, env, episodes, seed + 1)
        dreamt = _dream(agent, wandering)
        dreamt = dataclasses.replace(dreamt, curves=titled(dreamt.curves, agent, env, seed))
        said, strips = heard(agent, env, seed)
        jumped = jumps.timeline(agent, played[0], events, pictures, drawing(env))
    levels = yardsticks(env, int(config["seed"]), RunFolder(run))
    return dataclasses.replace(
        dreamt,
        formula=formula,
        reached=Score.of(float(e["reward"].sum()) for e in played) if played[0]["is_last"][-1] else None,
        floor=levels.floor,
        best=levels.best,
        videos={**videos, **dreamt.videos, **strips, **({} if jumped is None else stills(jumped[1]))},
        heard=said,
        jumps=None if jumped is None else jumped[0],
        machine=where,
    )


def real(env: EnvConfig) -> bool:
    """Whether it is a robot that is not simulated. It is made for that, and nobody acts on it."""
    envs = Envs(env.id, 1, **env.options())
    envs.close()
    return envs.real


def recorded(
    agent: Agent | None, env: EnvConfig, episodes: int, seed: int, events: list[list[str]] | None = None
) -> tuple[list[Columns], NDArray[np.uint8] | None]:
    """Complete episodes, a stream each, and the pictures ``[T, H, W, 3]`` of the first one where there are any.

    An environment that cannot be made twice plays them one after another. Of one in which no episode ends within
    `patience` actions, the first rows of every stream.

    Args:
        agent: acts by its policy's mode; None acts uniformly at random.
        env: the environments.
        episodes: how many.
        seed: of the environments and of random actions.
        events: of the first one, gets the names of what happened on arriving at each row, ``info["event"]``.

    Returns:
        Per episode the columns ``[T, …]`` of its rows, from ``is_first`` to ``is_last``, with their actions.

    Raises:
        ConfigError: some episodes end and one does not; the environment is a robot that is not simulated.
    """
    num = 1 if env.single else episodes
    envs = Envs(env.id, num, seed=seed, recover=True, **env.options())
    if envs.real:
        envs.close()
        raise ConfigError(f"{env.id} is a robot that is not simulated: nobody acts on it to record episodes")
    table: list[Columns] = []
    pictures: list[NDArray[np.uint8]] = []
    ended, rows = np.zeros(num, int), envs.reset(0)
    turns = play(envs, Randomly(envs.actions, seed) if agent is None else agent, rows, explore=False)
    while (ended < episodes // num).any() and (ended.any() or len(table) < patience(env)):
        if len(table) > LONGEST * (episodes // num):
            raise ConfigError(unended(env.id))
        if not ended[0] and (picture := sight(rows, envs)) is not None:
            pictures.append(picture)
        if not ended[0] and events is not None:
            events.append([str(name) for name in envs.infos[0].get("event", ())])
        turn = next(turns)
        table.append(executed(envs, turn))
        ended += turn.rows["is_last"]
        rows = turn.after
    envs.close()
    if not ended.any():
        del table[OPENING:], pictures[OPENING:], (events or [])[OPENING:]
    found = [
        {key: np.stack([r[key][i] for r in table[begin:stop]]) for key in table[0]}
        for i in range(num)
        for begin, stop in _episodes(table, i)[: episodes // num]
    ]
    return found, np.stack(pictures) if pictures else None


def _episodes(table: list[Columns], stream: int) -> list[tuple[int, int]]:
    """First row, and behind the last one, of the episodes of a stream that end; of all rows where none does."""
    stops = [t + 1 for t, row in enumerate(table) if row["is_last"][stream]]
    begins = [max(t for t in range(stop) if table[t]["is_first"][stream]) for stop in stops]
    return list(zip(begins, stops, strict=True)) or [(0, len(table))]


def drawing(env: EnvConfig) -> jumps.Draws | None:
    """What an environment of this package draws of what it observes, where it can draw many at once."""
    if registry.find(env.id) is None:
        return None
    envs = Envs(env.id, 1, **env.options())
    found: jumps.Draws | None = getattr(envs.bare[0], "batch_render", None)
    envs.close()
    return found


def stills(pictures: Mapping[str, NDArray[np.uint8]]) -> dict[str, bytes]:
    """Pictures ``[N, h, w, C]`` by name, side by side."""
    return {
        name: webp(jumps.strip(frames), scale=max(1, round(80 / frames.shape[1]))) for name, frames in pictures.items()
    }


def _dream(agent: Agent, recorded: list[Columns]) -> Evidence:
    """Error against horizon and what shows it, from windows that lie within one episode each."""
    longest = max(len(e["reward"]) for e in recorded)
    length = min(CONTEXT + HORIZON, longest)
    if not isinstance(agent, Dreams):
        return Evidence()
    if length <= CONTEXT:
        return Evidence(undreamt=SHORT.format(rows=longest))
    try:
        found = agent.open_loop(windows(recorded, length, SEQUENCES), CONTEXT)
    except ConfigError:  # its world predicts nothing that it observes
        return Evidence()
    truth, dream = np.asarray(found["truth"]), np.asarray(found["dream"])
    measured = open_loop_error(truth, dream, CONTEXT)
    if truth.dtype != np.uint8:
        names = [str(name) for name in found["names"]]
        one = f"the {names[0]} as the world predicts it"
        on = one if len(names) == 1 else f"{len(names)} numbers as the world predicts them"
        return Evidence(open_loop=measured, on=on, curves=varying(truth[0], dream[0], names))
    chosen = np.unique(np.linspace(0, len(truth) - 1, SHOWN).round().astype(int))
    clip = dream_video(truth[chosen], dream[chosen], CONTEXT)
    steps = tuple(k for k in STRIP if CONTEXT - 1 + k < length)
    strip = filmstrip(truth[chosen[0]], dream[chosen[0]], [CONTEXT - 1 + k for k in steps])
    scale = max(1, round(96 / truth.shape[3]))
    videos = {"dream": webp(clip, fps=8, scale=scale), "strip": webp(strip, scale=scale)}
    return Evidence(open_loop=measured, videos=videos, strip_steps=steps)


def windows(recorded: list[Columns], length: int, most: int) -> Columns:
    """Up to ``most`` sequences ``[B, length, …]`` that overlap nowhere, spread evenly over the episodes."""
    starts = [(e, s) for e, c in enumerate(recorded) for s in range(0, len(c["reward"]) - length + 1, length)]
    chosen = np.unique(np.linspace(0, len(starts) - 1, min(most, len(starts))).round().astype(int))
    cut = [{k: c[starts[i][1] : starts[i][1] + length] for k, c in recorded[starts[i][0]].items()} for i in chosen]
    return {key: np.stack([c[key] for c in cut]) for key in cut[0]}


def _device(agent: Agent) -> str:
    weights = agent.parameters() if isinstance(agent, torch.nn.Module) else ()
    return next((describe(p.device) for p in weights), "")


def _scale(pictures: NDArray[np.uint8]) -> int:
    return max(1, round(VIDEO_PIXELS / max(pictures.shape[1:3])))
