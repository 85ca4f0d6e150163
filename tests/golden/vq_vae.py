import torch
from worldformula.families import normal
from worldformula.formula.runtime import one_batch


def formula(self, x):
    """mean(E_{e = enc(x), c = nearest(e), z = through(e,c)}[0.25 * norm2(e - sg(c)) - log p(x|z)])"""
    e = self.enc(x)                                                           # e = enc(x)
    c = self.nearest(e)                                                       # c = nearest(e)
    z = function_1(e, c)                                                      # z = through(e,c)
    norm2 = (e - c.detach()).square().sum((-2, -1))
    p_x = normal.params(self.p_x_given_z(z), (64,), {'scale': 0.25})          # p(x|z)
    log_p_x = normal.log_prob(p_x, x, 1)
    one_batch(norm2, log_p_x)
    mean_value = (0.25 * norm2 - log_p_x).mean()
    return mean_value, (log_p_x,), (e, c, z)
