r"""Flow matching (Lipman et al. 2023, arXiv:2210.02747), rectified flow (2209.03003), minibatch OT (2302.00482).

    x̃ = α_τ x + σ_τ ε,   ẋ = α̇_τ x + σ̇_τ ε                      a way from noise to data, τ uniform on [0, 1]
    E_{x, ε, τ} ‖v_θ(x̃, τ, y) − ẋ‖²                              or ‖x̂ − x‖², ‖ε̂ − ε‖², by what the network predicts
    dx̃/dτ = v_θ(x̃, τ, y)                                         draws, from τ = 0; log p by the trace of ∂v/∂x̃

    x  [B, D] numbers; with L levels 0 … L−1: x_1 = 2(l + w)/L − 1, w uniform on [0, 1)^D      ε ~ N(0, I)
    y  [B, C] one-hot labels, where there are any; hidden (zeros) in a share of the rows
    coupling   which ε goes to which x: any (``independent``), by the assignment of a batch at the least distance
               (``optimal``, among rows of one label), or as the data say (``given``: reflow, the model's own draws
               beside their noise)

``loss`` bounds no likelihood; `log_prob` is that of the solved ODE, whose steps must be many enough. A density of
dequantised levels bounds that of the levels: −log P(l) ≤ −log p(x_1) + D log(L/2).

Deviations     paper                            here                      why
network        U-Net                            residual MLP              8 × 8 pixels, points of the plane
σ_1            1e-5 (Lipman et al.)             0                         as rectified flow
solver         dopri5                           equal steps of Heun       a fixed number of calls, which is printed
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from math import log as ln
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from worldformula import (
    Bernoulli,
    Data,
    Deterministic,
    E,
    Expression,
    Factor,
    Flow,
    Joint,
    Normal,
    Uniform,
    Value,
    norm2,
)
from worldformula.catalogue import System
from worldformula.errors import ConfigError, MissingInputError, SupportError
from worldformula.families.domains import levels_of, told
from worldformula.model import Model
from worldformula.model.density import evaluating
from worldformula.nets import transport
from worldformula.nets.transport import AsVelocity, Dequantise, Field, Predicts, Solver, Transport, Velocity, Way

Coupling = Literal["independent", "optimal", "given"]
GIVEN = "epsilon"  # the key of ε among data, of a coupling that is given

# ------------------------------------------------------------------------------------------------- sizes and presets


@dataclass(frozen=True)
class Sizes:
    """features: D. levels: L, 0 of numbers. classes: width of y, one-hot labels or any numbers;
    unlabelled: the share of rows whose label is hidden.

    interpolant, coupling, predicts: the parts of the objective, see above. units, blocks, dropout: of the network.
    steps, solver: of the ODE, where nothing else is asked.
    """

    features: int
    levels: int = 0
    classes: int = 0
    unlabelled: float = 0.1
    interpolant: str = "linear"
    coupling: Coupling = "independent"
    predicts: Predicts = "velocity"
    units: int = 128
    blocks: int = 2
    dropout: float = 0.0
    steps: int = 16
    solver: Solver = "heun"


def plane() -> Sizes:
    """Points of the plane, half a minute on a laptop."""
    return Sizes(features=2)


def tiny() -> Sizes:
    """8 × 8 digits with 17 levels, two minutes on a laptop."""
    return Sizes(features=64, levels=17, units=384, blocks=3, dropout=0.1)


def guidance() -> Sizes:
    """The tiny one with labels: ``model.generate(n, y=labels, guidance=2.0)``."""
    return replace(tiny(), classes=10)


# ----------------------------------------------------------------------------------------------------------- formula


@dataclass(frozen=True, eq=False)
class FlowMatching(Model):
    """``loss(x=[B, D])``; ``density`` is p(x), or p(x_1) of levels, under y where there are labels."""

    sizes: Sizes
    density: Factor
    loss: Expression

    @property
    def transport(self) -> Transport:
        """The ODE."""
        return cast(Transport, cast(nn.Module, self.density.net).get_submodule("flow.transform"))

    @torch.no_grad()
    def generate(  # type: ignore[override]  # the sampler's settings are no conditions
        self, n: int, *, seed: int | None = None, generator: torch.Generator | None = None, mean: bool = False,
        steps: int | None = None, solver: Solver | None = None, guidance: float = 1.0, stochastic: float = 0.0,
        y: Tensor | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """``n`` draws of x, and the noise ε that each began at.

        Args:
            n: how many.
            seed: of this call; otherwise ``generator``, or torch's own.
            generator: where the draws come from.
            mean: accepted as by every model; there are draws alone.
            steps: of the solver; those of the sizes by default.
            solver: as in `worldformula.nets.transport`.
            guidance: w of v_∅ + w (v_y − v_∅); 1 is the label's own velocity, 0 that without a label.
            stochastic: g² = 2 · stochastic · (1 − τ) of the SDE with the same marginals, dy = (v + ½ g² s) dτ + g dW,
                by Euler–Maruyama; 0 is the ODE.
            y: labels ``[n, C]``, where the model has some.

        Raises:
            MissingInputError: the model has labels, and none are given.
            ConfigError: an SDE of a coupling whose score no velocity tells; guidance or labels of a model without.
        """
        if seed is not None:
            generator = torch.Generator(self.device).manual_seed(seed)
        y = self._label(y, n)
        if guidance != 1.0 and not self.sizes.classes:
            raise ConfigError(f"guidance={guidance} needs labels: build it with classes=C")
        if stochastic and self.sizes.coupling != "independent":
            raise ConfigError(
                f"the score of a model whose coupling is {self.sizes.coupling!r} is not that of its marginals: "
                "expected stochastic=0, or coupling='independent'"
            )
        if not 0.0 <= stochastic < inf:
            raise ConfigError(f"expected stochastic >= 0, got {stochastic}")
        steps, solver = self.sizes.steps if steps is None else steps, solver or self.sizes.solver
        begin = torch.randn(n, self.sizes.features, device=self.device, generator=generator)
        field = self._guided(y, guidance)
        with evaluating(self.loss), evaluating(self.density):
            if stochastic:
                x = self._wander(field, begin, steps, stochastic, generator)
            else:
                x = transport.integrate(field, begin, steps, solver)
        return {"x": Dequantise(self.sizes.levels).back(x) if self.sizes.levels else x, GIVEN: begin}

    def _label(self, y: Tensor | None, n: int) -> Tensor | None:
        """The labels of n rows, floating point; raises where they are none, or the model has none."""
        wanted = self.sizes.classes
        if not wanted and y is not None:
            raise ConfigError("this model has no labels: expected no y, or build it with classes=C")
        if wanted and (y is None or y.shape != (n, wanted)):
            got = "none" if y is None else list(y.shape)
            raise MissingInputError(
                f"this model draws given a label: pass y= of {n} rows and {wanted} numbers, one-hot (zeros for no "
                f"label), got {got}"
            )
        return y if y is None or y.is_floating_point() else y.to(torch.get_default_dtype())

    def _guided(self, y: Tensor | None, weight: float) -> Field:
        plain = self.transport.field(y)
        if y is None or weight == 1.0:
            return plain
        free = self.transport.field(torch.zeros_like(y))
        return lambda x, tau: torch.lerp(free(x, tau), plain(x, tau), weight)

    def _wander(self, field: Field, y: Tensor, steps: int, amount: float, generator: torch.Generator | None) -> Tensor:
        """Euler–Maruyama; the last step adds no noise."""
        way, h = transport.interpolant(self.sizes.interpolant), 1 / steps
        for i in range(steps):
            tau = torch.full_like(y[..., :1], i * h)
            v, half = field(y, tau), amount * (1 - i * h)
            score = -way.ends(y, tau, v, "velocity").noise / way.sigma(tau)
            y = y + h * (v + half * score)
            if i < steps - 1:
                fresh = torch.randn(y.shape, dtype=y.dtype, device=y.device, generator=generator)
                y = y + (2 * half * h) ** 0.5 * fresh
        return y

    @torch.no_grad()
    def pairs(
        self,
        n: int,
        *,
        seed: int | None = None,
        steps: int = 8,
        solver: Solver = "heun",
        **given: Tensor,
    ) -> dict[str, Tensor]:
        """Data of a reflow: draws x beside their noise, as ``loss`` reads them where the coupling is ``given``."""
        if self.sizes.levels:
            raise ConfigError("pairs of levels are not on one way: expected a model of numbers, levels=0")
        drawn: dict[str, Tensor] = self.generate(n, seed=seed, steps=steps, solver=solver, y=given.get("y"))
        return drawn | given

    @torch.no_grad()
    def log_prob(
        self, x: Tensor, y: Tensor | None = None, *, steps: int | None = None, solver: Solver | None = None,
        probe: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """log p of the solved ODE at numbers x ``[N, D]``, under labels y ``[N, C]``, in nats, ``[N]``.

        Labels of zeros are none. More ``steps`` must not change it; ``probe`` ``[N, D]`` of ±1 estimates the trace (see
        `Transport`). Of levels, ``x`` are x_1.
        """
        own = self.transport
        y = self._label(y, len(x))
        way = Transport(own.velocity, own.steps if steps is None else steps, solver or own.solver, own.group)
        with evaluating(self.density):
            noise, change = way(x, y, probe)
        return change - 0.5 * noise.square().sum(-1) - noise.shape[-1] / 2 * ln(2 * torch.pi)

    @torch.no_grad()
    def bound(self, draws: int = 1, *, seed: int | None = None, chunk: int = 50, **data: Tensor) -> Tensor:
        """`log_prob` of numbers; of levels a lower bound, the mean of ``draws`` of w: ``[N]``.

        Raises:
            SupportError: x of levels are none of 0 … L − 1.
        """
        y = data.get("y")
        if not self.sizes.levels:
            return self.log_prob(x=data["x"], y=y)
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        if fault := told(levels_of(self.sizes.levels), data["x"]):
            raise SupportError(f"flow matching: expected x {fault}")
        scale, x = Dequantise(self.sizes.levels), data["x"].float()
        total = torch.zeros(len(x), device=x.device)
        for _ in range(draws):
            total += self.log_prob(scale(x, torch.rand(x.shape, device=x.device, generator=generator)), y)
        return total / draws + x.shape[-1] * ln(2 / self.sizes.levels)


def build(sizes: Sizes, net: nn.Module | None = None) -> FlowMatching:
    """A flow with new weights, or around a given network of y, τ and, with labels, y'.

    Raises:
        ConfigError: parts that are none.
    """
    D, C, way = sizes.features, sizes.classes, transport.interpolant(sizes.interpolant)
    if sizes.coupling not in get_args(Coupling) or sizes.predicts not in get_args(Predicts):
        known = f"{', '.join(get_args(Coupling))}, and predicts {', '.join(get_args(Predicts))}"
        raise ConfigError(f"expected a coupling among {known}; got {sizes.coupling!r} and {sizes.predicts!r}")
    if not 0.0 <= sizes.unlabelled < 1.0:
        raise ConfigError(
            f"expected unlabelled, the share of rows whose label is hidden, from 0 to below 1, got {sizes.unlabelled}; "
            "write classes=0 where no label is read"
        )
    net = net or Velocity(D, C, sizes.units, sizes.blocks, sizes.dropout)

    x, noise = ("x_1" if sizes.levels else "x"), "ε"
    drawn: Factor | Joint = Data("p_data(x)", shape=D, levels=sizes.levels or None)
    if sizes.levels:
        low = Uniform("p(w)", shape=D)
        drawn = drawn * low * Deterministic("x_1 = scale(x,w)", Dequantise(sizes.levels), shape=D)
    label = "y'" if sizes.unlabelled else "y"
    if C:
        drawn = drawn * Data("p_data(y)", shape=C)
    if C and sizes.unlabelled:
        keep = Bernoulli("p(k)", probs=1 - sizes.unlabelled, shape=1)
        drawn = drawn * keep * Deterministic("y' = hide(y,k)", torch.mul, shape=C)
    drawn = drawn * (Data("p_data(ε)", shape=D) if sizes.coupling == "given" else Normal("p(ε)", shape=D))
    if sizes.coupling == "optimal":
        among = f"ε,{x},y" if C else f"ε,{x}"
        drawn, noise = drawn * Deterministic(f"ε' = OT({among})", transport.optimal, shape=D), "ε'"
    point = Deterministic(f"\\tilde x = ψ({x},{noise},τ)", Way(way), shape=D)
    drawn = drawn * Uniform("p(τ)", shape=1) * point

    told = f"\\tilde x,τ,{label}" if C else "\\tilde x,τ"
    if sizes.predicts == "velocity":
        rate = Deterministic(f"\\dot x = rate({x},{noise},τ)", Way(way, rate=True), shape=D)
        guess = Deterministic(f"v = v_θ({told})", net, shape=D)
        loss = E(drawn * rate * guess, norm2(Value("v") - Value("\\dot x"))).mean()
    else:
        aim = x if sizes.predicts == "data" else noise
        guess = Deterministic(f"\\hat {aim} = f_θ({told})", net, shape=D)
        loss = E(drawn * guess, norm2(Value(f"\\hat {aim}") - Value(aim))).mean()
    ode = Transport(AsVelocity(net, way, sizes.predicts), sizes.steps, sizes.solver)
    return FlowMatching(sizes, Flow(f"p({x}|y)" if C else f"p({x})", ode, shape=D), loss)


# ------------------------------------------------------------------------------------------------------------ system

SYSTEM = System(
    name="flow_matching",
    kind="models",
    paper="Lipman et al. 2023, arXiv:2210.02747",
    bibtex="""@inproceedings{lipman2023flow,
  title     = {Flow Matching for Generative Modeling},
  author    = {Lipman, Yaron and Chen, Ricky T. Q. and Ben-Hamu, Heli and Nickel, Maximilian and Le, Matthew},
  booktitle = {International Conference on Learning Representations},
  year      = {2023},
  eprint    = {2210.02747},
}""",
    presets={"tiny": tiny, "plane": plane, "guidance": guidance},
    fits={
        "tiny": {"steps": 4000, "batch": 128, "schedule": "cosine", "ema": 0.995, "clip": 1.0},
        "plane": {"steps": 3000, "batch": 256, "schedule": "cosine", "ema": 0.998},
    },
    build=build,
    data="digits-17",
    summary="A velocity that carries noise to data in a few steps of an ODE, learnt by regression; with its density.",
)


if __name__ == "__main__":
    model = build(tiny())
    print(model.loss, model.density, model.loss.code, sep="\n\n")
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-3, fused=True)
    pixels = torch.randint(17, (128, 64))
    before = model.loss.eval()(x=pixels, seed=0).value
    before.backward()
    optimiser.step()
    after = model.loss(x=pixels, seed=0).value
    print(f"one step: {before.item():.3f} -> {after.item():.3f} per image")
