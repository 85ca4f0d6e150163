"""Mini-rooms: one sphere or cube in a square room, seen from cameras on a circle; 16 × 16 × 3. NumPy alone.

An analytic ray tracer, one ray per pixel. The room has half-width 2 and walls 1.2 high in one of 3 tints over a floor
of checks; the object is a sphere of radius .42 or a cube of half-width .36 in one of 4 colours, at U(−.35, .35)².
Cameras stand on a circle of radius 1.3 at height .45, look towards the centre ± .1 rad and .15 rad down; the picture
reaches .55 to each side at unit distance. Shading is Lambert's. A small relative of the rooms of Eslami et al. 2018
(GQN). Digest of ``load("rooms")``: ``f278cbcdaca46109`` with NumPy 2.4 on x86-64; elsewhere last bits may differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldformula.data.base import Array, Arrays, DataSet, Floats, Integers, Loader

SIZE, VIEWS = 16, 6
TRAIN_SCENES, TEST_SCENES = 2500, 200
HALF, WALL, RADIUS, CUBE, PLACE = 2.0, 1.2, 0.42, 0.36, 0.35
CIRCLE, HEIGHT, WOBBLE, PITCH, FIELD = 1.3, 0.45, 0.1, -0.15, 0.55
AMBIENT, CHUNK = 0.6, 1500
SHAPES = ("sphere", "cube")
COLOURS = np.array([[0.8, 0.25, 0.25], [0.25, 0.67, 0.29], [0.29, 0.37, 0.8], [0.84, 0.76, 0.25]])
WALLS = np.array([[0.75, 0.65, 0.55], [0.55, 0.7, 0.75], [0.7, 0.6, 0.75]])
FLOOR = np.array([[0.39, 0.37, 0.34], [0.55, 0.53, 0.5]])
SKY = np.array([0.6, 0.75, 0.9])
LIGHT = np.array([0.4, 0.25, 0.88])

Double = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Rooms(Arrays):
    """Scenes with their views.

    Attributes:
        images: ``[S, V, 16, 16, 3]`` float32 in [0, 1].
        views: ``[S, V, 7]`` float32: x, y, z, cos yaw, sin yaw, cos pitch, sin pitch.
        shape: ``[S]`` int64, an index into `SHAPES`.
        colour: ``[S]`` int64, a row of `COLOURS`.
        wall: ``[S]`` int64, a row of `WALLS`.
    """

    images: Floats
    views: Floats
    shape: Integers
    colour: Integers
    wall: Integers


def rooms(scenes: int = TRAIN_SCENES, views: int = VIEWS, seed: int = 0) -> Rooms:
    """Random scenes, each seen from ``views`` random cameras; 16 000 pictures take a few seconds.

    Args:
        scenes: how many, S.
        views: cameras per scene, V.
        seed: of objects and cameras.
    """
    rng = np.random.default_rng(seed)
    shape, colour, wall = (rng.integers(n, size=scenes) for n in (len(SHAPES), len(COLOURS), len(WALLS)))
    place = rng.uniform(-PLACE, PLACE, size=(scenes, 2))
    angle = rng.uniform(0, 2 * np.pi, size=(scenes, views))
    yaw = angle + np.pi + rng.uniform(-WOBBLE, WOBBLE, size=(scenes, views))
    pitch = np.full_like(yaw, PITCH)
    eye = np.stack([CIRCLE * np.cos(angle), CIRCLE * np.sin(angle), np.full_like(angle, HEIGHT)], -1)
    view = np.concatenate([eye, np.stack([np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)], -1)], -1)
    flat = view.reshape(-1, 7)
    scene = np.repeat(np.arange(scenes), views)
    parts = [
        render(flat[at], shape[scene[at]], colour[scene[at]], wall[scene[at]], place[scene[at]])
        for at in np.array_split(np.arange(len(flat)), max(1, len(flat) // CHUNK))
    ]
    images = np.concatenate(parts).reshape(scenes, views, SIZE, SIZE, 3)
    return Rooms(images.astype(np.float32), view.astype(np.float32), shape, colour, wall)


def render(view: Double, shape: Integers, colour: Integers, wall: Integers, place: Double) -> Double:
    """Pictures ``[N, 16, 16, 3]`` of N scenes, each from its camera.

    Args:
        view: ``[N, 7]``, as `Rooms.views`.
        shape: ``[N]``, an index into `SHAPES`.
        colour: ``[N]``, a row of `COLOURS`.
        wall: ``[N]``, a row of `WALLS`.
        place: ``[N, 2]``, where the object stands.
    """
    eye, ray = view[:, None, :3], _rays(view)  # [N, 1, 3], [N, P, 3]
    picture = _background(eye, ray, wall)
    for kind, hit in enumerate((_sphere, _cube)):
        distance, normal = hit(eye, ray, place)
        light = _lambert(normal)[..., None] * COLOURS[colour][:, None]
        seen = np.isfinite(distance) & (shape == kind)[:, None]
        picture = np.where(seen[..., None], light, picture)  # no wall stands between a camera and the object
    return picture.reshape(-1, SIZE, SIZE, 3)


def _rays(view: Double) -> Double:
    """Unit directions ``[N, P, 3]``, the picture's rows from the top, its columns from the left."""
    cos_yaw, sin_yaw, cos_pitch, sin_pitch = (view[:, i, None] for i in range(3, 7))
    at = FIELD * ((np.arange(SIZE) + 0.5) * 2 / SIZE - 1)
    up, right = (a.ravel() for a in np.meshgrid(-at, at, indexing="ij"))
    ahead = cos_pitch - up * sin_pitch  # horizontal part of forward + up · (the camera's upward axis)
    ray = np.stack(
        [ahead * cos_yaw + right * sin_yaw, ahead * sin_yaw - right * cos_yaw, sin_pitch + up * cos_pitch], -1
    )
    return ray / np.linalg.norm(ray, axis=-1, keepdims=True)


