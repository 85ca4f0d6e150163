import torch
from worldformula.families import normal
from worldformula.formula.factors.langevin import energies
from worldformula.formula.factors.langevin import langevin


def formula(self, x, x_0, noise_hat_x):
    """mean(CD{k=20; step=0.045; noise=0.3; start=x_0}[p(x)])"""
    q_hat_x = normal.params(self.q_hat_x_given_x(x_0), (20, 2), {'scale': 1.0})  # q(\hat x|x)
    hat_x = normal.sample(q_hat_x, noise_hat_x)
    x_model = langevin(self.p_x, x_0, hat_x, rank=1, step_size=0.045, noise_scale=0.3)
    energy_data = energies(self.p_x, x, rank=1)
    energy_model = energies(self.p_x, x_model, rank=1)
    difference = energy_data - energy_model
    mean_value = difference.mean()
    return mean_value, (difference,), (x_model,)
