import torch
import torch.nn.functional as F
from worldformula.families import normal
from worldformula.formula.runtime import counting, flat, kept, one_batch, restart, shift, stack, steps, steps_kept


def formula(self, x, a, first, start_z_m1, start_z, start_a, start_t, noise_z_0, noise_z):
    """mean(Σ_{t; reset=first; initial=z_m1; initial=q(z_0|x_1)} 0.9 ^ (t - 1) * E_{p(z_t|z_{t-1},z_{t-2},a_{t-1})}[log p(x_t|z_t)])"""
    B, T = x.shape[:2]
    # before the loop: needs data only, all steps at once
    keep = kept(first)
    a_prev = shift(a, start_a, keep)
    x = flat(x)
    q_z_0_loc, q_z_0_raw = self.q_z_0_given_x_1(x).split_with_sizes((2, 2), -1)  # q(z_0|x_1)
    q_z_0_scale = F.softplus(q_z_0_raw)
    noise_z_0 = flat(noise_z_0)
    z_0 = q_z_0_loc + q_z_0_scale * noise_z_0
    number_t = counting(start_t, T, keep)
    power = 0.9 ** (number_t - 1)
    start_z = z_0.unflatten(0, (B, T))[:, 0] if start_z is None else start_z
    keep_s = steps_kept(keep)
    z_0_s = steps(z_0, B)
    a_prev_s = steps(a_prev, B)
    noise_z_s = noise_z.unbind(1)
    z_s = []
    # in the loop: from carry to carry
    z_prev = start_z_m1
    z = start_z
    p_z_given_z_prev_z_m2_a_prev = self.p_z_given_z_prev_z_m2_a_prev
    for t in range(T):
        z_m2 = restart(z_prev, keep_s[t], self.initial_state.z_m1)
        z_prev = restart(z, keep_s[t], z_0_s[t])
        p_z_loc, p_z_raw = p_z_given_z_prev_z_m2_a_prev(z_prev, z_m2, a_prev_s[t]).split_with_sizes((2, 2), -1)  # p(z_t|z_{t-1},z_{t-2},a_{t-1})
        p_z_scale = F.softplus(p_z_raw)
        z = p_z_loc + p_z_scale * noise_z_s[t]
        z_s.append(z)
    z = stack(z_s)
    z_prev = shift(z.unflatten(0, (B, T)), start_z, keep, z_0.unflatten(0, (B, T)))
    # after the loop: all steps at once
    p_x = normal.params(self.p_x_given_z(z), (6,), {'scale': 1.0})            # p(x_t|z_t)
    log_p_x = normal.log_prob(p_x, x, 1)
    one_batch(number_t, log_p_x)
    product = power * log_p_x
    mean_value = product.unflatten(0, (B, T)).sum(1).mean()
    return mean_value, (log_p_x,), (z_0, number_t, z, z_prev)
