"""A JEPA (LeCun 2022): it predicts its own codes, against a slow copy, and VICReg keeps them apart. Nothing is decoded.

s_t = enc(x_t)       s_t = pred(s_{t-1}, a_{t-1})       ½‖s̄_t − ŝ_t‖² + variance and covariance over the batch
"""

import torch
from torch import nn

from tests.worlds.sketches.parts import A, B, D, Net, T, X, flags
from worldformula import Deterministic, E, Normal, Sum, Value, World, log


class VICReg(nn.Module):
    """The hinge on the deviations and the squared covariances of a batch (Bardes et al. 2022), for each row alike."""

    batch_dependent = True

    def forward(self, s):
        centred = s - s.mean(0)
        covariance = centred.mT @ centred / (len(s) - 1)
        spread = torch.relu(1 - (covariance.diagonal() + 1e-4).sqrt()).mean()
        tied = (covariance.square().sum() - covariance.diagonal().square().sum()) / s.shape[1]
        return (spread + tied).expand(len(s))


def build():
    predictor = Net(D + A, D)
    encode = Deterministic("s_t = enc(x_t)", Net(X, D), shape=D)
    predict = Deterministic("s_t = pred(s_{t-1}, a_{t-1})", predictor, shape=D)
    ahead = Deterministic("p_t = pred(s_{t-1}, a_{t-1})", predictor, shape=D)
    target = encode.slow(0.99).rename(s="w")
    energy = Normal("p(w_t|p_t)", nn.Identity(), shape=D, scale=1.0)
    apart = Deterministic("v_t = VICReg(s_t)", VICReg(), shape=())
    step = E(encode * ahead * target * apart, Value("v_t") - log(energy))
    return World(prior=predict, posterior=encode, loss=Sum("t", step, reset="first").mean())


def batch():
    return {"x": torch.randn(B, T, X), "a": torch.randn(B, T, A), "first": flags()}
