import torch
from worldformula.families import normal, uniform


def formula(self, x, noise_w, noise_epsilon, noise_tau):
    """mean(E_{p_data(x), p(w), x_1 = scale(x,w), p(epsilon), p(tau), \\tilde x = ψ(x_1,epsilon,tau), \\dot x = rate(x_1,epsilon,tau), v = v_θ(\\tilde x,tau)}[norm2(v - \\dot x)])"""
    p_w = (0.0, 1.0)                                                          # p(w)
    w = uniform.sample(p_w, noise_w)
    x_1 = self.scale(x, w)                                                    # x_1 = scale(x,w)
    p_epsilon = (0.0, 1.0)                                                    # p(epsilon)
    epsilon = normal.sample(p_epsilon, noise_epsilon)
    p_tau = (0.0, 1.0)                                                        # p(tau)
    tau = uniform.sample(p_tau, noise_tau)
    tilde_x = self.psi(x_1, epsilon, tau)                                     # \tilde x = ψ(x_1,epsilon,tau)
    dot_x = self.rate(x_1, epsilon, tau)                                      # \dot x = rate(x_1,epsilon,tau)
    v = self.v_theta(tilde_x, tau)                                            # v = v_θ(\tilde x,tau)
    norm2 = (v - dot_x).square().sum(-1)
    mean_value = norm2.mean()
    return mean_value, (norm2,), (x, w, x_1, epsilon, tau, tilde_x, dot_x, v)
