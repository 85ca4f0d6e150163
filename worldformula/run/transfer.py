"""Beginning with another run's weights, and parts that stay as they are while others learn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.errors import CheckpointError, ConfigError, RunFolderError, table
from worldformula.run.contract import Build
from worldformula.run.folder import RunFolder
from worldformula.run.kinds import kind_of
from worldformula.training import begun, checkpoint
from worldformula.vocabulary import Vocabulary

WORLD = "world."  # before the names of an agent's world, which is also trained by itself
PRETRAINED, DESCRIPTION = "model.safetensors", "worldformula.json"  # of a folder of `worldformula.save_pretrained`
TOLD = 8  # names that are told one by one


def weights_of(run: str | Path) -> dict[str, Tensor]:
    """The newest weights of a run, or those of a folder of `worldformula.save_pretrained`; averaged where they are.

    Raises:
        RunFolderError: nothing is there that has weights. CheckpointError: no checkpoint yet, or none can be read.
    """
    path = Path(run)
    if (path / DESCRIPTION).is_file() or (path / PRETRAINED).is_file():
        return pretrained(path)
    kind = kind_of(RunFolder(path).config(), path)
    if kind == "phases":
        raise RunFolderError(f"--init {path}: it is a chain of phases; name the folder of one of them")
    found = checkpoint.load_latest(path / "checkpoints")
    if found is None:
        raise CheckpointError(f"--init {path}: it has no checkpoint yet")
    if kind == "interact":
        return dict(found.state["agent"]["weights"])
    average = found.state["fit"]["average"]
    return {**found.state["fit"]["weights"], **({} if average is None else average["means"])}


def pretrained(folder: Path) -> dict[str, Tensor]:
    """The weights in a folder of `worldformula.save_pretrained`; its description, where it is there, has their SHA-256.

    Raises:
        CheckpointError: they are missing, damaged, or not those that were written with the description.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / PRETRAINED
    try:
        found = dict(load_file(file))
        said = description(folder).get("weights_sha256") if (folder / DESCRIPTION).is_file() else None
        if said is not None and said != checkpoint.digest_of_file(file):
            raise ValueError(
                f"it is not the file that was written with {DESCRIPTION}: changed, damaged, or another one"
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{file} cannot be read: {error}. Copy it again, or save it again from its run"
        ) from error
    return found


def description(folder: Path) -> dict[str, Any]:
    """What `worldformula.save_pretrained` wrote beside the weights.

    Raises:
        ValueError: it is damaged. OSError: it is not there.
    """
    found = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"expected an object, got {type(found).__name__}")
    return found


def prepare(networks: Any, init: str, frozen: Sequence[str], say: Callable[[str], None]) -> None:
    """What a new run begins with, and what it does not train. ``init`` is empty where a run goes on.

    Raises:
        ConfigError: an agent that is no module; or see `take` and `freeze`.
    """
    if not init and not frozen:
        return
    if not isinstance(networks, nn.Module):
        raise ConfigError(f"init and freeze need an agent that is a torch.nn.Module, got {type(networks).__name__}")
    if init:
        take(networks, init, say)
    freeze(networks, frozen)


def same_words(init: str, words: Vocabulary | None) -> None:
    """The numbers of words mean the same in another fit that learnt words, kept or not, and here, which has ``words``.

    Raises:
        ConfigError: other words, or another order of them.
    """
    kept = bool(init) and (Path(init) / DESCRIPTION).is_file()
    if not init or not (kept or RunFolder(init).exists):
        return
    columns = (description(Path(init)) if kept else RunFolder(init).config()).get("columns") or {}
    there = next((tuple(c["words"]) for c in columns.values() if "words" in c), None)
    here = None if words is None else words.words
    if there is None or there == here:
        return
    if here is None:
        raise ConfigError(f"--init {init}: it learnt words, and this environment does not speak")
    lacking, more = (sorted(set(one) - set(other)) for one, other in ((there, here), (here, there)))
    told = [
        f"{what} {', '.join(some[:TOLD])}" for what, some in (("only there:", lacking), ("only here:", more)) if some
    ]
    raise ConfigError(
        f"--init {init}: it learnt {len(there)} words, this environment has {len(here)}, and the numbers of words do "
        f"not agree. {'; '.join(told) or 'They stand in another order'}\nFit the text anew with --set data.env=ID of "
        "the environment that is trained in here, with the same arguments"
    )


