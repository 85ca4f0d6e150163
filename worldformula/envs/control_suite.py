"""Tasks of the DeepMind Control Suite, ``dm_control/walker-walk-v0``, over the optional package dm_control.

Numbers are a Dict of the suite's own keys; ``pixels`` are drawn by the task's first camera (the third of a quadruped,
which follows it). Shadows, reflections and smoothing of edges are off: on a CPU they take many times as long as the
picture without them. An episode of 1,000 steps is truncated, not terminated (Tassa et al. 2018, arXiv:1801.00690).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldformula.envs.spaces import taken
from worldformula.errors import ConfigError, EnvironmentIdError, near

PREFIX = "dm_control/"
CAMERAS = {"quadruped": 2}
Observation = dict[str, NDArray[np.float32]]
Step = tuple[Observation, float, bool, bool, dict[str, Any]]


class ControlSuite(gymnasium.Env[Any, Any]):
    """One task of the suite.

    Args:
        domain: e.g. "walker".
        task: e.g. "walk".
        size: edge of the pictures that it draws.
        camera: which camera draws them.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self, domain: str, task: str, *, size: int = 64, camera: int | None = None, render_mode: str = "rgb_array"
    ) -> None:
        from dm_control import suite

        self.render_mode, self.size = render_mode, size
        self.camera = CAMERAS.get(domain, 0) if camera is None else camera
        self._task = suite.load(domain, task, task_kwargs={"random": 0})
        given = self._task.action_spec()
        self.action_space = spaces.Box(given.minimum, given.maximum, given.shape, given.dtype)
        self.observation_space = spaces.Dict(
            {
                key: spaces.Box(-np.inf, np.inf, value.shape or (1,), np.float32)
                for key, value in self._task.observation_spec().items()
            }
        )
        self._drawn: tuple[Any, Any] | None = None  # the physics that a camera was made for, and the camera

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._task.task.random.seed(seed % 2**32)
        return self._observed(self._task.reset()), {}

    def step(self, action: Any) -> Step:
        found = self._task.step(taken(self.action_space, action))
        over = found.last() and found.discount == 0
        return self._observed(found), float(found.reward or 0.0), bool(over), bool(found.last() and not over), {}

    def _observed(self, found: Any) -> Observation:
        return {key: np.atleast_1d(np.asarray(value, np.float32)) for key, value in found.observation.items()}

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        """The picture ``[size, size, 3]`` of the present state."""
        physics = self._task.physics
        if self._drawn is None or self._drawn[0] is not physics.model:
            try:
                self._drawn = physics.model, self._camera(physics)
            except Exception as error:
                if "OpenGL" not in str(error) and "GL" not in type(error).__name__:
                    raise
                raise ConfigError(
                    "drawing needs a graphics library: start Python with MUJOCO_GL=egl or MUJOCO_GL=osmesa in its "
                    f"environment, and with that library installed (MuJoCo says: {str(error).splitlines()[0]})"
                ) from error
        return np.asarray(self._drawn[1].render(), np.uint8).copy()

    def _camera(self, physics: Any) -> Any:
        import mujoco
        from dm_control.mujoco.engine import Camera

        physics.model.vis.quality.offsamples = physics.model.vis.quality.shadowsize = 0
        camera = Camera(physics, height=self.size, width=self.size, camera_id=self.camera)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            camera.scene.flags[flag] = 0
        return camera

    def close(self) -> None:
        self._task.close()


def make_control(id: str, size: int, options: dict[str, Any]) -> ControlSuite:
    """The task of an id ``dm_control/<domain>-<task>-v0``.

    Raises:
        ConfigError: dm_control is not installed, or no graphics library to draw with.
        EnvironmentIdError: no such task.
    """
    try:
        from dm_control import suite
    except ImportError as error:
        raise ConfigError(f"{id} needs dm_control: pip install 'worldformula[dmc]' (it says: {error})") from error
    known = {f"{PREFIX}{domain}-{task}-v0": (domain, task) for domain, task in suite.ALL_TASKS}
    if id not in known:
        raise EnvironmentIdError(f"dm_control has no task with the id {id!r}.{near(id, known)}")
    return ControlSuite(*known[id], **{"size": size, **options})
