"""A formula by its emitted code and by its interpreter, and what a refusal must say."""

import contextlib

import pytest
import torch

from worldformula.errors import WorldformulaError

PATHS = pytest.mark.parametrize("path", ["call", "interpret"])


def wrong(reason):
    """What is known to be wrong, and why; the day it is right, the test says so."""
    return pytest.mark.xfail(strict=True, reason=reason)


def known(cases, failing, reason):
    """The cases of a parametrised test, those marked that are known to be wrong."""
    return [pytest.param(case, marks=wrong(reason) if case in failing else ()) for case in cases]


def run(loss, path, **given):
    """The result of one of the two ways to evaluate a formula."""
    return (loss if path == "call" else loss.interpret)(**given)


@contextlib.contextmanager
def refused(*words, error=WorldformulaError):
    """An error of the library's own whose text has these words (in any case of letters)."""
    with pytest.raises(error) as caught:
        yield
    text = str(caught.value).lower()
    assert all(word.lower() in text for word in words), f"{text!r} does not say {words}"


def finite_gradients(value, module):
    """The gradients of all weights, which must be numbers."""
    weights = [p for p in module.parameters() if p.requires_grad]
    found = torch.autograd.grad(value.sum(), weights)
    assert weights
    assert all(g.isfinite().all() for g in found)
    return found
