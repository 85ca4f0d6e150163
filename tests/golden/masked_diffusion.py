import torch
from worldformula.families import CategoricalFamily, uniform

categorical = CategoricalFamily(unimix=0.0, classes=2)


def formula(self, x, noise_u, noise_tau):
    """mean(E_{p_data(x), p(u), p(tau), \\tilde x,w = hide(x,u,tau)}[-total(w * [log p(x|\\tilde x)]_i)])"""
    p_u = (0.0, 1.0)                                                          # p(u)
    u = uniform.sample(p_u, noise_u)
    p_tau = (0.001, 1.0)                                                      # p(tau)
    tau = uniform.sample(p_tau, noise_tau)
    tilde_x = self.hide(x, u, tau)                                            # \tilde x,w = hide(x,u,tau)
    tilde_x_2 = tilde_x[0]
    w = tilde_x[1]
    p_x = categorical.params(self.p_x_given_tilde_x(tilde_x_2), (64,))        # p(x|\tilde x)
    log_p_x = categorical.log_prob(p_x, x, 0)
    mean_value = (-(w * log_p_x).sum(-1)).mean()
    return mean_value, (), (x, u, tau, tilde_x_2, w)
