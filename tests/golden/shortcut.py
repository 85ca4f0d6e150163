import torch
from worldformula.families import categorical, normal, uniform
from worldformula.formula.runtime import one_batch


def formula(self, x, noise_w, noise_epsilon, noise_tau, noise_k, noise_u):
    """mean(E_{p_data(x), p(w), x_1 = scale(x,w), p(epsilon), p(tau), \\tilde x = ψ(x_1,epsilon,tau), \\dot x = rate(x_1,epsilon,tau), d = finest(tau), v = s_θ(\\tilde x,tau,d)}[norm2(v - \\dot x)] + 0.25 * E_{p_data(x), p(w), x_1 = scale(x,w), p(epsilon), p(k), p(u), d',d'',tau',tau'' = length(k,u), \\tilde x' = ψ(x_1,epsilon,tau'), b = \\bar s_θ(\\tilde x',tau',d'), \\hat x = go(\\tilde x',d',b), b' = \\bar s_θ(\\hat x,tau'',d'), v' = s_θ(\\tilde x',tau',d'')}[norm2(v' - sg(0.5 * b + 0.5 * b'))])"""
    p_w = (0.0, 1.0)                                                          # p(w)
    w = uniform.sample(p_w, noise_w)
    x_1 = self.scale(x, w)                                                    # x_1 = scale(x,w)
    p_epsilon = (0.0, 1.0)                                                    # p(epsilon)
    epsilon = normal.sample(p_epsilon, noise_epsilon)
    p_tau = (0.0, 1.0)                                                        # p(tau)
    tau = uniform.sample(p_tau, noise_tau)
    tilde_x = self.psi(x_1, epsilon, tau)                                     # \tilde x = ψ(x_1,epsilon,tau)
    dot_x = self.rate(x_1, epsilon, tau)                                      # \dot x = rate(x_1,epsilon,tau)
    d = function_1(tau)                                                       # d = finest(tau)
    v = self.s_theta(tilde_x, tau, d)                                         # v = s_θ(\tilde x,tau,d)
    norm2 = (v - dot_x).square().sum(-1)
    p_k = categorical.params(None, (), {'probs': self.p_k.probs})             # p(k)
    k = categorical.sample(p_k, noise_k)
    p_u = (0.0, 1.0)                                                          # p(u)
    u = uniform.sample(p_u, noise_u)
    d_prime = self.length(k, u)                                               # d',d'',tau',tau'' = length(k,u)
    d_prime_2 = d_prime[0]
    d_prime_prime = d_prime[1]
    tau_prime = d_prime[2]
    tau_prime_prime = d_prime[3]
    tilde_x_prime = self.psi(x_1, epsilon, tau_prime)                         # \tilde x' = ψ(x_1,epsilon,tau')
    b = self.slow_s_theta(tilde_x_prime, tau_prime, d_prime_2)                # b = \bar s_θ(\tilde x',tau',d')
    hat_x = function_2(tilde_x_prime, d_prime_2, b)                           # \hat x = go(\tilde x',d',b)
    b_prime = self.slow_s_theta(hat_x, tau_prime_prime, d_prime_2)            # b' = \bar s_θ(\hat x,tau'',d')
    v_prime = self.s_theta(tilde_x_prime, tau_prime, d_prime_prime)           # v' = s_θ(\tilde x',tau',d'')
    norm2_2 = (v_prime - (0.5 * b + 0.5 * b_prime).detach()).square().sum(-1)
    one_batch(norm2, norm2_2)
    mean_value = (norm2 + 0.25 * norm2_2).mean()
    return mean_value, (norm2, norm2_2), (x, w, x_1, epsilon, tau, tilde_x, dot_x, d, v, k, u, d_prime_2, d_prime_prime, tau_prime, tau_prime_prime, tilde_x_prime, b, hat_x, b_prime, v_prime)
