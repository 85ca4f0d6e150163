"""A car at a forked road, seen from above: left or right is decided by chance, or right may be a cliff.

The car drives up a road, y from 0 to 1, 0.125·(1 + 0.3·throttle) a step; up to the fork at y = 0.5 it is in the middle,
behind it in the left or the right lane, x = ∓0.5, where it stays. An episode ends at y = 1; reward −0.1 a step.

    fork      at the fork a coin says which lane: neither the action nor the past tells it
    cliff     the steering says which lane. Left, the road is long: a fifth of the speed. Right, the road is a cliff
              with probability q, and the car falls as it enters: reward −10, and the end. q is drawn for an episode,
              uniform on [0, 0.4], and is seen as fog over the right lane. To fall or not is drawn at the fork.

Beside the road stand trees, 8 × 8 patches of grey, drawn anew at every step: noise that tells nothing. Action: throttle
and steering, in [−1, 1]. Both are toys: what is random is one coin, and everything else is simple.
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

Floats = NDArray[np.floating]

PACE, THROTTLE, AT, LANE = 0.125, 0.3, 0.5, 0.5
SLOW, FOG, STEP, FALL = 0.2, 0.4, -0.1, -10.0
PATCHES, SHADES = 8, 40.0
GROUND, ROAD, CAR, HAZE, FALLEN = (52, 96, 60), (120, 120, 128), (255, 176, 46), (214, 220, 230), (70, 20, 24)
WIDE, LONG = 0.2, 0.15  # half of a lane, half of the car


def moved(y: Floats, lane: Floats, actions: Floats, branch: Floats, slow: bool = False) -> tuple[Floats, Floats]:
    """Heights ``[...]`` and lanes −1, 0, 1 ``[...]`` after actions ``[..., 2]``; ``branch`` is where a fork leads."""
    pace = PACE * (1 + THROTTLE * np.clip(finite(actions)[..., 0], -1, 1))
    pace = np.where((lane < 0) & slow, SLOW * pace, pace)
    after = np.minimum(y + pace, 1.0)
    return after, np.where((lane == 0) & (after >= AT), branch, lane)


class Fork(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The environment of this file.

    Observation: y, x, the fog q, and whether the car has fallen, float32 ``[4]``. Action: throttle and steering.

    Args:
        size: edge of the picture in pixels.
        cliff: whether the steering chooses the lane, and the right one may be a cliff.
    """

    metadata: dict[str, Any] = {
        "render_modes": ["rgb_array"], "render_fps": 8,
        "events": ("fork", "accident"),
    }  # fmt: skip

    def __init__(self, size: int = 32, cliff: bool = False, render_mode: str | None = "rgb_array") -> None:
        self.size, self.cliff, self.render_mode = size, cliff, render_mode
        self.observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.y, self.lane, self.fog, self.fallen = 0.0, 0.0, 0.0, False
        self._trees: Floats = np.zeros(PATCHES**2)
        self._canvas = canvas(size)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        rng = self.np_random
        self.y, self.lane, self.fallen = float(rng.uniform(0, 0.1)), 0.0, False
        self.fog = float(rng.uniform(0, FOG)) if self.cliff else 0.0
        self._trees = rng.uniform(size=PATCHES**2)
        return self._observation(), self._info([])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        action = taken(self.action_space, action)
        action, rng, before = np.asarray(action, np.float64), self.np_random, self.lane
        coin, hidden = rng.random(), rng.random()  # drawn at every step, so that nothing later hangs on when they count
        right = action[1] >= 0 if self.cliff else coin < 0.5
        y, lane = moved(np.array(self.y), np.array(self.lane), action, np.array(1.0 if right else -1.0), self.cliff)
        self.y, self.lane = float(y), float(lane)
        entered = before == 0 and self.lane != 0
        self.fallen = self.cliff and entered and self.lane > 0 and hidden < self.fog
        self._trees = rng.uniform(size=PATCHES**2)
        event = (["fork"] if entered else []) + (["accident"] if self.fallen else [])
        reward = FALL if self.fallen else STEP
        return self._observation(), reward, self.fallen or self.y >= 1.0, False, self._info(event)

    def _info(self, event: list[str]) -> dict[str, Any]:
        numbers = {"position": (LANE * self.lane, self.y), "fog": (self.fog,)}
        return {"state": {k: np.array(v, np.float32) for k, v in numbers.items()}, "event": event}

    def _observation(self) -> NDArray[np.float32]:
        return np.array([self.y, LANE * self.lane, self.fog, self.fallen], np.float32)

    def render(self) -> Frames:  # type: ignore[override]
        """The picture of the current state, uint8 ``[size, size, 3]``."""
        return self.batch_render(np.concatenate((self._observation(), self._trees))[None])[0]

    def batch_render(self, states: ArrayLike) -> Frames:
        """Pictures of observations ``[N, 4]``, trees of medium grey, or with the shades of 64 trees behind them,
        ``[N, 68]``: uint8 ``[N, size, size, 3]``.
        """
        return in_chunks(lambda rows: pictures(self._canvas, rows), states)


