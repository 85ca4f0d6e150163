import torch
from worldformula.families import normal, one_hot
from worldformula.formula.runtime import flat, kept, one_batch, restart, shift, stack, steps, steps_kept, stop


def formula(self, image, speed, a, r, first, start_c, start_h, start_z, start_a, noise_epsilon, noise_z):
    """mean(mean_{t; reset=first} E_{e_t = enc(image_t,speed_t), p(epsilon_t), u_t = f(z_{t-1},a_{t-1}), c_t,Theta_t = memory(u_t,c_{t-1},epsilon_t), h_t = gru(u_t,c_t,h_{t-1}), g_t = g(z_{t-1},a_{t-1},c_t), q(z_t|c_t,h_t,e_t)}[kl + kl_coarse - log p(image_t|h_t,z_t,c_t) - log p(speed_t|h_t,z_t,c_t) - log p(r_t|h_t,z_t,c_t) - log p_c(image_t|z_t,c_t) - log p_c(speed_t|z_t,c_t) - log p_c(r_t|z_t,c_t) + 1.0 * gates])"""
    p_epsilon = (0.0, 0.1)                                                    # p(epsilon_t)
    B, T = image.shape[:2]
    # before the loop: needs data only, all steps at once
    keep = kept(first)
    a_prev = shift(a, start_a, keep)
    image = flat(image)
    speed = flat(speed)
    e = self.enc(image, speed)                                                # e_t = enc(image_t,speed_t)
    noise_epsilon = flat(noise_epsilon)
    epsilon = normal.sample(p_epsilon, noise_epsilon)
    r = flat(r)
    keep_s = steps_kept(keep)
    e_s = steps(e, B)
    epsilon_s = steps(epsilon, B)
    a_prev_s = steps(a_prev, B)
    noise_z_s = noise_z.unbind(1)
    u_s, c_s, c_2_s, h_s, q_z_s, z_s = [], [], [], [], [], []
    # in the loop: from carry to carry
    c_2 = start_c
    h = start_h
    z = start_z
    f = self.f
    gru = self.gru
    memory = self.memory
    q_z_given_c_h_e = self.q_z_given_c_h_e
    for t in range(T):
        z_prev = restart(z, keep_s[t])
        c_prev = restart(c_2, keep_s[t])
        h_prev = restart(h, keep_s[t])
        u = f(z_prev, a_prev_s[t])                                           # u_t = f(z_{t-1},a_{t-1})
        c = memory(u, c_prev, epsilon_s[t])                                  # c_t,Theta_t = memory(u_t,c_{t-1},epsilon_t)
        c_2 = c[0]
        h = gru(u, c_2, h_prev)                                              # h_t = gru(u_t,c_t,h_{t-1})
        q_z = one_hot.params(q_z_given_c_h_e(c_2, h, e_s[t]), (8, 8))        # q(z_t|c_t,h_t,e_t)
        z = one_hot.sample(q_z, noise_z_s[t])
        u_s.append(u)
        c_s.append(c)
        c_2_s.append(c_2)
        h_s.append(h)
        q_z_s.append(q_z)
        z_s.append(z)
    u = stack(u_s)
    c = stack(c_s)
    c_2 = stack(c_2_s)
    h = stack(h_s)
    q_z = stack(q_z_s)
    z = stack(z_s)
    z_prev = shift(z.unflatten(0, (B, T)), start_z, keep)
    # after the loop: all steps at once
    Theta = c[1]
    g = self.g(z_prev, a_prev, c_2)                                           # g_t = g(z_{t-1},a_{t-1},c_t)
    sg_q_z = stop(q_z)
    p_z = one_hot.params(self.p_z_given_h_c(h, c_2), (8, 8))                  # p(z_t|h_t,c_t)
    kl_z = one_hot.kl(sg_q_z, p_z, 2)
    sg_p_z = stop(p_z)
    kl_z_2 = one_hot.kl(q_z, sg_p_z, 2)
    total = 0.8 * kl_z + 0.2 * kl_z_2
    p_c_z = one_hot.params(self.p_c_z_given_z_prev_g(z_prev, g), (8, 8))      # p_c(z_t|z_{t-1},g_t)
    kl_z_3 = one_hot.kl(sg_q_z, p_c_z, 2)
    sg_p_c_z = stop(p_c_z)
    kl_z_4 = one_hot.kl(q_z, sg_p_c_z, 2)
    total_2 = 0.8 * kl_z_3 + 0.2 * kl_z_4
    p_image = normal.params(self.p_image_given_h_z_c(h, z, c_2), (16, 16, 3), {'scale': 1.0})  # p(image_t|h_t,z_t,c_t)
    log_p_image = normal.log_prob(p_image, image, 3)
    p_speed = normal.params(self.p_speed_given_h_z_c(h, z, c_2), (3,), {'scale': 1.0})  # p(speed_t|h_t,z_t,c_t)
    log_p_speed = normal.log_prob(p_speed, speed, 1)
    p_r = normal.params(self.p_r_given_h_z_c(h, z, c_2), (), {'scale': 1.0})  # p(r_t|h_t,z_t,c_t)
    log_p_r = normal.log_prob(p_r, r, 0)
    p_c_image = normal.params(self.p_c_image_given_z_c(z, c_2), (16, 16, 3), {'scale': 1.0})  # p_c(image_t|z_t,c_t)
    log_p_c_image = normal.log_prob(p_c_image, image, 3)
    p_c_speed = normal.params(self.p_c_speed_given_z_c(z, c_2), (3,), {'scale': 1.0})  # p_c(speed_t|z_t,c_t)
    log_p_c_speed = normal.log_prob(p_c_speed, speed, 1)
    p_c_r = normal.params(self.p_c_r_given_z_c(z, c_2), (), {'scale': 1.0})   # p_c(r_t|z_t,c_t)
    log_p_c_r = normal.log_prob(p_c_r, r, 0)
    total_4 = Theta.sum(-1)
    one_batch(kl_z, kl_z_2, kl_z_3, kl_z_4, log_p_image, log_p_speed, log_p_r, log_p_c_image, log_p_c_speed, log_p_c_r, total_4)
    ratio = total_4 / 16
    total_5 = total + total_2 - log_p_image - log_p_speed - log_p_r - log_p_c_image - log_p_c_speed - log_p_c_r + 1.0 * ratio
    mean_value = total_5.unflatten(0, (B, T)).mean(1).mean()
    return mean_value, (total, total_2, log_p_image, log_p_speed, log_p_r, log_p_c_image, log_p_c_speed, log_p_c_r, ratio), (e, epsilon, u, c_2, Theta, h, g, z)
