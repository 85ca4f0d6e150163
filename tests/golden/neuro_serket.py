import torch
import torch.nn.functional as F
from worldformula.formula.runtime import matched, one_batch, widened


def formula(self, x, m, noise_z):
    """mean(KL(q(z|x) ‖ p(z|m)) - E_{q(z|x)}[log p(x|z)])"""
    q_z_loc, q_z_raw = self.q_z_given_x(x).split_with_sizes((10, 10), -1)     # q(z|x)
    q_z_scale = F.softplus(q_z_raw)
    p_z_loc, p_z_raw = self.p_z_given_m(m).split_with_sizes((10, 10), -1)     # p(z|m)
    p_z_scale = F.softplus(p_z_raw)
    kl_z_ratio = widened(q_z_scale) / p_z_scale
    kl_z_shift = (widened(q_z_loc) - p_z_loc) / p_z_scale
    kl_z = (0.5 * (kl_z_ratio.square() + kl_z_shift.square() - 1) - kl_z_ratio.log()).sum(-1)
    z = q_z_loc + q_z_scale * noise_z
    p_x_logits = self.p_x_given_z(z)                                          # p(x|z)
    log_p_x = -F.binary_cross_entropy_with_logits(widened(p_x_logits), matched(x, p_x_logits), reduction="none").sum(-1)
    one_batch(kl_z, log_p_x)
    mean_value = (kl_z - log_p_x).mean()
    return mean_value, (kl_z, log_p_x), (z,)
