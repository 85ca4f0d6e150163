import torch
import torch.nn.functional as F
from worldformula.formula.runtime import matched, one_batch, widened


def formula(self, x, beta_1, beta_2, noise_z_1, noise_z_2):
    """mean(E_{h_1,h_2 = up(x), q(z_1|h_1), d_1 = down_1(z_1), m_2,s_2 = prior_2(d_1), q(z_2|m_2,s_2,d_1,h_2), d_2 = down_2(d_1,z_2)}[beta_1 * KL(q(z_1|h_1) ‖ p(z_1)) + beta_2 * KL(q(z_2|m_2,s_2,d_1,h_2) ‖ p(z_2|m_2,s_2)) - log p(x|d_2)])"""
    h_1 = self.up(x)                                                          # h_1,h_2 = up(x)
    h_1_2 = h_1[0]
    h_2 = h_1[1]
    q_z_1_loc, q_z_1_raw = self.q_z_1_given_h_1(h_1_2).split_with_sizes((8, 8), -1)  # q(z_1|h_1)
    q_z_1_scale = F.softplus(q_z_1_raw)
    z_1 = q_z_1_loc + q_z_1_scale * noise_z_1
    d_1 = self.down_1(z_1)                                                    # d_1 = down_1(z_1)
    m_2 = self.prior_2(d_1)                                                   # m_2,s_2 = prior_2(d_1)
    m_2_2 = m_2[0]
    s_2 = m_2[1]
    q_z_2_loc, q_z_2_raw = self.q_z_2_given_m_2_s_2_d_1_h_2(m_2_2, s_2, d_1, h_2).split_with_sizes((8, 8), -1)  # q(z_2|m_2,s_2,d_1,h_2)
    q_z_2_scale = F.softplus(q_z_2_raw)
    z_2 = q_z_2_loc + q_z_2_scale * noise_z_2
    d_2 = self.down_2(d_1, z_2)                                               # d_2 = down_2(d_1,z_2)
    kl_z_1 = (0.5 * (widened(q_z_1_loc).square() + widened(q_z_1_scale).square() - 1) - widened(q_z_1_scale).log()).sum(-1)
    p_z_2_loc, p_z_2_raw = self.p_z_2_given_m_2_s_2(m_2_2, s_2).split_with_sizes((8, 8), -1)  # p(z_2|m_2,s_2)
    p_z_2_scale = F.softplus(p_z_2_raw)
    kl_z_2_ratio = widened(q_z_2_scale) / p_z_2_scale
    kl_z_2_shift = (widened(q_z_2_loc) - p_z_2_loc) / p_z_2_scale
    kl_z_2 = (0.5 * (kl_z_2_ratio.square() + kl_z_2_shift.square() - 1) - kl_z_2_ratio.log()).sum(-1)
    p_x_logits = self.p_x_given_d_2(d_2)                                      # p(x|d_2)
    log_p_x = -F.binary_cross_entropy_with_logits(widened(p_x_logits), matched(x, p_x_logits), reduction="none").sum(-1)
    one_batch(kl_z_1, kl_z_2, log_p_x)
    mean_value = (beta_1 * kl_z_1 + beta_2 * kl_z_2 - log_p_x).mean()
    return mean_value, (kl_z_1, kl_z_2, log_p_x), (h_1_2, h_2, z_1, d_1, m_2_2, s_2, z_2, d_2)
