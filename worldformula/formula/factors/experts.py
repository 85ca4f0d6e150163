"""Products and mixtures of experts: one latent, inferred from whichever conditions there are.

PoE([prior, q_a, q_b])      q(z|a,b) ∝ p(z) q(z|a) q(z|b)                          MVAE (Wu & Goodman 2018)
MoE([q_a, q_b])             q(z|a,b) = ½ q(z|a) + ½ q(z|b)                         MMVAE (Shi et al. 2019)
MoE([q_a, q_b], weights=w)  q(z|a,b) = w_1 q(z|a) + w_2 q(z|b)                     Jacobs et al. 1991
MoPoE([q_a, q_b])           the mixture of the products of all subsets             MoPoE (Sutter et al. 2021)

Modalities that some rows lack: ``loss(a=images, b=sounds, present={"b": flags})`` with flags ``[B]`` (or ``[B, T]``).
An absent expert is removed from its row, and log p(b|z) contributes 0 there, with gradient 0. A row that has nothing
gets the prior where that is an expert; a mixture without any component there is NaN.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from worldformula import families
from worldformula.errors import FormulaError, HeaderError, table
from worldformula.families.base import Family, Params
from worldformula.formula.factors.independent import OneHot
from worldformula.formula.factors.joint import Factor
from worldformula.formula.syntax.learnt import Positive
from worldformula.formula.syntax.names import Variable, renamed

T = TypeVar("T")


def subsets(items: Sequence[T]) -> list[tuple[T, ...]]:
    """All non-empty subsets, the small ones first.

    >>> subsets("ab")
    [('a',), ('b',), ('a', 'b')]
    """
    return [s for size in range(1, len(items) + 1) for s in itertools.combinations(items, size)]


def listed(what: str, parts: object) -> tuple[Factor, ...]:
    """A list of factors, at least one, as a tuple."""
    found = tuple(parts) if isinstance(parts, Iterable) else ()
    if not found or not all(isinstance(p, Factor) for p in found):
        got = list(found) if found else parts
        raise FormulaError(f"{what}: expected a list of factors, e.g. {what}([q_a, q_b]), got {got!r}")
    return found


class Experts(Factor):
    """A factor that is made of others over the same variable. It has no network of its own."""

    parts: tuple[Factor, ...]

    def __init__(
        self, parts: Sequence[Factor], family: Family, header: str | None, beside: tuple[Factor, ...] = ()
    ) -> None:
        parts = listed(type(self).__name__, parts)
        first = parts[0]
        rows = [(p.variable, p, p.shape, p.family.name if p.family else "-") for p in parts]
        same = len({(p.variable, p.shape, self._kind(p.family)) for p in parts}) == 1
        if not same or first.family is None or first.shape is None:
            raise FormulaError(
                f"{type(self).__name__}: expected factors of one variable, family and declared shape\n"
                + table(("variable", "declared by", "shape", "family"), rows)
            )
        if all(part.numeric for part in parts):
            raise FormulaError(
                f"{type(self).__name__}: the parameters of all its parts are numbers; give one of them a network or "
                f"a tensor, such as loc=torch.zeros(2)"
            )
        parts = (*parts, *beside)
        conditions = list(dict.fromkeys(c for part in parts for c in part.conditions))
        if header is None:
            letter = next((p.header.letter for p in parts if p.conditions), first.header.letter)
            given = f"|{','.join(map(str, conditions))}" if conditions else ""
            header = f"{letter}({first.variable}{given})"
        self.__dict__["parts"] = parts  # read by `_own`, before modules can be registered
        if len({part.shared for part in parts}) > 1:
            raise FormulaError(
                f"{type(self).__name__}: {first.variable} is shared by all rows of a call, and each row has its own\n"
                + table(("variable", "declared by", "shared="), [(p.variable, p, p.shared) for p in parts])
                + f"\nwrite shared=True on every factor of {first.variable}, or on none"
            )
        super().__init__(header, family=family, shape=first.shape, fixed={"shared": first.shared})
        if set(self.conditions) != set(conditions):
            raise HeaderError(f"{header}: expected the conditions of its parts, {', '.join(map(str, conditions))}")
        for number, part in enumerate(parts):
            self.add_module(f"part_{number}", part)

    @staticmethod
    def _kind(family: Family | None) -> type[Family] | None:
        """What the families of all parts have to share."""
        return None if family is None else type(family)

    def _own(self, net: object, fixed: object) -> None:
        """Nothing of its own: neither a network nor constants."""
        self.net, self.fixed, self.constants = None, {}, None

    @property
    def numeric(self) -> bool:
        """Its parameters are computed from those of its parts."""
        return False

    @property
    def unbatched(self) -> bool:
        """Whether no part has batch axes."""
        return all(part.unbatched for part in self.parts)

    @property
    def combine(self) -> Callable[..., Params]:
        """The function from the parameters of the parts, and ``present=`` flags, to its own."""
        raise NotImplementedError

    @property
    def definition(self) -> str:
        """What it is made of: ``q(z|x,y) ∝ p(z) q(z|x) q(z|y)``."""
        raise NotImplementedError

    @property
    def experts(self) -> tuple[Factor, ...]:
        """The factors over the variable that it is made of."""
        return self.parts

    @property
    def settings(self) -> dict[str, Any]:
        """Further arguments of `combine`."""
        return {}

    def params(self, *conditions: Any, batch: int | None = None) -> tuple[Any, ...]:
        """The family's parameters under these conditions, of ``batch`` batch axes where that is known."""
        held = dict(zip(self.conditions, conditions, strict=True))
        found = [part.params(*(held[c] for c in part.conditions), batch=batch) for part in self.parts]
        return self.combine(*found, **self.settings)

    def params_where(self, values: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Params:
        """The parameters for rows of which some lack a condition: ``values`` and flags ``[B]`` by variable.

        What stands in the rows that lack a value does not matter, as long as the networks return finite numbers.
        """
        found, flags = [], []
        for part in self.parts:
            if isinstance(part, Experts):
                found.append(part.params_where(values, present))
            else:
                found.append(part.params(*(values[c.key] for c in part.conditions)))
            own = [present[c.key] != 0 for c in part.conditions if c.key in present]
            flags.append(functools.reduce(torch.logical_and, own) if own else None)
        return self.combine(*found, present=flags if any(f is not None for f in flags) else (), **self.settings)

    def only(self, *names: str) -> Factor:
        """The same of those parts alone whose conditions are among ``names`` (and of those without any)."""
        kept = [p for p in self.parts if all(c.key in names for c in p.conditions)]
        return self.of(kept)

    def of(self, parts: Sequence[Factor]) -> Factor:
        """A factor of the same kind, of other parts."""
        raise NotImplementedError

    def rename(self, **names: str) -> Self:
        """As for every factor; its parts get the same names."""
        other = self.fresh()
        header = renamed(self.header, names)
        object.__setattr__(other, "header", header)
        parts = tuple(p.rename(**{k: v for k, v in names.items() if k in _keys(p)}) for p in self.parts)
        other.__dict__["parts"] = parts
        return other


def _keys(part: Factor) -> set[str]:
    variables: tuple[Variable, ...] = (*part.variables, *part.conditions)
    return {v.key for v in variables}


class PoE(Experts):
    """The product of Gaussian experts, in closed form; ``header`` may rename it: ``PoE(parts, "q(z|x_1,x_2)")``.

    Whether the prior is an expert is a choice of the model, so it is written: ``PoE([prior, q_a, q_b])``. Where one has
    a full covariance, `MultivariateNormal`, so has the product.
    """

    def __init__(self, experts: Sequence[Factor], header: str | None = None) -> None:
        full = any(isinstance(p.family, families.MultivariateNormalFamily) for p in listed("PoE", experts))
        super().__init__(experts, families.multivariate_normal if full else families.normal, header)
        if any(self._kind(p.family) is not families.NormalFamily for p in self.parts):
            raise FormulaError(
                f"{self}: expected Normal or MultivariateNormal experts; only their product has a closed form here"
            )

    @staticmethod
    def _kind(family: Family | None) -> type[Family] | None:
        """Both Normals are one kind."""
        both = families.NormalFamily | families.MultivariateNormalFamily
        return families.NormalFamily if isinstance(family, both) else Experts._kind(family)

    @property
    def _full(self) -> bool:
        return isinstance(self.family, families.MultivariateNormalFamily)

    @property
    def combine(self) -> Callable[..., Params]:
        """`worldformula.families.experts.poe`, or `poe_full`."""
        return families.poe_full if self._full else families.poe

    @property
    def settings(self) -> dict[str, Any]:
        """Of full covariances, the places of the diagonal ones."""
        places = tuple(i for i, p in enumerate(self.parts) if isinstance(p.family, families.NormalFamily))
        return {"diagonal": places} if self._full and places else {}

    @property
    def definition(self) -> str:
        """``q(z|x,y) ∝ p(z) q(z|x) q(z|y)``."""
        return f"{self} ∝ {' '.join(map(str, self.parts))}"

    def of(self, parts: Sequence[Factor]) -> Factor:
        """The product of other experts."""
        return PoE(parts)


class MoE(Experts):
    """The mixture of experts with equal weights; E over it takes ``gradient="stratified"`` for a draw of each.

    weights: shares of the experts, ``[0.3, 0.7]``, or a factor over which of them it is: from a network,
    ``OneHot("p(k|x)", net, shape=2)``, or learnt, ``OneHot("p(k)", shape=2, logits=nn.Parameter(torch.zeros(2)))``.
    Experts that a row lacks have none, those of the others grow alike; in a row that lacks what the network reads they
    are equal.
    """

    def __init__(
        self,
        experts: Sequence[Factor],
        header: str | None = None,
        *,
        weights: Sequence[float] | Tensor | Factor | None = None,
    ) -> None:
        experts = listed("MoE", experts)
        component = experts[0].family
        if component is None:
            raise FormulaError(f"MoE: expected a list of random factors, got {list(experts)!r}")
        gate = _gate(weights, len(experts))
        moved = bool(gate) and (gate[0].net is not None or bool(list(gate[0].parameters())))
        super().__init__(experts, families.ExpertsFamily(component, len(experts), moved=moved), header, gate)
        if "log_weights" in component.parameters or any(
            component.axes(name, self.rank) != self.rank for name in component.parameters
        ):
            raise FormulaError(
                f"MoE: {component.name} has parameters with other axes than its values, and no mixture of such experts "
                f"is offered\nmix experts whose parameters have the axes of the values, such as Normal or OneHot"
            )
        settings = [_settings(part.family) for part in experts]
        if unlike := [name for name in settings[0] if len({str(own.get(name)) for own in settings}) > 1]:
            rows = [(p, *(own[name] for name in unlike)) for p, own in zip(experts, settings, strict=True)]
            raise FormulaError(
                f"MoE: its parts are mixed as one family, {component.name}, with the same settings\n"
                + table(("declared by", *unlike), rows)
                + f"\ngive all parts the same {', '.join(unlike)}"
            )

    @property
    def experts(self) -> tuple[Factor, ...]:
        """The factors that are mixed, without the one of their weights."""
        assert isinstance(self.family, families.ExpertsFamily)
        return self.parts[: self.family.components]

    @property
    def gate(self) -> Factor | None:
        """The factor of the weights where they are not equal."""
        return self.parts[-1] if len(self.parts) > len(self.experts) else None

    @property
    def combine(self) -> Callable[..., Params]:
        """`worldformula.families.experts.mixed`."""
        return families.mixed

    @property
    def settings(self) -> dict[str, Any]:
        """The number of event axes, in front of which the components stand; whether weights are given."""
        return {"rank": self.rank} if self.gate is None else {"rank": self.rank, "weighted": True}

    @property
    def shares(self) -> tuple[float, ...] | None:
        """The weights where they are given numbers."""
        assert isinstance(self.family, families.ExpertsFamily)
        if self.gate is None or self.family.moved:
            return None
        (logits,) = self.gate.params()
        count = self.family.components
        if not isinstance(logits, Tensor):
            return (1.0 / count,) * count
        return tuple(logits.exp().tolist())

    @property
    def definition(self) -> str:
        """``q(z|x,y) = 1/2 (q(z|x) + q(z|y))``, a product in the place of its header."""
        each = [p.definition.partition(" ∝ ")[2] if isinstance(p, PoE) else str(p) for p in self.experts]
        if self.gate is None:
            return f"{self} = 1/{len(each)} ({' + '.join(each)})"
        given = f"({','.join(map(str, self.gate.conditions))})" if self.gate.conditions else ""
        shown = [f"{share:.3g}" for share in self.shares or ()] or [f"w_{k + 1}{given}" for k in range(len(each))]
        return f"{self} = {' + '.join(f'{w} {part}' for w, part in zip(shown, each, strict=True))}"

    def only(self, *names: str) -> Factor:
        """As of all experts; the weights of a part of them are not known beforehand."""
        if self.gate is not None:
            raise FormulaError(f"{self}: its weights are those of all experts; say by present= which of them a row has")
        return super().only(*names)

    def of(self, parts: Sequence[Factor]) -> Factor:
        """The mixture of other experts."""
        return MoE(parts)


def _gate(weights: Sequence[float] | Tensor | Factor | None, count: int) -> tuple[Factor, ...]:
    """The factor of the weights of so many experts, if there is one."""
    if weights is None:
        return ()
    if isinstance(weights, Factor):
        family, shape = weights.family, weights.shape
        known = isinstance(family, families.OneHotFamily) and shape == (count,)
        if known or (isinstance(family, families.CategoricalFamily) and shape == () and family.classes == count):
            return (weights,)
    elif (shares := _shares(weights, count)) is not None:
        return (OneHot("p(k)", shape=count, probs=shares),)  # type: ignore[arg-type]
    raise FormulaError(
        f"MoE: expected weights= of {count} experts as numbers, or as a factor over them, got {weights!r}\n"
        f'write OneHot("p(k|x)", net, shape={count})'
    )


def _shares(weights: object, count: int) -> Tensor | Positive | None:
    """Numbers as a tensor ``[…, count]``; None where they are none. One number is not shared out to all experts."""
    if isinstance(weights, Positive):
        return weights
    if not isinstance(weights, Tensor):
        try:
            weights = torch.tensor(list(weights), dtype=torch.get_default_dtype())  # type: ignore[call-overload]
        except (TypeError, ValueError):
            return None
    return weights if weights.shape[-1:] == (count,) else None


def _settings(family: Family | None) -> dict[str, Any]:
    """The settings of a family by name, without the floors (min_scale), which each part keeps by itself."""
    known = {field.name: getattr(family, field.name) for field in dataclasses.fields(family)} if family else {}
    return {name: value for name, value in known.items() if not name.startswith("min_")}


def MoPoE(
    experts: Sequence[Factor], prior: Factor | None = None, *, prior_in: str = "all",
    weights: Sequence[float] | Tensor | Factor | None = None,
) -> MoE:  # fmt: skip
    """The mixture of the products of all subsets of experts.

    Args:
        experts: the factors q(z|x_m).
        prior: an expert of the products as well.
        prior_in: ``"all"`` of them, or ``"full"``: only the product of all experts, as in the official code.
        weights: shares of the products, in the order of `subsets`, small ones first, as of `MoE`; equal where None.
    """
    if prior_in not in ("all", "full"):
        raise FormulaError(f"MoPoE: expected prior_in='all' or 'full', got {prior_in!r}")
    products: list[Factor] = []
    for subset in subsets(listed("MoPoE", experts)):
        wanted = prior is not None and (prior_in == "all" or len(subset) == len(experts))
        parts = [prior, *subset] if wanted and prior is not None else list(subset)
        products.append(PoE(parts) if len(parts) > 1 else parts[0])
    return MoE(products, weights=weights)


__all__ = ["Experts", "MoE", "MoPoE", "PoE", "subsets"]
