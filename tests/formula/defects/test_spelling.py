"""Letters that Python's own names take for one another, and names that no call could be given."""

import pickle

import pytest
import torch
from torch import nn
from torch.distributions import Normal as Gauss

from tests.formula.defects.both import PATHS, refused, run
from worldformula import KL, Deterministic, E, Normal, Sum, Symbol, Value, log, norm2, total
from worldformula.errors import FormulaError, HeaderError

Z = 2
# One letter or word as written, another spelling of it, and the keyword of both. The letters are escaped, as many
# fonts draw them alike.
ALIKE = {
    "script l": ("\u2113", "l", "l"),
    "mathematical x": ("\U0001d465", "x", "x"),
    "micro sign": ("\u00b5", "\u03bc", "mu"),
    "micro sign and a word": ("\u00b5", "mu", "mu"),
    "phi symbol": ("\u03d5", "\u03c6", "phi"),
    "phi symbol and a command": ("\u03d5", "\\phi", "phi"),
    "lunate epsilon": ("\u03f5", "\u03b5", "epsilon"),
    "theta symbol": ("\u03d1", "\u03b8", "theta"),
    "Ohm": ("\u2126", "Omega", "Omega"),
    "Kelvin": ("\u212a", "K", "K"),
    "ligature": ("\ufb01t", "fit", "fit"),
    "an accent behind its letter": ("e\u0301", "\u00e9", "\u00e9"),
}
SPELLED = pytest.mark.parametrize("which", ALIKE)


@SPELLED
def test_two_spellings_are_one_variable(which):
    one, other, key = ALIKE[which]
    p, q = (Normal(f"q({name})", shape=Z) for name in (one, other))
    assert p.variable == q.variable
    assert p.variable.key == key
    assert str(p) == str(q)
    with refused("two factors declare"):
        _ = p * q


@PATHS
@SPELLED
def test_what_one_spelling_declares_the_other_reads(which, path):
    one, other, key = ALIKE[which]
    f = Deterministic(f"{one} = f(w)", lambda w: 5 * w, shape=Z)
    loss = E(f, log(Normal(f"p(y|{other})", lambda a: a, shape=Z, scale=1.0)) + total(Value(other, shape=Z)))
    w, y = torch.randn(3, Z), torch.randn(3, Z)
    out = run(loss, path, w=w, y=y)
    torch.testing.assert_close(out.value, Gauss(5 * w, 1.0).log_prob(y).sum(-1) + 5 * w.sum(-1))
    assert list(out.samples) == [key]


@PATHS
@SPELLED
def test_a_call_may_spell_its_keywords_either_way(which, path):
    one, other, key = ALIKE[which]
    loss = E(Normal(f"q(z|{one})", lambda a: a, shape=Z, scale=0.5), norm2(Value("z", shape=Z) - Value(other, shape=Z)))
    a, noise = torch.randn(3, Z), torch.randn(3, Z)
    for name in {one, other.strip("\\"), key}:
        found = run(loss, path, **{name: a}, noise={"z": noise}).value
        torch.testing.assert_close(found, 0.25 * noise.square().sum(-1))


@PATHS
@SPELLED
def test_draws_and_their_noise_are_spelled_either_way(which, path):
    one, other, key = ALIKE[which]
    q = Normal(f"q({one}|w)", nn.Linear(3, 2 * Z), shape=Z)
    loss = KL(q, Normal(f"p({other})", shape=Z)) + E(q, total(Value(other, shape=Z)))
    w, noise = torch.randn(4, 3), torch.randn(4, Z)
    loc, raw = q.net(w).chunk(2, -1)
    scale = nn.functional.softplus(raw)
    kl = torch.distributions.kl_divergence(Gauss(loc, scale), Gauss(0.0, 1.0)).sum(-1)
    for name in {one, key}:
        out = run(loss, path, w=w, noise={name: noise})
        torch.testing.assert_close(out.value, kl + (loc + scale * noise).sum(-1))
    assert str(loss) == str(KL(q, Normal(f"p({one})", shape=Z)) + E(q, total(Value(one, shape=Z))))
    assert pickle.loads(pickle.dumps(loss))(w=w, noise={key: noise}).value.equal(loss(w=w, noise={key: noise}).value)


