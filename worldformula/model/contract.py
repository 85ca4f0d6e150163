"""The contract of a static model: a loss, and what people and tools want beyond it, from the same formula objects.

@dataclass(frozen=True, eq=False)
class VAE(Model):
    prior: Factor          # p(z)
    encode: Factor         # q(z|x)
    decode: Factor         # p(x|z)
    loss: Expression

model.generate(64, seed=0)["x"]      model.reconstruct(x=images)["x"]      model.bound(1000, x=images)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldformula.errors import FormulaError, MissingInputError, ShapeError, SupportError, WorldformulaError, table
from worldformula.formula.expressions.expression import Expression
from worldformula.formula.factors.joint import Factor, Joint, as_uses
from worldformula.formula.print.notebook import parts_html
from worldformula.formula.syntax.check import draw_order
from worldformula.metrics.likelihood import importance_bound
from worldformula.training.begun import note_beginning
from worldformula.training.chains import Chains
from worldformula.training.game import Game, losses
from worldformula.training.schedules import Schedule
from worldformula.training.seeding import forked
from worldformula.training.source import Data

Product = Factor | Joint
Values = dict[str, Tensor]


class Model:
    """Base of static models: subclasses are frozen dataclasses that hold ``loss`` and, where they exist, the formula
    objects ``prior`` (latents), ``encode`` (latents given data) and ``decode`` (data given latents): a factor or a
    product each. Every method below follows from these; a model without them (a flow, a GAN, a diffusion) overrides
    `generate`, and what it cannot do raises FormulaError.

    Values come and go by variable, ``[N, event...]``; no method leaves a gradient.
    """

    loss: Expression | Game

    def __post_init__(self) -> None:
        if type(self).begin is not Model.begin or type(self).before is not Model.before:
            note_beginning(self.loss)

    def _repr_html_(self) -> str:
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "loss"}  # type: ignore[arg-type]
        shown = self.loss.losses if isinstance(self.loss, Game) else {"loss": self.loss}
        return parts_html({**parts, **shown})

    # ------------------------------------------------------------------------------------------ how it is trained

    @property
    def before(self) -> Mapping[str, Model]:
        """Models that are trained on the same rows before this one, by name: ``fits`` of its system says how, under
        ``before``. None by default.
        """
        return {}

    def begin(self, rows: Mapping[str, Tensor]) -> None:
        """Sets what is taken from all rows before the first update, once; nothing by default. It may draw from torch's
        generator, as new weights do.
        """

    def chains(self, rows: Mapping[str, Tensor]) -> Chains | None:
        """Markov chains that go on from one update to the next, for a loss that reads where they begin."""
        return None

    def source(self, rows: dict[str, Tensor], batch: int) -> Data:
        """Where the batches come from: the rows in epochs by default, or a function that draws ``batch`` of them."""
        return rows

    def varied(self, rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Rows as the updates see them, before `given`: with noise, say. What is measured does not go through it."""
        return rows

    def judged(self, given: Mapping[str, Any], seed: int) -> Tensor:
        """What is low where the weights are good, of inputs of the loss that were held out: the loss, with the same
        noise always. ``seed`` is that of the fit.
        """
        assert isinstance(self.loss, Expression)
        return torch.as_tensor(self.loss(**given, seed=0).value)

    # ----------------------------------------------------------------------------------------------------- its data

    @property
    def symbols(self) -> Mapping[str, Schedule | float]:
        """Values of the named coefficients of the loss: a number each, or a function of the step in training."""
        return {}

    @property
    def coefficients(self) -> tuple[str, ...]:
        """The named coefficients of the loss, ``Symbol("beta")``."""
        plans = [loss.program.plan for loss in self._losses]
        return tuple(dict.fromkeys(k for plan in plans for k, op in plan.inputs.items() if op.kind == "symbol"))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The data that the loss reads."""
        names = (name for loss in self._losses for name in loss.program.inputs)
        return tuple(name for name in dict.fromkeys(names) if name not in self.coefficients)

    @property
    def _losses(self) -> list[Expression]:
        return list(losses(self.loss).values())

    @property
    def events(self) -> dict[str, tuple[int, ...] | None]:
        """The event shape of every input; None where no factor declares one. A label that only conditions others is
        declared by its data, ``Data("p_data(y)", shape=10)``, or by overriding this.
        """
        shapes = {key: shape for loss in self._losses for key, shape in loss.program.plan.shapes.items()}
        return {name: shapes.get(name) for name in self.inputs}

    def given(self, rows: Mapping[str, Tensor]) -> Values:
        """From rows of a data set to the inputs of the loss: those of the same name. Overridden where an input is made
        from the rows (a mask, the two views of a picture); it may draw from torch's generator.
        """
        return {name: rows[name] for name in self.inputs if name in rows}

    def rows(self, arrays: Mapping[str, NDArray[Any]], name: str = "the data") -> Values:
        """Arrays ``[N, ...]`` as tensors in the shapes that the loss wants: pictures flat or with their axes, class
        labels as one-hot vectors where the loss declares as many numbers as there are classes.

        Raises:
            MissingInputError: the loss reads what the data does not have.
            ShapeError: an array cannot have the declared shape, or the loss refuses two rows of the data.
        """
        own = type(self).given is Model.given
        found = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items() if k in self.inputs or not own}
        events = self.events
        shaped = {k: in_shape(v, events.get(k)) for k, v in found.items()}
        table_rows = [(k, _axes(events[k]), list(found[k].shape) if k in found else "missing") for k in self.inputs]
        if any(value is None for value in shaped.values()):
            shown = table(("variable", "the model declares", f"{name} has"), table_rows)
            raise ShapeError(f"{name} does not have the shapes of this model\n{shown}")
        whole = {k: v for k, v in shaped.items() if v is not None}
        try:
            with forked(0):
                probe = self.given({k: v[:2] for k, v in whole.items()})
        except KeyError as lacking:  # one that is written by hand looks for its columns
            raise MissingInputError(
                f"{name} has no {lacking.args[0]}, which this model reads; it has {', '.join(arrays)}"
            ) from lacking
        except SupportError as error:
            raise ShapeError(f"{name} does not suit this model: {error}") from error
        if missing := [k for k in self.inputs if k not in probe]:
            shown = table(("variable", "the model declares", f"{name} has"), table_rows)
            raise MissingInputError(
                f"{name} has no {', '.join(missing)}, which this model reads; it has {', '.join(arrays)}\n{shown}"
            )
        self._try(probe, name)
        return whole

    def _try(self, probe: Values, name: str) -> None:
        """Evaluates the loss on two rows: what no declared shape tells is told by its networks and families."""
        symbols = {k: self.symbols.get(k, 1.0) for k in self.coefficients}
        values = {k: s(0) if callable(s) else s for k, s in symbols.items()}
        training = self.loss.training
        try:
            with torch.no_grad(), forked(0):
                self.loss.eval()(**{k: v.to(self.device) for k, v in probe.items()}, **values)
        except (WorldformulaError, RuntimeError, IndexError, ValueError, KeyError) as error:
            raise ShapeError(f"{name} does not suit this model: {error}") from error
        finally:
            self.loss.train(training)

    # ---------------------------------------------------------------------------------------------- what it can do

    @torch.no_grad()
    def generate(
        self, n: int, *, seed: int | None = None, generator: torch.Generator | None = None, mean: bool = False,
        **given: Any,
    ) -> Values:  # fmt: skip
        """``n`` draws of the latents and the data, by variable, from prior and decoder.

        Args:
            n: how many.
            seed: of this call; otherwise ``generator``, or torch's own.
            generator: where the draws come from.
            mean: the mean of the data given its latents, as pictures usually show it, instead of a draw.
            given: conditions ``[n, ...]``, such as a label; a subclass may take options of its own.
        """
        prior, decode = _joint(self._need("prior")), _joint(self._need("decode"))
        if seed is not None:
            generator = torch.Generator(self.device).manual_seed(seed)
        known = _among(prior, given)
        latents = prior.sample(sample_shape=() if known else (n,), generator=generator, **known)
        have = {**given, **latents}
        data = means(decode, have) if mean else decode.sample(generator=generator, **_among(decode, have))
        return latents | data

    @torch.no_grad()
    def latents(self, *, deterministic: bool = True, seed: int | None = None, **data: Tensor) -> Values:
        """The latents of data ``[N, ...]``: the modes of the encoder, or one draw."""
        encode = _joint(self._need("encode"))
        return encode.sample(deterministic=deterministic, seed=seed, **_among(encode, data))

    @torch.no_grad()
    def render(self, **latents: Tensor) -> Values:
        """The mean of the data given its latents ``[N, ...]`` (and other conditions), by variable."""
        return means(_joint(self._need("decode")), latents)

    def reconstruct(self, **data: Tensor) -> Values:
        """The mean of the data given the modes of its latents, by variable."""
        return self.render(**data | self.latents(deterministic=True, seed=None, **data))

    def panels(self, rows: Mapping[str, Tensor], *, seed: int | None = None) -> Values:
        """What a report shows of a few rows of data besides samples and reconstructions: pictures ``[N, event...]`` by
        caption, one below the other. Nothing by default.
        """
        return {}

    @torch.no_grad()
    def bound(self, draws: int, *, seed: int | None = None, chunk: int = 50, **data: Tensor) -> Tensor:
        """A lower bound of log p(data), in nats, ``[N]``: log (1/K) Σ_k p(x, z_k) / q(z_k|x), z_k from the encoder.

        Burda et al. 2015, arXiv:1509.00519, eq. 8; with K = ``draws`` → ∞ it becomes exact. ``chunk`` draws are
        computed at once.

        Raises:
            FormulaError: no prior, encoder or decoder; or one of them has no density.
        """
        prior, encode, decode = (_joint(self._need(name)) for name in ("prior", "encode", "decode"))
        n = len(next(iter(data.values())))
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        weights: list[Tensor] = []
        for first in range(0, draws, chunk):
            k = min(chunk, draws - first)
            many = {key: v.expand(k, *v.shape).flatten(0, 1) for key, v in data.items()}  # networks see one batch axis
            values = many | encode.sample(generator=generator, **_among(encode, many))
            terms = [p.log_prob(**_among(p, values, own=True)) for p in (prior, decode, encode)]
            weights.append((terms[0] + terms[1] - terms[2]).view(k, n))
        return importance_bound(torch.cat(weights))

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next((p.device for p in self.loss.parameters()), torch.device("cpu"))

    def has(self, name: str) -> bool:
        """Whether the model has a ``prior``, ``encode`` or ``decode``."""
        return isinstance(getattr(self, name, None), (Factor, Joint))

    def _need(self, name: str) -> Product:
        if not self.has(name):
            raise FormulaError(f"{type(self).__name__} has no {name}: it does not offer this, or overrides the method")
        found: Product = getattr(self, name)
        return found


# ------------------------------------------------------------------------------------------------------------ products


def means(product: Joint, values: Mapping[str, Tensor]) -> Values:
    """The mean of every factor's variable, from causes to effects; the mode where a family has no mean."""
    have = dict(values)
    for factor in Joint(*draw_order(product.uses)).factors:
        if factor.observed:
            continue
        if missing := [c.key for c in factor.conditions if c.key not in have]:
            rows = [(c, "given" if c.key in have else "missing") for c in factor.conditions]
            raise MissingInputError(
                f"{factor} needs {', '.join(missing)}; pass {', '.join(f'{k}=...' for k in missing)}\n"
                + table(("variable", "got"), rows)
            )
        have[factor.variable.key] = _mean(factor, [have[c.key] for c in factor.conditions])
    return {f.variable.key: have[f.variable.key] for f in product.factors if not f.observed}


