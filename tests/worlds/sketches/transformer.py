"""A world whose memory is a transformer, after STORM (Zhang et al. 2023): training is parallel, a dream steps a cache.

h_t = f(z_{<t}, a_{<t})      q(z_t|x_t)      p(z_t|h_t)      p(x_t|z_t), p(r_t|h_t,z_t), p(c_t|h_t,z_t)
"""

import torch

from tests.worlds.sketches.parts import A, B, D, Net, T, X, flags
from worldformula import KL, Bernoulli, Deterministic, E, Normal, OneHot, Sum, TwoHot, World, log
from worldformula.nets.transformer import CausalTransformer

G, K = 2, 3


def build(**options):
    past = CausalTransformer(G * K + A, D, width=16, heads=2, layers=2)
    core = Deterministic("h_t = f(z_{<t}, a_{<t})", past, shape=D)
    prior = OneHot("p(z_t|h_t)", Net(D, G * K), shape=(G, K), unimix=0.01)
    post = OneHot("q(z_t|x_t)", Net(X, G * K), shape=(G, K), unimix=0.01)
    image = Normal("p(x_t|z_t)", Net(G * K, X), shape=X, scale=1.0)
    reward = TwoHot("p(r_t|h_t,z_t)", Net(D + G * K, 11), bins=11)
    proceed = Bernoulli("p(c_t|h_t,z_t)", Net(D + G * K, 1), shape=())
    step = KL(post, prior) - log(image) - log(reward) - log(proceed)
    return World(
        prior=core * prior,
        posterior=core * post,
        heads={"image": image, "reward": reward, "going": proceed},
        roles={"reward": "reward", "continue": "going"},
        loss=Sum("t", E(core * post, step), reset="first").mean(),
        **options,
    )


def batch():
    series = {"x": torch.randn(B, T, X), "a": torch.randn(B, T, A)}
    return {**series, "r": torch.randn(B, T), "c": torch.ones(B, T), "first": flags()}
