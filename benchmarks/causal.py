"""A GPT world beside a hand-written one: what training costs, and how the time of a dream grows with its horizon.

    python -m benchmarks.causal [--rounds 15] [--json benchmarks/results/causal.json]

Training: ``Sum("t", E(q, KL(q, p) - log(d)))`` with p(z_t|z_{<t}, a_{<t}) of four layers, q(z_t|x_t) and p(x_t|z_t),
beside plain PyTorch with the same weights, which share no code with the library; Adam (fused), one thread. With and
without reset flags, as flags need a mask of their own. Dreams: a past of 32 steps, 16 rows, horizons of 8 to 64, with
the cache and by hand without one, which runs the whole past again at every step.

Predicted before the first run: the loss costs at most 1.05 of the hand-written one, as its lines around the network are
few; a dream with the cache grows linearly, 64 steps taking 8 to 9 times what 8 take; one without a cache grows at least
twice as fast, 64 taking 16 times what 8 take. What came stands beside it in the result, under ``came``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import interleave, options, show
from worldformula import KL, E, Normal, Sum, World, log
from worldformula.cards.run import machine, write_json
from worldformula.nets.transformer import CausalTransformer

RESULT = Path(__file__).parent / "results" / "causal.json"
PREDICTED = {"ratio": 1.05, "64 over 8 with a cache": [8, 9], "64 over 8 without a cache": "at least 16"}
B, T, X, Z, A = 16, 64, 64, 32, 4
WIDTH, HEADS, LAYERS = 128, 4, 4
PAST, HORIZONS = 32, (8, 16, 32, 64)

Batch = tuple[Tensor, Tensor, Tensor]  # x, a, noise


class HandBlock(nn.Module):
    """Pre-norm attention with rotary positions, then two layers; the names of its weights are those of the library."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """x [B, T, WIDTH]."""
        B, T, _ = x.shape
        q, k, v = (part.view(B, T, HEADS, -1).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))

        def turn(s: Tensor) -> Tensor:
            a, b = s.chunk(2, -1)
            return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)

        seen = F.scaled_dot_product_attention(turn(q), turn(k), v, attn_mask=mask, is_causal=mask is None)
        x = x + self.out(seen.transpose(1, 2).reshape(B, T, WIDTH))
        return x + self.mlp(self.norm_2(x))


class HandWorld(nn.Module):
    """The whole loss in plain PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(Z + A, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * Z)
        self.blocks = nn.ModuleList(HandBlock() for _ in range(LAYERS))
        self.encoder, self.decoder = nn.Linear(X, 2 * Z), nn.Linear(Z, 2 * X)

    def attend(self, z: Tensor, a: Tensor, first: Tensor | None) -> Tensor:
        """Heads [B, T, 2 Z] of the past draws and actions [B, T, ...]."""
        T, half = z.shape[1], WIDTH // HEADS // 2
        angles = torch.arange(T).unsqueeze(1) * torch.exp(torch.arange(half) * (-math.log(10000.0) / half))
        mask = None
        if first is not None:
            episode = first.long().cumsum(1)
            mask = (episode.unsqueeze(2) == episode.unsqueeze(1)).tril().unsqueeze(1)
        x = self.embed(torch.cat((z, a), -1))
        for block in self.blocks:
            x = block(x, angles.cos(), angles.sin(), mask)
        return self.head(self.norm(x))  # type: ignore[no-any-return]

    def forward(self, x: Tensor, a: Tensor, noise: Tensor, first: Tensor | None = None) -> Tensor:
        """The loss of x [B, T, X] and a [B, T, A]."""
        loc, raw = self.encoder(x).chunk(2, -1)
        scale = F.softplus(raw)
        z = loc + scale * noise
        late_z, late_a = (F.pad(s[:, :-1], (0, 0, 1, 0)) for s in (z, a))
        if first is not None:
            late_z, late_a = (torch.where(first.unsqueeze(-1), 0.0, s) for s in (late_z, late_a))
        p_loc, p_raw = self.attend(late_z, late_a, first).chunk(2, -1)
        p_scale = F.softplus(p_raw)
        ratio, distance = scale / p_scale, (loc - p_loc) / p_scale
        kl = (0.5 * (ratio.square() + distance.square() - 1) - ratio.log()).sum(-1)
        x_loc, x_raw = self.decoder(z).chunk(2, -1)
        x_scale = F.softplus(x_raw)
        half = 0.5 * math.log(2 * math.pi)
        log_x = (-0.5 * ((x - x_loc) / x_scale).square() - x_scale.log() - half).sum(-1)
        return (kl - log_x).sum(1).mean()

    def dream(self, z: Tensor, a: Tensor, horizon: int) -> Tensor:
        """Means that go on from z [B, P, Z] under a [B, P + horizon, A], the whole past again at every step."""
        for _ in range(horizon):
            late = F.pad(z, (0, 0, 1, 0)), F.pad(a[:, : z.shape[1]], (0, 0, 1, 0))
            z = torch.cat((z, self.attend(*late, None)[:, -1:, :Z]), 1)
        return z[:, -horizon:]


