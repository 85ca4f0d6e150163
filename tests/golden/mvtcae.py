import torch
import torch.nn.functional as F
from worldformula.families import normal
from worldformula.families.experts import mean_of_present
from worldformula.families.experts import poe
from worldformula.formula.runtime import matched, one_batch, widened


def formula(self, a, b, c, beta, noise_z):
    """mean(beta * (0.8333333333333334 * 1/3 [KL(q(z|a,b,c) ‖ q(z|a)) + KL(q(z|a,b,c) ‖ q(z|b)) + KL(q(z|a,b,c) ‖ q(z|c))] + 0.16666666666666663 * KL(q(z|a,b,c) ‖ p(z))) - 0.7222222222222222 * E_{q(z|a,b,c)}[log p(a|z) p(b|z) p(c|z)])"""
    q_z = normal.params(self.q_z_given_a(a), (12,))                           # q(z|a)
    q_z_2 = normal.params(self.q_z_given_b(b), (12,))                         # q(z|b)
    q_z_3 = normal.params(self.q_z_given_c(c), (12,))                         # q(z|c)
    q_z_4 = poe(q_z, q_z_2, q_z_3)                                            # q(z|a,b,c) ∝ q(z|a) q(z|b) q(z|c)
    kl_z = normal.kl(q_z_4, q_z, 1)
    kl_z_2 = normal.kl(q_z_4, q_z_2, 1)
    kl_z_3 = normal.kl(q_z_4, q_z_3, 1)
    mean_of_each = mean_of_present(kl_z, kl_z_2, kl_z_3)
    p_z = (0.0, 1.0)                                                          # p(z)
    kl_z_4 = normal.kl(q_z_4, p_z, 1)
    z = normal.sample(q_z_4, noise_z)
    p_a_logits = self.p_a_given_z(z)                                          # p(a|z)
    log_p_a = -F.binary_cross_entropy_with_logits(widened(p_a_logits), matched(a, p_a_logits), reduction="none").sum(-1)
    p_b_logits = self.p_b_given_z(z)                                          # p(b|z)
    log_p_b = -F.binary_cross_entropy_with_logits(widened(p_b_logits), matched(b, p_b_logits), reduction="none").sum(-1)
    p_c = normal.params(self.p_c_given_z(z), (24,), {'scale': 0.1})           # p(c|z)
    log_p_c = normal.log_prob(p_c, c, 1)
    total_3 = log_p_a + log_p_b + log_p_c
    one_batch(kl_z, kl_z_2, kl_z_3, mean_of_each, kl_z_4, log_p_a, log_p_b, log_p_c, total_3)
    mean_value = (beta * (0.8333333333333334 * mean_of_each + 0.16666666666666663 * kl_z_4) - 0.7222222222222222 * total_3).mean()
    return mean_value, (mean_of_each, kl_z_4, total_3), (z,)
