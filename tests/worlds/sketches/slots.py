"""Objects in slots that begin as draws of one learnt distribution (after SAVi, Kipf et al. 2022): s_t [K, D].

s_0 ~ p(s_0)      p(s_t|s_{t-1})  each slot with what it sees of the others      q(s_t|s_{t-1},x_t)      p(x_t|s_t)
"""

import torch
from torch import nn

from tests.worlds.sketches.parts import B, D, Net, T, X, flags
from worldformula import KL, E, Normal, Sum, World, log

K = 3


class Slots(nn.Module):
    """The same network for every slot, with attention among slots; ``given`` numbers of data are shown to all."""

    def __init__(self, outputs, given=0):
        super().__init__()
        self.attend = nn.MultiheadAttention(D, 1, batch_first=True)
        self.head = Net(2 * D + given, outputs)

    def forward(self, s, *x):
        seen = torch.cat((s, self.attend(s, s, s)[0], *(v[:, None].expand(-1, K, -1) for v in x)), -1)
        return self.head(seen.flatten(0, 1)).unflatten(0, (-1, K))


class Painter(nn.Module):
    """The picture is the sum of what the slots paint."""

    def __init__(self):
        super().__init__()
        self.paint = Net(D, X)

    def forward(self, s):
        return self.paint(s.flatten(0, 1)).unflatten(0, (-1, K)).sum(1)


def build():
    begin = Normal("p(s_0)", shape=(K, D), loc=nn.Parameter(torch.zeros(K, D)), scale=0.5)
    prior = Normal("p(s_t|s_{t-1})", Slots(2 * D), shape=(K, D))
    post = Normal("q(s_t|s_{t-1},x_t)", Slots(2 * D, given=X), shape=(K, D))
    image = Normal("p(x_t|s_t)", Painter(), shape=X, scale=1.0)
    loss = Sum("t", E(post, KL(post, prior) - log(image)), reset="first", initial=begin).mean()
    return World(prior=prior, posterior=post, heads=[image], loss=loss)


def batch():
    return {"x": torch.randn(B, T, X), "first": flags()}
