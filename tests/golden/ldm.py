import torch
from worldformula.families import bernoulli, categorical, normal
from worldformula.formula.runtime import stop


def formula(self, x, c, noise_z, noise_k, noise_t, noise_epsilon):
    """mean(E_{p_data(x), p_data(c), sg(q(z|x)), z_0 = rescale(z), p(k), c' = hide(c,k), p(t), p(epsilon), z_t = q(z_0,t,epsilon), \\hat epsilon = ε_θ(z_t,t,c')}[norm2(epsilon - \\hat epsilon)])"""
    q_z = normal.params(self.q_z_given_x(x), (16,))                           # q(z|x)
    sg_q_z = stop(q_z)
    z = normal.sample(sg_q_z, noise_z)
    z_0 = self.rescale(z)                                                     # z_0 = rescale(z)
    p_k = (2.1972245773362196,)                                               # p(k)
    k = bernoulli.sample(p_k, noise_k)
    c_prime = function_1(c, k)                                                # c' = hide(c,k)
    p_t = categorical.params(None, (), {'probs': self.p_t.probs})             # p(t)
    t_ = categorical.sample(p_t, noise_t)
    p_epsilon = (0.0, 1.0)                                                    # p(epsilon)
    epsilon = normal.sample(p_epsilon, noise_epsilon)
    z_2 = self.q(z_0, t_, epsilon)                                            # z_t = q(z_0,t,epsilon)
    hat_epsilon = self.epsilon_theta(z_2, t_, c_prime)                        # \hat epsilon = ε_θ(z_t,t,c')
    norm2 = (epsilon - hat_epsilon).square().sum(-1)
    mean_value = norm2.mean()
    return mean_value, (norm2,), (x, c, z, z_0, k, c_prime, t_, epsilon, z_2, hat_epsilon)
