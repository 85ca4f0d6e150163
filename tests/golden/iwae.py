import torch
import torch.nn.functional as F
from worldformula.families import normal
from worldformula.formula.runtime import along, fold, logmeanexp, matched, one_batch, unfold, widened


def formula(self, x, noise_z):
    """mean(-log(E_{q(z|x); K=10}[p(x|z) p(z) / q(z|x)]))"""
    q_z = normal.params(self.q_z_given_x(x), (16,))                           # q(z|x)
    z = normal.sample(q_z, noise_z)
    p_x_logits = unfold(self.p_x_given_z(fold(z, 1)), 10, -1)                 # p(x|z)
    x_k = along(x, 10)
    log_p_x = -F.binary_cross_entropy_with_logits(widened(p_x_logits), matched(x_k, p_x_logits), reduction="none").sum(-1)
    p_z = (0.0, 1.0)                                                          # p(z)
    log_p_z = normal.log_prob(p_z, z, 1)
    one_batch(log_p_x, log_p_z)
    q_z_k = along(q_z, 10)
    log_q_z = normal.log_prob(q_z_k, z, 1)
    log_mean = logmeanexp(log_p_x + log_p_z - log_q_z, 0)
    mean_value = (-log_mean).mean()
    return mean_value, (log_mean,), (z,)
