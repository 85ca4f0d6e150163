"""Wrappers between a checked environment and typed columns: repeated actions, drawn pictures, their size and stack."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldformula.envs.actions import MASK
from worldformula.envs.checked import Env, Step
from worldformula.envs.spaces import Part, PictureSpace, flattened, leaf, observation_parts
from worldformula.errors import ConfigError, SpaceError, near


class ActionRepeat(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Execute each action ``times`` times; the rewards add up, and the end of the episode stops the repetition."""

    def __init__(self, env: Env, times: int) -> None:
        if times < 1:
            raise ConfigError(f"action_repeat is the number of times an action is executed, at least 1; got {times}")
        super().__init__(env)
        self.times = times

    def step(self, action: Any) -> Step:
        total = 0.0
        for _ in range(self.times):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


class PixelObservation(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The observation is ``{"image": render()}``, resized to ``size`` × ``size``, uint8 RGB.

    ``render()`` returns the very pixels of the last observation. An environment may name observations that no picture
    shows, such as the words that are said, in ``beside_pictures``: those stay.
    """

    def __init__(self, env: Env, size: int) -> None:
        super().__init__(env)
        self.size = size
        image = PictureSpace(0, 255, (size, size, 3), np.uint8)
        self._beside: tuple[str, ...] = getattr(env.unwrapped, "beside_pictures", ())
        beside = {key: env.observation_space[key] for key in self._beside}  # type: ignore[index]
        self.observation_space = spaces.Dict({"image": image, **beside})
        self._image = np.zeros(image.shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._observe(observation), _with_mask(observation, info)

    def step(self, action: Any) -> Step:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._observe(observation), float(reward), terminated, truncated, _with_mask(observation, info)

    def _observe(self, observation: Any) -> dict[str, Any]:
        try:
            frame = self.env.render()
        except NotImplementedError:
            frame = None
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            got = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise SpaceError(f"render() has to return a uint8 array [height, width, 3] for pixels, got {got}")
        self._image = resize(frame, self.size)
        return {"image": self._image, **{key: observation[key] for key in self._beside}}

    def render(self) -> NDArray[np.uint8]:
        return self._image.copy()


def _with_mask(observation: Any, info: dict[str, Any]) -> dict[str, Any]:
    """A mask that stood in the observation is not lost with it."""
    return {MASK: observation[MASK], **info} if isinstance(observation, Mapping) and MASK in observation else info


class Only(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps some keys of a Dict observation, and the mask of actions where there is one.

    Raises:
        SpaceError: no such key (with the near misses), or no Dict.
    """

    def __init__(self, env: Env, keys: tuple[str, ...], name: str) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Dict):
            raise SpaceError(f"keys={','.join(keys)} chooses among observations, and {name} has a single one: {space}")
        found = flattened(space)
        for key in keys:
            if key not in found:
                raise SpaceError(f"{name} observes no {key!r}.{near(key, found)} It observes {', '.join(found)}.")
        mask = {key: inner for key, inner in space.spaces.items() if key == MASK}
        self.observation_space = spaces.Dict({key: found[key] for key in keys} | mask)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._kept(observation), info

    def step(self, action: Any) -> Step:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._kept(observation), float(reward), terminated, truncated, info

    def _kept(self, observation: Any) -> Any:
        assert isinstance(self.observation_space, spaces.Dict)
        return {key: leaf(observation, key) for key in self.observation_space.spaces}


def resize(frame: NDArray[Any], size: int) -> NDArray[Any]:
    """``frame`` ``[H, W, C]`` averaged down (or up) to ``[size, size, C]``; the same array if it fits already."""
    if frame.shape[:2] == (size, size):
        return frame
    from PIL import Image

    if frame.dtype == np.uint8 and frame.shape[-1] == 3:
        return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BOX))
    kind = np.uint8 if frame.dtype == np.uint8 else np.float32
    channels = [Image.fromarray(np.ascontiguousarray(frame[..., i], kind)) for i in range(frame.shape[-1])]
    small = [np.asarray(channel.resize((size, size), Image.Resampling.BOX)) for channel in channels]
    return np.stack(small, -1).astype(frame.dtype)


