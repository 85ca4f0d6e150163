"""Formulas give the number and the gradients of hand-written PyTorch, on the same networks and the same noise."""

import pytest
import torch
import torch.distributions as td
from torch import nn

from benchmarks.handwritten import RSSM, Batch, rssm_loss, rssm_loss_in_loop, vae_loss
from worldformula import KL, Bernoulli, Deterministic, E, Normal, OneHot, Sum, TwoHot, log, maximum, sg

B, T, D, G, K, EMBED, A, PIXELS, BINS, Z = 3, 6, 6, 2, 4, 7, 2, (2, 4, 4), 21, 5


class Concat(nn.Module):
    """Outputs wide enough that KLs pass the free nat; below it the prior would have no gradient to compare."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, 9), nn.Tanh(), nn.Linear(9, outputs))

    def forward(self, *inputs):
        return 4.0 * self.layers(torch.cat([x.flatten(1) for x in inputs], -1))


def agree(value, expected, nets):
    weights = list(nets.parameters())
    got = torch.autograd.grad(value, weights)
    wanted = torch.autograd.grad(expected, weights)
    assert all(w.abs().max() > 1e-9 for w in wanted), "every network takes part"
    torch.testing.assert_close((value, *got), (expected, *wanted))


def test_vae():
    nets = nn.ModuleDict({"encoder": Concat(8, 2 * Z), "decoder": Concat(Z, 8)}).double()
    prior = Normal("p(z)", shape=Z)
    encode = Normal("q(z|x)", nets["encoder"])
    decode = Bernoulli("p(x|z)", nets["decoder"])
    loss = (KL(encode, prior) - E(encode, log(decode))).mean()
    x, noise = torch.rand(B, 8).bernoulli().double(), torch.randn(B, Z).double()
    agree(loss(x=x, noise={"z": noise}).value, vae_loss(nets["encoder"], nets["decoder"], x, noise), nets)


@pytest.fixture
def nets():
    pixels = torch.Size(PIXELS).numel()
    sizes = {"encoder": (pixels, EMBED), "core": (D + G * K + A, D), "prior": (D, G * K)}
    sizes |= {"posterior": (D + EMBED, G * K), "decoder": (D + G * K, pixels), "reward": (D + G * K, BINS)}
    return nn.ModuleDict({name: Concat(*size) for name, size in sizes.items()}).double()


def formula(nets):
    embed = Deterministic("e_t = enc(x_t)", nets["encoder"])
    core = Deterministic("h_t = f(h_{t-1}, z_{t-1}, a_{t-1})", nets["core"], shape=D)
    prior = OneHot("p(z_t|h_t)", nets["prior"], shape=(G, K), unimix=0.01)
    post = OneHot("q(z_t|h_t,e_t)", nets["posterior"], shape=(G, K), unimix=0.01)
    image = Normal("p(x_t|h_t,z_t)", nets["decoder"], shape=PIXELS, scale=0.5)
    reward = TwoHot("p(r_t|h_t,z_t)", nets["reward"], bins=BINS)
    dyn, rep = KL(sg(post), prior), KL(post, sg(prior))
    step = E(embed * core * post, 1.0 * maximum(dyn, 1) + 0.1 * maximum(rep, 1) - log(image) - log(reward))
    return Sum("t", step, reset="first").mean()


@pytest.mark.parametrize("by_hand", [rssm_loss, rssm_loss_in_loop])
def test_rssm_with_resets_free_bits_and_balancing(nets, by_hand):
    first = torch.zeros(B, T, dtype=torch.float64)
    first[1, 0] = first[1, 3] = first[2, 5] = 1
    image, reward = torch.randn(B, T, *PIXELS).double(), 4 * torch.randn(B, T).double()
    action, noise = torch.randn(B, T, A).double(), td.Gumbel(0.0, 1.0).sample((B, T, G, K)).double()
    parts = RSSM(**nets, deter=D, groups=G, classes=K, scale=0.5)
    out = formula(nets)(x=image, r=reward, a=action, first=first, noise={"z": noise})
    agree(out.value, by_hand(parts, Batch(image, reward, action, first), noise), nets)
