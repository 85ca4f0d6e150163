import torch
import torch.nn.functional as F
from worldformula.families import one_hot
from worldformula.formula.runtime import one_batch, widened


def formula(self, x, y, beta, noise_z):
    """mean(beta * KL(p(z|x) ‖ r(z)) - E_{p(z|x)}[log q(y|z)])"""
    p_z_loc, p_z_raw = self.p_z_given_x(x).split_with_sizes((16, 16), -1)     # p(z|x)
    p_z_scale = F.softplus(p_z_raw)
    kl_z = (0.5 * (widened(p_z_loc).square() + widened(p_z_scale).square() - 1) - widened(p_z_scale).log()).sum(-1)
    z = p_z_loc + p_z_scale * noise_z
    q_y = one_hot.params(self.q_y_given_z(z), (10,))                          # q(y|z)
    log_q_y = one_hot.log_prob(q_y, y, 1)
    one_batch(kl_z, log_q_y)
    mean_value = (beta * kl_z - log_q_y).mean()
    return mean_value, (kl_z, log_q_y), (z,)
