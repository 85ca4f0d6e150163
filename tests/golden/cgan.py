# d
import torch
import torch.nn.functional as F
from worldformula.families import normal
from worldformula.formula.ops.gradient_penalty import squared_slope
from worldformula.formula.runtime import one_batch


def formula(self, x, y, noise_x_prime, noise_z, noise_tilde_x_prime):
    """mean(E_{p_data(x), p_data(y), n(x'|x), p(z), \\tilde x = G(z,y), n(\\tilde x'|\\tilde x), d = D(x',y), \\tilde d = D(\\tilde x',y)}[softplus(-d) + softplus(\\tilde d)] + 0.5 * E_{p_data(x) p_data(y) n(x'|x)}[‖∇_x'‖²[d = D(x',y)]])"""
    n_x_prime = normal.params(self.n_x_prime_given_x(x), (64,), {'scale': 0.02})  # n(x'|x)
    x_prime = normal.sample(n_x_prime, noise_x_prime)
    p_z = (0.0, 1.0)                                                          # p(z)
    z = normal.sample(p_z, noise_z)
    tilde_x = self.G(z, y)                                                    # \tilde x = G(z,y)
    n_tilde_x_prime = normal.params(self.n_x_prime_given_x(tilde_x), (64,), {'scale': 0.02})  # n(\tilde x'|\tilde x)
    tilde_x_prime = normal.sample(n_tilde_x_prime, noise_tilde_x_prime)
    d = self.D(x_prime, y)                                                    # d = D(x',y)
    tilde_d = self.D(tilde_x_prime, y)                                        # \tilde d = D(\tilde x',y)
    slope_x_prime = squared_slope(self.D, x_prime, y, place=0, rank=1, centre=0.0)
    one_batch(d, tilde_d, slope_x_prime)
    mean_value = (F.softplus(-d) + F.softplus(tilde_d) + 0.5 * slope_x_prime).mean()
    return mean_value, (slope_x_prime,), (x, y, x_prime, z, tilde_x, tilde_x_prime, d, tilde_d)


# g
import torch
import torch.nn.functional as F
from worldformula.families import normal
from worldformula.formula.runtime import one_batch


def formula(self, y, noise_z, noise_tilde_x_prime):
    """mean(E_{p_data(y), p(z), \\tilde x = G(z,y), n(\\tilde x'|\\tilde x), \\tilde d = D(\\tilde x',y)}[softplus(-\\tilde d)])"""
    p_z = (0.0, 1.0)                                                          # p(z)
    z = normal.sample(p_z, noise_z)
    tilde_x = self.G(z, y)                                                    # \tilde x = G(z,y)
    n_tilde_x_prime = normal.params(self.n_tilde_x_prime_given_tilde_x(tilde_x), (64,), {'scale': 0.02})  # n(\tilde x'|\tilde x)
    tilde_x_prime = normal.sample(n_tilde_x_prime, noise_tilde_x_prime)
    tilde_d = self.D(tilde_x_prime, y)                                        # \tilde d = D(\tilde x',y)
    softplus = F.softplus(-tilde_d)
    one_batch(tilde_d, softplus)
    mean_value = softplus.mean()
    return mean_value, (softplus,), (y, z, tilde_x, tilde_x_prime, tilde_d)
