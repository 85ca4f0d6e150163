"""RSSM with categorical latents, the world model of DreamerV3 (Hafner et al. 2025, Nature; arXiv:2301.04104).

    h_t = f(h_{t-1}, z_{t-1}, a_{t-1})    h_t [N, D]      recurrent state     authors' code: deter
    z_t ~ q(z_t | h_t, e_t)               z_t [N, G, K]   one-hot groups      authors' code: stoch
    z_t ~ p(z_t | h_t)                    the prior that imagines             1 % uniform mixed into both
    p(x_t | h_t, z_t), p(r_t | ...), p(c_t | ...)         observation, reward, continuation

    loss = mean_{B,T} [ max(1, KL(sg q ‖ p)) + 0.1 max(1, KL(q ‖ sg p)) − log p(x_t) − log p(r_t) − log p(c_t) ]

Images x_t are [N, H, W, C] in [0, 1], several of them one picture i_t with all their channels; vectors are compared in
symlog space, y_t = symlog(o_t); whole numbers are one-hots k_t, in and out; r_t, c_t are scalars.
A reward belongs to the arriving step; c_t is the continuation probability to predict, (1 − terminal)(1 − 1/333).

Deviations       paper                       official code             here                 why
image loss       squared error               squared error, no ½       Normal, scale √½     equal up to a constant
free nats        1                           1                        1, `tiny` 0.01       see cards/rssm_dream.toml
harmony          –                           –                         ``harmony``, off     vectors are scaled too
memory           h_t                         h_t                       ``carry``, on        off: what memory is worth
context step     first step from the replay  latents stored in replay  zeros, or ``start``  the agent decides
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.formula import (
    KL,
    Bernoulli,
    Deterministic,
    E,
    Expression,
    Factor,
    Joint,
    Mean,
    Normal,
    OneHot,
    TwoHot,
    maximum,
    sg,
)
from worldformula.formula.code.out import Out
from worldformula.nets import sizes as published
from worldformula.nets.conv import STAGES, ImageDecoder, Style
from worldformula.nets.encoder import Encoder, Symlog
from worldformula.nets.gru import BlockGRU
from worldformula.nets.mlp import MLP, VectorDecoder
from worldformula.nets.parts import Choices, Part, Parts, Stack, alike
from worldformula.nets.sizes import Sizes
from worldformula.world import MASK, World, harmony, views
from worldformula.world.aside import Aside
from worldformula.world.embeddings import DECODED, Target, predicted, require_target
from worldformula.world.observations import Names, square
from worldformula.world.weights import Weights, less


@dataclass(frozen=True)
class RSSMConfig:
    """Widths and loss weights of the world model."""

    sizes: Sizes = field(default_factory=published.size12m)
    """Widths of all networks."""
    stages: tuple[int, ...] = STAGES
    """Channels of the image stages, in multiples of sizes.depth; each stage halves the image."""
    style: Style = "pool"
    """How an encoder stage halves the image: pool (the authors' code) or stride (cheaper on a CPU)."""
    patch: int = 1
    """Squares of patch × patch pixels enter the image networks as one; 4 is cheap on a CPU, 1 is the paper."""
    unimix: float = 0.01
    """Share of the uniform distribution in prior and posterior."""
    free_nats: float = 1.0
    """KL below which a step is not pushed further."""
    dynamics: float = 1.0
    """Weight of KL(sg q ‖ p)."""
    representation: float = 0.1
    """Weight of KL(q ‖ sg p)."""
    target: Target = "reconstruction"
    """What a state has to tell: its reconstruction; in the place of all decoders barlow, info_nce, next, cpc,
    prototypes or none; or twister, cpc beside the reconstruction."""
    prototypes: int = 2500
    """How many prototypes there are, where they are the target."""
    harmony: bool = False
    """Learn the scales of reward, reconstruction and divergences (HarmonyDream), instead of their weights."""
    carry: bool = True
    """Whether h_t remembers. Without, it is zero in every state, and a state tells the present observation alone."""
    weights: tuple[str, ...] = ()
    """Of predictions in the loss, key=number each, by the key of the observation, or reward and continue; 1 of all
    others. With 0 a head is built and not learnt."""
    reward_gradient: bool = True
    """Whether what the reward's head learns shapes the states too."""
    zeroed: tuple[str, ...] = ()
    """Observations that are not read, by their keys: zeros stand in their place."""
    aside: tuple[str, ...] = ()
    """Words or numbers, by their keys, that a policy and its critic read, and nothing else does: n_t of a state."""

    def __post_init__(self) -> None:
        require_target(self.target)
        if self.harmony and (self.target != "reconstruction" or not self.dynamics + self.representation > 0):
            raise ConfigError(
                f"harmony scales a reconstruction and divergences: expected target=reconstruction and dynamics or "
                f"representation > 0, got {self.target}, {self.dynamics} and {self.representation}"
            )
        if not self.stages or min(self.stages) < 1 or self.patch < 1:
            raise ConfigError(f"expected stages ≥ 1 each and patch ≥ 1, got stages={self.stages}, patch={self.patch}")
        if self.weights and self.harmony:
            raise ConfigError(f"harmony learns the weights: expected weights empty, got {', '.join(self.weights)}")
        if self.prototypes < 2:
            raise ConfigError(f"expected two prototypes or more, got {self.prototypes}")
        if min(self.free_nats, self.dynamics, self.representation) < 0:
            raise ConfigError(
                f"expected free_nats, dynamics and representation ≥ 0, got {self.free_nats}, {self.dynamics}, "
                f"{self.representation}"
            )


def paper() -> RSSMConfig:
    """12 million parameters."""
    return RSSMConfig()


def official() -> RSSMConfig:
    """The default of the authors' code: 200 million parameters."""
    return RSSMConfig(published.size200m())


def sized(name: str) -> RSSMConfig:
    """Any published size, ``size1m`` to ``size400m``."""
    return RSSMConfig(published.PUBLISHED[name]())


def tiny() -> RSSMConfig:
    """For 32-pixel images on two CPU cores."""
    sizes = Sizes(deter=128, hidden=64, classes=8, groups=16, blocks=1, depth=8, units=64)
    return RSSMConfig(sizes, stages=(4, 8), style="stride", patch=4, free_nats=0.01, prototypes=256)


# -------------------------------------------------------------------------------------------------------------- formula


def build(
    config: RSSMConfig, observations: Mapping[str, tuple[int, ...]], actions: int | Mapping[str, int],
    classes: Mapping[str, Sequence[int]] | None = None, masks: Mapping[str, str] | None = None,
) -> World:  # fmt: skip
    """The world model over these observations (key -> shape) and actions: the width of a_t, or widths by name, a_1 …

    ``classes``: of the observations that are one-hots, how many classes each of their choices has. ``masks``: of which
    actions it predicts what is allowed, and the variable of each mask, ``{"a": "M"}``.
    """
    names, size = Names.of(observations), config.sizes
    beside = Aside.of(config.aside, observations, names, classes or {})
    widths = {"a": actions} if isinstance(actions, int) else dict(actions)
    if not widths or min(widths.values()) < 1:
        raise ConfigError(f"expected at least one action dimension, got {actions}")
    own = {key: tuple(observations[key]) for key in names.all if key not in config.aside}
    images, vectors = ({k: own[k] for k in kind if k in own} for kind in (names.images, names.vectors))
    weights = Weights(config.weights, own)
    encoder = _encoder(config, images, vectors, classes or {})

    def head(*sizes: Any, **told: Any) -> MLP:
        return MLP(size.feature, sizes[0], size.units, *sizes[1:], **told)

    given = ", ".join(Names.at(names.all[key]) for key in own)
    embed = Deterministic(f"e_t = enc({given})", encoder)
    core, prior, post = _through_time(config, widths, encoder.width)
    reward = TwoHot("p(r_t|h_t,z_t)", head(255, 1, 0.0, stopped=not config.reward_gradient))
    proceed = Bernoulli("p(c_t|h_t,z_t)", head(1, 1), shape=())
    decoded = config.target in DECODED
    seen = _Decoded.of(config, images, vectors, names, dict(classes or {}), weights) if decoded else _Decoded()
    extra, told = _told(config, embed, prior, list(names.images.values()), encoder.width, widths)
    allowed = {
        action: Bernoulli(f"p({Names.at(word)}|h_t,z_t)", head(widths[action], 1), shape=widths[action])
        for action, word in (masks or {}).items()
    }

    dyn, rep = KL(sg(post), prior), KL(post, sg(prior))
    dyn, rep = maximum(dyn, config.free_nats), maximum(rep, config.free_nats)
    plain = [*zip(seen.scored, seen.weights, strict=True), (reward, weights["reward"])]
    if config.harmony:
        extra, step, plain = (
            (*extra, harmony.scales("first")),
            harmony.harmonised((config.dynamics, dyn), (config.representation, rep), reward, seen.scored),
            [],
        )
    else:
        step = config.dynamics * dyn + config.representation * rep
    for factor, weight in (*plain, (proceed, weights["continue"]), *((mask, 1.0) for mask in allowed.values())):
        step = less(step, factor, weight)
    step = step if told is None else step + told
    draws = Joint.of(*seen.targets, embed, *core.factors, post, *beside.heard, *seen.trunk, *extra)
    loss = Mean("t", E(draws, step), reset="first").mean()
    return World(
        prior=math.prod(beside.held, start=core * prior), posterior=math.prod(beside.heard, start=embed * core * post),
        heads=[*seen.heads, reward, proceed, *allowed.values()],
        loss=loss, roles={"reward": "r", "continue": "c"} | {MASK + a: f.variable.key for a, f in allowed.items()},
        observations=names.all, aside=config.aside,
    )  # fmt: skip


def _through_time(config: RSSMConfig, actions: Mapping[str, int], seen: int) -> tuple[Joint, Factor, Factor]:
    """What carries a state on, its prior, and its posterior, which reads e_t of the width ``seen``."""
    size, latent = config.sizes, (config.sizes.groups, config.sizes.classes)
    gru = BlockGRU(size.deter, size.stoch, sum(actions.values()), size.hidden, size.blocks)
    acted = ", ".join(Names.at(word, "t-1") for word in actions)
    ahead = "h" if config.carry else "u"  # u_t foresees z_t, and what reads a state does not know it
    core = Joint.of(Deterministic(f"{ahead}_t = f(h_{{t-1}}, z_{{t-1}}, {acted})", gru, shape=size.deter))
    if not config.carry:
        core = core * Deterministic("h_t = zeros(u_t)", torch.zeros_like, shape=size.deter)
    prior = OneHot(f"p(z_t|{ahead}_t)", MLP(size.deter, size.stoch, size.hidden, 2), shape=latent, unimix=config.unimix)
    posterior = MLP(size.deter + seen, size.stoch, size.hidden, 1)
    return core, prior, OneHot("q(z_t|h_t,e_t)", posterior, shape=latent, unimix=config.unimix)


def _encoder(
    config: RSSMConfig, images: Mapping[str, tuple[int, ...]], vectors: Mapping[str, tuple[int, ...]],
    classes: Mapping[str, Sequence[int]],
) -> Encoder:  # fmt: skip
    """The encoder of everything that is observed, but for what is not read."""
    known = (*images, *vectors)
    if unknown := [key for key in config.zeroed if key not in known]:
        raise ConfigError(f"zeroed: {unknown[0]!r} is not observed; these are: {', '.join(known)}")
    if images:
        square(images)
    return Encoder(
        images, vectors, config.sizes, stages=config.stages, style=config.style, patch=config.patch, choices=classes,
        zeroed=config.zeroed,
    )  # fmt: skip


def _told(
    config: RSSMConfig, embed: Deterministic, prior: Factor, pictures: Sequence[str], width: int,
    actions: Mapping[str, int],
) -> tuple[tuple[Factor, ...], Expression | None]:  # fmt: skip
    """What is drawn for the term in the place of a decoder, or beside it, and the term."""
    size = config.sizes
    if config.target in ("cpc", "twister"):
        return views.foreseen(embed, prior, pictures, size.feature, width, actions, size.units)
    if config.target == "prototypes":
        return views.prototyped(embed, pictures, size.feature, width, config.prototypes)
    return predicted(config.target, size.feature, width, actions, size.units)


def surprise(config: RSSMConfig, out: Out) -> Tensor:
    """The loss at every step, ``[B, T]``, of a result of ``world.loss``: divergences above their free nats, less the
    log-densities, with the weights of the settings. What is a number of all rows together (``target``) is left out.
    """
    total: Any = 0.0
    for title, value in out.steps.items():
        if title.startswith("KL("):
            weight = config.dynamics if title.startswith("KL(sg(") else config.representation
            total = total + weight * value.clamp(min=config.free_nats)
        elif title.startswith("log "):
            total = total - value
    found: Tensor = total.detach()
    return found


ERROR = math.sqrt(0.5)  # the scale of a Normal whose −log p is a squared error without its ½


@dataclass
class _Decoded:
    """What is predicted of the observations: what the loss scores, by which weights, what that reads, and the heads of
    the world.
    """

    scored: list[Factor] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    targets: list[Factor] = field(default_factory=list)
    trunk: list[Factor] = field(default_factory=list)
    heads: list[Factor] = field(default_factory=list)

    @classmethod
    def of(
        cls, config: RSSMConfig, images: Mapping[str, tuple[int, ...]], vectors: Mapping[str, tuple[int, ...]],
        names: Names, classes: Mapping[str, Sequence[int]], weights: Weights,
    ) -> _Decoded:  # fmt: skip
        """One decoder for all images, and one for all vectors together."""
        found = cls()
        if images:
            found._images(config, {names.images[key]: shape for key, shape in images.items()})
            found.weights.append(weights.common(images, "pictures"))
        if vectors:
            widths = {names.vectors[k]: math.prod(s) for k, s in vectors.items() if k not in classes}
            choices = {names.vectors[k]: tuple(classes[k]) for k in vectors if k in classes}
            found._vectors(config, widths, choices)
            numbers = [key for key in vectors if key not in classes]
            found.weights += [weights.common(numbers, "numbers")] if numbers else []
            found.weights += [weights[key] for key in vectors if key in classes for _ in alike(classes[key])]
        return found

    def _images(self, config: RSSMConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
        size, first = config.sizes, next(iter(shapes.values()))
        channels = [shape[-1] for shape in shapes.values()]
        net = ImageDecoder(
            first[0], sum(channels), size.depth, size.deter, size.stoch, size.units, config.stages, size.blocks,
            config.patch,
        )  # fmt: skip
        if len(shapes) == 1:
            (word,) = shapes
            self.scored = [Normal(f"p({Names.at(word)}|h_t,z_t)", net, shape=first, scale=ERROR)]
            self.heads = list(self.scored)
            return
        whole = (*first[:2], sum(channels))
        self.targets = [Deterministic(f"i_t = stack({', '.join(map(Names.at, shapes))})", Stack(), shape=whole)]
        self.scored = [Normal("p(i_t|h_t,z_t)", net, shape=whole, scale=ERROR)]
        ends = list(itertools.accumulate(channels))
        for (word, shape), stop in zip(shapes.items(), ends, strict=True):
            part = Part(net, stop - shape[-1], stop)
            self.heads.append(Normal(f"p({Names.at(word)}|h_t,z_t)", part, shape=shape, scale=ERROR))

    def _vectors(self, config: RSSMConfig, widths: Mapping[str, int], choices: Mapping[str, tuple[int, ...]]) -> None:
        """Numbers together are y_t, whole numbers of as many classes a choice k_{1,t}, k_{2,t}, … each."""
        size, total = config.sizes, sum(widths.values())
        events = [event for several in choices.values() for event in alike(several)]
        net = VectorDecoder(size.deter, size.stoch, [*widths.values(), *map(sum, choices.values())], size.units)
        if widths:
            given = ", ".join(map(Names.at, widths))
            self.targets.append(Deterministic(f"y_t = symlog({given})", Symlog(), shape=total))
        if not choices:
            self.scored.append(Normal("p(y_t|h_t,z_t)", net, shape=total, scale=ERROR))
            self.heads.append(self.scored[-1])
            return
        words, logits = [Names.at(word) for word in choices], ["g_t"]
        if len(events) > 1 or len(events[0]) > 1:
            given = ", ".join(words)
            words = [f"k_{{{i},t}}" for i in range(1, len(events) + 1)] if len(events) > 1 else ["k_t"]
            logits = [word.replace("k", "g") for word in words]
            apart = Choices(events)
            self.targets.append(Deterministic(f"{', '.join(words)} = choices({given})", apart, shape=_shapes(events)))
        if len(events) == 1 and not widths:
            self.scored.append(OneHot(f"p({words[0]}|h_t,z_t)", net, shape=events[0]))
            self.heads.append(self.scored[-1])
            return
        parts = [("d_t", "y_t", (total,)), *zip(logits, words, events, strict=True)][0 if widths else 1 :]
        read = ", ".join(name for name, _, _ in parts)
        split = Parts(net, wide := [math.prod(event) for *_, event in parts])
        self.trunk.append(Deterministic(f"{read} = dec(h_t, z_t)", split, shape=[(width,) for width in wide]))
        ends = list(itertools.accumulate(wide))
        for (name, word, event), width, stop in zip(parts, wide, ends, strict=True):
            part = Part(net, stop - width, stop)
            for given, own, kept in ((name, nn.Identity(), self.scored), ("h_t,z_t", part, self.heads)):
                numbers = word == "y_t"
                kept.append(
                    Normal(f"p(y_t|{given})", own, shape=width, scale=ERROR)
                    if numbers
                    else OneHot(f"p({word}|{given})", own, shape=event)
                )


def _shapes(events: list[tuple[int, ...]]) -> list[tuple[int, ...]] | tuple[int, ...]:
    """Of one output, or of several."""
    return events if len(events) > 1 else events[0]


def _demo() -> None:
    """Print the formula and the emitted code; take one training step on random images."""
    world = build(tiny(), {"image": (32, 32, 3)}, 2)
    print(world.loss, world.loss.code, world.loss.explain(), sep="\n\n")
    B, T = 4, 8
    batch: dict[str, Any] = {"x": torch.rand(B, T, 32, 32, 3), "a": torch.rand(B, T, 2), "r": torch.rand(B, T)}
    out = world.loss(**batch, c=torch.ones(B, T), first=torch.zeros(B, T, dtype=torch.bool), seed=0)
    out.value.backward()
    print({term: round(value.item(), 3) for term, value in out.terms.items()})


SYSTEM = System(
    name="rssm",
    kind="worlds",
    paper="Hafner, Pasukonis, Ba & Lillicrap 2025, Nature 640; arXiv:2301.04104",
    bibtex="""@article{hafner2025dreamerv3, title={Mastering diverse control tasks through world models},
  author={Hafner, Danijar and Pasukonis, Jurgis and Ba, Jimmy and Lillicrap, Timothy}, journal={Nature}, volume={640},
  year={2025}}""",
    presets={"paper": paper, "official": official, "tiny": tiny}
    | {name: partial(sized, name) for name in published.PUBLISHED},
    build=build,
    summary="Recurrent state-space model with categorical latents, the world model of DreamerV3.",
)

if __name__ == "__main__":
    _demo()
