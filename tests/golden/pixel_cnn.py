import torch
from worldformula.families import AutoregressiveFamily, DiscretisedLogisticFamily
from worldformula.formula.runtime import wide

autoregressive = AutoregressiveFamily(base=DiscretisedLogisticFamily(components=5, levels=17, min_log_scale=-7.0))


def formula(self, x):
    """mean(E_{p_data(x)}[-log p(x)])"""
    p_x = autoregressive.params(self.p_x(), (8, 8))                           # p(x)
    log_p_x = autoregressive.log_prob(wide(autoregressive, p_x, x, 2), x, 2)
    mean_value = (-log_p_x).mean()
    return mean_value, (log_p_x,), (x,)
