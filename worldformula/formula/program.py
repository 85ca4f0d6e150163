"""A program: what an expression runs. It turns keywords into arguments, draws the noise, calls the emitted function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from worldformula.errors import FormulaError, MissingInputError, ShapeError, UnknownVariableError, WorldformulaError, near, table
from worldformula.formula.emit import Emitted, emit, networks, reference
from worldformula.formula.interpret import broadcast_error, interpret
from worldformula.formula.lower import CALL_OPTIONS
from worldformula.formula.passes import PASSES
from worldformula.formula.plan import Op, Plan, verify


class Out:
    """The result of one call: ``value``; ``terms`` (printed term -> tensor, reduced as the formula reduces it);
    ``samples`` (variable -> tensor, ``[B, T, ...]`` where it has a time index); ``last`` (the final carry)."""

    __slots__ = ("_length", "_plan", "_samples", "_terms", "value")

    def __init__(self, value: Any, terms: tuple[Any, ...], samples: tuple[Any, ...], plan: Plan, length: int) -> None:
        self.value, self._terms, self._samples, self._plan, self._length = value, terms, samples, plan, length

    @property
    def terms(self) -> dict[str, Tensor]:
        """Each named term; no second pass: the values were computed by the call."""
        found = {}
        ops = self._plan.by_name
        for term, value in zip(self._plan.terms, self._terms, strict=True):
            value = torch.as_tensor(value)
            for reduction in term.reductions:
                over_time = reduction.startswith("time ")
                if over_time and isinstance(term.name, str) and ops[term.name].step:
                    value = value.unflatten(0, (-1, self._length))
                how = reduction.removeprefix("time ")
                value = (value.sum(1) if how == "sum" else value.mean(1)) if over_time else value.sum() if how == "sum" else value.mean()
            found[term.text] = value
        return found

    @property
    def samples(self) -> dict[str, Tensor]:
        """Every variable that the formula drew or computed."""
        ops = self._plan.by_name
        return {
            key: value.unflatten(0, (-1, self._length)) if ops[name].step else value
            for (key, name), value in zip(self._plan.samples.items(), self._samples, strict=True)
        }

    @property
    def last(self) -> dict[str, Tensor]:
        """The carry after the last step; pass it as ``start=`` to go on."""
        samples = self.samples
        return {key: samples[key][:, -1] for key in self._plan.carries if key in samples}

    def __repr__(self) -> str:
        value = self.value.item() if isinstance(self.value, Tensor) and self.value.ndim == 0 else self.value
        return f"<Out {value}, terms: {', '.join(t.text for t in self._plan.terms)}>"


class Program:
    """The plan of a formula with its emitted functions, made at first use and never copied or saved."""

    def __init__(self, plan: Plan, title: str) -> None:
        self.raw, self.title = verify(plan, "lowered"), title
        self.plan = plan
        for step in PASSES:
            self.plan = verify(step(self.plan), step.__name__)
        self.inputs = self.plan.inputs
        self.options: dict[str, Any] | None = None
        self._functions: dict[bool, Emitted] = {}
        self._calls: dict[bool, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_functions": {}, "_calls": {}}

    def function(self, owner: nn.Module, deterministic: bool) -> Emitted:
        """The emitted function, for sampling or for means and modes."""
        if deterministic not in self._functions:
            self._functions[deterministic] = emit(self.plan, networks(owner), self.title, deterministic=deterministic)
        return self._functions[deterministic]

    def call(self, owner: nn.Module, deterministic: bool) -> Any:
        if deterministic not in self._calls:
            function = self.function(owner, deterministic).call
            self._calls[deterministic] = function if self.options is None else torch.compile(function, **self.options)
        return self._calls[deterministic]

    def compile(self, options: dict[str, Any]) -> None:
        self.options, self._calls = options, {}

    # ---------------------------------------------------------------------------------------------------------- run

    def run(self, owner: nn.Module, inputs: dict[str, Any]) -> Out:
        """Evaluate the formula by its emitted code."""
        arguments, deterministic = self.arguments(inputs)
        emitted = self.function(owner, deterministic)
        call = self.call(owner, deterministic)
        try:
            value, terms, samples = call(owner, *[arguments[name] for name in emitted.arguments])
        except WorldformulaError:
            raise self.diagnosis(arguments, deterministic) or FormulaError("see above") from None
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            found = self.diagnosis(arguments, deterministic)
            if found is not None:
                raise found from error
            raise
        self.check_batch(terms)
        return Out(value, terms, samples, self.plan, self.length(arguments))

    def interpret(self, inputs: dict[str, Any]) -> Out:
        """Evaluate the formula node by node, with shape checks."""
        arguments, deterministic = self.arguments(inputs)
        value, terms, samples = interpret(self.raw, arguments, deterministic=deterministic)
        self.check_batch(terms)
        return Out(value, terms, samples, self.raw, self.length(arguments))

    def diagnosis(self, arguments: dict[str, Any], deterministic: bool) -> WorldformulaError | None:
        """What the interpreter, which checks every shape, says about a call that failed."""
        try:
            with torch.no_grad():
                interpret(self.raw, arguments, deterministic=deterministic)
        except WorldformulaError as error:
            return error
        except Exception:  # noqa: BLE001  the original error is raised instead
            return None
        return None

    def check_batch(self, terms: tuple[Any, ...]) -> None:
        """Terms of one level must have one batch shape: nothing broadcasts silently."""
        if len(terms) < 2:
            return
        for step in (False, True):
            named = [
                (t.text, tuple(v.shape))
                for t, v in zip(self.plan.terms, terms, strict=True)
                if isinstance(v, Tensor) and v.ndim and isinstance(t.name, str) and self.steps[t.name] == step
            ]
            if len({shape for _, shape in named}) > 1:
                raise broadcast_error([n for n, _ in named], [s for _, s in named])

    @property
    def steps(self) -> dict[str, bool]:
        return {op.name: op.step for op in self.plan.ops}

    def length(self, arguments: Mapping[str, Any]) -> int:
        series = next((key for key, op in self.inputs.items() if op.step), None)
        return int(arguments.get("T", 0)) if series is None else arguments[series].shape[1]

    # ---------------------------------------------------------------------------------------------------- arguments

    def arguments(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """Sort the keywords of a call; add the start of the carry and the noise."""
        options = {name: inputs.pop(name) for name in CALL_OPTIONS if name in inputs}
        if inputs.keys() != self.inputs.keys():
            self.refuse(inputs)
        arguments = dict(inputs)
        like = self.like(inputs, options.get("start"))
        series = None
        if self.plan.index is not None:
            series = self.series(inputs, options)
            arguments |= self.start(inputs, options.get("start"), series[0], like)
            arguments["T"] = series[1]
        deterministic = bool(options.get("deterministic", False))
        if not deterministic:
            generator = self.generator(options, like)
            arguments |= self.draw(like, self.batch(inputs), series, generator, options.get("noise"))
            arguments["rng"] = generator
        return arguments, deterministic

    def refuse(self, inputs: Mapping[str, Any]) -> None:
        """Unknown and missing variables, with the table *variable | declared by | needed by*."""
        declared = {op.variable.key: op.factor for op in self.plan.ops if op.kind in ("draw", "noise") and op.variable}
        rows = [(k, declared.get(k, "data"), self._needed_by(op), "given" if k in inputs else "missing") for k, op in self.inputs.items()]
        shown = table(("variable", "declared by", "needed by", "got"), rows)
        for name in inputs:
            if name not in self.inputs:
                raise UnknownVariableError(
                    f"the formula has no input {name!r}.{near(name, [*self.inputs, *CALL_OPTIONS])}\n{shown}"
                )
        missing = [k for k in self.inputs if k not in inputs]
        hints = [near(k, [key for key in self.plan.samples if key != k], 0.6) for k in missing]
        also = "".join(f"\n{k}:{h} It is drawn inside an E; a term that reads it belongs there." for k, h in zip(missing, hints, strict=True) if h)
        raise MissingInputError(f"the formula needs {', '.join(missing)}; pass {', '.join(k + '=...' for k in missing)}\n{shown}{also}")

    def _needed_by(self, op: Op) -> str:
        readers = [o for o in self.plan.ops if op.name in o.reads and o.factor is not None]
        shifted = [o for o in self.plan.ops if o.kind == "shift" and op.name in o.reads]
        readers += [o for s in shifted for o in self.plan.ops if s.name in o.reads and o.factor is not None]
        return ", ".join(dict.fromkeys(str(o.factor) for o in readers)) or ("reset" if op.kind == "flags" else "-")

    def series(self, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[int, int]:
        """[B, T], which all series share; without series B is that of ``start`` and T is ``horizon``."""
        if self.plan.free_running:
            start, horizon = options.get("start"), options.get("horizon")
            if not start or not isinstance(horizon, int):
                raise MissingInputError("no data says how many steps there are: pass start={...} and horizon=...")
            return next(iter(start.values())).shape[0], horizon
        shapes = {k: tuple(inputs[k].shape[:2]) for k, op in self.inputs.items() if op.step}
        if len(set(shapes.values())) > 1 or any(len(s) < 2 for s in shapes.values()):
            rows = [(k, "[B, T, ...]", tuple(inputs[k].shape)) for k in shapes]
            raise ShapeError("expected series with one batch and one length\n" + table(("variable", "declared", "got"), rows))
        B, T = next(iter(shapes.values()))
        if T == 0:
            raise ShapeError("expected series of at least one step, got T = 0")
        return B, T

    def like(self, inputs: Mapping[str, Any], start: Mapping[str, Any] | None = None) -> Tensor:
        """A tensor whose dtype and device the noise takes: the first input of floating point."""
        tensors = [v for v in (*inputs.values(), *(start or {}).values()) if isinstance(v, Tensor)]
        floating = [v for v in tensors if v.is_floating_point()]
        found = (floating or tensors or [torch.empty(0)])[0]
        return found if found.is_floating_point() else torch.empty(0, device=found.device)

    def start(
        self, inputs: Mapping[str, Any], given: Mapping[str, Tensor] | None, B: int, like: Tensor
    ) -> dict[str, Tensor]:
        """The first value of every carry and shifted series: given, learned, or zeros."""
        given, known = given or {}, [*self.plan.carries, *self.plan.shifts]
        if unknown := [k for k in given if k not in known]:
            raise UnknownVariableError(
                f"start: no variable {unknown[0]!r} is carried; these are: {', '.join(known)}.{near(unknown[0], known)}"
            )
        found = {}
        for key in known:
            shape = self.plan.shapes.get(key) if key in self.plan.carries else tuple(inputs[key].shape[2:])
            initial = getattr(self.plan.initial, key, None)
            if key in given:
                found[key] = given[key]
                if shape is not None and tuple(given[key].shape) != (B, *shape):
                    rows = [(key, (B, *shape), tuple(given[key].shape))]
                    raise ShapeError("start: expected batch + event\n" + table(("variable", "declared", "got"), rows))
            elif initial is not None:
                found[key] = initial.expand(B, *initial.shape)
            else:
                found[key] = torch.zeros((B, *(shape or ())), dtype=like.dtype, device=like.device)
        return {f"start_{key}": value for key, value in found.items()}

    @staticmethod
    def generator(options: Mapping[str, Any], like: Tensor) -> torch.Generator | None:
        """The generator of this call: the given one, or a fresh one from ``seed``; None is torch's global one."""
        if options.get("seed") is not None:
            if options.get("generator") is not None:
                raise FormulaError("expected seed= or generator=, got both")
            return torch.Generator(like.device).manual_seed(options["seed"])
        return options.get("generator")

    def draw(
        self,
        like: Tensor,
        batch: tuple[int, ...] | None,
        series: tuple[int, int] | None,
        generator: torch.Generator | None,
        given: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor | None]:
        """The noise of every sample site whose shape is declared, in the order of the sites; ``None`` for the others."""
        given = given or {}
        sites = {op.name.removeprefix("noise_"): op for op in self.plan.sites}
        if unknown := [k for k in given if k not in sites]:
            raise UnknownVariableError(
                f"noise: no variable {unknown[0]!r} is drawn; these are: {', '.join(sites)}.{near(unknown[0], sites)}"
            )
        found: dict[str, Tensor | None] = {}
        for key, op in sites.items():
            assert op.factor is not None and op.factor.family is not None and op.variable is not None
            shape, lead = self.plan.shapes.get(op.variable.key), series if op.step else batch
            if key in given or shape is None or lead is None:
                found[op.name] = given.get(key)
                continue
            full = op.factor.family.noise_shape(lead, shape)
            found[op.name] = op.factor.family.noise(full, dtype=like.dtype, device=like.device, generator=generator)
        return found

    def noise(self, inputs: dict[str, Any], generator: torch.Generator | None) -> dict[str, Tensor]:
        """The noise that a call with these inputs would draw, by variable."""
        arguments, _ = self.arguments({**inputs, "generator": generator})
        return {k.removeprefix("noise_"): v for k, v in arguments.items() if k.startswith("noise_") and v is not None}

    def batch(self, inputs: Mapping[str, Any]) -> tuple[int, ...] | None:
        """The batch shape of a call without time, read off an input whose event shape is known."""
        found = reference(self.plan)
        if found is None:
            return None
        key, rank = found
        return tuple(inputs[key].shape[: inputs[key].ndim - rank])
