"""The training loop, against a loop written by hand, closed forms, and itself after an interruption."""

from __future__ import annotations

import io
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from worldformula import KL, Bernoulli, E, Normal, Symbol, log, together
from worldformula.errors import ConfigError, FormulaError, MissingInputError, NonFiniteError, ShapeError
from worldformula.training import schedules
from worldformula.training.average import Average
from worldformula.training.fit import FitConfig, Fitting, fit
from worldformula.training.source import Shuffled, source

CPU = torch.device("cpu")


def vae():
    torch.manual_seed(0)
    prior = Normal("p(z)", shape=2)
    encode = Normal("q(z|x)", nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 4)), shape=2)
    decode = Bernoulli("p(x|z)", nn.Linear(2, 6), shape=6)
    return (KL(encode, prior) - E(encode, log(decode))).mean()


def regression():
    """−log N(y; wx, 1): its minimum is least squares."""
    torch.manual_seed(0)
    return -log(Normal("p(y|x)", nn.Linear(3, 1, bias=False), shape=1, scale=1.0)).mean()


def rows(n=50):
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, generator=rng)
    return {"x": x, "y": x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.1 * torch.randn(n, 1, generator=rng)}


PIXELS = torch.rand(40, 6, generator=torch.Generator().manual_seed(2)).round()


def test_it_finds_the_least_squares_solution():
    loss, data = regression(), rows()
    history = fit(loss, data, steps=800, batch=50, lr=0.05, schedule="cosine")
    exact = torch.linalg.lstsq(data["x"], data["y"]).solution
    assert torch.allclose(next(loss.parameters()).T, exact, atol=1e-3)
    assert history["loss"][-1] < history["loss"][0]
    assert history.rows[-1]["step"] == 800


def test_every_update_is_that_of_a_loop_written_by_hand():
    loss, data = regression(), rows()
    fit(loss, data, steps=7, batch=20, lr=0.01, weight_decay=0.1, clip=0.5, seed=3)
    other = regression()
    optimiser = torch.optim.AdamW(other.parameters(), lr=0.01, weight_decay=0.1)
    order = Fitting(regression(), {**data, "i": torch.arange(50)}, FitConfig(steps=7, batch=20), seed=3).source
    for _ in range(7):
        chosen = order.take()["i"]
        optimiser.zero_grad()
        other(x=data["x"][chosen], y=data["y"][chosen]).value.backward()
        nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        optimiser.step()
    assert torch.allclose(next(loss.parameters()), next(other.parameters()), atol=1e-7)


def test_an_epoch_holds_every_row_once_and_all_batches_are_full():
    batches = Shuffled({"i": torch.arange(10)}, 4, seed=0, device=CPU)
    taken = torch.cat([batches.take()["i"] for _ in range(5)])
    assert len(taken) == 20
    assert sorted(taken[:10].tolist()) == sorted(taken[10:].tolist()) == list(range(10))
    assert taken[:10].tolist() != taken[10:].tolist()
    assert Shuffled({"i": torch.arange(3)}, 7, seed=0, device=CPU).take()["i"].shape == (7,)


def test_the_seed_decides_everything_and_the_generators_outside_are_left_alone():
    results = []
    for seed in (5, 5, 6):
        loss = vae()
        torch.manual_seed(99)
        fit(loss, {"x": PIXELS}, steps=9, batch=16, seed=seed)
        results.append((torch.cat([p.flatten() for p in loss.parameters()]), torch.rand(1)))
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.equal(results[0][0], results[2][0])
    assert results[0][1] == results[2][1]


