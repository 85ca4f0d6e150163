"""What a family offers as source text is, in value and gradient, what its methods compute."""

from __future__ import annotations

import math

import pytest
import scipy.special
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor

from worldformula import Bernoulli, log
from worldformula.errors import ShapeError
from worldformula.families import bernoulli, discover, normal
from worldformula.families.normal import NormalFamily
from worldformula.formula import runtime

PLAIN = [family for family in discover().values() if family.source_lines() is not None]
WIDTH, BATCH = 3, 5


def execute(lines: tuple[str, ...], *text: str, **tensors: Tensor) -> Tensor:
    """Run the lines of the parameters of ``q`` (from ``head``) and ``p`` (from ``other``), then those of an operation,
    whose last is its value.
    """
    scope = {"F": F, "torch": torch, **{name: getattr(runtime, name) for name in runtime.RUNTIME}, **tensors}
    for name, head in (("q", "head"), ("p", "other")):
        for line in lines:
            exec(line.format(name=name, head=head, width=WIDTH), scope)
    *first, value = (line.format(name="q", p="p", kl="kl", noise="noise", value="value") for line in text)
    for line in first:
        exec(line, scope)
    return eval(value, scope)


# How far text and method may differ, as they round in another order: values, gradients (which have the heads' type).
CLOSE = {
    torch.float64: (1e-12, 1e-10),
    torch.float32: (2e-6, 1e-5),
    torch.bfloat16: (2e-6, 2e-2),
    torch.float16: (2e-6, 2e-3),
}


def same(ours: Tensor, theirs: Tensor, heads: list[Tensor], *, density: bool = True) -> None:
    dtype = heads[0].dtype
    value, slope = CLOSE[dtype]
    expected = torch.float64 if dtype is torch.float64 else torch.float32 if density else dtype
    assert ours.dtype is theirs.dtype is expected
    torch.testing.assert_close(ours, theirs, rtol=value, atol=value)
    weight = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), heads, allow_unused=True, retain_graph=True),
        torch.autograd.grad((theirs * weight).sum(), heads, allow_unused=True, retain_graph=True),
        strict=True,
    ):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=slope, atol=slope)


@pytest.mark.parametrize("dtype", list(CLOSE), ids=str)
@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("family", PLAIN, ids=str)
def test_text_equals_method(family, declared, dtype):
    torch.manual_seed(0)
    text, k = family.source_lines(), len(family.parameters)
    heads = [torch.randn(BATCH, k * WIDTH, dtype=dtype, requires_grad=True) for _ in range(2)]
    noise, value = torch.randn(BATCH, WIDTH, dtype=dtype), torch.rand(BATCH, WIDTH, dtype=dtype)
    tensors = {"head": heads[0], "other": heads[1], "noise": noise, "value": value}
    shape = (WIDTH,) if declared else None
    lines = text.params if declared else text.undeclared
    q, p = (family.params(head, shape) for head in heads)
    same(execute(lines, text.log_prob, **tensors), family.log_prob(q, value, 1), heads)
    torch.testing.assert_close(execute(lines, text.mode, **tensors), family.mode(q))
    if text.sample is not None:
        same(execute(lines, text.sample, **tensors), family.sample(q, noise), heads, density=False)
    if text.kl is not None:
        same(execute(lines, *text.kl, **tensors), family.kl(q, p, 1), heads)
    if text.kl_standard is not None:
        same(execute(lines, text.kl_standard, **tensors), family.kl(q, (0.0, 1.0), 1), heads)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_widened_before_anything_is_squared_or_summed(dtype):
    torch.manual_seed(0)
    logits, pixels = (3 * torch.randn(1, 784)).to(dtype), torch.rand(1, 784).round().to(dtype)
    p = scipy.special.expit(logits.double().numpy())
    expected = scipy.stats.bernoulli(p).logpmf(pixels.double().numpy()).sum()
    text = execute(
        bernoulli.source_lines().params, bernoulli.source_lines().log_prob, head=logits, other=logits, value=pixels
    )
    assert text.item() == pytest.approx(expected, rel=1e-5)
    assert bernoulli.log_prob((logits,), pixels, 1).item() == pytest.approx(expected, rel=1e-5)

    head = torch.cat((torch.full((1, 2), 540.0), torch.zeros(1, 2)), -1).to(dtype)
    loc, scale = head[0, 0].item(), F.softplus(head[0, -1]).item()  # as rounded
    plain = normal.source_lines()
    kl = execute(plain.undeclared, plain.kl_standard, head=head, other=head)
    assert kl.item() == pytest.approx(loc**2 + scale**2 - 1 - 2 * math.log(scale), rel=1e-5)
    density = execute(plain.undeclared, plain.log_prob, head=head, other=head, value=torch.zeros(1, 2, dtype=dtype))
    assert density.item() == pytest.approx(2 * scipy.stats.norm(loc, scale).logpdf(0.0), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool], ids=str)
def test_bits_of_any_type_are_scored_alike(dtype):
    logits, bits = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64), torch.tensor([[1, 0, 1]])
    expected = scipy.stats.bernoulli(scipy.special.expit(logits.numpy())).logpmf(bits.numpy()).sum()
    text = execute(
        bernoulli.source_lines().params,
        bernoulli.source_lines().log_prob,
        head=logits,
        other=logits,
        value=bits.to(dtype),
    )
    assert text.item() == pytest.approx(expected, rel=1e-14)
    assert bernoulli.log_prob((logits,), bits.to(dtype), 1).item() == pytest.approx(expected, rel=1e-14)
    loss = -log(Bernoulli("p(x|z)", torch.nn.Identity(), shape=3)).mean()
    assert loss(x=bits.to(dtype), z=logits).value.item() == pytest.approx(-expected, rel=1e-14)
    assert loss.interpret(x=bits.to(dtype), z=logits).value.item() == pytest.approx(-expected, rel=1e-14)


def test_normal_and_bernoulli_are_written_out_and_a_minimal_scale_is_not():
    assert {normal, bernoulli} <= set(PLAIN)
    assert NormalFamily(min_scale=0.1).source_lines() is None


def test_a_head_of_another_width_does_not_split():
    with pytest.raises(RuntimeError, match="split"):
        execute(
            normal.source_lines().params, "q_loc", head=torch.zeros(2, 2 * WIDTH + 2), other=torch.zeros(2, 2 * WIDTH)
        )


def test_a_value_of_another_shape_is_refused():
    tensors = {"head": torch.zeros(2, 2 * WIDTH), "other": torch.zeros(2, 2 * WIDTH), "value": torch.zeros(1, WIDTH)}
    with pytest.raises(ShapeError):
        execute(normal.source_lines().params, normal.source_lines().log_prob, **tensors)
