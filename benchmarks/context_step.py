"""Loss and gradients of THICK's world on sequences: the formula beside the same networks called by hand, in one run.

    python -m benchmarks.context_step [--rounds 15] [--json benchmarks/results/context_step.json]

`hand` is time-batched as an expert writes it: the encoder before the loop, which holds u, c, h and z; both priors, all
heads and the share of open gates after it. Symbols of a key corridor, T = 50, B = 16, `c_rssm.tiny`, one thread.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import interleave, options, show
from worldformula.cards.run import machine, write_json
from worldformula.world import World
from worldformula.worlds import c_rssm

RESULT = Path(__file__).parent / "results" / "context_step.json"
B, T, CELLS, TILES, ACTIONS = 16, 50, 25, 7, 6
CONFIG = c_rssm.tiny()
G, K, D, C = CONFIG.groups, CONFIG.classes, CONFIG.deter, CONFIG.context


def sequences() -> dict[str, Tensor]:
    """Random symbols, actions, rewards, and a reset in the middle of every fourth sequence."""
    first = torch.zeros(B, T, dtype=torch.bool)
    first[:, 0] = first[::4, T // 2] = True
    seen = F.one_hot(torch.randint(TILES, (B, T, CELLS)), TILES).flatten(2).float()
    act = F.one_hot(torch.randint(ACTIONS, (B, T)), ACTIONS).float()
    return {"x": seen, "a": act, "r": torch.randn(B, T), "first": first}


def by_hand(world: World, data: dict[str, Tensor], noise: dict[str, Tensor]) -> Tensor:
    """The loss in plain PyTorch, of the world's own networks."""
    nets = dict(world.loss.named_children())
    x, a, r, keep = data["x"].flatten(0, 1), data["a"], data["r"].flatten(), (~data["first"]).float()
    e = nets["enc"](x).view(B, T, -1)
    eps = CONFIG.noise * noise["epsilon"]
    before = torch.cat((torch.zeros(B, 1, ACTIONS), a[:, :-1]), 1) * keep[..., None]
    c, h, z = torch.zeros(B, C), torch.zeros(B, D), torch.zeros(B, G, K)
    kept: list[tuple[Tensor, ...]] = []
    for t in range(T):
        k = keep[:, t, None]
        c, h, z_before = c * k, h * k, z * k[..., None]
        u = nets["f"](z_before, before[:, t])
        c, opened = nets["memory"](u, c, eps[:, t])
        h = nets["gru"](u, c, h)
        logits = nets["q_z_given_c_h_e"](c, h, e[:, t]).view(B, G, K)
        hard = F.one_hot((logits + noise["z"][:, t]).argmax(-1), K).float()
        share = logits.softmax(-1)
        z = hard + share - share.detach()
        kept.append((c, h, z, logits, z_before, opened))
    c_, h_, z_, logits, z_before, opened = (
        torch.stack(several, 1).flatten(0, 1) for several in zip(*kept, strict=True)
    )
    act = before.flatten(0, 1)
    ahead = nets["g"](z_before, act, c_)
    fine, coarse = nets["p_z_given_h_c"](h_, c_), nets["p_c_z_given_z_prev_g"](z_before, ahead)
    q = logits.log_softmax(-1)
    total = CONFIG.gates * opened.mean(-1)
    for prior in (fine, coarse):
        p = prior.view(-1, G, K).log_softmax(-1)
        q_, p_ = q.detach(), p.detach()
        total = total + CONFIG.balance * (q_.exp() * (q_ - p)).sum((-1, -2))
        total = total + (1 - CONFIG.balance) * (q.exp() * (q - p_)).sum((-1, -2))
    truth = x.view(-1, CELLS, TILES)
    for name, given in (("p_{}_given_h_z_c", (h_, z_, c_)), ("p_c_{}_given_z_c", (z_, c_))):
        said = nets[name.format("k")](*given).view(-1, CELLS, TILES).log_softmax(-1)
        total = total - (said * truth).sum((-1, -2))
        mean = nets[name.format("r")](*given)[:, 0]
        total = total + 0.5 * (mean - r) ** 2 + 0.5 * torch.log(torch.tensor(2 * torch.pi))
    return total.mean()


def main() -> None:
    """Compare, print, store."""
    asked = options(__doc__, RESULT, rounds=15).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = (CELLS * TILES,)
    world, data = c_rssm.build(CONFIG, {"near": shape}, ACTIONS, {"near": (TILES,) * CELLS}), sequences()
    noise = world.loss.noise(**data)
    mine, theirs = world.loss(**data, noise=noise).value.item(), by_hand(world, data, noise).item()
    if abs(mine - theirs) > 1e-4 * abs(theirs):
        raise SystemExit(f"the two losses differ: {mine} and {theirs}")
    weights = list(world.loss.parameters())

    def hand() -> object:
        return torch.autograd.grad(by_hand(world, data, world.loss.noise(**data)), weights)

    def formula() -> object:
        return torch.autograd.grad(world.loss(**data).value, weights)

    rows = interleave({"hand": hand, "formula": formula}, "hand", asked.rounds, seconds=0.5, warmup=2)
    title = f"C-RSSM loss and gradients, T {T}, B {B}"
    show(title, rows)
    found = {"benchmark": "context_step", "time": "CPU time of one process", "seed": 0, "rounds": asked.rounds}
    write_json(asked.json, {**found, **machine(), "rows": {title: rows}})


if __name__ == "__main__":
    main()
