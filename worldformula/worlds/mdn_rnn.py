r"""MDN-RNN, the memory M of World Models (Ha & Schmidhuber 2018, NeurIPS; arXiv:1803.10122), over the codes of a VAE.

    h_t, c_t = lstm(h_{t-1}, c_{t-1}, z_{t-1}, a_{t-1})     h_t, c_t [N, H]     what the past says of this step
    z_t ~ q(z_t|μ_t,σ_t) = N(μ_t, σ_t²)                     z_t [N, Z]          the VAE's code, drawn anew in every use
    p(z_t|h_t) = Π_d Σ_k w_dk N(z_td; m_dk, s_dk²)          a mixture of K for each number of a code
    p(l_t|h_t)                                              l_t in {0, 1}       whether the episode goes on: it lives

    mean_{B,T} E_q[ −log p(z_t|h_t) − (10 − 9 l_t) log p(l_t|h_t) − log p(r_t|h_t,z_t) ]

What ends counts ten times, as it is rare; the reward is optional, and of unit variance. M reads no picture: μ_t and σ_t
are data, `world.loss(mu=[B, T, Z], sigma=…, a=[B, T, A], l=[B, T], first=[B, T])`. The controller of the paper reads
z_t and h_t, or c_t too: this is a state here.

In dreams the paper makes M less certain: logits / τ and s · √τ. `tempered` is M with that τ as a number of the call.

Deviations         paper                   code                       here                     why
first step         –                       h = 0                      lstm of zeros            it is predicted too
end of an episode  read by the LSTM        read, and resets it        resets it                nothing follows it
clipped            –                       each element at 1          left to the caller       an option of fit
a step of z        –                       with h of its own row      with h of its own row    the same
scale              exp                     exp                        softplus                 its gradient is bounded
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.families import MixtureFamily
from worldformula.formula import Bernoulli, Deterministic, E, Factor, Mean, Mixture, Normal, Symbol, Value, log
from worldformula.world import PriorDynamics, World

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Widths of M.

    latent: numbers Z of a code. actions: numbers A of an action. hidden: H cells. components: K of each mixture.
    ending: how often the last row of an episode counts, where the others count once. lives: whether it is predicted
    that the episode goes on. reward: whether the reward is predicted.
    """

    latent: int
    actions: int
    hidden: int
    components: int = 5
    ending: float = 10.0
    lives: bool = True
    reward: bool = False

    def __post_init__(self) -> None:
        if min(self.latent, self.actions, self.hidden, self.components) < 1 or self.ending <= 0:
            raise ConfigError(
                "expected latent, actions, hidden and components ≥ 1 and ending > 0, got "
                f"{self.latent}, {self.actions}, {self.hidden}, {self.components} and {self.ending}"
            )


def paper() -> Sizes:
    """VizDoom, whose agent learns in dreams."""
    return Sizes(latent=64, actions=1, hidden=512)


def car_racing() -> Sizes:
    """CarRacing, which predicts codes alone."""
    return Sizes(latent=32, actions=3, hidden=256, lives=False)


def tiny() -> Sizes:
    """Dodging on two CPU cores; actions are one-hots of three."""
    return Sizes(latent=16, actions=3, hidden=64)


# ---------------------------------------------------------------------------------------------------------- networks


class LSTM(nn.Module):
    """h and c, [N, H] each, from those before, the code and the action; one bias for each gate, and 1 to remember."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.gates = nn.Linear(sizes.latent + sizes.actions + sizes.hidden, 4 * sizes.hidden)

    def forward(self, h: Tensor, c: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        """In the order of the factor."""
        keep, write, show, new = self.gates(torch.cat((*given, h), -1)).chunk(4, -1)
        c = (keep + 1).sigmoid() * c + write.sigmoid() * new.tanh()
        return show.sigmoid() * c.tanh(), c


class Stored(nn.Module):
    """The code's distribution as data: loc and scale, [N, Z] each."""

    def forward(self, mu: Tensor, sigma: Tensor) -> dict[str, Tensor]:
        """As the VAE's encoder gave them."""
        return {"loc": mu, "scale": sigma}


class Joined(nn.Module):
    """A linear layer on what it reads, side by side: [N, 1]."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, 1)

    def forward(self, *given: Tensor) -> Tensor:
        """In the order of the factor."""
        return torch.as_tensor(self.layer(torch.cat(given, -1)))


# ----------------------------------------------------------------------------------------------------------- formula


def build(sizes: Sizes) -> World:
    """M with new weights; its loss is in nats a step. The roles "continue" and "reward" are those of l and r."""
    H, Z, K = sizes.hidden, sizes.latent, sizes.components
    code = Normal(r"q(z_t|\mu_t,\sigma_t)", Stored(), shape=Z)
    core = Deterministic("h_t, c_t = lstm(h_{t-1}, c_{t-1}, z_{t-1}, a_{t-1})", LSTM(sizes), shape=[H, H])
    net = nn.Linear(H, 3 * K * Z)
    prior = Mixture("p(z_t|h_t)", net, components=K, shape=Z, factored=True)
    error, heads, roles = -log(prior), list[Factor](), dict[str, str]()
    if sizes.lives:
        lives = Bernoulli("p(l_t|h_t)", Joined(H), shape=())
        error = error - (sizes.ending - (sizes.ending - 1) * Value("l_t", shape=())) * log(lives)
        heads, roles = [*heads, lives], roles | {"continue": "l"}
    if sizes.reward:
        reward = Normal("p(r_t|h_t,z_t)", Joined(H + Z), shape=(), scale=1.0)
        error = error - log(reward)
        heads, roles = [*heads, reward], roles | {"reward": "r"}
    loss = Mean("t", E(code * core, error), reset="first").mean()
    return World(prior=core * prior, posterior=code * core, heads=heads, loss=loss, roles=roles)


def tempered(world: World) -> PriorDynamics:
    """What `build` made, at a temperature: ``tempered(world).imagine(start, policy, horizon=100, tau=1.15)``.

    It shares all weights. At τ = 1 it is the world's own dream.
    """
    core, prior = world.dynamics.prior.factors
    family, tau = (
        cast("MixtureFamily", prior.family),
        cast("float", Symbol("tau")),
    )  # a number of the call stands for one
    hot = Mixture(
        "p(z_t|h_t)", prior.net, components=family.components, shape=prior.shape, factored=True, temperature=tau
    )
    return PriorDynamics(core * hot, world.heads, roles=world.roles)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="mdn_rnn",
    kind="worlds",
    paper="Ha & Schmidhuber 2018, NeurIPS; arXiv:1803.10122",
    bibtex="""@inproceedings{ha2018worldmodels, title={Recurrent World Models Facilitate Policy Evolution},
  author={Ha, David and Schmidhuber, J{\\"u}rgen}, booktitle={NeurIPS}, year={2018}}""",
    presets={"paper": paper, "car_racing": car_racing, "tiny": tiny},
    build=build,
    summary="An LSTM that predicts the next code of a VAE, a mixture for each number; dreams have a temperature.",
    agent="world_models",
)


if __name__ == "__main__":
    sizes = tiny()
    world = build(sizes)
    print(world.loss, world.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(world.parameters(), lr=1e-3)
    codes, acts = torch.randn(8, 20, sizes.latent), torch.randn(8, 20, sizes.actions)
    rows = {"mu": codes, "sigma": 0.1 * torch.ones_like(codes), "a": acts, "l": torch.ones(8, 20)}
    rows["first"] = torch.zeros(8, 20, dtype=torch.bool)
    before = world.loss(**rows, seed=0).value
    before.backward()
    optimiser.step()
    after = world.loss(**rows, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats a step")
