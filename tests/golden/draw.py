import torch
import torch.nn.functional as F
from worldformula.formula.runtime import matched, one_batch, widened, zeros


def formula(self, x, noise_z, noise_z_2, noise_z_3, noise_z_4, noise_z_5, noise_z_6):
    """mean(Σ_{l=1..6} E_{r_l = read(x,c_{l-1},d_{l-1}), e_l,m_l = enc(e_{l-1},m_{l-1},r_l,d_{l-1}), q(z_l|e_l), d_l,n_l = dec(d_{l-1},n_{l-1},z_l), c_l = write(c_{l-1},d_l)}[KL(q(z_l|e_l) ‖ p(z_l))] - log p(x|c_L))"""
    c_prev = zeros(x, 1, 64)
    d_prev = zeros(x, 1, 96)
    r = self.read(x, c_prev, d_prev)                                          # r_l = read(x,c_{l-1},d_{l-1})
    e = self.enc(d_prev, d_prev, r, d_prev)                                   # e_l,m_l = enc(e_{l-1},m_{l-1},r_l,d_{l-1})
    e_2 = e[0]
    m = e[1]
    q_z_loc, q_z_raw = self.q_z_given_e(e_2).split_with_sizes((8, 8), -1)     # q(z_l|e_l)
    q_z_scale = F.softplus(q_z_raw)
    z = q_z_loc + q_z_scale * noise_z
    d = self.dec(d_prev, d_prev, z)                                           # d_l,n_l = dec(d_{l-1},n_{l-1},z_l)
    d_2 = d[0]
    n = d[1]
    c = self.write(c_prev, d_2)                                               # c_l = write(c_{l-1},d_l)
    kl_z = (0.5 * (widened(q_z_loc).square() + widened(q_z_scale).square() - 1) - widened(q_z_scale).log()).sum(-1)
    r_2 = self.read(x, c, d_2)                                                # r_l = read(x,c_{l-1},d_{l-1})
    e_3 = self.enc(e_2, m, r_2, d_2)                                          # e_l,m_l = enc(e_{l-1},m_{l-1},r_l,d_{l-1})
    e_4 = e_3[0]
    m_2 = e_3[1]
    q_z_2_loc, q_z_2_raw = self.q_z_given_e(e_4).split_with_sizes((8, 8), -1)  # q(z_l|e_l)
    q_z_2_scale = F.softplus(q_z_2_raw)
    z_2 = q_z_2_loc + q_z_2_scale * noise_z_2
    d_3 = self.dec(d_2, n, z_2)                                               # d_l,n_l = dec(d_{l-1},n_{l-1},z_l)
    d_4 = d_3[0]
    n_2 = d_3[1]
    c_2 = self.write(c, d_4)                                                  # c_l = write(c_{l-1},d_l)
    kl_z_2 = (0.5 * (widened(q_z_2_loc).square() + widened(q_z_2_scale).square() - 1) - widened(q_z_2_scale).log()).sum(-1)
    r_3 = self.read(x, c_2, d_4)                                              # r_l = read(x,c_{l-1},d_{l-1})
    e_5 = self.enc(e_4, m_2, r_3, d_4)                                        # e_l,m_l = enc(e_{l-1},m_{l-1},r_l,d_{l-1})
    e_6 = e_5[0]
    m_3 = e_5[1]
    q_z_3_loc, q_z_3_raw = self.q_z_given_e(e_6).split_with_sizes((8, 8), -1)  # q(z_l|e_l)
    q_z_3_scale = F.softplus(q_z_3_raw)
    z_3 = q_z_3_loc + q_z_3_scale * noise_z_3
    d_5 = self.dec(d_4, n_2, z_3)                                             # d_l,n_l = dec(d_{l-1},n_{l-1},z_l)
    d_6 = d_5[0]
    n_3 = d_5[1]
    c_3 = self.write(c_2, d_6)                                                # c_l = write(c_{l-1},d_l)
    kl_z_3 = (0.5 * (widened(q_z_3_loc).square() + widened(q_z_3_scale).square() - 1) - widened(q_z_3_scale).log()).sum(-1)
    r_4 = self.read(x, c_3, d_6)                                              # r_l = read(x,c_{l-1},d_{l-1})
    e_7 = self.enc(e_6, m_3, r_4, d_6)                                        # e_l,m_l = enc(e_{l-1},m_{l-1},r_l,d_{l-1})
    e_8 = e_7[0]
    m_4 = e_7[1]
    q_z_4_loc, q_z_4_raw = self.q_z_given_e(e_8).split_with_sizes((8, 8), -1)  # q(z_l|e_l)
    q_z_4_scale = F.softplus(q_z_4_raw)
    z_4 = q_z_4_loc + q_z_4_scale * noise_z_4
    d_7 = self.dec(d_6, n_3, z_4)                                             # d_l,n_l = dec(d_{l-1},n_{l-1},z_l)
    d_8 = d_7[0]
    n_4 = d_7[1]
    c_4 = self.write(c_3, d_8)                                                # c_l = write(c_{l-1},d_l)
    kl_z_4 = (0.5 * (widened(q_z_4_loc).square() + widened(q_z_4_scale).square() - 1) - widened(q_z_4_scale).log()).sum(-1)
    r_5 = self.read(x, c_4, d_8)                                              # r_l = read(x,c_{l-1},d_{l-1})
    e_9 = self.enc(e_8, m_4, r_5, d_8)                                        # e_l,m_l = enc(e_{l-1},m_{l-1},r_l,d_{l-1})
    e_10 = e_9[0]
    m_5 = e_9[1]
    q_z_5_loc, q_z_5_raw = self.q_z_given_e(e_10).split_with_sizes((8, 8), -1)  # q(z_l|e_l)
    q_z_5_scale = F.softplus(q_z_5_raw)
    z_5 = q_z_5_loc + q_z_5_scale * noise_z_5
    d_9 = self.dec(d_8, n_4, z_5)                                             # d_l,n_l = dec(d_{l-1},n_{l-1},z_l)
    d_10 = d_9[0]
    n_5 = d_9[1]
    c_5 = self.write(c_4, d_10)                                               # c_l = write(c_{l-1},d_l)
    kl_z_5 = (0.5 * (widened(q_z_5_loc).square() + widened(q_z_5_scale).square() - 1) - widened(q_z_5_scale).log()).sum(-1)
    r_6 = self.read(x, c_5, d_10)                                             # r_l = read(x,c_{l-1},d_{l-1})
    e_11 = self.enc(e_10, m_5, r_6, d_10)                                     # e_l,m_l = enc(e_{l-1},m_{l-1},r_l,d_{l-1})
    e_12 = e_11[0]
    m_6 = e_11[1]
    q_z_6_loc, q_z_6_raw = self.q_z_given_e(e_12).split_with_sizes((8, 8), -1)  # q(z_l|e_l)
    q_z_6_scale = F.softplus(q_z_6_raw)
    z_6 = q_z_6_loc + q_z_6_scale * noise_z_6
    d_11 = self.dec(d_10, n_5, z_6)                                           # d_l,n_l = dec(d_{l-1},n_{l-1},z_l)
    d_12 = d_11[0]
    n_6 = d_11[1]
    c_6 = self.write(c_5, d_12)                                               # c_l = write(c_{l-1},d_l)
    kl_z_6 = (0.5 * (widened(q_z_6_loc).square() + widened(q_z_6_scale).square() - 1) - widened(q_z_6_scale).log()).sum(-1)
    total_5 = kl_z + kl_z_2 + kl_z_3 + kl_z_4 + kl_z_5 + kl_z_6
    p_x_logits = self.p_x_given_c(c_6)                                        # p(x|c_L)
    log_p_x = -F.binary_cross_entropy_with_logits(widened(p_x_logits), matched(x, p_x_logits), reduction="none").sum(-1)
    one_batch(kl_z, kl_z_2, kl_z_3, kl_z_4, kl_z_5, kl_z_6, total_5, log_p_x)
    mean_value = (total_5 - log_p_x).mean()
    return mean_value, (total_5, log_p_x), (r, e_2, m, z, d_2, n, c, r_2, e_4, m_2, z_2, d_4, n_2, c_2, r_3, e_6, m_3, z_3, d_6, n_3, c_3, r_4, e_8, m_4, z_4, d_8, n_4, c_4, r_5, e_10, m_5, z_5, d_10, n_5, c_5, r_6, e_12, m_6, z_6, d_12, n_6, c_6)
