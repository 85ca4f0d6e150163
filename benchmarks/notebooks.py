"""The models of Pixyz's notebooks, trained by both libraries for the same number of updates: who ends lower?

    python -m benchmarks.notebooks [--data digits] [--seeds 3] [--json benchmarks/results/notebooks.json]

Both start from the same weights and see the same batches (Adam 1e-3, batch 128; their noise is their own), and both are
measured by one function: the formula's own value on the test images, mean of ten draws, in nats. A column of Pixyz is
there where Pixyz is installed. ``--data mnist`` (local files) has the notebooks' sizes and prints their numbers beside,
those of the examples divided by the 1.0112 by which they overcount the last batch; digits of 8 x 8 have none.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.temporal import pixyz_bernoulli, pixyz_normal
from worldformula import KL, Bernoulli, Deterministic, E, Expression, Normal, OneHot, PoE, Sum, log
from worldformula.cards.run import machine, write_json
from worldformula.data import load

RESULT = Path(__file__).parent / "results" / "notebooks.json"
BATCH, DRAWS, CLASSES = 128, 10, 10

Batch = Mapping[str, Tensor]
Loss = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Sizes:
    """Pixels of a side, latents, hidden units, epochs."""

    side: int
    z: int
    hidden: int
    epochs: int

    @property
    def pixels(self) -> int:
        """Of an image."""
        return self.side**2


SIZES = {"digits": Sizes(8, 16, 128, 60), "mnist": Sizes(28, 64, 512, 10)}


class Net(nn.Module):
    """Two hidden layers on the concatenation of the inputs."""

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        """In the order of the factor."""
        return self.layers(torch.cat(inputs, -1))


class BiGRU(nn.Module):
    """The rows [B, T, X] to summaries of both directions [B, T, 2 H]."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(inputs, width, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        """One output per row."""
        return self.rnn(x)[0]


# ----------------------------------------------------------------------------- a model: networks, formula, Pixyz's loss


def vae(s: Sizes) -> tuple[dict[str, nn.Module], Callable[[nn.ModuleDict], Expression]]:
    """KL[q(z|x) ‖ p(z)] − E_q log p(x|z)."""
    nets = {"q": Net(s.pixels, 2 * s.z, s.hidden), "p": Net(s.z, s.pixels, s.hidden)}

    def formula(n: nn.ModuleDict) -> Expression:
        prior, q = Normal("p(z)", shape=s.z), Normal("q(z|x)", n["q"], shape=s.z)
        return (KL(q, prior) - E(q, log(Bernoulli("p(x|z)", n["p"], shape=s.pixels)))).mean()

    return nets, formula


def vae_by_pixyz(n: nn.ModuleDict, s: Sizes) -> Any:
    """The same."""
    from pixyz.losses import KullbackLeibler

    q, p = pixyz_normal(n["q"], "z", ["x"], "q"), pixyz_bernoulli(n["p"], "x", ["z"])
    return (KullbackLeibler(q, standard("z", s.z)) - p.log_prob().expectation(q)).mean()


def cvae(s: Sizes) -> tuple[dict[str, nn.Module], Callable[[nn.ModuleDict], Expression]]:
    """The label is given to both."""
    nets = {"q": Net(s.pixels + CLASSES, 2 * s.z, s.hidden), "p": Net(s.z + CLASSES, s.pixels, s.hidden)}

    def formula(n: nn.ModuleDict) -> Expression:
        prior, q = Normal("p(z)", shape=s.z), Normal("q(z|x,y)", n["q"], shape=s.z)
        return (KL(q, prior) - E(q, log(Bernoulli("p(x|z,y)", n["p"], shape=s.pixels)))).mean()

    return nets, formula


def cvae_by_pixyz(n: nn.ModuleDict, s: Sizes) -> Any:
    """The same."""
    from pixyz.losses import KullbackLeibler

    q, p = pixyz_normal(n["q"], "z", ["x", "y"], "q"), pixyz_bernoulli(n["p"], "x", ["z", "y"])
    return (KullbackLeibler(q, standard("z", s.z)) - p.log_prob().expectation(q)).mean()


def hierarchical(s: Sizes) -> tuple[dict[str, nn.Module], Callable[[nn.ModuleDict], Expression]]:
    """q(a|x) q(z|x) against p(x|a) p(a|z) p(z), by sampling."""
    nets = {"qa": Net(s.pixels, 2 * s.z, s.hidden), "qz": Net(s.pixels, s.z, s.hidden)}
    nets |= {"pa": Net(s.z // 2, 2 * s.z, s.hidden), "px": Net(s.z, s.pixels, s.hidden)}

    def formula(n: nn.ModuleDict) -> Expression:
        q = Normal("q(a|x)", n["qa"], shape=s.z) * Normal("q(z|x)", n["qz"], shape=s.z // 2)
        p = Normal("p(z)", shape=s.z // 2) * Normal("p(a|z)", n["pa"], shape=s.z)
        return E(q, log(q) - log(p * Bernoulli("p(x|a)", n["px"], shape=s.pixels))).mean()

    return nets, formula


def hierarchical_by_pixyz(n: nn.ModuleDict, s: Sizes) -> Any:
    """The same."""
    qa, qz = pixyz_normal(n["qa"], "a", ["x"], "q"), pixyz_normal(n["qz"], "z", ["x"], "q")
    pa, px = pixyz_normal(n["pa"], "a", ["z"], "p"), pixyz_bernoulli(n["px"], "x", ["a"])
    q, p = qa * qz, px * pa * standard("z", s.z // 2)
    return (q.log_prob() - p.log_prob()).expectation(q).mean()


def jmvae(s: Sizes) -> tuple[dict[str, nn.Module], Callable[[nn.ModuleDict], Expression]]:
    """Image and label from one z; the encoders of one alone stay near that of both."""
    nets = {"q": Net(s.pixels + CLASSES, 2 * s.z, s.hidden), "qx": Net(s.pixels, 2 * s.z, s.hidden)}
    nets |= {"qy": Net(CLASSES, 2 * s.z, s.hidden), "px": Net(s.z, s.pixels, s.hidden)}
    nets |= {"py": Net(s.z, CLASSES, s.hidden)}

    def formula(n: nn.ModuleDict) -> Expression:
        prior, q = Normal("p(z)", shape=s.z), Normal("q(z|x,y)", n["q"], shape=s.z)
        ends = Normal("q_x(z|x)", n["qx"], shape=s.z), Normal("q_y(z|y)", n["qy"], shape=s.z)
        p = Bernoulli("p(x|z)", n["px"], shape=s.pixels) * OneHot("p(y|z)", n["py"], shape=CLASSES)
        return (KL(q, prior) + KL(q, ends[0]) + KL(q, ends[1]) - E(q, log(p))).mean()

    return nets, formula


def jmvae_by_pixyz(n: nn.ModuleDict, s: Sizes) -> Any:
    """The same."""
    from pixyz.losses import KullbackLeibler

    q = pixyz_normal(n["q"], "z", ["x", "y"], "q")
    ends = pixyz_normal(n["qx"], "z", ["x"], "q"), pixyz_normal(n["qy"], "z", ["y"], "q")
    p = pixyz_bernoulli(n["px"], "x", ["z"]) * pixyz_label(n["py"])
    divergences = KullbackLeibler(q, standard("z", s.z)) + KullbackLeibler(q, ends[0]) + KullbackLeibler(q, ends[1])
    return (divergences - p.log_prob().expectation(q)).mean()


def mvae(s: Sizes) -> tuple[dict[str, nn.Module], Callable[[nn.ModuleDict], Expression]]:
    """Three bounds: image and label by a product of experts, image alone, label alone."""
    nets = {"qx": Net(s.pixels, 2 * s.z, s.hidden), "qy": Net(CLASSES, 2 * s.z, s.hidden)}
    nets |= {"px": Net(s.z, s.pixels, s.hidden), "py": Net(s.z, CLASSES, s.hidden)}

    def formula(n: nn.ModuleDict) -> Expression:
        prior = Normal("p(z)", shape=s.z)
        x, y = Normal("e(z|x)", n["qx"], shape=s.z), Normal("e(z|y)", n["qy"], shape=s.z)
        px, py = Bernoulli("p(x|z)", n["px"], shape=s.pixels), OneHot("p(y|z)", n["py"], shape=CLASSES)
        both, image, label = PoE([prior, x, y], "q(z|x,y)"), PoE([prior, x], "q(z|x)"), PoE([prior, y], "q(z|y)")
        alone = KL(image, prior) - E(image, log(px)) + KL(label, prior) - E(label, log(py))
        return (KL(both, prior) - E(both, log(px * py)) + alone).mean()

    return nets, formula


def mvae_by_pixyz(n: nn.ModuleDict, s: Sizes) -> Any:
    """The same; its product has the prior as an expert always."""
    from pixyz.distributions import ProductOfNormal
    from pixyz.losses import KullbackLeibler

    x, y = pixyz_normal(n["qx"], "z", ["x"], "q"), pixyz_normal(n["qy"], "z", ["y"], "q")
    px, py = pixyz_bernoulli(n["px"], "x", ["z"]), pixyz_label(n["py"])
    prior, total = standard("z", s.z), None
    for experts, p in (([x, y], px * py), ([x], px), ([y], py)):
        q = ProductOfNormal(experts, name="q")
        bound = KullbackLeibler(q, prior) - p.log_prob().expectation(q)
        total = bound if total is None else total + bound
    assert total is not None
    return total.mean()


def dmm(s: Sizes) -> tuple[dict[str, nn.Module], Callable[[nn.ModuleDict], Expression]]:
    """Rows as time."""
    width, z = 32, 16
    nets: dict[str, nn.Module] = {"rnn": BiGRU(s.side, width), "q": Net(2 * width + z, 2 * z, width)}
    nets |= {"prior": Net(z, 2 * z, width), "p": Net(z, s.side, width)}

    def formula(n: nn.ModuleDict) -> Expression:
        summary = Deterministic("h_t = rnn(x_{1:T})", n["rnn"])
        q, prior = Normal("q(z_t|h_t,z_{t-1})", n["q"], shape=z), Normal("p(z_t|z_{t-1})", n["prior"], shape=z)
        decode = Bernoulli("p(x_t|z_t)", n["p"], shape=s.side)
        return Sum("t", E(summary * q, KL(q, prior) - log(decode))).mean()

    return nets, formula


def dmm_by_pixyz(n: nn.ModuleDict, _: Sizes) -> Any:
    """The same; h_t is given."""
    from pixyz.losses import IterativeLoss, KullbackLeibler

    q = pixyz_normal(n["q"], "z", ["h", "z_prev"], "q")
    prior, p = pixyz_normal(n["prior"], "z", ["z_prev"], "p"), pixyz_bernoulli(n["p"], "x", ["z"])
    step = KullbackLeibler(q, prior) - p.log_prob().expectation(q)
    return IterativeLoss(step.expectation(q).mean(), series_var=["x", "h"], update_value={"z": "z_prev"})


def standard(variable: str, size: int) -> Any:
    """N(0, I) of Pixyz."""
    from pixyz.distributions import Normal as Peer

    return Peer(var=[variable], loc=torch.zeros(size), scale=torch.ones(size), features_shape=[size], name="p")


def pixyz_label(net: nn.Module) -> Any:
    """A categorical label of Pixyz over one of the shared networks."""
    from pixyz.distributions import Categorical as Peer

    class Label(Peer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(var=["y"], cond_var=["z"], name="p")

        def forward(self, z: Tensor) -> dict[str, Tensor]:
            return {"probs": net(z).softmax(-1)}

    return Label()


# Model, its Pixyz twin, the number of its notebook on MNIST as a mean over images (Pixyz 0.3 examples; pixyzoo's DMM).
MODELS = {
    "vae": (vae, vae_by_pixyz, 104.00 / 1.0112),
    "cvae": (cvae, cvae_by_pixyz, 99.09 / 1.0112),
    "hierarchical": (hierarchical, hierarchical_by_pixyz, 105.69 / 1.0112),
    "jmvae": (jmvae, jmvae_by_pixyz, 122.13 / 1.0112),
    "mvae": (mvae, mvae_by_pixyz, None),  # its notebook trains ten times longer: 221.15 after 100 epochs
    "dmm": (dmm, dmm_by_pixyz, 183.39),
}


# ------------------------------------------------------------------------------------------------------------- training


def inputs(name: str, formula: Expression, rows: Batch, side: int) -> dict[str, Tensor]:
    """What a formula reads of a batch; a DMM reads rows."""
    x = rows["x"].unflatten(-1, (side, side)) if name == "dmm" else rows["x"]
    return {key: value for key, value in {"x": x, "y": rows["y"]}.items() if key in formula.program.inputs}


def ours(name: str, formula: Expression, side: int) -> Loss:
    """The formula's value."""
    return lambda rows: formula(**inputs(name, formula, rows, side)).value


