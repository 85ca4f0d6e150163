import torch
import torch.nn.functional as F
from worldformula.formula.runtime import flat, kept, matched, one_batch, restart, shift, stack, steps, steps_kept, widened


def formula(self, x, first, start_h, noise_z):
    """mean(Σ_{t; reset=first} E_{\\tilde x_t = phi_x(x_t), q(z_t|\\tilde x_t,h_{t-1}), \\tilde z_t = phi_z(z_t), h_t = f(\\tilde x_t,\\tilde z_t,h_{t-1})}[KL(q(z_t|\\tilde x_t,h_{t-1}) ‖ p(z_t|h_{t-1})) - log p(x_t|\\tilde z_t,h_{t-1})])"""
    B, T = x.shape[:2]
    # before the loop: needs data only, all steps at once
    keep = kept(first)
    x = flat(x)
    tilde_x = self.phi_x(x)                                                   # \tilde x_t = phi_x(x_t)
    keep_s = steps_kept(keep)
    tilde_x_s = steps(tilde_x, B)
    noise_z_s = noise_z.unbind(1)
    q_z_loc_s, q_z_scale_s, z_s, tilde_z_s, h_s = [], [], [], [], []
    # in the loop: from carry to carry
    h = start_h
    f = self.f
    phi_z = self.phi_z
    q_z_given_tilde_x_h_prev = self.q_z_given_tilde_x_h_prev
    for t in range(T):
        h_prev = restart(h, keep_s[t])
        q_z_loc, q_z_raw = q_z_given_tilde_x_h_prev(tilde_x_s[t], h_prev).split_with_sizes((8, 8), -1)  # q(z_t|\tilde x_t,h_{t-1})
        q_z_scale = F.softplus(q_z_raw)
        z = q_z_loc + q_z_scale * noise_z_s[t]
        tilde_z = phi_z(z)                                                   # \tilde z_t = phi_z(z_t)
        h = f(tilde_x_s[t], tilde_z, h_prev)                                 # h_t = f(\tilde x_t,\tilde z_t,h_{t-1})
        q_z_loc_s.append(q_z_loc)
        q_z_scale_s.append(q_z_scale)
        z_s.append(z)
        tilde_z_s.append(tilde_z)
        h_s.append(h)
    q_z_loc = stack(q_z_loc_s)
    q_z_scale = stack(q_z_scale_s)
    z = stack(z_s)
    tilde_z = stack(tilde_z_s)
    h = stack(h_s)
    h_prev = shift(h.unflatten(0, (B, T)), start_h, keep)
    # after the loop: all steps at once
    p_z_loc, p_z_raw = self.p_z_given_h_prev(h_prev).split_with_sizes((8, 8), -1)  # p(z_t|h_{t-1})
    p_z_scale = F.softplus(p_z_raw)
    kl_z_ratio = widened(q_z_scale) / p_z_scale
    kl_z_shift = (widened(q_z_loc) - p_z_loc) / p_z_scale
    kl_z = (0.5 * (kl_z_ratio.square() + kl_z_shift.square() - 1) - kl_z_ratio.log()).sum(-1)
    p_x_logits = self.p_x_given_tilde_z_h_prev(tilde_z, h_prev)               # p(x_t|\tilde z_t,h_{t-1})
    log_p_x = -F.binary_cross_entropy_with_logits(widened(p_x_logits), matched(x, p_x_logits), reduction="none").sum(-1)
    one_batch(kl_z, log_p_x)
    difference = kl_z - log_p_x
    mean_value = difference.unflatten(0, (B, T)).sum(1).mean()
    return mean_value, (kl_z, log_p_x), (tilde_x, z, tilde_z, h)
