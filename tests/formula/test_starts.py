"""What the carry begins with, said by factors: drawn, or computed from the first rows; against loops by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.distributions import Normal as Gauss
from torch.distributions import kl_divergence

from tests.formula.defects.both import PATHS, refused, run
from worldformula import (
    KL,
    Bernoulli,
    Data,
    Deterministic,
    E,
    Normal,
    OneHot,
    Sum,
    Value,
    World,
    log,
)
from worldformula.errors import (
    DuplicateVariableError,
    FormulaError,
    GradientError,
    OneDrawError,
    ShapeError,
    TimeError,
    UnknownVariableError,
)
from worldformula.formula.graph.graph import graph
from worldformula.testing import check_world

B, T, X = 4, 6, 2
READS = ["nothing", "given once", "the first row", "the first rows"]


def flags():
    first = torch.zeros(B, T)
    first[1, 3], first[2, 1], first[2, 2], first[3, 0] = 1, 1, 1, 1
    return first


class Net(nn.Module):
    """Conditions, concatenated."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layers = nn.Linear(inputs, outputs)

    def forward(self, *conditions):
        return self.layers(torch.cat(conditions, -1))


class Rows(nn.Module):
    """All of the first rows at once."""

    def __init__(self, rows, outputs):
        super().__init__()
        self.layers = nn.Linear(rows * X, outputs)

    def forward(self, x):
        return self.layers(x.flatten(1))


def begun(reads, random):
    """A start that reads this, its network and its condition."""
    out = 2 * X if random else X
    net = Rows(2, out) if reads == "the first rows" else Net(X, out)
    condition = {"given once": "c", "the first row": "x_1", "the first rows": "x_{1:2}"}.get(reads)
    if condition is None:
        loc, scale = nn.Parameter(torch.tensor([0.5, -1.0])), 0.7
        return Normal("p(z_0)", shape=X, loc=loc, scale=scale), (loc,), lambda x, c, n: loc + scale * n

    def read(x, c):
        return net(c) if reads == "given once" else net(x)

    if not random:
        return Deterministic(f"z_0 = e({condition})", net, shape=X), (*net.parameters(),), lambda x, c, n: read(x, c)

    def draw(x, c, n):
        loc, raw = read(x, c).chunk(2, -1)
        return loc + nn.functional.softplus(raw) * n

    return Normal(f"q(z_0|{condition})", net, shape=X), (*net.parameters(),), draw


def walked(core, x, start, first=None):
    """Σ_t log p(x_t|z_t) of z_t = core(z_{t-1}), where ``start(t)`` is what a sequence that begins at t begins with."""
    z, expected = start(0), 0.0
    for t in range(x.shape[1]):
        if first is not None:
            z = torch.where(first[:, t, None] == 1, start(t), z)
        z = core(z)
        expected = expected + Gauss(z, 1.0).log_prob(x[:, t]).sum(-1)
    return expected, z


def walk(core, start, **options):
    step = Deterministic("z_t = f(z_{t-1})", core, shape=X)
    return Sum("t", E(step, log(Normal("p(x_t|z_t)", lambda z: z, shape=X, scale=1.0))), initial=start, **options)


@PATHS
@pytest.mark.parametrize("reset", [None, "first"])
@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize(("rows", "steps"), [(B, T), (1, 2), (2, 1)])
def test_a_start_in_value_and_gradient(rows, steps, reads, random, reset, path):
    factor, weights, draw = begun(reads, random)
    core = nn.Linear(X, X)
    loss = walk(core, factor, reset=reset)
    x, c, first = torch.randn(rows, steps, X), torch.randn(rows, X), flags()[:rows, :steps]
    given = {"x": x} | ({"c": c} if reads == "given once" else {}) | ({"first": first} if reset else {})
    if reads == "the first rows" and (reset or steps < 2):
        with pytest.raises(TimeError if reset else ShapeError):
            run(loss, path, **given)
        return
    noise = torch.randn(rows, steps, X) if reset else torch.randn(rows, X)
    drawn = random or reads == "nothing"

    def start(t):
        seen = x[:, :2] if reads == "the first rows" else x[:, t]
        return draw(seen, c, noise[:, t] if reset else noise)

    expected, last = walked(core, x, start, first if reset else None)
    out = run(loss, path, **given, **({"noise": {"z_0": noise}} if drawn else {}))
    torch.testing.assert_close(out.value, expected)
    torch.testing.assert_close(out.last, {"z": last})
    weights = [*weights, *core.parameters()]
    for got, right in zip(*(torch.autograd.grad(v.sum(), weights) for v in (out.value, expected)), strict=True):
        torch.testing.assert_close(got, right)
    assert {id(p) for p in loss.parameters()} == {id(p) for p in weights}


