"""Random formulas: what is printed reads back, interpreter and emitted code agree, nothing cancels, headers parse.

The formulas come from `grower`, one for each seed; `reader` rebuilds their trees from one line of text.
"""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pylatexenc.latexwalker import LatexWalker

from tests.formula.grower import Grower, Static, Temporal
from tests.formula.reader import read, same
from worldformula import E, Normal, Sum, log, maximum, minimum
from worldformula.errors import FormulaError, GradientError, OneDrawError, SharedDrawError, TimeError
from worldformula.formula.code.program import Program
from worldformula.formula.runtime import both, padded
from worldformula.formula.syntax.drawn import draws
from worldformula.formula.syntax.names import read_header
from worldformula.formula.syntax.nodes import Binary, Expectation, Operator, walk

settings.register_profile("tests", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("tests")
STATIC, TEMPORAL, PARTS = 2400, 400, 8  # formulas of each kind, in so many tests; `full.py` grows more
POOL, TIME = Static(), Temporal()
REDUCED = (lambda f: f, lambda f: f.mean(), lambda f: f.sum())


def static(seed):
    """A formula over one batch: per row, or reduced."""
    return REDUCED[seed % 3](Grower(POOL, seed).grow(3))


def temporal(seed):
    """A formula over time, with any clock."""
    grower = Grower(TIME, seed)
    return REDUCED[seed % 3](TIME.clocked(grower.rng, grower.grow(2)))


# A quarter of them runs with every change, the rest with the slow tests.
EACH = [*range(PARTS // 4), *(pytest.param(part, marks=pytest.mark.slow) for part in range(PARTS // 4, PARTS))]


def share(count, part):
    return range(count * part // PARTS, count * (part + 1) // PARTS)


def line(expression):
    return repr(expression).removeprefix("<Expression ").removesuffix(">")


def given_to(expression, data):
    return {key: data[key] for key in expression.program.inputs}


def pulled(out, weights):
    """Value, terms and gradients of one call."""
    value = torch.as_tensor(out.value).sum()
    grads = torch.autograd.grad(value, weights, allow_unused=True) if value.requires_grad else [None] * len(weights)
    zeros = [torch.zeros_like(w) if g is None else g for g, w in zip(grads, weights, strict=True)]
    return out.value.detach(), {key: v.detach() for key, v in out.terms.items()}, zeros


def compare(expression, data, plan=None, **options):
    """Emitted code and interpreter on the same noise: equal to 1e-9 of the largest number among terms and gradients."""
    data = given_to(expression, data)
    noise = expression.noise(**data, generator=torch.Generator().manual_seed(3))
    options = options or {"noise": noise}
    runs = [expression(**data, **options), expression.interpret(**data, **options)]
    if plan is not None:
        program = Program(plan, "not hoisted")
        program.plan = plan
        runs.append(program.run(expression, {**data, "noise": noise}))
    weights = list(expression.parameters())
    first, *others = [pulled(out, weights) for out in runs]
    size = max([1.0, *(v.abs().max().item() for v in (*first[1].values(), *first[2]) if v.numel())])
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-9, atol=1e-9 * size)
    return first


@pytest.mark.parametrize("part", EACH)
def test_formulas_read_back_and_run_as_interpreted(part):
    refused = 0
    for seed in share(STATIC, part):
        expression = static(seed)
        assert same(read(line(expression), expression.node), expression.node), f"seed {seed}: {line(expression)}"
        try:
            _ = expression.program
        except FormulaError:
            refused += 1
            continue
        value, *_ = compare(expression, POOL.data)
        assert value.isfinite().all(), f"seed {seed}: {line(expression)}"
    assert refused < 0.1 * len(share(STATIC, part))


@pytest.mark.parametrize("part", EACH)
def test_formulas_over_time_read_back_and_run_as_interpreted(part):
    for seed in share(TEMPORAL, part):
        expression = temporal(seed)
        assert same(read(line(expression), expression.node), expression.node), f"seed {seed}: {line(expression)}"
        try:
            plan = expression.program.raw
        except FormulaError:
            continue
        compare(expression, TIME.data, everything_in_the_loop(plan) if seed % 4 == 0 else None)


def everything_in_the_loop(plan):
    data = ("input", "noise", "flags", "shift", "repeat", "mask", "unroll", "alive", "behind")
    flags = (padded, both)  # what a shift reads
    early = [op for op in plan.ops if op.step and (op.kind in data or op.target in flags)]
    return plan.with_stages(**{op.name: "before" for op in early})


@pytest.mark.parametrize("options", [{"deterministic": True}, {"seed": 4}])
def test_means_and_seeds_run_as_interpreted(options):
    for make, data, count in ((static, POOL.data, 200), (temporal, TIME.data, 50)):
        for seed in range(10_000, 10_000 + count):
            expression = make(seed)
            try:
                _ = expression.program
            except FormulaError:
                continue
            compare(expression, data, **options)
            assert expression.explain()


@pytest.mark.parametrize("build", [lambda q, f: E(q, f, samples=3), lambda q, f: E(q.fresh(), f, "score", samples=2)])
def test_the_mean_of_many_samples_is_the_mean(build):
    q, f = Normal("q(z|x)", torch.nn.Linear(3, 4).double(), shape=2), log(Normal("p(z)", shape=2))
    one, many = (loss(x=POOL.data["x"], deterministic=True).value for loss in (E(q, f), build(q, f)))
    torch.testing.assert_close(one, many)


def test_the_random_formulas_have_everything_that_the_language_has():
    nodes = [node for seed in range(600) for node in walk(static(seed).node)]
    nodes += [node for seed in range(200) for node in walk(temporal(seed).node)]
    assert {type(node).__name__ for node in nodes} == {
        "Binary", "Divergence", "EntropyNode", "Expectation", "FreeEnergyNode", "Function", "Log", "MinNode", "Named",
        "Negative", "Number", "OverBatch", "OverEvent", "OverSteps", "OverTime", "ProductDivergence", "Ratio",
        "SampledDivergence", "StopGradient", "Value",
    }  # fmt: skip
    draws = [node for node in nodes if isinstance(node, Expectation)]
    assert {d.gradient for d in draws} == {
        None, "dreg", "exact", "gumbel", "score", "straight-through", "stratified"
    }  # fmt: skip
    assert {type(d.baseline) for d in draws} >= {type(None), str}
    assert {n.op for n in nodes if isinstance(n, Binary)} == {"+", "-", "*", "/", "^", "max", "min"}
    kinds = {type(u.factor).__name__ for d in draws for u in d.q}
    assert kinds >= {"Normal", "Laplace", "PoE", "MoE", "Deterministic", "Bernoulli", "OneHot", "Categorical"}


def test_a_formula_minus_itself_is_zero_and_prints_as_written():
    for seed in range(0, STATIC, 10):
        expression = static(seed)
        difference = expression - expression
        assert same(read(line(difference), difference.node), Binary("-", expression.node, expression.node))
        try:
            _ = difference.program
        except FormulaError:
            continue
        value = difference(**given_to(difference, POOL.data)).value
        assert not torch.as_tensor(value).any(), f"seed {seed}: {line(difference)}"


@pytest.mark.slow
def test_latex_parses_and_braces_balance():
    for seed in range(0, 600, 3):
        expression = static(seed) if seed % 2 else temporal(seed)
        text = str(expression)
        LatexWalker(text, tolerant_parsing=False).get_latex_nodes()
        assert text.count("{") == text.count("}")
        assert text.count(r"\left") == text.count(r"\right")
        assert str(expression) == text
        if seed % 15 == 0:  # laying one out takes longer than all else here
            assert expression.graph().startswith("<svg")


def sampled(node):
    """What is drawn at random inside: neither energies nor expectations that take every value."""
    found = set()
    for n in walk(node):
        every = isinstance(n, Expectation) and n.gradient == "exact"
        if not (isinstance(n, Operator) and n.sets):
            found |= {id(f) for f in draws(n) if not (every and f.family.support_size(f.shape) is not None)}
    return found


@pytest.mark.parametrize("op", ["*", "/", maximum, minimum])
def test_products_of_expectations_that_share_a_draw_are_refused(op):
    shares = 0
    for seed in range(150):
        left, right = (Grower(POOL, s).grow(2) for s in (seed, seed + 5000))
        shared = sampled(left.node) & sampled(right.node)
        shares += bool(shared)
        try:
            _ = left * right if op == "*" else left / right if op == "/" else op(left, right)
        except SharedDrawError:
            assert shared
        except (OneDrawError, GradientError):
            assert op != "*"
            assert not shared
        else:
            assert not shared
    assert 0 < shares < 150


# ------------------------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize("seed", range(60))
def test_a_reset_cuts_a_sequence_in_two(seed):
    loss, plain = cut_formula(seed, reset="first"), cut_formula(seed)
    data, noise = given_to(plain, TIME.data), plain.noise(**given_to(plain, TIME.data))
    whole = loss(**data, first=TIME.data["first"], noise=noise).value[0]
    parts = [plain(**cut(plain, data, time), noise=cut_noise(plain, noise, time)).value[0] for time in (FIRST, LAST)]
    torch.testing.assert_close(whole, sum(parts), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(60))
def test_two_chunks_with_carried_state_equal_one_sequence(seed):
    loss = cut_formula(seed)
    data, noise = given_to(loss, TIME.data), loss.noise(**given_to(loss, TIME.data))
    head = loss(**cut(loss, data, FIRST), noise=cut_noise(loss, noise, FIRST))
    tail = loss(**cut(loss, data, LAST), noise=cut_noise(loss, noise, LAST), start=head.last or None)
    torch.testing.assert_close(loss(**data, noise=noise).value, head.value + tail.value, rtol=1e-9, atol=1e-9)


def test_samples_of_a_network_that_stays_in_the_loop():
    """BatchNorm depends on its batch, so it is not hoisted; the K samples are an axis in front of the batch there."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).double()
    q, p = Normal("q(z_t|x_t)", net, shape=2), Normal("p(x_t|z_t)", torch.nn.Linear(2, 6).double(), shape=3)
    loss = Sum("t", E(q, log(p) - log(q), samples=4)).mean()
    assert "depends on its batch" in loss.code
    compare(loss, TIME.data)


FIRST, LAST = slice(0, 2), slice(2, 3)


def cut_formula(seed, reset=None):
    """A sum over time of a random step in which time is all that makes steps differ."""
    for chosen in range(seed, 6000, 60):
        loss = TIME.clocked(None, Grower(TIME, chosen).grow(2), reset=reset)
        try:
            _ = loss.program
        except TimeError:  # nothing in it has the index
            continue
        return loss
    raise AssertionError("no formula over time")


def cut(loss, data, time):
    steps = {key for key, op in loss.program.plan.inputs.items() if loss.program.plan.series(op)}
    return {key: value[:, time] if key in steps else value for key, value in data.items()}


def cut_noise(loss, noise, time):
    """Noise [*samples, B, T, *event], or without T where it is drawn once per call."""
    found = {}
    for site in loss.program.plan.sites:
        key = site.name.removeprefix("noise_")
        found[key] = noise[key][(slice(None),) * (1 + len(site.axes)) + (time,)] if site.step else noise[key]
    return found


# ---------------------------------------------------------------------------------------------------------- headers

name = st.sampled_from(["x", "z", "h'", r"\hat z", r"\hat{x}", "image", r"\theta", "π", "x1", "ab", "h''"])
subscript = st.sampled_from(["", "_t", "_{t-1}", "_1", "_{1,t}", "_{2,t-1}", "_{prior}"])
variable = st.builds(lambda n, s: n + s, name, subscript)


@given(
    st.sampled_from(["p", "q", "π", "p_data", r"p_\theta", "q_{0}"]),
    variable,
    st.lists(variable, max_size=3),
    st.booleans(),
)
def test_headers_survive_a_round_trip(letter, declared, conditions, deterministic):
    if deterministic:
        text = f"{declared} = {letter}({', '.join(conditions)})"
    else:
        text = f"{letter}({declared}{' | ' + ', '.join(conditions) if conditions else ''})"
    try:
        header = read_header(text, deterministic=deterministic)
    except FormulaError:
        return
    again = read_header(str(header), deterministic=deterministic)
    assert str(again) == str(header)
    assert (again.variables, again.conditions, again.letter) == (header.variables, header.conditions, header.letter)
    assert again.identifier.isidentifier()


VALID = ("q(z_t|h_t,e_t)", "h_t = f(h_{t-1}, a_{t-1})", "p_data(x)", r"q_\phi(\hat z_1|x_{1:T}, y')", "h_1, h_2 = g(x)")
LETTERS = "pqxz_{}()|,=' \t12-+ht\\θπé∑\n:T0^&"


def spoilt(rng):
    """A header with up to four of its characters lost, doubled or replaced; or any characters at all."""
    if rng.random() < 0.3:
        return "".join(rng.choices(LETTERS, k=rng.randrange(15)))
    text = list(rng.choice(VALID))
    for _ in range(rng.randrange(1, 5)):
        place = rng.randrange(len(text))
        text[place] = rng.choice(("", text[place] * 2, rng.choice(LETTERS), rng.choice(LETTERS) + text[place]))
    return "".join(text)


def test_any_text_parses_or_raises_a_formula_error():
    rng, parsed = random.Random(0), 0
    for _ in range(4000):
        text, deterministic = spoilt(rng), rng.random() < 0.5
        try:
            header = read_header(text, deterministic=deterministic)
        except FormulaError:
            continue
        parsed += 1
        again = read_header(str(header), deterministic=deterministic)
        assert (str(again), again.variables, again.conditions) == (str(header), header.variables, header.conditions)
    assert parsed > 100
