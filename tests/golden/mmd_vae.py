import torch
import torch.nn.functional as F
from worldformula.families import normal
from worldformula.formula.ops.mmd import squared_mmd
from worldformula.formula.runtime import matched, one_batch, widened


def formula(self, x, noise_z, noise_z_2):
    """mean(-E_{q(z|x)}[log p(x|z)] + 200.0 * MMD²{imq; scale=(0.5,1.0,2.0)}[∫ p_data(x) q(z|x) dx ‖ p(z)])"""
    q_z_loc, q_z_raw = self.q_z_given_x(x).split_with_sizes((8, 8), -1)       # q(z|x)
    q_z_scale = F.softplus(q_z_raw)
    z = q_z_loc + q_z_scale * noise_z
    p_x_logits = self.p_x_given_z(z)                                          # p(x|z)
    log_p_x = -F.binary_cross_entropy_with_logits(widened(p_x_logits), matched(x, p_x_logits), reduction="none").sum(-1)
    p_z = (0.0, 1.0)                                                          # p(z)
    z_2 = normal.sample(p_z, noise_z_2)
    mmd = squared_mmd(z, z_2, rank=1, kernel='imq', scales=(0.5, 1.0, 2.0), unbiased=True)
    one_batch(log_p_x, mmd)
    mean_value = (-log_p_x + 200.0 * mmd).mean()
    return mean_value, (log_p_x, mmd), (z,)
