"""Observations of an environment as variables of a formula: names, and heads that score each with unit variance."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn

from worldformula.errors import SpaceError
from worldformula.formula import Deterministic, Factor, Normal, OneHot, Uniform
from worldformula.formula.plan.variables import CALL_OPTIONS
from worldformula.nets.plain import Plain
from worldformula.nets.strided import Bits, Sight, StridedDecoder, StridedEncoder

TAKEN = {*"acdefghiknpqrtuyzMT", "self", "sg", "enc", "symlog", "first", *CALL_OPTIONS}
"""Names that mean something else in the formula or in a call of it."""


@dataclass(frozen=True)
class Names:
    """Observation keys as variables of the formula: a single observation is the paper's x, several keep their names."""

    images: dict[str, str]
    vectors: dict[str, str]

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]], taken: Collection[str] = ()) -> Names:
        """``shapes``: observation key -> shape; three axes are an image. ``taken``: what else the formula names."""
        if not shapes:
            raise SpaceError("expected at least one observation, got none")
        words = {key: "".join(c for c in key if c.isalpha() and c.isascii()) or "o" for key in sorted(shapes)}
        if len(set(words.values())) < len(words) or {*TAKEN, *taken} & set(words.values()):
            words = {key: f"o_{i}" for i, key in enumerate(words, 1)}
        if len(shapes) == 1:
            words = dict.fromkeys(shapes, "x")
        return cls(
            {k: w for k, w in words.items() if len(shapes[k]) == 3},
            {k: w for k, w in words.items() if len(shapes[k]) != 3},
        )

    def sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[list[tuple[int, ...]], int]:
        """The shapes of the images, squares of one size, and how many numbers there are besides.

        Raises:
            SpaceError: images of other sizes.
        """
        images = {key: tuple(shapes[key]) for key in self.images}
        if images:
            square(images)
        return list(images.values()), sum(math.prod(shapes[key]) for key in self.vectors)

    @property
    def all(self) -> dict[str, str]:
        """Observation key -> variable, images first."""
        return self.images | self.vectors

    @staticmethod
    def at(word: str, time: str = "t") -> str:
        """The variable with its time index: ``x_t``, ``o_{1,t}``, ``a_{t-1}``."""
        base, _, number = word.partition("_")
        return f"{base}_{{{number},{time}}}" if number else f"{base}_t" if time == "t" else f"{base}_{{{time}}}"


def square(images: Mapping[str, tuple[int, ...]]) -> int:
    """The one edge that all images share."""
    edges = {edge for shape in images.values() for edge in shape[:2]}
    if len(edges) != 1:
        shapes = ", ".join(f"{key} {shape}" for key, shape in images.items())
        raise SpaceError(
            f"expected square images of one size, got {shapes}; resize them with --set env.size=64 (size=64 of Envs)"
        )
    return edges.pop()


Activation = Callable[[], nn.Module]
Classes = Mapping[str, Sequence[int]]


class Widths(Protocol):
    """What the networks of observations read of a world's settings."""

    @property
    def depth(self) -> int:
        """Channels of the first stage of an image."""
        ...

    @property
    def units(self) -> int:
        """Hidden layers of networks of vectors."""
        ...

    @property
    def seen_layers(self) -> int:
        """How many of them there are."""
        ...