@pytest.mark.parametrize("cut", [1, 7, 13])
def test_a_stored_fit_goes_on_bit_for_bit(cut):
    config = FitConfig(steps=20, batch=16, ema=0.9, schedule="cosine", log_every=5)

    def new():
        return Fitting(vae(), {"x": PIXELS}, config, seed=4)

    whole, first, second = new(), new(), new()
    history = whole.advance(20)
    first.advance(cut)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=False))
    torch.rand(3)  # other randomness in between
    rest = second.advance(20)
    for p, q in zip(whole.loss.parameters(), second.loss.parameters(), strict=True):
        assert torch.equal(p, q)
    assert history.rows[-1] == rest.rows[-1]
    assert first.history.rows + rest.rows == history.rows
    with history.averaged(), rest.averaged():
        for p, q in zip(whole.loss.parameters(), second.loss.parameters(), strict=True):
            assert torch.equal(p, q)


def test_rows_hold_means_of_value_and_terms():
    seen = []
    history = fit(
        vae(), {"x": PIXELS}, steps=6, batch=8, log_every=3, callback=lambda step, out: seen.append((step, out))
    )
    assert [row["step"] for row in history.rows] == [3, 6]
    expected = torch.stack([out.value for _, out in seen[3:]]).mean().item()
    assert history["loss"][1] == pytest.approx(expected)
    kl, nll = (name for name in history.rows[0] if name.startswith("loss/"))
    for row in history.rows:
        assert row["loss"] == pytest.approx(row[kl] - row[nll], abs=1e-4)


def test_a_callback_ends_the_fit():
    assert not fit(vae(), {"x": PIXELS}, steps=100, batch=8, log_every=10, callback=lambda step, _: step == 4).rows


def test_data_may_be_made_streamed_renamed_or_prepared():
    data = rows()
    fit(regression(), lambda: data, steps=2, batch=1)
    fit(regression(), [data], steps=3, batch=1)
    fit(regression(), {"a": data["x"], "b": data["y"]}, steps=2, batch=5, inputs={"x": "a", "y": "b"})
    fit(regression(), data, steps=2, batch=5, inputs=lambda rows: {"x": rows["x"] + torch.randn(3), "y": rows["y"]})
    with pytest.raises(ConfigError, match="iterator of the data has ended"):
        fit(regression(), iter([data]), steps=2, batch=1)
    with pytest.raises(ConfigError, match="cannot be resumed exactly"):
        source([data], 1, 0, CPU).load_state_dict({})


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"data": {"x": torch.zeros(4, 3)}}, MissingInputError, "needs y"),
        ({"data": {"x": torch.zeros(4, 3), "y": torch.zeros(5, 1)}}, ShapeError, "one number of rows"),
        ({"data": {"x": [1, 2]}}, ShapeError, "dict of tensors"),
        ({"data": 3}, ConfigError, "a dict of tensors, an array, .* a function or an iterable"),
        ({"steps": 0}, ConfigError, "steps expects"),
        ({"lr": 0.0}, ConfigError, "lr > 0"),
        ({"clip": -1.0}, ConfigError, "clip expects"),
        ({"ema": 1.0}, ConfigError, "between 0 and 1"),
        ({"schedule": "cosin"}, ConfigError, "'constant' or 'cosine'"),
        ({"loss": log(Normal("p(x)", shape=3)).mean()}, FormulaError, "no parameters to learn"),
        ({"loss": nn.Linear(1, 1)}, FormulaError, "expression or a Game, got Linear$"),
        ({"loss": SimpleNamespace(loss=None)}, FormulaError, r"fit\(world.loss, ...\)"),
        ({"inputs": ("x", "y")}, ConfigError, r"columns of tuples are called by names=\('x', 'y'\)"),
        ({"loss": log(Normal("p(y|x)", nn.Linear(3, 2), shape=1))}, FormulaError, r"axes \[4\]; write .mean\(\)"),
        ({"loss": together(a=regression(), b=regression())}, FormulaError, "has several values, a, b, and one"),
    ],
)
def test_what_cannot_be_is_said(change, error, says):
    given = {"loss": regression(), "data": rows(), "steps": 2, "batch": 4} | change
    with pytest.raises(error, match=says):
        fit(given.pop("loss"), given.pop("data"), **given)