def _background(eye: Double, ray: Double, wall: Integers) -> Double:
    """Walls, floor and sky as if there were no object, ``[N, P, 3]``."""
    with np.errstate(divide="ignore"):
        to_wall = (HALF * np.sign(ray[..., :2]) - eye[..., :2]) / ray[..., :2]
        to_floor = np.where(ray[..., 2] < 0, -eye[..., 2] / ray[..., 2], np.inf)
    side = to_wall.argmin(-1)  # 0: a wall across the x axis, 1: across the y axis
    nearest = np.minimum(to_wall.min(-1), to_floor)
    point = eye + nearest[..., None] * ray
    across = np.take_along_axis(ray, side[..., None], -1)[..., 0]
    normal = np.zeros_like(ray)
    np.put_along_axis(normal, side[..., None], -np.sign(across)[..., None], -1)
    walls = _lambert(normal)[..., None] * WALLS[wall][:, None]
    checks = FLOOR[(np.floor(point[..., 0]) + np.floor(point[..., 1])).astype(np.int64) % 2]
    on_floor = (to_floor <= to_wall.min(-1))[..., None]
    return np.where(on_floor, checks, np.where((point[..., 2] > WALL)[..., None], SKY, walls))


def _lambert(normal: Double) -> Double:
    """Brightness of a matt surface: ambient light and one lamp far away."""
    return AMBIENT + (1 - AMBIENT) * np.clip(normal @ (LIGHT / np.linalg.norm(LIGHT)), 0, None)


def _sphere(eye: Double, ray: Double, place: Double) -> tuple[Double, Double]:
    """Distance ``[N, P]``, infinite where the ray misses, and normal ``[N, P, 3]`` of a sphere on the floor."""
    centre = np.concatenate([place, np.full((len(place), 1), RADIUS)], -1)[:, None]
    towards = centre - eye
    along = (ray * towards).sum(-1)
    root = along**2 - (towards**2).sum(-1) + RADIUS**2
    distance = np.where(root > 0, along - np.sqrt(np.clip(root, 0, None)), np.inf)
    finite = np.where(np.isfinite(distance), distance, 0.0)
    return distance, (eye + finite[..., None] * ray - centre) / RADIUS


def _cube(eye: Double, ray: Double, place: Double) -> tuple[Double, Double]:
    """Distance ``[N, P]``, infinite where the ray misses, and normal ``[N, P, 3]`` of a cube on the floor."""
    centre = np.concatenate([place, np.full((len(place), 1), CUBE)], -1)[:, None]
    with np.errstate(divide="ignore"):
        enter = (centre - CUBE * np.sign(ray) - eye) / ray
        leave = (centre + CUBE * np.sign(ray) - eye) / ray
    face = enter.argmax(-1)[..., None]
    first, last = enter.max(-1), leave.min(-1)
    normal = np.zeros_like(ray)
    np.put_along_axis(normal, face, -np.sign(np.take_along_axis(ray, face, -1)), -1)
    return np.where((first < last) & (first > 0), first, np.inf), normal


def mean_image_error(train: Floats, test: Floats) -> float:
    """MSE per value of answering every query with the mean training picture; both ``[S, V, 16, 16, 3]``."""
    return float(np.square(test - train.mean((0, 1))).mean())


def nearest_view_error(images: Floats, views: Floats) -> float:
    """MSE per value of answering each view of a scene with its neighbour, the other view whose camera is nearest.

    Args:
        images: ``[S, V, …]``.
        views: ``[S, V, 7]``; distance is between positions.
    """
    distance = np.linalg.norm(views[:, :, None, :3] - views[:, None, :, :3], axis=-1)
    distance += np.where(np.eye(views.shape[1], dtype=bool), np.inf, 0.0)
    answer = images[np.arange(len(images))[:, None], distance.argmin(-1)]
    return float(np.square(images - answer).mean())


def _part(scenes: int, seed: int) -> dict[str, Array]:
    part = rooms(scenes, seed=seed)
    return {"x": part.images, "v": part.views, "shape": part.shape, "colour": part.colour, "wall": part.wall}


def _load() -> DataSet:
    note = "A sphere or a cube in a room, six ray-traced views of 16 × 16 × 3 per scene."
    return DataSet("rooms", _part(TRAIN_SCENES, 0), _part(TEST_SCENES, 1), (VIEWS, SIZE, SIZE, 3), note)


DATA: Mapping[str, Loader] = {"rooms": _load}
