"""Checkpoints that survive anything: two files per checkpoint, written atomically, never a pickle.

    checkpoints/000000020000/tensors.safetensors    every tensor and array
    checkpoints/000000020000/tree.json              the nested state around them, and the SHA-256 of both

A checkpoint is written into a hidden folder beside its place, flushed to the disk, and renamed. So a folder with a
step as its name is complete, or somebody damaged it later, which the two hashes tell. The last two are kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldformula.errors import CheckpointError, ConfigError

FORMAT = 1
TENSORS = "tensors.safetensors"
TREE = "tree.json"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint. ``rejected`` says, one line each, which newer ones were unreadable and why."""

    step: int
    state: dict[str, Any]
    path: Path
    rejected: tuple[str, ...] = ()


def save(folder: str | os.PathLike[str], step: int, state: dict[str, Any], *, keep: int = 2) -> Path:
    """Writes ``state`` as the checkpoint of ``step`` and removes all but the newest ``keep``.

    ``state`` is a nest of dicts, lists and tuples around tensors, NumPy arrays, numbers, strings and None. Checkpoints
    of later steps belong to a future that a resume has abandoned: they are removed too.

    Raises:
        CheckpointError: a value of another type, or the disk is full or refuses; older checkpoints stay untouched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = Path(folder)
    tensors: dict[str, torch.Tensor] = {}
    tree = _encode(state, tensors, "state")
    draft = folder / f".draft-{step:012d}"
    file = draft
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        file = draft / TENSORS
        save_file(tensors, file)
        document = {"format": FORMAT, "step": step, "tensors_sha256": digest_of_file(file)}
        document |= {"tree_sha256": _digest_tree(tree), "tree": tree}
        file = draft / TREE
        file.write_text(json.dumps(document), encoding="utf-8")
        for file in (draft / TENSORS, draft / TREE, draft):
            _to_disk(file)
        target = folder / f"{step:012d}"
        _replace(draft, target)
        _to_disk(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        size = sum(t.numel() * t.element_size() for t in tensors.values()) + len(json.dumps(tree))
        raise CheckpointError(
            f"the checkpoint of step {step} could not be written to {file}: {error}. {_room(folder, size)} "
            "Free some space or choose another run folder; the checkpoints written before are untouched."
        ) from error
    _tidy(folder, step, keep)
    return target


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads one checkpoint folder; tensors come back on the CPU.

    Raises:
        CheckpointError: a file is missing, truncated or changed since it was written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    try:
        document = json.loads((path / TREE).read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f"{TREE} is not of format {FORMAT}")
        if _digest_tree(document["tree"]) != document["tree_sha256"]:
            raise ValueError(f"{TREE} was changed or damaged after it was written")
        if digest_of_file(path / TENSORS) != document["tensors_sha256"]:
            raise ValueError(f"{TENSORS} was truncated, changed or damaged after it was written")
        state = _decode(document["tree"], load_file(path / TENSORS))
        return Checkpoint(int(document["step"]), state, path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {error}") from error


def load_latest(folder: str | os.PathLike[str]) -> Checkpoint | None:
    """Reads the newest good checkpoint of a folder; None where the folder holds none at all.

    Raises:
        CheckpointError: there are checkpoints, and none of them can be read.
    """
    rejected: list[str] = []
    for path in reversed(steps_in(folder)):
        try:
            found = load(path)
        except CheckpointError as error:
            rejected.append(str(error))
        else:
            return Checkpoint(found.step, found.state, found.path, tuple(rejected))
    if rejected:
        lines = "\n".join(f"  {line}" for line in rejected)
        raise CheckpointError(
            f"no readable checkpoint in {folder}:\n{lines}\n"
            "Restore one of them from a backup, or start again in a new run folder."
        )
    return None


def steps_in(folder: str | os.PathLike[str]) -> list[Path]:
    """The checkpoint folders, oldest first. Unfinished drafts are not among them."""
    folder = Path(folder)
    return sorted(p for p in folder.iterdir() if p.is_dir() and p.name.isdigit()) if folder.is_dir() else []


def refuse_fewer(folder: str | os.PathLike[str], steps: int, option: str) -> None:
    """A run is gone on with to a later step, which ``option`` says, or to the one at which it ended.

    Raises:
        ConfigError: its newest checkpoint is of a later step than it is asked to go to.
    """
    done = int(kept[-1].name) if (kept := steps_in(folder)) else 0
    if steps < done:
        raise ConfigError(
            f"{Path(folder).parent} stands at step {done:,}, and {option}{steps} is less: nothing would be learnt. Ask "
            f"for more than {done}, or begin in another folder"
        )


# ------------------------------------------------------------------------------------------------- state to JSON


def _encode(value: Any, tensors: dict[str, torch.Tensor], at: str) -> Any:
    """The JSON form of ``value``; tensors move to ``tensors`` under their path and leave a reference behind."""
    match value:
        case None | bool() | str():
            return value
        case torch.Tensor():
            tensors[at] = value.detach().to("cpu", copy=True).contiguous()
            return {"$tensor": at}
        case np.ndarray():
            tensors[at] = _from_numpy(value, at)
            return {"$array": at}
        case int() | np.integer():
            return int(value)
        case float() | np.floating():
            number = float(value)
            return number if math.isfinite(number) else {"$float": repr(number)}
        case np.bool_():
            return bool(value)
        case list():
            return [_encode(v, tensors, f"{at}.{i}") for i, v in enumerate(value)]
        case tuple():
            return {"$tuple": [_encode(v, tensors, f"{at}.{i}") for i, v in enumerate(value)]}
        case dict() if all(isinstance(k, str) and not k.startswith("$") for k in value):
            return {k: _encode(v, tensors, f"{at}.{k}") for k, v in value.items()}
        case dict() if all(isinstance(k, (str, int)) for k in value):  # optimisers number their parameters
            return {"$items": [[k, _encode(v, tensors, f"{at}.{k}")] for k, v in value.items()]}
    raise CheckpointError(
        f"{at} is a {type(value).__name__}; a checkpoint holds dicts with text or whole-number keys, lists, tuples, "
        "tensors, NumPy arrays, numbers, strings and None"
    )


def _from_numpy(array: np.ndarray[Any, Any], at: str) -> torch.Tensor:
    try:
        return torch.from_numpy(np.array(array, order="C", copy=True))
    except TypeError as error:
        raise CheckpointError(f"{at} is an array of {array.dtype}, which a checkpoint cannot hold: {error}") from error


def _decode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    match value:
        case {"$tensor": name}:
            return tensors[name]
        case {"$array": name}:
            return tensors[name].numpy()
        case {"$float": number}:
            return float(number)
        case {"$tuple": items}:
            return tuple(_decode(v, tensors) for v in items)
        case {"$items": items}:
            return {k: _decode(v, tensors) for k, v in items}
        case dict():
            return {k: _decode(v, tensors) for k, v in value.items()}
        case list():
            return [_decode(v, tensors) for v in value]
    return value


# ------------------------------------------------------------------------------------------------------ the disk


def digest_of_file(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_tree(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree).encode()).hexdigest()


def _room(folder: Path, size: int) -> str:
    """How much a checkpoint of ``size`` bytes takes, and how much there is."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), None)
    free = f", and {shutil.disk_usage(there).free / 1e6:,.1f} MB are free there" if there else ""
    return f"It takes {size / 1e6:,.1f} MB{free}."


def _to_disk(path: Path) -> None:
    """fsync of a file or folder, so that the rename that follows cannot overtake the data."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(draft: Path, target: Path) -> None:
    """Renames the draft. Its place is taken only where a resume rewrites a step whose checkpoint was unreadable."""
    if target.exists():
        aside = target.with_name(f".replaced-{target.name}")
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
    draft.rename(target)


def _tidy(folder: Path, step: int, keep: int) -> None:
    for path in _superfluous(folder, step, keep):
        shutil.rmtree(path, ignore_errors=True)


def _superfluous(folder: Path, step: int, keep: int) -> Iterator[Path]:
    complete = steps_in(folder)
    past = [path for path in complete if int(path.name) <= step]
    yield from (path for path in complete if int(path.name) > step)
    yield from past[:-keep]
    yield from (path for path in folder.iterdir() if path.name.startswith((".draft-", ".replaced-")))
