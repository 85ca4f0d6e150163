"""One training step of a VAE: the formula beside hand-written PyTorch, Pixyz and Pyro, in the same run.

    python -m benchmarks.vae_step [--rounds 30] [--json benchmarks/results/vae_step.json]

Every contender has its own copy of the same networks (x - h - 2z, z - h - x, ReLU) and the same optimiser (Adam,
fused), draws its own noise, and runs on one thread. The peers run with the validation of torch.distributions off, which
is not their default but their best. The last row has so little arithmetic that it shows the library's overhead alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.handwritten import vae_loss
from benchmarks.timing import interleave, options, show
from worldformula import KL, Bernoulli, E, Normal, log
from worldformula.cards.run import machine, write_json

RESULT = Path(__file__).parent / "results" / "vae_step.json"


@dataclass(frozen=True)
class Sizes:
    """z: latent width. hidden: units of the one hidden layer of each network. batch: rows. pixels: width of x."""

    z: int
    hidden: int
    batch: int = 128
    pixels: int = 784

    def __str__(self) -> str:
        return f"z {self.z}, h {self.hidden}, batch {self.batch}"


ROWS = (Sizes(10, 400), Sizes(30, 400), Sizes(10, 2000), Sizes(30, 2000), Sizes(10, 16, batch=4))


class Nets(nn.Module):
    """The two networks that every contender uses."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        x, h, z = sizes.pixels, sizes.hidden, sizes.z
        self.encoder = nn.Sequential(nn.Linear(x, h), nn.ReLU(), nn.Linear(h, 2 * z))
        self.decoder = nn.Sequential(nn.Linear(z, h), nn.ReLU(), nn.Linear(h, x))


Loss = Callable[[Tensor], Tensor]


def by_hand(nets: Nets, sizes: Sizes) -> Loss:
    """Plain PyTorch."""
    return lambda x: vae_loss(nets.encoder, nets.decoder, x, torch.randn(len(x), sizes.z))


def by_formula(nets: Nets, sizes: Sizes) -> Loss:
    """worldformula."""
    prior = Normal("p(z)", shape=sizes.z)
    encode = Normal("q(z|x)", nets.encoder)
    decode = Bernoulli("p(x|z)", nets.decoder)
    loss = (KL(encode, prior) - E(encode, log(decode))).mean()
    return lambda x: loss(x=x).value


def pixyz_parts(nets: Nets, sizes: Sizes) -> tuple[Any, Any, Any]:
    """q(z|x), p(x|z) and p(z) as Pixyz writes them, around these networks."""
    import pixyz.distributions as dist

    class Encoder(dist.Normal):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(var=["z"], cond_var=["x"], name="q")
            self.net = nets.encoder

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            loc, raw = self.net(x).chunk(2, -1)
            return {"loc": loc, "scale": F.softplus(raw)}

    class Decoder(dist.Bernoulli):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(var=["x"], cond_var=["z"], name="p")
            self.net = nets.decoder

        def forward(self, z: Tensor) -> dict[str, Tensor]:
            return {"probs": self.net(z).sigmoid()}

    prior = dist.Normal(loc=torch.tensor(0.0), scale=torch.tensor(1.0), var=["z"], features_shape=[sizes.z], name="p")
    return Encoder(), Decoder(), prior


def by_pixyz(nets: Nets, sizes: Sizes) -> Loss:
    """Pixyz: the README's VAE, evaluated as its Model does."""
    from pixyz.losses import Expectation, KullbackLeibler

    q, p, prior = pixyz_parts(nets, sizes)
    loss = (KullbackLeibler(q, prior) - Expectation(q, p.log_prob())).mean()
    return lambda x: loss.eval({"x": x})


def by_pyro(nets: Nets, sizes: Sizes) -> Loss:
    """Pyro: the closed KL (TraceMeanField_ELBO), as a differentiable loss so that the optimiser is the same."""
    import pyro
    import pyro.distributions as dist
    from pyro.infer import TraceMeanField_ELBO

    pyro.enable_validation(False)

    def model(x: Tensor) -> None:
        with pyro.plate("batch", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), sizes.z), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=nets.decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("batch", len(x)):
            loc, raw = nets.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, F.softplus(raw)).to_event(1))

    elbo = TraceMeanField_ELBO()
    return lambda x: elbo.differentiable_loss(model, guide, x) / len(x)


CONTENDERS = {"hand": by_hand, "worldformula": by_formula, "pixyz": by_pixyz, "pyro": by_pyro}
PACKAGES = {"pixyz": "pixyz", "pyro": "pyro"}


def training_step(loss: Callable[..., Tensor], nets: nn.Module, batches: Iterator[Tensor]) -> Callable[[], None]:
    """Loss, gradients, update; the batch is a new tensor each time, as from a loader."""
    optimiser = torch.optim.Adam(nets.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        value = loss(next(batches).clone())
        optimiser.zero_grad()
        value.backward()
        optimiser.step()

    return step


def contest(sizes: Sizes, rounds: int, seed: int) -> dict[str, dict[str, object]]:
    """All contenders that are installed, on equal weights and data."""
    torch.manual_seed(seed)
    nets = Nets(sizes)
    batches = [torch.rand(sizes.batch, sizes.pixels).bernoulli() for _ in range(8)]
    steps = {}
    for name, build in CONTENDERS.items():
        if find_spec(PACKAGES.get(name, "torch")) is None:
            continue
        own = copy.deepcopy(nets)
        steps[name] = training_step(build(own, sizes), own, cycle(batches))
    return interleave(steps, "hand", rounds, seconds=0.15 if sizes.hidden > 1000 else 0.05)


def main() -> None:
    """Measures all rows and writes them."""
    args = options(__doc__, RESULT, rounds=30, seeded=True).parse_args()
    torch.set_num_threads(1)
    torch.distributions.Distribution.set_default_validate_args(False)
    rows = {}
    for sizes in ROWS:
        rows[str(sizes)] = contest(sizes, args.rounds, args.seed)
        show(f"VAE training step, {sizes}", rows[str(sizes)])
    head = {"benchmark": "vae_step", "time": "CPU time of one process", "seed": args.seed, "rounds": args.rounds}
    write_json(args.json, {**head, **machine(), "rows": rows})


if __name__ == "__main__":
    main()
