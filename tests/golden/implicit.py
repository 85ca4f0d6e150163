import torch
from worldformula.families import TwoHotFamily
from worldformula.formula.runtime import behind, counted, counting, flat, kept, one_batch, padded, restart, shift, stack, steps, steps_kept

two_hot = TwoHotFamily(bins=51, low=-10.0, high=10.0, spacing='linear')


def formula(self, image, speed, a, r, first, start_hat_z, start_a, start_t):
    """mean(mean_{t; reset=first; burn_in=1} E_{z_t = e(image_t,speed_t), y_t = d(\\hat z_{t-1},a_{t-1}), \\hat z_t = begun(y_t,z_t,t), l_t = R(\\hat z_{t-1},a_{t-1}), s_t = symlog(r_t)}[clamp(t - 1, 0, 1) * 0.5 ^ (t - 2) * (20.0 * norm2(\\hat z_t - sg(z_t)) / 64 - 0.1 * log p(s_t|l_t))])"""
    B, T = image.shape[:2]
    # before the loop: needs data only, all steps at once
    keep = kept(first)
    image_behind = flat(behind(image, 1))
    speed_behind = flat(behind(speed, 1))
    a_behind = flat(behind(a, 1))
    r_behind = flat(behind(r, 1))
    image = flat(image)
    image_padded = padded(image, image_behind)
    speed = flat(speed)
    speed_padded = padded(speed, speed_behind)
    z = self.e(image_padded, speed_padded)                                    # z_t = e(image_t,speed_t)
    a = flat(a)
    a_padded = padded(a, a_behind)
    a_prev = shift(a_padded.unflatten(0, (B, T)), start_a, keep)
    number_t = counting(start_t, T, keep)
    r = flat(r)
    r_padded = padded(r, r_behind)
    s = function_1(r_padded)                                                  # s_t = symlog(r_t)
    product = (number_t - 1).clamp(min=0, max=1) * (0.5 ** (number_t - 2))
    detach_z = z.detach()
    keep_s = steps_kept(keep)
    z_s = steps(z, B)
    a_prev_s = steps(a_prev, B)
    number_t_s = steps(number_t, B)
    y_s, hat_z_s = [], []
    # in the loop: from carry to carry
    hat_z = start_hat_z
    d = self.d
    for t in range(T):
        hat_z_prev = restart(hat_z, keep_s[t])
        y = d(hat_z_prev, a_prev_s[t])                                       # y_t = d(\hat z_{t-1},a_{t-1})
        hat_z = function_2(y, z_s[t], number_t_s[t])                         # \hat z_t = begun(y_t,z_t,t)
        y_s.append(y)
        hat_z_s.append(hat_z)
    y = stack(y_s)
    hat_z = stack(hat_z_s)
    hat_z_prev = shift(hat_z.unflatten(0, (B, T)), start_hat_z, keep)
    # after the loop: all steps at once
    l = self.R(hat_z_prev, a_prev)                                            # l_t = R(\hat z_{t-1},a_{t-1})
    norm2 = (hat_z - detach_z).square().sum(-1)
    p_s = two_hot.params(self.p_s_given_l(l), ())                             # p(s_t|l_t)
    log_p_s = two_hot.log_prob(p_s, s, 0)
    one_batch(number_t, norm2, log_p_s)
    product_4 = product * ((20.0 * norm2) / 64 - 0.1 * log_p_s)
    mean_value = counted(product_4, B, T, 'mean', burn_in=1).mean()
    return mean_value, (log_p_s,), (z, y, number_t, hat_z, l, s)