@dataclass
class Observed:
    """What a world sees, and what it predicts of that, each observation with a network and unit variance of its own.

    embed: e_t of all observations. before: what of them is computed or drawn first. scored: the factors of the loss.
    heads: the factors of the world, over the observations themselves. width: of e_t.
    """

    embed: Deterministic
    width: int
    before: list[Factor] = field(default_factory=list)
    scored: list[Factor] = field(default_factory=list)
    heads: list[Factor] = field(default_factory=list)

    @classmethod
    def of(
        cls, config: Widths, shapes: Mapping[str, tuple[int, ...]], names: Names, *, given: str, inputs: int,
        images: Activation, vectors: Activation, bits: int = 0, classes: Classes | None = None, spread: float = 1.0,
    ) -> Observed:  # fmt: skip
        """Networks and factors.

        Args:
            config: widths.
            shapes: observation key -> shape; three axes are an image.
            names: their variables.
            given: what the heads read, ``h_t,z_t``.
            inputs: the width of that.
            images: makes the activations of networks of images.
            vectors: makes those of networks of vectors.
            bits: of a colour, as PlaNet reads images; 0 reads them as they are.
            classes: of the observations that are one-hots, how many classes each of their choices has. Where these are
                as many for all, they are predicted as choices, k_t, and not as numbers.
            spread: the deviation of the laws of vectors.
        """
        pictures, numbers = ({k: tuple(shapes[k]) for k in group} for group in (names.images, names.vectors))
        edge = square(pictures) if pictures else 0
        channels = sum(shape[-1] for shape in pictures.values())
        sight = StridedEncoder(edge, channels, config.depth, images) if pictures else None
        wide = sum(math.prod(shape) for shape in numbers.values())
        felt = Plain(wide, config.units, config.units, config.seen_layers - 1, vectors) if numbers else None
        width = (sight.width if sight else 0) + (config.units if felt else 0)
        words = {key: Names.at(word) for key, word in names.all.items()}
        read = {key: f"\\hat {word}" if bits and key in pictures else word for key, word in words.items()}
        embed = Deterministic(f"e_t = enc({', '.join(read.values())})", Sight(sight, len(pictures), felt, vectors()))
        found = cls(embed, width)
        for word, apart, several in (chosen := _choices(names, classes or {})).values():
            found.before.append(Deterministic(f"{apart} = choices({word})", nn.Unflatten(-1, several), shape=several))
        found.heads = decoders(
            config, shapes, names, given=given, inputs=inputs, images=images, vectors=vectors, classes=classes,
            spread=spread,
        )  # fmt: skip
        found.scored = list(found.heads)
        for i, (key, word) in enumerate(words.items(), 1):
            if read[key] == word or key in chosen:
                continue
            noise, head = "u_t" if len(pictures) == 1 else f"u_{{{i},t}}", found.heads[i - 1]
            found.before.append(Uniform(f"p({noise})", shape=head.shape))
            found.before.append(Deterministic(f"{read[key]} = bits({word}, {noise})", Bits(bits), shape=head.shape))
            found.scored[i - 1] = Normal(f"p({read[key]}|{given})", head.net, shape=head.shape, scale=1.0)
        return found


def decoders(
    config: Widths, shapes: Mapping[str, tuple[int, ...]], names: Names, *, given: str, inputs: int,
    images: Activation, vectors: Activation, classes: Classes | None = None, law: str = "p", spread: float = 1.0,
) -> list[Factor]:  # fmt: skip
    """A head of each observation, in the order of ``names``: see `Observed.of`. ``law`` is what they are called."""
    found: list[Factor] = []
    chosen = _choices(names, classes or {})
    for key, word in names.all.items():
        shape, header = tuple(shapes[key]), f"{law}({Names.at(word)}|{given})"
        if key in names.images:
            net: nn.Module = StridedDecoder(inputs, shape[0], shape[-1], config.depth, images)
            found.append(Normal(header, net, shape=shape, scale=1.0))
            continue
        net = Plain(inputs, math.prod(shape), config.units, config.seen_layers, vectors)
        if key in chosen:
            _, apart, several = chosen[key]
            found.append(OneHot(f"{law}({apart}|{given})", net, shape=several))
        else:
            found.append(Normal(header, net, shape=(math.prod(shape),), scale=spread))
    return found


def _choices(names: Names, classes: Classes) -> dict[str, tuple[str, str, tuple[int, int]]]:
    """What is predicted as choices: observation key -> its variable, that of its choices, and their shape."""
    alike = {key: tuple(counts) for key, counts in classes.items() if key in names.vectors and len(set(counts)) == 1}
    words = [f"k_{{{i},t}}" for i in range(1, len(alike) + 1)] if len(alike) > 1 else ["k_t"]
    return {
        key: (Names.at(names.vectors[key]), word, (len(counts), counts[0]))
        for (key, counts), word in zip(alike.items(), words, strict=False)
    }
