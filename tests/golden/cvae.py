import torch
import torch.nn.functional as F
from worldformula.formula.runtime import matched, one_batch, widened


def formula(self, x, y, noise_z):
    """mean(KL(q(z|x,y) ‖ p(z)) - E_{q(z|x,y)}[log p(x|y,z)])"""
    q_z_loc, q_z_raw = self.q_z_given_x_y(x, y).split_with_sizes((16, 16), -1)  # q(z|x,y)
    q_z_scale = F.softplus(q_z_raw)
    kl_z = (0.5 * (widened(q_z_loc).square() + widened(q_z_scale).square() - 1) - widened(q_z_scale).log()).sum(-1)
    z = q_z_loc + q_z_scale * noise_z
    p_x_logits = self.p_x_given_y_z(y, z)                                     # p(x|y,z)
    log_p_x = -F.binary_cross_entropy_with_logits(widened(p_x_logits), matched(x, p_x_logits), reduction="none").sum(-1)
    one_batch(kl_z, log_p_x)
    mean_value = (kl_z - log_p_x).mean()
    return mean_value, (kl_z, log_p_x), (z,)
