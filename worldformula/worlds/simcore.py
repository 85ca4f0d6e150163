r"""SimCore (Gregor, Rezende, Besse, Wu, Merzic & van den Oord 2019, NeurIPS; arXiv:1906.09237).

    b_t = lstm(b_{t-1}, x_t, a_{t-1})                       belief
    s_{0,t} = f(b_t),  s_{k,t} = g(s_{k-1,t-1}, a_{t-1})    the simulation core, k steps on without looking
    Σ_t Σ_{k∈K} λ (−log p(x_t|z_k,s_k) − τ) + KL[q(z_k|s_k,x_t) ‖ p(z_k|s_k)]

    x_t  [B, X] in {0, 1}    s_{k,t}  [B, S] what the belief at t−k expects of t
    a_t  [B, A]              z_{k,t}  [B, Z] what it cannot know of the picture

Every x_t is predicted from the beliefs at t−k for the horizons k of K. None of the s_{k,t} leads back to the belief, so
only the LSTM runs step by step: each level is one call on all B·T rows. Without a ``target`` τ, λ is 1 and the value
a bound; with one, λ is an input of the call, which GECO (`training.schedules`) moves so that the error stays at τ nats
per picture. A state is b and its memory, s and z; while the world imagines, s goes on by g and b stays what it was.

Deviations      paper                        here                       why
pictures        ConvDRAW, 8 iterations       one latent z_k             ``models/draw.py`` has the iterations
pairs (t, k)    a few random ones            all t, k in ``horizons``   time-batched, they are cheap
memory          LSTM, slots, Kanerva         LSTM                       –
first weights   –                            He et al. 2015, eq. 14     between x_t and x_{t+k} lie so many layers that
                                                                        with PyTorch's own the signal fades
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldformula.catalogue import System
from worldformula.errors import ConfigError
from worldformula.formula import KL, Bernoulli, Deterministic, E, Expression, Factor, Joint, Mean, Normal, Symbol, log
from worldformula.nets.loc_scale import LocScale
from worldformula.nets.perceptron import Perceptron
from worldformula.world import World

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """pixels X, actions A, belief, core S, latent Z, hidden units; horizons K; target τ in nats, or none."""

    pixels: int
    actions: int
    belief: int
    core: int
    latent: int
    hidden: int
    horizons: tuple[int, ...] = (1, 2, 4, 8)
    target: float | None = None

    def __post_init__(self) -> None:
        if not self.horizons or list(self.horizons) != sorted(set(self.horizons)) or self.horizons[0] < 1:
            raise ConfigError(f"expected increasing horizons ≥ 1, got {self.horizons}")


def tiny() -> Sizes:
    """A grid world seen through 5 × 5 cells with four moves."""
    return Sizes(pixels=25, actions=4, belief=64, core=64, latent=8, hidden=64)


def one_step() -> Sizes:
    """As ``tiny``, without overshooting: the control of the paper."""
    return Sizes(pixels=25, actions=4, belief=64, core=64, latent=8, hidden=64, horizons=(1,))


# ---------------------------------------------------------------------------------------------------------- networks


def perceptron(inputs: int, outputs: int, hidden: int) -> Perceptron:
    """One hidden layer; the signal keeps its size."""
    net = Perceptron(inputs, outputs, (hidden,))
    for layer in net.layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    return net


def prepare(cell: nn.RNNCellBase) -> None:
    """As `perceptron`, for a recurrent cell."""
    for weight in (cell.weight_ih, cell.weight_hh):
        nn.init.kaiming_uniform_(weight, nonlinearity="linear")


class Belief(nn.Module):
    """Output and memory [N, H] of an LSTM from those before, the features of the picture, and the last action."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(sizes.hidden + sizes.actions, sizes.belief)
        prepare(self.cell)
        with torch.no_grad():  # gates of input, forgetting, candidate, output: it begins by keeping what it has
            self.cell.bias_ih[sizes.belief : 2 * sizes.belief] += 1.0

    def forward(self, b: Tensor, m: Tensor, e: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """In the order of the factor."""
        found: tuple[Tensor, Tensor] = self.cell(torch.cat((e, a), -1), (b, m))
        return found


class Core(nn.Module):
    """g: the state of the simulation [N, S] after one more action [N, A]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.cell = nn.GRUCell(sizes.actions, sizes.core)
        prepare(self.cell)

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        """A recurrent step whose only input is the action."""
        return torch.as_tensor(self.cell(a, s))


class Keep(nn.Module):
    """What a simulation knows of the data: belief and memory before."""

    def forward(self, b: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Both as they were."""
        return b, m


# ----------------------------------------------------------------------------------------------------------- formula


def build(sizes: Sizes) -> World:
    """SimCore; ``world.loss(x=[B, T, X], a=[B, T, A], first=[B, T])`` is in nats per picture; with a target, the call
    has ``**{"lambda": 1.0}`` too.
    """
    H, S, Z, hidden = sizes.belief, sizes.core, sizes.latent, sizes.hidden
    embed = Deterministic("e_t = enc(x_t)", perceptron(sizes.pixels, sizes.hidden, hidden))
    belief = Deterministic("b_t, m_t = lstm(b_{t-1}, m_{t-1}, e_t, a_{t-1})", Belief(sizes), shape=[H, H])
    begin = Deterministic("s_t = f(b_t)", perceptron(H, S, hidden), shape=S)
    step = Deterministic("s_t = g(s_{t-1}, a_{t-1})", Core(sizes), shape=S)
    prior = Normal("p(z_t|s_t)", LocScale(perceptron(S, 2 * Z, hidden)), shape=Z)
    post = Normal("q(z_t|s_t,e_t)", LocScale(perceptron(S + sizes.hidden, 2 * Z, hidden)), shape=Z)
    decode = Bernoulli("p(x_t|z_t,s_t)", perceptron(Z + S, sizes.pixels, hidden), shape=sizes.pixels)
    keep = Deterministic("b_t, m_t = keep(b_{t-1}, m_{t-1})", Keep(), shape=[H, H])
    return World(
        prior=keep * step * prior,
        posterior=embed * belief * begin * prior,
        heads=[decode],
        loss=bound(sizes, embed * belief, begin, step, (prior, post, decode)),
    )


def bound(
    sizes: Sizes, filtering: Joint, begin: Factor, step: Factor, picture: tuple[Factor, Factor, Factor]
) -> Expression:
    """The loss: the levels s_{0,t} … s_{K,t}, and what is asked of those in ``horizons``."""
    draws, last = filtering * begin.rename(s="s_0"), sizes.horizons[-1]
    for k in range(1, last + 1):
        draws = draws * step.rename(s=f"s_{k}", s_prev=f"s_{k - 1}")
    losses = []
    for k in sizes.horizons:
        prior, post, decode = (p.rename(**{n: f"{n}_{k}" for n in ("s", "z")}) for p in picture)
        draws = draws * post
        divergence = KL(post, prior)
        if sizes.target is None:
            losses.append(divergence - log(decode))
        else:
            losses.append(divergence + Symbol("lambda") * (-log(decode) - sizes.target))
    total = sum(losses[1:], losses[0]) / len(losses)
    return Mean("t", E(draws, total), reset="first", burn_in=last).mean()


# ------------------------------------------------------------------------------------------------------------ system

HOW = {"steps": 2700, "batch": 8, "lr": 6e-3, "clip": 1.0, "schedule": "cosine"}
SYSTEM = System(
    name="simcore",
    kind="worlds",
    paper="Gregor, Rezende, Besse, Wu, Merzic & van den Oord 2019, NeurIPS; arXiv:1906.09237",
    bibtex="""@inproceedings{gregor2019simcore,
  title     = {Shaping Belief States with Generative Environment Models for {RL}},
  author    = {Gregor, Karol and Jimenez Rezende, Danilo and Besse, Frederic and Wu, Yan and Merzic, Hamza
               and van den Oord, A{\\"a}ron},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2019},
  eprint    = {1906.09237},
}""",
    presets={"tiny": tiny, "one_step": one_step},
    fits={"tiny": HOW, "one_step": HOW},
    build=build,
    summary="A belief that is shaped by simulating several steps ahead under the actions that were taken.",
)


if __name__ == "__main__":
    world = build(tiny())
    print(world.loss, world.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(world.parameters(), lr=1e-3)
    data = {"x": torch.rand(8, 20, 25).bernoulli(), "a": torch.eye(4)[torch.randint(4, (8, 20))]}
    given = data | {"first": torch.zeros(8, 20, dtype=torch.bool)}
    before = world.loss(**given, seed=0).value
    before.backward()
    optimiser.step()
    after = world.loss(**given, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} nats per picture")
