"""C-RSSM of THICK (Gumbsch et al. 2024): a context c that gates open rarely, a fine and a coarse prior, one posterior.

c_t = c_{t-1} + g_t (ĉ − c_{t-1}),  g_t = relu(tanh(r_t + ε_t)),  ε_t ~ N(0, 0.1²)      after GateL0RD
p(z_t|h_t,c_t)  fine        p_c(z_t|z_{t-1},a_{t-1},c_t)  coarse        q(z_t|h_t,c_t,x_t)
"""

import torch
from torch import nn

from tests.worlds.sketches.parts import A, B, D, Net, T, X, flags
from worldformula import KL, Deterministic, E, Normal, OneHot, Sum, TwoHot, Value, World, log
from worldformula.world import PriorDynamics

C, G, K = 3, 2, 3


class Gate(nn.Module):
    """How far each number of the context opens, 0 for most."""

    def __init__(self):
        super().__init__()
        self.raw = Net(C + G * K + A, C)

    def forward(self, c, z, a, noise):
        return torch.relu(torch.tanh(self.raw(c, z, a) + noise))


class Context(nn.Module):
    def __init__(self):
        super().__init__()
        self.new = Net(C + G * K + A, C)

    def forward(self, g, c, z, a):
        return c + g * (self.new(c, z, a) - c)


def build():
    noise = Normal("p(ε_t)", shape=C, loc=0.0, scale=0.1)
    gate = Deterministic("g_t = gate(c_{t-1}, z_{t-1}, a_{t-1}, ε_t)", Gate(), shape=C)
    context = Deterministic("c_t = update(g_t, c_{t-1}, z_{t-1}, a_{t-1})", Context(), shape=C)
    core = Deterministic("h_t = f(h_{t-1}, z_{t-1}, a_{t-1}, c_t)", Net(D + G * K + A + C, D), shape=D)
    fine = OneHot("p(z_t|h_t,c_t)", Net(D + C, G * K), shape=(G, K), unimix=0.01)
    coarse = OneHot("p_c(z_t|z_{t-1},a_{t-1},c_t)", Net(G * K + A + C, G * K), shape=(G, K), unimix=0.01)
    post = OneHot("q(z_t|h_t,c_t,x_t)", Net(D + C + X, G * K), shape=(G, K), unimix=0.01)
    image = Normal("p(x_t|h_t,z_t,c_t)", Net(D + G * K + C, X), shape=X, scale=1.0)
    image_c = Normal("p_c(x_t|z_t,c_t)", Net(G * K + C, X), shape=X, scale=1.0)
    reward = TwoHot("p(r_t|h_t,z_t,c_t)", Net(D + G * K + C, 11), bins=11)
    opened = Deterministic("k_t = sum(g_t)", lambda g: g.sum(-1), shape=())
    slow = noise * gate * context
    step = KL(post, fine) + KL(post, coarse) - log(image) - log(image_c) - log(reward) + 0.1 * Value("k_t")
    return World(
        posterior=slow * core * post,
        loss=Sum("t", E(slow * core * post * opened, step), reset="first").mean(),
        levels={
            "fine": PriorDynamics(slow * core * fine, {"image": image, "reward": reward}, roles={"reward": "reward"}),
            "coarse": PriorDynamics(slow * coarse, {"image_coarse": image_c}),
        },
    )


def batch():
    return {"x": torch.randn(B, T, X), "a": torch.randn(B, T, A), "r": torch.randn(B, T), "first": flags()}
