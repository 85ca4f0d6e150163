"""Small models that the tests of the language share."""

import torch
from torch import nn

from worldformula import (
    KL,
    Bernoulli,
    Deterministic,
    E,
    Normal,
    OneHot,
    Resample,
    Sum,
    TwoHot,
    Value,
    exp,
    log,
    maximum,
    ratio,
    sg,
)

B, T, X, Z, D, A, G, K = 3, 4, 6, 2, 5, 2, 2, 3


class Join(nn.Module):
    """A linear layer on the concatenation of its flattened inputs, and tanh."""

    def __init__(self, inputs, outputs, scale=1.0):
        super().__init__()
        self.linear, self.scale, self.calls = nn.Linear(inputs, outputs), scale, 0

    def forward(self, *inputs):
        return self.scale * self.linear(torch.cat([x.flatten(1) for x in inputs], -1)).tanh()


def vae():
    prior = Normal("p(z)", shape=Z)
    encode = Normal("q(z|x)", nn.Linear(X, 2 * Z))
    decode = Bernoulli("p(x|z)", nn.Linear(Z, X))
    return (KL(encode, prior) - E(encode, log(decode))).mean()


def rssm():
    """As in the design, with shapes."""
    embed = Deterministic("e_t = enc(x_t)", Join(X, D))
    core = Deterministic("h_t = f(h_{t-1}, z_{t-1}, a_{t-1})", Join(D + G * K + A, D), shape=D)
    prior = OneHot("p(z_t|h_t)", Join(D, G * K, 4), shape=(G, K), unimix=0.01)
    post = OneHot("q(z_t|h_t,e_t)", Join(2 * D, G * K, 4), shape=(G, K), unimix=0.01)
    image = Normal("p(x_t|h_t,z_t)", Join(D + G * K, X), shape=X, scale=1.0)
    reward = TwoHot("p(r_t|h_t,z_t)", Join(D + G * K, 11), bins=11)
    dyn, rep = KL(sg(post), prior), KL(post, sg(prior))
    step = E(embed * core * post, 1.0 * maximum(dyn, 1) + 0.1 * maximum(rep, 1) - log(image) - log(reward))
    return Sum("t", step, reset="first").mean()


def begun():
    """A state of the second order that begins with the first row, and zeros before it, and a discount."""
    begin = {"z": Normal("q(z_0|x_1)", Join(X, 2 * Z), shape=Z), "z_m1": torch.zeros(Z)}
    core = Normal("p(z_t|z_{t-1},z_{t-2},a_{t-1})", Join(2 * Z + A, 2 * Z), shape=Z)
    image = Normal("p(x_t|z_t)", Join(Z, X), shape=X, scale=1.0)
    return Sum("t", 0.9 ** (Value("t") - 1) * E(core, log(image)), reset="first", initial=begin).mean()


def recurrent():
    """The factors of a step of a recurrent latent variable model."""
    prior = Normal("p(z_t|h_{t-1})", Join(D, 2 * Z), shape=Z)
    post = Normal("q(z_t|h_{t-1},x_t)", Join(D + X, 2 * Z), shape=Z)
    image = Normal("p(x_t|z_t,h_{t-1})", Join(Z + D, X), shape=X, scale=1.0)
    core = Deterministic("h_t = f(h_{t-1}, z_t, a_t)", Join(D + Z + A, D), shape=D)
    return prior, post, image, core


def trajectories():
    """The bound of whole sequences by three particles."""
    prior, post, image, core = recurrent()
    weight = Sum("t", log(image * prior) - log(post), initial={"h": nn.Parameter(torch.zeros(D))})
    return -log(E(post * core, exp(weight), samples=3)).mean()


def filtered():
    """A particle filter, resampled where few particles count."""
    prior, post, image, core = recurrent()
    again = Resample("systematic", ess=0.5)
    step = log(E(post * core, ratio(image * prior, post), samples=3, resample=again))
    return -Sum("t", step, reset="first").mean()


def unbroken():
    return {k: v for k, v in frames().items() if k != "first"}


def frames():
    return {k: v for k, v in sequences().items() if k != "r"}


def sequences(batch=B, length=T, dtype=torch.float32):
    first = torch.zeros(batch, length, dtype=torch.bool)
    first[0, length // 2] = True
    x, r, a = torch.randn(batch, length, X), torch.randn(batch, length), torch.randn(batch, length, A)
    return {"x": x.to(dtype), "r": r.to(dtype), "a": a.to(dtype), "first": first}


def gradients(value, module):
    return torch.autograd.grad(value, [p for p in module.parameters() if p.requires_grad], allow_unused=True)
