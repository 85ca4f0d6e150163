"""Formulas of any size: work grows as the number of nodes, and depth is no limit. Calls are counted, not seconds."""

import copy
import gc
import pickle
import sys

import pytest
import torch
from torch import nn

from worldformula import E, Expression, Normal, Symbol, Value, log, maximum, sg, tanh, together
from worldformula.errors import SharedDrawError
from worldformula.formula.graph.graph import graph
from worldformula.formula.print.latex import latex
from worldformula.formula.print.mathml import mathml
from worldformula.formula.syntax import networks as registering
from worldformula.formula.syntax.check import draw_order
from worldformula.formula.syntax.drawn import drawn_factors
from worldformula.formula.syntax.nodes import Function, Named, Use, factors, initial_of, walk
from worldformula.formula.syntax.text import text

TWICE = 2.3  # how much more work twice the size may be


def calls(function):
    """How many functions are called, of Python and of C, and what is returned."""
    count = 0

    def tick(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    gc.disable()  # what is thrown away of other tests is no work of this one
    sys.setprofile(tick)
    try:
        found = function()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count, found


def grows_linearly(build, size):
    few, _ = calls(lambda: build(size))
    many, found = calls(lambda: build(2 * size))
    assert size < few, "the work was not counted"
    assert many <= TWICE * few, f"{size}: {few} calls, {2 * size}: {many}"
    return found


def decoder():
    return Normal("p(x|z)", nn.Linear(2, 3), scale=1.0)


def terms(count):
    p = decoder()
    found = log(p)
    for n in range(1, count):
        found = found + n * log(p)
    return found


def squashed(depth):
    found = Value("x")
    for _ in range(depth):
        found = tanh(found) * 0.5 + 0.1
    return found


def expected(depth):
    q, p = Normal("q(z|x)", nn.Linear(3, 4)), decoder()
    found = log(p)
    for _ in range(depth):
        found = E(q, found)
    return found


def named(depth):
    found = Value("x")
    for n in range(depth):
        found = (found + 1).named(f"s{n}")
    return found


def signed(depth):
    found = Value("x")
    for n in range(depth):
        found = (-found, sg(found), maximum(found, n), 2 - found)[n % 4]
    return found


SHAPES = {"terms": (terms, 500), "squashed": (squashed, 500), "expected": (expected, 500), "named": (named, 500),
          "signed": (signed, 500)}  # fmt: skip
PRINTED = {
    "str": str,
    "repr": repr,
    "latex": lambda f: f.latex,
    "latex_lines": lambda f: f.latex_lines(),
    "narrow lines": lambda f: f.latex_lines(12),
    "mathml": lambda f: mathml(f.node),
    "narrow mathml": lambda f: mathml(f.node, 12),
}


# ---------------------------------------------------------------------------------------------------------- building


@pytest.mark.parametrize("shape", SHAPES)
def test_building_is_linear(shape):
    build, size = SHAPES[shape]
    grows_linearly(build, size)


def factor(n):
    return Normal(f"q(z_{n})", loc=torch.zeros(2), scale=1.0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_product_of_expectations_in_a_loop_is_linear(side):
    """Each looks at its own draws and not at those of the whole product again."""

    def build(count):
        found = E(factor("a"), Value("z_a"))
        for n in range(1, count):
            one = E(factor(n), Value(f"z_{n}"))
            found = found * one if side == "left" else one * found
        return found

    found = grows_linearly(build, 200)
    assert len(drawn_factors(found.node)) == 400


def test_a_draw_is_found_however_far_inside_both_sides_it_stands():
    q = factor("a")
    deep = E(q, Value("z_a"))
    for n in range(1, 300):
        deep = 0.5 * sg(deep * E(factor(n), Value(f"z_{n}"))) + 1.0
    with pytest.raises(SharedDrawError, match="expectations over q"):
        deep * sg(E(q, Value("z_a") ** 2))
    assert len(drawn_factors((deep * E(q.fresh(), Value("z_a"))).node)) == 301


def test_what_a_formula_draws_does_not_change_when_it_becomes_part_of_others():
    a, b, c, d = (E(factor(n), Value(f"z_{n}")) for n in "abcd")
    pair = a * b
    with_c, with_d = pair * c, pair * d
    for product, one in ((with_c, d), (with_d, c), (with_c, d), (pair, c)):
        assert len(drawn_factors((product * one).node)) == len(drawn_factors(product.node)) + 1
    for product, one in ((with_c, c), (with_d, d), (with_c, a), (with_d, b)):
        with pytest.raises(SharedDrawError):
            product * one
    with pytest.raises(SharedDrawError):
        with_c * with_d


@pytest.mark.parametrize("effects_first", [False, True])
def test_putting_factors_in_the_order_of_their_draws_is_linear(effects_first):
    """But for the logarithm of a heap."""
    chain = [Normal("p(z_0)", shape=2)]
    chain += [Normal(f"p(z_{n}|z_{n - 1})", nn.Identity(), shape=1) for n in range(1, 800)]
    uses = {n: tuple(Use(f) for f in (chain[n - 1 :: -1] if effects_first else chain[:n])) for n in (400, 800)}
    found = grows_linearly(lambda n: draw_order(uses[n]), 400)
    assert [u.factor for u in found] == chain


def test_among_factors_that_are_ready_the_written_order_holds():
    a, b, c, d = (
        Normal("p(a)", shape=1),
        Normal("p(b|d)", nn.Identity()),
        Normal("p(c)", shape=1),
        Normal("p(d)", shape=1),
    )
    assert [u.factor for u in draw_order(tuple(map(Use, (b, c, a, d))))] == [c, a, d, b]
    assert [u.factor for u in draw_order(tuple(map(Use, (d, c, b, a))))] == [d, c, b, a]


# ---------------------------------------------------------------------------------------------------------- printing


SHORT = {("named", how) for how in ("str", "repr", "latex")}  # the outermost name is all there is to print


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "how"), [(s, h) for s in SHAPES for h in PRINTED if (s, h) not in SHORT])
def test_printing_is_linear(shape, how):
    build, size = SHAPES[shape]
    formulas = {n: build(n) for n in (size, 2 * size)}
    assert len(grows_linearly(lambda n: PRINTED[how](formulas[n]), size)) > 2 * size


