import torch
import torch.nn.functional as F
from worldformula.families import normal, uniform
from worldformula.formula.filtering import ancestors
from worldformula.formula.filtering import carried_weights
from worldformula.formula.filtering import taken
from worldformula.formula.filtering import weights_left
from worldformula.formula.runtime import along, flat, fold, kept, logmeanexp, matched, one_batch, restart, stack, steps, steps_kept, unfold, widened


def formula(self, x, a, first, start_h, start_log_weight, noise_resampling, noise_z):
    """-mean(Σ_{t; reset=first} log(E_{q(z_t|h_{t-1},x_t), h_t = f(h_{t-1},z_t,a_t); K=3; resample=systematic; ESS<0.5K}[p(x_t|z_t,h_{t-1}) p(z_t|h_{t-1}) / q(z_t|h_{t-1},x_t)]))"""
    p_resampling = (0.0, 1.0)                                                 # p(resampling_t)
    B, T = x.shape[:2]
    # before the loop: needs data only, all steps at once
    keep = kept(first)
    noise_resampling = flat(noise_resampling)
    resampling = uniform.sample(p_resampling, noise_resampling)
    resampling_k = along(resampling, 3)
    x = flat(x)
    x_k = along(x, 3)
    a = flat(a)
    a_k = along(a, 3)
    keep_s = steps_kept(keep)
    resampling_k_s = steps(resampling_k, B, 1)
    x_k_s = steps(x_k, B, 1)
    noise_z_s = noise_z.unbind(2)
    a_k_s = steps(a_k, B, 1)
    z_s, h_s, log_p_x_s, log_p_z_s, log_mean_s, log_weight_s = [], [], [], [], [], []
    # in the loop: from carry to carry
    h = start_h
    log_weight = start_log_weight
    f = self.f
    p_x_given_z_h_prev = self.p_x_given_z_h_prev
    p_z_given_h_prev = self.p_z_given_h_prev
    q_z_given_h_prev_x = self.q_z_given_h_prev_x
    for t in range(T):
        log_weight_prev = restart(log_weight, keep_s[t], lead=1)
        h_prev = restart(h, keep_s[t], lead=1)
        ancestor = ancestors(log_weight_prev, resampling_k_s[t], how='systematic', ess=0.5)
        log_weight_left = weights_left(log_weight_prev, ess=0.5)
        h_prev_resampled = taken(h_prev, ancestor, 0)
        q_z_loc, q_z_raw = unfold(q_z_given_h_prev_x(fold(h_prev_resampled, 1), fold(x_k_s[t], 1)), 3, -1).split_with_sizes((2, 2), -1)  # q(z_t|h_{t-1},x_t)
        q_z_scale = F.softplus(q_z_raw)
        z = q_z_loc + q_z_scale * noise_z_s[t]
        h = unfold(f(fold(h_prev_resampled, 1), fold(z, 1), fold(a_k_s[t], 1)), 3, -1)  # h_t = f(h_{t-1},z_t,a_t)
        p_x = normal.params(unfold(p_x_given_z_h_prev(fold(z, 1), fold(h_prev_resampled, 1)), 3, -1), (6,), {'scale': 1.0})  # p(x_t|z_t,h_{t-1})
        log_p_x = normal.log_prob(p_x, x_k_s[t], 1)
        p_z_loc, p_z_raw = unfold(p_z_given_h_prev(fold(h_prev_resampled, 1)), 3, -1).split_with_sizes((2, 2), -1)  # p(z_t|h_{t-1})
        p_z_scale = F.softplus(p_z_raw)
        log_p_z = (-0.5 * ((matched(z, p_z_loc) - p_z_loc) / p_z_scale).square() - widened(p_z_scale).log() - 0.9189385332046727).sum(-1)
        log_q_z = (-0.5 * ((matched(z, q_z_loc) - q_z_loc) / q_z_scale).square() - widened(q_z_scale).log() - 0.9189385332046727).sum(-1)
        total_2 = log_weight_left + (log_p_x + log_p_z - log_q_z)
        log_mean = logmeanexp(total_2, 0)
        log_mean_k = along(log_mean, 3)
        log_weight = carried_weights(total_2, log_mean_k)
        z_s.append(z)
        h_s.append(h)
        log_p_x_s.append(log_p_x)
        log_p_z_s.append(log_p_z)
        log_mean_s.append(log_mean)
        log_weight_s.append(log_weight)
    z = stack(z_s, 1)
    h = stack(h_s, 1)
    log_p_x = stack(log_p_x_s, 1)
    log_p_z = stack(log_p_z_s, 1)
    log_mean = stack(log_mean_s)
    log_weight = stack(log_weight_s, 1)
    # after the loop: all steps at once
    one_batch(log_p_x, log_p_z)
    negative_mean_value = -log_mean.unflatten(0, (B, T)).sum(1).mean()
    return negative_mean_value, (log_mean,), (z, h, log_weight)
