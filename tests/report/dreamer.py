"""A small real agent: a pendulum controller on pictures, whose world model extrapolates the last two frames."""

from __future__ import annotations

import types

import numpy as np
import torch
from torch import nn

from worldformula import KL, Bernoulli, E, Normal, log


def loss():
    prior = Normal("p(z)", shape=2)
    encode = Normal("q(z|x)", nn.Linear(4, 4), shape=2)
    decode = Bernoulli("p(x|z)", nn.Linear(2, 4), shape=4)
    return (KL(encode, prior) - E(encode, log(decode))).mean()


class Dreamer(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)
        self.world = types.SimpleNamespace(loss=loss())
        self.seen = []

    def initial(self, num):
        return {"brightness": torch.zeros(num)}

    def act(self, rows, state, explore=True):
        assert not explore
        brightness = torch.from_numpy(rows["image"].mean((1, 2, 3))).float()
        change = (brightness - state["brightness"])[:, None]
        with torch.no_grad():
            action = torch.tanh(self.net(change) + torch.randn_like(change))
        return action.numpy(), {"brightness": brightness}

    def open_loop(self, batch, context):
        self.seen.append(batch)
        truth = batch["image"]
        dream = truth.copy()
        speed = truth[:, context - 1].astype(float) - truth[:, context - 2]
        for k in range(context, truth.shape[1]):
            dream[:, k] = (truth[:, context - 1] + 0.1 * (k - context + 1) * speed).clip(0, 255).astype(np.uint8)
        return {"truth": truth, "dream": dream}
