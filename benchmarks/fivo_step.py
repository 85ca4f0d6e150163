"""One training step of a VRNN by K particles through time, beside hand-written PyTorch in the same run.

    python -m benchmarks.fivo_step [--rounds 15] [--json benchmarks/results/fivo_step.json]

The world is ``worldformula.worlds.vrnn``, preset tiny: ``fivo`` resamples (z, h) systematically before every step,
``iwae`` is the bound of whole trajectories. By hand the same networks run in the same order on ``[K·B, …]``, those of x
before the loop; of IWAE, prior and decoder on all steps behind it. Every contender has its own copy of the weights,
Adam (fused), and one thread; before anything is timed, both must give the same value with the same noise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import interleave, options, show
from benchmarks.vae_step import training_step
from worldformula.cards.run import machine, write_json
from worldformula.world import World
from worldformula.worlds.vrnn import build, tiny

RESULT = Path(__file__).parent / "results" / "fivo_step.json"
ROWS = ((16, 4, 20), (32, 8, 50))  # rows of the batch, particles, steps
Loss = Callable[..., Tensor]
HALF = 0.5 * math.log(2 * math.pi)


def gauss(params: dict[str, Tensor], z: Tensor) -> Tensor:
    """log N(z; loc, scale²), summed over the last axis."""
    loc, scale = params["loc"], params["scale"]
    return (-0.5 * ((z - loc) / scale).square() - scale.log() - HALF).sum(-1)


def by_hand(world: World, K: int, kind: str) -> Loss:
    """Plain PyTorch: the particles are rows, of which ``[K·B]`` run through each network."""
    prior, _, decode, _, core = (f.net for f in world.prior.factors[:5])
    phi_x, post, phi_z = (f.net for f in world.posterior.factors[:3])

    def loss(x: Tensor, z_noise: Tensor | None = None, u: Tensor | None = None) -> Tensor:
        B, T = x.shape[:2]
        noise = torch.randn(K, B, T, 8) if z_noise is None else z_noise
        u = torch.rand(B, T) if u is None else u
        noise = noise.flatten(0, 1)
        seen = phi_x(x.flatten(0, 1)).view(B, T, -1).repeat(K, 1, 1)
        rows, own = x.repeat(K, 1, 1), torch.arange(K)[:, None]
        h, weights, total = x.new_zeros(K * B, 64), x.new_zeros(K, B), x.new_zeros(B)
        past, drawn, features, proposals = [], [], [], []
        for t in range(T):
            if kind == "fivo" and t:
                sums = weights.detach().softmax(0).cumsum(0)
                points = (own + u[:, t]) / K
                found = torch.searchsorted(sums.T.contiguous(), points.T.contiguous(), right=True).T.clamp(max=K - 1)
                h = h[(found * B + torch.arange(B)).flatten()]
            q = post(seen[:, t], h)
            z = q["loc"] + q["scale"] * noise[:, t]
            made = phi_z(z)
            if kind == "fivo":
                logits = decode(made, h)
                log_x = -F.binary_cross_entropy_with_logits(logits, rows[:, t], reduction="none").sum(-1)
                weights = (log_x + gauss(prior(h), z) - gauss(q, z)).view(K, B)
                total = total + weights.logsumexp(0) - math.log(K)
            else:
                past.append(h)
                drawn.append(z)
                features.append(made)
                proposals.append(gauss(q, z))
            h = core(seen[:, t], made, h)
        if kind == "fivo":
            return -total.mean()
        before, z = torch.stack(past, 1).flatten(0, 1), torch.stack(drawn, 1).flatten(0, 1)
        logits = decode(torch.stack(features, 1).flatten(0, 1), before)
        log_x = -F.binary_cross_entropy_with_logits(logits, rows.flatten(0, 1), reduction="none").sum(-1)
        whole = (log_x + gauss(prior(before), z)).view(K, B, T) - torch.stack(proposals, 1).view(K, B, T)
        return -(whole.sum(-1).logsumexp(0) - math.log(K)).mean()

    return loss


def by_formula(world: World) -> Loss:
    """worldformula."""

    def loss(x: Tensor, z_noise: Tensor | None = None, u: Tensor | None = None) -> Tensor:
        noise = {} if z_noise is None else {"z": z_noise} | ({"resampling": u} if u is not None else {})
        value: Tensor = world.loss(x=x, first=torch.zeros(x.shape[:2], dtype=torch.bool), noise=noise or None).value
        return value

    return loss


def contest(B: int, K: int, T: int, rounds: int, seed: int) -> dict[str, dict[str, Any]]:
    """Both kinds of both makers on equal weights and data; ratios are to FIVO by hand."""
    torch.manual_seed(seed)
    batches = [torch.rand(B, T, 8).bernoulli() for _ in range(4)]
    noise, u = torch.randn(K, B, T, 8), torch.rand(B, T)
    steps = {}
    for kind in ("fivo", "iwae"):
        torch.manual_seed(seed)
        world = build(replace(tiny(), bound=kind, samples=K))  # type: ignore[arg-type]
        own = copy.deepcopy(world)
        hand, formula = by_hand(own, K, kind), by_formula(world)
        given = (batches[0], noise, u if kind == "fivo" else None)
        torch.testing.assert_close(formula(*given), hand(*given), rtol=1e-4, atol=1e-4)
        steps[f"hand, {kind}"] = training_step(hand, own, cycle(batches))
        steps[f"formula, {kind}"] = training_step(formula, world, cycle(batches))
    return interleave(steps, "hand, fivo", rounds, seconds=0.3, warmup=2)


def main() -> None:
    """Measures all rows and writes them."""
    args = options(__doc__, RESULT, rounds=15, seeded=True).parse_args()
    torch.set_num_threads(1)
    rows = {}
    for B, K, T in ROWS:
        found = contest(B, K, T, args.rounds, args.seed)
        for kind in ("fivo", "iwae"):
            found[f"formula, {kind}"]["beside hand"] = round(
                found[f"formula, {kind}"]["ms"] / found[f"hand, {kind}"]["ms"], 3
            )
        rows[f"batch {B}, {K} particles, {T} steps"] = found
        show(f"VRNN training step, batch {B}, {K} particles, {T} steps", found)
    head = {"benchmark": "fivo_step", "time": "CPU time of one process", "seed": args.seed, "rounds": args.rounds}
    write_json(args.json, {**head, **machine(), "rows": rows})


if __name__ == "__main__":
    main()
