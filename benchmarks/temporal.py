"""Loss and gradients of models through time: formulas beside hand-written time-batched PyTorch, in the same run.

    python -m benchmarks.temporal [--rounds 15] [--json benchmarks/results/temporal.json]

The formulas have subscripts alone; the library decides what runs before, in and behind the loop. `hand` is what an
expert writes (`handwritten_temporal.py`, and for the RSSM `handwritten.py`). DMM and VRNN run beside Pixyz too, whose
IterativeLoss evaluates everything step by step, where it is installed, with the validation of torch.distributions off.
It cannot run the GRU over the whole series that gives a DMM its h_t, half of the time of that model, so there is a row
without it. All have equal networks, draw their own noise, and run on one thread.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import rssm_step
from benchmarks.handwritten_temporal import dmm_loss, td_vae_loss, vrnn_loss
from benchmarks.timing import interleave, options, show
from worldformula import KL, Bernoulli, Deterministic, E, Expression, Mean, Normal, OneHot, Sum, log
from worldformula.cards.run import machine, write_json

RESULT = Path(__file__).parent / "results" / "temporal.json"
B, T, X, Z, H, HIDDEN = 32, 28, 28, 16, 64, 64  # rows of an MNIST digit as time
JUMP, FRAME = 4, 96  # TD-VAE: rolling digits

Loss = Callable[[], Tensor]


class Concat(nn.Module):
    """An MLP with one hidden layer on the concatenation of its inputs [N, ...]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))

    def forward(self, *inputs: Tensor) -> Tensor:
        """In the order of the factor."""
        return self.layers(torch.cat(inputs, -1) if len(inputs) > 1 else inputs[0])


class BiGRU(nn.Module):
    """The whole series [B, T, X] to summaries of both directions [B, T, 2 H]."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(X, H, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        """One output per step."""
        return self.rnn(x)[0]


class Core(nn.Module):
    """A GRU cell: the state is the argument at `place`, the others are its input."""

    def __init__(self, inputs: int, place: int) -> None:
        super().__init__()
        self.cell, self.place = nn.GRUCell(inputs, H), place

    def forward(self, *given: Tensor) -> Tensor:
        """To the new state [N, H]."""
        rest = [v for i, v in enumerate(given) if i != self.place % len(given)]
        return self.cell(torch.cat(rest, -1) if len(rest) > 1 else rest[0], given[self.place])


# -------------------------------------------------------------------------------------------------------------- models


def dmm_networks() -> nn.ModuleDict:
    """Of a deep Markov model."""
    return nn.ModuleDict(
        {"encode": BiGRU(), "posterior": Concat(2 * H + Z, 2 * Z), "prior": Concat(Z, 2 * Z), "decoder": Concat(Z, X)}
    )


def dmm(nets: nn.ModuleDict, *, summarised: bool = False) -> Expression:
    """DMM with subscripts; ``summarised``: h_t are data, as Pixyz's IterativeLoss must be given them."""
    encode = Deterministic("h_t = rnn(x_{1:T})", nets["encode"])
    post = Normal("q(z_t|h_t,z_{t-1})", nets["posterior"], shape=Z)
    prior, decode = Normal("p(z_t|z_{t-1})", nets["prior"], shape=Z), Bernoulli("p(x_t|z_t)", nets["decoder"], shape=X)
    return Sum("t", E(post if summarised else encode * post, KL(post, prior) - log(decode))).mean()


def vrnn_networks() -> nn.ModuleDict:
    """Of a VRNN."""
    nets = {"phi_x": Concat(X, H), "phi_z": Concat(Z, H), "posterior": Concat(2 * H, 2 * Z), "prior": Concat(H, 2 * Z)}
    return nn.ModuleDict(nets | {"decoder": Concat(2 * H, X), "core": Core(2 * H, -1)})


def vrnn(nets: nn.ModuleDict) -> Expression:
    """VRNN with subscripts."""
    phi_x, phi_z = Deterministic("e_t = phi_x(x_t)", nets["phi_x"]), Deterministic("g_t = phi_z(z_t)", nets["phi_z"])
    post = Normal("q(z_t|e_t,h_{t-1})", nets["posterior"], shape=Z)
    prior = Normal("p(z_t|h_{t-1})", nets["prior"], shape=Z)
    decode = Bernoulli("p(x_t|g_t,h_{t-1})", nets["decoder"], shape=X)
    core = Deterministic("h_t = f(e_t, g_t, h_{t-1})", nets["core"], shape=H)
    return Sum("t", E(phi_x * post * phi_z * core, KL(post, prior) - log(decode))).mean()


