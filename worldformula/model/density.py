"""Models without latents whose density is exact: autoregressive networks and flows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from worldformula.errors import FormulaError
from worldformula.formula.factors.joint import Factor
from worldformula.model.contract import Model, Values


class Density(Model):
    """A model that is one factor, ``density``: p(x) or p(x|y). `generate` draws from it, `log_prob` is exact.

    Both run in evaluation mode: dropout would be another model at every call.
    """

    density: Factor

    @torch.no_grad()
    def generate(
        self, n: int, *, seed: int | None = None, generator: torch.Generator | None = None, mean: bool = False,
        **given: Tensor,
    ) -> Values:  # fmt: skip
        """``n`` draws of the variable; under conditions ``[n, ...]`` where the density has them.

        Args:
            n: how many.
            seed: of this call; otherwise ``generator``, or torch's own.
            generator: where the draws come from.
            mean: accepted as by every model; a density without latents has draws alone.
            given: the conditions.

        Raises:
            FormulaError: conditions of another number than n.
        """
        if wrong := [k for k, v in given.items() if len(v) != n]:
            raise FormulaError(f"generate({n}): expected {n} rows of {wrong[0]}, got {len(given[wrong[0]])}")
        if seed is not None:
            generator = torch.Generator(self.device).manual_seed(seed)
        with evaluating(self.density):
            conditions = self.density.arguments(given, self.density.conditions)
            drawn = self.density.draw(conditions, () if conditions else (n,), generator)
        return {self.density.variable.key: drawn}

    @torch.no_grad()
    def log_prob(self, **data: Tensor) -> Tensor:
        """log p(x), exact, in nats: ``[N]``."""
        with evaluating(self.density):
            return self.density.log_prob(**data)

    def bound(self, draws: int = 1, *, seed: int | None = None, chunk: int = 50, **data: Tensor) -> Tensor:
        """`log_prob`: nothing is drawn, so the bound is tight."""
        return self.log_prob(**data)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; the mode before it afterwards."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
