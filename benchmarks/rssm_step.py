"""Loss and gradients of an RSSM on sequences: the formula beside two hand-written versions, in the same run.

    python -m benchmarks.rssm_step [--rounds 15] [--json benchmarks/results/rssm_step.json]

`hand` is time-batched as an expert writes it: encoder before the loop, decoder, heads and prior after it. `in the loop`
runs every network at every step, as the formula reads. The formula has subscripts alone; the library decides what runs
where. 32 px, T = 32, B = 16, one thread; networks in the manner of DreamerV3, small.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.handwritten import RSSM, Batch, rssm_loss, rssm_loss_in_loop
from benchmarks.timing import interleave, options, show
from worldformula import KL, Deterministic, E, Expression, Normal, OneHot, Sum, TwoHot, log, maximum, sg
from worldformula.cards.run import machine, write_json

RESULT = Path(__file__).parent / "results" / "rssm_step.json"
B, T, PIXELS, ACTIONS = 16, 32, 32, 2
D, G, K, UNITS, BINS = 128, 8, 8, 128, 255


class Concat(nn.Module):
    """A network on the concatenation of its flattened inputs."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs [N, …] to [N, …]."""
        return self.layers(torch.cat([x.flatten(1) for x in inputs], -1))


class Core(nn.Module):
    """h_t = GRU(h_{t-1}, [z_{t-1}, a_{t-1}])."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Linear(G * K + ACTIONS, UNITS)
        self.gru = nn.GRUCell(UNITS, D)

    def forward(self, h: Tensor, z: Tensor, a: Tensor) -> Tensor:
        """h [N, D], z [N, G, K], a [N, A] to h' [N, D]."""
        x = torch.nn.functional.silu(self.input(torch.cat((z.flatten(1), a), -1)))
        return self.gru(x, h)


def networks() -> nn.ModuleDict:
    """The six networks of one contender."""
    half = PIXELS // 8
    encoder = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.SiLU(), nn.Conv2d(32, 64, 4, 2, 1),
        nn.SiLU(), nn.Flatten(),
    )  # fmt: skip
    decoder = Concat(
        nn.Linear(D + G * K, 64 * half * half), nn.Unflatten(1, (64, half, half)), nn.SiLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.SiLU(),
        nn.ConvTranspose2d(16, 3, 4, 2, 1),
    )  # fmt: skip

    def mlp(inputs: int, outputs: int) -> nn.Module:
        return Concat(nn.Linear(inputs, UNITS), nn.SiLU(), nn.Linear(UNITS, outputs))

    nets = {"encoder": encoder, "core": Core(), "prior": mlp(D, G * K), "decoder": decoder}
    nets |= {"posterior": mlp(D + 64 * half * half, G * K), "reward": mlp(D + G * K, BINS)}
    return nn.ModuleDict(nets)


def sequences() -> Batch:
    """Random sequences with a reset in the middle of every fourth."""
    first = torch.zeros(B, T)
    first[:, 0] = 1
    first[::4, T // 2] = 1
    image = torch.rand(B, T, 3, PIXELS, PIXELS)
    return Batch(image, torch.randn(B, T), torch.rand(B, T, ACTIONS) * 2 - 1, first)


def gumbel() -> Tensor:
    """Gumbel noise [B, T, G, K]."""
    return -torch.log(-torch.log(torch.rand(B, T, G, K).clamp_min(torch.finfo(torch.float32).tiny)))


Loss = Callable[[], Tensor]


def by_hand(nets: nn.ModuleDict, batch: Batch) -> Loss:
    """Plain PyTorch, time-batched."""
    parts = RSSM(**nets, deter=D, groups=G, classes=K)
    return lambda: rssm_loss(parts, batch, gumbel())


def in_the_loop(nets: nn.ModuleDict, batch: Batch) -> Loss:
    """Plain PyTorch, every network at every step."""
    parts = RSSM(**nets, deter=D, groups=G, classes=K)
    return lambda: rssm_loss_in_loop(parts, batch, gumbel())


def by_formula(nets: nn.ModuleDict, batch: Batch) -> Loss:
    """worldformula."""
    loss = formula(nets)
    data = {"x": batch.image, "r": batch.reward, "a": batch.action, "first": batch.first}
    return lambda: loss(**data).value


def formula(nets: nn.ModuleDict) -> Expression:
    """DreamerV3's world-model loss, with subscripts."""
    embed = Deterministic("e_t = enc(x_t)", nets["encoder"])
    core = Deterministic("h_t = f(h_{t-1}, z_{t-1}, a_{t-1})", nets["core"], shape=D)
    prior = OneHot("p(z_t|h_t)", nets["prior"], shape=(G, K), unimix=0.01)
    post = OneHot("q(z_t|h_t,e_t)", nets["posterior"], shape=(G, K), unimix=0.01)
    image = Normal("p(x_t|h_t,z_t)", nets["decoder"], shape=(3, PIXELS, PIXELS), scale=1.0)
    reward = TwoHot("p(r_t|h_t,z_t)", nets["reward"], bins=BINS)
    dyn, rep = KL(sg(post), prior), KL(post, sg(prior))
    step = E(embed * core * post, 1.0 * maximum(dyn, 1) + 0.1 * maximum(rep, 1) - log(image) - log(reward))
    return Sum("t", step, reset="first").mean()


CONTENDERS = {"hand": by_hand, "worldformula": by_formula, "in the loop": in_the_loop}


def gradient_step(loss: Loss, nets: nn.Module) -> Callable[[], None]:
    """Loss and gradients; no update, so that all contenders keep equal weights."""

    def step() -> None:
        nets.zero_grad()
        loss().backward()

    return step


def main() -> None:
    """Measures and writes."""
    args = options(__doc__, RESULT, rounds=15, seeded=True).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    nets, batch = networks(), sequences()
    steps = {}
    for name, build in CONTENDERS.items():
        own = copy.deepcopy(nets)
        steps[name] = gradient_step(build(own, batch), own)
    rows = interleave(steps, "hand", args.rounds, seconds=0.3, warmup=2)
    title = f"RSSM loss and gradients, {PIXELS} px, T {T}, B {B}"
    show(title, rows)
    head = {"benchmark": "rssm_step", "time": "CPU time of one process", "seed": args.seed, "rounds": args.rounds}
    write_json(args.json, {**head, **machine(), "rows": {title: rows}})


if __name__ == "__main__":
    main()
