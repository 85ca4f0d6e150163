# d
import torch
import torch.nn.functional as F
from worldformula.families import normal
from worldformula.formula.ops.gradient_penalty import squared_slope
from worldformula.formula.runtime import one_batch


def formula(self, x, noise_z):
    """mean(E_{p_data(x), p(z), \\tilde x = G(z), d = D(x), \\tilde d = D(\\tilde x)}[softplus(-d) + softplus(\\tilde d)] + 0.1 * E_{p_data(x)}[‖∇_x‖²[d = D(x)]])"""
    p_z = (0.0, 1.0)                                                          # p(z)
    z = normal.sample(p_z, noise_z)
    tilde_x = self.G(z)                                                       # \tilde x = G(z)
    d = self.D(x)                                                             # d = D(x)
    tilde_d = self.D(tilde_x)                                                 # \tilde d = D(\tilde x)
    slope_x = squared_slope(self.D, x, place=0, rank=1, centre=0.0)
    one_batch(d, tilde_d, slope_x)
    mean_value = (F.softplus(-d) + F.softplus(tilde_d) + 0.1 * slope_x).mean()
    return mean_value, (slope_x,), (x, z, tilde_x, d, tilde_d)


# g
import torch
import torch.nn.functional as F
from worldformula.families import normal
from worldformula.formula.runtime import one_batch


def formula(self, x, noise_z):
    """mean(E_{p_data(x), p(z), \\tilde x = G(z), \\tilde d = D(\\tilde x)}[softplus(-\\tilde d)])"""
    p_z = (0.0, 1.0)                                                          # p(z)
    z = normal.sample(p_z, noise_z)
    tilde_x = self.G(z)                                                       # \tilde x = G(z)
    tilde_d = self.D(tilde_x)                                                 # \tilde d = D(\tilde x)
    softplus = F.softplus(-tilde_d)
    one_batch(tilde_d, softplus)
    mean_value = softplus.mean()
    return mean_value, (softplus,), (x, z, tilde_x, tilde_d)
