"""Measures models through time on binarised digits, row by row: likelihood beside floors fitted in the same run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from worldformula.data.digits import digits
from worldformula.metrics import likelihood
from worldformula.training.fit import fit
from worldformula.world import World
from worldformula.world.bounds import weighed
from worldformula.worlds import dmm as markov
from worldformula.worlds import hmm as hidden
from worldformula.worlds import vrnn as recurrent

DRAWS, CHUNK = 200, 50


def dmm(seed: int) -> dict[str, float]:
    """A deep Markov model; see `measure`."""
    torch.manual_seed(seed)
    return measure(markov.build(replace(markov.tiny(), inference="both")), seed, markov.SYSTEM.fits["tiny"])


def vrnn(seed: int) -> dict[str, float]:
    """A variational recurrent network; see `measure`."""
    torch.manual_seed(seed)
    return measure(recurrent.build(recurrent.tiny()), seed, recurrent.SYSTEM.fits["tiny"])


def hmm(seed: int) -> dict[str, float]:
    """A hidden Markov model with tables for each row: its exact likelihood, in nats per test image.

    Returns:
        ``margin``: mixture − nll; ``nll``: −log p(x) of unseen digits, exact; ``train``: of those learnt from;
        ``mixture``: a mixture of as many Bernoulli components as there are states, by EM on whole images;
        ``independent``: one Bernoulli per pixel.
    """
    torch.manual_seed(seed)
    sizes = hidden.rows()
    world = hidden.build(sizes)
    data = digits(binarise=True, stratified=True)
    train, test = torch.from_numpy(data.train_x), torch.from_numpy(data.test_x)
    history = fit(world.loss, series(train), seed=seed, **hidden.SYSTEM.fits["rows"])
    with torch.no_grad(), history.averaged():
        found = {
            "nll": float(world.loss(**series(test)).value),
            "train": float(world.loss(**series(train)).value),
            "mixture": float(-likelihood.bernoulli_mixture(train, test, sizes.states, steps=100).mean()),
            "independent": float(-likelihood.bernoulli_mixture(train, test, 1, steps=1).mean()),
        }
    return {"margin": found["mixture"] - found["nll"], **found}


def measure(world: World, seed: int, how: Mapping[str, Any]) -> dict[str, float]:
    """Train on 1437 digits, test on 360; all numbers are nats per test image.

    Returns:
        ``iwae``: −log p(x) bounded with 200 importance samples; ``neg_elbo``: the loss; ``mixture``: 100 Bernoulli
        components by EM on whole images; ``independent``: one Bernoulli per pixel.
    """
    data = digits(binarise=True, stratified=True)
    train, test = torch.from_numpy(data.train_x), torch.from_numpy(data.test_x)
    history = fit(world.loss, series(train), seed=seed, **how)
    with torch.no_grad(), history.averaged():
        return {
            "iwae": bound(world, series(test)),
            "neg_elbo": sum(float(world.loss(**series(test), seed=i).value) for i in range(20)) / 20,
            "mixture": float(-likelihood.bernoulli_mixture(train, test, 100, steps=100).mean()),
            "independent": float(-likelihood.bernoulli_mixture(train, test, 1, steps=1).mean()),
        }


def series(images: Tensor) -> dict[str, Tensor]:
    """[N, 64] to the rows as time: x [N, 8, 8], and no reset but the first."""
    return {"x": images.view(-1, 8, 8), "first": torch.zeros(len(images), 8, dtype=torch.bool)}


def bound(world: World, data: dict[str, Tensor]) -> float:
    """−(1/N) Σ_n log (1/K) Σ_k p(x_n, z_k) / q(z_k|x_n), z a whole sequence (Burda et al. 2015, arXiv:1509.00519)."""
    post, prior = (next(f for f in p.factors if f.variable.key == "z") for p in (world.posterior, world.prior))
    initial = getattr(world.loss, "initial_state", None)
    start = None if initial is None else {"z": initial.z}
    few = weighed("iwae", world.posterior, world.heads["x"] * prior, post, CHUNK, reset="first", initial=start)
    found = [few(**data, seed=i).value for i in range(DRAWS // CHUNK)]
    return float(-likelihood.importance_bound(torch.stack(found)).mean())
