"""What a world that reads has read, what it imagines seeing after a sentence, and what it would say.

The same start after contradictory sentences is the grounding figure of Lin et al. 2024 (arXiv:2308.01399, figure F.1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from html import escape
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldformula.agent.imagination import ImaginationAgent
from worldformula.envs import Envs
from worldformula.envs.factory import argument, make
from worldformula.envs.words import column_of_words, vocabulary_of
from worldformula.errors import ConfigError, WorldformulaError
from worldformula.model.run import ModelRun, evaluating
from worldformula.model.through_time import ThroughTime, counts, is_action, variables
from worldformula.report.evidence import Curve, Heard
from worldformula.report.parts import picture, section
from worldformula.report.video import tile, upscale, webp
from worldformula.run.config import EnvConfig
from worldformula.run.contract import Agent
from worldformula.run.play import sight
from worldformula.training.seeding import forked
from worldformula.vocabulary import PAD, Vocabulary
from worldformula.world import State, World, saying

ROWS, AHEAD = 24, 12  # of an episode that are shown; steps of a dream
LINES = 6  # of a text that are gone on with
EDGE = 64  # pixels of one picture, about
Pictures = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Said:
    """What follows a text: words by row, pictures ``[S, H, W, 3]`` of the rows where there are any, and of an agent the
    reward that it imagines on the way, and what it does ``[1, S, …]``, by name.
    """

    words: tuple[str, ...]
    pictures: Pictures | None = None
    reward: float | None = None
    actions: Mapping[str, Tensor] | None = None

    @property
    def text(self) -> str:
        """The words, without rows at which nothing is said."""
        return " ".join(word for word in self.words if word != PAD) or "(nothing is said)"


@torch.no_grad()
def of_fit(run: ModelRun, text: str, *, steps: int, temperature: float, seed: int) -> Said:
    """What a world that was fitted to a text goes on with.

    Raises:
        ConfigError: it learnt no words, ``text`` has none, or one that it does not know.
    """
    model = run.model
    if not isinstance(model, ThroughTime) or model.words is None:
        raise ConfigError(
            f"{run.folder.path} learnt no words: expected a run of an agent that reads, or of\n"
            "worldformula fit dynalang --data text.txt --set data.env=ID"
        )
    key, words = _words_of(run, *model.words)
    numbers = numbers_of(words, text)
    flags = torch.zeros(1, len(numbers), dtype=torch.bool)
    first = flags.clone()
    first[:, 0] = True
    rows = {key: torch.tensor(numbers)[None], "reward": torch.zeros(1, len(numbers)), "is_first": first}
    rows |= {"is_last": flags, "is_terminal": flags}
    given = model.given({name: value.to(run.device) for name, value in rows.items()})
    with evaluating(run.fitting):
        start = model.world.filter(given, seed=seed).last()
        acts = [width for name, width in _widths(model).items()]
        names = variables(len(acts))
        actions = {n: torch.zeros(1, steps, w, device=run.device) for n, w in zip(names, acts, strict=True)}
        head = saying.head_of(model.world, {k: counts(c) for k, c in model.columns.items() if counts(c)}, key)
        _, said = saying.going_on(
            model.world, start, head, steps=steps, temperature=temperature, seed=seed, actions=actions
        )
    return Said(tuple(words.words[int(n)] for n in said[0]))


def fitted_part(run: ModelRun, seed: int) -> str:
    """Of a world that was fitted to a text, the part of the page: halves of lines that it did not learn from, what it
    goes on with, and what the text has. Nothing of others.
    """
    model = run.model
    if not isinstance(model, ThroughTime) or model.words is None:
        return ""
    key, words = _words_of(run, *model.words)
    begins = np.flatnonzero(run.data.test["is_first"])[1:]
    cells = []
    for line in np.split(run.data.test[key], begins)[:LINES]:
        half = max(1, len(line) // 2)
        if len(line) > half:
            read, rest = words.text(line[:half]), words.text(line[half:])
            said = of_fit(run, read, steps=len(line) - half, temperature=1.0, seed=seed)
            cells.append((read, said.text, rest))
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in cells)
    head = "<tr><th>it reads</th><th>it goes on with</th><th>the text has</th></tr>"
    with evaluating(run.fitting):
        reached = saying_note(model.watched(run.test_rows, run.device)["words/perplexity"])
    return section("What it would say", reached, f'<table class="lines">{head}{rows}</table>') if cells else ""


def _words_of(run: ModelRun, key: str, words: Vocabulary) -> tuple[str, Vocabulary]:
    """The words of a fit, read and written as its environment does, where it is here: maybe by its own tokenizer."""
    how = run.config.reading
    with suppress(WorldformulaError, ImportError):
        env = make(how.env, **dict(map(argument, how.env_args)))
        own = vocabulary_of(env)
        env.close()
        return key, own if own is not None and own.words == words.words else words
    return key, words


def saying_note(value: float) -> str:
    """What the perplexity is."""
    return (
        f'<p class="note">Lines that it did not learn from. One imagined step ahead, words in windows of them have a '
        "perplexity of "
        f"<b>{value:.2f}</b>: as surprising as one of so many equally probable words. What it goes on with is "
        "imagined, and nothing of it is read again.</p>"
    )


def _widths(model: ThroughTime) -> dict[str, int]:
    return {key: int(np.prod(column["shape"])) for key, column in model.columns.items() if is_action(key)}


def of_agent(agent: Agent, env: EnvConfig, text: str, *, steps: int, temperature: float, seed: int) -> Said:
    """What an agent goes on with, and imagines seeing, once it has read a text at the first row of an episode; it acts
    by its policy, in the dream too.

    Raises:
        ConfigError: it is no agent that imagines, its environment does not speak, or a word is unknown.
    """
    able = imagining(agent)
    envs = Envs(env.id, 1, seed=seed, **env.options())
    key, words = column_of_words(envs.observations, envs.vocabulary, env.id)
    row = envs.reset(0)
    rows = []
    for place, number in enumerate(numbers_of(words, text)):
        first = np.array([place == 0])
        rows.append({**row, key: np.array([number]), "is_first": first})
    with forked(seed):
        state = _read(able, rows)
    found = _dreamt(able, envs, key, words, state, steps, temperature, seed)
    envs.close()
    return found


def imagining(agent: Agent) -> ImaginationAgent:
    """The agent, where it dreams by a policy of its own.

    Raises:
        ConfigError: it does not.
    """
    if not isinstance(agent, ImaginationAgent) or agent.learner is None:
        raise ConfigError(f"expected an agent that imagines under its policy, got {type(agent).__name__}")
    return agent


def numbers_of(words: Vocabulary, text: str) -> list[int]:
    """The numbers of a text that is not empty.

    Raises:
        ConfigError: it has no word, or one that is unknown; the message names those that are near.
    """
    numbers = words.numbers(text)
    if not numbers:
        raise ConfigError(f"--text expects words, got {text!r}")
    return numbers


def _read(agent: ImaginationAgent, rows: Sequence[dict[str, Any]]) -> State:
    """The state of an agent that has seen these rows."""
    state = agent.initial(1)
    for row in rows:
        state = agent.act(row, state, explore=False)[1]
    return state


def _dreamt(
    agent: ImaginationAgent, envs: Envs, key: str, words: Vocabulary, state: State, steps: int, temperature: float,
    seed: int, actions: Mapping[str, Tensor] | None = None,
) -> Said:  # fmt: skip
    """What it imagines from there on, by its policy or with these actions."""
    world = agent.world
    choices = {k: c.classes for k, c in envs.observations.items() if c.kind == "discrete"}
    assert agent.learner is not None
    policy = agent.learner.policy
    head = saying.head_of(world, choices, key)
    begin = state.only(world.carried)
    dream, said = saying.going_on(
        world, begin, head, steps=steps, temperature=temperature, seed=seed, policy=policy, actions=actions
    )
    with torch.no_grad():
        reward, proceed = agent.cost.outcome(dream, world.decode)
    lived = torch.cat((torch.ones_like(proceed[:, :1]), proceed[:, :-1]), 1).cumprod(1)
    earned = float((lived * reward).sum())
    done = {name: dream[name] for name in world.actions}
    return Said(tuple(words.words[int(n)] for n in said[0]), pictures_of(world, agent, envs, dream), earned, done)


@torch.no_grad()
def pictures_of(world: World, agent: ImaginationAgent, envs: Envs, dream: State) -> Pictures | None:
    """Pictures ``[S, H, W, 3]`` of the states of a dream ``[1, S, …]``: those that are predicted, or those that the
    environment draws of what is predicted; None where there is neither.
    """
    heads = {head.variable.key: name for name, head in world.dynamics.heads.items()}
    for word in agent.perception.of_kind("image").values():
        if word in heads:
            shown = world.decode(dream, (heads[word],))[heads[word]][0]
            frames = (shown * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
            return cast("Pictures", frames if frames.shape[-1] == 3 else frames[..., -1:].repeat(3, -1))
    render = getattr(envs.bare[0], "batch_render", None)
    choices = {key: c for key, c in envs.observations.items() if c.kind == "discrete"}
    drawn = [key for key, c in choices.items() if len(c.shape) == 2]
    if render is None or not drawn:
        return None
    names = saying.heads_of(world, {key: c.classes for key, c in choices.items()}, drawn[0])
    likely = world.decode(dream, names)
    seen = torch.cat([likely[name][0].argmax(-1).view(dream.lead[1], -1) for name in names], -1).cpu().numpy()
    column = choices[drawn[0]]
    return cast("Pictures", render((seen + np.array(column.starts)).reshape(len(seen), *column.shape)))


# ---------------------------------------------------------------------------------------------------------- of a page


def heard(agent: Agent, env: EnvConfig, seed: int) -> tuple[tuple[Heard, ...], dict[str, bytes]]:
    """What the page of an agent that reads shows: an episode with its words, the same start after a true and a false
    sentence where the environment can say one, and what it would go on with. Nothing of other agents.
    """
    if not isinstance(agent, ImaginationAgent) or agent.learner is None:
        return (), {}
    if (spoken := _spoken(agent, env, seed)) is None:
        return (), {}
    key, words, _ = spoken
    shown: list[tuple[str, str, Said]] = []
    lived, read = _lived(agent, env, key, words, seed)
    shown.append(("read", "An episode, with the word of each row.", lived))
    actions: Mapping[str, Tensor] | None = None
    for hint, how in (("true", ""), ("swapped", ", with the same actions")):
        if (found := _after(agent, env, key, words, hint, seed, actions)) is not None:
            told, dream = found
            actions = dream.actions
            shown.append((hint, f"Imagined after “{told}”{how}; in all {dream.reward:.2f} of reward.", dream))
    if half := words.text(map(words.number, read[: max(1, len(read) // 2)])):
        said = of_agent(agent, env, half, steps=AHEAD, temperature=1.0, seed=seed)
        shown.append(("said", f"After “{half}” it would say: {said.text}", said))
    heard = tuple(Heard(name, note, said.words) for name, note, said in shown)
    strips = {f"words_{name}": strip(s.pictures) for name, _, s in shown if s.pictures is not None}
    return heard, strips


def titled(curves: Sequence[Curve], agent: Agent, env: EnvConfig, seed: int) -> tuple[Curve, ...]:
    """Curves of words by these, and not by their numbers."""
    if not curves or not isinstance(agent, ImaginationAgent) or (spoken := _spoken(agent, env, seed)) is None:
        return tuple(curves)
    key, words, choices = spoken
    head = saying.head_of(agent.world, choices, key)
    called = {f"{head} {number}": f"“{word}”" for number, word in enumerate(words.words, 1)}
    return tuple(dataclasses.replace(curve, name=called.get(curve.name, curve.name)) for curve in curves)


def _spoken(
    agent: ImaginationAgent, env: EnvConfig, seed: int
) -> tuple[str, Vocabulary, dict[str, tuple[int, ...]]] | None:
    """Of an environment that speaks, to an agent whose world listens, the column of the words, what they are, and the
    classes of all its choices.
    """
    envs = Envs(env.id, 1, seed=seed, **env.options())
    choices = {key: column.classes for key, column in envs.observations.items() if column.kind == "discrete"}
    try:
        key, words = column_of_words(envs.observations, envs.vocabulary, env.id)
        return None if key in agent.world.aside else (key, words, choices)
    except ConfigError:
        return None
    finally:
        envs.close()


def strip(pictures: Pictures) -> bytes:
    """Pictures ``[S, H, W, 3]`` in a row."""
    row = tile(pictures[:, None], columns=len(pictures), gap=1)
    return webp(upscale(row, max(1, round(EDGE / pictures.shape[1]))))


def _lived(agent: ImaginationAgent, env: EnvConfig, key: str, words: Vocabulary, seed: int) -> tuple[Said, list[str]]:
    """The rows of an episode, at most `ROWS`, and the words of its first sentence."""
    envs = Envs(env.id, 1, seed=seed, **env.options())
    rows, state, said, pictures, sentences = envs.reset(0), agent.initial(1), list[str](), list[Pictures](), list[int]()
    with forked(seed):
        for place in range(ROWS):
            said.append(words.words[int(rows[key][0])])
            if envs.infos[0].get("sentence"):
                sentences.append(place)
            if (seen := sight(rows, envs)) is not None:
                pictures.append(seen if seen.shape[-1] == 3 else seen.repeat(3, -1))
            if rows["is_last"][0]:
                break
            actions, state = agent.act(rows, state, explore=False)
            rows = envs.step(actions)
    envs.close()
    begin = sentences[0] if sentences else 0
    stop = sentences[1] if len(sentences) > 1 else len(said)
    return Said(tuple(said), np.stack(pictures) if pictures else None), [
        word for word in said[begin:stop] if word != PAD
    ]


def _after(
    agent: ImaginationAgent, env: EnvConfig, key: str, words: Vocabulary, hint: str, seed: int,
    done: Mapping[str, Tensor] | None,
) -> tuple[str, Said] | None:  # fmt: skip
    """What is imagined once all of a hint was read, by the policy or as was done before; None where the environment
    reads nothing before it acts.
    """
    own = dataclasses.replace(env, args=(*(a for a in env.args if not a.startswith("hint=")), f"hint={hint}"))
    try:
        envs = Envs(own.id, 1, seed=seed, **own.options())
    except (WorldformulaError, TypeError, ValueError):  # it takes no hint
        return None
    rows, state, told = envs.reset(0), agent.initial(1), list[str]()
    with forked(seed):
        while envs.infos[0].get("is_read_step") and not rows["is_last"][0]:
            told.append(words.words[int(rows[key][0])])
            actions, state = agent.act(rows, state, explore=False)
            rows = envs.step(actions)
        dream = _dreamt(agent, envs, key, words, state, AHEAD, 0.0, seed, done) if told else None
    envs.close()
    return None if dream is None else (" ".join(word for word in told if word != PAD), dream)


def words_part(heard: Sequence[Heard], pictures: Mapping[str, bytes]) -> str:
    """The part of the page."""
    figures = []
    for one in heard:
        data = pictures.get(f"words_{one.name}")
        image = "" if data is None else picture(data, f"pictures: {one.note}")
        cells = "".join(f"<span>{'·' if word == PAD else escape(word)}</span>" for word in one.words)
        figures.append(
            f'<figure class="words"><div>{image}<div class="said">{cells}</div></div>'
            f"<figcaption>{escape(one.note)}</figcaption></figure>"
        )
    note = (
        '<p class="note">One word a row, · where nothing is said. What is imagined begins once the words before it '
        "were read; pictures are then what the world expects to see, under its own policy. After a false sentence it "
        "imagines what it would have done after the true one: what differs is what the words made it expect.</p>"
    )
    return section("What it reads, and what it makes of that", note, *figures) if figures else ""
