import torch
from worldformula.families import bernoulli, normal
from worldformula.formula.runtime import one_batch


def formula(self, x, noise_z):
    """mean(KL(q(z|x) ‖ p(z)) - E_{q(z|x)}[log p(x|z)])"""
    q_z = normal.params(self.q_z_given_x(x), (2,))                            # q(z|x)
    p_z = (0.0, 1.0)                                                          # p(z)
    kl_z = normal.kl(q_z, p_z, 1)
    z = normal.sample(q_z, noise_z)
    p_x = bernoulli.params(self.p_x_given_z(z), None)                         # p(x|z)
    log_p_x = bernoulli.log_prob(p_x, x, 1)
    one_batch(kl_z, log_p_x)
    mean_value = (kl_z - log_p_x).mean()
    return mean_value, (kl_z, log_p_x), (z,)