def test_a_value_that_is_not_finite_is_an_error_that_names_it():
    data = rows()
    data["y"][0] = 1e30  # whose square is more than float32 holds
    with pytest.raises(NonFiniteError, match="loss is inf at step 1"):
        fit(regression(), data, steps=3, batch=50)


def test_the_average_is_that_of_its_recursion_and_the_weights_come_back():
    net = nn.Linear(1, 1, bias=False)
    average = Average(net, 0.5)
    expected = net.weight.item()
    for n, value in enumerate([3.0, -1.0, 4.0], 1):
        with torch.no_grad():
            net.weight.fill_(value)
        average.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        assert net.weight.item() == pytest.approx(expected, rel=1e-6)
    assert net.weight.item() == 4.0


def test_geco_raises_its_multiplier_while_the_constraint_is_broken_and_lowers_it_after():
    class Result:
        value = torch.tensor(2.0)

    geco = schedules.Geco(lambda out: out.value - 1.5, rate=0.1, decay=0.5)
    geco.observe(Result())
    geco.observe(Result())
    assert geco(2).item() == pytest.approx(math.exp(0.05) * math.exp(0.05), rel=1e-5)
    other = schedules.Geco(lambda out: out.value - 1.5, rate=0.1, decay=0.5)
    other.load_state_dict(geco.state_dict())
    Result.value = torch.tensor(-100.0)
    other.observe(Result())
    assert other(3) < geco(2)
    assert isinstance(geco, schedules.Feedback)
    assert not isinstance(schedules.linear(0, 1, 5), schedules.Feedback)


def test_the_last_update_of_a_schedule_has_its_last_value():
    loss = (Symbol("beta") * KL(Normal("q(z|x)", nn.Linear(6, 4), shape=2), Normal("p(z)", shape=2))).mean()
    beta = {"beta": schedules.linear(2.0, 0.3, 7)}
    history = fit(loss, {"x": PIXELS}, steps=7, batch=40, log_every=1, symbols=beta, progress=False)
    assert history["symbol/beta"] == pytest.approx([2.0 - 1.7 * n / 6 for n in range(7)], rel=1e-6)
    assert [beta["beta"](n) for n in (0, 6, 7, 900)] == [2.0, 0.3, 0.3, 0.3]
    assert [schedules.linear(2.0, 0.3, 1)(n) for n in (0, 1)] == [0.3, 0.3]
    saw = schedules.cyclical(1.0, 4.0, 4, share=1.0)
    assert [saw(n) for n in range(8)] == [1.0, 2.0, 3.0, 4.0] * 2
    assert [schedules.cyclical(0.0, 3.0, 2, share=0.4)(n) for n in range(4)] == [3.0] * 4  # less than one step rises
    assert schedules.capacity(25.0, 6)(5) == 25.0


def test_symbols_follow_their_schedules_and_stand_in_the_history():
    torch.manual_seed(0)
    prior, encode = Normal("p(z)", shape=2), Normal("q(z|x)", nn.Linear(6, 4), shape=2)
    loss = (Symbol("beta") * KL(encode, prior)).mean()
    kl = KL(encode, prior).mean()
    seen = []
    data = {"x": PIXELS}
    history = fit(
        loss, data, steps=4, batch=40, lr=1e-9, log_every=1, symbols={"beta": schedules.linear(0, 1, 3)},
        callback=lambda _, out: seen.append(out.value.item()),
    )  # fmt: skip
    whole = kl(x=PIXELS).value.item()
    assert seen == pytest.approx([0.0, 0.5 * whole, whole, whole], rel=1e-4)
    assert history["symbol/beta"] == [0.0, 0.5, 1.0, 1.0]
    assert "symbol/beta" not in fit(loss, data, steps=1, batch=4, symbols={"beta": 0.5}).rows[0]


