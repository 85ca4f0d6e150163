"""Histories, ``z_{<t}``: how they are written and printed, where their networks run, what they equal, and refusals."""

import copy
import pickle
import re

import pytest
import torch
from torch import nn

from tests.formula.models import A, B, D, Join, T, X, Z, gradients
from worldformula import KL, Bernoulli, Deterministic, E, Normal, Sum, Value, log
from worldformula.errors import CycleError, FormulaError, GradientError, HeaderError, TimeError
from worldformula.formula.code.emit import emit
from worldformula.formula.code.interpret import interpret
from worldformula.formula.graph.graph import graph
from worldformula.formula.print.latex import variable as latex
from worldformula.formula.print.mathml import variable as mathml
from worldformula.formula.syntax.names import read_header, read_variable
from worldformula.formula.syntax.networks import networks
from worldformula.nets.transformer import CausalTransformer
from worldformula.nets.window import WindowMLP

# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("written", "text", "tex", "ml"),
    [
        ("z_{<t}", "z_{<t}", "z_{<t}", "<mo>&lt;</mo><mi>t</mi>"),
        (r"z_{\le t}", "z_{≤t}", r"z_{\le t}", "<mo>≤</mo><mi>t</mi>"),
        (r"z_{\leq t}", "z_{≤t}", r"z_{\le t}", "<mo>≤</mo><mi>t</mi>"),
        ("z_{<=t}", "z_{≤t}", r"z_{\le t}", "<mo>≤</mo><mi>t</mi>"),
        ("z_{ t-3 : t }", "z_{t-3:t}", "z_{t-3:t}", "<mi>t</mi><mo>−</mo><mn>3</mn><mo>:</mo><mi>t</mi>"),
        ("z_{t-4:t-1}", "z_{t-4:t-1}", "z_{t-4:t-1}", "<mn>4</mn><mo>:</mo><mi>t</mi><mo>−</mo><mn>1</mn>"),
        (r"\hat z_{1,<t}", r"\hat z_{1,<t}", r"\hat{z}_{1,<t}", "<mo>&lt;</mo><mi>t</mi>"),
    ],
)
def test_a_history_is_read_printed_and_read_back(written, text, tex, ml):
    variable = read_variable(written)
    assert str(variable) == text
    assert latex(variable) == tex
    assert ml in mathml(variable)
    assert read_variable(text) == read_variable(tex) == variable


def test_where_a_history_ends_and_how_long_it_is():
    found = [read_variable(v) for v in ("z_{<t}", "z_{≤t}", "z_{t-3:t}", "z_{t-4:t-1}", "z_{t:t}")]
    assert [(v.offset, v.window) for v in found] == [(-1, None), (0, None), (0, 4), (-1, 4), (0, 1)]
    assert len({v.identifier for v in found[:3]}) == 3


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("p(z_t|z_{t:t-3})", "expected a window that ends at t or t-1, such as 't-3:t', found 't'"),
        ("p(z_t|z_{t-3:s})", "expected a window that ends at t or t-1, such as 't-3:t', found 't'"),
        ("p(z_t|z_{t-5:t-2})", "expected a window that ends at t or t-1, such as 't-3:t', found 't'"),
        ("p(z_t|z_{>t})", "expected a subscript such as 't-1' or '1:T', found '>'"),
    ],
)
def test_a_wrong_window_is_pointed_at(header, message):
    with pytest.raises(HeaderError) as error:
        read_header(header)
    assert str(error.value) == f"{message}\n    {header}\n    {' ' * header.index('{')} ^"


def test_a_factor_declares_one_step():
    with pytest.raises(TimeError) as error:
        read_header("p(z_{<t}|x_t)")
    assert str(error.value) == "p(z_{<t}|x_t): a factor declares its variable at one step, found the history z_{<t}"


# -------------------------------------------------------------------------------------------------------------- meaning


def gpt(**clock):
    """A posterior of data alone: nothing is left in the loop."""
    prior = Normal("p(z_t|z_{<t}, a_{<t})", CausalTransformer(Z + A, 2 * Z, width=8, heads=2), shape=Z)
    post, decode = Normal("q(z_t|x_t)", Join(X, 2 * Z), shape=Z), Normal("p(x_t|z_t)", Join(Z, 2 * X), shape=X)
    return Sum("t", E(post, KL(post, prior) - log(decode)), **clock).mean().double(), prior, post, decode


