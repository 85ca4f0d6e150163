import torch
import torch.nn.functional as F
from worldformula.families import normal
from worldformula.formula.runtime import along, counted, flat, fold, logmeanexp, matched, one_batch, stack, steps, unfold, widened


def formula(self, x, a, start_h, noise_z):
    """-mean(log(E_{q(z_t|h_{t-1},x_t), h_t = f(h_{t-1},z_t,a_t); K=3}[exp(Σ_{t; initial=h} (log p(x_t|z_t,h_{t-1}) p(z_t|h_{t-1}) - log q(z_t|h_{t-1},x_t)))]))"""
    B, T = x.shape[:2]
    # before the loop: needs data only, all steps at once
    x = flat(x)
    x_k = along(x, 3)
    a = flat(a)
    a_k = along(a, 3)
    x_k_s = steps(x_k, B, 1)
    noise_z_s = noise_z.unbind(2)
    a_k_s = steps(a_k, B, 1)
    h_prev_s, q_z_loc_s, q_z_scale_s, z_s, h_s = [], [], [], [], []
    # in the loop: from carry to carry
    h = start_h
    f = self.f
    q_z_given_h_prev_x = self.q_z_given_h_prev_x
    for t in range(T):
        h_prev = h
        q_z_loc, q_z_raw = unfold(q_z_given_h_prev_x(fold(h_prev, 1), fold(x_k_s[t], 1)), 3, -1).split_with_sizes((2, 2), -1)  # q(z_t|h_{t-1},x_t)
        q_z_scale = F.softplus(q_z_raw)
        z = q_z_loc + q_z_scale * noise_z_s[t]
        h = unfold(f(fold(h_prev, 1), fold(z, 1), fold(a_k_s[t], 1)), 3, -1)  # h_t = f(h_{t-1},z_t,a_t)
        h_prev_s.append(h_prev)
        q_z_loc_s.append(q_z_loc)
        q_z_scale_s.append(q_z_scale)
        z_s.append(z)
        h_s.append(h)
    h_prev = stack(h_prev_s, 1)
    q_z_loc = stack(q_z_loc_s, 1)
    q_z_scale = stack(q_z_scale_s, 1)
    z = stack(z_s, 1)
    h = stack(h_s, 1)
    # after the loop: all steps at once
    p_x = normal.params(unfold(self.p_x_given_z_h_prev(fold(z, 1), fold(h_prev, 1)), 3, -1), (6,), {'scale': 1.0})  # p(x_t|z_t,h_{t-1})
    log_p_x = normal.log_prob(p_x, x_k, 1)
    p_z_loc, p_z_raw = unfold(self.p_z_given_h_prev(fold(h_prev, 1)), 3, -1).split_with_sizes((2, 2), -1)  # p(z_t|h_{t-1})
    p_z_scale = F.softplus(p_z_raw)
    log_p_z = (-0.5 * ((matched(z, p_z_loc) - p_z_loc) / p_z_scale).square() - widened(p_z_scale).log() - 0.9189385332046727).sum(-1)
    total = log_p_x + log_p_z
    log_q_z = (-0.5 * ((matched(z, q_z_loc) - q_z_loc) / q_z_scale).square() - widened(q_z_scale).log() - 0.9189385332046727).sum(-1)
    one_batch(log_p_x, log_p_z, total, log_q_z)
    difference = total - log_q_z
    log_mean = logmeanexp(counted(difference, B, T, 'sum'), 0)
    negative_mean_value = -log_mean.mean()
    return negative_mean_value, (total, log_q_z, log_mean), (z, h)
