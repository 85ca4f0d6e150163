"""Which bonus an agent has, as settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from worldformula.errors import ConfigError, near
from worldformula.learners.curiosity.contract import Curious
from worldformula.learners.curiosity.disagreement import Disagreement
from worldformula.learners.curiosity.icm import ICM
from worldformula.planner import ActionSet

Kind = Literal["none", "disagreement", "icm"]
Aim = Literal["embedding", "latent"]


@dataclass(frozen=True)
class CuriositySettings:
    """A bonus beside the reward, and how it is learnt."""

    kind: Kind = "none"
    """The bonus: disagreement (Plan2Explore), icm (the error among features that actions are told from), or none."""
    bonus: float = 1.0
    """Weight of the bonus in what the policy learns by."""
    reward: float = 1.0
    """Weight of the reward beside it; 0 explores for its own sake."""
    rate: float = 0.01
    """Step of the running mean that the bonus is divided by; 0 leaves it as it is."""
    units: int = 400
    """Width of the hidden layers of its networks."""
    layers: int = 4
    """Hidden layers of its networks."""
    target: Aim = "embedding"
    """What the members of an ensemble predict: the next embedding, or the next latent z."""
    members: int = 10
    """Members of the ensemble."""
    width: int = 288
    """Width of the features of an icm."""
    beta: float = 0.2
    """Share β of the forward loss of an icm."""
    eta: float = 1.0
    """η of the bonus of an icm, where rate is 0."""

    def __post_init__(self) -> None:
        for word, known in ((self.kind, get_args(Kind)), (self.target, get_args(Aim))):
            if word not in known:
                raise ConfigError(f"expected one of {', '.join(known)}, got {word!r}.{near(word, known)}")
        if min(self.units, self.layers, self.width, self.members - 1) < 1:
            raise ConfigError(
                "expected units, layers and width ≥ 1 and members ≥ 2, got "
                f"{self.units}, {self.layers}, {self.width} and {self.members}"
            )
        if not 0 < self.beta < 1 or self.eta <= 0 or not 0 <= self.rate <= 1:
            raise ConfigError(
                f"expected beta in (0, 1), eta > 0 and rate in [0, 1], got {self.beta}, {self.eta} and {self.rate}"
            )

    @property
    def weights(self) -> dict[str, float]:
        """The weights of an agent's cost; empty without a bonus."""
        return {} if self.kind == "none" else {"reward": self.reward, self.kind: self.bonus}


def curious_by(
    settings: CuriositySettings, features: Mapping[str, tuple[int, ...]], space: Mapping[str, ActionSet], embedding: int
) -> dict[str, Curious]:
    """The bonus by its name, or nothing, for a world whose states are told by ``features``, the last of which is what
    it sees of a step (z, of h and z), and whose embedding e_t has the given width.
    """
    own, seen = settings, list(features)[-1]
    sizes = {"units": own.units, "layers": own.layers}
    if own.kind == "disagreement":
        target = ("e", (embedding,)) if own.target == "embedding" else (seen, tuple(features[seen]))
        acts = {name: act.size for name, act in space.items()}
        return {own.kind: Disagreement(features, acts, target, members=own.members, rate=own.rate, **sizes)}
    if own.kind == "icm":
        told = {seen: tuple(features[seen])}
        return {own.kind: ICM(told, space, width=own.width, beta=own.beta, eta=own.eta, rate=own.rate, **sizes)}
    return {}
