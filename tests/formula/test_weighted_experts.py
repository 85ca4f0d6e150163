"""Mixtures of experts with weights: given, learnt, from a network; against sums over the experts by hand."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from worldformula import (
    KL,
    Categorical,
    E,
    Laplace,
    Mixture,
    MoE,
    MoPoE,
    Normal,
    OneHot,
    PoE,
    Value,
    each,
    log,
    positive,
    total,
)
from worldformula.errors import FormulaError, GradientError
from worldformula.formula.graph.graph import graph
from worldformula.formula.print import latex_lines, mathml
from worldformula.formula.print.definitions import definitions
from worldformula.formula.print.densities import factor_mathml

DOUBLE = torch.float64


def experts(seed=0):
    """Two experts of one latent, each from a modality."""
    torch.manual_seed(seed)
    return [Normal(f"q(z|{name})", nn.Linear(3, 4), shape=2).double() for name in "xy"]


def inputs(rows=5):
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(rows, 3, dtype=DOUBLE, generator=generator) for name in "xy"}


def by_hand(q, z, given):
    """The log-density of every expert, ``[B, K]``."""
    return torch.stack([part.log_prob(z=z, **{n: given[n]}) for part, n in zip(q, "xy", strict=True)], -1)


def test_given_weights_are_shares_of_the_densities():
    q, given = experts(), inputs()
    mixed = MoE(q, weights=[3, 1])
    z = mixed.sample(**given, seed=0)
    expected = (by_hand(q, z, given) + torch.tensor([0.75, 0.25], dtype=DOUBLE).log()).logsumexp(-1)
    torch.testing.assert_close(mixed.log_prob(z=z, **given), expected)
    assert mixed.definition == "q(z|x,y) = 0.75 q(z|x) + 0.25 q(z|y)"
    assert MoE(q, weights=[0, 2]).definition == "q(z|x,y) = 0 q(z|x) + 1 q(z|y)"
    assert mixed.latex == r"q(z \mid x, y) = 0.75\, q(z \mid x) + 0.25\, q(z \mid y)"
    loss = log(mixed).mean()
    torch.testing.assert_close(loss(z=z, **given).value, expected.mean())
    torch.testing.assert_close(loss.interpret(z=z, **given).value, expected.mean())
    even = MoE(q, weights=torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(even.log_prob(z=z, **given), MoE(q).log_prob(z=z, **given))
    for other in (copy.deepcopy(mixed), pickle.loads(pickle.dumps(mixed))):
        torch.testing.assert_close(other.log_prob(z=z, **given), expected)


def gate_of(kind):
    if kind == "network":
        return OneHot("p(k|x)", nn.Linear(3, 2).double(), shape=2)
    if kind == "classes":
        return Categorical("p(k|x)", nn.Linear(3, 2).double(), shape=(), classes=2)
    return OneHot("p(k)", shape=2, logits=nn.Parameter(torch.tensor([0.3, -0.4], dtype=DOUBLE)))


@pytest.mark.parametrize("kind", ["network", "classes", "learnt"])
def test_stratified_draws_give_the_sum_over_the_experts_and_its_gradient(kind):
    """E f(z) = Σ_k w_k E_k f(z), and of a square the means of all experts are known."""
    q, given = experts(), inputs(1)
    gate = gate_of(kind)
    mixed = MoE(q, weights=gate)
    loss = E(mixed, total(Value("z") * Value("z")), gradient="stratified", samples=4000).mean()

    def exact():
        logits = gate.params(*([given["x"]] if kind != "learnt" else []))[0]
        moments = []
        for part, name in zip(q, "xy", strict=True):
            loc, scale = part.params(given[name])
            moments.append((loc.square() + scale.square()).sum(-1))
        return (logits.log_softmax(-1).exp() * torch.stack(moments, -1)).sum(-1).mean()

    weights = [*gate.parameters(), *q[0].parameters(), *q[1].parameters()]
    expected, want = exact(), torch.autograd.grad(exact(), weights)
    out = loss(**given, seed=0)
    assert out.value.item() == pytest.approx(expected.item(), rel=0.05)
    torch.testing.assert_close(out.value, loss.interpret(**given, seed=0).value)
    got = torch.autograd.grad(out.value, weights)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.1)


def test_one_draw_misses_the_weights_so_it_is_refused_and_scored():
    q, given = experts(), inputs()
    f = total(Value("z"))
    assert E(MoE(q, weights=[0.2, 0.8]), f).mean()(**given, seed=0).value.requires_grad
    learnt = MoE(q, weights=gate_of("learnt"))
    with pytest.raises(GradientError, match="stratified"):
        E(learnt, f)
    gate = learnt.gate
    many = {name: value[:1].expand(200_000, -1) for name, value in given.items()}
    drawn = E(learnt, f, gradient="score", baseline="leave-one-out", samples=2).mean()(**many, seed=0).value
    found = torch.autograd.grad(drawn, list(gate.parameters()))[0]
    shares = gate.params()[0]
    means = torch.stack([part.params(given[n][:1])[0].sum() for part, n in zip(q, "xy", strict=True)])
    expected = torch.autograd.grad((shares.softmax(-1) * means).sum(), list(gate.parameters()))[0]
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02)


def test_weights_of_experts_that_a_row_lacks_go_to_the_others():
    torch.manual_seed(0)
    q = [*experts(), Normal("q(z|u)", nn.Linear(3, 4), shape=2).double()]
    given = {**inputs(4), "u": torch.randn(4, 3, dtype=DOUBLE)}
    mixed = MoE(q, weights=[0.5, 0.2, 0.3])
    z = torch.randn(4, 2, dtype=DOUBLE)
    there = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 1, 1]], dtype=DOUBLE)
    logs = torch.stack([part.log_prob(z=z, **{n: given[n]}) for part, n in zip(q, "xyu", strict=True)], -1)
    shares = there * torch.tensor([0.5, 0.2, 0.3], dtype=DOUBLE)
    shares = shares / shares.sum(-1, keepdim=True)
    expected = (shares * logs.exp()).sum(-1).log()
    flags = {name: there[:, k] for k, name in enumerate("xyu")}
    found = log(mixed)(z=z, **given, present=flags).value
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(log(mixed).interpret(z=z, **given, present=flags).value, expected)


def test_a_row_without_what_the_network_of_the_weights_reads_has_equal_ones():
    q, gate = experts(), gate_of("network")
    given, z = inputs(2), torch.randn(2, 2, dtype=DOUBLE)
    prior = Normal("p(z)", shape=2)
    both = PoE([prior, q[0]])
    mixed = MoE([Normal("q(z|y)", q[1].net, shape=2), Normal("q(z|u)", q[0].net, shape=2)], weights=gate)
    given["u"] = given["y"] + 1
    flags = {"x": torch.tensor([1.0, 0.0])}
    shares = torch.stack([gate.params(given["x"])[0][0].exp(), torch.tensor([0.5, 0.5], dtype=DOUBLE)])
    logs = torch.stack([part.log_prob(z=z, **{n: given[n]}) for part, n in zip(mixed.experts, "yu", strict=True)], -1)
    torch.testing.assert_close(log(mixed)(z=z, **given, present=flags).value, (shares * logs.exp()).sum(-1).log())
    assert both.experts == both.parts


def test_weights_print_what_they_read_and_draw_no_variable_of_their_own():
    q = experts()
    mixed = MoE(q, weights=gate_of("network"))
    assert mixed.definition == "q(z|x,y) = w_1(x) q(z|x) + w_2(x) q(z|y)"
    loss = E(mixed, -log(Normal("p(x|z)", nn.Linear(2, 6), shape=3)), gradient="stratified").mean()
    assert mixed.latex == r"q(z \mid x, y) = w_{1}(x)\, q(z \mid x) + w_{2}(x)\, q(z \mid y)"
    assert "<msub><mi>w</mi><mn>2</mn></msub>" in factor_mathml(mixed)
    assert "weighted=True" in loss.code
    assert "w_1(x) q(z|x)" in str(loss.explain())
    assert {v.name for v in graph(loss).vertices} == {"x", "y", "z"}
    assert graph(loss).plates
    learnt = MoE(q, weights=gate_of("learnt"))
    assert learnt.definition == "q(z|x,y) = w_1 q(z|x) + w_2 q(z|y)"
    assert len(list(learnt.parameters())) == 5
    assert len(list(MoE(q, weights=positive(nn.Parameter(torch.ones(2)))).parameters())) == 5
    copied = mixed.slow(0.9)
    assert copied.gate is not mixed.gate
    renamed = mixed.rename(x="x'")
    assert str(renamed) == "q(z|x',y)"


def test_what_is_no_weight_of_these_experts_is_refused():
    q = experts()
    for wrong, words in (
        ([0.2, 0.3, 0.5], "of 2 experts"),
        ([0.5], "of 2 experts"),  # not one number for both
        (torch.tensor(0.5), "of 2 experts"),
        (0.5, "of 2 experts"),
        ("ab", "of 2 experts"),
        (OneHot("p(k)", shape=3), "of 2 experts"),
        (Normal("p(k)", shape=2), "of 2 experts"),
        ([0.5, -0.5], "weights of at least 0"),
    ):
        with pytest.raises(FormulaError, match=words):
            MoE(q, weights=wrong).sample(**inputs())
    several = [Mixture(f"q(z|{name})", nn.Linear(3, 10), components=[Normal, Laplace], shape=2) for name in "xy"]
    with pytest.raises(FormulaError, match="other axes than its values"):
        MoE(several)
    weighted = MoE(q, weights=[0.5, 0.5])
    with pytest.raises(FormulaError, match=r"plain mean; write each\(.*\.experts"):
        each(weighted, lambda part: KL(part, Normal("p(z)", shape=2)))
    with pytest.raises(FormulaError, match="present="):
        weighted.only("x")
    assert math.isclose(sum(weighted.shares), 1.0)


def test_many_weighted_products_stand_in_lines():
    """Of three experts seven products: a term on each line, in both notations, and on one where they fit."""
    parts = [Normal(f"q(z|{name})", nn.Linear(2, 4), shape=2) for name in ("sight", "sound", "touch")]
    q, shares = MoPoE(parts, weights=range(1, 8)), [k / 28 for k in range(1, 8)]
    (wide,) = (d for d in definitions(log(q).mean().node) if d.weights is not None)
    for shown in (latex_lines._defined(wide, 72), mathml.defined(wide, 72)):
        assert [depth for depth, _ in shown] == [0, *[1] * 6]
        assert all(f"{round(share, 6)}" in line for share, (_, line) in zip(shares, shown, strict=True))
        assert all("+" in line for _, line in shown[1:])
    assert len(latex_lines._defined(wide, 1000)) == len(mathml.defined(wide, 1000)) == 1


def test_products_of_subsets_have_weights_of_their_own():
    """Of two experts three products: the density by hand, in all rows and in those that lack a modality."""
    q, given = experts(), inputs()
    mixed = MoPoE(q, weights=[0.2, 0.3, 0.5])
    z = mixed.sample(**given, seed=0)
    moments = [part.params(given[name]) for part, name in zip(q, "xy", strict=True)]
    locs, precisions = [m[0] for m in moments], [m[1] ** -2 for m in moments]
    both = sum(precisions)
    product = (sum(p * m for p, m in zip(precisions, locs, strict=True)) / both, both**-0.5)
    parts = [torch.distributions.Normal(loc, scale).log_prob(z).sum(-1) for loc, scale in (*moments, product)]
    shares = torch.tensor([0.2, 0.3, 0.5], dtype=DOUBLE).log()
    torch.testing.assert_close(mixed.log_prob(z=z, **given), (torch.stack(parts, -1) + shares).logsumexp(-1))
    assert mixed.definition == "q(z|x,y) = 0.2 q(z|x) + 0.3 q(z|y) + 0.5 q(z|x) q(z|y)"
    prior = Normal("p(z)", shape=2).double()
    loss = KL(MoPoE(q, prior, weights=[0.2, 0.3, 0.5]), prior, samples=4)
    assert loss(**given, seed=0).value.isfinite().all()
    with pytest.raises(FormulaError, match="expected weights= of 3 experts as numbers"):
        MoPoE(q, weights=[0.5, 0.5])


def test_numbers_as_weights_have_the_precision_of_the_default_type():
    """0.3 as a float32 is 0.30000001192: an error of 4e-8 in log 0.3, where all else is in double precision."""
    torch.set_default_dtype(DOUBLE)
    try:
        q = [Normal(f"q(z|{name})", nn.Linear(3, 4), shape=2) for name in "xy"]
        given = {name: torch.randn(5, 3) for name in "xy"}
        z = torch.randn(5, 2)
        right = torch.stack([part.log_prob(z=z, **{name: given[name]}) for part, name in zip(q, "xy", strict=True)], -1)
        right = (right + torch.tensor([0.3, 0.7]).log()).logsumexp(-1)
        torch.testing.assert_close(MoE(q, weights=[0.3, 0.7]).log_prob(z=z, **given), right, rtol=0, atol=1e-12)
    finally:
        torch.set_default_dtype(torch.float32)