def td_vae_networks() -> nn.ModuleDict:
    """Of a TD-VAE."""
    nets = {"enc": Concat(FRAME, H), "core": Core(H, 0), "belief": Concat(H, 2 * Z), "decoder": Concat(Z, FRAME)}
    return nn.ModuleDict(
        nets | {"smooth": Concat(Z + 2 * H + JUMP, 2 * Z), "jump": Concat(Z + JUMP, 2 * Z)}
    )  # fmt: skip


def pick(jump: Tensor, *beliefs: Tensor) -> Tensor:
    """The belief [N, H] that a one-hot jump leads back to, of those that are given, the latest first."""
    return (torch.stack(beliefs, 1) * jump.unsqueeze(-1)).sum(1)


def td_vae(nets: nn.ModuleDict) -> Expression:
    """TD-VAE with subscripts, one latent layer."""
    embed = Deterministic("e_t = enc(x_t)", nets["enc"])
    core = Deterministic("b_t = f(b_{t-1}, e_t)", nets["core"], shape=H)
    before = late = Deterministic("b_{1,t} = late(b_{t-1})", nn.Identity(), shape=H)
    for k in range(2, JUMP + 1):
        before = before * late.rename(b_1=f"b_{k}", b_prev=f"b_{k - 1}")
    jump = OneHot(r"p(\delta_t)", shape=JUMP)
    beliefs = ", ".join(f"b_{{{k},t}}" for k in range(1, JUMP + 1))
    past = Deterministic(rf"b'_t = pick(\delta_t, {beliefs})", pick, shape=H)
    now = Normal("p_B(z_t|b_t)", nets["belief"], shape=Z)
    smooth = Normal(r"q(z'_t|z_t,b'_t,b_t,\delta_t)", nets["smooth"], shape=Z)
    step = Normal(r"p_T(z_t|z'_t,\delta_t)", nets["jump"], shape=Z)
    decode = Bernoulli("p(x_t|z_t)", nets["decoder"], shape=FRAME)
    inner = KL(smooth, now.rename(z="z'", b="b'")) + log(now) - log(step) - log(decode)
    return Mean("t", E(embed * core * before * jump * past * now, E(smooth, inner)), burn_in=JUMP).mean()


def gumbel(*shape: int) -> Tensor:
    """Gumbel noise."""
    return -torch.log(-torch.log(torch.rand(shape).clamp_min(torch.finfo(torch.float32).tiny)))


# ---------------------------------------------------------------------------------------------------------- contenders


def by_formula(formula: Expression, **data: Tensor) -> Loss:
    """worldformula."""
    return lambda: formula(**data).value


def dmm_by_pixyz(nets: nn.ModuleDict, x: Tensor, h: Tensor | None = None) -> Loss:
    """Pixyz: as its zoo writes a DMM, the summaries ``h`` computed beforehand; time is the first axis."""
    from pixyz.losses import IterativeLoss, KullbackLeibler

    q = pixyz_normal(nets["posterior"], "z", ["h", "z_prev"], "q")
    prior = pixyz_normal(nets["prior"], "z", ["z_prev"], "p")
    decode = pixyz_bernoulli(nets["decoder"], "x", ["z"])
    step = KullbackLeibler(q, prior) - decode.log_prob().expectation(q)
    # The carry z is drawn inside an expectation around the whole step, as the zoo's step_loss.expectation(...) does.
    loss = IterativeLoss(step.expectation(q).mean(), series_var=["x", "h"], update_value={"z": "z_prev"})

    def run() -> Tensor:
        series = {"x": x.transpose(0, 1), "h": (nets["encode"](x) if h is None else h).transpose(0, 1)}
        return loss.eval({**series, "z_prev": x.new_zeros(len(x), Z)})

    return run


def vrnn_by_pixyz(nets: nn.ModuleDict, x: Tensor) -> Loss:
    """Pixyz: as its zoo writes a VRNN."""
    from pixyz.distributions import Deterministic as Function
    from pixyz.losses import IterativeLoss, KullbackLeibler

    class Recurrence(Function):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(var=["h"], cond_var=["x", "z", "h_prev"], name="f")
            self.nets = nets

        def forward(self, x: Tensor, z: Tensor, h_prev: Tensor) -> dict[str, Tensor]:
            return {"h": self.nets["core"](self.nets["phi_x"](x), self.nets["phi_z"](z), h_prev)}

    q = pixyz_normal(lambda x, h: nets["posterior"](nets["phi_x"](x), h), "z", ["x", "h_prev"], "q")
    prior = pixyz_normal(nets["prior"], "z", ["h_prev"], "p")
    decode = pixyz_bernoulli(lambda z, h: nets["decoder"](nets["phi_z"](z), h), "x", ["z", "h_prev"])
    step = (KullbackLeibler(q, prior) - decode.log_prob()).expectation(q * Recurrence()).mean()
    loss = IterativeLoss(step, series_var=["x"], update_value={"h": "h_prev"})
    return lambda: loss.eval({"x": x.transpose(0, 1), "h_prev": x.new_zeros(len(x), H)})


