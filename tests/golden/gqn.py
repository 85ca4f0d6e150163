import torch
from worldformula.families import normal
from worldformula.formula.runtime import of_number, one_batch, zeros


def formula(self, x_series, v_series, k_series, x_prime, v_prime, sigma, noise_z, noise_z_2, noise_z_3, noise_z_4):
    """mean(E_{r = scene(x_{1:M},v_{1:M},k_{1:M})}[Σ_{l=1..4} E_{e_l,n_l = inf(e_{l-1},n_{l-1},x',v',r,h_{l-1},u_{l-1}), q(z_l|e_l), h_l,m_l = gen(h_{l-1},m_{l-1},v',r,z_l), u_l = up(u_{l-1},h_l)}[KL(q(z_l|e_l) ‖ π(z_l|h_{l-1}))] + (-log p(x'|u_L) - 705.7447935011886) / sigma ^ 2 + 768 * (log(sigma) + 0.9189385332046727)])"""
    r_series = self.scene(x_series, v_series, k_series)                       # r = scene(x_{1:M},v_{1:M},k_{1:M})
    e_prev = zeros(r_series, 1, 48, 4, 4)
    u_prev = zeros(r_series, 1, 48, 16, 16)
    e = self.inf(e_prev, e_prev, x_prime, v_prime, r_series, e_prev, u_prev)  # e_l,n_l = inf(e_{l-1},n_{l-1},x',v',r,h_{l-1},u_{l-1})
    e_2 = e[0]
    n = e[1]
    q_z = normal.params(self.q_z_given_e(e_2), (3, 4, 4))                     # q(z_l|e_l)
    z = normal.sample(q_z, noise_z)
    h = self.gen(e_prev, e_prev, v_prime, r_series, z)                        # h_l,m_l = gen(h_{l-1},m_{l-1},v',r,z_l)
    h_2 = h[0]
    m = h[1]
    u = self.up(u_prev, h_2)                                                  # u_l = up(u_{l-1},h_l)
    pi_z = normal.params(self.pi_z_given_h_prev(e_prev), (3, 4, 4))           # π(z_l|h_{l-1})
    kl_z = normal.kl(q_z, pi_z, 3)
    e_3 = self.inf(e_2, n, x_prime, v_prime, r_series, h_2, u)                # e_l,n_l = inf(e_{l-1},n_{l-1},x',v',r,h_{l-1},u_{l-1})
    e_4 = e_3[0]
    n_2 = e_3[1]
    q_z_2 = normal.params(self.q_z_given_e(e_4), (3, 4, 4))                   # q(z_l|e_l)
    z_2 = normal.sample(q_z_2, noise_z_2)
    h_3 = self.gen(h_2, m, v_prime, r_series, z_2)                            # h_l,m_l = gen(h_{l-1},m_{l-1},v',r,z_l)
    h_4 = h_3[0]
    m_2 = h_3[1]
    u_2 = self.up(u, h_4)                                                     # u_l = up(u_{l-1},h_l)
    pi_z_2 = normal.params(self.pi_z_given_h_prev(h_2), (3, 4, 4))            # π(z_l|h_{l-1})
    kl_z_2 = normal.kl(q_z_2, pi_z_2, 3)
    e_5 = self.inf(e_4, n_2, x_prime, v_prime, r_series, h_4, u_2)            # e_l,n_l = inf(e_{l-1},n_{l-1},x',v',r,h_{l-1},u_{l-1})
    e_6 = e_5[0]
    n_3 = e_5[1]
    q_z_3 = normal.params(self.q_z_given_e(e_6), (3, 4, 4))                   # q(z_l|e_l)
    z_3 = normal.sample(q_z_3, noise_z_3)
    h_5 = self.gen(h_4, m_2, v_prime, r_series, z_3)                          # h_l,m_l = gen(h_{l-1},m_{l-1},v',r,z_l)
    h_6 = h_5[0]
    m_3 = h_5[1]
    u_3 = self.up(u_2, h_6)                                                   # u_l = up(u_{l-1},h_l)
    pi_z_3 = normal.params(self.pi_z_given_h_prev(h_4), (3, 4, 4))            # π(z_l|h_{l-1})
    kl_z_3 = normal.kl(q_z_3, pi_z_3, 3)
    e_7 = self.inf(e_6, n_3, x_prime, v_prime, r_series, h_6, u_3)            # e_l,n_l = inf(e_{l-1},n_{l-1},x',v',r,h_{l-1},u_{l-1})
    e_8 = e_7[0]
    n_4 = e_7[1]
    q_z_4 = normal.params(self.q_z_given_e(e_8), (3, 4, 4))                   # q(z_l|e_l)
    z_4 = normal.sample(q_z_4, noise_z_4)
    h_7 = self.gen(h_6, m_3, v_prime, r_series, z_4)                          # h_l,m_l = gen(h_{l-1},m_{l-1},v',r,z_l)
    h_8 = h_7[0]
    m_4 = h_7[1]
    u_4 = self.up(u_3, h_8)                                                   # u_l = up(u_{l-1},h_l)
    pi_z_4 = normal.params(self.pi_z_given_h_prev(h_6), (3, 4, 4))            # π(z_l|h_{l-1})
    kl_z_4 = normal.kl(q_z_4, pi_z_4, 3)
    total_3 = kl_z + kl_z_2 + kl_z_3 + kl_z_4
    p_x_prime = normal.params(self.p_x_prime_given_u(u_4), (16, 16, 3), {'scale': 1.0})  # p(x'|u_L)
    log_p_x_prime = normal.log_prob(p_x_prime, x_prime, 3)
    one_batch(kl_z, kl_z_2, kl_z_3, kl_z_4, total_3, log_p_x_prime)
    mean_value = (total_3 + (-log_p_x_prime - 705.7447935011886) / (sigma ** 2) + 768 * (of_number(torch.log, sigma) + 0.9189385332046727)).mean()
    return mean_value, (total_3, log_p_x_prime), (r_series, e_2, n, z, h_2, m, u, e_4, n_2, z_2, h_4, m_2, u_2, e_6, n_3, z_3, h_6, m_3, u_3, e_8, n_4, z_4, h_8, m_4, u_4)