@PATHS
@pytest.mark.parametrize("reset", [None, "first"])
@pytest.mark.parametrize("cut", [1, 3])
def test_chunks_go_on_from_the_last(cut, reset, path):
    loss = walk(nn.Linear(X, X), Deterministic("z_0 = e(x_1)", nn.Linear(X, X), shape=X), reset=reset)
    data = {"x": torch.randn(B, T, X)} | ({"first": flags()} if reset else {})
    head = run(loss, path, **{k: v[:, :cut] for k, v in data.items()})
    tail = run(loss, path, **{k: v[:, cut:] for k, v in data.items()}, start=head.last)
    whole = run(loss, path, **data)
    torch.testing.assert_close(head.value + tail.value, whole.value)
    torch.testing.assert_close(tail.last, whole.last)


@PATHS
def test_the_first_rows_need_not_be_there_in_a_chunk_that_goes_on(path):
    loss = walk(nn.Linear(X, X), Deterministic("z_0 = e(x_{1:3})", Rows(3, X), shape=X))
    x = torch.randn(B, T, X)
    head = run(loss, path, x=x[:, :5])
    torch.testing.assert_close(head.value + run(loss, path, x=x[:, 5:], start=head.last).value, loss(x=x).value)


@PATHS
def test_a_start_counts_in_the_bound_where_it_is_written(path):
    q0, net = Normal("q(z_0|x_{1:2})", Rows(2, 2 * X), shape=X), nn.Linear(X, X)
    p0 = Normal("p(z_0)", shape=X, loc=0.3, scale=2.0)
    x, noise = torch.randn(B, T, X), torch.randn(B, X)
    loc, raw = q0.net(x[:, :2]).chunk(2, -1)
    posterior, prior = Gauss(loc, nn.functional.softplus(raw)), Gauss(torch.tensor(0.3), torch.tensor(2.0))
    start = loc + posterior.scale * noise
    expected = walked(net, x, lambda t: start)[0]
    divergence = kl_divergence(posterior, prior).sum(-1)
    sampled = (posterior.log_prob(start) - prior.log_prob(start)).sum(-1)
    for loss, right in (
        (walk(net, q0) - KL(q0, p0), expected - divergence),
        (KL(q0, p0) + walk(net, q0), expected + divergence),
        (walk(net, q0) + log(p0) - log(q0), expected - sampled),
    ):
        found = run(loss, path, x=x, noise={"z_0": noise}).value
        torch.testing.assert_close(found, right)
        weights = [*q0.net.parameters(), *net.parameters()]
        both = (torch.autograd.grad(v.sum(), weights, retain_graph=True) for v in (found, right))
        for got, wanted in zip(*both, strict=True):
            torch.testing.assert_close(got, wanted)
        with refused("a call with start= goes on behind the first step", error=TimeError):
            run(loss, path, x=x, start={"z": start})


@PATHS
def test_starts_at_resets_count_where_a_flag_stands(path):
    q0, p0, net = Normal("q(z_0|x_1)", Net(X, 2 * X), shape=X), Normal("p(z_0)", shape=X), nn.Linear(X, X)
    step = Deterministic("z_t = f(z_{t-1})", net, shape=X)
    body = E(step, log(Normal("p(x_t|z_t)", lambda z: z, shape=X, scale=1.0)) - Value("first_t") * KL(q0, p0))
    loss = Sum("t", body, reset="first", initial=q0)
    x, noise, first = torch.randn(B, T, X), torch.randn(B, T, X), flags()
    first[:, 0] = 1
    loc, raw = q0.net(x).chunk(2, -1)
    q = Gauss(loc, nn.functional.softplus(raw))
    expected = walked(net, x, lambda t: (loc + q.scale * noise)[:, t], first)[0]
    divergence = kl_divergence(q, Gauss(torch.zeros(()), torch.ones(()))).sum(-1)
    found = run(loss, path, x=x, first=first, noise={"z_0": noise}).value
    torch.testing.assert_close(found, expected - (first * divergence).sum(1))
    with refused("every sequence has one of its own", "Value('first_t')", error=TimeError):
        _ = (walk(net, q0, reset="first") - log(p0)).code


