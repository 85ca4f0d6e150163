"""Measures how many calls of a network a digit takes: flow matching and a shortcut beside a DDPM, at equal CPU time."""

from __future__ import annotations

import time
from math import log
from typing import Any

import torch
from torch import Tensor

from worldformula.cards.ddpm_digits import SAMPLES, distance, grey, mixture_draws
from worldformula.data import load
from worldformula.fitting import fit
from worldformula.metrics.base import Classifier
from worldformula.metrics.frechet import digit_features, nearest_train_distance
from worldformula.models import ddpm, flow_matching, shortcut
from worldformula.models.ddpm import DDPM
from worldformula.models.flow_matching import FlowMatching
from worldformula.models.shortcut import Shortcut

HOW = flow_matching.SYSTEM.fits["tiny"]
CALLS = (1, 2, 4, 16, 64)


def measure(seed: int) -> dict[str, float]:
    """Flow matching takes 4000 updates, the others as many as fit into its CPU time; 720 draws against 360 test digits.

    Returns:
        ``fm_1`` …: FD-32 of the flow by Euler in so many calls, ``midpoint_4`` by two steps of the midpoint method;
        ``shortcut_1`` … and ``ddim_2`` … likewise; ``mixture``: of 20 Gaussians; ``train``: of training digits.
        ``fm_bits``: the flow's bound in bits per dimension, at most; ``seconds``: CPU time of each training;
        ``near``: mean distance of a draw of the shortcut in one call to its nearest training digit, in levels.
        ``ratio``: of ``shortcut_1`` to ``fm_1``.
    """
    torch.manual_seed(seed)
    data = load("digits-17")
    rows, test = torch.from_numpy(data.train["x"]), torch.from_numpy(data.test["x"])
    features = digit_features(grey(rows), torch.from_numpy(data.train["y"]))
    models = (
        flow_matching.build(flow_matching.tiny()), shortcut.build(shortcut.tiny()), ddpm.build(ddpm.tiny()),
    )  # fmt: skip
    found = dict[str, float]()
    spent = 0.0
    for model in models:
        steps = HOW["steps"] if not spent else round(spent / cost(model, rows))
        began = time.process_time()
        history = fit(model, {"x": rows}, seed=seed, progress=False, **{**HOW, "steps": steps})
        per = time.process_time() - began
        spent = spent or per
        with history.averaged():
            found |= drawn(model, features, test, seed) | {f"seconds_{type(model).__name__}": per}
            if isinstance(model, FlowMatching):
                found["fm_bits"] = -float(model.bound(2, seed=seed, x=test).mean()) / rows.shape[1] / log(2)
            if isinstance(model, Shortcut):
                one = model.generate(SAMPLES, seed=seed, steps=1)["x"]
                found["near"] = nearest_train_distance(one.float(), rows.float())
    some = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:SAMPLES]]
    found["mixture"], found["train"] = (
        distance(features, mixture_draws(rows, seed), test),
        distance(features, some, test),
    )
    return {"ratio": found["shortcut_1"] / found["fm_1"], **found}


def cost(model: Shortcut | DDPM | FlowMatching, rows: Tensor) -> float:
    """CPU seconds of an update, of twenty that are not kept."""
    weights = {k: v.clone() for k, v in model.loss.state_dict().items()}
    fit(model, {"x": rows}, progress=False, **{**HOW, "steps": 5})
    began = time.process_time()
    fit(model, {"x": rows}, progress=False, **{**HOW, "steps": 20})
    spent = (time.process_time() - began) / 20
    model.loss.load_state_dict(weights)
    return spent


def drawn(model: Shortcut | DDPM | FlowMatching, features: Classifier, test: Tensor, seed: int) -> dict[str, float]:
    """FD-32 by the number of calls."""
    name = {FlowMatching: "fm", Shortcut: "shortcut", DDPM: "ddim"}[type(model)]
    euler: dict[str, Any] = {"solver": "euler"} if isinstance(model, FlowMatching) else {}
    ways = {f"{name}_{n}": {"steps": n, **euler} for n in CALLS}
    if euler:
        ways["midpoint_4"] = {"steps": 2, "solver": "midpoint"}
    return {key: distance(features, model.generate(SAMPLES, seed=seed, **way)["x"], test) for key, way in ways.items()}
