import torch
from worldformula.families import FlowFamily, NormalFamily, uniform
from worldformula.formula.runtime import wide

flow = FlowFamily(base=NormalFamily(min_scale=0.0))


def formula(self, x, noise_v):
    """mean(E_{p_data(x), p(v), u = dequantise(x,v)}[-log p(u)] + 181.32565401959783)"""
    p_v = (0.0, 1.0)                                                          # p(v)
    v = uniform.sample(p_v, noise_v)
    u = self.dequantise(x, v)                                                 # u = dequantise(x,v)
    p_u = flow.params(self.p_u(), (64,))                                      # p(u)
    log_p_u = flow.log_prob(wide(flow, p_u, u, 1), u, 1)
    mean_value = (-log_p_u + 181.32565401959783).mean()
    return mean_value, (log_p_u,), (x, v, u)