@PATHS
def test_a_product_of_starts_and_a_function_of_several(path):
    core = Deterministic("h_t, z_t = f(h_{t-1}, z_{t-1})", lambda h, z: (h + z, z - h), shape=[X, X])
    p = Normal("p(x_t|h_t)", lambda h: h, shape=X, scale=1.0)
    net, x, noise = nn.Linear(X, X), torch.randn(B, T, X), torch.randn(B, X)
    product = Normal("p(z_0|h_0)", net, shape=X, scale=1.0) * Deterministic("h_0 = e(x_1)", lambda x: 2 * x, shape=X)
    both = Deterministic("h_0, z_0 = e(x_{1:2})", lambda x: (x[:, 0], x[:, 1]), shape=[X, X])
    for start, h, z, given in (
        (product, 2 * x[:, 0], net(2 * x[:, 0]) + noise, {"noise": {"z_0": noise}}),
        (both, x[:, 0], x[:, 1], {}),
        ({"h": Deterministic("h_0 = e(x_1)", lambda x: 3 * x, shape=X), "z": torch.ones(X)}, 3 * x[:, 0], 1.0, {}),
    ):
        expected = 0.0
        for t in range(T):
            h, z = h + z, z - h
            expected = expected + Gauss(h, 1.0).log_prob(x[:, t]).sum(-1)
        torch.testing.assert_close(run(Sum("t", E(core, log(p)), initial=start), path, x=x, **given).value, expected)


@PATHS
def test_two_steps_begin_with_two_values(path):
    core = Deterministic("z_t = f(z_{t-1},z_{t-2})", lambda a, b: 1.2 * a - 0.5 * b, shape=X)
    p = Normal("p(x_t|z_t)", lambda z: z, shape=X, scale=1.0)
    start = Deterministic("z_0, z_m1 = e(x_{1:2})", lambda x: (x[:, 1], x[:, 0]), shape=[X, X])
    x = torch.randn(B, T, X)
    one, two, expected = x[:, 1], x[:, 0], 0.0
    for t in range(T):
        one, two = 1.2 * one - 0.5 * two, one
        expected = expected + Gauss(one, 1.0).log_prob(x[:, t]).sum(-1)
    torch.testing.assert_close(run(Sum("t", E(core, log(p)), initial=start), path, x=x).value, expected)


@PATHS
def test_the_path_of_a_prior_outside_the_loop_begins_there_too(path):
    """z_{t-1} of a KL alone is a series shifted by one step."""
    q = Normal("q(z_t|x_t)", lambda x: x, shape=X, scale=1.0)
    prior = Normal("p(z_t|z_{t-1})", lambda z: z, shape=X, scale=1.0)
    loss = Sum("t", E(q, KL(q, prior)), reset="first", initial=Deterministic("z_0 = e(x_1)", lambda x: 5 * x, shape=X))
    x, noise, first = torch.randn(B, T, X), torch.randn(B, T, X), flags()
    assert "for t in" not in loss.code
    before, expected = 5 * x[:, 0], 0.0
    for t in range(T):
        before = torch.where(first[:, t, None] == 1, 5 * x[:, t], before)
        expected = expected + kl_divergence(Gauss(x[:, t], 1.0), Gauss(before, 1.0)).sum(-1)
        before = x[:, t] + noise[:, t]
    torch.testing.assert_close(run(loss, path, x=x, first=first, noise={"z": noise}).value, expected)


@PATHS
def test_nothing_that_does_not_count_reaches_the_gradient_of_a_start(path):
    net = nn.Linear(X, X)
    loss = walk(nn.Linear(X, X), Deterministic("z_0 = e(x_1)", net, shape=X), reset="first", mask="valid")
    x, valid = torch.randn(B, T, X), torch.ones(B, T)
    x[:, 4:], valid[:, 4:] = torch.nan, 0
    out = run(loss, path, x=x, first=flags(), valid=valid).value.sum()
    assert all(g.isfinite().all() for g in torch.autograd.grad(out, [*net.parameters()]))


def test_a_discrete_start_has_its_own_estimator():
    start = OneHot("p(z_0)", shape=X, logits=nn.Parameter(torch.zeros(X)))
    loss = walk(nn.Linear(X, X), start)
    loss(x=torch.randn(B, T, X), seed=0).value.sum().backward()
    assert next(start.parameters()).grad.abs().sum() > 0


