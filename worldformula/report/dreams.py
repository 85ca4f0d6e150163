"""What a world dreams on windows that it did not learn from, beside the truth, and its error against horizon."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldformula.errors import ConfigError
from worldformula.formula import Factor
from worldformula.metrics.openloop import OpenLoop, open_loop_error
from worldformula.model.through_time import ThroughTime
from worldformula.report.curves import lines, varying
from worldformula.report.page import horizon
from worldformula.report.parts import picture, section
from worldformula.report.video import dream_video, filmstrip, webp
from worldformula.wording import numbered

CONTEXT, SEQUENCES, SHOWN = 5, 48, 6
FAR = 15  # steps ahead that a result speaks of, where windows are that long
STRIP = (0, 1, 2, 5, 10, 15, 20, 30, 45)
EDGE = 96  # pixels of one picture on the page, about


@dataclass(frozen=True)
class Dreams:
    """Truth and dream of one observed variable, ``[B, T, …]``; the first ``context`` rows were seen.

    Attributes:
        truth: floats; in [0, 1] where they are pictures.
        dream: the same shape: what the heads make of the filtered states, then of the imagined ones.
        context: rows that the world had seen.
        name: of the column, or what was made of several.
        measured: error by horizon, beside persistence.
        numbers: a name for each of them.
        acted: whether it dreamt under actions.
    """

    truth: NDArray[np.float32]
    dream: NDArray[np.float32]
    context: int
    name: str
    measured: OpenLoop
    numbers: Sequence[str]
    acted: bool = True

    @property
    def pictured(self) -> bool:
        """Whether a row is a picture."""
        axes = self.truth.shape[2:]
        inside = bool(self.truth.min() >= 0 and self.truth.max() <= 1)
        return inside and (len(axes) == 2 or (len(axes) == 3 and axes[-1] in (1, 3)))

    def frames(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Truth and dream as pictures, uint8 ``[B, T, H, W, C]``.

        Raises:
            ConfigError: a row is no picture.
        """
        if not self.pictured:
            raise ConfigError(
                f"a row of {self.name} is no picture, and a video shows pictures; what is dreamt of numbers stands on "
                f"the page, worldformula report, and a world that reads goes on with words: dream RUN --text ..."
            )
        axes = self.truth.shape[2:]
        shape = axes if len(axes) == 3 else (*axes, 1)
        found = [(255 * np.clip(v, 0, 1)).round().astype(np.uint8) for v in (self.truth, self.dream)]
        one, two = (v.reshape(*v.shape[:2], *shape) for v in found)
        return one, two

    def video(self, count: int = SHOWN) -> bytes:
        """Truth, dream and error as an animated WebP, for ``count`` sequences."""
        truth, dream = self.frames()
        clip = dream_video(truth[:count], dream[:count], self.context)
        return webp(clip, fps=8, scale=max(1, round(EDGE / truth.shape[3])))