def canvas(size: int) -> Canvas:
    """What stands still in a picture: the forked road."""
    plain = Canvas(size, GROUND)
    pieces = [
        plain.box(0.0, -0.5, WIDE, 0.5 + WIDE),
        plain.box(0.0, 0.0, LANE + WIDE, WIDE),
        plain.box(-LANE, 0.5, WIDE, 0.5 + WIDE),
        plain.box(LANE, 0.5, WIDE, 0.5 + WIDE),
    ]
    return Canvas(size, plain.frames([(piece, ROAD) for piece in pieces])[0])


def pictures(drawn: Canvas, states: Floats) -> Frames:
    """Cars, fog and trees over what stands still; see `Fork.batch_render`."""
    y, x, fog, fallen = states[:, :4].T
    haze = drawn.box(LANE, 0.5 + WIDE, WIDE, 0.5) * (fog / FOG).astype(np.float32)[:, None]
    car = drawn.box(x, np.minimum(2 * y - 1, 1 - LONG), LONG, LONG)
    down = fallen.astype(np.float32)[:, None]
    frames = drawn.frames([(haze, HAZE), (car * (1 - down), CAR), (car * down, FALLEN)])
    if states.shape[1] == 4:
        return frames
    place = np.arange(drawn.size) * PATCHES // drawn.size
    shade = states[:, 4:].reshape(-1, PATCHES, PATCHES)[:, place][:, :, place, None] - 0.5
    grass = (drawn.background == np.array(GROUND, np.float32)[:, None]).all(0).reshape(drawn.size, drawn.size, 1)
    found: Frames = np.clip(frames + SHADES * shade * grass, 0, 255).astype(np.uint8)
    return found


def reference(state: Mapping[str, Floats]) -> NDArray[np.float32]:
    """As fast as it goes; to the right where that costs less in the mean than the long road, 2 − 0.4 in all."""
    right = (1 - state["fog"][0]) * 0.4 + state["fog"][0] * 10 < 2
    return np.array([1.0, 1.0 if right else -1.0], np.float32)


def drive(seed: int, episodes: int, steps: int) -> tuple[Floats, Floats, NDArray[np.float32]]:
    """Data of the fork: throttles that drift, and a coin for each episode.

    Returns:
        y and x ``[episodes, steps, 2]``, the shades of the trees ``[episodes, steps, 64]``, and the actions taken there
        ``[episodes, steps, 2]``.
    """
    rng = np.random.default_rng(seed)
    y: Floats = rng.uniform(0, 0.1, episodes)
    lane: Floats = np.zeros(episodes)
    branch: Floats = rng.choice((-1.0, 1.0), episodes)
    throttle = rng.uniform(-1, 1, episodes)
    seen, done = [], []
    for _ in range(steps):
        action = np.stack((throttle, rng.uniform(-1, 1, episodes)), -1)
        seen.append(np.stack((y, LANE * lane), -1))
        done.append(action)
        y, lane = moved(y, lane, action, branch)
        throttle = np.clip(throttle + rng.normal(0, 0.3, episodes), -1, 1)
    trees = rng.uniform(size=(episodes, steps, PATCHES**2))
    return np.stack(seen, 1), trees, np.stack(done, 1).astype(np.float32)


ENVIRONMENTS = (
    Entry("Fork", "fork", Fork, 40, reference),
    Entry("Cliff", "cliff", Fork, 60, reference, {"cliff": True}),
)