def _mean(factor: Factor, conditions: list[Tensor]) -> Tensor:
    if factor.family is None:
        return torch.as_tensor(factor.head(*conditions))
    try:
        return torch.as_tensor(factor.family.mean(factor.params(*conditions)))
    except (FormulaError, NotImplementedError):  # the mean of classes, for one, is no class
        return factor.draw(conditions, deterministic=True)


def _joint(product: Product) -> Joint:
    return Joint(*as_uses(product))


def _among(product: Joint, values: Mapping[str, Tensor], *, own: bool = False) -> dict[str, Any]:
    """What the factors of a product read and do not declare; with ``own`` what they declare too."""
    declared = {f.variable.key for f in product.factors if not f.observed}
    read = {c.key for f in product.factors for c in f.conditions} | {f.variable.key for f in product.factors}
    return {k: v for k, v in values.items() if k in read and (own or k not in declared)}


def in_shape(value: Tensor, event: tuple[int, ...] | None) -> Tensor | None:
    """Rows in the declared event shape; None where they cannot have it."""
    if event is None or tuple(value.shape[1:]) == event:
        return value
    if value.ndim == 1 and not value.is_floating_point() and len(event) == 1 and value.max() < event[0]:
        return torch.nn.functional.one_hot(value.long(), event[0]).float()
    return value.reshape(-1, *event) if value[0].numel() == math.prod(event) else None


def _axes(event: tuple[int, ...] | None) -> str:
    return "undeclared" if event is None else f"[N, {', '.join(map(str, event))}]" if event else "[N]"
