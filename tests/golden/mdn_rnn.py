import torch
import torch.nn.functional as F
from worldformula.families import MixtureFamily, NormalFamily, bernoulli
from worldformula.formula.runtime import flat, kept, one_batch, restart, shift, stack, steps, steps_kept

mixture = MixtureFamily(component=NormalFamily(min_scale=0.0), components=5, factored=True)


def formula(self, mu, sigma, a, l, first, start_z, start_h, start_c, start_a, noise_z):
    """mean(mean_{t; reset=first} E_{q(z_t|mu_t,sigma_t), h_t,c_t = lstm(h_{t-1},c_{t-1},z_{t-1},a_{t-1})}[-log p(z_t|h_t) - (10.0 - 9.0 * l_t) * log p(l_t|h_t)])"""
    B, T = mu.shape[:2]
    # before the loop: needs data only, all steps at once
    keep = kept(first)
    a_prev = shift(a, start_a, keep)
    mu = flat(mu)
    sigma = flat(sigma)
    q_z_loc, q_z_raw = self.q_z_given_mu_sigma(mu, sigma).split_with_sizes((16, 16), -1)  # q(z_t|mu_t,sigma_t)
    q_z_scale = F.softplus(q_z_raw)
    noise_z = flat(noise_z)
    z = q_z_loc + q_z_scale * noise_z
    l = flat(l)
    difference = 10.0 - 9.0 * l
    keep_s = steps_kept(keep)
    z_s = steps(z, B)
    a_prev_s = steps(a_prev, B)
    h_2_s, c_s = [], []
    # in the loop: from carry to carry
    z_carry = start_z
    h_2 = start_h
    c = start_c
    lstm = self.lstm
    for t in range(T):
        h_prev = restart(h_2, keep_s[t])
        c_prev = restart(c, keep_s[t])
        z_prev = restart(z_carry, keep_s[t])
        h = lstm(h_prev, c_prev, z_prev, a_prev_s[t])                        # h_t,c_t = lstm(h_{t-1},c_{t-1},z_{t-1},a_{t-1})
        h_2 = h[0]
        c = h[1]
        z_carry = z_s[t]
        h_2_s.append(h_2)
        c_s.append(c)
    h_2 = stack(h_2_s)
    c = stack(c_s)
    # after the loop: all steps at once
    p_z = mixture.params(self.p_z_given_h(h_2), (16,))                        # p(z_t|h_t)
    log_p_z = mixture.log_prob(p_z, z, 1)
    p_l = bernoulli.params(self.p_l_given_h(h_2), ())                         # p(l_t|h_t)
    log_p_l = bernoulli.log_prob(p_l, l, 0)
    one_batch(log_p_z, l, log_p_l)
    difference_2 = -log_p_z - difference * log_p_l
    mean_value = difference_2.unflatten(0, (B, T)).mean(1).mean()
    return mean_value, (log_p_z, log_p_l), (z, h_2, c)
