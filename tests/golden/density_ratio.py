import torch
from worldformula.families import normal
from worldformula.formula.ops.density_ratio import binary_cross_entropy
from worldformula.formula.runtime import stop


def formula(self, x, noise_x):
    """BCE_d[p_data(x) ‖ p(x)]"""
    p_x = (0.0, 1.0)                                                          # p(x)
    sg_p_x = stop(p_x)
    x_2 = normal.sample(sg_p_x, noise_x)
    d = self.D(x)                                                             # d = D(x)
    d_2 = self.D(x_2)                                                         # d = D(x)
    loss_x = binary_cross_entropy(d, d_2)
    return loss_x, (loss_x,), ()
