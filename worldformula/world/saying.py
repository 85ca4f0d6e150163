"""Words that a world expects: how surprising those are that come, and what it would go on with.

A word is predicted as everything else: the prior imagines a state, and the head of the words decodes it. To go on with
a sentence is to imagine, and to decode (Lin et al. 2024, arXiv:2308.01399, section 4.4); nothing that is said is read
again, the latent states alone carry it on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import ConfigError
from worldformula.formula import Factor, Joint
from worldformula.metrics.perplexity import perplexity as surprise
from worldformula.nets.parts import alike
from worldformula.world.model import World
from worldformula.world.state import State, Values

SAMPLES = 32  # imagined states whose words are averaged: one sample of a discrete state says one word alone
AT_ONCE = 16_384  # states that are imagined at once


def head_of(world: World, choices: Mapping[str, Sequence[int]], column: str) -> str:
    """The head that says which word comes: see `heads_of`."""
    return heads_of(world, choices, column)[0]


def heads_of(world: World, choices: Mapping[str, Sequence[int]], column: str) -> list[str]:
    """The heads that say which choices of a column come, in their order, of the classes of all columns of choices:
    where there are several, ``k_1``, ``k_2``, …; one of n > 1 choices of as many classes says ``[…, n, classes]``.

    Args:
        world: of `worldformula.worlds`.
        choices: of each column that holds choices, its key and the classes of each of its numbers.
        column: its key.

    Raises:
        ConfigError: it is no such column, or the world predicts no words.
    """
    if column not in choices or column not in world.observations:
        raise ConfigError(f"expected a column of words among {', '.join(choices) or 'none'}, got {column!r}")
    if column in world.aside:
        raise ConfigError(f"{column!r} stands aside: policy and critic read it, and this world says no word of it")
    ordered = [key for key in world.observations if key in choices and key not in world.aside]
    counts = [len(alike(choices[key])) for key in ordered]
    before = sum(counts[: ordered.index(column)])
    if sum(counts) > 1:
        return [f"k_{1 + before + i}" for i in range(counts[ordered.index(column)])]
    return [world.observations[column] if len(choices[column]) == 1 else "k"]


@torch.no_grad()
def expected(world: World, given: Values, head: str, *, samples: int = SAMPLES, seed: int = 0) -> Tensor:
    """p(word at t + 1 | what was read until t), ``[B, T − 1, V]``: one step of the prior from every state of the
    posterior, its words averaged over ``samples`` of the imagined state.

    Args:
        world: the world.
        given: ``[B, T, …]`` by variable, what its posterior reads.
        head: see `head_of`.
        samples: imagined states a row.
        seed: of what is drawn.
    """
    states = world.filter(given, seed=seed)
    lead = states.lead[0], states.lead[1] - 1
    begin = state_of(states, world.carried, lead)
    taken = {key: given[key][:, :-1].flatten(0, 1).unsqueeze(1) for key in world.actions}
    found = []
    rows = lead[0] * lead[1]
    for place in range(0, rows, step := max(1, AT_ONCE // samples)):
        some = State({key: x[place : place + step] for key, x in begin.items()}).repeat(samples)
        acts = {key: x[place : place + step].repeat_interleave(samples, 0) for key, x in taken.items()}
        dream = world.imagine(some, actions=acts or None, horizon=None if acts else 1, seed=seed + 1 + place)
        said = world.decode(dream.at(1).only(world.carried), (head,))[head]
        found.append(said.view(-1, samples, said.shape[-1]).mean(1))
    return torch.cat(found).view(*lead, -1)


def state_of(states: State, names: Sequence[str], lead: tuple[int, int]) -> State:
    """All states but the last of each row, ``[B·(T − 1), …]``."""
    return State({key: states[key][:, : lead[1]].flatten(0, 1) for key in names})


def perplexity(
    world: World, given: Values, head: str, words: Tensor, *, valid: Tensor | None = None, samples: int = SAMPLES,
    seed: int = 0,
) -> float:  # fmt: skip
    """exp of the mean surprise of words ``[B, T]`` that one imagined step expects; those that begin an episode, before
    which nothing was read, do not count, nor rows that are not ``valid``, ``[B, T]``.
    """
    likely = expected(world, given, head, samples=samples, seed=seed)
    reset = given[world.reset_name] if world.reset_name is not None else torch.zeros_like(words)
    counted = ~reset[:, 1:].bool() if valid is None else ~reset[:, 1:].bool() & valid[:, 1:]
    return surprise(likely.cpu().numpy(), words[:, 1:].cpu().numpy(), counted.cpu().numpy())


def going_on(
    world: World, start: Values, head: str, *, steps: int, temperature: float = 1.0, seed: int = 0,
    policy: Factor | Joint | None = None, actions: Mapping[str, Any] | None = None,
) -> tuple[State, Tensor]:  # fmt: skip
    """What a world imagines behind states ``[N, …]``, and the words that it says there, ``[N, steps]``.

    Of each step it is the state, and by name the actions that led there.

    Args:
        world: the world.
        start: states of the posterior, which have read what is gone on with.
        head: see `head_of`.
        steps: words.
        temperature: of each word: p^(1/temperature); 0 takes the most probable latents and words.
        seed: of what is drawn.
        policy: acts in the dream; or
        actions: what is done, ``[N, steps, …]`` by name.

    Raises:
        ConfigError: a temperature below 0, or no step.
    """
    if temperature < 0 or steps < 1:
        raise ConfigError(f"expected a temperature of at least 0 and steps of at least 1, got {temperature}, {steps}")
    options: dict[str, Any] = {"seed": seed, "deterministic": temperature == 0}
    if actions is None:
        dream = world.imagine(start, policy, horizon=steps, **options)
    else:
        dream = world.imagine(start, actions=actions, **options)
    led = {name: dream[name][:, :steps] for name in world.actions}
    inner = State({**{key: dream[key][:, 1:] for key in world.carried}, **led}, 2)
    likely = world.decode(inner, (head,))[head]
    if temperature == 0:
        return inner, likely.argmax(-1)
    logits = likely.clamp_min(1e-8).log() / temperature
    generator = torch.Generator(likely.device).manual_seed(seed)
    flat = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator)
    return inner, flat.view(likely.shape[:2])
