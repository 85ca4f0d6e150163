"""What keeps a policy of words near to how words are said: a divergence in the place of their entropy (Dynalang).

    − w KL[ π(a_t|s_t) ‖ ρ(a_t|L_t) ],    L_t the logits of the word that the world expects at ŝ_{t+1}, held

Of ten thousand words the entropy of a policy is nearly all noise, and nothing is ever said that earns something; what
the world has heard is a far smaller set (Lin et al. 2024, arXiv:2308.01399).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError
from worldformula.formula import KL, Entropy, Expression, Factor, OneHot
from worldformula.learners.imagination.contract import Features
from worldformula.world import Dynamics, State

Direction = Literal["policy", "words"]
WORDS = "L"  # what the losses call the logits
TINY = 1e-8  # what a word is at least expected to be, so that its logarithm is finite


@dataclass(frozen=True)
class Spoken:
    """An action whose choices are the words that are heard.

    Attributes:
        dynamics: whose head says which word comes.
        head: its name.
        action: the variable of the action.
        direction: "policy" is KL[π ‖ ρ], which leaves words out, "words" KL[ρ ‖ π], which says all of them.
        weight: w, in the weight of the entropy of other actions; published: 1.
    """

    dynamics: Dynamics
    head: str
    action: str
    direction: Direction = "policy"
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ConfigError(f"expected a weight of what is said above 0, got {self.weight}")
        if self.direction not in ("policy", "words"):
            raise ConfigError(f"expected direction as 'policy' or 'words', got {self.direction!r}")

    def spread(self, factor: Factor) -> Expression:
        """What a factor of the policy is given beside its return: its entropy, of words the negated divergence."""
        if factor.variable.key != self.action:
            return Entropy(factor)
        if not isinstance(factor, OneHot):
            raise ConfigError(f"words are choices: expected a policy OneHot, got {factor}")
        t = factor.variable.index
        words = OneHot(f"ρ({factor.variable}|{WORDS}_{t})", nn.Identity(), shape=factor.shape)
        apart = -KL(factor, words) if self.direction == "policy" else -KL(words, factor)
        return apart if self.weight == 1 else self.weight * apart

    @torch.no_grad()
    def expected(self, states: Features) -> dict[str, Tensor]:
        """L ``[N, S, V]``, logits of the word that comes next at each state of a dream; the last has its own."""
        whole = states if isinstance(states, State) else State(states, 2)
        said = self.dynamics.decode(whole, (self.head,))[self.head].clamp_min(TINY).log()
        return {WORDS: torch.cat((said[:, 1:], said[:, -1:]), 1)}
