import torch
from worldformula.families import dirichlet
from worldformula.formula.runtime import one_batch, rows


def formula(self, c, noise_beta, noise_theta):
    """(KL(q(beta) ‖ p(beta)) - E_{q(beta)}[1437/B Σ_{d=1..B} (words - KL(q(theta|c,beta) ‖ p(theta)))]) / 1437.0"""
    q_beta = dirichlet.params(self.q_beta(), (10, 64))                        # q(beta)
    p_beta = (0.1,)                                                           # p(beta)
    kl_beta = dirichlet.kl(q_beta, p_beta, 2)
    beta = dirichlet.sample(q_beta, noise_beta)
    q_theta = dirichlet.params(self.q_theta_given_c_beta(c, rows(beta, 0, c.shape[:-1])), (10,))  # q(theta|c,beta)
    theta = dirichlet.sample(q_theta, noise_theta)
    rho = function_1(theta, rows(beta, 0, theta.shape[:-1]))                  # rho = mix(theta,beta)
    total = (c * rho.log()).sum(-1)
    p_theta = (0.3,)                                                          # p(theta)
    kl_theta = dirichlet.kl(q_theta, p_theta, 1)
    one_batch(total, kl_theta)
    product_2 = 1437.0 * (total - kl_theta).mean()
    ratio = (kl_beta - product_2) / 1437.0
    return ratio, (kl_beta, product_2), (beta, theta, rho)
