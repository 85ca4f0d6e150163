"""The laws of a network over a past: all at once and step by step are one function."""

from __future__ import annotations

import torch
from torch import Tensor

from worldformula.errors import ShapeError, table
from worldformula.nets.causal import Causal
from worldformula.testing.laws import Laws

CLOSE = {torch.float32: 1e-5, torch.float64: 1e-9}


def check_causal(net: torch.nn.Module, *series: Tensor, reset: Tensor | None = None) -> None:
    """Check that a network keeps the protocol `worldformula.nets.causal.Causal`.

    The laws: a whole series, chunks of it, and one position after the other give the same values and gradients, with
    resets and without; without gradients too, where a cache may be written in place; position t sees neither what comes
    later, nor what was before a reset, nor more than ``context`` positions, so that a chunk from the middle of an
    episode equals the whole behind its first context − 1 rows; a row sees no other row; a cache is a value: two futures
    begin at one past, its rows may be selected and repeated, and what it stores for a checkpoint goes on exactly alike.

    Args:
        net: The network, in the dtype of the series.
        series: What it reads, ``[B, T, ...]`` with B ≥ 2 and T ≥ 4.
        reset: Flags ``[B, T]``; random ones unless given.

    Raises:
        AssertionError: A law does not hold; the message is the table of laws.
        ShapeError: There is no series, or one has other axes.
    """
    laws = Laws(f"causal network {type(net).__name__}")
    laws.equal("is a Causal: has context, cache and step", True, isinstance(net, Causal))
    if not isinstance(net, Causal):
        laws.close()
    _enough(series)
    B, T = series[0].shape[:2]
    if reset is None:
        reset = torch.rand(B, T, generator=torch.Generator().manual_seed(0)) < 0.2
        reset = reset.to(series[0].device)
    _blind(laws, net, series, reset)
    _rows(laws, net, series, reset)
    for flags in (None, reset):
        _equal(laws, net, series, flags)
    _values(laws, net, series)
    laws.close()


def _enough(series: tuple[Tensor, ...]) -> None:
    """Refuse series in which the laws cannot be seen."""
    shapes = [list(s.shape) for s in series]
    fit = all(
        s.ndim >= 2 and s.shape[0] >= 2 and s.shape[1] >= 4 and s.shape[:2] == series[0].shape[:2] for s in series
    )
    if not series or not fit:
        rows = [(f"series {place}", "[B >= 2, T >= 4, ...]", shape) for place, shape in enumerate(shapes, 1)]
        raise ShapeError(
            "check_causal: expected series of one batch of at least 2 rows and of at least 4 steps\n"
            + table(("what", "expected", "got"), rows or [("series 1", "[B >= 2, T >= 4, ...]", "none")])
            + "\npass what the network reads, as check_causal(net, torch.randn(3, 9, 5))"
        )


def _steps(net: torch.nn.Module, series: tuple[Tensor, ...], reset: Tensor | None, sizes: list[int]) -> Tensor:
    """The series in chunks of these sizes, with a cache."""
    B, T = series[0].shape[:2]
    cache = net.cache(B, T, series[0].device, series[0].dtype)  # type: ignore[operator]
    found, begin = [], 0
    for size in sizes:
        time = slice(begin, begin + size)
        flags = None if reset is None else reset[:, time]
        cache, y = net.step(cache, *(s[:, time] for s in series), reset=flags)  # type: ignore[operator]
        found.append(y)
        begin += size
    return torch.cat(found, 1)


def _equal(laws: Laws, net: torch.nn.Module, series: tuple[Tensor, ...], reset: Tensor | None) -> None:
    """Values and gradients, in one piece and in many."""
    T, close = series[0].shape[1], CLOSE[series[0].dtype]
    named = "" if reset is None else ", with resets"
    leaves = tuple(s.detach().clone().requires_grad_() for s in series)
    whole = net(*leaves, reset=reset)
    laws.equal(f"can be differentiated{named}", True, whole.requires_grad)
    if not whole.requires_grad:
        return
    weight = torch.linspace(0.5, 1.5, whole[0].numel(), dtype=whole.dtype, device=whole.device).view(whole[0].shape)
    wanted = torch.autograd.grad((whole.square() * weight).mean(), [*leaves, *net.parameters()], allow_unused=True)
    names = [*(f"series {n}" for n in range(1, len(leaves) + 1)), *(name for name, _ in net.named_parameters())]
    for how, sizes in (("steps", [1] * T), ("chunks", [2, 1, T - 3])):
        y = _steps(net, leaves, reset, sizes)
        laws.equal(f"{how}: can be differentiated{named}", True, y.requires_grad)
        if not y.requires_grad:
            continue
        got = torch.autograd.grad((y.square() * weight).mean(), [*leaves, *net.parameters()], allow_unused=True)
        laws.equal(f"{how}: value{named}", whole.detach(), y.detach(), close)
        pairs = zip(names, wanted, got, strict=True)
        unlike = [name for name, left, right in pairs if not _alike(left, right, close)]
        laws.equal(f"{how}: gradients that differ{named}", "none", ", ".join(unlike) or "none")
        with torch.no_grad():
            laws.equal(f"{how} without gradient{named}", whole.detach(), _steps(net, series, reset, sizes), close)


