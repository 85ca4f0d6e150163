"""Collapse: do the codes of a joint-embedding model still differ, in how many directions, and how do they move?

    told = diagnosed(codes)          # [B, T, ..., D]: all that this file measures, by name
    alarms({f"codes/z/{k}": v for k, v in told.items()})

`spread` looks at each number of a code alone; `rank_me` (Garrido et al. 2023, arXiv:2210.02885) and `lidar` (Thilak et
al. 2024, arXiv:2312.04000) count directions; `straightness` looks at how codes move in time (Hénaff et al. 2019). None
says *what* is encoded: `legible` does, where labels are known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from worldformula.errors import ShapeError

DEAD = 0.1  # a deviation below which a number counts as collapsed: a tenth of what VICReg's hinge and SIGReg ask for
LOW = 0.1  # RankMe over D of codes that have collapsed; those of worlds without a regulariser: cards/no_collapse.toml
CODES = "codes/"  # what the numbers of a latent z are logged as: codes/z/rank
EPSILON = 1e-7  # of the logarithm in RankMe
READS = "reads."  # what a probe of a label is logged as: codes/z/reads.position
RIDGE = 1e-3  # of the probe, times the mean square of its centred numbers


@dataclass(frozen=True)
class Spread:
    """Deviations of the numbers of a code: the ``least``, the ``median``, and which ``share`` lies below 0.1."""

    least: float
    median: float
    share: float


def spread(codes: Tensor) -> Spread:
    """Of codes ``[..., D]``, over all rows, by the unbiased deviation."""
    found = _rows("spread", codes).std(0)
    share = float((found < DEAD).double().mean()) if not found.isnan().any() else math.nan
    return Spread(float(found.min()), float(found.median()), share)


def rank_me(codes: Tensor, *, center: bool = False) -> float:
    """exp of the entropy of the normalised singular values of codes ``[..., D]``: from 1, a line, to D.

    Args:
        codes: more rows than D say more.
        center: take the mean off first; the paper does not, and then a mean far from 0 counts as a direction.
    """
    rows = _rows("rank_me", codes)
    rows = rows - rows.mean(0) if center else rows
    return _effective(torch.linalg.svdvals(rows))


def lidar(codes: Tensor, *, delta: float = 1e-4) -> float:
    """RankMe of what differs between classes, measured by how much their views differ: from 1 to D.

    Args:
        codes: ``[N, Q, ..., D]``, Q ≥ 2 views of N classes; of a world, the frames of short windows.
        delta: is added to the covariance within classes.

    Raises:
        ShapeError: fewer than two classes or views.
    """
    if codes.ndim < 3 or min(codes.shape[:2]) < 2:
        raise ShapeError(
            f"lidar expected codes [N, Q, ..., D] of N ≥ 2 classes and Q ≥ 2 views, got {list(codes.shape)}"
        )
    x = codes.detach().double().flatten(1, -2)
    means = x.mean(1)
    apart, inside = means - means.mean(0), (x - means[:, None]).flatten(0, 1)
    between = apart.mT @ apart / (len(x) - 1)
    within = inside.mT @ inside / (len(x) * (x.shape[1] - 1)) + delta * torch.eye(x.shape[-1], dtype=x.dtype).to(
        x.device
    )
    values, vectors = torch.linalg.eigh(within)
    white = vectors @ torch.diag(values.rsqrt()) @ vectors.mT
    return _effective(torch.linalg.eigvalsh(white @ between @ white).clamp_min(0))


def straightness(codes: Tensor) -> float:
    """The mean cosine between one step and the next of codes ``[B, T, ..., D]``: 1 is a straight line, 0 a random walk.

    Steps of length 0 have no direction and are left out.

    Raises:
        ShapeError: fewer than three steps.
    """
    if codes.ndim < 3 or codes.shape[1] < 3:
        raise ShapeError(f"straightness expected codes [B, T, ..., D] with T ≥ 3, got {list(codes.shape)}")
    steps = codes.detach().double().diff(dim=1)
    length = steps.norm(dim=-1)
    moves = (length[:, 1:] != 0) & (length[:, :-1] != 0)  # NaN is no length of 0
    cosine = (steps[:, 1:] * steps[:, :-1]).sum(-1) / (length[:, 1:] * length[:, :-1]).clamp_min(1e-300)
    return float(cosine[moves].mean())


def legible(codes: Tensor, label: Tensor) -> float:
    """R² of a linear map from codes ``[B, T, ..., D]`` to a label ``[B, T, ...]``: ridge regression on every other
    window, scored on the rest; windows that share rows flatter it. Of several numbers what all of them vary by counts
    together. NaN where there is nothing to read: a label that does not vary, or is known of too few windows (rows where
    it is NaN do not count).
    """
    x, y = codes.detach().double().flatten(2), label.detach().to(codes.device).double().reshape(*label.shape[:2], -1)
    known = y.isfinite().all(-1)
    (x, y), (seen, right) = ((x[i::2][known[i::2]], y[i::2][known[i::2]]) for i in (0, 1))
    if min(len(x), len(seen)) < 2:
        return math.nan
    middle, mean = x.mean(0), y.mean(0)
    x = x - middle
    gram = x.mT @ x / len(x)
    ridge = RIDGE * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram), dtype=x.dtype, device=x.device)
    told = mean + (seen - middle) @ torch.linalg.solve(gram + ridge, x.mT @ (y - mean) / len(x))
    total = (right - right.mean(0)).square().sum()
    return float(1 - (right - told).square().sum() / total) if total > 0 else math.nan


def diagnosed(
    codes: Tensor, whole: Tensor | None = None, labels: Mapping[str, Tensor] | None = None
) -> dict[str, float]:
    """What is logged of the codes of windows, ``[B, T, ..., D]``, by name; what is not finite is left out.

    ``least`` and ``median`` are deviations and ``share`` that of dead numbers; ``rank`` is RankMe over D, of as many
    rows as there are; ``lidar``, over D, takes the steps of a window as its views; ``straightness``; ``reads.<label>``
    what is legible of each label, of which a / is written as a dot.

    Args:
        codes: all rows count for deviations and rank.
        whole: which windows are of one episode, ``[B]``; the others say nothing about time.
        labels: ``[B, T, ...]`` by name: what is known of every row, and observed by nobody.
    """
    if not bool(codes.isfinite().all()):
        return {}
    whole = codes.new_ones(len(codes), dtype=torch.bool) if whole is None else whole
    own, D = spread(codes), codes.shape[-1]
    found = {"least": own.least, "median": own.median, "share": own.share, "rank": rank_me(codes) / D}
    windows = codes[whole]
    if min(windows.shape[:2]) >= 2:
        found["lidar"] = lidar(windows) / D
    if len(windows) and windows.shape[1] >= 3:
        found["straightness"] = straightness(windows)
    found |= {READS + name.replace("/", "."): legible(codes, label) for name, label in (labels or {}).items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def alarms(row: Mapping[str, float], *, ended: bool = True) -> dict[str, str]:
    """What a line of the log says has collapsed: latent -> a sentence; nothing where codes are well, or not logged.

    A latent has collapsed where RankMe is below 0.1 D, or half of its numbers or more have a deviation below 0.1:
    RankMe knows no scale, and of what is left of a latent that has shrunk to nothing it may rise again. At the end
    of a training (``ended``) a predictor is dead where what it foretells is no nearer than a copy of where it began
    (``copy`` ≥ 1); early on it always is. Of latents that have collapsed that is not told: a copy of a constant is
    right. A sentence ends with what a linear map still reads of each label that is logged.
    """
    named = {key.removeprefix(CODES).rpartition("/") for key in row if key.startswith(CODES)}
    found = dict[str, str]()
    for name in sorted({name for name, *_ in named}):
        told = {what: row[f"{CODES}{own}/{what}"] for own, _, what in named if own == name}
        rank, median = told.get("rank", 1.0), told.get("median", 1.0)
        why = [f"RankMe is {rank:.2g} D, below {LOW} D"] if rank < LOW else []
        why += [f"half of its numbers have a deviation of {median:.2g} or less, below {DEAD}"] if median < DEAD else []
        reads = {what.removeprefix(READS): value for what, value in sorted(told.items()) if what.startswith(READS)}
        rest = [f"{label} with R² {value:.2g}" for label, value in reads.items()]
        read = f"; a linear map reads {', '.join(rest)}" if rest else ""
        if why:
            found[name] = f"{name} has collapsed: {' and '.join(why)}{read}"
        elif ended and (copied := told.get("copy", 0.0)) >= 1:
            found[f"{name}/copy"] = (
                f"{name} is foretold no better than by a copy of where it begins: {copied:.2g} of its error{read}"
            )
    return found


def _effective(values: Tensor) -> float:
    total = values.sum()
    if total == 0:
        return 1.0
    share = values / total + EPSILON
    return float(torch.exp(-(share * share.log()).sum()))


def _rows(what: str, codes: Tensor) -> Tensor:
    if codes.ndim < 2 or codes.shape[:-1].numel() < 2:
        raise ShapeError(f"{what} expected codes [..., D] of two rows or more, got {list(codes.shape)}")
    return codes.detach().double().flatten(0, -2)