class Pictures(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Every picture among the observations, cropped, in grey, resized and stacked, in this order.

    Args:
        env: checked; its other observations pass as they are.
        crop: top, left, height and width of what is kept, in pixels.
        grey: one channel, by the luma weights .299, .587 and .114.
        size: edge of the square that it is averaged down (or stretched up) to.
        stack: the last so many pictures, as channels, the newest last; an episode begins with copies of its first.

    Raises:
        SpaceError: there is no picture, or one that the crop does not fit into.
    """

    def __init__(
        self,
        env: Env,
        *,
        crop: tuple[int, ...] = (),
        grey: bool = False,
        size: int | None = None,
        stack: int = 1,
    ) -> None:
        super().__init__(env)
        space = env.observation_space
        inner = flattened(space) if isinstance(space, spaces.Dict) else {"": space}
        self._pictures = {key: part for key, part in _pictures(inner).items() if part.column.kind == "image"}
        if not self._pictures:
            raise SpaceError(f"crop, grey, size and stack change pictures, and there are none in {space}")
        self._crop, self._grey, self._size, self._stack = crop, grey, size, stack
        self._frames: dict[str, deque[NDArray[Any]]] = {}
        self._inner = tuple(inner)
        found = {key: self._space(key, part) if (part := self._pictures.get(key)) else inner[key] for key in inner}
        self._bare = "" in found
        self.observation_space = found[""] if self._bare else spaces.Dict(found)

    def _space(self, key: str, part: Part) -> spaces.Box:
        column = part.column
        height, width, _ = column.shape
        if self._crop:
            top, left, tall, wide = self._crop
            if min(top, left) < 0 or min(tall, wide) < 1 or top + tall > height or left + wide > width:
                raise SpaceError(
                    f"crop={self._crop} (top, left, height, width) leaves the picture {key!r} {column.shape}"
                )
        dtype: Any = np.dtype(column.dtype).type
        shape = self._still(np.zeros(column.shape, column.dtype)).shape
        return PictureSpace(dtype(column.low), dtype(column.high), (*shape[:2], shape[2] * self._stack), dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._frames = {}
        return self._changed(observation), info

    def step(self, action: Any) -> Step:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._changed(observation), float(reward), terminated, truncated, info

    def _changed(self, observation: Any) -> Any:
        if self._bare:
            return self._picture("", observation)
        values = {key: leaf(observation, key) for key in self._inner}
        return {key: self._picture(key, value) if key in self._pictures else value for key, value in values.items()}

    def _picture(self, key: str, value: Any) -> NDArray[Any]:
        frame = self._still(self._pictures[key].convert(np.asarray(value)))
        frames = self._frames.setdefault(key, deque([frame] * self._stack, self._stack))
        frames.append(frame)
        return np.concatenate(frames, -1)

    def _still(self, frame: NDArray[Any]) -> NDArray[Any]:
        if self._crop:
            top, left, tall, wide = self._crop
            frame = frame[top : top + tall, left : left + wide]
        if self._grey:
            frame = grey(frame)
        return frame if self._size is None else resize(frame, self._size)


def arranged(env: Env, crop: Sequence[int], grey: bool, size: int | None, stack: int) -> Env:
    """`Pictures` around an environment where there is something to do; a size alone asks for no picture."""
    wanted = bool(crop) or grey or stack > 1
    space = env.observation_space
    inner = flattened(space) if isinstance(space, spaces.Dict) else {"": space}
    if not wanted and (size is None or not any(p.column.kind == "image" for p in _pictures(inner).values())):
        return env
    return Pictures(env, crop=tuple(crop), grey=grey, size=size, stack=stack)


def _pictures(inner: dict[str, Any]) -> dict[str, Part]:
    """The boxes among these spaces that are supported, as parts."""
    boxes = {key: space for key, space in inner.items() if isinstance(space, spaces.Box)}
    return {key: next(iter(observation_parts(space).values())) for key, space in boxes.items()}


def grey(frame: NDArray[Any]) -> NDArray[Any]:
    """``[H, W, 3·k]`` as ``[H, W, k]``: every three channels are red, green and blue; one channel stays as it is."""
    if frame.shape[-1] % 3:
        if frame.shape[-1] == 1:
            return frame
        raise SpaceError(f"grey reads red, green and blue, and a picture has the shape {frame.shape}")
    colours = frame.reshape(*frame.shape[:2], -1, 3).astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return (colours.round() if frame.dtype == np.uint8 else colours).astype(frame.dtype)
