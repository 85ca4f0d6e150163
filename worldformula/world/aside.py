"""What only a policy and its critic are told, and no world: a bag of the words heard so far, or the last numbers.

    acting, data    n_t = heard(n_{t-1}, k_t)       of words the larger of both, so that one that was heard stays
    dreams          n_t = held(n_{t-1})             nothing is said in a dream

As it is a part of the state, whatever reads a state may read it, and an episode begins with none. The world neither
encodes nor predicts it, so that no dream says what a word means: the usual way to tell an agent what to do, beside
which Dynalang stands (Lin et al. 2024, arXiv:2308.01399, figure 6).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError, near
from worldformula.formula import Deterministic
from worldformula.world.observations import Names

NAME = "n"
"""The variable of a state that holds it."""


class Heard(nn.Module):
    """``[N, width]`` so far, and what is observed, to ``[N, width]``; ``words`` are the widths of which are."""

    def __init__(self, widths: Sequence[int], words: Sequence[bool]) -> None:
        super().__init__()
        self.widths, self.words = tuple(widths), tuple(words)

    def forward(self, before: Tensor, *seen: Tensor) -> Tensor:
        """Words stay, numbers are the last ones."""
        parts = zip(before.split_with_sizes(self.widths, -1), seen, self.words, strict=True)
        return torch.cat([torch.maximum(old, x.flatten(1)) if word else x.flatten(1) for old, x, word in parts], -1)


@dataclass(frozen=True)
class Aside:
    """heard: the factor of the data. held: that of dreams. width: of both, 0 where there is none."""

    heard: tuple[Deterministic, ...] = ()
    held: tuple[Deterministic, ...] = ()
    width: int = 0

    @classmethod
    def of(
        cls, keys: Sequence[str], observations: Mapping[str, tuple[int, ...]], names: Names, words: Collection[str]
    ) -> Aside:
        """Of these observations (key -> shape); ``words``: which of them are one-hots.

        Raises:
            ConfigError: an observation that there is not, a picture, or none left for the world.
        """
        if not keys:
            return cls()
        known = names.vectors
        if unknown := [key for key in keys if key not in known]:
            raise ConfigError(
                f"aside: expected words or numbers that are observed, {', '.join(known) or 'of which there are none'}, "
                f"got {unknown[0]!r}{near(unknown[0], known)}"
            )
        if set(keys) >= set(observations):
            raise ConfigError(f"aside: expected an observation for the world too, got all of them: {', '.join(keys)}")
        chosen = [key for key in known if key in keys]
        widths = [math.prod(observations[key]) for key in chosen]
        read, width = ", ".join(Names.at(known[key]) for key in chosen), sum(widths)
        heard = Heard(widths, [key in words for key in chosen])
        return cls(
            (Deterministic(f"{NAME}_t = heard({NAME}_{{t-1}}, {read})", heard, shape=width),),
            (Deterministic(f"{NAME}_t = held({NAME}_{{t-1}})", nn.Identity(), shape=width),),
            width,
        )  # fmt: skip