@torch.no_grad()
def dreams(model: ThroughTime, rows: Mapping[str, Tensor], *, context: int | None = None, seed: int = 0) -> Dreams:
    """Filters the first rows of windows ``[B, T, …]``, then imagines the rest under the true actions alone. Of a world
    without heads that learnt, what is compared is its latent, with that of all rows; of several levels, the main one
    dreams.

    Raises:
        ConfigError: no row is left to dream.
    """
    world, given = model.world, model.given({k: v[:SEQUENCES].to(model.device) for k, v in rows.items()})
    length = next(iter(given.values())).shape[1]
    context = max(1, min(CONTEXT, length // 3)) if context is None else context
    if not 0 < context < length:
        raise ConfigError(f"expected 0 < context < {length} rows of a window, got {context}")
    options: dict[str, Any] = {"seed": seed, "deterministic": True}
    states = world.filter({k: v[:, :context] for k, v in given.items()}, **options)
    last = states.last()
    level = world.dynamics
    if not level.actions:
        future = level.imagine(last, horizon=length - context, **options)
    else:
        future = level.imagine(last, actions=_actions(level.action, model, given, context, length), **options)
    if not _learnt(model):
        variable = level.carried[0]
        name, truth = f"the latent {variable}", world.filter(given, **options)[variable]
        shown = [part[variable] for part in (states, future)]
    else:
        variable, name, truth = _seen(model, given)
        shown = [world.decode(part, (variable,))[variable] for part in (states, future)]
    dream = torch.cat((shown[0], shown[1][:, 1:]), 1)
    shape = truth.shape[:2]
    column = model.columns.get(name, {})
    event = tuple(column["shape"]) if column.get("kind") in ("image", "vector") else ()
    if math.prod(event) != truth[0, 0].numel() or not event:
        event = (truth[0, 0].numel(),)
    arrays = [v.reshape(*shape, *event).cpu().float().numpy() for v in (truth, dream)]
    measured = open_loop_error(arrays[0], arrays[1], context)
    return Dreams(
        arrays[0], arrays[1], context, name, measured, _numbered(model, name, math.prod(event)), bool(level.actions)
    )


def _numbered(model: ThroughTime, name: str, width: int) -> list[str]:
    """A name for each number that is compared: of a column, or of the columns that it was made of one after another."""
    columns = {key: model.columns[key] for key in model.names}
    sizes = {key: math.prod(c["shape"]) for key, c in columns.items() if c["kind"] == "vector"}
    if name in columns or sum(sizes.values()) != width:
        return numbered(name, width)
    return [each for key, size in sizes.items() for each in numbered(key, size)]


def _actions(name: str, model: ThroughTime, given: Mapping[str, Tensor], context: int, length: int) -> Tensor:
    """The true actions; where an action is how far a step jumps, steps of one."""
    if name in given:
        return given[name][:, context - 1 : -1]
    (choices,) = model.loss.program.plan.shapes[name]
    some = next(iter(given.values()))
    found = torch.zeros(len(some), length - context, choices, device=some.device)
    found[..., 0] = 1
    return found


def _learnt(model: ThroughTime) -> dict[str, Factor]:
    """The heads of the main level whose weights the loss holds. Those that weigh nothing in it, as of columns that a
    text does not have, are as they were made, and what they say is nothing; one without weights, r = symexp(l), says
    what others learnt.
    """
    known = set(map(id, model.loss.parameters()))
    heads = model.world.dynamics.heads.items()
    return {name: head for name, head in heads if known.issuperset(map(id, head.parameters()))}


def _seen(model: ThroughTime, given: Mapping[str, Tensor]) -> tuple[str, str, Tensor]:
    """What is compared: the head, the name of its column, and the truth as the head predicts it; where nothing that is
    seen is predicted, the reward.
    """
    heads = _learnt(model)
    predicted = {head.variable.key: name for name, head in heads.items()}
    for key, word in model.names.items():
        if word in predicted:
            return predicted[word], key, given[word]
    vectors = {k: word for k, word in model.names.items() if model.columns[k]["kind"] not in ("image", "classes")}
    reward = model.world.roles.get("reward")
    if reward is not None and {*heads} <= {reward, model.world.roles.get("continue")}:
        return reward, "reward", given[heads[reward].variable.key]  # a world without a decoder
    if "y" not in heads or not vectors:
        return _made(model, given, predicted)
    joined = torch.cat([given[word] for word in vectors.values()], -1)
    return "y", "symlog of " + ", ".join(vectors), joined.sign() * joined.abs().log1p()


def _made(
    model: ThroughTime, given: Mapping[str, Tensor], predicted: Mapping[str, str]
) -> tuple[str, str, Tensor]:  # fmt: skip
    """As `_seen`, of what the loss makes of what is seen: the choices of a column, k = choices(x)."""
    inputs = {name: given[name] for name in model.loss.program.inputs if name in given}
    made = model.loss(**inputs, **dict.fromkeys(model.coefficients, 1.0), seed=0).samples
    for word, name in predicted.items():
        if word in made and word not in given:
            return name, "choices of " + ", ".join(model.names), made[word]
    raise ConfigError(f"no head of this world predicts what it observes: {', '.join(predicted.values())}")


def dreamt(found: Dreams) -> str:
    """The part of the page: pictures or curves, then the error against horizon."""
    truth, context = found.truth, found.context
    parts = []
    if found.pictured:
        one, two = found.frames()
        image = picture(found.video(), "videos of truth, dream and error")
        names = "".join(f"<span>{name}</span>" for name in ("truth", "dream", "error"))
        parts.append(
            f'<figure><div class="dream"><div class="rows">{names}</div>{image}</div><figcaption>The world sees the '
            f"first {context} frames of windows that it did not learn from, then it dreams. Grey is no error."
            "</figcaption></figure>"
        )
        steps = [context - 1 + k for k in STRIP if context - 1 + k < truth.shape[1]]
        strip = picture(webp(filmstrip(one[0], two[0], steps), scale=max(1, round(EDGE / one.shape[3]))), "frames")
        parts.append(f"<figure>{strip}<figcaption>The first window, still: truth above dream.</figcaption></figure>")
    else:
        one, two = (v[0].reshape(truth.shape[1], -1) for v in (truth, found.dream))
        parts.append(
            f'<p class="note">{escape(found.name)}: the numbers of a window that vary most, of rows that it did not '
            f"learn from. The world sees the first {context}, then it dreams.</p>"
            + lines(varying(one, two, found.numbers), context)
        )
    on = f"{found.name}{' in [0, 1]' if found.pictured else ''}"
    return section("What it dreams", *parts) + horizon(found.measured, on, acted=found.acted)
