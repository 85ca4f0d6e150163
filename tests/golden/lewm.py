import torch
from worldformula.families import normal
from worldformula.formula.ops.of_rows import each_row
from worldformula.formula.ops.sigreg import normality as normality_
from worldformula.formula.runtime import counting, flat, kept, one_batch, repeat, shift


def formula(self, image, speed, a, first, start_z, start_a, start_t, noise_vec_z):
    """mean(mean_{t; reset=first} E_{z_t = e(image_t,speed_t), h_t = f(z_{t-3:t-1},a_{t-3:t-1}), \\hat z_t = plus(h_t,z_{t-1})}[clamp(t - 1, 0, 1) * norm2(\\hat z_t - z_t) / 32 + 11.52 * SIGReg{M=32; mean; step}[z_t]])"""
    B, T = image.shape[:2]
    # before the loop: needs data only, all steps at once
    keep = kept(first)
    a_prev = shift(a, start_a, keep)
    image = flat(image)
    speed = flat(speed)
    z = self.e(image, speed)                                                  # z_t = e(image_t,speed_t)
    number_t = counting(start_t, T, keep)
    clamp = (number_t - 1).clamp(min=0, max=1)
    q_vec_z = normal.params(function_1(z), (32,), {'scale': 1.0})             # q(\vec z_t|z_t)
    noise_vec_z = flat(noise_vec_z)
    vec_z = normal.sample(q_vec_z, noise_vec_z)
    z_series = z.unflatten(0, (B, T))
    vec_z_series = vec_z.unflatten(0, (B, T))
    normality = normality_(z_series, vec_z_series, ranks=(1,), directions=32, knots=17, scaled=False, by_step=True)
    normality_rows = each_row(normality, z_series)
    product_2 = 11.52 * normality_rows
    product_2_t = repeat(product_2, T)
    normality_rows_t = repeat(normality_rows, T)
    # after the loop: all steps at once
    z_prev = shift(z.unflatten(0, (B, T)), start_z, keep)
    h = flat(self.f(z_prev.unflatten(0, (B, T)), a_prev.unflatten(0, (B, T)), reset=~keep))  # h_t = f(z_{t-3:t-1},a_{t-3:t-1})
    hat_z = self.plus(h, z_prev)                                              # \hat z_t = plus(h_t,z_{t-1})
    norm2 = (hat_z - z).square().sum(-1)
    total = (clamp * norm2) / 32 + product_2_t
    one_batch(number_t, norm2, normality_rows_t)
    mean_value = total.unflatten(0, (B, T)).mean(1).mean()
    return mean_value, (normality_rows,), (z, h, hat_z, number_t)
