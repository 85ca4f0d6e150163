"""Schedules of numbers that stand in settings: a temperature, the order of a divergence, a level of noise."""

import torch
from torch import nn

from worldformula import KL, Deterministic, E, Normal, OneHot, RelaxedOneHot, Renyi, Symbol, Value, log, norm2
from worldformula.training.fit import fit
from worldformula.training.game import Game, Player
from worldformula.training.schedules import linear

X, K = 3, 4


def losses():
    torch.manual_seed(0)
    q = RelaxedOneHot("q(k|x)", nn.Linear(X, K), shape=K, temperature=Symbol("tau"))
    hard, prior = OneHot("p(k|x)", q.net, shape=K), OneHot("p(k)", shape=K)
    decode = Normal("p(x|k)", nn.Linear(K, X), shape=X, scale=Symbol("sigma"))
    z, standard = Normal("q(z|x)", nn.Linear(X, 4), shape=2), Normal("p(z)", shape=2)
    return KL(hard, prior) - E(q, log(decode)) + Renyi(z, standard, Symbol("alpha"))


def test_a_temperature_an_order_and_a_scale_are_annealed():
    loss, data = losses().mean(), {"x": torch.randn(64, X)}
    schedules = {"tau": linear(1.0, 0.5, 20), "alpha": linear(0.5, 0.9, 20), "sigma": linear(1.0, 0.3, 20)}
    history = fit(loss, data, steps=30, batch=16, lr=1e-2, seed=0, symbols=schedules, log_every=10, progress=False)
    assert history.rows[-1]["symbol/tau"] == 0.5
    again, seen = losses().mean(), []
    noted = {k: recorded(s, k, seen) for k, s in schedules.items()}
    fit(again, data, steps=30, batch=16, lr=1e-2, seed=0, symbols=noted, progress=False)
    assert {k: v for k, v in seen if k == "alpha"}["alpha"] == schedules["alpha"](29)
    for a, b in zip(loss.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def recorded(schedule, name, seen):
    """The schedule, which gives a tensor instead of a number and notes what it gave."""

    def give(step):
        seen.append((name, schedule(step)))
        return torch.tensor(schedule(step))

    return give


def test_a_step_at_a_temperature_is_the_step_of_that_constant():
    x = torch.randn(64, X)
    weights = []
    for tau in (Symbol("tau"), 0.7):
        torch.manual_seed(0)
        q = RelaxedOneHot("q(k|x)", nn.Linear(X, K), shape=K, temperature=tau)
        loss = -E(q, log(Normal("p(x|k)", nn.Linear(K, X), shape=X, scale=1.0))).mean()
        given = {"symbols": {"tau": lambda step: 0.7}} if tau != 0.7 else {}
        fit(loss, {"x": x}, steps=5, batch=16, lr=1e-2, seed=0, progress=False, **given)
        weights.append([p.detach() for p in loss.parameters()])
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b)


def test_players_of_a_game_share_an_annealed_number():
    torch.manual_seed(0)
    q = RelaxedOneHot("q(k|x)", nn.Linear(X, K), shape=K, temperature=Symbol("tau"))
    judge = Deterministic("d = D(k)", nn.Sequential(nn.Linear(K, 1), nn.Flatten(0)), shape=())
    real = E(q * judge, norm2(Value("d") - 1.0)).mean()
    game = Game(
        judge=Player(real, [judge]), coder=Player(-real - E(q, log(q)).mean() * 0.1, [q]),
    )  # fmt: skip
    assert "tau" in game.inputs
    before = [p.detach().clone() for p in q.parameters()]
    fit(
        game, {"x": torch.randn(64, X)}, steps=4, batch=16, seed=0, symbols={"tau": linear(1.0, 0.5, 4)}, progress=False
    )
    assert all((a != b).any() for a, b in zip(before, q.parameters(), strict=True))
