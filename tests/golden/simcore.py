import torch
import torch.nn.functional as F
from worldformula.formula.runtime import behind, counted, filled, flat, kept, matched, one_batch, padded, restart, shift, stack, steps, steps_kept, widened


def formula(self, x, a, first, start_b, start_m, start_s_0, start_s_1, start_s_2, start_s_3, start_s_4, start_s_5, start_s_6, start_s_7, start_a, noise_z_1, noise_z_2, noise_z_4, noise_z_8):
    """mean(mean_{t; reset=first; burn_in=8} E_{e_t = enc(x_t), b_t,m_t = lstm(b_{t-1},m_{t-1},e_t,a_{t-1}), s_{0,t} = f(b_t), s_{1,t} = g(s_{0,t-1},a_{t-1}), s_{2,t} = g(s_{1,t-1},a_{t-1}), s_{3,t} = g(s_{2,t-1},a_{t-1}), s_{4,t} = g(s_{3,t-1},a_{t-1}), s_{5,t} = g(s_{4,t-1},a_{t-1}), s_{6,t} = g(s_{5,t-1},a_{t-1}), s_{7,t} = g(s_{6,t-1},a_{t-1}), s_{8,t} = g(s_{7,t-1},a_{t-1}), q(z_{1,t}|s_{1,t},e_t), q(z_{2,t}|s_{2,t},e_t), q(z_{4,t}|s_{4,t},e_t), q(z_{8,t}|s_{8,t},e_t)}[(KL(q(z_{1,t}|s_{1,t},e_t) ‖ p(z_{1,t}|s_{1,t})) - log p(x_t|z_{1,t},s_{1,t}) + (KL(q(z_{2,t}|s_{2,t},e_t) ‖ p(z_{2,t}|s_{2,t})) - log p(x_t|z_{2,t},s_{2,t})) + (KL(q(z_{4,t}|s_{4,t},e_t) ‖ p(z_{4,t}|s_{4,t})) - log p(x_t|z_{4,t},s_{4,t})) + (KL(q(z_{8,t}|s_{8,t},e_t) ‖ p(z_{8,t}|s_{8,t})) - log p(x_t|z_{8,t},s_{8,t}))) / 4])"""
    B, T = x.shape[:2]
    # before the loop: needs data only, all steps at once
    keep = kept(first)
    x_behind = flat(behind(x, 8))
    a_behind = flat(behind(a, 8))
    x = flat(x)
    x_padded = padded(x, x_behind)
    e = self.enc(x_padded)                                                    # e_t = enc(x_t)
    a = flat(a)
    a_padded = padded(a, a_behind)
    a_prev = shift(a_padded.unflatten(0, (B, T)), start_a, keep)
    noise_z_1 = flat(noise_z_1)
    noise_z_2 = flat(noise_z_2)
    noise_z_4 = flat(noise_z_4)
    noise_z_8 = flat(noise_z_8)
    x_counted = filled(x_padded, x_behind)
    keep_s = steps_kept(keep)
    e_s = steps(e, B)
    a_prev_s = steps(a_prev, B)
    b_2_s, m_s = [], []
    # in the loop: from carry to carry
    b_2 = start_b
    m = start_m
    lstm = self.lstm
    for t in range(T):
        b_prev = restart(b_2, keep_s[t])
        m_prev = restart(m, keep_s[t])
        b = lstm(b_prev, m_prev, e_s[t], a_prev_s[t])                        # b_t,m_t = lstm(b_{t-1},m_{t-1},e_t,a_{t-1})
        b_2 = b[0]
        m = b[1]
        b_2_s.append(b_2)
        m_s.append(m)
    b_2 = stack(b_2_s)
    m = stack(m_s)
    # after the loop: all steps at once
    s_0 = self.f(b_2)                                                         # s_{0,t} = f(b_t)
    s_0_prev = shift(s_0.unflatten(0, (B, T)), start_s_0, keep)
    s_1 = self.g(s_0_prev, a_prev)                                            # s_{1,t} = g(s_{0,t-1},a_{t-1})
    s_1_prev = shift(s_1.unflatten(0, (B, T)), start_s_1, keep)
    s_2 = self.g(s_1_prev, a_prev)                                            # s_{2,t} = g(s_{1,t-1},a_{t-1})
    s_2_prev = shift(s_2.unflatten(0, (B, T)), start_s_2, keep)
    s_3 = self.g(s_2_prev, a_prev)                                            # s_{3,t} = g(s_{2,t-1},a_{t-1})
    s_3_prev = shift(s_3.unflatten(0, (B, T)), start_s_3, keep)
    s_4 = self.g(s_3_prev, a_prev)                                            # s_{4,t} = g(s_{3,t-1},a_{t-1})
    s_4_prev = shift(s_4.unflatten(0, (B, T)), start_s_4, keep)
    s_5 = self.g(s_4_prev, a_prev)                                            # s_{5,t} = g(s_{4,t-1},a_{t-1})
    s_5_prev = shift(s_5.unflatten(0, (B, T)), start_s_5, keep)
    s_6 = self.g(s_5_prev, a_prev)                                            # s_{6,t} = g(s_{5,t-1},a_{t-1})
    s_6_prev = shift(s_6.unflatten(0, (B, T)), start_s_6, keep)
    s_7 = self.g(s_6_prev, a_prev)                                            # s_{7,t} = g(s_{6,t-1},a_{t-1})
    s_7_prev = shift(s_7.unflatten(0, (B, T)), start_s_7, keep)
    s_8 = self.g(s_7_prev, a_prev)                                            # s_{8,t} = g(s_{7,t-1},a_{t-1})
    q_z_1_loc, q_z_1_raw = self.q_z_1_given_s_1_e(s_1, e).split_with_sizes((8, 8), -1)  # q(z_{1,t}|s_{1,t},e_t)
    q_z_1_scale = F.softplus(q_z_1_raw)
    z_1 = q_z_1_loc + q_z_1_scale * noise_z_1
    q_z_2_loc, q_z_2_raw = self.q_z_1_given_s_1_e(s_2, e).split_with_sizes((8, 8), -1)  # q(z_{2,t}|s_{2,t},e_t)
    q_z_2_scale = F.softplus(q_z_2_raw)
    z_2 = q_z_2_loc + q_z_2_scale * noise_z_2
    q_z_4_loc, q_z_4_raw = self.q_z_1_given_s_1_e(s_4, e).split_with_sizes((8, 8), -1)  # q(z_{4,t}|s_{4,t},e_t)
    q_z_4_scale = F.softplus(q_z_4_raw)
    z_4 = q_z_4_loc + q_z_4_scale * noise_z_4
    q_z_8_loc, q_z_8_raw = self.q_z_1_given_s_1_e(s_8, e).split_with_sizes((8, 8), -1)  # q(z_{8,t}|s_{8,t},e_t)
    q_z_8_scale = F.softplus(q_z_8_raw)
    z_8 = q_z_8_loc + q_z_8_scale * noise_z_8
    p_z_1_loc, p_z_1_raw = self.p_z_1_given_s_1(s_1).split_with_sizes((8, 8), -1)  # p(z_{1,t}|s_{1,t})
    p_z_1_scale = F.softplus(p_z_1_raw)
    kl_z_1_ratio = widened(q_z_1_scale) / p_z_1_scale
    kl_z_1_shift = (widened(q_z_1_loc) - p_z_1_loc) / p_z_1_scale
    kl_z_1 = (0.5 * (kl_z_1_ratio.square() + kl_z_1_shift.square() - 1) - kl_z_1_ratio.log()).sum(-1)
    p_x_logits = self.p_x_given_z_1_s_1(z_1, s_1)                             # p(x_t|z_{1,t},s_{1,t})
    log_p_x = -F.binary_cross_entropy_with_logits(widened(p_x_logits), matched(x_counted, p_x_logits), reduction="none").sum(-1)
    p_z_2_loc, p_z_2_raw = self.p_z_1_given_s_1(s_2).split_with_sizes((8, 8), -1)  # p(z_{2,t}|s_{2,t})
    p_z_2_scale = F.softplus(p_z_2_raw)
    kl_z_2_ratio = widened(q_z_2_scale) / p_z_2_scale
    kl_z_2_shift = (widened(q_z_2_loc) - p_z_2_loc) / p_z_2_scale
    kl_z_2 = (0.5 * (kl_z_2_ratio.square() + kl_z_2_shift.square() - 1) - kl_z_2_ratio.log()).sum(-1)
    p_x_2_logits = self.p_x_given_z_1_s_1(z_2, s_2)                           # p(x_t|z_{2,t},s_{2,t})
    log_p_x_2 = -F.binary_cross_entropy_with_logits(widened(p_x_2_logits), matched(x_counted, p_x_2_logits), reduction="none").sum(-1)
    p_z_4_loc, p_z_4_raw = self.p_z_1_given_s_1(s_4).split_with_sizes((8, 8), -1)  # p(z_{4,t}|s_{4,t})
    p_z_4_scale = F.softplus(p_z_4_raw)
    kl_z_4_ratio = widened(q_z_4_scale) / p_z_4_scale
    kl_z_4_shift = (widened(q_z_4_loc) - p_z_4_loc) / p_z_4_scale
    kl_z_4 = (0.5 * (kl_z_4_ratio.square() + kl_z_4_shift.square() - 1) - kl_z_4_ratio.log()).sum(-1)
    p_x_3_logits = self.p_x_given_z_1_s_1(z_4, s_4)                           # p(x_t|z_{4,t},s_{4,t})
    log_p_x_3 = -F.binary_cross_entropy_with_logits(widened(p_x_3_logits), matched(x_counted, p_x_3_logits), reduction="none").sum(-1)
    p_z_8_loc, p_z_8_raw = self.p_z_1_given_s_1(s_8).split_with_sizes((8, 8), -1)  # p(z_{8,t}|s_{8,t})
    p_z_8_scale = F.softplus(p_z_8_raw)
    kl_z_8_ratio = widened(q_z_8_scale) / p_z_8_scale
    kl_z_8_shift = (widened(q_z_8_loc) - p_z_8_loc) / p_z_8_scale
    kl_z_8 = (0.5 * (kl_z_8_ratio.square() + kl_z_8_shift.square() - 1) - kl_z_8_ratio.log()).sum(-1)
    p_x_4_logits = self.p_x_given_z_1_s_1(z_8, s_8)                           # p(x_t|z_{8,t},s_{8,t})
    log_p_x_4 = -F.binary_cross_entropy_with_logits(widened(p_x_4_logits), matched(x_counted, p_x_4_logits), reduction="none").sum(-1)
    one_batch(kl_z_1, log_p_x, kl_z_2, log_p_x_2, kl_z_4, log_p_x_3, kl_z_8, log_p_x_4)
    ratio = (kl_z_1 - log_p_x + (kl_z_2 - log_p_x_2) + (kl_z_4 - log_p_x_3) + (kl_z_8 - log_p_x_4)) / 4
    mean_value = counted(ratio, B, T, 'mean', burn_in=8).mean()
    return mean_value, (kl_z_1, log_p_x, kl_z_2, log_p_x_2, kl_z_4, log_p_x_3, kl_z_8, log_p_x_4), (e, b_2, m, s_0, s_1, s_2, s_3, s_4, s_5, s_6, s_7, s_8, z_1, z_2, z_4, z_8)
