import torch
import torch.nn.functional as F
from worldformula.formula.runtime import flat, kept, matched, one_batch, restart, shift, stack, steps, steps_kept, widened


def formula(self, x, first, start_z, noise_z):
    """mean(Σ_{t; reset=first; initial=z} E_{h_t = rnn(x_{1:T}), q(z_t|z_{t-1},h_t)}[KL(q(z_t|z_{t-1},h_t) ‖ p(z_t|z_{t-1})) - log p(x_t|z_t)])"""
    x_series = x
    h_series = self.rnn(x_series)                                             # h_t = rnn(x_{1:T})
    B, T = x.shape[:2]
    # before the loop: needs data only, all steps at once
    keep = kept(first)
    h = flat(h_series)
    x = flat(x)
    keep_s = steps_kept(keep)
    h_s = steps(h, B)
    noise_z_s = noise_z.unbind(1)
    q_z_loc_s, q_z_scale_s, z_s = [], [], []
    # in the loop: from carry to carry
    z = start_z
    q_z_given_z_prev_h = self.q_z_given_z_prev_h
    for t in range(T):
        z_prev = restart(z, keep_s[t], self.initial_state.z)
        q_z_loc, q_z_raw = q_z_given_z_prev_h(z_prev, h_s[t]).split_with_sizes((16, 16), -1)  # q(z_t|z_{t-1},h_t)
        q_z_scale = F.softplus(q_z_raw)
        z = q_z_loc + q_z_scale * noise_z_s[t]
        q_z_loc_s.append(q_z_loc)
        q_z_scale_s.append(q_z_scale)
        z_s.append(z)
    q_z_loc = stack(q_z_loc_s)
    q_z_scale = stack(q_z_scale_s)
    z = stack(z_s)
    z_prev = shift(z.unflatten(0, (B, T)), start_z, keep, self.initial_state.z)
    # after the loop: all steps at once
    p_z_loc, p_z_raw = self.p_z_given_z_prev(z_prev).split_with_sizes((16, 16), -1)  # p(z_t|z_{t-1})
    p_z_scale = F.softplus(p_z_raw)
    kl_z_ratio = widened(q_z_scale) / p_z_scale
    kl_z_shift = (widened(q_z_loc) - p_z_loc) / p_z_scale
    kl_z = (0.5 * (kl_z_ratio.square() + kl_z_shift.square() - 1) - kl_z_ratio.log()).sum(-1)
    p_x_logits = self.p_x_given_z(z)                                          # p(x_t|z_t)
    log_p_x = -F.binary_cross_entropy_with_logits(widened(p_x_logits), matched(x, p_x_logits), reduction="none").sum(-1)
    one_batch(kl_z, log_p_x)
    difference = kl_z - log_p_x
    mean_value = difference.unflatten(0, (B, T)).sum(1).mean()
    return mean_value, (kl_z, log_p_x), (h, z)
