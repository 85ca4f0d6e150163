"""The published sizes of DreamerV3: everything scales with the width of the model (Hafner et al. 2025, table of sizes).

The names give the order of magnitude of the parameters of world model, actor and critic together. The paper's table has
a recurrent state of 1024 for 12M; the authors' code, followed here, has 2048.
"""

from __future__ import annotations

from dataclasses import dataclass

from worldformula.errors import ConfigError


@dataclass(frozen=True)
class Sizes:
    """Widths of one model."""

    deter: int
    """The recurrent state h."""
    hidden: int
    """Hidden layers of the dynamics."""
    classes: int
    """Classes of each variable of the latent state z."""
    depth: int
    """Channels of the images' networks, before the multipliers of the stages."""
    units: int
    """Hidden layers of the heads, of the actor and of the critic."""
    groups: int = 32
    """Variables of the latent state z: it has groups × classes numbers."""
    blocks: int = 8
    """Blocks of the recurrent core; they divide deter."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ConfigError(f"Sizes: {name} expected at least 1, got {value}.")
        if self.deter % self.blocks:
            raise ConfigError(
                f"Sizes: deter expected a multiple of blocks={self.blocks}, got {self.deter}. "
                f"Write deter={self.deter // self.blocks * self.blocks or self.blocks}."
            )

    @property
    def stoch(self) -> int:
        """Width of the flattened latent state z."""
        return self.groups * self.classes

    @property
    def feature(self) -> int:
        """Width of h and the flattened z together: what the heads read."""
        return self.deter + self.stoch


def scaled(hidden: int, classes: int) -> Sizes:
    """The rule behind the table: deter is 8 × hidden, depth equals classes, units equals hidden."""
    return Sizes(deter=8 * hidden, hidden=hidden, classes=classes, depth=classes, units=hidden)


def size1m() -> Sizes:
    """0.64 million parameters with 24 sensor values and 6 actions."""
    return scaled(64, 4)


def size12m() -> Sizes:
    """9.7 million parameters with 24 sensor values and 6 actions."""
    return scaled(256, 16)


def size25m() -> Sizes:
    """21.8 million parameters with 24 sensor values and 6 actions."""
    return scaled(384, 24)


def size50m() -> Sizes:
    """38.6 million parameters with 24 sensor values and 6 actions."""
    return scaled(512, 32)


def size100m() -> Sizes:
    """86.6 million parameters with 24 sensor values and 6 actions."""
    return scaled(768, 48)


def size200m() -> Sizes:
    """153.8 million parameters with 24 sensor values and 6 actions; the default of the authors' code."""
    return scaled(1024, 64)


def size400m() -> Sizes:
    """345.5 million parameters with 24 sensor values and 6 actions."""
    return scaled(1536, 96)


PUBLISHED = {
    "size1m": size1m, "size12m": size12m, "size25m": size25m, "size50m": size50m, "size100m": size100m,
    "size200m": size200m, "size400m": size400m,
}  # fmt: skip
"""All of them, by name."""
