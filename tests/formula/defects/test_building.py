"""What building, printing and emitting a formula costs: counted in Python calls, never timed."""

import itertools
import sys

import pytest
import torch
from torch import nn

from worldformula import KL, Bernoulli, Deterministic, E, Normal, Sum, Value, exp, log, maximum, sg, sigmoid, tanh
from worldformula.formula.plan.plan import Plan


class Budget(Exception):
    """More calls than allowed: what would take minutes stops here."""


def calls(run, budget=1_500_000):
    """How many Python functions a run enters; `Budget` is raised beyond the budget."""
    count = 0

    def counting(frame, event, arg):
        nonlocal count
        if event == "call":
            count += 1
            if count > budget:
                sys.setprofile(None)
                raise Budget(f"more than {budget} calls")

    before = sys.getprofile()
    sys.setprofile(counting)
    try:
        run()
    finally:
        sys.setprofile(before)
    return count


def linear(build, sizes, slack=1.6):
    """From one size to the next the calls grow as the sizes do, within a slack that a power of 1.4 breaks."""
    build(1)  # what the first formula of a process imports is no part of it
    small = calls(lambda: build(sizes[0]))
    for size in sizes[1:]:
        allowed = int(slack * small * size / sizes[0])
        assert calls(lambda size=size: build(size), budget=2 * allowed) <= allowed


def terms(count):
    """A sum of log-densities, each with a network of its own."""
    found = log(Normal("p(x_1|y)", nn.Linear(1, 2), shape=1))
    for i in range(2, count + 1):
        found = found + log(Normal(f"p(x_{i}|y)", nn.Linear(1, 2), shape=1))
    return found


def numbers(count):
    found = Value("a")
    for i in range(count):
        found = found + float(i)
    return found


def nest(depth):
    found = Value("a")
    for _ in range(depth):
        found = tanh(found) * 0.5 + 0.1
    return found


def hierarchy(depth):
    """z_1 → … → z_n → x, one closed KL for every level."""
    q = Normal("q(z_1|x)", nn.Linear(1, 2), shape=1)
    joint, total = q, KL(q, Normal("p(z_1)", shape=1))
    for i in range(2, depth + 1):
        q = Normal(f"q(z_{i}|z_{i - 1})", nn.Linear(1, 2), shape=1)
        joint = joint * q
        total = total + KL(q, Normal(f"p(z_{i})", shape=1))
    return E(joint, total - log(Normal(f"p(x|z_{depth})", nn.Linear(1, 2), shape=1)))


def decoders(count):
    q = Normal("q(z|x_1)", nn.Linear(1, 2), shape=1)
    found = KL(q, Normal("p(z)", shape=1))
    for i in range(1, count + 1):
        found = found - log(Bernoulli(f"p(x_{i}|z)", nn.Linear(1, 1), shape=1))
    return E(q, found).mean()


def canvas(steps):
    """DRAW in small: a carry through inner iterations."""
    encode = Deterministic("e = enc(x)", nn.Linear(1, 1), shape=1)
    draw = Normal("q(z_l|e,c_{l-1})", lambda e, c: torch.cat((e + c, c), -1), shape=1)
    core = Deterministic("c_l = f(c_{l-1},z_l)", lambda c, z: c + z, shape=1)
    inside = E(draw * core, KL(draw, Normal("p(z_l)", shape=1)))
    return (E(encode, Sum("l", inside, steps=steps)) - log(Normal("p(x|c_L)", lambda c: c, shape=1, scale=1.0))).mean()


def emitted(build):
    return lambda size: build(size).code


def printed(build):
    def run(size):
        found = build(size)
        return repr(found), str(found), found.latex, found.latex_lines()

    return run


BUILDS = {"terms": terms, "numbers": numbers, "nest": nest, "hierarchy": hierarchy, "decoders": decoders}


@pytest.mark.parametrize("case", BUILDS)
def test_construction_is_linear(case):
    linear(BUILDS[case], (20, 40, 80))


@pytest.mark.parametrize("case", BUILDS)
def test_emission_is_linear(case):
    linear(emitted(BUILDS[case]), (3, 6, 12))


@pytest.mark.parametrize("case", [*BUILDS, "canvas"])
def test_printing_is_linear(case):
    linear(printed(BUILDS.get(case, canvas)), (10, 20, 40))


def test_the_emission_of_iterations_is_linear():
    linear(emitted(canvas), (4, 8, 16))


def test_the_plan_is_as_long_as_the_formula():
    """Lowering shares what it has seen: the operations grow by the same number with every term."""
    for build in BUILDS.values():
        lengths = [len(build(n).program.raw.ops) for n in (3, 4, 5, 6)]
        assert len({b - a for a, b in itertools.pairwise(lengths)}) == 1


def test_explain_and_graph_are_linear():
    linear(lambda n: decoders(n).explain(), (5, 10, 20))
    linear(lambda n: decoders(n).graph(), (5, 10, 20), slack=4.0)  # layers of a picture are ordered by sorting


# --------------------------------------------------------------------------------------- long and deep formulas run


def by_hand(a, depth):
    for _ in range(depth):
        a = a.tanh() * 0.5 + 0.1
    return a


@pytest.mark.parametrize("path", ["call", "interpret"])
def test_a_sum_of_400_numbers(path):
    a = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)

    def run():
        loss = numbers(400)
        value = (loss if path == "call" else loss.interpret)(a=a).value
        torch.testing.assert_close(value, a + sum(range(400)))
        value.sum().backward()

    calls(run)
    torch.testing.assert_close(a.grad, torch.ones(3))