def _alike(left: Tensor | None, right: Tensor | None, close: float) -> bool:
    """Two gradients, each None where there is none, within the tolerance of `Laws.equal`."""
    if left is None or right is None:
        return left is right
    return bool(((left == right) | ((right - left).abs() <= close * (1.0 + left.abs()))).all())


def _blind(laws: Laws, net: torch.nn.Module, series: tuple[Tensor, ...], reset: Tensor) -> None:
    """What a position must not see."""
    T, close = series[0].shape[1], CLOSE[series[0].dtype]
    middle = T // 2
    other = tuple(s.flip(0) + 1 for s in series)
    with torch.no_grad():
        whole = net(*series)
        late = tuple(torch.cat((s[:, :middle], o[:, middle:]), 1) for s, o in zip(series, other, strict=True))
        laws.equal("sees nothing that comes later", whole[:, :middle], net(*late)[:, :middle], close)
        begins = torch.zeros_like(reset)
        begins[:, middle] = True
        early = tuple(torch.cat((o[:, :middle], s[:, middle:]), 1) for s, o in zip(series, other, strict=True))
        after = net(*early, reset=begins)[:, middle:]
        laws.equal("sees nothing before a reset", net(*series, reset=begins)[:, middle:], after, close)
        laws.equal("a reset begins anew", net(*(s[:, middle:] for s in series)), after, close)
        context = net.context
        if isinstance(context, int) and context <= T - 1:
            chunk = net(*(s[:, 1:] for s in series))[:, context - 1 :]
            laws.equal("a chunk equals the whole behind context - 1 rows", whole[:, context:], chunk, close)


def _rows(laws: Laws, net: torch.nn.Module, series: tuple[Tensor, ...], reset: Tensor) -> None:
    """A row is what it is beside any others, in one piece and step by step."""
    T, close = series[0].shape[1], CLOSE[series[0].dtype]
    mixed = tuple(torch.cat((s[:1], s[1:].flip(1) + 1)) for s in series)
    with torch.no_grad():
        for named, flags in (("", None), (", with resets", reset)):
            whole, beside = net(*series, reset=flags), net(*mixed, reset=flags)
            laws.equal(f"a row sees no other row{named}", whole[:1], beside[:1], close)
            beside = _steps(net, mixed, flags, [1] * T)
            laws.equal(f"a row sees no other row, step by step{named}", whole[:1], beside[:1], close)


def _values(laws: Laws, net: torch.nn.Module, series: tuple[Tensor, ...]) -> None:
    """A cache is a value."""
    (B, T), close = series[0].shape[:2], CLOSE[series[0].dtype]
    with torch.no_grad():
        empty = net.cache(B, T, series[0].device, series[0].dtype)  # type: ignore[operator]
        past, _ = net.step(empty, *(s[:, : T - 2] for s in series))  # type: ignore[operator]
        rest = tuple(s[:, T - 2 :] for s in series)
        first = net.step(past, *rest)[1]  # type: ignore[operator]
        net.step(past, *(r.flip(0) for r in rest))  # type: ignore[operator]
        laws.equal("two futures begin at one past", first, net.step(past, *rest)[1], close)  # type: ignore[operator]
        rows = torch.arange(B - 1, -1, -1, device=series[0].device)
        chosen = net.step(past.select(rows), *(r[rows] for r in rest))[1]  # type: ignore[operator]
        laws.equal("select", first[rows], chosen, close)
        many, found = past.repeat(3), []
        for n in range(2):
            many, y = net.step(many, *(r[:, n : n + 1].repeat_interleave(3, 0) for r in rest))  # type: ignore[operator]
            found.append(y)
        laws.equal("repeat", first.repeat_interleave(3, 0), torch.cat(found, 1), close)
        again = net.step(many.repeat(2), *(r[:, :1].repeat_interleave(6, 0) for r in rest))[1]  # type: ignore[operator]
        plain = net.step(many, *(r[:, :1].repeat_interleave(3, 0) for r in rest))[1]  # type: ignore[operator]
        for law, held, times in (("stored", past, 1), ("stored, of repeated rows", many, 3)):
            kept = held.restored(held.stored(), series[0].device)
            new = tuple(r[:, :1].repeat_interleave(times, 0) for r in rest)
            laws.equal(law, net.step(held, *new)[1], net.step(kept, *new)[1])  # type: ignore[operator]
        laws.equal("repeat twice", plain.repeat_interleave(2, 0), again, close)