def test_a_formula_with_starts_is_copied_and_printed():
    start = Normal("p(z_0)", shape=X, loc=nn.Parameter(torch.zeros(X)), scale=1.0)
    loss = walk(nn.Linear(X, X), start, reset="first")
    assert loss.latex.startswith(r"\sum_{t;\, \mathrm{reset}=\mathrm{first};\, \mathrm{initial}=p(z_{0})} ")
    assert repr(loss).startswith("<Expression Σ_{t; reset=first; initial=p(z_0)} E")
    rows = walk(nn.Linear(X, X), Deterministic("z_0 = e(x_{1:2})", Rows(2, X), shape=X))
    assert r"\mathrm{initial}=z_{0} = e(x_{1:2})" in rows.latex
    assert "<mn>1</mn><mo>:</mo><mn>2</mn>" in rows._repr_html_()
    assert "z_0 from p(z_0)" in str(loss.explain())
    edges = {(str(e.source), str(e.target)) for e in graph(rows).edges}
    assert {("x_{1:2}", "z_0"), ("z_0", "z_{t-1}"), ("z_{t-1}", "z_t")} <= edges
    kinds = {str(v.variable): v.kind for v in graph(walk(nn.Linear(X, X), start)).vertices}
    assert kinds["z_0"] == "latent"
    again, x = copy.deepcopy(loss), torch.randn(B, T, X)
    given = {"x": x, "first": flags(), "seed": 1}
    torch.testing.assert_close(again(**given).value, loss(**given).value)
    assert {"p_z_0.loc", "f.weight", "f.bias"} <= set(loss.state_dict())


# -------------------------------------------------------------------------------------------------------------- worlds


def world(start, reset="first"):
    prior = Normal("p(z_t|z_{t-1},a_{t-1})", Net(2 * X, 2 * X), shape=X)
    q = Normal("q(z_t|z_{t-1},a_{t-1},x_t)", Net(3 * X, 2 * X), shape=X)
    decode = Normal("p(x_t|z_t)", Net(X, X), shape=X, scale=1.0)
    loss = Sum("t", E(q, KL(q, prior) - log(decode)), reset=reset, initial=start).mean()
    return World(prior=prior, posterior=q, heads=[decode], loss=loss), q


@pytest.mark.parametrize("kind", ["drawn", "row"])
def test_a_world_begins_where_the_loss_does(kind):
    torch.manual_seed(0)
    net = nn.Linear(X, X)
    start = {
        "drawn": Normal("p(z_0)", shape=X, loc=nn.Parameter(torch.tensor([1.0, 2.0])), scale=0.5),
        "row": Deterministic("z_0 = e(x_1)", net, shape=X),
    }[kind]
    model, q = world(start)
    batch = {"x": torch.randn(B, T, X), "a": torch.randn(B, T, X), "first": flags()}
    batch["first"][:, 0] = 1
    check_world(model, batch)
    noise = {k: torch.randn(B, T, X) for k in (["z", "z_0"] if kind == "drawn" else ["z"])}
    states = model.filter(batch, noise=noise)
    z, action = torch.zeros(B, X), torch.zeros(B, X)
    state = {**model.initial(B), "a": action}
    for t in range(T):
        begin = net(batch["x"][:, t]) if kind == "row" else torch.tensor([1.0, 2.0]) + 0.5 * noise["z_0"][:, t]
        cut = batch["first"][:, t, None] == 1
        z, action = torch.where(cut, begin, z), torch.where(cut, 0, action)
        loc, raw = q.net(z, action, batch["x"][:, t]).chunk(2, -1)
        z, action = loc + nn.functional.softplus(raw) * noise["z"][:, t], batch["a"][:, t]
        torch.testing.assert_close(states["z"][:, t], z)
        given = {k: batch[k][:, t] for k in ("x", "first")}
        state = model.observe(given, state, noise={k: n[:, t, None] for k, n in noise.items()}) | {"a": action}
        torch.testing.assert_close(state["z"], z)