def pixyz_normal(net: Callable[..., Tensor], variable: str, given: list[str], name: str) -> Any:
    """A Normal of Pixyz over one of the shared networks."""
    from pixyz.distributions import Normal as Peer

    class Factor(Peer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(var=[variable], cond_var=given, name=name)

        def forward(self, **values: Tensor) -> dict[str, Tensor]:
            loc, raw = net(*(values[k] for k in given)).chunk(2, -1)
            return {"loc": loc, "scale": F.softplus(raw)}

    return Factor()


def pixyz_bernoulli(net: Callable[..., Tensor], variable: str, given: list[str]) -> Any:
    """A Bernoulli of Pixyz over one of the shared networks."""
    from pixyz.distributions import Bernoulli as Peer

    class Factor(Peer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(var=[variable], cond_var=given, name="p")

        def forward(self, **values: Tensor) -> dict[str, Tensor]:
            return {"probs": net(*(values[k] for k in given)).sigmoid()}

    return Factor()


Contest = tuple[nn.ModuleDict, dict[str, Callable[[nn.ModuleDict], Loss]]]


def contests() -> dict[str, Contest]:
    """By title: the networks, and every contender as a function of its copy of them."""
    frames, episodes = torch.rand(B, 16, FRAME).bernoulli(), rssm_step.sequences()

    def jumps() -> dict[str, Tensor]:
        drawn = {k: torch.randn(B, 16, Z) for k in ("z", "z_prime")}
        return drawn | {"delta": gumbel(B, 16, JUMP)}

    jumping: Contest = td_vae_networks(), {
        "hand": lambda nets: lambda: td_vae_loss(nets, frames, jumps(), H),
        "worldformula": lambda nets: by_formula(td_vae(nets), x=frames),
    }  # fmt: skip
    dreaming: Contest = rssm_step.networks(), {
        "hand": lambda nets: rssm_step.by_hand(nets, episodes),
        "worldformula": lambda nets: rssm_step.by_formula(nets, episodes),
    }  # fmt: skip
    sizes = f"{rssm_step.PIXELS} px, T {rssm_step.T}, B {rssm_step.B}"
    return {**rows_as_time(B), **rows_as_time(4), f"TD-VAE, T 16, B {B}": jumping, f"RSSM, {sizes}": dreaming}


def rows_as_time(batch: int) -> dict[str, Contest]:
    """DMM and VRNN; a batch of 4 has so little arithmetic that it shows the overhead alone."""
    x = torch.rand(batch, T, X).bernoulli()
    markov: Contest = dmm_networks(), {
        "hand": lambda nets: lambda: dmm_loss(nets, x, torch.randn(batch, T, Z)),
        "worldformula": lambda nets: by_formula(dmm(nets), x=x),
    }  # fmt: skip
    h = torch.randn(batch, T, 2 * H)
    behind: Contest = dmm_networks(), {
        "hand": lambda nets: lambda: dmm_loss({**nets, "encode": lambda _: h}, x, torch.randn(batch, T, Z)),
        "worldformula": lambda nets: by_formula(dmm(nets, summarised=True), x=x, h=h),
    }  # fmt: skip
    recurrent: Contest = vrnn_networks(), {
        "hand": lambda nets: lambda: vrnn_loss(nets, x, torch.randn(batch, T, Z), H),
        "worldformula": lambda nets: by_formula(vrnn(nets), x=x),
    }  # fmt: skip
    if find_spec("pixyz") is not None:
        markov[1]["pixyz"] = lambda nets: dmm_by_pixyz(nets, x)
        behind[1]["pixyz"] = lambda nets: dmm_by_pixyz(nets, x, h)
        recurrent[1]["pixyz"] = lambda nets: vrnn_by_pixyz(nets, x)
    sizes = f"T {T}, B {batch}"
    return {f"DMM, {sizes}": markov, f"DMM behind its GRU, {sizes}": behind, f"VRNN, {sizes}": recurrent}


def main() -> None:
    """Measures and writes."""
    args = options(__doc__, RESULT, rounds=15, seeded=True).parse_args()
    torch.set_num_threads(1)
    torch.distributions.Distribution.set_default_validate_args(False)
    torch.manual_seed(args.seed)
    rows = {}
    for title, (nets, contenders) in contests().items():
        steps = {}
        for name, build in contenders.items():
            own = copy.deepcopy(nets)
            steps[name] = rssm_step.gradient_step(build(own), own)
        rows[title] = interleave(steps, "hand", args.rounds, seconds=0.2, warmup=3)
        show(title, rows[title])
    head = {"benchmark": "temporal", "time": "CPU time of one process", "seed": args.seed, "rounds": args.rounds}
    write_json(args.json, {**head, **machine(), "rows": rows})


if __name__ == "__main__":
    main()
