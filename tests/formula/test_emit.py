"""What the emitted code of a formula through time says, and that it computes what the interpreter does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from worldformula import KL, Bernoulli, Deterministic, E, Normal, Sum, log

B, T, X, Z, H = 3, 5, 4, 2, 6


class Tanh(nn.Module):
    """A linear layer and tanh on the concatenation of the inputs."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)

    def forward(self, *given):
        return torch.tanh(self.layer(torch.cat(given, -1)))


def recurrent(name, **options):
    """A small state-space model whose recurrence is called ``name``."""
    post = Normal("q(z_t|x_t,h_{t-1})", Tanh(X + H, 2 * Z), shape=Z)
    prior = Normal("p(z_t|h_{t-1})", Tanh(H, 2 * Z), shape=Z)
    core = Deterministic(f"h_t = {name}(z_t,h_{{t-1}})", Tanh(Z + H, H), shape=H)
    decode = Bernoulli("p(x_t|z_t)", Tanh(Z, X), shape=X)
    return Sum("t", E(post * core, KL(post, prior) - log(decode)), **options).mean()


@pytest.mark.parametrize("name", ["f", "F", "x", "stack", "torch"])
@pytest.mark.parametrize("options", [{}, {"reset": "first"}], ids=["whole", "restarted"])
def test_networks_are_looked_up_once_under_names_that_are_free(name, options):
    formula = recurrent(name, **options)
    given = {"x": torch.rand(B, T, X)} | ({"first": torch.rand(B, T) < 0.3} if options else {})
    compiled, walked = formula(**given, seed=0), formula.interpret(**given, seed=0)
    torch.testing.assert_close(compiled.value, walked.value)
    parameters = list(formula.parameters())
    for a, b in zip(
        torch.autograd.grad(compiled.value, parameters), torch.autograd.grad(walked.value, parameters), strict=True
    ):
        torch.testing.assert_close(a, b)
    assert (f"{name} = self.{name}\n" in formula.code) == (name == "f")


def test_distributions_of_the_loop_are_plain_lines_and_a_late_carry_is_one_shift():
    code = recurrent("f").code
    assert "families" not in code
    assert "q_z_scale_s.append(q_z_scale)" in code
    assert "h_prev_s" not in code
    assert code.count("shift(") == 1
