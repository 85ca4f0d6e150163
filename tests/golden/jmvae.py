import torch
import torch.nn.functional as F
from worldformula.families import normal
from worldformula.formula.runtime import matched, one_batch, widened


def formula(self, a, b, c, beta, noise_z):
    """mean(beta * (KL(q(z|a,b,c) ‖ p(z)) + 0.1 * (KL(q(z|a,b,c) ‖ q(z|a)) + KL(q(z|a,b,c) ‖ q(z|b)) + KL(q(z|a,b,c) ‖ q(z|c)))) - E_{q(z|a,b,c)}[log p(a|z) p(b|z) p(c|z)])"""
    q_z_loc, q_z_raw = self.q_z_given_a_b_c(a, b, c).split_with_sizes((12, 12), -1)  # q(z|a,b,c)
    q_z_scale = F.softplus(q_z_raw)
    kl_z = (0.5 * (widened(q_z_loc).square() + widened(q_z_scale).square() - 1) - widened(q_z_scale).log()).sum(-1)
    q_z_2_loc, q_z_2_raw = self.q_z_given_a(a).split_with_sizes((12, 12), -1)  # q(z|a)
    q_z_2_scale = F.softplus(q_z_2_raw)
    kl_z_2_ratio = widened(q_z_scale) / q_z_2_scale
    kl_z_2_shift = (widened(q_z_loc) - q_z_2_loc) / q_z_2_scale
    kl_z_2 = (0.5 * (kl_z_2_ratio.square() + kl_z_2_shift.square() - 1) - kl_z_2_ratio.log()).sum(-1)
    q_z_3_loc, q_z_3_raw = self.q_z_given_b(b).split_with_sizes((12, 12), -1)  # q(z|b)
    q_z_3_scale = F.softplus(q_z_3_raw)
    kl_z_3_ratio = widened(q_z_scale) / q_z_3_scale
    kl_z_3_shift = (widened(q_z_loc) - q_z_3_loc) / q_z_3_scale
    kl_z_3 = (0.5 * (kl_z_3_ratio.square() + kl_z_3_shift.square() - 1) - kl_z_3_ratio.log()).sum(-1)
    q_z_4_loc, q_z_4_raw = self.q_z_given_c(c).split_with_sizes((12, 12), -1)  # q(z|c)
    q_z_4_scale = F.softplus(q_z_4_raw)
    kl_z_4_ratio = widened(q_z_scale) / q_z_4_scale
    kl_z_4_shift = (widened(q_z_loc) - q_z_4_loc) / q_z_4_scale
    kl_z_4 = (0.5 * (kl_z_4_ratio.square() + kl_z_4_shift.square() - 1) - kl_z_4_ratio.log()).sum(-1)
    z = q_z_loc + q_z_scale * noise_z
    p_a_logits = self.p_a_given_z(z)                                          # p(a|z)
    log_p_a = -F.binary_cross_entropy_with_logits(widened(p_a_logits), matched(a, p_a_logits), reduction="none").sum(-1)
    p_b_logits = self.p_b_given_z(z)                                          # p(b|z)
    log_p_b = -F.binary_cross_entropy_with_logits(widened(p_b_logits), matched(b, p_b_logits), reduction="none").sum(-1)
    p_c = normal.params(self.p_c_given_z(z), (24,), {'scale': 0.1})           # p(c|z)
    log_p_c = normal.log_prob(p_c, c, 1)
    total_5 = log_p_a + log_p_b + log_p_c
    one_batch(kl_z, kl_z_2, kl_z_3, kl_z_4, log_p_a, log_p_b, log_p_c, total_5)
    mean_value = (beta * (kl_z + 0.1 * (kl_z_2 + kl_z_3 + kl_z_4)) - total_5).mean()
    return mean_value, (kl_z, kl_z_2, kl_z_3, kl_z_4, total_5), (z,)
