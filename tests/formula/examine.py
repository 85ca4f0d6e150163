"""What is asked of every grown formula: it reads back as printed, interpreter and emitted code agree, and so does the
witness. `examine` raises `Fault` with what came and what is right; a refusal is a `FormulaError` of the library.
"""

import signal
from collections import Counter
from contextlib import contextmanager

import torch

from tests.formula.build import Builder
from tests.formula.reader import read, same
from tests.formula.soil import AWAITED
from tests.formula.witness import Witness
from worldformula import Expression

TOLERANCE = 1e-9  # of the largest number among value and gradients, in float64


class Fault(AssertionError):
    """A formula that is printed, refused or computed wrongly; ``kind`` says where."""

    def __init__(self, kind, text):
        super().__init__(f"{kind}: {text}")
        self.kind = kind


@contextmanager
def double():
    """The witness counts in float64; the library takes its dtype from the data."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def limited(seconds):
    """A fault where something takes more of the processor's time."""

    def late(*_):
        raise Fault("time", f"not done after {seconds} s")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def line(expression):
    return repr(expression).removeprefix("<Expression ").removesuffix(">")


def call_of(expression, grown):
    """The keywords of a call."""
    materials, inputs = grown.materials, expression.program.inputs
    if lost := [key for key in inputs if key not in materials.data]:
        raise Fault("inputs", f"asks for {', '.join(lost)}, which it computes or draws: {line(expression)}")
    data = {key: materials.dirty.get(key, materials.data[key]) for key in inputs}
    present = {key: flags for key, flags in materials.present.items() if key in inputs}
    return data | ({"present": present} if present else {})


def pulled(value, weights):
    """A value, and its gradients as zeros where there are none."""
    total = torch.as_tensor(value, dtype=torch.float64).sum()
    given, found = list(weights.values()), [None] * len(weights)
    if total.requires_grad and given:
        found = torch.autograd.grad(total, given, allow_unused=True)
    grads = {n: torch.zeros_like(w) if g is None else g for (n, w), g in zip(weights.items(), found, strict=True)}
    return torch.as_tensor(value, dtype=torch.float64).detach(), grads


def compare(kind, ours, theirs, shown):
    """Raise where two values or their gradients differ; an axis that only broadcasts is no difference."""
    (value, grads), (other, others) = ours, theirs
    size = max([1.0, *(g.abs().max().item() for g in (other, *others.values()) if g.numel())])
    if value.shape != other.shape and kind != "witness":
        raise Fault(kind, f"shapes {list(value.shape)} and {list(other.shape)} of {shown}")
    if not close(value, other, size):
        raise Fault(f"{kind}, value", f"{value.tolist()} for {other.tolist()} of {shown}")
    for name, grad in grads.items():
        if not close(grad, others[name], size):
            got, right = grad.flatten()[:4].tolist(), others[name].flatten()[:4].tolist()
            raise Fault(f"{kind}, gradient", f"of {name}: {got} for {right} of {shown}")


def close(a, b, size):
    a, b = torch.broadcast_tensors(a, b)
    return torch.allclose(a, b, rtol=1e-9, atol=TOLERANCE * size, equal_nan=False)


def noise_by_name(noise):
    """The noise under the names of the variables, some of which the emitted code calls ``s_``."""
    return {key.rstrip("_"): value for key, value in noise.items()}


def examine(grown, *, seed=3, seen=None, tally=None):
    """Build, print, read back, run and compare. Returns the expression, or raises Fault or the library's refusal.

    seen: what the witness evaluates in the formula's place, for a test that the comparison can fail. tally: a Counter
    of the comparisons that were made.
    """
    tally = Counter() if tally is None else tally
    expression = Builder(grown.materials).expression(grown.node)
    if not isinstance(expression, Expression):
        raise Fault("build", f"a {type(expression).__name__} came for {grown.node}")
    shown = line(expression)
    if not same(read(shown, expression.node), expression.node):
        raise Fault("print", f"does not read back: {shown}")
    tally["read back"] += 1
    call = call_of(expression, grown)
    noise = expression.noise(**call, generator=torch.Generator().manual_seed(seed))
    weights = grown.materials.parameters()
    if "gradient of the first call" in AWAITED:
        expression(**call, noise=noise)
    emitted = pulled(expression(**call, noise=noise).value, weights)
    interpreted = pulled(expression.interpret(**call, noise=noise).value, weights)
    compare("interpreter", emitted, interpreted, shown)
    tally["interpreted"] += 1
    with double():
        witness = Witness(seen or grown.node, grown.materials, noise_by_name(noise), grown.batch, grown.steps)
        right = pulled(witness.evaluate(), weights)
    if not right[0].isfinite().all():
        tally["not finite"] += 1
        return expression  # such as 0·log 0 of a sample that has probability 0 in float64
    compare("witness", emitted, right, shown)
    tally["witnessed"] += 1
    known = {id(p) for p in expression.parameters()}
    lost = [n for n, g in right[1].items() if g.any() and id(weights[n]) not in known]
    if lost:
        raise Fault("parameters", f"{', '.join(lost)} would not be learnt by {shown}")
    return expression
