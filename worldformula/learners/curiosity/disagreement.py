"""The disagreement of an ensemble of one-step predictors (Sekar et al. 2020, Plan2Explore; arXiv:2005.05960, eq. 5).

    loss      mean  w·Σ_k −log p_k(e'|h,z,a),  p_k = N(μ_k(h,z,a), 1)          K members, k = 1 … K
    bonus     D(h,z,a) = mean over the dimensions of  Σ_k (μ_k − μ̄)² / (K − 1)

What differs between the members is what the data leave open; noise, which all of them average alike, is no bonus. The
features and the target are the world's, and no gradient reaches them.

| deviation | paper | authors' later code | here |
|---|---|---|---|
| target | embedding of the next image | next z | either, ``target`` |
| bonus | variance | standard deviation | variance |
| size of the bonus | as it is | as it is | 1 on average on the data, ``rate``; 0 is as it is |
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError
from worldformula.formula import Normal, Value, log
from worldformula.learners.curiosity.contract import WEIGHT, Curious, Sequences, transitions
from worldformula.nets.mlp import MLP


class Disagreement(Curious):
    """K predictors of the next target, and the variance of what they predict.

    Args:
        features: names and shapes of what a state is told by, ``{"h": (D,), "z": (G, K)}``.
        actions: widths of the actions by variable.
        target: name and shape of what is predicted, ``("e", (E,))``: in the data of the loss, not in dreams.
        members: K.
        units: of each hidden layer.
        layers: hidden layers.
        rate: see `Curious`.

    Raises:
        ConfigError: fewer than two members.
    """

    def __init__(
        self, features: Mapping[str, tuple[int, ...]], actions: Mapping[str, int], target: tuple[str, tuple[int, ...]],
        *, members: int = 10, units: int = 400, layers: int = 4, rate: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__(features, actions, rate)
        if members < 2:
            raise ConfigError(f"expected two members or more, which may disagree, got {members}")
        self.target, shape = target
        width = math.prod(shape)
        inputs = sum(math.prod(s) for s in features.values()) + sum(actions.values())
        self.members = nn.ModuleList(MLP(inputs, width, units, layers) for _ in range(members))
        given = ",".join((*self.features, *self.actions))
        likely = [
            log(Normal(f"p_{k}({self.target}'|{given})", net, shape=width, scale=1.0))
            for k, net in enumerate(self.members, 1)
        ]
        missed = -likely[0]
        for one in likely[1:]:
            missed = missed - one
        self.__dict__["loss"] = (Value(WEIGHT) * missed).mean()

    def data(self, states: Sequences, first: Tensor) -> dict[str, Tensor]:
        """The steps of replayed states; the target beside the features."""
        found = transitions(states, (*self.features, *self.actions), (self.target,), first)
        name = f"{self.target}_prime"
        found[name] = found[name].flatten(1)
        self._measure(found, {}, found[WEIGHT])
        return found

    def bonus(self, before: Sequences, after: Sequences) -> Tensor:
        """D of steps ``[M, ...]``: where they lead is not read."""
        given = [before[name] for name in (*self.features, *self.actions)]
        means = torch.stack([net(*given) for net in self.members])
        apart = means - means.mean(0)  # by hand: torch.var over the first axis takes fifteen times as long on a CPU
        return apart.square().sum(0).mean(-1) / (len(means) - 1)
