import torch
import torch.nn.functional as F
from worldformula.families import one_hot
from worldformula.formula.runtime import behind, counted, filled, flat, kept, matched, one_batch, padded, restart, shift, stack, steps, steps_kept, widened


def formula(self, x, first, start_b, start_m, start_b_1, start_b_2, start_b_3, noise_delta, noise_u, noise_z, noise_u_prime, noise_z_prime):
    """mean(mean_{t; reset=first; burn_in=4} E_{e_t = enc(x_t), b_t,m_t = lstm(b_{t-1},m_{t-1},e_t), b_{1,t} = late(b_{t-1}), b_{2,t} = late(b_{1,t-1}), b_{3,t} = late(b_{2,t-1}), b_{4,t} = late(b_{3,t-1}), p(delta_t), b'_t = pick(delta_t,b_{1,t},b_{2,t},b_{3,t},b_{4,t}), p_B(u_t|b_t), p_B(z_t|u_t,b_t)}[E_{q(u'_t|z_t,u_t,b'_t,b_t,delta_t) q(z'_t|u'_t,z_t,u_t,b'_t,b_t,delta_t)}[KL(q(u'_t|z_t,u_t,b'_t,b_t,delta_t) ‖ p_B(u'_t|b'_t)) + KL(q(z'_t|u'_t,z_t,u_t,b'_t,b_t,delta_t) ‖ p_B(z'_t|u'_t,b'_t)) + (log p_B(u_t|b_t) + log p_B(z_t|u_t,b_t) - log p_T(u_t|z'_t,u'_t,delta_t) - log p_T(z_t|u_t,z'_t,u'_t,delta_t)) - log p(x_t|z_t,u_t)]])"""
    p_delta = (-1.3862943611198906,)                                          # p(delta_t)
    B, T = x.shape[:2]
    # before the loop: needs data only, all steps at once
    keep = kept(first)
    x_behind = flat(behind(x, 4))
    x = flat(x)
    x_padded = padded(x, x_behind)
    e = self.enc(x_padded)                                                    # e_t = enc(x_t)
    noise_delta = flat(noise_delta)
    delta = one_hot.sample(p_delta, noise_delta)
    noise_u = flat(noise_u)
    noise_z = flat(noise_z)
    noise_u_prime = flat(noise_u_prime)
    noise_z_prime = flat(noise_z_prime)
    x_counted = filled(x_padded, x_behind)
    keep_s = steps_kept(keep)
    e_s = steps(e, B)
    b_2_s, m_s = [], []
    # in the loop: from carry to carry
    b_2 = start_b
    m = start_m
    lstm = self.lstm
    for t in range(T):
        b_prev = restart(b_2, keep_s[t])
        m_prev = restart(m, keep_s[t])
        b = lstm(b_prev, m_prev, e_s[t])                                     # b_t,m_t = lstm(b_{t-1},m_{t-1},e_t)
        b_2 = b[0]
        m = b[1]
        b_2_s.append(b_2)
        m_s.append(m)
    b_2 = stack(b_2_s)
    m = stack(m_s)
    b_prev = shift(b_2.unflatten(0, (B, T)), start_b, keep)
    # after the loop: all steps at once
    b_1 = self.late(b_prev)                                                   # b_{1,t} = late(b_{t-1})
    b_1_prev = shift(b_1.unflatten(0, (B, T)), start_b_1, keep)
    b_2_2 = self.late(b_1_prev)                                               # b_{2,t} = late(b_{1,t-1})
    b_2_prev = shift(b_2_2.unflatten(0, (B, T)), start_b_2, keep)
    b_3 = self.late(b_2_prev)                                                 # b_{3,t} = late(b_{2,t-1})
    b_3_prev = shift(b_3.unflatten(0, (B, T)), start_b_3, keep)
    b_4 = self.late(b_3_prev)                                                 # b_{4,t} = late(b_{3,t-1})
    b_prime = self.pick(delta, b_1, b_2_2, b_3, b_4)                          # b'_t = pick(delta_t,b_{1,t},b_{2,t},b_{3,t},b_{4,t})
    p_B_u_loc, p_B_u_raw = self.p_B_u_given_b(b_2).split_with_sizes((8, 8), -1)  # p_B(u_t|b_t)
    p_B_u_scale = F.softplus(p_B_u_raw)
    u = p_B_u_loc + p_B_u_scale * noise_u
    p_B_z_loc, p_B_z_raw = self.p_B_z_given_u_b(u, b_2).split_with_sizes((8, 8), -1)  # p_B(z_t|u_t,b_t)
    p_B_z_scale = F.softplus(p_B_z_raw)
    z = p_B_z_loc + p_B_z_scale * noise_z
    q_u_prime_loc, q_u_prime_raw = self.q_u_prime_given_z_u_b_prime_b_delta(z, u, b_prime, b_2, delta).split_with_sizes((8, 8), -1)  # q(u'_t|z_t,u_t,b'_t,b_t,delta_t)
    q_u_prime_scale = F.softplus(q_u_prime_raw)
    u_prime = q_u_prime_loc + q_u_prime_scale * noise_u_prime
    q_z_prime_loc, q_z_prime_raw = self.q_z_prime_given_u_prime_z_u_b_prime_b_delta(u_prime, z, u, b_prime, b_2, delta).split_with_sizes((8, 8), -1)  # q(z'_t|u'_t,z_t,u_t,b'_t,b_t,delta_t)
    q_z_prime_scale = F.softplus(q_z_prime_raw)
    z_prime = q_z_prime_loc + q_z_prime_scale * noise_z_prime
    p_B_u_prime_loc, p_B_u_prime_raw = self.p_B_u_given_b(b_prime).split_with_sizes((8, 8), -1)  # p_B(u'_t|b'_t)
    p_B_u_prime_scale = F.softplus(p_B_u_prime_raw)
    kl_u_prime_ratio = widened(q_u_prime_scale) / p_B_u_prime_scale
    kl_u_prime_shift = (widened(q_u_prime_loc) - p_B_u_prime_loc) / p_B_u_prime_scale
    kl_u_prime = (0.5 * (kl_u_prime_ratio.square() + kl_u_prime_shift.square() - 1) - kl_u_prime_ratio.log()).sum(-1)
    p_B_z_prime_loc, p_B_z_prime_raw = self.p_B_z_given_u_b(u_prime, b_prime).split_with_sizes((8, 8), -1)  # p_B(z'_t|u'_t,b'_t)
    p_B_z_prime_scale = F.softplus(p_B_z_prime_raw)
    kl_z_prime_ratio = widened(q_z_prime_scale) / p_B_z_prime_scale
    kl_z_prime_shift = (widened(q_z_prime_loc) - p_B_z_prime_loc) / p_B_z_prime_scale
    kl_z_prime = (0.5 * (kl_z_prime_ratio.square() + kl_z_prime_shift.square() - 1) - kl_z_prime_ratio.log()).sum(-1)
    log_p_B_u = (-0.5 * ((matched(u, p_B_u_loc) - p_B_u_loc) / p_B_u_scale).square() - widened(p_B_u_scale).log() - 0.9189385332046727).sum(-1)
    log_p_B_z = (-0.5 * ((matched(z, p_B_z_loc) - p_B_z_loc) / p_B_z_scale).square() - widened(p_B_z_scale).log() - 0.9189385332046727).sum(-1)
    p_T_u_loc, p_T_u_raw = self.p_T_u_given_z_prime_u_prime_delta(z_prime, u_prime, delta).split_with_sizes((8, 8), -1)  # p_T(u_t|z'_t,u'_t,delta_t)
    p_T_u_scale = F.softplus(p_T_u_raw)
    log_p_T_u = (-0.5 * ((matched(u, p_T_u_loc) - p_T_u_loc) / p_T_u_scale).square() - widened(p_T_u_scale).log() - 0.9189385332046727).sum(-1)
    p_T_z_loc, p_T_z_raw = self.p_T_z_given_u_z_prime_u_prime_delta(u, z_prime, u_prime, delta).split_with_sizes((8, 8), -1)  # p_T(z_t|u_t,z'_t,u'_t,delta_t)
    p_T_z_scale = F.softplus(p_T_z_raw)
    log_p_T_z = (-0.5 * ((matched(z, p_T_z_loc) - p_T_z_loc) / p_T_z_scale).square() - widened(p_T_z_scale).log() - 0.9189385332046727).sum(-1)
    p_x_logits = self.p_x_given_z_u(z, u)                                     # p(x_t|z_t,u_t)
    log_p_x = -F.binary_cross_entropy_with_logits(widened(p_x_logits), matched(x_counted, p_x_logits), reduction="none").sum(-1)
    one_batch(kl_u_prime, kl_z_prime, log_p_B_u, log_p_B_z, log_p_T_u, log_p_T_z, log_p_x)
    difference_3 = kl_u_prime + kl_z_prime + (log_p_B_u + log_p_B_z - log_p_T_u - log_p_T_z) - log_p_x
    mean_value = counted(difference_3, B, T, 'mean', burn_in=4).mean()
    return mean_value, (kl_u_prime, kl_z_prime, log_p_B_u, log_p_B_z, log_p_T_u, log_p_T_z, log_p_x), (e, b_2, m, b_1, b_2_2, b_3, b_4, delta, b_prime, u, z, u_prime, z_prime)
