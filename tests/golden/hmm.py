import torch
from worldformula.families import bernoulli, one_hot
from worldformula.formula.ops.recursions import joined
from worldformula.formula.ops.recursions import last
from worldformula.formula.ops.recursions import log_sum
from worldformula.formula.ops.recursions import normalised
from worldformula.formula.runtime import along, by_row, flat, kept, restart, stack, steps, steps_kept


def formula(self, x, first, start_alpha_z):
    """-mean(log Σ_{z_{1:T}} Π_{t; reset=first; initial=p(z_1)}[p(z_t|z_{t-1}) p(x_t|z_t)])"""
    transition_of_z = transition_of_z_(self.p_z_given_z_prev)
    every_z = every_z_(self.p_x_given_z)
    p_x = bernoulli.params(self.p_x_given_z(every_z), (8,))                   # p(x_t|z_t)
    p_z_1 = one_hot.params(self.p_z_given_z_prev(), (6,))                     # p(z_1)
    law_of_z_1 = law_of_z_1_(p_z_1)
    B, T = x.shape[:2]
    # before the loop: needs data only, all steps at once
    keep = kept(first)
    x = flat(x)
    x_k = along(x, 6)
    log_p_x = bernoulli.log_prob(by_row(bernoulli, p_x, x, 1, 1, 0, 1), x_k, 1)
    log_p_x_table = last(log_p_x, place=0)
    keep_s = steps_kept(keep)
    log_p_x_table_s = steps(log_p_x_table, B)
    joint_s, alpha_z_s = [], []
    # in the loop: from carry to carry
    alpha_z = start_alpha_z
    for t in range(T):
        alpha_z_prev = restart(alpha_z, keep_s[t])
        joint = joined(alpha_z_prev, law_of_z_1, transition_of_z, log_p_x_table_s[t], first=1)
        alpha_z = normalised(joint)
        joint_s.append(joint)
        alpha_z_s.append(alpha_z)
    joint = stack(joint_s)
    alpha_z = stack(alpha_z_s)
    # after the loop: all steps at once
    log_step = log_sum(joint)
    sum_over_t = log_step.unflatten(0, (B, T)).sum(1)
    negative_mean_value = -sum_over_t.mean()
    return negative_mean_value, (sum_over_t,), (alpha_z,)
