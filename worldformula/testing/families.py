"""The laws of a probability family."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from inspect import signature

import torch
from torch import Tensor

from worldformula.errors import FormulaError, HeadError, NoClosedFormError, ShapeError
from worldformula.families.base import Family, Params, total
from worldformula.testing.laws import Laws

SAMPLES = 20_000  # of a Monte Carlo law; its standard errors are taken from the same samples


@dataclass(frozen=True)
class _Case:
    """A family with random float64 heads for q and p, noise and one sample, over a batch of 2."""

    family: Family
    shape: tuple[int, ...]
    head: Tensor
    other: Tensor
    generator: torch.Generator

    @property
    def rank(self) -> int:
        return len(self.shape)

    def params(self, head: Tensor | None = None) -> Params:
        return self.family.params(self.head if head is None else head, self.shape)

    def noise(self, *batch: int) -> Tensor:
        shape = self.family.noise_shape(batch, self.shape, self.params())
        return self.family.noise(shape, dtype=torch.float64, generator=self.generator)

    def gradient(self, value: Tensor | float, *heads: Tensor) -> Tensor:
        """The gradient of the sum of a value by the heads, zero where it does not depend on them."""
        if not (isinstance(value, Tensor) and value.requires_grad):
            return torch.zeros(len(heads))
        found = torch.autograd.grad(value.sum(), heads, allow_unused=True, retain_graph=True)
        return torch.cat([torch.zeros(1) if g is None else g.flatten() for g in found])

    def closed(self, q: Params, p: Params) -> dict[str, Tensor]:
        """Entropy of q and KL(q, p), those that have a closed form."""
        forms = {"entropy": lambda: self.family.entropy(q, self.rank), "kl": lambda: self.family.kl(q, p, self.rank)}
        found = {}
        for what, form in forms.items():
            with suppress(NoClosedFormError):
                found[what] = torch.as_tensor(form())
        return found


def check_family(family: Family, shape: tuple[int, ...] | None = None, *, seed: int = 0) -> None:
    """Check that a family keeps the contract of `worldformula.families.base.Family`.

    The laws: value semantics, shapes, errors on wrong widths and shapes, agreement with ``family.reference`` in value
    and gradient (float64), entropy, KL, mean and variance against Monte Carlo, the gradient of samples, constants
    against tensors, vmap, ``torch.compile(fullgraph=True)``, half precision. An entropy, KL, mean or variance without
    a closed form raises `NoClosedFormError`, and the laws about it do not apply.

    Args:
        family: The instance to check.
        shape: The event shape to check it with; by default ``default_rank`` axes of 4.
        seed: Seed of heads and noise.

    Raises:
        AssertionError: A law does not hold; the message is the table of laws.
    """
    shape = (4,) * family.default_rank if shape is None else shape
    generator = torch.Generator().manual_seed(seed)
    width = family.head_width(shape)
    size = (2, *shape, 5) if width is None else (2, width)
    head, other = (torch.randn(size, dtype=torch.float64, generator=generator) for _ in range(2))
    case = _Case(family, shape, head.requires_grad_(), other.requires_grad_(), generator)
    laws = Laws(f"{family}, event shape {shape}")
    for check in (_plain, _reference, _sampling, _constants, _transforms, _half):
        check(case, laws)
    laws.close()


def _plain(case: _Case, laws: Laws) -> None:
    """Value semantics, shapes, errors."""
    family, rank, params = case.family, case.rank, case.params()
    copy = pickle.loads(pickle.dumps(family))  # noqa: S301 - the family itself, in this process
    laws.equal("a pickled copy is equal", family, copy)
    laws.equal("equal families have equal hashes", hash(family), hash(copy))
    laws.equal("one tensor for each parameter", len(family.parameters), len(params))
    value = family.sample(params, case.noise(2)).detach()
    laws.equal("a sample has batch and event axes", (2, *case.shape), tuple(value.shape))
    laws.equal("the mode has them too", (2, *case.shape), tuple(torch.as_tensor(family.mode(params)).shape))
    laws.equal("a sample is a possible value", None, family.wrong_value(value, rank, params))
    density = family.log_prob(params, value, rank)
    laws.equal("log_prob keeps the batch axes", (2,), tuple(density.shape))
    joint = rank if family.joint is None else family.joint
    laws.equal(f"log_prob of rank {joint}, summed", density, _parts(family, params, value, joint, rank), 1e-12)
    closed = case.closed(params, params)
    if "kl" in closed:
        laws.equal("KL(q, q) is 0", torch.zeros(2), closed["kl"], 1e-12)
    if "entropy" in closed:
        laws.equal("entropy has the batch axes", (2,), tuple(closed["entropy"].shape))
    wrong = value.unsqueeze(0)
    laws.raises("a value of another shape", ShapeError, lambda: family.log_prob(params, wrong, rank))
    wide = torch.zeros(2, case.head[0].numel() + 1)
    if family.head_width(case.shape) is not None:
        laws.raises("a head that is one feature too wide", HeadError, lambda: family.params(wide, case.shape))
    laws.raises("an unknown parameter", HeadError, lambda: family.params({"unheard-of": 0.0}, case.shape))


def _reference(case: _Case, laws: Laws) -> None:
    """Values and gradients of an independent implementation, where the family names one."""
    family, rank = case.family, case.rank
    if not family.reference:
        return
    module, _, name = family.reference.partition(":")
    build = getattr(importlib.import_module(module), name)
    q, p = case.params(), case.params(case.other)
    ours = family.sample(q, case.noise(2)).detach()
    options = {f.name: getattr(family, f.name) for f in fields(family) if f.name in signature(build).parameters}
    theirs_q, theirs_p = (build(**dict(zip(family.parameters, params, strict=True)), **options) for params in (q, p))
    rest = rank - len(theirs_q.event_shape)
    closed = case.closed(q, p)
    pairs = {"log_prob": (family.log_prob(q, ours, rank), theirs_q.log_prob(ours))}
    if "entropy" in closed:
        with _double():  # torch's Multinomial computes log n! in the default dtype
            pairs["entropy"] = (closed["entropy"], theirs_q.entropy())
    if "kl" in closed:
        with suppress(NotImplementedError):  # torch has no KL of this family; Monte Carlo is left
            pairs["kl"] = (closed["kl"], torch.distributions.kl_divergence(theirs_q, theirs_p))
    for what, (got, expected) in pairs.items():
        expected = total(expected, rest)
        laws.equal(f"{what} of {name}", expected, got, 1e-10)
        heads = (case.head, case.other)
        laws.equal(f"gradient of {what}", case.gradient(expected, *heads), case.gradient(got, *heads), 1e-10)
    if _has(family.variance, q):
        expected, got = theirs_q.variance, torch.as_tensor(family.variance(q))
        laws.equal(f"variance of {name}", expected, got.expand(expected.shape), 1e-10)
        laws.equal("gradient of variance", case.gradient(expected, case.head), case.gradient(got, case.head), 1e-10)


def _sampling(case: _Case, laws: Laws) -> None:
    """Closed forms against Monte Carlo; the gradient that a sample carries."""
    family, rank = case.family, case.rank
    with torch.no_grad():
        q, p = case.params(), case.params(case.other)
        values = family.sample(q, case.noise(SAMPLES, 2))
        log_q = family.log_prob(family.expand(q, (SAMPLES, 2), rank), values, rank)
        log_p = family.log_prob(family.expand(p, (SAMPLES, 2), rank), values, rank)
        for what, closed in case.closed(q, p).items():
            laws.estimate(
                f"{what if what == 'entropy' else 'KL'} by Monte Carlo",
                -log_q if what == "entropy" else log_q - log_p,
                closed,
            )
        if _has(family.mean, q):
            mean = torch.as_tensor(family.mean(q))
            laws.estimate("mean by Monte Carlo", values, mean)
            if not family.reference and _has(family.variance, q):  # else it is compared; of heavy tails no estimate is
                laws.estimate("variance by Monte Carlo", (values - mean).square(), torch.as_tensor(family.variance(q)))
    q, noise = case.params(), case.noise(2)
    sample = family.sample(q, noise)
    laws.equal("a sample repeats with its noise", sample, family.sample(q, noise))
    laws.equal("reparametrised: a gradient reaches the head", family.reparametrised, sample.requires_grad)
    if family.reparametrised and family.estimator == "straight-through":
        weight = torch.randn(sample.shape, dtype=torch.float64, generator=case.generator)
        expected = case.gradient(torch.as_tensor(family.mean(q)) * weight, case.head)
        laws.equal("straight-through: the gradient of the mean", expected, case.gradient(sample * weight, case.head))


def _constants(case: _Case, laws: Laws) -> None:
    """Numbers in the place of tensors change the cost, not the result."""
    family, rank, shape = case.family, case.rank, case.shape
    try:
        numbers = family.params(None, shape)
    except FormulaError:  # a family may need to know more for a standard distribution, such as the classes
        return
    q, noise = case.params(), case.noise(2)
    tensors = family.filled(numbers, q)
    value = family.sample(q, noise).detach()
    laws.equal("constants: sample", family.sample(tensors, noise), family.sample(numbers, noise), 1e-6)
    expected = family.log_prob(tensors, value, rank)
    laws.equal("constants: log_prob", expected, family.log_prob(numbers, value, rank), 1e-6)
    closed = case.closed(tensors, q)
    if "kl" in closed:
        laws.equal("constants: kl(q, p)", family.kl(q, tensors, rank), family.kl(q, numbers, rank), 1e-10)
        laws.equal("constants: kl(p, q)", closed["kl"], family.kl(numbers, q, rank), 1e-10)
        laws.equal("constants: kl(p, p)", torch.zeros(()), family.kl(numbers, numbers, rank, shape), 1e-10)
    if "entropy" in closed:
        laws.equal("constants: entropy", closed["entropy"][0], family.entropy(numbers, rank, shape), 1e-10)


def _transforms(case: _Case, laws: Laws) -> None:
    """vmap over data, noise under vmap, one graph for the compiler."""
    family, shape, rank = case.family, case.shape, case.rank
    names = tuple(case.closed(case.params(), case.params(case.other)))
    every: dict[str, Callable[[Params, Params], Tensor | float]] = {
        "entropy": lambda q, _: family.entropy(q, rank),
        "kl": lambda q, p: family.kl(q, p, rank),
    }
    forms = [every[name] for name in names]

    def everything(head: Tensor, other: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        q, p = family.params(head, shape), family.params(other, shape)
        value = family.sample(q, noise)
        results = [torch.as_tensor(form(q, p)) for form in forms]
        return value, family.log_prob(q, value, rank), *results

    inputs = case.head.detach(), case.other.detach(), case.noise(2)
    expected = everything(*inputs)
    torch.compiler.reset()
    compiled = torch.compile(everything, fullgraph=True, backend="eager")(*inputs)
    mapped = torch.func.vmap(everything)(*inputs)
    for what, want, one, two in zip(("sample", "log_prob", *names), expected, compiled, mapped, strict=True):
        laws.equal(f"compiled as one graph: {what}", want, one, 1e-12)
        laws.equal(f"vmap: {what}", want, two, 1e-12)
    size = family.noise_shape((), shape, family.params(inputs[0][0], shape))
    noise = torch.func.vmap(lambda _: family.noise(size), randomness="different")(torch.zeros(3))
    laws.equal("noise under vmap has its shape", (3, *size), tuple(noise.shape))
    laws.equal("noise under vmap differs", True, bool((noise[0] != noise[1]).any()))


def _half(case: _Case, laws: Laws) -> None:
    """Half-precision heads: densities are computed in float32 at least."""
    family, rank = case.family, case.rank
    for dtype in (torch.float16, torch.bfloat16):
        q, p = case.params(case.head.detach().to(dtype)), case.params(case.other.detach().to(dtype))
        full_q, full_p = (case.params(head.detach().to(dtype).double()) for head in (case.head, case.other))
        value = family.sample(full_q, case.noise(2))
        value = value.float() if value.is_floating_point() else value
        expected_closed, closed = case.closed(full_q, full_p), case.closed(q, p)
        pairs = {what: (expected_closed[what], closed[what]) for what in closed}
        pairs["log_prob"] = (family.log_prob(full_q, value, rank), family.log_prob(q, value, rank))
        for what, (expected, got) in pairs.items():
            laws.equal(f"{what} of {dtype}", expected, torch.as_tensor(got).double(), 0.03)
            laws.equal(f"{what} of {dtype}: result", torch.float32, torch.as_tensor(got).dtype)


@contextmanager
def _double() -> Iterator[None]:
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def _parts(family: Family, params: Params, value: Tensor, joint: int, rank: int) -> Tensor:
    """The density of every part of an event, the parts summed."""
    return total(family.log_prob(params, value, joint), rank - joint)


def _has(moment: Callable[[Params], object], params: Params) -> bool:
    try:
        moment(params)
    except FormulaError:
        return False
    return True
