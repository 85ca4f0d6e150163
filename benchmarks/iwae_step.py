"""One training step of an IWAE: what 50 samples cost beside 1, and beside hand-written PyTorch and Pixyz.

    python -m benchmarks.iwae_step [--rounds 20] [--json benchmarks/results/iwae_step.json]

Every contender has its own copy of the same networks (those of ``vae_step``), Adam (fused), and one thread.
``formula`` is ``-log(E(q, ratio(p * d, q), samples=K))``; ``compiled`` the same through ``torch.compile``. The samples
are a leading axis, so that the decoder runs once; Pixyz evaluates them one by one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import interleave, options, show
from benchmarks.vae_step import Loss, Nets, Sizes, pixyz_parts, training_step
from worldformula import Bernoulli, Normal, log, ratio
from worldformula import E as Expect
from worldformula.cards.run import machine, write_json

RESULT = Path(__file__).parent / "results" / "iwae_step.json"
ROWS = (Sizes(10, 16, batch=4), Sizes(10, 16, batch=128), Sizes(10, 400, batch=128))
MANY = 50


def by_hand(nets: Nets, sizes: Sizes, K: int) -> Loss:
    """Plain PyTorch, the samples on a leading axis."""
    half = 0.5 * math.log(2 * math.pi)

    def loss(x: Tensor) -> Tensor:
        loc, raw = nets.encoder(x).chunk(2, -1)
        scale = F.softplus(raw)
        noise = torch.randn(K, len(x), sizes.z)
        z = loc + scale * noise
        logits = nets.decoder(z)
        log_x = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        log_p = (-0.5 * z.square() - half).sum(-1)
        log_q = (-0.5 * noise.square() - scale.log() - half).sum(-1)
        return -((log_x + log_p - log_q).logsumexp(0) - math.log(K)).mean()

    return loss


def by_formula(nets: Nets, sizes: Sizes, K: int, compiled: bool = False) -> Loss:
    """worldformula, as it is or through ``torch.compile``."""
    prior = Normal("p(z)", shape=sizes.z)
    encode = Normal("q(z|x)", nets.encoder, shape=sizes.z)
    decode = Bernoulli("p(x|z)", nets.decoder, shape=sizes.pixels)
    loss = -log(Expect(encode, ratio(prior * decode, encode), samples=K)).mean()
    if compiled:
        loss.compile()
    return lambda x: loss(x=x).value


def by_pixyz(nets: Nets, sizes: Sizes, K: int) -> Loss:
    """Pixyz: the mean of K evaluations of the joint log-ratio; it has no log-mean-exp, so this is its ELBO with K."""
    from pixyz.losses import Expectation

    q, decode, prior = pixyz_parts(nets, sizes)
    p = decode * prior
    loss = -Expectation(q, p.log_prob() - q.log_prob(), sample_shape=[K]).mean()
    return lambda x: loss.eval({"x": x})


def contest(sizes: Sizes, rounds: int, seed: int) -> dict[str, dict[str, object]]:
    """All contenders on equal weights and data; ratios are to hand-written PyTorch with 50 samples."""
    torch.manual_seed(seed)
    nets = Nets(sizes)
    batches = [torch.rand(sizes.batch, sizes.pixels).bernoulli() for _ in range(8)]
    contenders: dict[str, Callable[[Nets], Loss]] = {
        f"hand, K {MANY}": lambda own: by_hand(own, sizes, MANY),
        "formula, K 1": lambda own: by_formula(own, sizes, 1),
        f"formula, K {MANY}": lambda own: by_formula(own, sizes, MANY),
        f"compiled, K {MANY}": lambda own: by_formula(own, sizes, MANY, compiled=True),
    }
    if find_spec("pixyz") is not None:
        contenders[f"pixyz, K {MANY}"] = lambda own: by_pixyz(own, sizes, MANY)
    steps = {}
    for name, build in contenders.items():
        own = copy.deepcopy(nets)
        steps[name] = training_step(build(own), own, cycle(batches))
    return interleave(steps, f"hand, K {MANY}", rounds, seconds=0.1)


def main() -> None:
    """Measures all rows and writes them."""
    args = options(__doc__, RESULT, rounds=20, seeded=True).parse_args()
    torch.set_num_threads(1)
    torch.distributions.Distribution.set_default_validate_args(False)
    rows = {}
    for sizes in ROWS:
        found = contest(sizes, args.rounds, args.seed)
        rows[str(sizes)] = found
        show(f"IWAE training step, {sizes}", found)
        many, one = (found[f"formula, K {k}"]["ms"] for k in (MANY, 1))
        print(f"  {MANY} samples cost {many / one:.2f} times what 1 costs")  # type: ignore[operator]
    head = {"benchmark": "iwae_step", "time": "CPU time of one process", "seed": args.seed, "rounds": args.rounds}
    write_json(args.json, {**head, **machine(), "rows": rows})


if __name__ == "__main__":
    main()