def test_the_state_before_the_first_step():
    drawn, _ = world(Normal("p(z_0)", shape=X, loc=torch.tensor([1.0, 2.0]), scale=0.5))
    noise = torch.randn(B, X)
    torch.testing.assert_close(drawn.initial(B, noise={"z_0": noise})["z"], torch.tensor([1.0, 2.0]) + 0.5 * noise)
    torch.testing.assert_close(drawn.initial(B, deterministic=True)["z"], torch.tensor([1.0, 2.0]).expand(B, X))
    begin = drawn.initial(B, seed=0)
    torch.testing.assert_close(drawn.initial(B, seed=0), begin)
    dream = drawn.imagine(begin, actions=torch.randn(B, 3, X), seed=0)
    torch.testing.assert_close(dream["z"][:, 0], begin["z"])
    row = Deterministic("z_0 = e(x_1)", nn.Linear(X, X), shape=X)
    assert world(row)[0].initial(B)["z"].isnan().all()  # known with the first row alone
    alone, _ = world(row, None)
    with pytest.raises(FormulaError) as caught:
        alone.initial(B)
    assert str(caught.value).startswith(
        "initial: a sequence begins with z_0 = e(x_1), and x_1 is not known before it\ncall filter without a start, "
        "which begins there, or give the loss reset= flags and observe the first step with one"
    )


def test_a_filter_without_resets_begins_once_and_goes_on():
    start = Deterministic("z_0 = e(x_{1:2})", Rows(2, X), shape=X)
    model, _ = world(start, None)
    batch = {"x": torch.randn(B, T, X), "a": torch.randn(B, T, X)}
    whole = model.filter(batch, deterministic=True)
    head = model.filter({k: v[:, :5] for k, v in batch.items()}, deterministic=True)
    state = head.last() | {"a": batch["a"][:, 4]}
    torch.testing.assert_close(model.observe({"x": batch["x"][:, 5]}, state, deterministic=True)["z"], whole["z"][:, 5])
    rest = model.filter({k: v[:, 5:] for k, v in batch.items()}, state, deterministic=True)
    torch.testing.assert_close(rest["z"], whole["z"][:, 5:])


# ------------------------------------------------------------------------------------------------------------- refused


def twice_back(**clock):
    post = Normal("q(z_t|z_{t-1},z_{t-2},x_t)", lambda a, b, x: torch.cat([a + 2 * b, x], -1), shape=X)
    return Sum("t", E(post, log(Normal("p(x_t|z_t)", lambda z: z, shape=X, scale=1.0))), **clock)


