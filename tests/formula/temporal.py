"""The temporal systems that the language must be able to say, small: each is a function of its clock.

``case(reset=..., mask=..., burn_in=...)`` gives the loss per sequence, its data ``[B, T, ...]`` and what it carries.
"""

from typing import NamedTuple

import torch
from torch import nn

from tests.formula.models import A, B, D, G, Join, K, T, X, Z
from worldformula import (
    KL,
    Bernoulli,
    Deterministic,
    E,
    Expression,
    MultivariateNormal,
    Normal,
    OneHot,
    Sum,
    TwoHot,
    Value,
    log,
    maximum,
    norm2,
    sg,
)

J = 2  # the longest jump of TD-VAE
DT = 0.5  # seconds per step of NewtonianVAE


class Case(NamedTuple):
    """A loss ``[B]``, its data, and the variables that go from step to step."""

    loss: Expression
    data: dict[str, torch.Tensor]
    carried: set[str]
    causal: bool = True  # whether a step reads the past alone, so that a sequence may be cut


def series(**widths):
    """Random series by name; a width of 0 is a number per step."""
    return {k: torch.randn(B, T, *([n] if n else []), dtype=torch.float64) for k, n in widths.items()}


# ------------------------------------------------------------------------------------------------------- Markov models


class BiRNN(nn.Module):
    """Whole series [B, T, X] to summaries of both directions [B, T, 2 D]."""

    def __init__(self, inputs=X):
        super().__init__()
        self.rnn = nn.GRU(inputs, D, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.rnn(x)[0]


def dmm(**clock):
    """Deep Markov model (Krishnan et al. 2017): the encoder reads the whole series before the loop."""
    encode = Deterministic("h_t = birnn(x_{1:T})", BiRNN())
    q = Normal("q(z_t|h_t,z_{t-1})", Join(2 * D + Z, 2 * Z, 3), shape=Z)
    prior, decode = Normal("p(z_t|z_{t-1})", Join(Z, 2 * Z), shape=Z), Normal("p(x_t|z_t)", Join(Z, 2 * X), shape=X)
    loss = Sum("t", E(encode * q, KL(q, prior) - log(decode)), **clock)
    return Case(loss, series(x=X), {"z"}, causal=False)


def action_dmm(**clock):
    """A deep Markov model whose transition reads actions, with a causal encoder."""
    encode = Deterministic("h_t = rnn(h_{t-1}, x_t)", Join(D + X, D), shape=D)
    q = Normal("q(z_t|h_t,z_{t-1},u_t)", Join(D + Z + A, 2 * Z, 3), shape=Z)
    prior = Normal("p(z_t|z_{t-1},u_t)", Join(Z + A, 2 * Z), shape=Z)
    decode = Bernoulli("p(x_t|z_t)", Join(Z, X), shape=X)
    loss = Sum("t", E(encode * q, KL(q, prior) - log(decode)), **clock)
    return Case(loss, series(u=A) | {"x": torch.rand(B, T, X).double()}, {"h", "z"})


def vrnn(**clock):
    """Variational RNN (Chung et al. 2015): features of x and z are shared by four networks."""
    phi_x = Deterministic("\\tilde x_t = phi_x(x_t)", Join(X, D))
    phi_z = Deterministic("\\tilde z_t = phi_z(z_t)", Join(Z, D))
    q = Normal("q(z_t|\\tilde x_t,h_{t-1})", Join(2 * D, 2 * Z, 3), shape=Z)
    prior = Normal("p(z_t|h_{t-1})", Join(D, 2 * Z), shape=Z)
    decode = Normal("p(x_t|\\tilde z_t,h_{t-1})", Join(2 * D, 2 * X), shape=X)
    core = Deterministic("h_t = f(\\tilde x_t, \\tilde z_t, h_{t-1})", Join(3 * D, D), shape=D)
    loss = Sum("t", E(phi_x * q * phi_z * core, KL(q, prior) - log(decode)), **clock)
    return Case(loss, series(x=X), {"h"})


class Window(nn.Module):
    """The last J beliefs, the newest first."""

    def forward(self, window, belief):
        return torch.cat((belief.unsqueeze(1), window[:, :-1]), 1)


def td_vae(**clock):
    """TD-VAE (Gregor et al. 2019): one belief factor at two times, jumps δ drawn at random."""
    belief = Deterministic("b_t = rnn(b_{t-1}, x_t)", Join(D + X, D), shape=D)
    window = Deterministic("w_t = push(w_{t-1}, b_{t-1})", Window(), shape=(J, D))
    jump = OneHot("p(d_t)", shape=J)
    past = Deterministic("b'_t = pick(w_t, d_t)", lambda w, d: (w * d.unsqueeze(-1)).sum(1), shape=D)
    now = Normal("p_B(z_t|b_t)", Join(D, 2 * Z, 3), shape=Z)
    then = now.rename(z="z'", b="b'")
    smooth = Normal("q(z'_t|z_t,b'_t,b_t,d_t)", Join(Z + 2 * D + J, 2 * Z, 3), shape=Z)
    step = Normal("p_T(z_t|z'_t,d_t)", Join(Z + J, 2 * Z), shape=Z)
    decode = Bernoulli("p(x_t|z_t)", Join(Z, X), shape=X)
    inner = KL(smooth, then) + E(smooth, log(now) - log(decode) - log(step))
    loss = Sum("t", E(belief * window * jump * past * now, inner), **clock)
    return Case(loss, {"x": torch.rand(B, T, X).double()}, {"b", "w"})


# ------------------------------------------------------------------------------------------------------ recurrent state


def parts():
    """Encoder, core, prior, posterior, image, reward."""
    return (
        Deterministic("e_t = enc(x_t)", Join(X, D)),
        Deterministic("h_t = f(h_{t-1}, z_{t-1}, a_{t-1})", Join(D + G * K + A, D), shape=D),
        OneHot("p(z_t|h_t)", Join(D, G * K, 4), shape=(G, K), unimix=0.01),
        OneHot("q(z_t|h_t,e_t)", Join(2 * D, G * K, 4), shape=(G, K), unimix=0.01),
        Normal("p(x_t|h_t,z_t)", Join(D + G * K, X), shape=X, scale=1.0),
        TwoHot("p(r_t|h_t,z_t)", Join(D + G * K, 11), bins=11),
    )


def rssm(**clock):
    """RSSM (Hafner et al. 2020): KL balancing and free bits."""
    embed, core, prior, post, image, reward = parts()
    balanced = 0.5 * maximum(KL(sg(post), prior), 0.3) + 0.1 * maximum(KL(post, sg(prior)), 0.3)
    loss = Sum("t", E(embed * core * post, balanced - log(image) - log(reward)), **clock)
    return Case(loss, series(x=X, a=A, r=0), {"h", "z", "a"})


def overshooting(**clock):
    """Latent overshooting (PlaNet): the prior, rolled on for 2 and 3 steps without looking, against each posterior."""
    embed, core, prior, post, image, reward = parts()
    first = core.rename(h="h'", h_prev="h") * prior.rename(h="h'", z="z'")
    second = core.rename(h="h''", h_prev="h'", z_prev="z'") * prior.rename(h="h''", z="z''")
    third = core.rename(h="h'''", h_prev="h''", z_prev="z''")
    chain = [prior.rename(h=h) for h in ("h''", "h'''")]
    losses = [KL(sg(post), p) for p in (prior, *chain)]
    step = losses[0] + (losses[1] + losses[2]) / 2 - log(image) - log(reward)
    loss = Sum("t", E(embed * core * post * first * second * third, step), **clock)
    return Case(loss, series(x=X, a=A, r=0), {"h", "z", "a", "h_prime", "z_prime", "h_prime_prime", "z_prime_prime"})


class Heard(nn.Module):
    """Image, word, and the sound where the mask says that there is one."""

    def __init__(self):
        super().__init__()
        self.join = Join(X + 3 + Z, D)

    def forward(self, x, y, w, m):
        return self.join(x, y * m.unsqueeze(-1), w)


def mrssm(**clock):
    """Multimodal RSSM: three decoders, one of which is heard in some steps alone; free nats on the sum."""
    embed = Deterministic("e_t = enc(x_t, y_t, w_t, m_t)", Heard())
    core = Deterministic("h_t = f(h_{t-1}, z_{t-1}, a_{t-1})", Join(D + Z + A, D), shape=D)
    prior, post = Normal("p(z_t|h_t)", Join(D, 2 * Z), shape=Z), Normal("q(z_t|h_t,e_t)", Join(2 * D, 2 * Z), shape=Z)
    image, sound = Normal("p(x_t|h_t,z_t)", Join(D + Z, 2 * X)), Normal("p(y_t|h_t,z_t)", Join(D + Z, 6))
    word = OneHot("p(w_t|h_t,z_t)", Join(D + Z, Z), shape=Z)
    heard = Value("m_t", shape=())
    step = maximum(KL(post, prior), 0.2) - log(image) - heard * log(sound) - log(word)
    loss = Sum("t", E(embed * core * post, step), **clock)
    data = series(x=X, y=3, a=A) | {"w": torch.eye(Z).double()[torch.randint(Z, (B, T))]}
    return Case(loss, data | {"m": torch.randint(2, (B, T)).double()}, {"h", "z", "a"})


class Gate(nn.Module):
    """A gated carry: the proposal replaces the carried value where the gate, ReLU(tanh), is open."""

    def __init__(self):
        super().__init__()
        self.propose, self.open = nn.Linear(D + Z + A, D), nn.Linear(D + Z + A, D)

    def forward(self, c, z, a):
        seen = torch.cat((c, z, a), -1)
        gate = self.open(seen).tanh().relu()
        return gate * self.propose(seen).tanh() + (1 - gate) * c, gate


def c_rssm(**clock):
    """Context-specific RSSM (THICK): two priors and one posterior, sparse gates on a slow context."""
    slow = Deterministic("c_t, g_t = gate(c_{t-1}, z_{t-1}, a_{t-1})", Gate(), shape=[D, D])
    core = Deterministic("h_t = f(h_{t-1}, c_t, z_{t-1}, a_{t-1})", Join(2 * D + Z + A, D), shape=D)
    precise = Normal("p(z_t|h_t,c_t)", Join(2 * D, 2 * Z), shape=Z)
    coarse = Normal("p_c(z_t|z_{t-1},a_{t-1},c_t)", Join(D + Z + A, 2 * Z), shape=Z)
    post = Normal("q(z_t|c_t,h_t,x_t)", Join(2 * D + X, 2 * Z), shape=Z)
    image, image_c = (
        Normal("p(x_t|h_t,c_t,z_t)", Join(2 * D + Z, 2 * X)),
        Normal("p_c(x_t|c_t,z_t)", Join(D + Z, 2 * X)),
    )
    step = KL(post, precise) + 0.3 * KL(sg(post), coarse) - log(image) - log(image_c) + 0.1 * norm2(Value("g_t"))
    loss = Sum("t", E(slow * core * post, step), **clock)
    return Case(loss, series(x=X, a=A), {"c", "h", "z", "a"})


# ------------------------------------------------------------------------------------------------ filters and energies


class Kalman(nn.Module):
    """Predict and update a Gaussian N(m, P) by an observation e with noise 1; A and Q are learned."""

    def __init__(self):
        super().__init__()
        self.transition, self.noise = nn.Parameter(torch.randn(Z, Z) / 2), nn.Parameter(torch.zeros(Z))

    def forward(self, m, P, e):
        m, P = m @ self.transition.T, self.transition @ P @ self.transition.T + torch.diag(self.noise.exp())
        gain = torch.linalg.solve(P + torch.eye(Z).to(P), P)
        return m + ((e - m).unsqueeze(1) @ gain).squeeze(1), P - P @ gain


def dynanet(**clock):
    """DynaNet: a Kalman filter on learned features; what is carried is a vector and a matrix."""
    embed = Deterministic("e_t = enc(x_t)", Join(X, Z))
    kalman = Deterministic("m_t, P_t = kalman(m_{t-1}, P_{t-1}, e_t)", Kalman(), shape=[Z, (Z, Z)])

    def factor(m, P):
        return {"loc": m, "scale_tril": torch.linalg.cholesky(P)}

    q = MultivariateNormal("q(z_t|m_t,P_t)", factor, shape=Z)
    decode = Normal("p(x_t|z_t)", Join(Z, 2 * X), shape=X)
    loss = Sum("t", E(embed * kalman * q, log(q) - log(decode)), **clock)
    return Case(loss, series(x=X), {"m", "P"})


class Newton(nn.Module):
    """v_{t-1} = (x_{t-1} − x_{t-2})/Δt, and the velocity that follows from it: v + Δt (A x + B v + C u)."""

    def __init__(self):
        super().__init__()
        self.law = nn.Linear(2 * Z + A, Z)

    def forward(self, x, w, u):
        v = (x - w) / DT
        return v + DT * self.law(torch.cat((x, v, u), -1))


def newtonian(**clock):
    """NewtonianVAE: positions of one encoder at three times, and an expectation under the transition."""
    q = Normal("q(x_t|I_t)", Join(X, 2 * Z, 3), shape=Z)
    late = Deterministic("w_t = late(x_{t-1})", nn.Identity(), shape=Z)
    speed = Deterministic("v_t = newton(x_{t-1}, w_{t-1}, u_{t-1})", Newton(), shape=Z)
    transition = Normal("p(x_t|x_{t-1},v_t)", lambda x, v: torch.cat((x + DT * v, x * 0 - 1), -1), shape=Z)
    dreamt = transition.rename(x="x'", x_prev="x")
    decode = Normal("p(I_t|x'_t)", Join(Z, 2 * X), shape=X)
    step = E(q * late * speed, 0.7 * KL(q, transition) - E(dreamt, log(decode)))
    return Case(Sum("t", step, **clock), series(I=X, u=A), {"x", "w", "u"})


class Spread(nn.Module):
    """Variance and covariance penalties over the batch axis [B, D], the same for every row."""

    batch_dependent = True

    def forward(self, s):
        c = torch.cov(s.T)
        off = c - torch.diag(torch.diag(c))
        return ((1 - torch.diag(c)).relu().mean() + off.square().mean()).expand(len(s))


def jepa(**clock):
    """Joint-embedding prediction: energies between states, variance and covariance over the batch at each step."""
    embed = Deterministic("s_t = enc(x_t)", Join(X, D), shape=D)
    target = Deterministic("\\bar s_t = enc_bar(x_t)", Join(X, D), shape=D)
    predict = Deterministic("\\hat s_t = pred(s_{t-1}, a_{t-1})", Join(D + A, D), shape=D)
    spread = Deterministic("v_t = spread(s_t)", Spread(), shape=())
    energy = norm2(Value("\\hat s_t") - sg(Value("\\bar s_t")))
    loss = Sum("t", E(embed * target * predict * spread, energy + 2 * Value("v_t")), **clock)
    return Case(loss, series(x=X, a=A), {"s", "a"})


# ---------------------------------------------------------------------------------------- iterations that are not time


def draw():
    """DRAW without attention: each iteration looks at x and at what is still missing, and adds to the canvas."""
    look = Deterministic("e_l = look(x, c_{l-1}, h_{l-1}, e_{l-1})", Join(2 * X + 2 * D, D), shape=D)
    q = Normal("q(z_l|e_l)", Join(D, 2 * Z, 3), shape=Z)
    core = Deterministic("h_l = f(h_{l-1}, z_l)", Join(D + Z, D), shape=D)
    canvas = Deterministic("c_l = write(c_{l-1}, h_l)", Canvas(), shape=X)
    prior = Normal("p(z_l)", shape=Z)
    decode = Bernoulli("p(x|c_L)", lambda c: c, shape=X)
    return Sum("l", E(look * q * core * canvas, KL(q, prior)), steps=4) - log(decode), {"x": torch.rand(B, X).double()}


class Canvas(nn.Module):
    def __init__(self):
        super().__init__()
        self.write = nn.Linear(D, X)

    def forward(self, c, h):
        return c + self.write(h)


def gqn():
    """Generative query network: cores that share no weights; the posterior has a recurrence of its own."""
    cores = nn.ModuleList(Join(D + X + A + Z, D) for _ in range(3))
    scene = Deterministic("r = scene(x_{1:M}, v_{1:M})", lambda x, v: torch.cat((x, v), -1).sum(1), shape=X + A)
    seen = Deterministic("e_l = inf(e_{l-1}, h_{l-1}, y, r)", Join(2 * D + 2 * X + A, D), shape=D)
    prior, q = Normal("π(z_l|h_{l-1})", Join(D, 2 * Z), shape=Z), Normal("q(z_l|e_l)", Join(D, 2 * Z, 3), shape=Z)
    core = Deterministic("h_l = f(h_{l-1}, r, z_l)", cores, shape=D)
    canvas = Deterministic("u_l = up(u_{l-1}, h_l)", Canvas(), shape=X)
    decode = Normal("p(y|u_L)", lambda u: u, shape=X, scale=0.5)
    steps = Sum("l", E(seen * q * core * canvas, KL(q, prior)), steps=3)
    data = {"x": torch.randn(B, 4, X), "v": torch.randn(B, 4, A), "y": torch.randn(B, X)}
    return E(scene, steps - log(decode)), {k: v.double() for k, v in data.items()}


TEMPORAL = (
    dmm, action_dmm, vrnn, td_vae, rssm, overshooting, mrssm, c_rssm, dynanet, newtonian, jepa,
)  # fmt: skip
ITERATED = (draw, gqn)
