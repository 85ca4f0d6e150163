"""Models of several modalities: inference from whichever of them there are, prediction of the others, likelihoods.

z = model.infer({"a": images})                                   # z ~ q(z|a), by the model's rule
made = model.predict({"a": images}, target="b", n=5)["b"]        # [5, N, ...]: z ~ q(z|a), b ~ p(b|z)
nats = -model.bound(1000, a=images, b=sounds, present={"b": flags})   # of what each row has
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError, FormulaError, ShapeError, UnknownVariableError, near
from worldformula.families import ExpertsFamily
from worldformula.families.experts import log_shares
from worldformula.formula import runtime
from worldformula.formula.expressions.expression import Expression, log
from worldformula.formula.factors.experts import Experts
from worldformula.formula.factors.independent import Bernoulli, Laplace, Normal
from worldformula.formula.factors.joint import Factor, Joint
from worldformula.metrics.likelihood import importance_bound
from worldformula.model.contract import Model, Values, means

Present = Mapping[str, Tensor]
LIKELIHOODS = {"bernoulli": Bernoulli, "normal": Normal, "laplace": Laplace}


@dataclass(frozen=True)
class Modality:
    """One kind of data.

    Attributes:
        name: of its variable, and of the array in a data set.
        width: of a row ``[N, width]``.
        likelihood: the family of p(x|z).
        scale: of a normal or Laplace likelihood; it decides how much a modality weighs.
        weight: of log p(x|z) in the loss. With another weight than 1 the loss is no bound of a likelihood.

    Raises:
        ConfigError: a number that cannot be.
    """

    name: str
    width: int
    likelihood: Literal["bernoulli", "normal", "laplace"] = "bernoulli"
    scale: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.likelihood not in LIKELIHOODS:
            raise ConfigError(
                f"{self.name}: expected a likelihood among {', '.join(LIKELIHOODS)}, not {self.likelihood!r}"
            )
        if self.width < 1 or not self.scale > 0 or not self.weight > 0:
            raise ConfigError(f"expected a width of 1 or more, scale > 0 and weight > 0, got {self}")

    def decoder(self, net: nn.Module) -> Factor:
        """p(name|z), from a network that returns logits or locations."""
        fixed = {} if self.likelihood == "bernoulli" else {"scale": self.scale}
        found: Factor = LIKELIHOODS[self.likelihood](f"p({self.name}|z)", net, shape=self.width, **fixed)
        return found


def log_likelihood(decoders: Sequence[Factor], modalities: Sequence[Modality]) -> Expression:
    """Σ_m w_m log p(x_m|z) of some decoders, as it prints: one log of a product where all weights are 1."""
    weights = {m.name: m.weight for m in modalities}
    if all(weights[d.variable.key] == 1 for d in decoders):
        return log(Joint.of(*decoders))
    terms = [w * log(d) if (w := weights[d.variable.key]) != 1 else log(d) for d in decoders]
    total, *others = terms
    for term in others:
        total = total + term
    return total


class Multimodal(Model):
    """Base of multimodal models: one latent z, a posterior for every set of modalities, a decoder for each.

    Subclasses have the fields ``prior``, ``experts`` (q(z|x_m), in the order of the modalities), ``encode`` (the
    posterior given all) and ``decode`` (the product of the p(x_m|z)), and say in `posterior` how they infer.

    Attributes:
        rules: names of the ways to infer, the model's own first.
    """

    prior: Factor
    experts: tuple[Factor, ...]
    encode: Factor
    decode: Joint
    rules: ClassVar[tuple[str, ...]] = ()

    @property
    def modalities(self) -> tuple[str, ...]:
        """Their names, in the order of the decoders."""
        return tuple(f.variable.key for f in self.decode.factors)

    def posterior(self, given: Sequence[str], rule: str | None = None) -> Factor:
        """q(z|given) by a rule, or by the model's own; the prior where nothing is given."""
        raise NotImplementedError

    def among(self, given: Sequence[str]) -> list[Factor]:
        """The experts of these modalities, in the order of the model.

        Raises:
            UnknownVariableError: a name that is no modality.
        """
        for name in given:
            if name not in self.modalities:
                known = self.modalities
                raise UnknownVariableError(
                    f"{type(self).__name__} has no modality {name!r}.{near(name, known)} It has {', '.join(known)}."
                )
        return [q for q, name in zip(self.experts, self.modalities, strict=True) if name in given]

    def chosen(self, rule: str | None) -> str:
        """A rule by its name, or the model's own.

        Raises:
            ConfigError: the model has no such rule.
        """
        if rule is not None and rule not in self.rules:
            raise ConfigError(f"{type(self).__name__}: expected rule= among {', '.join(self.rules)}, got {rule!r}")
        return rule or self.rules[0]

    # ---------------------------------------------------------------------------------------------- what it can do

    @torch.no_grad()
    def infer(
        self, given: Mapping[str, Tensor], *, rule: str | None = None, n: int | None = None, mean: bool = False,
        present: Present | None = None, seed: int | None = None, generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Draws of z from the posterior of what is given: ``[N, Z]``, or ``[n, N, Z]``.

        Args:
            given: modality -> ``[N, ...]``; at least one.
            rule: how to infer, one of ``rules``.
            n: draws for each row.
            mean: the posterior's mean (of a mixture the mode of its most probable component) instead of a draw.
            present: modality -> flags ``[N]`` of the rows that have it.
            seed: of this call; otherwise ``generator``, or torch's own.
            generator: where the draws come from.

        Raises:
            FormulaError: nothing is given, or a row has nothing of it.
            UnknownVariableError: a name that is no modality.
        """
        q, params = self._inferred(given, rule, present)
        assert q.family is not None
        batch, event = q.family.shapes(params, q.rank)
        lead = () if n is None else (n,)
        if mean:
            mode = torch.as_tensor(q.family.mode(params))
            return mode.expand(*lead, *batch, *event)
        like = next(p for p in params if isinstance(p, Tensor))
        shape = q.family.noise_shape((*lead, *batch), event)
        rng = generator if seed is None else torch.Generator(like.device).manual_seed(seed)
        noise = q.family.noise(shape, dtype=like.dtype, device=like.device, generator=rng)
        return q.family.sample(params if n is None else runtime.along(params, n), noise)

    @torch.no_grad()
    def predict(
        self, given: Mapping[str, Tensor], target: str | Sequence[str] | None = None, *, mean: bool = False,
        n: int | None = None, rule: str | None = None, present: Present | None = None, seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Values:  # fmt: skip
        """The other modalities, by name: z ~ q(z|given), x ~ p(x|z), ``[N, ...]`` or ``[n, N, ...]``.

        Args:
            given: as in `infer`.
            target: which modalities; all that are not given by default.
            mean: the mean of p(x|z) at the drawn z. Means are cleaner than data: say which of the two you print.
            n: draws for each row.
            rule: as in `infer`.
            present: as in `infer`.
            seed: of this call; otherwise ``generator``, or torch's own.
            generator: where the draws come from.
        """
        wanted = [target] if isinstance(target, str) else target
        wanted = [m for m in self.modalities if m not in given] if wanted is None else list(wanted)
        self.among(wanted)
        if not wanted:
            raise FormulaError(
                f"all of {', '.join(given)} are given: name what to make, e.g. target={next(iter(given))!r}"
            )
        rng = generator if seed is None else torch.Generator(self.device).manual_seed(seed)
        z = self.infer(given, rule=rule, n=n, present=present, generator=rng)
        flat: dict[str, Any] = {"z": z.flatten(0, -2)}
        product = Joint(*(use for use in self.decode.uses if use.factor.variable.key in wanted))
        made = means(product, flat) if mean else product.sample(generator=rng, **flat)
        return {name: value.unflatten(0, z.shape[:-1]) for name, value in made.items()}  # type: ignore[no-untyped-call]

    def panels(self, rows: Mapping[str, Tensor], *, seed: int | None = None) -> Values:
        """Every modality, and below it its mean given each modality, and given all."""
        known, shown = {m: rows[m] for m in self.modalities}, dict[str, Tensor]()
        for target, value in known.items():
            shown[target] = value
            for given in [*([m] for m in known), [*known]]:
                made = self.predict({m: known[m] for m in given}, target, mean=True, seed=seed)
                shown[f"{target} given {', '.join(given)}"] = made[target]
        return shown

    @torch.no_grad()
    def bound(  # type: ignore[override]
        self, draws: int, *, seed: int | None = None, chunk: int = 50, rule: str | None = None,
        present: Present | None = None, **data: Any,
    ) -> Tensor:  # fmt: skip
        """A lower bound of log p of what a row has, in nats, ``[N]``: log (1/K) Σ_k p(X, z_k) / q(z_k|X), z_k ~ q(z|X).

        Of a mixture, as many draws come from each component, and every draw is weighed with the whole mixture's
        density. All rows get the same noise: the value of a row depends on no other row, nor on the order of rows.

        Args:
            draws: K; rounded up to a multiple of the number of components.
            seed: of this call; otherwise torch's own generator.
            chunk: draws that are computed at once.
            rule: the proposal, one of ``rules``: values of different proposals have different gaps.
            present: as in `infer`; a row's absent modalities count for nothing.
            data: modalities ``[N, ...]``; those that are left out are integrated over.
        """
        q, params = self._inferred(data, rule, present)
        assert q.family is not None
        family, rank = q.family, q.rank
        batch, event = family.shapes(params, rank)
        mixture = isinstance(family, ExpertsFamily)
        count = family.components if isinstance(family, ExpertsFamily) else 1
        shares = log_shares(params) if mixture else torch.zeros(1, *batch, device=self.device)
        like = next(p for p in params if isinstance(p, Tensor))
        rng = None if seed is None else torch.Generator(like.device).manual_seed(seed)
        weights: list[Tensor] = []
        each, most = math.ceil(draws / count), max(1, chunk // count)
        for first in range(0, each, most):
            k = min(most, each - first)
            shape = family.noise_shape((count, k, 1), event)
            noise = family.noise(shape, dtype=like.dtype, device=like.device, generator=rng)
            z = family.stratified(params, noise) if isinstance(family, ExpertsFamily) else family.sample(params, noise)
            logq = family.log_prob(runtime.along(params, count, k), z, rank)
            weights.append(self._log_joint(z, data, present) - logq + (shares + math.log(count))[:, None])
        return importance_bound(torch.cat(weights, 1).flatten(0, 1))

    def _log_joint(self, z: Tensor, data: Mapping[str, Tensor], present: Present | None) -> Tensor:
        """log p(z) + Σ_m log p(x_m|z) over what the rows have, of draws ``[C, k, N, Z]``: ``[C, k, N]``."""
        flat = z.flatten(0, -2)
        total = self.prior.log_prob(z=flat)
        for decoder in self.decode.factors:
            name = decoder.variable.key
            if name not in data:
                continue
            x = _filled(data, present)[name]
            many = x.expand(*z.shape[:-2], *x.shape).flatten(0, 2)
            term = decoder.log_prob(**{name: many, "z": flat})
            if present is not None and name in present:
                term = runtime.filled(term, present[name].expand(z.shape[:-1]).flatten(), 0)
            total = total + term
        return total.view(z.shape[:-1])

    def _inferred(
        self, given: Mapping[str, Tensor], rule: str | None, present: Present | None
    ) -> tuple[Factor, tuple[Tensor | float, ...]]:
        """The posterior and its parameters for these rows."""
        flags = {name: flag != 0 for name, flag in (present or {}).items() if name in given}
        self.among([*given, *(present or {})])
        if not given:
            raise FormulaError(f"{type(self).__name__}: expected at least one modality of {', '.join(self.modalities)}")
        rows = {len(value) for value in (*given.values(), *flags.values())}
        if len(rows) != 1:
            raise ShapeError(f"expected as many rows of everything, got { ({k: len(v) for k, v in given.items()}) }")
        q = self.posterior(tuple(given), rule)
        values = _filled(given, flags)
        if not flags:
            return q, q.params(*(values[c.key] for c in q.conditions))
        if not isinstance(q, Experts):
            raise FormulaError(
                f"{q} reads {', '.join(flags)}, which some rows lack\ninfer those rows from what they have"
            )
        if (
            flags.keys() == set(given)
            and not bool(torch.stack([*flags.values()]).any(0).all())
            and not self._needs_none(q)
        ):
            raise FormulaError(f"{q}: some rows have none of {', '.join(given)}, and no prior is among its experts")
        return q, q.params_where(values, flags)

    @staticmethod
    def _needs_none(q: Experts) -> bool:
        """Whether a product is one without any condition, or a mixture has such a component."""
        return any(not part.conditions for part in q.parts)


def _filled(values: Mapping[str, Tensor], present: Present | None) -> dict[str, Tensor]:
    """Zeros in the rows that lack a value, so that no NaN reaches a network."""
    flags = present or {}
    return {k: runtime.filled(v, flags[k], v.ndim - 1) if k in flags else v for k, v in values.items()}
