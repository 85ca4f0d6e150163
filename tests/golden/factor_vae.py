# vae
import torch
import torch.nn.functional as F
from worldformula.formula.ops.density_ratio import mean_ratio
from worldformula.formula.runtime import matched, one_batch, widened


def formula(self, x, gamma, noise_z):
    """mean(KL(q(z|x) ‖ p(z)) - E_{q(z|x)}[log p(x|z)] + gamma * KL^adv[∫ p_data(x) q(z|x) dx ‖ p_data(x'), q(z'|x'), p(u), z = permute(z',u)])"""
    q_z_loc, q_z_raw = self.q_z_given_x(x).split_with_sizes((6, 6), -1)       # q(z|x)
    q_z_scale = F.softplus(q_z_raw)
    kl_z = (0.5 * (widened(q_z_loc).square() + widened(q_z_scale).square() - 1) - widened(q_z_scale).log()).sum(-1)
    z = q_z_loc + q_z_scale * noise_z
    p_x_logits = self.p_x_given_z(z)                                          # p(x|z)
    log_p_x = -F.binary_cross_entropy_with_logits(widened(p_x_logits), matched(x, p_x_logits), reduction="none").sum(-1)
    d = self.D(z)                                                             # d = D(z)
    kl_z_2 = mean_ratio(d)
    one_batch(kl_z, log_p_x, kl_z_2)
    mean_value = (kl_z - log_p_x + gamma * kl_z_2).mean()
    return mean_value, (kl_z, log_p_x, kl_z_2), (z,)


# d
import torch
from worldformula.families import normal
from worldformula.formula.ops.density_ratio import binary_cross_entropy
from worldformula.formula.runtime import noise_for, stop


def formula(self, x, x_prime, noise_z, noise_z_prime, noise_u, rng):
    """BCE_d[∫ p_data(x) q(z|x) dx ‖ p_data(x'), q(z'|x'), p(u), z = permute(z',u)]"""
    q_z = normal.params(self.q_z_given_x(x), (6,))                            # q(z|x)
    sg_q_z = stop(q_z)
    z = normal.sample(sg_q_z, noise_for(normal, sg_q_z, 1, noise_z, rng))
    q_z_prime = normal.params(self.q_z_given_x(x_prime), (6,))                # q(z'|x')
    sg_q_z_prime = stop(q_z_prime)
    z_prime = normal.sample(sg_q_z_prime, noise_for(normal, sg_q_z_prime, 1, noise_z_prime, rng))
    p_u = (0.0, 1.0)                                                          # p(u)
    sg_p_u = stop(p_u)
    u = normal.sample(sg_p_u, noise_u)
    z_2 = self.permute(z_prime, u)                                            # z = permute(z',u)
    sg_z_2 = stop(z_2)
    d = self.D(z)                                                             # d = D(z)
    d_2 = self.D(sg_z_2)                                                      # d = D(z)
    loss_z = binary_cross_entropy(d, d_2)
    return loss_z, (loss_z,), ()