@pytest.mark.parametrize("path", ["call", "interpret"])
@pytest.mark.parametrize("depth", [30, 300])
def test_a_deep_nest(path, depth):
    a = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)

    def run():
        loss = nest(depth)
        value = (loss if path == "call" else loss.interpret)(a=a).value
        torch.testing.assert_close(value, by_hand(a, depth))
        ours, theirs = (torch.autograd.grad(v.sum(), a)[0] for v in (value, by_hand(a, depth)))
        torch.testing.assert_close(ours, theirs)

    calls(run)


@pytest.mark.parametrize("build", [lambda: numbers(400), lambda: nest(300)])
@pytest.mark.parametrize("how", [repr, str, lambda f: f.latex, lambda f: f.latex_lines(), lambda f: f.explain()])
def test_long_and_deep_formulas_print(build, how):
    shown = []
    calls(lambda: shown.append(how(build())))
    assert shown[0]


def test_a_deep_nest_of_other_operators():
    """What a formula nests besides tanh: two-argument functions, stop-gradients, and powers."""

    def deep(a, tanh, sigmoid, exp, maximum, sg):
        for _ in range(60):
            a = maximum(sigmoid(a) - exp(-tanh(a)) / 2, -1.0) + sg(a) * 0.1
        return a

    a = torch.randn(3)
    expected = deep(a, torch.tanh, torch.sigmoid, torch.exp, torch.clamp_min, torch.Tensor.detach)

    def run():
        loss = deep(Value("a"), tanh, sigmoid, exp, maximum, sg)
        torch.testing.assert_close(loss(a=a).value, expected)

    calls(run)


def shared(depth):
    """A log-density and a divergence that every level reads twice, over time and inside an expectation."""
    q = Normal("q(z_t|x_t)", nn.Linear(1, 2), shape=1)
    found = KL(q, Normal("p(z_t)", shape=1)) - log(Normal("p(x_t|z_t)", nn.Linear(1, 1), shape=1, scale=1.0))
    for _ in range(depth):
        found = tanh(found) * 0.5 + found / 2
    return Sum("t", E(q, found), mask="valid").mean() + found_outside(depth)


def found_outside(depth):
    found = Value("a", shape=()) * 0.5
    for _ in range(depth):
        found = sg(found) * 0.5 + tanh(found)
    return found.mean()


def test_what_stands_in_several_places_is_one_operation():
    """Construction, code and print grow as the number of operators, not as the tree, which has 2^depth of them."""
    linear(lambda n: shared(n).code, (16, 32, 64))
    linear(lambda n: (repr(shared(n)), shared(n).latex_lines(), str(shared(n).explain())), (16, 32, 64))
    linear(lambda n: shared(n).graph(), (16, 32, 64))


def test_a_formula_with_names_for_its_parts_has_the_value_and_the_terms_of_one_without():
    torch.manual_seed(0)
    x, a = torch.randn(3, 4, 1), torch.randn(3, requires_grad=True)
    valid = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    loss = shared(14)
    assert " u_" in repr(loss)
    assert "u_1 = " in str(loss.latex_lines()).replace("\\mathrm{u\\_1}", "u_1")
    out = loss(x=x, a=a, valid=valid, seed=0)
    q, decode = (m for m in loss.modules() if isinstance(m, nn.Linear))
    loc, raw = q(x).chunk(2, -1)
    z, scale = out.samples["z"], torch.nn.functional.softplus(raw)
    kl = (0.5 * (scale**2 + loc**2 - 1) - scale.log()).sum(-1)
    value = kl + (0.5 * (x - decode(z)) ** 2).sum(-1) + 0.5 * torch.log(torch.tensor(2 * torch.pi))
    outside = a * 0.5
    for _ in range(14):
        value, outside = value.tanh() * 0.5 + value / 2, outside.detach() * 0.5 + outside.tanh()
    expected = (value * valid).sum(1).mean() + outside.mean()
    torch.testing.assert_close(out.value, expected, rtol=1e-5, atol=1e-5)
    ours, hand = (
        torch.autograd.grad(v, [a, q.weight, decode.weight], retain_graph=True) for v in (out.value, expected)
    )
    for one, other in zip(ours, hand, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss.interpret(x=x, a=a, valid=valid, seed=0).value, out.value)
    names = {name.partition(" (")[0] for name in out.terms}  # the same leaf in several places is told apart by a number
    assert names == {"KL(q(z_t|x_t) ‖ p(z_t))", "log p(x_t|z_t)"}


def test_fifty_decoders_give_the_sum_of_their_densities():
    torch.manual_seed(0)
    x = {f"x_{i}": torch.rand(3, 1).round() for i in range(1, 51)}
    noise = torch.randn(3, 1)

    def run():
        loss = decoders(50)
        found = loss(**x, noise={"z": noise}).value
        state = dict(loss.named_parameters())
        loc, raw = (x["x_1"] @ state["q_z_given_x_1.weight"].T + state["q_z_given_x_1.bias"]).chunk(2, -1)
        scale = nn.functional.softplus(raw)
        z = loc + scale * noise
        expected = torch.distributions.kl_divergence(
            torch.distributions.Normal(loc, scale), torch.distributions.Normal(0.0, 1.0)
        ).sum(-1)
        for i in range(1, 51):
            logits = z @ state[f"p_x_{i}_given_z.weight"].T + state[f"p_x_{i}_given_z.bias"]
            expected = expected - torch.distributions.Bernoulli(logits=logits).log_prob(x[f"x_{i}"]).sum(-1)
        torch.testing.assert_close(found, expected.mean())

    calls(run)


def test_a_formula_keeps_no_plan_of_its_parts():
    """Sums of sums are one formula: the parts have made no plan on the way."""
    made = []
    before = Plan.__init__

    def counted(self, *args, **kwargs):
        made.append(self)
        before(self, *args, **kwargs)

    Plan.__init__ = counted
    try:
        decoders(10)
    finally:
        Plan.__init__ = before
    assert made == []
