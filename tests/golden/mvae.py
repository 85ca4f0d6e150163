import torch
import torch.nn.functional as F
from worldformula.families import normal
from worldformula.families.experts import poe
from worldformula.formula.runtime import matched, one_batch, widened


def formula(self, a, b, c, beta, w_ab, w_ac, w_bc, noise_z, noise_z_2, noise_z_3, noise_z_4, noise_z_5, noise_z_6, noise_z_7):
    """mean(beta * KL(q(z|a,b,c) ‖ p(z)) - E_{q(z|a,b,c)}[log p(a|z) p(b|z) p(c|z)] + (beta * KL(q(z|a) ‖ p(z)) - E_{q(z|a)}[log p(a|z)]) + (beta * KL(q(z|b) ‖ p(z)) - E_{q(z|b)}[log p(b|z)]) + (beta * KL(q(z|c) ‖ p(z)) - E_{q(z|c)}[log p(c|z)]) + w_{ab} * (beta * KL(q(z|a,b) ‖ p(z)) - E_{q(z|a,b)}[log p(a|z) p(b|z)]) + w_{ac} * (beta * KL(q(z|a,c) ‖ p(z)) - E_{q(z|a,c)}[log p(a|z) p(c|z)]) + w_{bc} * (beta * KL(q(z|b,c) ‖ p(z)) - E_{q(z|b,c)}[log p(b|z) p(c|z)]))"""
    p_z = (0.0, 1.0)                                                          # p(z)
    q_z = normal.params(self.q_z_given_a(a), (12,))                           # q(z|a)
    q_z_2 = normal.params(self.q_z_given_b(b), (12,))                         # q(z|b)
    q_z_3 = normal.params(self.q_z_given_c(c), (12,))                         # q(z|c)
    q_z_4 = poe(p_z, q_z, q_z_2, q_z_3)                                       # q(z|a,b,c) ∝ p(z) q(z|a) q(z|b) q(z|c)
    kl_z = normal.kl(q_z_4, p_z, 1)
    z = normal.sample(q_z_4, noise_z)
    p_a_logits = self.p_a_given_z(z)                                          # p(a|z)
    log_p_a = -F.binary_cross_entropy_with_logits(widened(p_a_logits), matched(a, p_a_logits), reduction="none").sum(-1)
    p_b_logits = self.p_b_given_z(z)                                          # p(b|z)
    log_p_b = -F.binary_cross_entropy_with_logits(widened(p_b_logits), matched(b, p_b_logits), reduction="none").sum(-1)
    p_c = normal.params(self.p_c_given_z(z), (24,), {'scale': 0.1})           # p(c|z)
    log_p_c = normal.log_prob(p_c, c, 1)
    total_2 = log_p_a + log_p_b + log_p_c
    q_z_5 = poe(p_z, q_z)                                                     # q(z|a) ∝ p(z) q(z|a)
    kl_z_2 = normal.kl(q_z_5, p_z, 1)
    z_2 = normal.sample(q_z_5, noise_z_2)
    p_a_2_logits = self.p_a_given_z(z_2)                                      # p(a|z)
    log_p_a_2 = -F.binary_cross_entropy_with_logits(widened(p_a_2_logits), matched(a, p_a_2_logits), reduction="none").sum(-1)
    q_z_6 = poe(p_z, q_z_2)                                                   # q(z|b) ∝ p(z) q(z|b)
    kl_z_3 = normal.kl(q_z_6, p_z, 1)
    z_3 = normal.sample(q_z_6, noise_z_3)
    p_b_2_logits = self.p_b_given_z(z_3)                                      # p(b|z)
    log_p_b_2 = -F.binary_cross_entropy_with_logits(widened(p_b_2_logits), matched(b, p_b_2_logits), reduction="none").sum(-1)
    q_z_7 = poe(p_z, q_z_3)                                                   # q(z|c) ∝ p(z) q(z|c)
    kl_z_4 = normal.kl(q_z_7, p_z, 1)
    z_4 = normal.sample(q_z_7, noise_z_4)
    p_c_2 = normal.params(self.p_c_given_z(z_4), (24,), {'scale': 0.1})       # p(c|z)
    log_p_c_2 = normal.log_prob(p_c_2, c, 1)
    q_z_8 = poe(p_z, q_z, q_z_2)                                              # q(z|a,b) ∝ p(z) q(z|a) q(z|b)
    kl_z_5 = normal.kl(q_z_8, p_z, 1)
    z_5 = normal.sample(q_z_8, noise_z_5)
    p_a_3_logits = self.p_a_given_z(z_5)                                      # p(a|z)
    log_p_a_3 = -F.binary_cross_entropy_with_logits(widened(p_a_3_logits), matched(a, p_a_3_logits), reduction="none").sum(-1)
    p_b_3_logits = self.p_b_given_z(z_5)                                      # p(b|z)
    log_p_b_3 = -F.binary_cross_entropy_with_logits(widened(p_b_3_logits), matched(b, p_b_3_logits), reduction="none").sum(-1)
    total_6 = log_p_a_3 + log_p_b_3
    q_z_9 = poe(p_z, q_z, q_z_3)                                              # q(z|a,c) ∝ p(z) q(z|a) q(z|c)
    kl_z_6 = normal.kl(q_z_9, p_z, 1)
    z_6 = normal.sample(q_z_9, noise_z_6)
    p_a_4_logits = self.p_a_given_z(z_6)                                      # p(a|z)
    log_p_a_4 = -F.binary_cross_entropy_with_logits(widened(p_a_4_logits), matched(a, p_a_4_logits), reduction="none").sum(-1)
    p_c_3 = normal.params(self.p_c_given_z(z_6), (24,), {'scale': 0.1})       # p(c|z)
    log_p_c_3 = normal.log_prob(p_c_3, c, 1)
    total_8 = log_p_a_4 + log_p_c_3
    q_z_10 = poe(p_z, q_z_2, q_z_3)                                           # q(z|b,c) ∝ p(z) q(z|b) q(z|c)
    kl_z_7 = normal.kl(q_z_10, p_z, 1)
    z_7 = normal.sample(q_z_10, noise_z_7)
    p_b_4_logits = self.p_b_given_z(z_7)                                      # p(b|z)
    log_p_b_4 = -F.binary_cross_entropy_with_logits(widened(p_b_4_logits), matched(b, p_b_4_logits), reduction="none").sum(-1)
    p_c_4 = normal.params(self.p_c_given_z(z_7), (24,), {'scale': 0.1})       # p(c|z)
    log_p_c_4 = normal.log_prob(p_c_4, c, 1)
    total_10 = log_p_b_4 + log_p_c_4
    one_batch(kl_z, log_p_a, log_p_b, log_p_c, total_2, kl_z_2, log_p_a_2, kl_z_3, log_p_b_2, kl_z_4, log_p_c_2, kl_z_5, log_p_a_3, log_p_b_3, total_6, kl_z_6, log_p_a_4, log_p_c_3, total_8, kl_z_7, log_p_b_4, log_p_c_4, total_10)
    mean_value = (beta * kl_z - total_2 + (beta * kl_z_2 - log_p_a_2) + (beta * kl_z_3 - log_p_b_2) + (beta * kl_z_4 - log_p_c_2) + w_ab * (beta * kl_z_5 - total_6) + w_ac * (beta * kl_z_6 - total_8) + w_bc * (beta * kl_z_7 - total_10)).mean()
    return mean_value, (kl_z, total_2, kl_z_2, log_p_a_2, kl_z_3, log_p_b_2, kl_z_4, log_p_c_2, kl_z_5, total_6, kl_z_6, total_8, kl_z_7, total_10), (z, z_2, z_3, z_4, z_5, z_6, z_7)
