import torch
from worldformula.families import OneHotFamily, bernoulli, normal, two_hot
from worldformula.formula.runtime import flat, kept, one_batch, restart, shift, stack, steps, steps_kept, stop

one_hot = OneHotFamily(unimix=0.01, temperature=1.0)


def formula(self, speed, image, a, r, c, first, start_h, start_z, start_a, noise_z):
    """mean(mean_{t; reset=first} E_{y_t = symlog(speed_t), e_t = enc(image_t,speed_t), h_t = f(h_{t-1},z_{t-1},a_{t-1}), q(z_t|h_t,e_t)}[1.0 * max(KL(sg(q(z_t|h_t,e_t)) ‖ p(z_t|h_t)), 0.01) + 0.1 * max(KL(q(z_t|h_t,e_t) ‖ sg(p(z_t|h_t))), 0.01) - log p(image_t|h_t,z_t) - log p(y_t|h_t,z_t) - log p(r_t|h_t,z_t) - log p(c_t|h_t,z_t)])"""
    B, T = speed.shape[:2]
    # before the loop: needs data only, all steps at once
    keep = kept(first)
    a_prev = shift(a, start_a, keep)
    speed = flat(speed)
    y = self.symlog(speed)                                                    # y_t = symlog(speed_t)
    image = flat(image)
    e = self.enc(image, speed)                                                # e_t = enc(image_t,speed_t)
    r = flat(r)
    c = flat(c)
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
        q_z = one_hot.params(q_z_given_h_e(h, e_s[t]), (16, 8))              # q(z_t|h_t,e_t)
        z = one_hot.sample(q_z, noise_z_s[t])
        h_s.append(h)
        q_z_s.append(q_z)
        z_s.append(z)
    h = stack(h_s)
    q_z = stack(q_z_s)
    z = stack(z_s)
    # after the loop: all steps at once
    sg_q_z = stop(q_z)
    p_z = one_hot.params(self.p_z_given_h(h), (16, 8))                        # p(z_t|h_t)
    kl_z = one_hot.kl(sg_q_z, p_z, 2)
    sg_p_z = stop(p_z)
    kl_z_2 = one_hot.kl(q_z, sg_p_z, 2)
    p_image = normal.params(self.p_image_given_h_z(h, z), (16, 16, 3), {'scale': 0.7071067811865476})  # p(image_t|h_t,z_t)
    log_p_image = normal.log_prob(p_image, image, 3)
    p_y = normal.params(self.p_y_given_h_z(h, z), (3,), {'scale': 0.7071067811865476})  # p(y_t|h_t,z_t)
    log_p_y = normal.log_prob(p_y, y, 1)
    p_r = two_hot.params(self.p_r_given_h_z(h, z), ())                        # p(r_t|h_t,z_t)
    log_p_r = two_hot.log_prob(p_r, r, 0)
    p_c = bernoulli.params(self.p_c_given_h_z(h, z), ())                      # p(c_t|h_t,z_t)
    log_p_c = bernoulli.log_prob(p_c, c, 0)
    one_batch(kl_z, kl_z_2, log_p_image, log_p_y, log_p_r, log_p_c)
    difference_4 = 1.0 * kl_z.clamp(min=0.01) + 0.1 * kl_z_2.clamp(min=0.01) - log_p_image - log_p_y - log_p_r - log_p_c
    mean_value = difference_4.unflatten(0, (B, T)).mean(1).mean()
    return mean_value, (kl_z, kl_z_2, log_p_image, log_p_y, log_p_r, log_p_c), (y, e, h, z)
