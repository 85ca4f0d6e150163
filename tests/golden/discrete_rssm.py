import torch
from worldformula.families import normal, one_hot
from worldformula.formula.runtime import flat, kept, one_batch, restart, shift, stack, steps, steps_kept, stop


def formula(self, image, speed, a, r, first, start_h, start_z, start_a, noise_z):
    """0.8 * max(mean(mean_{t; reset=first} E_{e_t = enc(image_t,speed_t), h_t = f(h_{t-1},z_{t-1},a_{t-1}), q(z_t|h_t,e_t); K=1}[KL(sg(q(z_t|h_t,e_t)) ‖ p(z_t|h_t))]), 0.1) + 0.2 * max(mean(mean_{t; reset=first} E_{e_t = enc(image_t,speed_t), h_t = f(h_{t-1},z_{t-1},a_{t-1}), q(z_t|h_t,e_t); K=1}[KL(q(z_t|h_t,e_t) ‖ sg(p(z_t|h_t)))]), 0.1) + mean(mean_{t; reset=first} E_{e_t = enc(image_t,speed_t), h_t = f(h_{t-1},z_{t-1},a_{t-1}), q(z_t|h_t,e_t); K=1}[-(log p(image_t|h_t,z_t) + log p(speed_t|h_t,z_t) + log p(r_t|h_t,z_t))])"""
    B, T = image.shape[:2]
    # before the loop: needs data only, all steps at once
    keep = kept(first)
    a_prev = shift(a, start_a, keep)
    image = flat(image)
    speed = flat(speed)
    e = self.enc(image, speed)                                                # e_t = enc(image_t,speed_t)
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
    p_image = normal.params(self.p_image_given_h_z(h, z), (16, 16, 3), {'scale': 1.0})  # p(image_t|h_t,z_t)
    log_p_image = normal.log_prob(p_image, image, 3)
    p_speed = normal.params(self.p_speed_given_h_z(h, z), (3,), {'scale': 1.0})  # p(speed_t|h_t,z_t)
    log_p_speed = normal.log_prob(p_speed, speed, 1)
    p_r = normal.params(self.p_r_given_h_z(h, z), (), {'scale': 1.0})         # p(r_t|h_t,z_t)
    log_p_r = normal.log_prob(p_r, r, 0)
    one_batch(log_p_image, log_p_speed, log_p_r)
    negative_total_3 = -(log_p_image + log_p_speed + log_p_r)
    total_4 = 0.8 * kl_z.unflatten(0, (B, T)).mean(1).mean().clamp(min=0.1) + 0.2 * kl_z_2.unflatten(0, (B, T)).mean(1).mean().clamp(min=0.1) + negative_total_3.unflatten(0, (B, T)).mean(1).mean()
    return total_4, (kl_z, kl_z_2, log_p_image, log_p_speed, log_p_r), (e, h, z)
