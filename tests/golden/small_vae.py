import torch
import torch.nn.functional as F
from worldformula.formula.runtime import matched, one_batch, widened


def formula(self, x, noise_z):
    """mean(KL(q(z|x) ‖ p(z)) - E_{q(z|x)}[log p(x|z)])"""
    q_z_loc, q_z_raw = self.q_z_given_x(x).split_with_sizes((2, 2), -1)       # q(z|x)
    q_z_scale = F.softplus(q_z_raw)
    kl_z = (0.5 * (widened(q_z_loc).square() + widened(q_z_scale).square() - 1) - widened(q_z_scale).log()).sum(-1)
    z = q_z_loc + q_z_scale * noise_z
    p_x_logits = self.p_x_given_z(z)                                          # p(x|z)
    log_p_x = -F.binary_cross_entropy_with_logits(widened(p_x_logits), matched(x, p_x_logits), reduction="none").sum(-1)
    one_batch(kl_z, log_p_x)
    mean_value = (kl_z - log_p_x).mean()
    return mean_value, (kl_z, log_p_x), (z,)
