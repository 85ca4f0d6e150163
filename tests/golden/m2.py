import torch
import torch.nn.functional as F
from worldformula.families import one_hot
from worldformula.formula.runtime import along, expected, fold, matched, one_batch, support, unfold, widened


def formula(self, x, y, x_prime, w, noise_z, noise_z_prime):
    """w * (mean(KL(q(z|x,y) ‖ p(z)) - E_{q(z|x,y)}[log p(x|y,z)] - log p(y)) + mean(E_{q(y'|x'); exact}[KL(q(z'|x',y') ‖ p(z')) - E_{q(z'|x',y')}[log p(x'|y',z')] - log p(y') + log q(y'|x')])) - 10.0 * mean(log q(y|x))"""
    q_z_loc, q_z_raw = self.q_z_given_x_y(x, y).split_with_sizes((16, 16), -1)  # q(z|x,y)
    q_z_scale = F.softplus(q_z_raw)
    kl_z = (0.5 * (widened(q_z_loc).square() + widened(q_z_scale).square() - 1) - widened(q_z_scale).log()).sum(-1)
    z = q_z_loc + q_z_scale * noise_z
    p_x_logits = self.p_x_given_y_z(y, z)                                     # p(x|y,z)
    log_p_x = -F.binary_cross_entropy_with_logits(widened(p_x_logits), matched(x, p_x_logits), reduction="none").sum(-1)
    p_y = (-2.302585092994046,)                                               # p(y)
    log_p_y = one_hot.log_prob(p_y, y, 1)
    one_batch(kl_z, log_p_x, log_p_y)
    q_y_prime = one_hot.params(self.q_y_prime_given_x_prime(x_prime), (10,))  # q(y'|x')
    y_prime = support(one_hot, 1, (10,), q_y_prime)
    x_prime_k = along(x_prime, 10)
    q_z_prime_loc, q_z_prime_raw = unfold(self.q_z_given_x_y(fold(x_prime_k, 1), fold(y_prime, 1)), 10, -1).split_with_sizes((16, 16), -1)  # q(z'|x',y')
    q_z_prime_scale = F.softplus(q_z_prime_raw)
    kl_z_prime = (0.5 * (widened(q_z_prime_loc).square() + widened(q_z_prime_scale).square() - 1) - widened(q_z_prime_scale).log()).sum(-1)
    z_prime = q_z_prime_loc + q_z_prime_scale * noise_z_prime
    p_x_prime_logits = unfold(self.p_x_given_y_z(fold(y_prime, 1), fold(z_prime, 1)), 10, -1)  # p(x'|y',z')
    log_p_x_prime = -F.binary_cross_entropy_with_logits(widened(p_x_prime_logits), matched(x_prime_k, p_x_prime_logits), reduction="none").sum(-1)
    log_p_y_prime = one_hot.log_prob(p_y, y_prime, 1)
    q_y_prime_k = along(q_y_prime, 10)
    log_q_y_prime = one_hot.log_prob(q_y_prime_k, y_prime, 1)
    one_batch(kl_z_prime, log_p_x_prime, log_p_y_prime, log_q_y_prime)
    expectation = expected(log_q_y_prime, kl_z_prime - log_p_x_prime - log_p_y_prime + log_q_y_prime, 0)
    q_y = one_hot.params(self.q_y_prime_given_x_prime(x), (10,))              # q(y|x)
    log_q_y = one_hot.log_prob(q_y, y, 1)
    difference_5 = w * ((kl_z - log_p_x - log_p_y).mean() + expectation.mean()) - 10.0 * log_q_y.mean()
    return difference_5, (kl_z, log_p_x, log_p_y, expectation, log_q_y), (z, y_prime, z_prime)
