"""Random formulas: interpreter and emitted code agree, nothing cancels in print, headers survive a round trip."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pylatexenc.latexwalker import LatexWalker

from tests.formula.models import Join
from worldformula import (
    KL,
    Bernoulli,
    Deterministic,
    E,
    Mean,
    Normal,
    OneHot,
    Sum,
    log,
    maximum,
    minimum,
    sg,
)
from worldformula.errors import FormulaError, SharedDrawError
from worldformula.formula.lower import lower
from worldformula.formula.names import read_header
from worldformula.formula.program import Program

settings.register_profile("tests", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("tests")
B, T, Z = 2, 3, 2


def linear(*sizes):
    return torch.nn.Linear(*sizes).double()


class Module(torch.nn.Module):
    """A network without inputs."""

    def __init__(self):
        super().__init__()
        self.raw = torch.nn.Parameter(torch.randn(2 * Z).double())

    def forward(self):
        return self.raw.tanh()


class Static:
    """A pool of factors over x [B, 3], y [B, 2]; latents z (Normal), c (Bernoulli), and a function m."""

    def __init__(self):
        torch.manual_seed(0)
        self.loc = torch.nn.Parameter(torch.randn(Z).double())
        self.q = Normal("q(z|x)", linear(3, 2 * Z), shape=Z)
        self.r = Normal("r(z|y)", linear(2, Z), shape=Z, scale=0.7)
        self.prior = Normal("p(z)", shape=Z)
        self.learned = Normal("p_l(z)", loc=self.loc, scale=1.5, shape=Z)
        self.module = Normal("p_m(z)", Module(), shape=Z)
        self.c = Bernoulli("q(c|x)", linear(3, 2), shape=2)
        self.pc = Bernoulli("p(c)", shape=2)
        self.m = Deterministic("m = f(z)", torch.nn.Sequential(linear(Z, 2), torch.nn.Tanh()))
        self.y = Normal("p(y|z)", linear(Z, 4), shape=2)
        self.x = Normal("p(x|m)", linear(2, 6), shape=3)
        self.yc = Normal("p(y|c)", linear(2, 4), shape=2)
        self.joint = Normal("p(y|z,c)", Join(4, 4).double(), shape=2)
        self.closed = [
            KL(self.q, self.prior), KL(self.q, self.learned), KL(sg(self.q), self.learned), KL(self.r, self.q),
            KL(self.c, self.pc), KL(self.prior, self.learned), KL(self.module, self.learned), KL(self.module, self.q),
        ]  # fmt: skip
        self.given_z = [
            log(self.y), log(self.prior), log(self.q), log(self.learned), log(self.module), E(self.m, log(self.x)),
            E(self.m, log(self.x * self.y)),
        ]  # fmt: skip
        self.data = {"x": torch.randn(B, 3).double(), "y": torch.randn(B, 2).double()}


def leaf(pool):
    over_z = st.sampled_from(pool.given_z)
    with_c = st.sampled_from([log(pool.yc), log(pool.pc), log(pool.c)])
    drawn = st.sampled_from([pool.q, pool.r])
    return st.one_of(
        st.sampled_from(pool.closed),
        st.builds(E, drawn, over_z),
        st.builds(lambda q, f, g: E(q, f - g), drawn, over_z, over_z),
        st.builds(lambda f, how: E(pool.c, f, gradient=how), with_c, st.sampled_from(["score", "straight-through"])),
        st.builds(lambda f, how: E(pool.q * pool.c, log(pool.joint) * f, gradient=how), over_z, st.just("score")),
    )


def arithmetic(leaves):
    number = st.sampled_from([2, -1, 0.5, 1.0, 0, -0.25, 3.0])

    def combine(children):
        pair = st.tuples(children, children)
        return st.one_of(
            pair.map(lambda p: p[0] + p[1]),
            pair.map(lambda p: p[0] - p[1]),
            st.tuples(children, number).map(lambda p: p[0] * p[1]),
            st.tuples(number, children).map(lambda p: p[0] - p[1]),
            st.tuples(children, number).map(lambda p: maximum(p[0], p[1])),
            st.tuples(children, number).map(lambda p: minimum(p[0], p[1])),
            st.tuples(children, st.sampled_from([2, 0.5])).map(lambda p: p[0] / p[1]),
            children.map(lambda f: -f),
            children.map(sg),
        )

    return st.recursive(leaves, combine, max_leaves=5)


POOL = Static()


def compare(expression, data, plan=None):
    """Value, terms and gradients of emitted code and interpreter on the same noise."""
    noise = expression.noise(**data, generator=torch.Generator().manual_seed(3))
    outs = [expression(**data, noise=noise), expression.interpret(**data, noise=noise)]
    if plan is not None:
        program = Program.__new__(Program)
        program.__init__(plan, "not hoisted")
        program.plan = plan
        outs.append(program.run(expression, {**data, "noise": noise}))
    weights = list(expression.parameters())
    results = []
    for out in outs:
        value = out.value.sum()
        grads = torch.autograd.grad(value, weights, allow_unused=True) if value.requires_grad else []
        results.append(
            (out.value.detach(), [g for g in grads if g is not None], {k: v.detach() for k, v in out.terms.items()})
        )
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-9, atol=1e-9)
    return results[0]


@given(arithmetic(leaf(POOL)), st.sampled_from(["mean", "sum", ""]))
def test_interpreter_and_code_agree(expression, reduction):
    expression = getattr(expression, reduction)() if reduction else expression
    compare(expression, {k: v for k, v in POOL.data.items() if k in expression.program.inputs})


@given(arithmetic(leaf(POOL)))
def test_a_formula_minus_itself_is_zero_and_prints_as_written(expression):
    difference = expression - expression
    needed = {k: v for k, v in POOL.data.items() if k in difference.program.inputs}
    value = difference(**needed).value
    assert torch.equal(value, torch.zeros_like(value))
    shown = repr(expression).removeprefix("<Expression ").removesuffix(">")
    right = repr(-expression - 0).removeprefix("<Expression -").removesuffix(" - 0>")
    assert repr(difference) in {f"<Expression {shown} - {r}>" for r in (shown, f"({shown})", right)}


@given(arithmetic(leaf(POOL)))
def test_latex_parses_and_braces_balance(expression):
    text = str(expression.mean())
    LatexWalker(text, tolerant_parsing=False).get_latex_nodes()
    assert text.count("{") == text.count("}")
    assert text.count(r"\left") == text.count(r"\right")
    assert str(expression.mean()) == text


@given(arithmetic(leaf(POOL)), arithmetic(leaf(POOL)), st.sampled_from(["*", "/", maximum, minimum]))
def test_products_of_expectations_that_share_a_draw_are_refused(left, right, op):
    from worldformula.formula.nodes import drawn_factors

    shared = {id(f) for f in drawn_factors(left.node)} & {id(f) for f in drawn_factors(right.node)}
    combine = {"*": lambda: left * right, "/": lambda: left / right}.get(op, lambda: op(left, right))
    if shared:
        with pytest.raises(SharedDrawError):
            combine()
    else:
        combine()


# ------------------------------------------------------------------------------------------------------------- time


class Temporal:
    """A pool of factors over series x, a; carries h and z; K is one-hot and also carried."""

    def __init__(self):
        torch.manual_seed(1)
        self.e = Deterministic("e_t = enc(x_t)", linear(3, 2), shape=2)
        self.h = Deterministic("h_t = f(h_{t-1}, z_{t-1}, a_{t-1})", Join(5, 2).double(), shape=2)
        self.q = Normal("q(z_t|h_t,e_t)", Join(4, 4, 2.0).double(), shape=2)
        self.k = OneHot("q(k_t|e_t,k_{t-1})", Join(5, 3, 2.0).double(), shape=3, unimix=0.01)
        self.pz, self.pk = Normal("p(z_t|h_t)", linear(2, 4), shape=2), OneHot("p(k_t|h_t)", linear(2, 3), shape=3)
        self.standard = Normal("p(z_t)", shape=2)
        self.module = Normal("p_m(z_t)", Module(), shape=2)
        self.free = Normal("r(z'_t|x_t)", linear(3, 4), shape=2)
        self.of_free = Normal("p(x_t|z'_t)", linear(2, 6), shape=3)
        self.x = Normal("p(x_t|h_t,z_t)", Join(4, 6).double(), shape=3)
        self.lag = Normal("p(x_t|x_{t-1},k_t)", Join(6, 3).double(), shape=3, scale=2.0)
        self.global_ = Normal("p(x_t|g)", linear(2, 6), shape=3)
        self.g = Normal("q(g|y)", linear(2, 4), shape=2)
        self.inside = [
            KL(self.q, self.pz), KL(sg(self.q), self.pz), KL(self.q, self.standard), log(self.x), log(self.pz),
            KL(self.k, self.pk), log(self.lag), E(self.g, log(self.global_)), KL(self.g, Normal("p(g)", shape=2)),
            log(self.module), E(self.free, log(self.of_free)), KL(self.free, Normal("p(z'_t)", shape=2)),
        ]  # fmt: skip
        first = torch.zeros(B, T, dtype=torch.bool)
        first[0, 2] = True
        self.data = {"x": torch.randn(B, T, 3).double(), "a": torch.randn(B, T, 1).double(),
                     "y": torch.randn(B, 2).double(), "first": first}  # fmt: skip


TIME = Temporal()
STEPS = arithmetic(st.sampled_from(TIME.inside))
CLOCKS = st.tuples(st.sampled_from([Sum, Mean]), st.sampled_from([None, "first"]))


def over_time(step, clock):
    how, reset = clock
    return how("t", E(TIME.e * TIME.h * TIME.q * TIME.k, step), reset=reset)


def everything_in_the_loop(node):
    plan = lower(node)
    data = ("input", "noise", "flags", "shift", "repeat")
    return plan.with_stages(**{op.name: "before" for op in plan.ops if op.step and op.kind in data})


@given(STEPS, CLOCKS)
def test_hoisted_code_equals_the_loop_and_the_interpreter(step, clock):
    loss = over_time(step, clock).mean()
    data = {k: v for k, v in TIME.data.items() if k in loss.program.inputs}
    compare(loss, data, plan=everything_in_the_loop(loss.node))


@given(STEPS)
def test_a_reset_cuts_a_sequence_in_two(step):
    loss = over_time(step, (Sum, "first"))
    data = {k: v for k, v in TIME.data.items() if k in loss.program.inputs}
    noise = loss.noise(**data)
    is_series = {k: v.ndim > 1 and v.shape[1] == T and k != "y" for k, v in data.items()}

    def part(time):
        cut = {k: v[:, time] if is_series[k] else v for k, v in data.items()}
        sites = {k: v[:, time] if k != "g" else v for k, v in noise.items()}
        return loss(**cut, noise=sites).value[0]

    torch.testing.assert_close(loss(**data, noise=noise).value[0], part(slice(0, 2)) + part(slice(2, 3)))


@given(STEPS)
def test_two_chunks_with_carried_state_equal_one_sequence(step):
    loss = over_time(step, (Sum, None))
    data = {k: v for k, v in TIME.data.items() if k in loss.program.inputs}
    noise = loss.noise(**data)

    def part(time, start):
        cut = {k: v[:, time] if k != "y" else v for k, v in data.items()}
        return loss(**cut, noise={k: v[:, time] if k != "g" else v for k, v in noise.items()}, start=start)

    head = part(slice(0, 2), None)
    tail = part(slice(2, 3), head.last)
    torch.testing.assert_close(loss(**data, noise=noise).value, head.value + tail.value)


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


@settings(max_examples=300)
@given(st.text(alphabet=r"pqxz_{}()|,=' \t12-+hat", max_size=14), st.booleans())
def test_any_text_parses_or_raises_a_formula_error(text, deterministic):
    try:
        header = read_header(text, deterministic=deterministic)
    except FormulaError:
        return
    assert str(read_header(str(header), deterministic=deterministic)) == str(header)
