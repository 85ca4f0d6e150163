import torch
import torch.nn.functional as F
from worldformula.families import one_hot
from worldformula.formula.ops.recursions import joined
from worldformula.formula.ops.recursions import last
from worldformula.formula.ops.recursions import log_sum
from worldformula.formula.ops.recursions import normalised
from worldformula.formula.runtime import along, flat, fold, kept, matched, restart, stack, steps, steps_kept, unfold, widened


def formula(self, x, first, start_alpha_z):
    """-mean(log Σ_{z_{1:T}} Π_{t; reset=first; initial=p(z_1)}[p(z_t|z_{t-1}) p(x_t|z_t)])"""
    transition_of_z = transition_of_z_(self.p_z_given_z_prev)
    p_z_1 = one_hot.params(self.p_z_given_z_prev(), (6,))                     # p(z_1)
    law_of_z_1 = law_of_z_1_(p_z_1)
    B, T = x.shape[:2]
    # before the loop: needs data only, all steps at once
    keep = kept(first)
    x = flat(x)
    x_k = along(x, 6)
    every_z = values_of_z(x_k, rank=1)
    p_x_logits = unfold(self.p_x_given_z(fold(every_z, 1)), 6, -1)            # p(x_t|z_t)
    log_p_x = -F.binary_cross_entropy_with_logits(widened(p_x_logits), matched(x_k, p_x_logits), reduction="none").sum(-1)
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
