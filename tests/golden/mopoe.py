import torch
import torch.nn.functional as F
from worldformula.families import ExpertsFamily, NormalFamily, normal
from worldformula.families.experts import log_shares
from worldformula.families.experts import mixed
from worldformula.families.experts import poe
from worldformula.formula.runtime import along, expected, fold, matched, one_batch, unfold, widened

experts = ExpertsFamily(component=NormalFamily(min_scale=0.0), components=7, factored=False)


def formula(self, a, b, c, beta, noise_z):
    """mean(-E_{q(z|a,b,c); stratified}[log p(a|z) p(b|z) p(c|z) + beta * (log p(z) - log q(z|a,b,c))])"""
    p_z = (0.0, 1.0)                                                          # p(z)
    q_z = normal.params(self.q_z_given_a(a), (12,))                           # q(z|a)
    q_z_2 = poe(p_z, q_z)                                                     # q(z|a) ∝ p(z) q(z|a)
    q_z_3 = normal.params(self.q_z_given_b(b), (12,))                         # q(z|b)
    q_z_4 = poe(p_z, q_z_3)                                                   # q(z|b) ∝ p(z) q(z|b)
    q_z_5 = normal.params(self.q_z_given_c(c), (12,))                         # q(z|c)
    q_z_6 = poe(p_z, q_z_5)                                                   # q(z|c) ∝ p(z) q(z|c)
    q_z_7 = poe(p_z, q_z, q_z_3)                                              # q(z|a,b) ∝ p(z) q(z|a) q(z|b)
    q_z_8 = poe(p_z, q_z, q_z_5)                                              # q(z|a,c) ∝ p(z) q(z|a) q(z|c)
    q_z_9 = poe(p_z, q_z_3, q_z_5)                                            # q(z|b,c) ∝ p(z) q(z|b) q(z|c)
    q_z_10 = poe(p_z, q_z, q_z_3, q_z_5)                                      # q(z|a,b,c) ∝ p(z) q(z|a) q(z|b) q(z|c)
    q_z_11 = mixed(q_z_2, q_z_4, q_z_6, q_z_7, q_z_8, q_z_9, q_z_10, rank=1)  # q(z|a,b,c) = 1/7 (p(z) q(z|a) + p(z) q(z|b) + p(z) q(z|c) + p(z) q(z|a) q(z|b) + p(z) q(z|a) q(z|c) + p(z) q(z|b) q(z|c) + p(z) q(z|a) q(z|b) q(z|c))
    z = experts.stratified(q_z_11, noise_z)
    p_a_logits = unfold(self.p_a_given_z(fold(z, 1)), 7, -1)                  # p(a|z)
    a_k = along(a, 7)
    log_p_a = -F.binary_cross_entropy_with_logits(widened(p_a_logits), matched(a_k, p_a_logits), reduction="none").sum(-1)
    p_b_logits = unfold(self.p_b_given_z(fold(z, 1)), 7, -1)                  # p(b|z)
    b_k = along(b, 7)
    log_p_b = -F.binary_cross_entropy_with_logits(widened(p_b_logits), matched(b_k, p_b_logits), reduction="none").sum(-1)
    p_c = normal.params(unfold(self.p_c_given_z(fold(z, 1)), 7, -1), (24,), {'scale': 0.1})  # p(c|z)
    c_k = along(c, 7)
    log_p_c = normal.log_prob(p_c, c_k, 1)
    total_2 = log_p_a + log_p_b + log_p_c
    log_p_z = normal.log_prob(p_z, z, 1)
    q_z_11_k = along(q_z_11, 7)
    log_q_z = experts.log_prob(q_z_11_k, z, 1)
    one_batch(log_p_a, log_p_b, log_p_c, total_2, log_p_z, log_q_z)
    shares_z = log_shares(q_z_11)
    expectation = expected(shares_z, total_2 + beta * (log_p_z - log_q_z), 0)
    mean_value = (-expectation).mean()
    return mean_value, (expectation,), (z,)