@PATHS
def test_python_gives_the_keyword_in_its_own_spelling(path):
    """Python itself turns the ``ϵ`` of ``f(ϵ=2.0)`` into ε."""
    w = torch.tensor([1.0, 2.0])
    loss = Symbol("\u03f5") * Value("w")
    for call in ("run(loss, path, w=w, \u03f5=2.0)", "run(loss, path, w=w, \u03b5=2.0)"):
        torch.testing.assert_close(eval(call, {"run": run, "loss": loss, "path": path, "w": w}).value, 2 * w)
    p = Normal("p(x|\u03d5)", lambda a: a, shape=Z, scale=Symbol("\u03f5"))
    x, phi = torch.randn(3, Z), torch.randn(3, Z)
    for keywords in ("\u03d5=phi, \u03f5=2.0", "phi=phi, epsilon=2.0"):
        found = eval(f"p.log_prob(x=x, {keywords})", {"p": p, "x": x, "phi": phi})
        torch.testing.assert_close(found, Gauss(phi, 2.0).log_prob(x).sum(-1))
    assert str(eval("p.rename(\u03d5='y')", {"p": p}).header.conditions[0]) == "y"


@PATHS
def test_names_through_time_are_spelled_either_way(path):
    """The index, the carry, its first value, the flags."""
    core = Deterministic(
        "\u03d5_\U0001d461 = f(\u03c6_{\U0001d461-1},x_t)", lambda h, x: h + x, shape=1
    )  # a mathematical t
    body = log(Normal("p(x_t|\\phi_t)", lambda h: h, shape=1, scale=1.0))
    start = torch.tensor([0.5])
    loss = Sum("\U0001d461", E(core, body), reset="\ufb01rst", initial={"\u03d5": start})
    x, first = torch.randn(4, 3, 1), torch.tensor([[1.0, 0, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0]])
    h, expected = start.expand(4, 1), 0.0
    for t in range(3):
        h = torch.where(first[:, t, None] == 1, start, h) + x[:, t]
        expected = expected + Gauss(h, 1.0).log_prob(x[:, t]).sum(-1)
    torch.testing.assert_close(run(loss, path, x=x, first=first).value, expected)
    again = run(loss, path, x=x, first=first, start={"\u03d5": start.expand(4, 1)}).value
    torch.testing.assert_close(again, expected)


@pytest.mark.parametrize("name", ["x\u00b2", "z_{\u00b2}", "\u00bd"])
def test_letters_that_no_name_in_python_has_are_refused(name):
    with refused("names in python", "^", error=HeaderError):
        Normal(f"q({name})", shape=Z)


@pytest.mark.parametrize(("text", "shown"), [("x'", "x'"), ("\\hat z", "\\hat z"), ("z_{t-1}", "z_{t-1}")])
def test_primes_hats_and_subscripts_stay(text, shown):
    assert str(Value(text).node.variable) == shown


# ----------------------------------------------------------------------------------- the first argument of every call


@pytest.mark.parametrize(
    "build",
    [
        lambda: Normal("q(self|x)", nn.Linear(2, 4), shape=Z),
        lambda: Normal("q(z|self)", nn.Linear(2, 4), shape=Z),
        lambda: Normal("q(z_t|self_{t-1})", nn.Linear(2, 4), shape=Z),
        lambda: Deterministic("y = f(self)", nn.Linear(2, 2), shape=Z),
        lambda: Symbol("self"),
        lambda: Value("self"),
        lambda: Normal("q(z|x)", nn.Linear(2, 4), shape=Z).rename(x="self"),
    ],
)
def test_no_variable_is_called_self(build):
    with refused("cannot be called 'self', the first argument of every call", error=FormulaError):
        build()


@PATHS
def test_a_network_may_be_called_self(path):
    f, x = Deterministic("y = self(x)", nn.Linear(2, Z), shape=Z), torch.randn(3, 2)
    torch.testing.assert_close(run(E(f, total(Value("y"))), path, x=x).value, f.net(x).sum(-1))


@PATHS
def test_a_symbol_called_as_an_option_is_refused_by_its_name(path):
    with refused("noise: a variable cannot be called 'noise', which is an option of the call", error=FormulaError):
        run(Symbol("noise") * Value("w"), path, w=torch.ones(2), noise=2.0)
