"""What a family offers as source text is, in value and gradient, what its methods compute."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worldformula.errors import ShapeError
from worldformula.families import bernoulli, discover, normal
from worldformula.families.normal import NormalFamily
from worldformula.formula.runtime import matched

PLAIN = [family for family in discover().values() if family.plain() is not None]
WIDTH, BATCH = 3, 5


def execute(lines: tuple[str, ...], *text: str, **tensors: Tensor) -> Tensor:
    """Run the lines of the parameters of ``q`` (from ``head``) and ``p`` (from ``other``), then those of an operation,
    whose last is its value.
    """
    scope = {"F": F, "torch": torch, "matched": matched, **tensors}
    for name, head in (("q", "head"), ("p", "other")):
        for line in lines:
            exec(line.format(name=name, head=head, width=WIDTH), scope)
    *first, value = (line.format(name="q", p="p", kl="kl", noise="noise", value="value") for line in text)
    for line in first:
        exec(line, scope)
    return eval(value, scope)


def same(ours: Tensor, theirs: Tensor, heads: list[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), heads, allow_unused=True, retain_graph=True),
        torch.autograd.grad((theirs * weight).sum(), heads, allow_unused=True, retain_graph=True),
        strict=True,
    ):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("family", PLAIN, ids=str)
def test_text_equals_method(family, declared):
    text, k = family.plain(), len(family.parameters)
    heads = [torch.randn(BATCH, k * WIDTH, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    noise, value = torch.randn(BATCH, WIDTH, dtype=torch.float64), torch.rand(BATCH, WIDTH, dtype=torch.float64)
    tensors = {"head": heads[0], "other": heads[1], "noise": noise, "value": value}
    shape = (WIDTH,) if declared else None
    lines = text.params if declared else text.undeclared
    q, p = (family.params(head, shape) for head in heads)
    same(execute(lines, text.log_prob, **tensors), family.log_prob(q, value, 1), heads)
    torch.testing.assert_close(execute(lines, text.mode, **tensors), family.mode(q))
    if text.sample is not None:
        same(execute(lines, text.sample, **tensors), family.sample(q, noise), heads)
    if text.kl is not None:
        same(execute(lines, *text.kl, **tensors), family.kl(q, p, 1), heads)
    if text.kl_standard is not None:
        same(execute(lines, text.kl_standard, **tensors), family.kl(q, (0.0, 1.0), 1), heads)


def test_normal_and_bernoulli_are_written_out_and_a_minimal_scale_is_not():
    assert {normal, bernoulli} <= set(PLAIN)
    assert NormalFamily(min_scale=0.1).plain() is None


def test_a_head_of_another_width_does_not_split():
    with pytest.raises(RuntimeError, match="split"):
        execute(normal.plain().params, "q_loc", head=torch.zeros(2, 2 * WIDTH + 2), other=torch.zeros(2, 2 * WIDTH))


def test_a_value_of_another_shape_is_refused():
    tensors = {"head": torch.zeros(2, 2 * WIDTH), "other": torch.zeros(2, 2 * WIDTH), "value": torch.zeros(1, WIDTH)}
    with pytest.raises(ShapeError):
        execute(normal.plain().params, normal.plain().log_prob, **tensors)
