"""Robot Remote Control: a figure that walks takes hold of a robot at one place, and nobody sees that it did.

A figure and a robot, each at a point of [−1, 1]², begin anywhere (uniform on ±0.95). An action from [−1, 1]² moves the
figure by 0.1 of it. A robot that is controlled moves by the same; both are clipped to ±0.95. Then the robot becomes
controlled, for good, if the figure is within ``radius`` of (0.5, 0.5). A robot within 0.1 of (0.5, −0.5) earns 1 and
ends the episode, which is cut at 50 steps.

Whether the robot is controlled is ``info["hidden"]``: nothing that is observed shows it, but how the robot moves.
`sequences` makes data to learn from, half of them with control: actions of all directions whose lengths grow linearly
from 0.0001 to 1 ("biased"), or uniform ones ("uniform"), on which what was learnt must also hold.

Gumbsch, Butz, Martius 2021, "Sparsely Changing Latent States for Prediction and Planning in Partially Observable
Domains" (arXiv:2110.15949). The radius there is 0.1; with 0.2 the event is more frequent and easier to learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from worldformula.envs.drawing import Canvas, Frames, in_chunks
from worldformula.envs.registry import Entry
from worldformula.envs.spaces import finite, taken
from worldformula.errors import ConfigError, near

Floats = NDArray[np.floating]

EDGE, REACH, NEAR, STEPS = 0.95, 0.1, 0.1, 50
SWITCH, GOAL = np.array([0.5, 0.5]), np.array([0.5, -0.5])
FLOOR, PLACE, TARGET, FIGURE, ROBOT = (24, 28, 44), (60, 70, 110), (50, 110, 70), (255, 176, 64), (120, 190, 255)
RADIUS = 0.09
KINDS = ("biased", "uniform")


def moved(figure: Floats, robot: Floats, controlled: NDArray[np.bool_], actions: Floats, radius: float) -> Any:
    """Figures and robots ``[..., 2]`` and whether these are controlled ``[...]``, after actions ``[..., 2]``."""
    step = REACH * np.clip(finite(actions), -1.0, 1.0)
    figure = np.clip(figure + step, -EDGE, EDGE)
    robot = np.clip(robot + step * controlled[..., None], -EDGE, EDGE)
    return figure, robot, controlled | (np.linalg.norm(figure - SWITCH, axis=-1) < radius)


def sensed(points: Floats) -> Floats:
    """How near the four walls are to points ``[..., 2]``: 1 − 10·distance within 0.1, else 0, ``[..., 4]``."""
    far = np.concatenate((1.0 - points, 1.0 + points), -1)
    return np.maximum(1.0 - 10.0 * far, 0.0)


class RobotRemote(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The environment of this file.

    Observation: x and y of the figure, then of the robot, float32 ``[4]``; with ``sensors`` also how near each is to
    the walls at x = 1, y = 1, x = −1, y = −1, ``[12]``. Action: float32 ``[2]`` in [−1, 1]. Event: control.

    Args:
        size: edge of the picture in pixels.
        radius: of the place where control begins.
        sensors: whether walls are sensed.
    """

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"], "render_fps": 20,
        "events": ("control", "goal"),
    }  # fmt: skip

    def __init__(
        self, size: int = 32, radius: float = 0.1, sensors: bool = False, render_mode: str | None = "rgb_array"
    ) -> None:
        _placed(radius)
        self.render_mode, self.radius, self.sensors = render_mode, radius, sensors
        self.observation_space = spaces.Box(-1.0, 1.0, (12 if sensors else 4,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.figure: Floats = np.zeros(2)
        self.robot: Floats = np.zeros(2)
        self.controlled = np.array(False)
        plain = Canvas(size, FLOOR)
        layers = [(plain.disc(SWITCH[0], SWITCH[1], radius), PLACE), (plain.disc(GOAL[0], GOAL[1], NEAR), TARGET)]
        self._canvas = Canvas(size, plain.frames(layers)[0])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.figure, self.robot = self.np_random.uniform(-EDGE, EDGE, (2, 2))
        self.controlled = np.array(False)
        return self._observation(), self._info([])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        before, acted = bool(self.controlled), np.asarray(taken(self.action_space, action), np.float64)
        self.figure, self.robot, self.controlled = moved(self.figure, self.robot, self.controlled, acted, self.radius)
        event = ["control"] if self.controlled and not before else []
        reached = self._reached()
        return self._observation(), float(reached), reached, False, self._info(event + ["goal"] * reached)

    def _reached(self) -> bool:
        return bool(np.linalg.norm(self.robot - GOAL) < NEAR)

    def _info(self, event: list[str]) -> dict[str, Any]:
        state = {"figure": self.figure, "robot": self.robot, "controlled": np.array([self.controlled])}
        hidden = {"controlled": np.array(self.controlled, np.float32)}
        named = {key: value.astype(np.float32) for key, value in state.items()}
        return {"state": named, "hidden": hidden, "event": event, "success": self._reached()}

    def _observation(self) -> NDArray[np.float32]:
        both = np.concatenate((self.figure, self.robot))
        extra = (sensed(self.figure), sensed(self.robot)) if self.sensors else ()
        return np.concatenate((both, *extra)).astype(np.float32)

    def render(self) -> Frames:  # type: ignore[override]
        """The picture of the current state, uint8 ``[size, size, 3]``; y points up."""
        return self._draw(np.concatenate((self.figure, self.robot))[None])[0]

    def batch_render(self, states: ArrayLike) -> Frames:
        """Pictures of many states ``[N, 4]``, as observed, uint8 ``[N, size, size, 3]``."""
        return in_chunks(self._draw, states)

    def _draw(self, states: NDArray[np.floating]) -> Frames:
        robot = self._canvas.box(states[:, 2], states[:, 3], RADIUS, RADIUS)
        return self._canvas.frames([(robot, ROBOT), (self._canvas.disc(states[:, 0], states[:, 1], RADIUS), FIGURE)])


def reference(state: Mapping[str, Floats]) -> NDArray[np.float32]:
    """To the place of control, and then the robot to its goal."""
    controlled = bool(state["controlled"][0])
    way = GOAL - state["robot"] if controlled else SWITCH - state["figure"]
    return np.clip(way / REACH, -1.0, 1.0).astype(np.float32)


def sequences(
    seed: int,
    count: int = 6400,
    steps: int = STEPS,
    radius: float = 0.1,
    actions: str = "biased",
    control: float | None = 0.5,
) -> dict[str, NDArray[Any]]:
    """Data without goal and end.

    Args:
        seed: of everything.
        count: sequences.
        steps: rows of each; there are steps − 1 transitions.
        radius: of the place where control begins.
        actions: "biased": every direction, of lengths that grow linearly from 0.0001 to 1; "uniform": on [−1, 1]².
        control: share of the sequences in which control begins, which is met by drawing until there are enough; None
            takes them as they come.

    Returns:
        ``observation`` ``[count, steps, 4]`` and the ``action`` taken at each row ``[count, steps, 2]``, float32;
        ``controlled`` and ``event``, whether control began on arriving at a row, booleans ``[count, steps]``.

    Raises:
        ConfigError: another kind of actions, or numbers out of range.
    """  # fmt: skip
    _placed(radius)
    if actions not in KINDS:
        raise ConfigError(f"expected actions as one of {', '.join(KINDS)}, got {actions!r}.{near(actions, KINDS)}")
    if count < 1 or steps < 2 or not (control is None or 0 <= control <= 1):
        raise ConfigError(
            f"expected count ≥ 1, steps ≥ 2 and control in [0, 1] or None, got {count}, {steps} and {control}"
        )
    rng = np.random.default_rng(seed)
    if control is None:
        return _drawn(rng, count, steps, radius, actions)
    wanted = {True: round(count * control), False: count - round(count * control)}
    found: list[dict[str, NDArray[Any]]] = []
    while any(wanted.values()):
        drawn = _drawn(rng, count, steps, radius, actions)
        with_ = drawn["event"].any(1)
        for kind, missing in wanted.items():
            kept = np.flatnonzero(with_ == kind)[:missing]
            wanted[kind] -= len(kept)
            found.append({key: value[kept] for key, value in drawn.items()})
    mixed = rng.permutation(count)
    return {key: np.concatenate([part[key] for part in found])[mixed] for key in found[0]}


def _drawn(rng: np.random.Generator, count: int, steps: int, radius: float, actions: str) -> dict[str, NDArray[Any]]:
    figure, robot = rng.uniform(-EDGE, EDGE, (2, count, 2))
    controlled = np.zeros(count, bool)
    if actions == "uniform":
        taken = rng.uniform(-1.0, 1.0, (count, steps, 2))
    else:
        angle = rng.uniform(-np.pi, np.pi, (count, steps))
        taken = np.linspace(1e-4, 1.0, steps)[:, None] * np.stack((np.cos(angle), np.sin(angle)), -1)
    seen, told = [np.concatenate((figure, robot), -1)], [controlled]
    for step in range(steps - 1):
        figure, robot, controlled = moved(figure, robot, controlled, taken[:, step], radius)
        seen.append(np.concatenate((figure, robot), -1))
        told.append(controlled)
    known = np.stack(told, 1)
    event = known & ~np.concatenate((known[:, :1], known[:, :-1]), 1)
    numbers = {"observation": np.stack(seen, 1).astype(np.float32), "action": taken.astype(np.float32)}
    return {**numbers, "controlled": known, "event": event}


def _placed(radius: float) -> None:
    if not 0 < radius <= 0.4:
        raise ConfigError(f"expected the radius of the place of control in (0, 0.4], such as 0.1, got {radius}")


ENVIRONMENTS = (Entry("RobotRemote", "robot_remote", RobotRemote, STEPS, reference),)
