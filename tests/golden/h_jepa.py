import torch
from worldformula.formula.ops.of_rows import each_row
from worldformula.formula.ops.vicreg import covariance as covariance_
from worldformula.formula.ops.vicreg import hinged_deviation as hinged_deviation_
from worldformula.formula.runtime import counting, flat, kept, one_batch, repeat, restart, shift, stack, steps, steps_kept


def formula(self, image, speed, a, first, start_z, start_z_2, start_hat_z, start_hat_z_2_m1, start_hat_z_2_m2, start_hat_z_2_m3, start_hat_z_2, start_z_2_m1, start_z_2_m2, start_z_2_m3, start_a, start_a_m1, start_a_m2, start_a_m3, start_t):
    """mean(mean_{t; reset=first} E_{z_t = e(image_t,speed_t), z_{2,t} = e_2(z_t), y_t = f(\\hat z_{t-1},a_{t-1}), \\hat z_t = begun(y_t,z_t,t), \\hat a_t = g(z_{t-1},z_t), u_{2,t} = c_2(a_{t-4},a_{t-3},a_{t-2},a_{t-1}), y_{2,t} = f_2(\\hat z_{2,t-4},u_{2,t}), \\hat z_{2,t} = begun_2(y_{2,t},z_{2,t},t)}[clamp(t - 1, 0, 1) * norm2(\\hat z_t - z_t) / 32 + 3.98 * Variance{γ=1; step}[z_t] + 0.2232258064516129 * Covariance{step}[z_t] + 20.0 * clamp(t - 1, 0, 1) * norm2(z_t - z_{t-1}) / 32 + 10.0 * clamp(t - 1, 0, 1) * norm2(\\hat a_t - a_{t-1}) / 2 + (clamp(t - 4, 0, 1) * norm2(\\hat z_{2,t} - z_{2,t}) / 8 + 3.98 * Variance{γ=1; step}[z_{2,t}] + 0.2232258064516129 * Covariance{step}[z_{2,t}] + 20.0 * clamp(t - 4, 0, 1) * norm2(z_{2,t} - z_{2,t-4}) / 8)])"""
    B, T = image.shape[:2]
    # before the loop: needs data only, all steps at once
    keep = kept(first)
    a_prev = shift(a, start_a, keep)
    image = flat(image)
    speed = flat(speed)
    z = self.e(image, speed)                                                  # z_t = e(image_t,speed_t)
    z_2 = self.e_2(z)                                                         # z_{2,t} = e_2(z_t)
    number_t = counting(start_t, T, keep)
    a_m2 = shift(a_prev.unflatten(0, (B, T)), start_a_m1, keep)
    a_m3 = shift(a_m2.unflatten(0, (B, T)), start_a_m2, keep)
    a_m4 = shift(a_m3.unflatten(0, (B, T)), start_a_m3, keep)
    u_2 = self.c_2(a_m4, a_m3, a_m2, a_prev)                                  # u_{2,t} = c_2(a_{t-4},a_{t-3},a_{t-2},a_{t-1})
    clamp = (number_t - 1).clamp(min=0, max=1)
    z_series = z.unflatten(0, (B, T))
    hinged_deviation = hinged_deviation_(z_series, ranks=(1,), target=1.0, by_step=True)
    hinged_deviation_rows = each_row(hinged_deviation, z_series)
    product_2 = 3.98 * hinged_deviation_rows
    product_2_t = repeat(product_2, T)
    covariance = covariance_(z_series, ranks=(1,), by_step=True)
    covariance_rows = each_row(covariance, z_series)
    product_3 = 0.2232258064516129 * covariance_rows
    product_3_t = repeat(product_3, T)
    product_4 = 20.0 * clamp
    product_6 = 10.0 * clamp
    clamp_2 = (number_t - 4).clamp(min=0, max=1)
    z_2_series = z_2.unflatten(0, (B, T))
    hinged_deviation_2 = hinged_deviation_(z_2_series, ranks=(1,), target=1.0, by_step=True)
    hinged_deviation_2_rows = each_row(hinged_deviation_2, z_2_series)
    product_9 = 3.98 * hinged_deviation_2_rows
    product_9_t = repeat(product_9, T)
    covariance_2 = covariance_(z_2_series, ranks=(1,), by_step=True)
    covariance_2_rows = each_row(covariance_2, z_2_series)
    product_10 = 0.2232258064516129 * covariance_2_rows
    product_10_t = repeat(product_10, T)
    product_11 = 20.0 * clamp_2
    hinged_deviation_rows_t = repeat(hinged_deviation_rows, T)
    covariance_rows_t = repeat(covariance_rows, T)
    hinged_deviation_2_rows_t = repeat(hinged_deviation_2_rows, T)
    covariance_2_rows_t = repeat(covariance_2_rows, T)
    keep_s = steps_kept(keep)
    z_s = steps(z, B)
    z_2_s = steps(z_2, B)
    a_prev_s = steps(a_prev, B)
    number_t_s = steps(number_t, B)
    u_2_s = steps(u_2, B)
    y_s, hat_z_s, y_2_s, hat_z_2_s = [], [], [], []
    # in the loop: from carry to carry
    hat_z = start_hat_z
    hat_z_2_prev = start_hat_z_2_m1
    hat_z_2_m2 = start_hat_z_2_m2
    hat_z_2_m3 = start_hat_z_2_m3
    hat_z_2 = start_hat_z_2
    f = self.f
    f_2 = self.f_2
    for t in range(T):
        hat_z_2_m4 = restart(hat_z_2_m3, keep_s[t])
        hat_z_2_m3 = restart(hat_z_2_m2, keep_s[t])
        hat_z_2_m2 = restart(hat_z_2_prev, keep_s[t])
        hat_z_prev = restart(hat_z, keep_s[t])
        hat_z_2_prev = restart(hat_z_2, keep_s[t])
        y = f(hat_z_prev, a_prev_s[t])                                       # y_t = f(\hat z_{t-1},a_{t-1})
        hat_z = function_4(y, z_s[t], number_t_s[t])                         # \hat z_t = begun(y_t,z_t,t)
        y_2 = f_2(hat_z_2_m4, u_2_s[t])                                      # y_{2,t} = f_2(\hat z_{2,t-4},u_{2,t})
        hat_z_2 = function_5(y_2, z_2_s[t], number_t_s[t])                   # \hat z_{2,t} = begun_2(y_{2,t},z_{2,t},t)
        y_s.append(y)
        hat_z_s.append(hat_z)
        y_2_s.append(y_2)
        hat_z_2_s.append(hat_z_2)
    y = stack(y_s)
    hat_z = stack(hat_z_s)
    y_2 = stack(y_2_s)
    hat_z_2 = stack(hat_z_2_s)
    hat_z_2_prev = shift(hat_z_2.unflatten(0, (B, T)), start_hat_z_2, keep)
    hat_z_2_m2 = shift(hat_z_2_prev.unflatten(0, (B, T)), start_hat_z_2_m1, keep)
    hat_z_2_m3 = shift(hat_z_2_m2.unflatten(0, (B, T)), start_hat_z_2_m2, keep)
    # after the loop: all steps at once
    z_prev = shift(z.unflatten(0, (B, T)), start_z, keep)
    hat_a = self.g(z_prev, z)                                                 # \hat a_t = g(z_{t-1},z_t)
    norm2 = (hat_z - z).square().sum(-1)
    norm2_2 = (z - z_prev).square().sum(-1)
    norm2_3 = (hat_a - a_prev).square().sum(-1)
    norm2_4 = (hat_z_2 - z_2).square().sum(-1)
    z_2_prev = shift(z_2.unflatten(0, (B, T)), start_z_2, keep)
    z_2_m2 = shift(z_2_prev.unflatten(0, (B, T)), start_z_2_m1, keep)
    z_2_m3 = shift(z_2_m2.unflatten(0, (B, T)), start_z_2_m2, keep)
    z_2_m4 = shift(z_2_m3.unflatten(0, (B, T)), start_z_2_m3, keep)
    norm2_5 = (z_2 - z_2_m4).square().sum(-1)
    total_8 = (clamp * norm2) / 32 + product_2_t + product_3_t + (product_4 * norm2_2) / 32 + (product_6 * norm2_3) / 2 + ((clamp_2 * norm2_4) / 8 + product_9_t + product_10_t + (product_11 * norm2_5) / 8)
    one_batch(number_t, norm2, hinged_deviation_rows_t, covariance_rows_t, norm2_2, norm2_3, norm2_4, hinged_deviation_2_rows_t, covariance_2_rows_t, norm2_5)
    mean_value = total_8.unflatten(0, (B, T)).mean(1).mean()
    return mean_value, (hinged_deviation_rows, covariance_rows, hinged_deviation_2_rows, covariance_2_rows), (z, z_2, y, number_t, hat_z, hat_a, u_2, y_2, hat_z_2, a_prev, a_m2, a_m3, hat_z_2_prev, hat_z_2_m2, hat_z_2_m3, z_2_prev, z_2_m2, z_2_m3)