def constrained(steps):
    """min w² subject to (w − 3)² ≤ 1, whose solution is w = 2 with the multiplier 2."""
    torch.manual_seed(0)
    w, half = nn.Linear(1, 1), math.log(2 * math.pi)
    nn.init.constant_(w.bias, 0.5)
    error = -2.0 * log(Normal("p(y|x)", w, shape=1, scale=1.0)) - half
    size = -2.0 * log(Normal("p(v|x)", w, shape=1, scale=1.0)) - half
    loss = (size + Symbol("m") * (error - 1.0)).mean()
    geco = schedules.Geco(lambda out: -2.0 * out.terms["log p(y|x)"] - half - 1.0, rate=0.003)
    data = {"x": torch.zeros(8, 1), "y": torch.full((8, 1), 3.0), "v": torch.zeros(8, 1)}
    return Fitting(loss, data, FitConfig(steps=steps, batch=8, lr=0.05), symbols={"m": geco}), w


@pytest.mark.slow
def test_geco_meets_its_constraint():
    fitting, w = constrained(2000)
    fitting.advance(2000)
    assert w.bias.item() == pytest.approx(2.0, abs=0.1)
    assert fitting.history["symbol/m"][-1] == pytest.approx(2.0, abs=0.5)


def test_geco_is_stored_with_its_fit():
    whole, first, second = (constrained(20)[0] for _ in range(3))
    whole.advance(20)
    first.advance(7)
    second.load_state_dict(first.state_dict())
    assert second.advance(20).rows[-1] == whole.history.rows[-1]


def test_the_progress_of_a_fit_is_told(capsys):
    fit(vae(), {"x": PIXELS}, steps=5, batch=8, progress=True)
    assert capsys.readouterr().out.startswith("step 5/5 | loss ")


@pytest.mark.parametrize("batch", [("a", torch.zeros(2, 3)), {"x": "a", "y": torch.zeros(2)}])
def test_batches_that_hold_no_tensors_are_refused(batch):
    loss = log(Normal("p(x)", shape=3, loc=nn.Parameter(torch.zeros(3)))).mean()
    with pytest.raises(ConfigError, match="expected batches as dicts of tensors by variable"):
        fit(loss, [batch], steps=1, batch=2, progress=False)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"held": PIXELS}, r"held expects a number, e.g. held=0.1, got Tensor; .* validation="),
        ({"held": {"x": PIXELS}}, r"held expects a number, e.g. held=0.1, got dict; .* validation="),
        ({"lr": "1e-3"}, r"lr expects a number, e.g. lr=0.001, got '1e-3'"),
        ({"clip": "no"}, r"clip expects a number, e.g. clip=1.0, got 'no'"),
        ({"steps": 2.5}, r"steps expects a whole number of at least 1, got 2.5"),
        ({"patience": "3"}, r"patience expects a whole number of at least 1, got '3'"),
        ({"patience": True, "held": 0.1}, r"patience expects a whole number of at least 1, got True"),
        ({"patience": 3}, r"patience=3 counts measurements of rows that are held out, and held=0 holds none"),
        ({"betas": 0.9}, r"betas expects two numbers, e.g. betas=\(0.9, 0.999\), got 0.9"),
    ],
)
def test_settings_that_are_no_numbers_are_named(given, says):
    """They ended in a TypeError of Python that named none of them."""
    with pytest.raises(ConfigError, match=says):
        FitConfig(**given)


def test_a_fit_that_left_nan_in_the_weights_says_so():
    """The weights change in place: a second fit, on good data, fails too."""
    loss, data = regression(), rows()
    with pytest.raises(NonFiniteError, match=r"the data for values .* is not finite any more: before the next fit"):
        fit(loss, data | {"x": data["x"] * math.nan}, steps=1, batch=50)
    assert next(loss.parameters()).isnan().any()
    with pytest.raises(NonFiniteError, match="is not finite any more"):
        fit(loss, data, steps=1, batch=50)
