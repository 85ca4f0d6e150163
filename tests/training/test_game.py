"""Games: nobody moves what belongs to another, draws are shared, and two players find their equilibrium."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from worldformula import KL, Bernoulli, Deterministic, E, Game, Normal, Player, Sum, Value, log, total
from worldformula.errors import ConfigError, FormulaError, MissingInputError, UnknownVariableError
from worldformula.training.fit import FitConfig, Fitting, fit

X = 0.5 * torch.randn(256, 1, generator=torch.Generator().manual_seed(0)) + 2.0
DATA = {"x": X, "r": torch.ones(256, 1), "f": torch.zeros(256, 1)}
GENERATOR = "y_is_g_of_z"


def gan(order="alternating", *, d=None, g=None):
    """Goodfellow et al. 2014 with the loss of the paper's footnote: r is "real", f is "fake", one net judges both."""
    torch.manual_seed(0)
    judge, make = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1)), nn.Linear(2, 1)
    latent, fake = Normal("p(z)", shape=2), Deterministic("y = g(z)", make, shape=1)
    real, as_fake, as_real = (Bernoulli(f"d({h})", judge, shape=1) for h in ("r|x", "f|y", "r|y"))
    d_loss = -(log(real) + E(latent * fake, log(as_fake))).mean()
    g_loss = -E(latent * fake, log(as_real)).mean()
    return Game(order, d=Player(d_loss, [real], **(d or {})), g=Player(g_loss, [fake], **(g or {}))), judge, make


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("order", ["alternating", "simultaneous"])
@pytest.mark.parametrize(("idle", "moving"), [("d", "g"), ("g", "d")])
def test_a_player_leaves_the_weights_of_the_others_alone(order, idle, moving):
    game, judge, make = gan(order, **{idle: {"every": 1000}})
    fitting = Fitting(game, DATA, FitConfig(steps=4, batch=32))
    fitting.advance(1)  # at step 0 everyone moves
    before = {"d": weights(judge), "g": weights(make)}
    for module in (judge, make):
        module.zero_grad(set_to_none=True)
    fitting.advance(4)
    after = {"d": weights(judge), "g": weights(make)}
    assert torch.equal(before[idle], after[idle])
    assert not torch.equal(before[moving], after[moving])
    assert all(p.grad is None for p in (judge if idle == "d" else make).parameters()), "not a zero: no gradient at all"


def factor_vae():
    """Kim & Mnih 2018: the discriminator reads the encoder's draws, which must not move the encoder."""
    torch.manual_seed(0)
    prior = Normal("p(z)", shape=2)
    encode = Normal("q(z|x)", nn.Linear(1, 4), shape=2)
    decode = Normal("p(x|z)", nn.Linear(2, 1), shape=1, scale=1.0)
    judge = Bernoulli("d(f|z)", nn.Linear(2, 1), shape=1)
    elbo = (KL(encode, prior) - E(encode, log(decode) + 2.0 * log(judge))).mean()
    return Game(vae=Player(elbo, [encode, decode]), d=Player(-E(encode, log(judge)).mean(), [judge])), encode, judge


def test_the_discriminator_of_a_factor_vae_does_not_reach_the_encoder():
    game, encode, judge = factor_vae()
    out = game(x=X, f=DATA["f"])
    reach = torch.autograd.grad(out["d"].value, list(encode.parameters()), retain_graph=True)
    assert max(g.abs().max() for g in reach) > 1e-4, "the expression itself does reach it: the test could not fail"
    out["d"].value.backward(inputs=game.players["d"].parameters())
    assert all(p.grad is None for p in encode.parameters())
    assert all(p.grad is not None for p in judge.parameters())
    fitting = Fitting(game, {"x": X, "f": DATA["f"]}, FitConfig(steps=5, batch=16))
    assert {id(p) for group in fitting.optimisers["d"].param_groups for p in group["params"]} == {
        id(p) for p in judge.parameters()
    }


def test_players_see_the_same_draws_and_seeds_repeat_them():
    game, _, _ = gan()
    out = game.evaluate({**DATA, "seed": 3})
    assert torch.equal(out["d"].samples["y"], out["g"].samples["y"])
    assert torch.equal(game.evaluate({**DATA, "seed": 3}, ["g"])["g"].samples["z"], out["d"].samples["z"])
    assert not torch.equal(game.evaluate({**DATA, "seed": 4})["g"].samples["z"], out["g"].samples["z"])
    free = game.evaluate(DATA)
    assert torch.equal(free["d"].samples["z"], free["g"].samples["z"])