def autoregressive(**clock):
    """A posterior that attends to its own draws, which go from step to step."""
    post = Normal("q(z_t|z_{<t}, x_{\\le t})", CausalTransformer(Z + X, 2 * Z, width=8, heads=2), shape=Z)
    decode = Normal("p(x_t|z_{t-2:t})", WindowMLP(Z, 2 * X, context=3, units=8, layers=1), shape=X)
    return Sum("t", E(post, log(post) - log(decode)), **clock).mean().double(), post, decode


def summary(**clock):
    """A summary of the data so far, before the loop, that the loop reads."""
    past = Deterministic("s_t = gather(x_{\\le t})", WindowMLP(X, D, context=4, units=8, layers=1), shape=D)
    core = Deterministic("h_t = f(h_{t-1}, s_t)", Join(2 * D, D), shape=D)
    head = Normal("p(x_t|h_t)", Join(D, 2 * X), shape=X)
    return Sum("t", E(past * core, -log(head)), **clock).mean().double(), past, core, head


CASES = {"gpt": gpt, "autoregressive": autoregressive, "summary": summary}


def series(loss):
    data = {"x": torch.randn(B, T, X), "a": torch.randn(B, T, A)}
    first = torch.zeros(B, T)
    first[1, 2] = first[2, 3] = 1
    known = {k: v.double() for k, v in data.items() if k in loss.program.inputs}
    return known | ({"first": first} if "first" in loss.program.inputs else {})


def in_the_loop(plan):
    """All that is not given stays in the loop."""
    data = ("input", "noise", "flags", "shift", "repeat")
    return plan.with_stages(**{op.name: "before" for op in plan.ops if op.step and op.kind in data})


