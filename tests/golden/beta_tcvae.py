import torch
import torch.nn.functional as F
from worldformula.families import normal
from worldformula.formula.runtime import matched, one_batch, widened


def formula(self, x, beta, noise_z):
    """mean(E_{m,s = enc(x), q(z|m,s), a,b = logq(z,m,s)}[MI + beta * TC + DWKL - log p(x|z)])"""
    m = self.enc(x)                                                           # m,s = enc(x)
    m_2 = m[0]
    s = m[1]
    q_z_loc, q_z_raw = self.q_z_given_m_s(m_2, s).split_with_sizes((6, 6), -1)  # q(z|m,s)
    q_z_scale = F.softplus(q_z_raw)
    z = q_z_loc + q_z_scale * noise_z
    a = self.logq(z, m_2, s)                                                  # a,b = logq(z,m,s)
    a_2 = a[0]
    b = a[1]
    log_q_z = (-0.5 * ((matched(z, q_z_loc) - q_z_loc) / q_z_scale).square() - widened(q_z_scale).log() - 0.9189385332046727).sum(-1)
    difference = log_q_z - a_2
    difference_2 = a_2 - b
    p_z = (0.0, 1.0)                                                          # p(z)
    log_p_z = normal.log_prob(p_z, z, 1)
    difference_3 = b - log_p_z
    p_x_logits = self.p_x_given_z(z)                                          # p(x|z)
    log_p_x = -F.binary_cross_entropy_with_logits(widened(p_x_logits), matched(x, p_x_logits), reduction="none").sum(-1)
    one_batch(log_q_z, a_2, b, log_p_z, log_p_x)
    mean_value = (difference + beta * difference_2 + difference_3 - log_p_x).mean()
    return mean_value, (difference, difference_2, difference_3, log_p_x), (m_2, s, z, a_2, b)