def test_a_long_sum_reads_as_it_was_written():
    by_hand = "log p(x|z)" + "".join(f" + {n} * log p(x|z)" for n in range(1, 2000))
    assert text(terms(2000).node) == by_hand
    by_hand = r"\log p(x \mid z)" + "".join(rf" + {n} \, \log p(x \mid z)" for n in range(1, 2000))
    assert latex(terms(2000).node) == by_hand
    lines = terms(2000).latex_lines().split("\n")
    assert (len(lines), lines[1999]) == (2002, r"&+ 1998 \, \log p(x \mid z) \\")


def test_a_deep_nest_reads_as_it_was_written():
    assert text(squashed(1000).node) == "tanh(" * 1000 + "x" + ") * 0.5 + 0.1" * 1000
    assert latex(squashed(1000).node) == r"\tanh\left( " * 1000 + "x" + r" \right) \cdot 0.5 + 0.1" * 1000
    assert text(expected(1000).node) == "E_{q(z|x)}[" * 1000 + "log p(x|z)" + "]" * 1000


def test_names_inside_names_are_explained_from_the_outermost():
    lines = named(1000).latex_lines().split("\n")
    assert lines[1] == r"&s_{999} \\"
    assert lines[2] == r"&\text{where}\quad s_{999} = s_{998} + 1 \\"
    assert lines[1001] == r"&\phantom{\text{where}}\quad s_{0} = x + 1"


# ----------------------------------------------------------------------------------------------------------- walking


@pytest.mark.parametrize("found", [lambda n: list(walk(n)), factors, drawn_factors, initial_of, graph])
def test_walking_is_linear(found):
    formulas = {n: expected(n).node for n in (400, 800)}
    grows_linearly(lambda n: found(formulas[n]), 400)


def test_a_part_that_is_written_many_times_is_walked_once():
    """2⁵⁰ paths lead from the whole to x."""
    found = Value("x")
    for n in range(50):
        found = (found + found).named(f"s{n}")
    nodes = list(walk(found.node))
    assert len(nodes) == 101
    assert sum(isinstance(n, Named) for n in nodes) == 50
    assert found.latex_lines().count("where") == 50


def test_walking_keeps_the_written_order():
    a, b, c = (Value(name) for name in "abc")
    names = [str(n.variable) for n in walk((tanh(a) * (b + c) - a).node) if hasattr(n, "variable")]
    assert names == ["a", "b", "c"]
    assert [type(n).__name__ for n in walk(tanh(-a).node)] == ["Function", "Negative", "Value"]


# ---------------------------------------------------------------------------------------------------------- networks


def test_networks_are_registered_when_they_are_asked_for_and_once(monkeypatch):
    seen = []
    real = registering.register_networks
    monkeypatch.setattr("worldformula.formula.expressions.expression.register_networks",
                        lambda *a: (seen.append(a), real(*a)))  # fmt: skip
    found = terms(50)
    assert (repr(found), found.latex, seen) == (repr(found), found.latex, [])
    assert list(found.state_dict()) == ["p_x_given_z.weight", "p_x_given_z.bias"]
    assert (len(list(found.parameters())), len(seen)) == (2, 1)


def prior():
    return Normal("p(z)", loc=nn.Parameter(torch.zeros(2)), scale=1.0)


def loss():
    q, p = Normal("q(z|x)", nn.Linear(3, 4)), decoder()
    return (E(q, log(p) + log(prior())) * Symbol("beta")).mean()


