import torch
import torch.nn.functional as F
from worldformula.families import normal, uniform
from worldformula.formula.runtime import flat, kept, one_batch, restart, shift, stack, steps, steps_kept, widened


def formula(self, image, speed, a, r, first, start_h, start_z, start_a, noise_u, noise_z):
    """mean(mean_{t; reset=first} E_{p(u_t), \\hat image_t = bits(image_t,u_t), e_t = enc(\\hat image_t,speed_t), h_t = f(h_{t-1},z_{t-1},a_{t-1}), q(z_t|h_t,e_t)}[max(KL(q(z_t|h_t,e_t) ‖ p(z_t|h_t)) - 1.0, 0) + (-(log p(\\hat image_t|h_t,z_t) + log p(speed_t|h_t,z_t)) - 10.0 * log p(r_t|h_t,z_t))])"""
    p_u = (0.0, 1.0)                                                          # p(u_t)
    B, T = image.shape[:2]
    # before the loop: needs data only, all steps at once
    keep = kept(first)
    a_prev = shift(a, start_a, keep)
    noise_u = flat(noise_u)
    u = uniform.sample(p_u, noise_u)
    image = flat(image)
    hat_image = self.bits(image, u)                                           # \hat image_t = bits(image_t,u_t)
    speed = flat(speed)
    e = self.enc(hat_image, speed)                                            # e_t = enc(\hat image_t,speed_t)
    r = flat(r)
    keep_s = steps_kept(keep)
    e_s = steps(e, B)
    a_prev_s = steps(a_prev, B)
    noise_z_s = noise_z.unbind(1)
    h_s, q_z_loc_s, q_z_scale_s, z_s = [], [], [], []
    # in the loop: from carry to carry
    h = start_h
    z = start_z
    f = self.f
    q_z_given_h_e = self.q_z_given_h_e
    for t in range(T):
        h_prev = restart(h, keep_s[t])
        z_prev = restart(z, keep_s[t])
        h = f(h_prev, z_prev, a_prev_s[t])                                   # h_t = f(h_{t-1},z_{t-1},a_{t-1})
        q_z_loc, q_z_raw = q_z_given_h_e(h, e_s[t]).split_with_sizes((16, 16), -1)  # q(z_t|h_t,e_t)
        q_z_scale = F.softplus(q_z_raw)
        z = q_z_loc + q_z_scale * noise_z_s[t]
        h_s.append(h)
        q_z_loc_s.append(q_z_loc)
        q_z_scale_s.append(q_z_scale)
        z_s.append(z)
    h = stack(h_s)
    q_z_loc = stack(q_z_loc_s)
    q_z_scale = stack(q_z_scale_s)
    z = stack(z_s)
    # after the loop: all steps at once
    p_z_loc, p_z_raw = self.p_z_given_h(h).split_with_sizes((16, 16), -1)     # p(z_t|h_t)
    p_z_scale = F.softplus(p_z_raw)
    kl_z_ratio = widened(q_z_scale) / p_z_scale
    kl_z_shift = (widened(q_z_loc) - p_z_loc) / p_z_scale
    kl_z = (0.5 * (kl_z_ratio.square() + kl_z_shift.square() - 1) - kl_z_ratio.log()).sum(-1)
    p_hat_image = normal.params(self.p_hat_image_given_h_z(h, z), (16, 16, 3), {'scale': 1.0})  # p(\hat image_t|h_t,z_t)
    log_p_hat_image = normal.log_prob(p_hat_image, hat_image, 3)
    p_speed = normal.params(self.p_speed_given_h_z(h, z), (3,), {'scale': 1.0})  # p(speed_t|h_t,z_t)
    log_p_speed = normal.log_prob(p_speed, speed, 1)
    p_r = normal.params(self.p_r_given_h_z(h, z), (), {'scale': 1.0})         # p(r_t|h_t,z_t)
    log_p_r = normal.log_prob(p_r, r, 0)
    one_batch(kl_z, log_p_hat_image, log_p_speed, log_p_r)
    total_2 = (kl_z - 1.0).clamp(min=0) + (-(log_p_hat_image + log_p_speed) - 10.0 * log_p_r)
    mean_value = total_2.unflatten(0, (B, T)).mean(1).mean()
    return mean_value, (kl_z, log_p_hat_image, log_p_speed, log_p_r), (u, hat_image, e, h, z)
