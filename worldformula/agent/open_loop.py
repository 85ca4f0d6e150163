"""What a person compares: what happened, and what a world dreams of it from its first rows and the true actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldformula.agent.perception import Perception
from worldformula.errors import ConfigError
from worldformula.wording import numbered
from worldformula.world import World


@torch.no_grad()
def open_loop(
    world: World,
    perception: Perception,
    batch: Mapping[str, NDArray[Any]],
    device: torch.device,
    context: int,
    tokens: Mapping[str, Tensor] | None = None,
) -> dict[str, NDArray[Any]]:
    """See `worldformula.agent.imagination.ImaginationAgent.open_loop`."""
    inputs, tokens = perception.learn(batch, device), dict(tokens or {})
    head, target = _predicted(world, perception, inputs)
    states = world.filter({k: v[:, :context] for k, v in inputs.items()} | tokens, deterministic=True)
    taken = {key: inputs[key][:, context - 1 : -1] for key in world.actions}
    future = world.imagine(states.last() | tokens, actions=taken, deterministic=True)
    dream = world.decode(states.then(future.span(1)), (head,))[head]
    if (images := perception.of_kind("image")) and world.dynamics.heads[head].variable.key in images.values():
        truth, shown = ((v * 255).round().clamp(0, 255).to(torch.uint8) for v in (target, dream))
        return {"truth": newest(truth).cpu().numpy(), "dream": newest(shown).cpu().numpy()}
    numbers = [v.reshape(*v.shape[:2], -1).float().cpu().numpy() for v in (target, dream)]
    names = called(world, perception, head, numbers[0].shape[2])
    return {"truth": numbers[0], "dream": numbers[1], "names": np.array(names)}


def called(world: World, perception: Perception, head: str, width: int) -> list[str]:
    """A name for each of the numbers of a head: its role, the observation that it predicts, or, of what the formula
    makes of several, such as y_t = symlog(...), those of all observed numbers; else its own.
    """
    roles = {name: role for role, name in world.roles.items()}
    if head in roles:
        return numbered(roles[head], width)
    keys = {word: key for key, word in perception.names.items()}
    variable = world.dynamics.heads[head].variable.key
    if variable in keys:
        return numbered(keys[variable], width)
    made = [n for n, f in world.dynamics.heads.items() if n not in roles and f.variable.key not in keys]
    observed = perception.numbers()
    return observed if made == [head] and len(observed) == width else numbered(head, width)


def newest(pictures: Tensor) -> Tensor:
    """Of a stack ``[..., C]`` the last picture: three channels where their number is a multiple of three, else one."""
    return pictures[..., -3 if pictures.shape[-1] % 3 == 0 else -1 :]


def _predicted(world: World, perception: Perception, inputs: Mapping[str, Tensor]) -> tuple[str, Tensor]:
    """The head that shows a dream, and the truth as it predicts it: a picture, else numbers, else classes, else the
    reward.
    """
    others = {world.roles[role] for role in ("reward", "continue") if role in world.roles}
    by_variable = {f.variable.key: name for name, f in world.dynamics.heads.items() if name not in others}
    for kind in ("image", "vector", "flag"):
        for word in perception.of_kind(kind).values():
            if word in by_variable:
                return by_variable[word], inputs[word]
    made = world.loss(**inputs, seed=0).samples if by_variable.keys() - inputs.keys() else {}
    for key, name in by_variable.items():  # what the formula makes of several, such as y_t = symlog(...)
        if key in made and made[key].is_floating_point():
            return name, made[key]
    if seen := [key for key in by_variable if key in inputs]:
        return by_variable[seen[0]], inputs[seen[0]]
    if not by_variable and (reward := world.roles.get("reward")) is not None:
        return reward, inputs[world.dynamics.heads[reward].variable.key]
    raise ConfigError(f"the world predicts {', '.join(by_variable) or 'nothing'}, and nothing that it observes")