def test_players_asked_together_share_what_both_compute():
    game, judge, make = gan("simultaneous")
    together, apart = game.evaluate({**DATA, "seed": 3}), [game.evaluate({**DATA, "seed": 3}, [n])[n] for n in "dg"]
    for joint, alone, net in zip(together.values(), apart, (judge, make), strict=True):
        torch.testing.assert_close(joint.value, alone.value)
        assert joint.terms.keys() == alone.terms.keys()
        assert joint.samples.keys() == alone.samples.keys()
        for key, value in alone.terms.items():
            torch.testing.assert_close(joint.terms[key], value)
        for a, b in zip(
            torch.autograd.grad(joint.value, list(net.parameters()), retain_graph=True),
            torch.autograd.grad(alone.value, list(net.parameters())), strict=True,
        ):  # fmt: skip
            torch.testing.assert_close(a, b)
    made = []
    make.register_forward_hook(lambda *_: made.append(1))
    game.evaluate(DATA)
    assert len(made) == 1, "the fakes of one step serve both"
    game.evaluate(DATA, ["g"])
    assert len(made) == 2


def test_players_with_draws_of_their_own_do_not_share_them():
    first, second = Normal("p(z)", shape=2), Normal("p(z)", shape=2)
    one = E(first, log(Bernoulli("d(r|z)", net := nn.Linear(2, 1), shape=1))).mean()
    two = E(second, log(Bernoulli("e(r|z)", other := nn.Linear(2, 1), shape=1))).mean()
    out = Game(a=Player(one, [net]), b=Player(two, [other]))(r=DATA["r"], seed=0)
    assert not torch.equal(out["a"].samples["z"], out["b"].samples["z"])


def test_simultaneous_takes_both_gradients_before_anyone_moves():
    kept = {}
    for order in ("simultaneous", "alternating"):
        game, judge, make = gan(order)
        start = copy.deepcopy(game)
        fitting = Fitting(game, DATA, FitConfig(steps=1, batch=256, lr=0.1))
        fitting.advance(1)
        kept[order] = (weights(judge), [p.grad for p in make.parameters()], start)
    assert torch.equal(kept["simultaneous"][0], kept["alternating"][0])
    assert not torch.equal(kept["simultaneous"][1][0], kept["alternating"][1][0])


def test_each_player_has_settings_of_its_own():
    game, judge, make = gan(d={"lr": 0.5, "betas": (0.5, 0.9)}, g={"lr": 0.25, "weight_decay": 0.1})
    first = {"d": weights(judge), "g": weights(make)}
    fitting = Fitting(game, DATA, FitConfig(steps=1, batch=256, lr=9.0))
    fitting.advance(1)
    assert (weights(judge) - first["d"]).abs().max() == pytest.approx(0.5, rel=1e-3)  # Adam's first step is its lr
    shrunk = first["g"] * (1 - 0.25 * 0.1)
    assert (weights(make) - shrunk).abs().max() == pytest.approx(0.25, rel=1e-3)
    assert fitting.optimisers["d"].param_groups[0]["betas"] == (0.5, 0.9)


def test_every_decides_at_which_steps_a_player_moves():
    game, _, make = gan(g={"every": 3})
    moved, last = [], [weights(make)]

    def watch(step, outs):
        now = weights(make)
        moved.append(not torch.equal(now, last[0]))
        assert ("g" in outs) == moved[-1]
        last[0] = now

    fit(game, DATA, steps=7, batch=8, callback=watch)
    assert moved == [True, False, False, True, False, False, True]


@pytest.mark.slow
def test_the_generator_finds_the_data():
    game, _, make = gan()
    fit(game, DATA, steps=1500, batch=64, lr=5e-3, betas=(0.5, 0.9), seed=1)
    y = make(torch.randn(4000, 2, generator=torch.Generator().manual_seed(1)))
    assert y.mean().item() == pytest.approx(2.0, abs=0.5)


@pytest.mark.parametrize("order", ["alternating", "simultaneous"])
def test_a_stored_game_goes_on_bit_for_bit(order):
    config = FitConfig(steps=12, batch=16, ema=0.9)

    def new():
        return Fitting(gan(order, g={"every": 2})[0], DATA, config, seed=7)

    whole, first, second = new(), new(), new()
    whole.advance(12)
    first.advance(5)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=False))
    second.advance(12)
    assert torch.equal(weights(whole.loss), weights(second.loss))
    assert whole.history.rows[-1] == second.history.rows[-1]


