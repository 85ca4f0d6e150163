"""Missing values without an encoder of their own: by iteration between a joint encoder and the decoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from worldformula.errors import FormulaError
from worldformula.formula.factors.joint import Factor, Joint
from worldformula.model.contract import Values, means


@torch.no_grad()
def iterate(
    encode: Factor, decode: Joint, given: Mapping[str, Tensor], steps: int, *, prior: Factor | None = None,
    start: Tensor | None = None, mean: Sequence[str] = (), seed: int | None = None,
) -> Iterator[Values]:  # fmt: skip
    """z ~ q(z|x_obs, x_mis), x_mis ~ p(x_mis|z), again and again, from z ~ p(z).

    Rezende, Mohamed & Wierstra 2014, arXiv:1401.4082, appendix F. A model that can only infer from complete rows needs
    no other encoder for it; but the chain hardly leaves the class that it begins in, which ``start`` chooses.

    Args:
        encode: q(z|X) of all modalities.
        decode: the product of the p(x_m|z).
        given: the observed modalities, ``[N, ...]``.
        steps: T.
        prior: p(z), where the chain begins.
        start: where it begins instead, ``[N, Z]``, such as a draw of q(z|x_a).
        mean: missing modalities that are refilled by their mean instead of a draw.
        seed: of this call; otherwise torch's own generator.

    Yields:
        After each of the T steps: z, and the missing modalities as refilled from it.

    Raises:
        FormulaError: neither ``prior`` nor ``start``, or nothing is missing.
    """
    missing = Joint(*(use for use in decode.uses if use.factor.variable.key not in given))
    if not missing.uses:
        raise FormulaError(f"iterate: all of {', '.join(given)} are given, so nothing is missing")
    like = next(iter(given.values()))
    generator = None if seed is None else torch.Generator(like.device).manual_seed(seed)
    if start is None:
        if prior is None:
            raise FormulaError("iterate: expected prior= or start=, where the chain begins")
        start = prior.draw((), (len(like),), generator)

    def refilled(z: Tensor) -> Values:
        made = missing.sample(generator=generator, z=z)
        return made | {name: value for name, value in means(missing, {"z": z}).items() if name in mean}

    values = {**given, **refilled(start)}
    for _ in range(steps):
        z = encode.draw([values[c.key] for c in encode.conditions], generator=generator)
        values |= refilled(z)
        yield {"z": z} | {name: value for name, value in values.items() if name not in given}