def theirs(name: str, loss: Any, n: nn.ModuleDict, side: int) -> Loss:
    """Pixyz's loss on the same batch; time is its first axis."""

    def run(rows: Batch) -> Tensor:
        if name != "dmm":
            return loss.eval({key: rows[key] for key in ("x", "y") if key in loss.input_var})
        x = rows["x"].unflatten(-1, (side, side))
        series = {"x": x.transpose(0, 1), "h": n["rnn"](x).transpose(0, 1)}
        return loss.eval({**series, "z_prev": x.new_zeros(len(x), 16)})

    return run


def trained(nets: nn.ModuleDict, loss: Loss, data: Batch, epochs: int, seed: int) -> float:
    """Train in place; the CPU seconds that it took."""
    optimiser = torch.optim.Adam(nets.parameters(), lr=1e-3)
    order = torch.Generator().manual_seed(seed)
    begin = time.process_time()
    for _ in range(epochs):
        for rows in torch.randperm(len(data["x"]), generator=order).split(BATCH):
            optimiser.zero_grad()
            loss({key: value[rows] for key, value in data.items()}).backward()
            optimiser.step()
    return time.process_time() - begin


@torch.no_grad()
def score(name: str, formula: Expression, data: Batch, side: int) -> float:
    """Nats per test image: the formula's value, mean of ten draws."""
    values = [formula(**inputs(name, formula, data, side), seed=draw).value for draw in range(DRAWS)]
    return float(torch.stack(values).mean())


