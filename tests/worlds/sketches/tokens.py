"""A world that reads words and is both moved and spoken to: tokens observed, two actions, packed into one vector.

b_t = pack(m_{t-1}, u_{t-1})      h_t = f(h_{t-1}, z_{t-1}, b_t)      q(z_t|h_t,e_t)      p(x_t|h_t,z_t)
"""

import torch
from torch import nn

from tests.worlds.sketches.parts import A, B, D, Net, T, Z, flags
from worldformula import KL, Categorical, Deterministic, E, Normal, Sum, World, log

WORDS, SAID = 7, 3


class Pack(nn.Module):
    """The actions side by side, [N, A + SAID]."""

    def forward(self, m, u):
        return torch.cat((m, u), -1)


def build():
    pack = Deterministic("b_t = pack(m_{t-1}, u_{t-1})", Pack(), shape=A + SAID)
    core = Deterministic("h_t = f(h_{t-1}, z_{t-1}, b_t)", Net(D + Z + A + SAID, D), shape=D)
    embed = Deterministic("e_t = embed(x_t)", nn.Embedding(WORDS, D), shape=D)
    prior = Normal("p(z_t|h_t)", Net(D, 2 * Z), shape=Z)
    post = Normal("q(z_t|h_t,e_t)", Net(2 * D, 2 * Z), shape=Z)
    word = Categorical("p(x_t|h_t,z_t)", Net(D + Z, WORDS), shape=())
    loss = Sum("t", E(pack * core * embed * post, KL(post, prior) - log(word)), reset="first").mean()
    return World(
        prior=pack * core * prior,
        posterior=pack * core * embed * post,
        heads={"word": word},
        observations={"text": "x"},
        loss=loss,
    )


def batch():
    said = nn.functional.one_hot(torch.randint(SAID, (B, T)), SAID).float()
    return {"x": torch.randint(WORDS, (B, T)), "m": torch.randn(B, T, A), "u": said, "first": flags()}
