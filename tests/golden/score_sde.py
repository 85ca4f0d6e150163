import torch
from worldformula.families import normal, uniform


def formula(self, x, noise_l, noise_epsilon):
    """mean(E_{p_data(x), p(l), sigma = exp(l), p(epsilon), \\tilde x = perturb(x,sigma,epsilon), s = s_θ(\\tilde x,sigma)}[norm2(sigma * s + epsilon)])"""
    p_l = (-4.605170185988091, 2.0794415416798357)                            # p(l)
    l = uniform.sample(p_l, noise_l)
    sigma = function_1(l)                                                     # sigma = exp(l)
    p_epsilon = (0.0, 1.0)                                                    # p(epsilon)
    epsilon = normal.sample(p_epsilon, noise_epsilon)
    tilde_x = function_2(x, sigma, epsilon)                                   # \tilde x = perturb(x,sigma,epsilon)
    s = self.s_theta(tilde_x, sigma)                                          # s = s_θ(\tilde x,sigma)
    norm2 = (sigma * s + epsilon).square().sum(-1)
    mean_value = norm2.mean()
    return mean_value, (norm2,), (x, l, sigma, epsilon, tilde_x, s)
