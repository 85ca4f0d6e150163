"""The laws of a static model: its loss learns, its draws repeat, and what it offers has the shapes of its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from worldformula.errors import FormulaError, MissingInputError
from worldformula.model import Model
from worldformula.testing.laws import Laws
from worldformula.training.game import Game
from worldformula.training.seeding import forked

DRAWS, BOUND = 3, 32


def check_model(model: Model, rows: Mapping[str, Tensor]) -> None:
    """Check that a model keeps the contract of `worldformula.model.Model`. Its gradients are overwritten.

    The laws: every player's value is one finite number, which its seed repeats; its gradient is finite and reaches
    some of what it moves; weights survive their state_dict; generated data, of a model that generates, have the axes
    of the data, repeat with their seed, and carry no gradient; reconstructions have the axes of the data; more draws do
    not lower the bound.

    Args:
        model: the model.
        rows: some rows of its data, as `Model.rows` gives them.

    Raises:
        AssertionError: a law does not hold; the message is the table of laws.
    """
    laws = Laws(type(model).__name__)
    model.loss.eval()
    with forked(0):
        inputs = model.given(rows)
    _loss(laws, model, {**inputs, **{k: s(0) if callable(s) else s for k, s in model.symbols.items()}})
    if generates(model):
        _draws(laws, model, inputs, rows)
    if model.has("prior") and model.has("encode") and model.has("decode"):
        _encoded(laws, model, inputs)
    laws.close()


def generates(model: Model) -> bool:
    """Whether a model makes data: a classifier, for one, does not."""
    return (model.has("prior") and model.has("decode")) or type(model).generate is not Model.generate


def _values(model: Model, inputs: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
    if isinstance(model.loss, Game):
        return {name: out.value for name, out in model.loss.evaluate({**inputs, "seed": seed}).items()}
    return {"loss": model.loss(**inputs, seed=seed).value}


def _loss(laws: Laws, model: Model, inputs: Mapping[str, Any]) -> None:
    weights = {n: p for n, p in model.loss.named_parameters() if p.requires_grad}
    own = (
        {name: player.parameters() for name, player in model.loss.players.items()}
        if isinstance(model.loss, Game)
        else {"loss": list(weights.values())}
    )
    first, again = _values(model, inputs, 0), _values(model, inputs, 0)
    for name, value in first.items():
        laws.equal(f"{name} is one number", (), tuple(value.shape))
        laws.equal(f"{name} is finite", True, bool(value.isfinite().all()))
        laws.equal(f"the seed repeats {name}", value, again[name])
        model.loss.zero_grad(set_to_none=True)
        value.sum().backward(inputs=own[name], retain_graph=True)
        finite = all(bool(p.grad.isfinite().all()) for p in weights.values() if p.grad is not None)
        laws.equal(f"the gradient of {name} is finite", True, finite)
        laws.equal(f"{name} teaches something", True, any(bool(p.grad.any()) for p in own[name] if p.grad is not None))
    state = {k: v.clone() for k, v in model.loss.state_dict().items()}
    with torch.no_grad():
        for p in weights.values():
            p.add_(0.1)
    model.loss.load_state_dict(state)
    for name, value in _values(model, inputs, 0).items():
        laws.equal(f"stored weights give {name} again", first[name], value)


def _draws(laws: Laws, model: Model, inputs: Mapping[str, Tensor], data: Mapping[str, Tensor]) -> None:
    rows = {k: v[:DRAWS] for k, v in inputs.items()}
    try:
        drawn = model.generate(DRAWS, seed=1)
        given: dict[str, Tensor] = {}
    except MissingInputError as error:  # a conditional model: its conditions are what it asked for
        given = {k: v for k, v in rows.items() if f"needs {k}" in str(error) or f"{k}=" in str(error)}
        drawn = model.generate(DRAWS, seed=1, generator=None, mean=False, **given)
    again = model.generate(DRAWS, seed=1, generator=None, mean=False, **given)
    for name, value in drawn.items():
        expected = rows[name].shape if name in rows else (DRAWS, *value.shape[1:])
        laws.equal(f"generated {name} has the axes of the data", tuple(expected), tuple(value.shape))
        laws.equal(f"the seed repeats {name}", value, again[name])
        laws.equal(f"generated {name} has no gradient", False, value.requires_grad)
    laws.equal("data are generated", True, any(name in inputs or name in data for name in drawn))


def _encoded(laws: Laws, model: Model, inputs: Mapping[str, Tensor]) -> None:
    for name, value in model.reconstruct(**inputs).items():
        if name in inputs:
            laws.equal(f"reconstructed {name} has the axes of the data", tuple(inputs[name].shape), tuple(value.shape))
    try:
        one, many = (model.bound(draws, seed=2, chunk=BOUND, **inputs) for draws in (1, BOUND))
    except FormulaError:  # a factor without a density has no bound
        return
    laws.equal("a bound per row", (len(next(iter(inputs.values()))),), tuple(many.shape))
    slack = 3.0 * float(one.std()) / len(one) ** 0.5
    laws.equal("more draws do not lower the bound", True, bool(many.mean() >= one.mean() - slack))
