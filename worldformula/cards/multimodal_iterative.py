"""Measures iterative sampling of missing modalities against an encoder that needs no iteration, on one JMVAE."""

from __future__ import annotations

import torch
from torch import Tensor

from worldformula.cards.trimodal_scores import held_out, judges, rows, train
from worldformula.data.trimodal import trimodal
from worldformula.model.iterative import iterate
from worldformula.models import jmvae

STEPS = (1, 5, 20, 100)


def measure(seed: int) -> dict[str, float]:
    """From digit a to digit b, c missing as well: the share of b whose mean is judged to be of a's class.

    Returns:
        ``gain``: q(z|a) minus the best of the chains; ``encoder``: z ~ q(z|a); ``steps_T``: after T steps from
        z ~ p(z), with b drawn and c refilled by its mean; ``hybrid``: 20 steps from z ~ q(z|a); ``ceiling``: real b.
    """
    data, (test, y), judge = rows(trimodal()), held_out(), judges()
    torch.manual_seed(seed)
    model = jmvae.build(jmvae.tiny())
    train(model, data, seed)
    given = {"a": test["a"]}

    def score(z: Tensor) -> float:
        return float((judge["b"](model.render(z=z)["b"]) == y).float().mean())

    z = model.infer(given, seed=seed)
    chain = [
        v["z"] for v in iterate(model.encode, model.decode, given, STEPS[-1], prior=model.prior, mean=("c",), seed=seed)
    ]
    *_, last = iterate(model.encode, model.decode, given, 20, start=z, mean=("c",), seed=seed)
    found = {f"steps_{count}": score(chain[count - 1]) for count in STEPS}
    encoder = score(z)
    return {
        "gain": encoder - max(found.values()),
        "encoder": encoder,
        **found,
        "hybrid": score(last["z"]),
        "ceiling": judge["b"].accuracy(test["b"], y),
    }