def test_networks_are_registered_once_and_copies_are_independent():
    game, judge, _ = gan()
    assert len(game.state_dict()) == 6
    assert len(list(game.parameters())) == 6
    for other in (copy.deepcopy(game), pickle.loads(pickle.dumps(game))):
        with torch.no_grad():
            next(other.parameters()).add_(1.0)
        other.load_state_dict(game.state_dict())
        fit(other, DATA, steps=1, batch=8)
        assert not torch.equal(weights(other), weights(game))
    assert judge in list(game.children())


def test_what_is_no_game_is_said():
    game, judge, make = gan()
    d, g = game.players["d"], game.players["g"]
    with pytest.raises(FormulaError, match=r"moved by d and g|d and g"):
        Game(d=d, g=Player(g.loss, [make, judge]))
    with pytest.raises(FormulaError, match="nobody"):
        Game(d=d)
    with pytest.raises(FormulaError, match="no player's expression reads"):
        Game(d=d, g=Player(g.loss, [make, nn.Linear(2, 2)]))
    with pytest.raises(FormulaError, match="players by name"):
        Game(d=g.loss)
    with pytest.raises(FormulaError, match="list of factors"):
        Player(g.loss, make)
    with pytest.raises(FormulaError, match="minimises an expression"):
        Player(make, [make])
    with pytest.raises(ConfigError, match="every="):
        Player(g.loss, [make], every=0)
    with pytest.raises(ConfigError, match="order="):
        Game("random", d=d, g=g)
    with pytest.raises(UnknownVariableError, match="no player reads 'xx'"):
        game(xx=X)
    with pytest.raises(MissingInputError, match="needs r"):
        game(x=X, f=DATA["f"])
    for p in make.parameters():
        p.requires_grad_(False)
    Game(d=d)


def judged(samples, judge, fake, *, reset=None):
    """Two players that draw one factor: what each minimises says how often, or when it restarts."""
    losses = [E(fake, log(judge), **({"samples": k} if k else {})) for k in samples]
    if reset is not None:
        losses = [Sum("t", loss, reset=r) for loss, r in zip(losses, reset, strict=True)]
    return Game("simultaneous", d=Player(-losses[0].mean(), [judge]), g=Player(losses[1].mean(), [fake]))


def check_apart(game, data):
    """Players who cannot share are asked one by one: each gets what it would get alone."""
    together = game.evaluate({**data, "seed": 0})
    for name, out in together.items():
        torch.testing.assert_close(out.value, game.evaluate({**data, "seed": 0}, [name])[name].value)


@pytest.mark.parametrize("samples", [(3, 5), (None, 3)])
def test_players_may_draw_a_different_number_of_samples(samples):
    judge, fake = Bernoulli("d(f|y)", nn.Linear(1, 1), shape=1), Normal("q(y|x)", nn.Linear(1, 2), shape=1)
    check_apart(judged(samples, judge, fake), {"x": X, "f": DATA["f"]})


def test_players_may_have_clocks_of_their_own():
    walk = Normal("q(y_t|y_{t-1})", nn.Linear(1, 2), shape=1)
    game = judged((None, None), Bernoulli("d(f_t|y_t)", nn.Linear(1, 1), shape=1), walk, reset=("first", None))
    first = torch.zeros(4, 3, dtype=torch.bool)
    first[1, 1] = True
    check_apart(game, {"f": torch.zeros(4, 3, 1), "first": first})


def test_players_may_have_batches_of_their_own():
    """A Wasserstein GAN, whose generator reads no data and so makes one fake; and a batch of fakes for each player."""
    judge, make, latent = nn.Linear(1, 1), nn.Linear(2, 1), Normal("p(z)", shape=2)
    fake = Deterministic("y = g(z)", make, shape=1)
    real, judged_fake = (Deterministic(h, judge, shape=1) for h in ("c = D(x)", "k = D(y)"))
    d_loss = (E(latent * fake * judged_fake, total(Value("k"))) - E(real, total(Value("c")))).mean()
    g_loss = -E(latent * fake * judged_fake, total(Value("k"))).mean()
    check_apart(Game("simultaneous", d=Player(d_loss, [real]), g=Player(g_loss, [fake])), {"x": X})
    as_fake, as_real = (Bernoulli(f"d({v}|y)", judge, shape=1) for v in ("f", "r"))
    both = (E(latent * fake, log(p)).mean() for p in (as_fake, as_real))
    game = Game("simultaneous", d=Player(next(both), [as_fake]), g=Player(next(both), [fake]))
    check_apart(game, {"f": torch.zeros(1, 1), "r": torch.ones(16, 1)})
