r"""The intrinsic curiosity module (Pathak, Agrawal, Efros & Darrell 2017; arXiv:1705.05363, eq. 2 to 7).

    features  φ = φ(x),  φ' = φ(x')
    inverse   L_I = −log g(a|φ, φ')                   what of x an action can be told from
    forward   L_F = ½ ‖\hat φ − φ'‖²,  \hat φ = f(φ, a)
    loss      mean  w·((1 − β) L_I + β L_F)
    bonus     (η / 2) ‖\hat φ − φ'‖²

Noise that no action has made tells nothing about actions, so that it need not stand in φ, and earns no bonus. Gradients
of both losses reach φ, as in the authors' code; none reaches x.

| deviation | paper | authors' code | here |
|---|---|---|---|
| L_F, bonus | as above | × 288, the width of φ; bonus × 0.01 | as above; the bonus 1 on average, ``rate`` |
| x | four frames | four frames | any variables of a state |
| actions | choices | choices | choices, flags, and numbers by a Normal of scale 1 |
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from worldformula.errors import ConfigError
from worldformula.formula import Bernoulli, Deterministic, E, Factor, Joint, Normal, OneHot, Value, log, norm2
from worldformula.learners.curiosity.contract import WEIGHT, Curious, Sequences, transitions
from worldformula.nets.mlp import MLP
from worldformula.planner import ActionSet


class ICM(Curious):
    """Features, an inverse and a forward model of them; the error of the latter is the bonus.

    Args:
        features: names and shapes of x, ``{"z": (G, K)}``. What holds the action before, as h does, tells the inverse
            model everything, and it learns nothing.
        actions: what each action may be, by variable.
        width: of φ.
        beta: β, the share of the forward loss.
        eta: η, of the bonus, where ``rate`` is 0.
        units: of each hidden layer.
        layers: hidden layers.
        rate: see `Curious`.

    Raises:
        ConfigError: β outside (0, 1), η ≤ 0.
    """

    def __init__(
        self, features: Mapping[str, tuple[int, ...]], actions: Mapping[str, ActionSet], *, width: int = 288,
        beta: float = 0.2, eta: float = 1.0, units: int = 256, layers: int = 1, rate: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__(features, actions, rate)
        if not 0 < beta < 1 or eta <= 0 or width < 1:
            raise ConfigError(f"expected beta in (0, 1), eta > 0 and width ≥ 1, got {beta}, {eta} and {width}")
        self.eta = eta
        inputs, acts = sum(math.prod(s) for s in features.values()), sum(own.size for own in actions.values())
        self.encode, self.ahead = MLP(inputs, width, units, layers), MLP(width + acts, width, units, layers)
        self.phi = Deterministic(f"phi = phi({','.join(self.features)})", self.encode, shape=width)
        later = self.phi.rename(phi="phi'", **{name: f"{name}'" for name in self.features})
        hat = Deterministic(rf"\hat phi = f(phi,{','.join(self.actions)})", self.ahead, shape=width)
        missed = norm2(Value(r"\hat phi") - Value("phi'"))
        self.inverse = nn.ModuleDict({name: MLP(2 * width, own.size, units, layers) for name, own in actions.items()})
        told = [log(_inverse(name, own, self.inverse[name])) for name, own in actions.items()]
        inverse = -told[0]
        for one in told[1:]:
            inverse = inverse - one
        both = Value(WEIGHT) * ((1 - beta) * inverse + 0.5 * beta * missed)
        self.__dict__["loss"] = E(Joint.of(self.phi, later, hat), both).mean()

    def data(self, states: Sequences, first: Tensor) -> dict[str, Tensor]:
        """The steps of replayed states."""
        found = transitions(states, (*self.features, *self.actions), self.features, first)
        self._measure(found, {name: found[f"{name}_prime"] for name in self.features}, found[WEIGHT])
        return found

    def bonus(self, before: Sequences, after: Sequences) -> Tensor:
        """The error of the forward model of steps ``[M, ...]``."""
        phi, later = (self.encode(*(side[name] for name in self.features)) for side in (before, after))
        ahead = self.ahead(phi, *(before[name] for name in self.actions))
        return 0.5 * self.eta * (ahead - later).square().sum(-1)


def _inverse(name: str, own: ActionSet, net: nn.Module) -> Factor:
    header = f"g({name}|phi,phi')"
    if own.kind == "numbers":
        return Normal(header, net, shape=own.size, scale=1.0)
    return OneHot(header, net, shape=own.size) if own.kind == "choice" else Bernoulli(header, net, shape=own.size)
