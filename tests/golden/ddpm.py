import torch
from worldformula.families import categorical, normal


def formula(self, x, noise_t, noise_epsilon):
    """mean(E_{p_data(x), x_0 = scale(x), p(t), p(epsilon), x_t = q(x_0,t,epsilon), \\hat epsilon = ε_θ(x_t,t)}[norm2(epsilon - \\hat epsilon)])"""
    x_0 = self.scale(x)                                                       # x_0 = scale(x)
    p_t = categorical.params(None, (), {'probs': self.p_t.probs})             # p(t)
    t_ = categorical.sample(p_t, noise_t)
    p_epsilon = (0.0, 1.0)                                                    # p(epsilon)
    epsilon = normal.sample(p_epsilon, noise_epsilon)
    x_2 = self.q(x_0, t_, epsilon)                                            # x_t = q(x_0,t,epsilon)
    hat_epsilon = self.epsilon_theta(x_2, t_)                                 # \hat epsilon = ε_θ(x_t,t)
    norm2 = (epsilon - hat_epsilon).square().sum(-1)
    mean_value = norm2.mean()
    return mean_value, (norm2,), (x, x_0, t_, epsilon, x_2, hat_epsilon)
