r"""Temporal difference VAE (Gregor, Papamakarios, Besse, Buesing & Weber 2019, ICLR; arXiv:1806.03107).

    b_t = lstm(b_{t-1}, x_t)                      belief, what is known at t
    δ_t ~ uniform over 1 … D                      a jump back: t' = t − δ_t, b'_t = b_{t'}
    Σ_t E[ KL[q(z'_t|z_t,b'_t,b_t,δ_t) ‖ p_B(z'_t|b'_t)]
           + log p_B(z_t|b_t) − log p_T(z_t|z'_t,δ_t) − log p(x_t|z_t) ],   z_t ~ p_B, z'_t ~ q        eq. 8

    x_t  [B, X] in {0, 1}     the target is the frame at t, the later of the two times
    z_t  [B, Z] below u_t [B, U]: two layers, u first; each density of the formula above is a product of two
    b_{k,t}  [B, H]           the belief at t−k, from which the jump picks; no loop carries it

Every t is the end of one random jump. The world filters with p_B(z_t|b_t) and imagines with p_T; its *action* is how
far a step of the imagination jumps, one-hot δ: one jump of 4, or four of 1. While it imagines, b stays what it was.

Deviations      paper                    xqding/TD-VAE           here                    why
pairs           a few (t', t) a sequence  one                    each t, one δ           the loop runs once for all
transition      reads δ                  does not               reads δ                 it is trained on jumps of 1 … D
q               z, b', b, δ              z, b'                  z, b', b, δ             the paper
KL of z'        closed form              one sample             closed form             less noise
constants       all                      some dropped           all                     the value is a bound
first beliefs   –                        –                      the first D steps do not count (``burn_in``)
scale           exp                      exp                    softplus + 10⁻²         sampled terms blow up without it
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldformula.catalogue import System
from worldformula.formula import KL, Bernoulli, Deterministic, E, Expression, Factor, Joint, Mean, Normal, OneHot, log
from worldformula.world import World

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """Widths: pixels X; latent of each of the two layers; belief H; hidden of every density; longest jump D."""

    pixels: int
    encoder: tuple[int, int]
    """Units of the two layers that see a frame."""
    belief: int
    latent: int
    hidden: int
    decoder: int
    """Units of both hidden layers of p(x|z)."""
    jump: int


def paper() -> Sizes:
    """Moving MNIST, 64 × 64, 20 frames; the widths of the public implementation, as the paper names few."""
    return Sizes(pixels=4096, encoder=(512, 512), belief=50, latent=8, hidden=50, decoder=200, jump=4)


def tiny() -> Sizes:
    """Rolling digits, 8 × 12."""
    return Sizes(pixels=96, encoder=(96, 64), belief=64, latent=8, hidden=64, decoder=160, jump=4)


# ---------------------------------------------------------------------------------------------------------- networks


class DBlock(nn.Module):
    """Inputs, concatenated, to loc and scale [N, Z]: a linear layer of tanh(W x) ⊙ sigmoid(V x)."""

    def __init__(self, inputs: int, sizes: Sizes) -> None:
        super().__init__()
        self.gates, self.heads = nn.Linear(inputs, 2 * sizes.hidden), nn.Linear(sizes.hidden, 2 * sizes.latent)

    def forward(self, *given: Tensor) -> dict[str, Tensor]:
        """Tensors [N, ...] in the order of the factor."""
        a, b = self.gates(torch.cat(given, -1)).chunk(2, -1)
        loc, scale = self.heads(a.tanh() * b.sigmoid()).chunk(2, -1)
        return {"loc": loc, "scale": F.softplus(scale) + 1e-2}


class Belief(nn.Module):
    """An LSTM cell: output [N, H] and memory [N, H] from those before and a frame's features."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(sizes.encoder[1], sizes.belief)

    def forward(self, b: Tensor, m: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """In the order of the factor."""
        found: tuple[Tensor, Tensor] = self.cell(e, (b, m))
        return found


class Pick(nn.Module):
    """The belief that a one-hot jump [N, D] leads back to."""

    def forward(self, jump: Tensor, *beliefs: Tensor) -> Tensor:
        """[N, D] and D beliefs [N, H], the latest first, to [N, H]."""
        return (torch.stack(beliefs, 1) * jump.unsqueeze(-1)).sum(1)


class Keep(nn.Module):
    """What the imagination knows of the data: the belief and memory before."""

    def forward(self, b: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Both as they were."""
        return b, m


class Frame(nn.Module):
    """Both latent layers [N, Z] to the logits of a frame [N, X]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        units = sizes.decoder
        layers = (nn.Linear(2 * sizes.latent, units), nn.Tanh(), nn.Linear(units, units), nn.Tanh())
        self.net = nn.Sequential(*layers, nn.Linear(units, sizes.pixels))

    def forward(self, *z: Tensor) -> Tensor:
        """Lower, then upper."""
        return torch.as_tensor(self.net(torch.cat(z, -1)))


# ----------------------------------------------------------------------------------------------------------- formula


def build(sizes: Sizes) -> World:
    """A TD-VAE; ``world.loss(x=[B, T, X], first=[B, T])`` with T > D is nats per frame."""
    H, Z, D = sizes.belief, sizes.latent, sizes.jump
    see = nn.Sequential(
        nn.Linear(sizes.pixels, sizes.encoder[0]), nn.ReLU(), nn.Linear(*sizes.encoder), nn.ReLU()
    )  # fmt: skip
    embed = Deterministic("e_t = enc(x_t)", see)
    belief = Deterministic("b_t, m_t = lstm(b_{t-1}, m_{t-1}, e_t)", Belief(sizes), shape=[H, H])
    upper = Normal("p_B(u_t|b_t)", DBlock(H, sizes), shape=Z)
    lower = Normal("p_B(z_t|u_t,b_t)", DBlock(Z + H, sizes), shape=Z)
    upper_step = Normal(r"p_T(u_t|z'_t,u'_t,\delta_t)", DBlock(2 * Z + D, sizes), shape=Z)
    lower_step = Normal(r"p_T(z_t|u_t,z'_t,u'_t,\delta_t)", DBlock(3 * Z + D, sizes), shape=Z)
    decode = Bernoulli("p(x_t|z_t,u_t)", Frame(sizes), shape=sizes.pixels)
    loss = bound(sizes, embed, belief, (upper, lower), (upper_step, lower_step), decode)
    names = {"z_prime": "z_{t-1}", "u_prime": "u_{t-1}", "delta": r"\delta_{t-1}"}
    keep = Deterministic("b_t, m_t = keep(b_{t-1}, m_{t-1})", Keep(), shape=[H, H])
    return World(
        prior=keep * upper_step.rename(**names) * lower_step.rename(**names),
        posterior=embed * belief * upper * lower,
        heads=[decode],
        loss=loss,
    )


def bound(
    sizes: Sizes,
    embed: Factor,
    belief: Factor,
    now: tuple[Factor, Factor],
    step: tuple[Factor, Factor],
    decode: Factor,
) -> Expression:
    """The loss, and the factors that it alone needs: the jump, the beliefs it may lead to, and the smoother q."""
    H, Z, D = sizes.belief, sizes.latent, sizes.jump
    late = Deterministic("b_{1,t} = late(b_{t-1})", nn.Identity(), shape=H)
    before: Factor | Joint = late
    for k in range(2, D + 1):
        before = before * late.rename(b_1=f"b_{k}", b_prev=f"b_{k - 1}")
    jump = OneHot(r"p(\delta_t)", shape=D)
    beliefs = ", ".join(f"b_{{{k},t}}" for k in range(1, D + 1))
    past = Deterministic(rf"b'_t = pick(\delta_t, {beliefs})", Pick(), shape=H)
    known = 2 * Z + 2 * H + D
    upper = Normal(r"q(u'_t|z_t,u_t,b'_t,b_t,\delta_t)", DBlock(known, sizes), shape=Z)
    lower = Normal(r"q(z'_t|u'_t,z_t,u_t,b'_t,b_t,\delta_t)", DBlock(Z + known, sizes), shape=Z)
    then = [p.rename(**{k: v for k, v in {"u": "u'", "z": "z'", "b": "b'"}.items() if k in _keys(p)}) for p in now]
    divergence = KL(upper, then[0]) + KL(lower, then[1])
    ratio = log(now[0]) + log(now[1]) - log(step[0]) - log(step[1])
    inner = E(upper * lower, divergence + ratio - log(decode))
    body = E(embed * belief * before * jump * past * now[0] * now[1], inner)
    return Mean("t", body, reset="first", burn_in=D).mean()


def _keys(factor: Factor) -> set[str]:
    return {v.key for v in (*factor.variables, *factor.conditions)}


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="td_vae",
    kind="worlds",
    paper="Gregor, Papamakarios, Besse, Buesing & Weber 2019, ICLR; arXiv:1806.03107",
    bibtex="""@inproceedings{gregor2019tdvae,
  title     = {Temporal Difference Variational Auto-Encoder},
  author    = {Gregor, Karol and Papamakarios, George and Besse, Frederic and Buesing, Lars and Weber, Th{\\'e}ophane},
  booktitle = {International Conference on Learning Representations},
  year      = {2019},
  eprint    = {1806.03107},
}""",
    presets={"paper": paper, "tiny": tiny},
    fits={"tiny": {"steps": 14_000, "batch": 16, "lr": 2e-3, "clip": 5.0, "schedule": "cosine"}},
    build=build,
    data="rolling",
    summary="A belief that predicts by jumps: states at two times, however far apart, from one temporal difference.",
)


if __name__ == "__main__":
    world = build(tiny())
    print(world.loss, world.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(world.parameters(), lr=1e-3)
    frames, first = torch.rand(8, 16, 96).bernoulli(), torch.zeros(8, 16, dtype=torch.bool)
    before = world.loss(x=frames, first=first, seed=0).value
    before.backward()
    optimiser.step()
    after = world.loss(x=frames, first=first, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per frame")