E_ROW = Deterministic("z_0 = e(x_1)", nn.Linear(X, X), shape=X)
REFUSED = {
    "what nothing carries": (
        lambda: walk(nn.Linear(X, X), Normal("p(w_0)", shape=X)),
        UnknownVariableError,
        "Sum over t: initial= p(w_0) declares w_0, which is not what a carry begins with; these are: z_0",
    ),
    "the step before data": (
        lambda: Sum("t", log(Normal("p(x_t|x_{t-1})", nn.Linear(X, 2 * X), shape=X)), initial={"x": torch.ones(X)}),
        UnknownVariableError,
        (
            "Sum over t: initial= gives 'x', and x_t is data: before its first step are zeros, or what the call gives "
            "in start=\nto begin otherwise, carry a copy, Deterministic('c_t = f(x_t)', nn.Identity(), shape=...), "
            "give initial={'c': ...}, and read c_{t-1} in the place of x_{t-1}"
        ),
    ),
    "data that a factor draws": (
        lambda: Sum(
            "t", log(Normal("p(x_t|x_{t-1})", nn.Linear(X, 2 * X), shape=X)), initial=Normal("p(x_0)", shape=X)
        ),
        UnknownVariableError,
        "Sum over t: initial= gives 'x', and x_t is data: before its first step are zeros, or what the call gives in ",
    ),
    "the newer of two steps alone": (
        lambda: twice_back(initial=Normal("p(z_0)", shape=X)),
        TimeError,
        (
            "Sum over t: initial= says what z begins with, and not z_m1, and z_{t-2} of the first steps reads that "
            "too\ngive all, initial={..., 'z_m1': torch.zeros(...)}, or a product of factors, ... * p(z_m1)"
        ),
    ),
    "the older of two steps alone": (
        lambda: twice_back(initial={"z_m1": torch.ones(X)}, reset="first"),
        TimeError,
        (
            "Sum over t: initial= says what z_m1 begins with, and not z, and z_{t-2} of the first steps reads that "
            "too\ngive all, initial={..., 'z': torch.zeros(...)}, or a product of factors, ... * p(z_0)"
        ),
    ),
    "a variable of a step": (
        lambda: walk(nn.Linear(X, X), Normal("p(z_t)", shape=X)),
        UnknownVariableError,
        "Sum over t: initial= p(z_t) declares z_t, which is not what a carry begins with; these are: z_0",
    ),
    "another name in the dict": (
        lambda: walk(nn.Linear(X, X), {"h": E_ROW}),
        FormulaError,
        "Sum over t: initial={'h': ...} is a factor of z; expected one of h_0",
    ),
    "two": (
        lambda: walk(nn.Linear(X, X), E_ROW * Normal("p(z_0)", shape=X)),
        DuplicateVariableError,
        "two factors declare z_0: z_0 = e(x_1) and p(z_0)",
    ),
    "another shape": (
        lambda: walk(nn.Linear(X, X), Normal("p(z_0)", shape=3)),
        ShapeError,
        (
            "Sum over t: a start has another event shape than what begins with it\n"
            "  variable | declared by      | declared\n"
            "  z_0      | p(z_0)           | [3]\n  z        | z_t = f(z_{t-1}) | [2]\ndeclare the same shape= on both"
        ),
    ),
    "a step": (
        lambda: walk(nn.Linear(X, X), Deterministic("z_0 = e(x_t)", nn.Linear(X, X), shape=X)),
        TimeError,
        (
            "Sum over t: initial= z_0 = e(x_t) reads x_t, and a start knows no steps\n"
            "read x_1, the row at which a sequence "
            "begins, x_{1:2}, its first rows, or what is given once"
        ),
    ),
    "what the steps make": (
        lambda: walk(nn.Linear(X, X), Deterministic("z_0 = e(z_1)", nn.Linear(X, X), shape=X)).code,
        TimeError,
        "initial= z_0 = e(z_1) reads z_1, which the steps make\nread data, or another start, z_0",
    ),
    "first rows of no series": (
        lambda: walk(nn.Linear(X, X), Deterministic("z_0 = e(y_{1:2})", Rows(2, X), shape=X)).code,
        FormulaError,
        (
            "initial= z_0 = e(y_{1:2}) reads y_{1:2}, and the sum reads no y_t\nread a series of the sum, or what "
            "is given once"
        ),
    ),
    "first rows at resets": (
        lambda: walk(nn.Linear(X, X), Deterministic("z_0 = e(x_{1:2})", Rows(2, X), shape=X), reset="first").code,
        TimeError,
        (
            "initial= z_0 = e(x_{1:2}) reads x_{1:2}, and a sequence that begins at reset='first' may end, or begin "
            "again, within 2 rows\nread x_1, the row at which it begins, or pass sequences that begin at their first "
            "row and leave "
            "reset= out"
        ),
    ),
    "a row before the first at resets": (
        lambda: walk(nn.Linear(X, X), Deterministic("z_0 = e(x_0)", nn.Linear(X, X), shape=X), reset="first").code,
        TimeError,
        (
            "initial= z_0 = e(x_0) reads x_0, which is given once, and with reset='first' a sequence may begin at any "
            "step\n"
            "read x_1, the row at which it begins"
        ),
    ),
    "a network that sees the batch": (
        lambda: walk(nn.Linear(X, X), Deterministic("z_0 = e(x_1)", nn.BatchNorm1d(X), shape=X), reset="first").code,
        TimeError,
        (
            "initial= z_0 = e(x_1): its result depends on the batch, and with reset= the starts of all steps are made "
            "at once\nuse a network without BatchNorm"
        ),
    ),
    "data": (
        lambda: walk(nn.Linear(X, X), Data("p_data(z_0)", shape=X)),
        FormulaError,
        "Sum over t: initial= p_data(z_0) draws nothing; expected e.g. Normal('p(z_0)', shape=3)",
    ),
    "a marginal": (
        lambda: walk(
            nn.Linear(X, X), (Normal("p(z_0|c)", Net(X, 2 * X), shape=X) * Normal("p(c)", shape=X)).marginal("c")
        ),
        FormulaError,
        "Sum over t: initial= ∫ p(z_0|c) p(c) dc is a marginal; give the product, whose draws are made",
    ),
    "first rows elsewhere": (
        lambda: Sum("t", log(Normal("p(x_t|x_{1:2})", nn.Linear(X, 2 * X), shape=X))).code,
        TimeError,
        "p(x_t|x_{1:2}) reads x_{1:2}, the first rows, which a start reads: Sum(..., initial=f(x_{1:2}))",
    ),
    "a logarithm of one draw": (
        lambda: log(walk(nn.Linear(X, X), Normal("q(z_0|x_1)", Net(X, 2 * X), shape=X))),
        OneDrawError,
        "the log of an expectation, which one draw estimates: E[g(f)] is not g(E[f])",
    ),
    "two of two sums": (
        lambda: (walk(nn.Linear(X, X), E_ROW) + walk(nn.Linear(X, X), Normal("p(z_0)", shape=X))).code,
        TimeError,
        "one formula has one initial state: two sums over 't' give initial=",
    ),
    "no gradient": (
        lambda: walk(nn.Linear(X, X), Bernoulli("q(z_0|x_1)", nn.Linear(X, X), shape=X)),
        GradientError,
        (
            "Sum over t: initial= q(z_0|x_1) draws from a bernoulli family, whose sample is not reparametrised, so its "
            "gradient would be silently missing\nuse a family such as OneHot, whose sample has one, or sg(...) of the "
            "factor"
        ),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_start_that_cannot_be_is_refused(case):
    build, kind, said = REFUSED[case]
    with pytest.raises(kind) as caught:
        build().program  # noqa: B018  what is data is known once no E around it can draw it
    assert str(caught.value).startswith(said)


def advised(first, code):
    """What the messages about the step before data say: a copy that is carried and begins as it is told."""
    net = nn.Linear(X, 2 * X)
    carried = eval(code.replace("...", str(X)), {"nn": nn, "Deterministic": Deterministic})
    return net, Sum("t", E(carried, log(Normal("p(x_t|c_{t-1})", net, shape=X))), initial=first)


@PATHS
def test_what_the_messages_advise_about_the_step_before_data_is_right(path):
    x, x_0 = torch.randn(B, T, X), torch.randn(B, X)
    lagged = Sum("t", log(Normal("p(x_t|x_{t-1},x_0)", lambda a, b: torch.cat([a, b], -1), shape=X)))
    with pytest.raises(TimeError) as caught:
        lagged(x=x, x_0=x_0)
    assert str(caught.value) == (
        "x_{t-1} of the first step is not x_0, which nothing begins the sum with\n"
        "carry a copy of x_t, Deterministic('c_t = f(x_t)', nn.Identity(), shape=...), that begins with the other, "
        "initial=Deterministic('c_0 = f(x_0)', nn.Identity()), and read c_{t-1} in the place of x_{t-1}; or rename x_0"
    )
    copy = "Deterministic('c_t = f(x_t)', nn.Identity(), shape=...)"
    ones = torch.ones(X)
    for first, given, begin in (
        (Deterministic("c_0 = f(x_0)", nn.Identity()), {"x_0": x_0}, x_0[:, None]),
        ({"c": ones}, {}, ones.expand(B, 1, X)),
    ):
        net, loss = advised(first, copy)
        loc, raw = net(torch.cat((begin, x[:, :-1]), 1)).chunk(2, -1)
        expected = Gauss(loc, nn.functional.softplus(raw)).log_prob(x).sum((1, 2))
        torch.testing.assert_close(run(loss, path, x=x, **given).value, expected)


@PATHS
def test_both_of_two_steps_begin_as_they_are_told(path):
    """z_1 has the mean z_0 + 2 z_{-1}."""
    begin = {"z": torch.tensor(0.5).expand(X), "z_m1": torch.tensor(-1.5).expand(X)}
    x = torch.randn(B, 1, X)
    found = run(twice_back(initial=begin), path, x=x, deterministic=True).samples["z"]
    torch.testing.assert_close(found, torch.full((B, 1, X), 0.5 - 3.0))


def test_rows_that_are_missing_or_too_few():
    loss = walk(nn.Linear(X, X), E_ROW)
    with pytest.raises(FormulaError) as caught:
        loss(x=torch.randn(B, T, X), present={"x": torch.ones(B, T, dtype=torch.bool)})
    assert str(caught.value).startswith(
        "initial= z_0 = e(x_1) reads x_1, which some rows lack (present=), and nothing takes its place\n"
        "begin with a factor that reads nothing, p(z_0)"
    )
    rows = walk(nn.Linear(X, X), Deterministic("z_0 = e(x_{1:2})", Rows(2, X), shape=X))
    with pytest.raises(ShapeError) as short:
        rows(x=torch.randn(B, 1, X))
    assert str(short.value).startswith("the series have 1 steps, and a start reads the first 2; pass longer ones")