NAMES = ["q_z_given_x.weight", "q_z_given_x.bias", "p_x_given_z.weight", "p_x_given_z.bias", "p_z.loc"]
TOUCHES = {
    "parameters": lambda f: list(f.parameters()),
    "state_dict": lambda f: f.state_dict(),
    "load_state_dict": lambda f: f.load_state_dict(loss().state_dict()),
    "modules": lambda f: list(f.modules()),
    "children": lambda f: list(f.children()),
    "attribute": lambda f: f.p_x_given_z,
    "get_submodule": lambda f: f.get_submodule("p_x_given_z"),
    "zero_grad": lambda f: f.zero_grad(),
    "to": lambda f: f.to(torch.float64),
    "apply": lambda f: f.apply(lambda m: None),
    "eval": lambda f: f.eval(),
    "dir": dir,
    "repr of the module": nn.Module.__repr__,
    "an attribute of one's own": lambda f: setattr(f, "mark", 1),
    "call": lambda f: f(x=torch.ones(2, 3), beta=1.0),
    "code": lambda f: f.code,
    "pickle": pickle.dumps,
    "deepcopy": copy.deepcopy,
    "shallow copy": copy.copy,
    "functional_call": lambda f: torch.func.functional_call(f, {}, (), {"x": torch.ones(2, 3), "beta": 1.0}),
}


@pytest.mark.parametrize("touch", TOUCHES)
def test_whatever_touches_a_formula_first_finds_every_network_under_its_name(touch):
    found = loss()
    TOUCHES[touch](found)
    assert "_modules" in vars(found)
    assert [name for name, _ in found.named_parameters()] == NAMES
    assert len(list(found.modules())) == 4
    assert type(found) is type(copy.deepcopy(found))


def test_the_first_touch_may_be_a_compiled_function():
    found, x = loss(), torch.ones(2, 3)

    def value(x):
        return found(x=x, beta=1.0, noise={"z": x[:, :2]}).value

    torch.testing.assert_close(torch.compile(value, backend="eager", fullgraph=True)(x), value(x))
    assert [name for name, _ in found.named_parameters()] == NAMES


def test_a_class_of_ones_own_keeps_its_networks_and_its_kind():
    class Mine(Expression):
        pass

    found = copy.deepcopy(Mine(loss().node))
    assert [name for name, _ in found.named_parameters()] == NAMES
    assert type(found) is Mine


def test_an_unknown_attribute_is_named_as_of_any_module():
    with pytest.raises(AttributeError, match="'Expression' object has no attribute 'latent'"):
        loss().latent  # noqa: B018


def test_networks_of_one_name_are_numbered_in_linear_time():
    def registered(count):
        owner = nn.Module()
        registering.register_networks(owner, many[:count])
        return [name for name, _ in owner.named_children()]

    many = [decoder() for _ in range(600)]
    assert grows_linearly(registered, 300) == ["p_x_given_z", *(f"p_x_given_z_{n}" for n in range(2, 601))]


def test_a_number_that_a_header_has_already_is_passed_over():
    owner = nn.Module()
    taken = Normal("p_2(z)", nn.Linear(1, 2))
    registering.register_networks(owner, [taken, *(Normal("p(z)", nn.Linear(1, 2)) for _ in range(3))])
    assert [name for name, _ in owner.named_children()] == ["p_2_z", "p_z", "p_z_2", "p_z_3"]


# ------------------------------------------------------------------------------------------------------------ copies


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("how", [copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))], ids=["deepcopy", "pickle"])
def test_a_large_formula_is_copied_with_each_network_once(shape, how):
    build, size = SHAPES[shape]
    made = build(2 * size)
    found = how(made)
    assert (repr(found), found.latex) == (repr(made), made.latex)
    assert [n for n, _ in found.named_modules()] == [n for n, _ in made.named_modules()]
    ours, theirs = ([id(f.net) for f in factors(f.node) if f.net is not None] for f in (made, found))
    assert len(ours) == len(theirs)
    assert not set(ours) & set(theirs)
    assert set(theirs) == {id(m) for m in found.children()}
    assert not any("_nodes" in vars(f) for f in (made, found))


def test_copying_is_linear():
    formulas = {n: terms(n) for n in (400, 800)}
    grows_linearly(lambda n: copy.deepcopy(formulas[n]), 400)


def test_what_two_formulas_share_is_shared_by_their_copies_too():
    part = tanh(Value("x"))
    first, second = copy.deepcopy([part + 1, together(a=part, b=part * 2)])
    inside = [[n for n in walk(f.node) if isinstance(n, Function)] for f in (first, second)]
    assert len(inside[0]) == len(inside[1]) == 1
    assert inside[0][0] is inside[1][0] is not part.node


def test_a_copy_refuses_what_the_original_refuses():
    """What a node remembers of its draws is not copied: it would be of the factors of the original."""
    q = factor("a")
    made = E(q, Value("z_a")) * E(factor("b"), Value("z_b"))
    found = copy.deepcopy(made)
    assert found * made
    with pytest.raises(SharedDrawError):
        found * found