def by_formula(hand: HandWorld, reset: bool) -> World:
    """The same world as a formula, with the same numbers in its weights."""
    net = CausalTransformer(Z + A, 2 * Z, width=WIDTH, heads=HEADS, layers=LAYERS)
    net.load_state_dict({k: v for k, v in hand.state_dict().items() if not k.startswith(("encoder", "decoder"))})
    encoder, decoder = nn.Linear(X, 2 * Z), nn.Linear(Z, 2 * X)
    encoder.load_state_dict(hand.encoder.state_dict())
    decoder.load_state_dict(hand.decoder.state_dict())
    prior, post = Normal("p(z_t|z_{<t}, a_{<t})", net, shape=Z), Normal("q(z_t|x_t)", encoder, shape=Z)
    image = Normal("p(x_t|z_t)", decoder, shape=X)
    loss = Sum("t", E(post, KL(post, prior) - log(image)), reset="first" if reset else None).mean()
    return World(prior=prior, posterior=post, heads=[image], loss=loss)


def training_step(loss: Callable[..., Tensor], owner: nn.Module, batches: Iterator[Batch]) -> Callable[[], None]:
    """Loss, gradients, update."""
    optimiser = torch.optim.Adam(owner.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimiser.zero_grad()
        loss(*next(batches)).backward()
        optimiser.step()

    return step


def training(reset: bool, rounds: int) -> dict[str, dict[str, object]]:
    """One step of each, on equal weights, data and noise; their values are compared first."""
    hand = HandWorld()
    world = by_formula(hand, reset)
    flags = torch.rand(B, T) < 0.05
    flags[:, 0] = True
    data = [(torch.randn(B, T, X), torch.randn(B, T, A), torch.randn(B, T, Z)) for _ in range(4)]
    first = {"first": flags} if reset else {}
    losses = {
        "hand": lambda x, a, noise: hand(x, a, noise, flags if reset else None),
        "formula": lambda x, a, noise: world.loss(x=x, a=a, noise={"z": noise}, **first).value,
    }
    values = [loss(*data[0]) for loss in losses.values()]
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-4)
    owners = {"hand": hand, "formula": world}
    steps = {name: training_step(loss, owners[name], cycle(data)) for name, loss in losses.items()}
    return interleave(steps, "hand", rounds, seconds=0.3, warmup=2)


@torch.no_grad()
def dreams(rounds: int) -> dict[str, dict[str, object]]:
    """Dreams by horizon, with the cache of the library and by hand without one; their means are compared first."""
    hand = HandWorld()
    world = by_formula(hand, reset=False)
    x, a = torch.randn(B, PAST, X), torch.randn(B, PAST + max(HORIZONS), A)
    states = world.filter({"x": x, "a": a[:, :PAST]}, deterministic=True)
    start = states.last()
    actions = a[:, PAST - 1 :]  # the first is taken at the start
    got = world.imagine(start, actions=actions[:, :8], deterministic=True)["z"][:, 1:]
    torch.testing.assert_close(got, hand.dream(states["z"], a, 8), rtol=1e-4, atol=1e-4)
    steps = {}
    for H in HORIZONS:
        steps[f"cache, {H}"] = lambda H=H: world.imagine(start, actions=actions[:, :H], deterministic=True)
        steps[f"no cache, {H}"] = lambda H=H: hand.dream(states["z"], a, H)
    return interleave(steps, f"cache, {HORIZONS[0]}", rounds, seconds=0.1, warmup=1)


def main() -> None:
    """Measures all rows and writes them."""
    args = options(__doc__, RESULT, rounds=15, seeded=True).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rows = {
        "training": training(False, args.rounds),
        "training with resets": training(True, args.rounds),
        "dreams": dreams(args.rounds),
    }
    for title, found in rows.items():
        show(title, found)
    last, first = HORIZONS[-1], HORIZONS[0]
    came: dict[str, object] = {"ratio": max(rows[title]["formula"]["ratio"] for title in list(rows)[:2])}  # type: ignore[type-var]
    for name, how in (("cache", "with a cache"), ("no cache", "without a cache")):
        slow, fast = (rows["dreams"][f"{name}, {H}"]["ms"] for H in (last, first))
        came[f"{last} over {first} {how}"] = round(slow / fast, 2)  # type: ignore[operator]
    print(f"predicted {PREDICTED}\ncame      {came}")
    head = {"benchmark": "causal", "time": "CPU time of one process", "seed": args.seed, "rounds": args.rounds}
    write_json(args.json, {**head, **machine(), "predicted": PREDICTED, "came": came, "rows": rows})


if __name__ == "__main__":
    main()
