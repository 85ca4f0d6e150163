"""Learnt parameters in their sets: what is refused, in full, and what is allowed."""

import pytest
import torch
from torch import nn

from tests.formula.defects.both import PATHS, run
from worldformula import (
    Bernoulli,
    E,
    Gamma,
    Mixture,
    MultivariateNormal,
    Normal,
    OneHot,
    Sum,
    Uniform,
    log,
    positive,
)
from worldformula.errors import FormulaError


def learnt(*values):
    return nn.Parameter(torch.tensor(values))


REFUSED = {
    "scale": (
        lambda: Normal("p(x)", shape=2, loc=0.0, scale=learnt(1.0, 2.0)),
        (
            "p(x): expected scale= greater than 0, got an nn.Parameter, which training would take out of its set\n"
            "write scale=positive(nn.Parameter(...))"
        ),
    ),
    "probs": (
        lambda: Bernoulli("p(x)", shape=2, probs=learnt(0.4, 0.6)),
        (
            "p(x): expected probs= from 0 to 1, got an nn.Parameter, which training would take out of its set\n"
            "learn logits=nn.Parameter(...)"
        ),
    ),
    "probs above 0": (
        lambda: Bernoulli("p(x)", shape=2, probs=positive(learnt(0.4, 0.6))),
        (
            "p(x): expected probs= from 0 to 1, got positive(...), which training would take out of its set\n"
            "learn logits=nn.Parameter(...)"
        ),
    ),
    "weights": (
        lambda: Mixture("p(x)", components=2, shape=1, weights=learnt(0.4, 0.6), loc=torch.zeros(2, 1), scale=1.0),
        (
            "p(x): expected weights= of finite weights of at least 0, not all 0, over the last axis, got an "
            "nn.Parameter, which training would take out of its set\n"
            "write weights=positive(nn.Parameter(...)), or learn log_weights=nn.Parameter(...)"
        ),
    ),
    "low": (
        lambda: Uniform("p(x)", shape=1, low=learnt(-1.0), high=1.0),
        (
            "p(x): expected low= between low and high, got an nn.Parameter, which training would take out of its set\n"
            "write low=0.0, high=positive(nn.Parameter(...)), or let a network return both ends"
        ),
    ),
    "triangle": (
        lambda: MultivariateNormal("p(x)", shape=2, loc=torch.zeros(2), scale_tril=nn.Parameter(torch.eye(2))),
        (
            "p(x): expected scale_tril= as a lower triangular matrix with a positive diagonal, got an "
            "nn.Parameter, which training would take out of its set\n"
            "give the whole head as one nn.Parameter in the place of the network: the family maps it into the set"
        ),
    ),
    "start": (
        lambda: positive(learnt(1.0, -0.5)),
        "positive: expected a start greater than 0, got -0.5 in the nn.Parameter",
    ),
    "no parameter": (
        lambda: positive(torch.ones(3)),
        "positive: expected an nn.Parameter of real numbers, got Tensor; write positive(nn.Parameter(torch.ones(3)))",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_nothing_would_keep_in_its_set_is_refused(case):
    build, message = REFUSED[case]
    with pytest.raises(FormulaError) as caught:
        build()
    assert str(caught.value) == message


def test_the_names_in_a_state():
    beside = log(Normal("p(x|z)", nn.Linear(2, 3), shape=3, scale=positive(learnt(1.0, 2.0, 3.0))))
    assert set(beside.state_dict()) == {
        "p_x_given_z.weight", "p_x_given_z.bias", "p_x_given_z_constants.scale_raw"
    }  # fmt: skip
    alone = log(Gamma("p(x)", shape=2, concentration=2.0, rate=positive(learnt(1.0, 2.0))))
    assert set(alone.state_dict()) == {"p_x.rate_raw"}


@pytest.mark.parametrize("start", [1e-6, 0.3, 1.0, 50.0, 1e6])
def test_the_start_is_kept_at_every_size(start):
    found = Normal("p(x)", shape=1, loc=0.0, scale=positive(learnt(start))).params()[1]
    torch.testing.assert_close(found, torch.tensor([start]), rtol=1e-5, atol=0)


def test_one_learnt_number_in_two_factors_and_through_time():
    scale = positive(learnt(0.5))
    p, q = (Normal(f"p(x_t|{z}_t)", lambda z: z, shape=1, scale=scale) for z in ("y", "z"))
    loss, x, y, z = Sum("t", log(p) + log(q)), *(torch.randn(3, 4, 1) for _ in range(3))
    assert len(list(loss.parameters())) == 1
    for path in (loss, loss.interpret):
        value = path(x=x, y=y, z=z).value
        both = torch.distributions.Normal(y, 0.5).log_prob(x) + torch.distributions.Normal(z, 0.5).log_prob(x)
        torch.testing.assert_close(value, both.sum((1, 2)))


def test_an_upper_end_above_0_and_weights_above_0():
    uniform = Uniform("p(x)", shape=1, low=-1.0, high=positive(learnt(3.0)))
    torch.testing.assert_close(log(uniform)(x=torch.zeros(2, 1)).value, -torch.tensor(4.0).log().expand(2))
    classes = OneHot("p(k)", shape=3, probs=positive(learnt(1.0, 2.0, 5.0)))
    torch.testing.assert_close(log(classes)(k=torch.eye(3)).value, torch.tensor([1.0, 2.0, 5.0]).div(8).log())


def test_draws_pass_their_gradient_to_what_moves():
    q = Normal("q(z)", shape=1, loc=0.0, scale=positive(learnt(2.0)))
    noise = torch.tensor([[0.5], [-1.0]])
    value = E(q, log(Normal("p(x|z)", lambda z: z, shape=1, scale=1.0)))(x=torch.zeros(2, 1), noise={"z": noise}).value
    (raw,) = q.parameters()
    (found,) = torch.autograd.grad(value.sum(), raw)
    # of -(σ n)²/2 by σ: -σ n²; of σ = softplus(raw) by raw: 1 - exp(-σ)
    expected = -(2.0 * noise.square().sum()) * (1 - torch.exp(torch.tensor(-2.0)))
    torch.testing.assert_close(found, expected.reshape(1))


@PATHS
@pytest.mark.parametrize("raw", [-1e3, -104.0, -90.0, 0.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_wherever_training_takes_it_a_scale_is_greater_than_0(raw, dtype, path):
    p = Normal("p(x)", shape=2, loc=0.0, scale=positive(nn.Parameter(torch.ones(2))))
    loss = log(p).to(dtype)
    with torch.no_grad():
        p.constants.scale_raw.fill_(raw)
    scale = p.params()[1]
    assert (scale > 0).all()
    assert scale.isfinite().all()
    value = run(loss, path, x=torch.zeros(3, 2, dtype=dtype)).value
    assert value.isfinite().all()
    assert torch.autograd.grad(value.sum(), p.constants.scale_raw)[0].isfinite().all()


def test_steps_of_any_size_leave_a_scale_in_its_set():
    torch.manual_seed(0)
    p = Normal("p(x)", shape=2, loc=0.0, scale=positive(nn.Parameter(torch.ones(2))))
    loss = -log(p).mean()
    optimiser = torch.optim.SGD(loss.parameters(), lr=30.0)
    lowest = 1.0
    for step in range(60):
        optimiser.zero_grad()
        loss(x=0.01 * torch.randn(16, 2) if step % 10 else torch.zeros(16, 2)).value.backward()
        optimiser.step()
        scale = p.params()[1]
        assert (scale > 0).all()
        assert scale.isfinite().all()
        lowest = min(lowest, scale.min().item())
    assert lowest < 1e-3  # the steps were large
