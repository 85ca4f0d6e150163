"""Through time: first values of several outputs, the series of a computed value, the number of a step."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal as Gauss

from tests.formula.defects.both import PATHS, refused, run
from worldformula import KL, Deterministic, E, Normal, Sum, Value, log
from worldformula.errors import ShapeError, WorldformulaError

B, T, X = 4, 3, 3


# ---------------------------------------------------------------------------------- first values of several outputs


def pair():
    core = Deterministic("h_t, c_t = f(h_{t-1}, c_{t-1}, x_t)", lambda h, c, x: (h + c, c + x), shape=[X, X])
    return core, Normal("p(x_t|h_t)", lambda h: h, shape=X, scale=1.0)


@PATHS
@pytest.mark.parametrize("names", [("c",), ("h",), ("h", "c")])
@pytest.mark.parametrize("reset", [None, "first"])
def test_every_output_of_a_function_may_have_a_first_value(names, reset, path):
    core, p = pair()
    values = {"h": nn.Parameter(torch.tensor([0.5, -1.0, 2.0])), "c": torch.tensor([1.0, 0.3, -0.2])}
    loss = Sum("t", E(core, log(p)), initial={n: values[n] for n in names}, reset=reset)
    x, first = torch.randn(B, T, X), torch.tensor([[0, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1]]).float()
    begin = {n: (values[n] if n in names else torch.zeros(X)).expand(B, X) for n in ("h", "c")}
    h, c, expected = begin["h"], begin["c"], 0.0
    for t in range(T):
        if reset:
            h, c = (torch.where(first[:, t, None] == 1, begin[n], v) for n, v in (("h", h), ("c", c)))
        h, c = h + c, c + x[:, t]
        expected = expected + Gauss(h, 1.0).log_prob(x[:, t]).sum(-1)
    found = run(loss, path, x=x, **({"first": first} if reset else {})).value
    torch.testing.assert_close(found, expected)
    if "h" in names:
        assert any(w is values["h"] for w in loss.parameters())


def test_a_first_value_of_a_wrong_shape_names_the_output():
    core, p = pair()
    with refused("c", error=ShapeError):
        Sum("t", E(core, log(p)), initial={"c": torch.ones(X + 1)})


# ----------------------------------------------------------------------------------------- series of computed values


@PATHS
def test_the_whole_series_of_a_computed_value_is_read_behind_its_loop(path):
    core = Deterministic("h_t = f(h_{t-1},x_t)", lambda h, x: 0.5 * h + x, shape=X)
    pooled = Normal("p(y|h_{1:T})", lambda h: h.mean(1), shape=X, scale=1.0)
    walk = Normal("p(x_t|h_{t-1})", lambda h: h, shape=X, scale=1.0)
    loss = Sum("t", E(core, log(walk))) + log(pooled)
    x, y = torch.randn(B, T, X), torch.randn(B, X)
    h, series, expected = torch.zeros(B, X), [], 0.0
    for t in range(T):
        expected = expected + Gauss(h, 1.0).log_prob(x[:, t]).sum(-1)
        h = 0.5 * h + x[:, t]
        series.append(h)
    expected = expected + Gauss(torch.stack(series, 1).mean(1), 1.0).log_prob(y).sum(-1)
    try:
        found = run(loss, path, x=x, y=y).value
    except WorldformulaError as error:
        if not ("h_t" in str(error) or "h_{1:T}" in str(error)):
            raise
        if "missing" in str(error):  # it is no data of the call
            raise
        return
    torch.testing.assert_close(found, expected)


@PATHS
@pytest.mark.parametrize("steps", [1, 3])
def test_the_number_of_an_iteration_may_be_read(steps, path):
    loss = Sum("tau", Value("tau"), steps=steps)
    torch.testing.assert_close(torch.as_tensor(run(loss, path).value).float(), torch.tensor(steps * (steps + 1) / 2))


@PATHS
def test_the_number_of_an_iteration_as_a_discount_and_in_a_network(path):
    x = torch.randn(B, T, X)
    place = torch.arange(1.0, T + 1)
    each = Gauss(0.0, 1.0).log_prob(x).sum(-1)
    found = run(Sum("l", Value("l") * log(Normal("p(x_l)", shape=X)), steps=T), path, x=x).value
    torch.testing.assert_close(found, (place * each).sum(1))
    p = Normal("p(x_l|y,l)", lambda y, place: y * place, shape=X, scale=1.0)
    y = torch.randn(B, X)
    expected = Gauss(y[:, None] * place[:, None], 1.0).log_prob(x).sum((1, 2))
    torch.testing.assert_close(run(Sum("l", log(p), steps=T), path, x=x, y=y).value, expected)


@PATHS
def test_the_number_of_a_time_step_may_be_read_or_is_refused_as_such(path):
    x = torch.randn(B, T, X)
    each = Gauss(0.0, 1.0).log_prob(x).sum(-1)
    try:
        found = run(Sum("t", Value("t") * log(Normal("p(x_t)", shape=X))), path, x=x).value
    except WorldformulaError as error:
        if not ("index" in str(error) or "step" in str(error)):
            raise
        return
    ways = [(each * torch.arange(first, T + first)).sum(1) for first in (0.0, 1.0)]
    assert any(torch.allclose(found, way) for way in ways)


# ------------------------------------------------------------------------------------------ the same number every step


@PATHS
def test_a_number_at_every_step_counts_as_often_as_there_are_steps_or_says_that_it_cannot(path):
    q = Normal("q(z_t)", loc=nn.Parameter(torch.ones(X)), scale=1.0, shape=X)
    unread, p = Normal("e(s_t|x_t)", nn.Linear(X, 2 * X), shape=X), Normal("p(z_t)", shape=X)
    x = torch.randn(B, T, X)
    with refused("the same number at every step", "times their number"):
        run(Sum("t", E(unread, KL(q, p))), path, x=x)
    found = run(Sum("t", KL(q, p) - log(Normal("p(x_t)", shape=X))), path, x=x).value
    torch.testing.assert_close(found, T * 0.5 * X - Gauss(0.0, 1.0).log_prob(x).sum((1, 2)))
