import torch
from worldformula.families import OneHotFamily
from worldformula.formula.ops.of_rows import each_row
from worldformula.formula.ops.vicreg import covariance as covariance_
from worldformula.formula.ops.vicreg import hinged_deviation as hinged_deviation_
from worldformula.formula.runtime import along, counting, flat, fold, kept, logsumexp, one_batch, repeat, shift, support, unfold

one_hot = OneHotFamily(unimix=0.01, temperature=1.0)


def formula(self, image, speed, a, first, start_s, start_a, start_t):
    """mean(mean_{t; reset=first} E_{s_t = e(image_t,speed_t), \\hat a_t = g(s_{t-1},s_t)}[clamp(t - 1, 0, 1) * F_{z_t; β=20}[E_{\\hat s_t = f(s_{t-1},a_{t-1},z_t)}[norm2(\\hat s_t - s_t) / 16] - 0.02 * log p(z_t|s_{t-1},a_{t-1})] + 3.98 * Variance{γ=1; 1:T}[s_t] + 0.4613333333333333 * Covariance{1:T}[s_t] + 0.742 * clamp(t - 1, 0, 1) * norm2(s_t - s_{t-1}) / 16 + 1.07 * clamp(t - 1, 0, 1) * norm2(\\hat a_t - a_{t-1}) / 2])"""
    B, T = image.shape[:2]
    # before the loop: needs data only, all steps at once
    keep = kept(first)
    a_prev = shift(a, start_a, keep)
    image = flat(image)
    speed = flat(speed)
    s = self.e(image, speed)                                                  # s_t = e(image_t,speed_t)
    number_t = counting(start_t, T, keep)
    clamp = (number_t - 1).clamp(min=0, max=1)
    a_prev_k = along(a_prev, 2)
    s_k = along(s, 2)
    s_series = s.unflatten(0, (B, T))
    hinged_deviation = hinged_deviation_(s_series, ranks=(1,), target=1.0)
    hinged_deviation_rows = each_row(hinged_deviation, s_series)
    product_4 = 3.98 * hinged_deviation_rows
    product_4_t = repeat(product_4, T)
    covariance = covariance_(s_series, ranks=(1,))
    covariance_rows = each_row(covariance, s_series)
    product_5 = 0.4613333333333333 * covariance_rows
    product_5_t = repeat(product_5, T)
    product_6 = 0.742 * clamp
    product_8 = 1.07 * clamp
    hinged_deviation_rows_t = repeat(hinged_deviation_rows, T)
    covariance_rows_t = repeat(covariance_rows, T)
    # after the loop: all steps at once
    s_prev = shift(s.unflatten(0, (B, T)), start_s, keep)
    hat_a = self.g(s_prev, s)                                                 # \hat a_t = g(s_{t-1},s_t)
    p_z = one_hot.params(self.p_z_given_s_prev_a_prev(s_prev, a_prev), (2,))  # p(z_t|s_{t-1},a_{t-1})
    z = support(one_hot, 1, (2,), p_z)
    s_prev_k = along(s_prev, 2)
    hat_s = unfold(self.f(fold(s_prev_k, 1), fold(a_prev_k, 1), fold(z, 1)), 2, -1)  # \hat s_t = f(s_{t-1},a_{t-1},z_t)
    norm2 = (hat_s - s_k).square().sum(-1)
    p_z_k = along(p_z, 2)
    log_p_z = one_hot.log_prob(p_z_k, z, 1)
    one_batch(norm2, log_p_z)
    ratio_2 = (-logsumexp(-(20.0 * (norm2 / 16 - 0.02 * log_p_z)), 0)) / 20.0
    norm2_2 = (s - s_prev).square().sum(-1)
    norm2_3 = (hat_a - a_prev).square().sum(-1)
    total_4 = clamp * ratio_2 + product_4_t + product_5_t + (product_6 * norm2_2) / 16 + (product_8 * norm2_3) / 2
    one_batch(number_t, ratio_2, hinged_deviation_rows_t, covariance_rows_t, norm2_2, norm2_3)
    mean_value = total_4.unflatten(0, (B, T)).mean(1).mean()
    return mean_value, (ratio_2, hinged_deviation_rows, covariance_rows), (s, hat_a, number_t)