def compare(name: str, data: tuple[Batch, Batch], sizes: Sizes, seed: int) -> dict[str, float]:
    """One model, one seed: ``untrained``, ``worldformula`` and ``pixyz`` in nats, and seconds of each."""
    build, twin, _ = MODELS[name]
    torch.manual_seed(seed)
    parts, formula = build(sizes)
    nets = nn.ModuleDict(parts)
    found = {"untrained": score(name, formula(nets), data[1], sizes.side)}
    for who in ("worldformula", *(["pixyz"] if find_spec("pixyz") else [])):
        torch.manual_seed(1000 + seed)
        own = copy.deepcopy(nets)
        asked = formula(own)
        loss = (
            ours(name, asked, sizes.side) if who == "worldformula" else theirs(name, twin(own, sizes), own, sizes.side)
        )
        seconds = trained(own, loss, data[0], sizes.epochs, seed)
        found |= {who: score(name, asked, data[1], sizes.side), f"{who}_seconds": round(seconds, 2)}
    return found


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(SIZES), default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.distributions.Distribution.set_default_validate_args(False)
    source, sizes, rows = load(args.data), SIZES[args.data], {}
    train, test = (
        {"x": torch.from_numpy(part["x"]), "y": F.one_hot(torch.from_numpy(part["y"]), CLASSES).float()}
        for part in (source.train, source.test)
    )
    for name in args.models:
        runs = [compare(name, (train, test), sizes, seed) for seed in range(args.seeds)]
        rows[name] = {key: [round(run[key], 3) for run in runs] for key in runs[0]}
        published = MODELS[name][2] if args.data == "mnist" else None
        rows[name]["published"] = None if published is None else round(published, 2)
        means = ", ".join(f"{key} {statistics.mean(run[key] for run in runs):.2f}" for key in runs[0])
        print(f"{name}: {means}" + ("" if published is None else f"; notebook {published:.2f}"), flush=True)
    head = {"benchmark": "notebooks", "data": args.data, "unit": "nats per test image", "epochs": sizes.epochs}
    write_json(args.json, {**head, "seeds": list(range(args.seeds)), **machine(), "rows": rows})


if __name__ == "__main__":
    main()
