import torch
from worldformula.families import AutoregressiveFamily, CategoricalFamily
from worldformula.formula.runtime import wide

autoregressive = AutoregressiveFamily(base=CategoricalFamily(unimix=0.0, classes=None))


def formula(self, x):
    """mean(E_{p_data(x)}[-log p(x)])"""
    p_x = autoregressive.params(self.p_x(), (64,))                            # p(x)
    log_p_x = autoregressive.log_prob(wide(autoregressive, p_x, x, 1), x, 1)
    mean_value = (-log_p_x).mean()
    return mean_value, (log_p_x,), (x,)
