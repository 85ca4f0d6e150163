import torch
from worldformula.formula.ops.of_rows import each_row
from worldformula.formula.ops.vicreg import covariance as covariance_
from worldformula.formula.ops.vicreg import hinged_deviation as hinged_deviation_
from worldformula.formula.runtime import counting, flat, kept, one_batch, repeat, restart, shift, stack, steps, steps_kept


def formula(self, image, speed, a, first, start_z, start_hat_z, start_a, start_t):
    """mean(mean_{t; reset=first} E_{z_t = e(image_t,speed_t), y_t = f(\\hat z_{t-1},a_{t-1}), \\hat z_t = begun(y_t,z_t,t), \\hat a_t = g(z_{t-1},z_t)}[clamp(t - 1, 0, 1) * norm2(\\hat z_t - z_t) / 32 + 3.98 * Variance{γ=1; step}[z_t] + 0.2232258064516129 * Covariance{step}[z_t] + 20.0 * clamp(t - 1, 0, 1) * norm2(z_t - z_{t-1}) / 32 + 10.0 * clamp(t - 1, 0, 1) * norm2(\\hat a_t - a_{t-1}) / 2])"""
    B, T = image.shape[:2]
    # before the loop: needs data only, all steps at once
    keep = kept(first)
    a_prev = shift(a, start_a, keep)
    image = flat(image)
    speed = flat(speed)
    z = self.e(image, speed)                                                  # z_t = e(image_t,speed_t)
    number_t = counting(start_t, T, keep)
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
    hinged_deviation_rows_t = repeat(hinged_deviation_rows, T)
    covariance_rows_t = repeat(covariance_rows, T)
    keep_s = steps_kept(keep)
    z_s = steps(z, B)
    a_prev_s = steps(a_prev, B)
    number_t_s = steps(number_t, B)
    y_s, hat_z_s = [], []
    # in the loop: from carry to carry
    hat_z = start_hat_z
    f = self.f
    for t in range(T):
        hat_z_prev = restart(hat_z, keep_s[t])
        y = f(hat_z_prev, a_prev_s[t])                                       # y_t = f(\hat z_{t-1},a_{t-1})
        hat_z = function_4(y, z_s[t], number_t_s[t])                         # \hat z_t = begun(y_t,z_t,t)
        y_s.append(y)
        hat_z_s.append(hat_z)
    y = stack(y_s)
    hat_z = stack(hat_z_s)
    # after the loop: all steps at once
    z_prev = shift(z.unflatten(0, (B, T)), start_z, keep)
    hat_a = self.g(z_prev, z)                                                 # \hat a_t = g(z_{t-1},z_t)
    norm2 = (hat_z - z).square().sum(-1)
    norm2_2 = (z - z_prev).square().sum(-1)
    norm2_3 = (hat_a - a_prev).square().sum(-1)
    total_4 = (clamp * norm2) / 32 + product_2_t + product_3_t + (product_4 * norm2_2) / 32 + (product_6 * norm2_3) / 2
    one_batch(number_t, norm2, hinged_deviation_rows_t, covariance_rows_t, norm2_2, norm2_3)
    mean_value = total_4.unflatten(0, (B, T)).mean(1).mean()
    return mean_value, (hinged_deviation_rows, covariance_rows), (z, y, number_t, hat_z, hat_a)
