import torch
from worldformula.families import normal
from worldformula.formula.runtime import counting, flat, kept, one_batch, restart, shift, stack, steps, steps_kept


def formula(self, x, a, y, first, start_z, start_K, start_V, start_U, start_N, start_m, start_a, start_t):
    """mean(mean_{t; reset=first} E_{z_t = e(x_t), K_t,V_t,U_t,N_t,m_t = write(K_{t-1},V_{t-1},U_{t-1},N_{t-1},z_t), \\hat z_t = f(z_{t-1},a_{t-1},m_{t-1})}[clamp(t - 1, 0, 1) * (norm2(\\hat z_t - sg(z_t)) / 4) - log p(x_t|z_t) - log p(y_t|z_t,m_t)])"""
    B, T = x.shape[:2]
    # before the loop: needs data only, all steps at once
    keep = kept(first)
    a_prev = shift(a, start_a, keep)
    x = flat(x)
    z = self.e(x)                                                             # z_t = e(x_t)
    number_t = counting(start_t, T, keep)
    clamp = (number_t - 1).clamp(min=0, max=1)
    detach_z = z.detach()
    p_x = normal.params(self.p_x_given_z(z), (3,), {'scale': 1.0})            # p(x_t|z_t)
    log_p_x = normal.log_prob(p_x, x, 1)
    y = flat(y)
    keep_s = steps_kept(keep)
    z_s = steps(z, B)
    K_s, K_2_s, V_s, U_s, N_s = [], [], [], [], []
    # in the loop: from carry to carry
    K_2 = start_K
    V = start_V
    U = start_U
    N = start_N
    write = self.write
    for t in range(T):
        K_prev = restart(K_2, keep_s[t])
        V_prev = restart(V, keep_s[t])
        U_prev = restart(U, keep_s[t])
        N_prev = restart(N, keep_s[t])
        K = write(K_prev, V_prev, U_prev, N_prev, z_s[t])                    # K_t,V_t,U_t,N_t,m_t = write(K_{t-1},V_{t-1},U_{t-1},N_{t-1},z_t)
        K_2 = K[0]
        V = K[1]
        U = K[2]
        N = K[3]
        K_s.append(K)
        K_2_s.append(K_2)
        V_s.append(V)
        U_s.append(U)
        N_s.append(N)
    K = stack(K_s)
    K_2 = stack(K_2_s)
    V = stack(V_s)
    U = stack(U_s)
    N = stack(N_s)
    # after the loop: all steps at once
    m = K[4]
    z_prev = shift(z.unflatten(0, (B, T)), start_z, keep)
    m_prev = shift(m.unflatten(0, (B, T)), start_m, keep)
    hat_z = self.f(z_prev, a_prev, m_prev)                                    # \hat z_t = f(z_{t-1},a_{t-1},m_{t-1})
    norm2 = (hat_z - detach_z).square().sum(-1)
    p_y = normal.params(self.p_y_given_z_m(z, m), (2,), {'scale': 1.0})       # p(y_t|z_t,m_t)
    log_p_y = normal.log_prob(p_y, y, 1)
    one_batch(number_t, norm2, log_p_x, log_p_y)
    difference_4 = clamp * (norm2 / 4) - log_p_x - log_p_y
    mean_value = difference_4.unflatten(0, (B, T)).mean(1).mean()
    return mean_value, (log_p_x, log_p_y), (z, K_2, V, U, N, m, hat_z, number_t)