@pytest.mark.parametrize("clock", [{}, {"reset": "first"}], ids=["whole", "reset"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_at_once_and_step_by_step_are_equal_in_value_and_gradient(case, clock):
    loss = case(**clock)[0]
    data = series(loss)
    call = loss.program.binder.bind({**data, "seed": 0})
    value = loss(**data, seed=0).value
    expected = gradients(value, loss)
    stepping = emit(in_the_loop(loss.program.raw), networks(loss), "stepping")
    assert "advance(" in stepping.source
    runs = (
        lambda: interpret(loss.program.raw, call.arguments),
        lambda: stepping.call(loss, *(call.arguments[name] for name in stepping.arguments)),
    )
    for run in runs:
        stepped = run()[0]
        torch.testing.assert_close(stepped, value, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(gradients(stepped, loss), expected, rtol=1e-9, atol=1e-9)


def test_a_history_up_to_the_step_before_is_the_series_one_step_later_by_hand():
    loss, prior, post, decode = gpt(reset="first")
    data, noise = series(loss), torch.randn(B, T, Z).double()
    loc, scale = (p.unflatten(0, (B, T)) for p in post.params(data["x"].flatten(0, 1)))
    z = loc + scale * noise
    total = 0.0
    for row in range(B):
        begins = [t for t in range(T) if t == 0 or data["first"][row, t]]
        for begin, end in zip(begins, [*begins[1:], T], strict=True):  # each sequence on its own
            late = [torch.cat((s[row, :1] * 0, s[row, begin : end - 1]))[None] for s in (z, data["a"])]
            p_loc, p_scale = split(prior.net(*late)[0])
            q = torch.distributions.Normal(loc[row, begin:end], scale[row, begin:end])
            total = total + torch.distributions.kl_divergence(q, torch.distributions.Normal(p_loc, p_scale)).sum()
    x_loc, x_scale = split(decode.net(z.flatten(0, 1)))
    total = total - torch.distributions.Normal(x_loc, x_scale).log_prob(data["x"].flatten(0, 1)).sum()
    torch.testing.assert_close(loss(**data, noise={"z": noise}).value, total / B)


def split(head):
    loc, raw = head.chunk(2, -1)
    return loc, nn.functional.softplus(raw)


def test_where_the_network_runs():
    assert "for t in" not in gpt(reset="first")[0].code
    assert re.search(r"flat\(self\.p_z_given_z_past_a_past\(.*, reset=~keep\)\)", gpt(reset="first")[0].code)
    before, _, loop = autoregressive()[0].code.partition("for t in range(T):")
    assert "head_q_z_cache = self.q_z_given_z_past_x_so_far.cache(B, T, start_z.device, start_z.dtype)" in before
    loop, _, after = loop.partition("# after the loop")
    assert "head_q_z_cache, head_q_z = advance(q_z_given_z_past_x_so_far, head_q_z_cache, None, B, z_prev, x_s[t])" in (
        loop
    )
    assert "flat(self.p_x_given_z_window(z.unflatten(0, (B, T))))" in after
    early, _, loop = summary()[0].code.partition("for t in range(T):")
    assert "s = flat(self.gather(x.unflatten(0, (B, T))))" in early


def test_printed_formula_and_picture():
    loss = gpt()[0]
    assert r"p(z_{t} \mid z_{<t}, a_{<t})" in loss.latex
    assert "p(z_t|z_{<t},a_{<t})" in loss.code
    assert "z_{<t}" in {v.name for v in graph(loss).vertices}
    pairs = {(str(e.source), str(e.target)) for e in graph(loss).edges}
    assert ("z_{<t}", "z_t") in pairs
    assert ("z_t", "z_{<t}") not in pairs, "no step is a part of its own past"


def test_a_memory_is_of_worlds_and_a_loss_begins_with_its_sequences():
    loss = gpt()[0]
    data = series(loss)
    with pytest.raises(FormulaError) as error:
        loss(**data, start=loss(**data).last)
    assert str(error.value) == (
        "start=: p(z_t|z_{<t},a_{<t}) reads a history, of which a start holds the last step alone\n"
        "pass whole sequences, with reset= flags where one begins; World.filter goes on from a state"
    )


# ------------------------------------------------------------------------------------------------------------- refusals


def refused(prior, **options):
    post = Normal("q(z_t|x_t)", Join(X, 2 * Z), shape=Z)
    loss = Sum("t", E(post, log(post) - log(prior), **options))
    with pytest.raises(FormulaError) as error:
        loss(x=torch.randn(B, T, X), **({"h": torch.zeros(B, T, D)} if "h" in str(prior) else {}))
    return error.type, str(error.value)


def test_what_a_history_takes():
    attention = CausalTransformer(Z, 2 * Z, width=8, heads=1)
    assert refused(Normal("p(z_t|z_{<t}, h_t)", attention, shape=Z)) == (
        TimeError,
        (
            "p(z_t|z_{<t},h_t) reads histories and h_t; its network sees one series a condition, so write h_{≤t} "
            "there, or two factors: one that reads the histories, and one that reads its result beside h_t"
        ),
    )
    assert refused(Normal("p(z_t|z_{<t})", nn.GRU(Z, 2 * Z), shape=Z)) == (
        FormulaError,
        (
            "p(z_t|z_{<t}) reads a history, which takes a network with context, step and cache, got GRU\n"
            "use worldformula.nets.transformer.CausalTransformer or worldformula.nets.window.WindowMLP, or write the "
            "protocol worldformula.nets.causal.Causal"
        ),
    )
    assert refused(Normal("p(z_t|z_{t-3:t-1})", WindowMLP(Z, 2 * Z, context=4), shape=Z)) == (
        FormulaError,
        (
            "p(z_t|z_{t-3:t-1}) says 3 positions, and its network sees 4; give both one length: the context of the "
            "network, or a window of the header"
        ),
    )
    assert (
        "says 3 positions, and its network sees all positions"
        in (refused(Normal("p(z_t|z_{t-3:t-1})", attention, shape=Z))[1])
    )
    assert refused(Normal("p(z_t|z_{t-3:t-1}, h_{t-1:t})", WindowMLP(Z, 2 * Z, context=3), shape=Z)) == (
        TimeError,
        (
            "p(z_t|z_{t-3:t-1},h_{t-1:t}) reads histories of different lengths; all positions of a network have one, "
            "as in p(z_t|z_{t-4:t-1},a_{t-4:t-1})"
        ),
    )
    assert refused(Normal("p(z_t|y_{<s})", attention, shape=Z)) == (
        TimeError,
        "p(z_t|y_{<s}): a history is one of time, so it stands inside the Sum over the steps of 's'",
    )
    smooth = Deterministic("u_t, w_t = f(z_{<t})", attention, shape=(Z, Z))
    with pytest.raises(TimeError, match="a network over histories has one output"):
        Sum("t", E(smooth, Value("y_t")))(z=torch.zeros(B, T, Z), y=torch.zeros(B, T))


def test_several_draws_and_values_of_a_history_are_refused():
    read = Normal("p(x_t|z_{\\le t})", CausalTransformer(Z, 2 * X, width=8, heads=1), shape=X)
    post = Normal("q(z_t|x_t)", Join(X, 2 * Z), shape=Z)
    with pytest.raises(TimeError) as error:
        Sum("t", E(post, -log(read), samples=3))(x=torch.randn(B, T, X))
    assert str(error.value) == (
        "p(x_t|z_{≤t}) reads what is drawn several times (samples= or gradient='exact'), and a history is one value a "
        "row\ngive the batch more rows instead, x.repeat_interleave(K, 0): their mean is that of K samples, and a log "
        "of it is yours to take"
    )
    with pytest.raises(TimeError, match=r"a history, which is read by the network of a factor: f\(z_\{<t\}\)"):
        Sum("t", E(post, Value("z_{<t}")))(x=torch.randn(B, T, X))


def test_an_estimator_of_one_step_does_not_reach_other_steps():
    bits = Bernoulli("q(b_t|x_t)", Join(X, Z), shape=Z)
    summed = Deterministic("s_t = sum(b_{1:T})", lambda b: b.cumsum(1), shape=Z)
    series = Normal("p(x_t|s_t)", Join(Z, 2 * X), shape=X)
    past = Normal("p(x_t|b_{\\le t})", WindowMLP(Z, 2 * X, context=3), shape=X)
    for how, error in (("score", GradientError), ("exact", TimeError)):
        for q, p, by in ((bits * summed, series, "s_t = sum(b_{1:T})"), (bits, past, "p(x_t|b_{≤t})")):
            with pytest.raises(error) as found:
                Sum("t", E(q, -log(p), gradient=how))(x=torch.randn(B, T, X))
            read = by[by.index("b_") :].rstrip(")")
            score = (
                f"E over q(b_t|x_t): gradient='score' would miss what the draw does to other steps, where {by} reads "
                f"it as {read}\nuse gradient='straight-through', or a family such as OneHot"
            )
            exact = (
                f"{by} reads {read}, and q(b_t|x_t) takes every value at each step by itself, not every series of "
                f"them\ndraw it: use gradient='straight-through', or a family such as OneHot"
            )
            assert str(found.value) == (score if how == "score" else exact)


def test_the_last_value_and_the_series_of_several_draws_are_not_read_outside_their_e():
    q, decode = Normal("q(z_t|x_t)", Join(X, 2 * Z), shape=Z), Normal("p(x_t|z_t)", Join(Z, 2 * X), shape=X)
    for read in ("z_T", "z_{1:T}"):
        label = Bernoulli(f"p(y|{read})", nn.Sequential(nn.Flatten(), nn.LazyLinear(1)), shape=())
        with pytest.raises(TimeError) as error:
            (Sum("t", E(q, -log(decode), samples=3)) - log(label))(x=torch.randn(B, T, X), y=torch.zeros(B))
        assert str(error.value) == (
            f"{read} is drawn several times (samples= or gradient='exact'), and is read outside of that E, where it is "
            f"one value\nwrite E with samples= around the whole sum over t"
        )


def test_a_network_that_mixes_rows_keeps_a_history_in_the_loop():
    """Without a carry the cache begins with the noise, or with the data where there is none."""
    q = Normal("q(z_t|x_t)", nn.Sequential(nn.BatchNorm1d(X), nn.Linear(X, 2 * Z)), shape=Z)
    past = Deterministic("u_t = f(z_{\\le t})", WindowMLP(Z, D, context=3), shape=D)
    head = Normal("p(x_t|u_t)", nn.Sequential(nn.BatchNorm1d(D), nn.Linear(D, 2 * X)), shape=X)
    loss = Sum("t", E(q * past, -log(head)), reset="first").mean().double()
    data = series(loss)
    for options in ({"deterministic": True}, {"seed": 0}):
        torch.testing.assert_close(loss(**data, **options).value, loss.interpret(**data, **options).value)


@pytest.mark.slow
def test_a_formula_with_a_history_compiles_and_is_copied():
    loss = gpt(reset="first")[0]
    data = series(loss)
    emitted, call = loss.program.function(loss, deterministic=False), loss.program.binder.bind({**data, "seed": 0})
    compiled = torch.compile(emitted.call, fullgraph=True, backend="aot_eager")
    expected = loss(**data, seed=0).value
    torch.testing.assert_close(compiled(loss, *(call.arguments[n] for n in emitted.arguments))[0], expected)
    for other in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        torch.testing.assert_close(other(**data, seed=0).value, expected)


def test_a_variable_cannot_read_itself_up_to_now():
    with pytest.raises(CycleError):
        E(Normal("q(z_t|z_{\\le t})", CausalTransformer(Z, 2 * Z, width=8, heads=1), shape=Z), Value("z_t", shape=Z))