def same_sizes(build: Build, asked: Any, config: Any, envs: Any, changed: Iterable[str]) -> None:
    """What changes as a run goes on may change no network, and not what the replay keeps of every row.

    Raises:
        ConfigError: it does.
    """
    made = [build(c.agent, envs.observations, envs.actions, c.seed) for c in (asked, config)]
    shapes = [[tuple(p.shape) for p in agent.parameters()] for agent in made]
    keys = ", ".join(key for key in changed if key.startswith("agent."))
    if shapes[0] != shapes[1]:
        raise ConfigError(f"--resume-with cannot change {keys}: networks of other sizes have other weights")
    before, now = (dict(getattr(agent, "latents", {})) for agent in made)
    if before != now:
        kept = [", ".join(latents) or "no latents" for latents in (before, now)]
        raise ConfigError(
            f"--resume-with cannot change {keys}: the replay keeps {kept[0]} of every row, and would have to keep "
            f"{kept[1]}. Begin a new run with another --run, from these weights if you like: --init"
        )


def take(module: nn.Module, run: str | Path, say: Callable[[str], None]) -> None:
    """Puts the weights of another run into ``module``, by name; an agent's world and a fitted one find each other.

    Says how many were taken, and which were found on one side alone: those keep their new values, or are not used.

    Raises:
        ConfigError: no name agrees, or tensors of one name have different shapes; they are listed.
    """
    own, there = ({k: v for k, v in w.items() if k != begun.NAME} for w in (module.state_dict(), weights_of(run)))
    forms = (
        there,
        {WORLD + name: value for name, value in there.items()},
        {name.removeprefix(WORLD): value for name, value in there.items() if name.startswith(WORLD)},
    )
    found = max(forms, key=lambda form: len(own.keys() & form.keys()))
    same = [name for name in own if name in found]
    if not same:
        raise ConfigError(
            f"--init {run}: none of its weights has a name that this run knows, such as {next(iter(own))}"
        )
    if wrong := [name for name in same if own[name].shape != found[name].shape]:
        rows = [(name, list(own[name].shape), list(found[name].shape)) for name in wrong]
        raise ConfigError(
            f"--init {run}: shapes that differ\n{table(('weight', 'of this run', f'in {Path(run).name}'), rows)}\n"
            "Give this run the sizes of the other one with --set."
        )
    with torch.no_grad():
        for name in same:
            own[name].copy_(found[name])
    say(f"init {run}: {len(same)} of {len(own)} tensors of this run")
    _say(say, "new here, and not taken", [name for name in own if name not in found])
    _say(say, "not used from there", [name for name in found if name not in own])


def _say(say: Callable[[str], None], what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
        say(f"  {what}: {', '.join(names[:TOLD])}{more}")


def freeze(module: nn.Module, parts: Iterable[str]) -> None:
    """Takes the parameters of these parts out of the training: names of networks, or any leading or inner part of one.

    Raises:
        ConfigError: no parameter has such a name.
    """
    named = dict(module.named_parameters())
    for part in parts:
        chosen = [p for name, p in named.items() if f".{part}." in f".{name}."]
        if not chosen:
            known = dict.fromkeys(name.partition(".")[0] for name in named)
            inner = dict.fromkeys(".".join(name.split(".")[:2]) for name in named)
            shown = ", ".join(known if len(known) > 2 else inner)
            raise ConfigError(f"--freeze {part}: no weights have this name; there are {shown}")
        for p in chosen:
            p.requires_grad_(False)
    if named and not any(p.requires_grad for p in named.values()):
        raise ConfigError(f"--freeze {', '.join(parts)}: nothing is left to learn")
