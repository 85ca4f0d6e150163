import torch
from worldformula.families import OneHotFamily, TwoHotFamily, normal
from worldformula.formula.runtime import flat, kept, one_batch, restart, shift, stack, steps, steps_kept, stop

one_hot = OneHotFamily(unimix=0.01, temperature=1.0)
two_hot = TwoHotFamily(bins=11, low=-20.0, high=20.0, spacing='symexp')


def formula(self, x, a, r, first, start_h, start_z, start_a, noise_z):
    """mean(Σ_{t; reset=first} E_{e_t = enc(x_t), h_t = f(h_{t-1},z_{t-1},a_{t-1}), q(z_t|h_t,e_t)}[1.0 * max(KL(sg(q(z_t|h_t,e_t)) ‖ p(z_t|h_t)), 1) + 0.1 * max(KL(q(z_t|h_t,e_t) ‖ sg(p(z_t|h_t))), 1) - log p(x_t|h_t,z_t) - log p(r_t|h_t,z_t)])"""
    B, T = x.shape[:2]
    # before the loop: needs data only, all steps at once
    keep = kept(first)
    a_prev = shift(a, start_a, keep)
    x = flat(x)
    e = self.enc(x)                                                           # e_t = enc(x_t)
    r = flat(r)
    keep_s = steps_kept(keep)
    e_s = steps(e, B)
    a_prev_s = steps(a_prev, B)
    noise_z_s = noise_z.unbind(1)
    h_s, q_z_s, z_s = [], [], []
    # in the loop: from carry to carry
    h = start_h
    z = start_z
    f = self.f
    q_z_given_h_e = self.q_z_given_h_e
    for t in range(T):
        h_prev = restart(h, keep_s[t])
        z_prev = restart(z, keep_s[t])
        h = f(h_prev, z_prev, a_prev_s[t])                                   # h_t = f(h_{t-1},z_{t-1},a_{t-1})
        q_z = one_hot.params(q_z_given_h_e(h, e_s[t]), (2, 3))               # q(z_t|h_t,e_t)
        z = one_hot.sample(q_z, noise_z_s[t])
        h_s.append(h)
        q_z_s.append(q_z)
        z_s.append(z)
    h = stack(h_s)
    q_z = stack(q_z_s)
    z = stack(z_s)
    # after the loop: all steps at once
    sg_q_z = stop(q_z)
    p_z = one_hot.params(self.p_z_given_h(h), (2, 3))                         # p(z_t|h_t)
    kl_z = one_hot.kl(sg_q_z, p_z, 2)
    sg_p_z = stop(p_z)
    kl_z_2 = one_hot.kl(q_z, sg_p_z, 2)
    p_x = normal.params(self.p_x_given_h_z(h, z), (6,), {'scale': 1.0})       # p(x_t|h_t,z_t)
    log_p_x = normal.log_prob(p_x, x, 1)
    p_r = two_hot.params(self.p_r_given_h_z(h, z), ())                        # p(r_t|h_t,z_t)
    log_p_r = two_hot.log_prob(p_r, r, 0)
    one_batch(kl_z, kl_z_2, log_p_x, log_p_r)
    difference_2 = 1.0 * kl_z.clamp(min=1) + 0.1 * kl_z_2.clamp(min=1) - log_p_x - log_p_r
    mean_value = difference_2.unflatten(0, (B, T)).sum(1).mean()
    return mean_value, (kl_z, kl_z_2, log_p_x, log_p_r), (e, h, z)
