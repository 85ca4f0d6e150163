"""Training moves slow copies: after which updates, exactly as by hand, across interruptions and across processes."""

import copy
import datetime as dt
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from worldformula import Deterministic, E, Value, norm2
from worldformula.errors import FormulaError
from worldformula.training import checkpoint
from worldformula.training.fit import FitConfig, Fitting, fit
from worldformula.training.game import Game, Player
from worldformula.training.slow import move_slow, slow_weights


def vectors(rows, size, seed):
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)).double()


DATA = {"x": vectors(12, 4, 0), "x_prime": vectors(12, 4, 1)}


def linear(*sizes):
    return nn.Linear(*sizes).double()


class Jepa:
    """‖g(f(x)) − f̄(x')‖²"""

    def __init__(self, decay=0.9, every=1):
        torch.manual_seed(0)
        self.f = Deterministic("s = f(x)", nn.Sequential(linear(4, 6), nn.Tanh(), linear(6, 3)), shape=3)
        self.g = Deterministic("u = g(s)", linear(3, 3), shape=3)
        self.target = self.f.slow(decay, every).rename(s="s'", x="x'")
        self.loss = E(self.f * self.g * self.target, norm2(Value("u") - Value("s'"))).mean()


def flat(*modules):
    return torch.cat([p.detach().flatten() for m in modules for p in m.parameters()])


def test_fit_is_the_loop_written_by_hand():
    model = Jepa(0.9, every=2)
    fit(model.loss, DATA, steps=20, batch=12, lr=0.02, weight_decay=0.1)
    by_hand = Jepa()
    online, predict = by_hand.f.net, by_hand.g.net
    teacher = copy.deepcopy(online)
    optimiser = torch.optim.AdamW([*online.parameters(), *predict.parameters()], lr=0.02, weight_decay=0.1, fused=True)
    order = Fitting(Jepa().loss, {**DATA, "i": torch.arange(12)}, FitConfig(steps=20, batch=12)).source
    for n in range(1, 21):
        rows = order.take()["i"]
        optimiser.zero_grad()
        wanted = teacher(DATA["x_prime"][rows]).detach()
        (predict(online(DATA["x"][rows])) - wanted).square().sum(-1).mean().backward()
        optimiser.step()
        if n % 2 == 0:
            with torch.no_grad():
                for slow, fast in zip(teacher.parameters(), online.parameters(), strict=True):
                    slow.lerp_(fast, 1 - 0.9)
    assert torch.equal(flat(model.f.net, model.g.net), flat(online, predict))
    assert torch.equal(flat(model.target.net), flat(teacher))
    assert not torch.equal(flat(model.target.net), flat(online))


def test_no_optimiser_and_no_average_sees_the_slow_weights():
    model = Jepa()
    fitting = Fitting(model.loss, DATA, FitConfig(steps=4, batch=4, ema=0.5))
    seen = {id(p) for o in fitting.optimisers.values() for group in o.param_groups for p in group["params"]}
    assert seen == {id(p) for f in (model.f, model.g) for p in f.parameters()}
    slow = flat(model.target.net)
    with fitting.history.averaged():
        assert torch.equal(flat(model.target.net), slow)
    assert all(name.split(".")[0] in ("f", "g") for name in fitting.history.average.state_dict()["means"])


@pytest.mark.parametrize("cut", [1, 5, 6])
def test_a_stored_fit_goes_on_bit_for_bit(cut, tmp_path):
    def new():
        return Fitting(Jepa(0.8, every=3).loss, DATA, FitConfig(steps=11, batch=5), seed=2)

    whole, first, second = new(), new(), new()
    whole.advance(11)
    first.advance(cut)
    checkpoint.save(tmp_path, cut, first.state_dict())
    second.load_state_dict(checkpoint.load_latest(tmp_path).state)
    second.advance(11)
    for (name, one), other in zip(whole.loss.state_dict().items(), second.loss.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert whole.loss.state_dict()["slow_f_updates.count"] == 11
    assert not torch.equal(flat(whole.loss.slow_f), flat(first.loss.slow_f))


def adversaries(**settings):
    """A critic d, and a generator g that plays against the slow critic."""
    torch.manual_seed(0)
    g = Deterministic("x = g(z)", linear(2, 3), shape=3)
    d = Deterministic("d = D(x)", nn.Sequential(linear(3, 1), nn.Flatten(0)), shape=())
    slow = d.slow(0.75)
    played = Game(
        settings.pop("order", "alternating"),
        d=Player((E(g * d, Value("d")).mean()), [d], **settings),
        g=Player((-E(g * slow, Value("d")).mean()), [g]),
    )
    return played, g, d, slow


@pytest.mark.parametrize("order", ["alternating", "simultaneous"])
@pytest.mark.parametrize("every", [1, 3])
def test_in_a_game_it_moves_when_the_player_of_its_factor_does(order, every):
    game, _, d, slow = adversaries(order=order, every=every)
    expected, moved = copy.deepcopy(slow.net), []
    fakes = vectors(8, 2, 4)

    def after(step, outs):
        moved.append("d" in outs)
        if "d" in outs:
            with torch.no_grad():
                for s, f in zip(expected.parameters(), d.net.parameters(), strict=True):
                    s.lerp_(f, 0.25)
        assert torch.equal(flat(slow.net), flat(expected))

    fit(game, {"z": fakes}, steps=7, batch=8, callback=after)
    assert sum(moved) == slow.slow_weights.count.item() == (7 if every == 1 else 3)
    assert not torch.equal(flat(slow.net), flat(d.net))


def test_who_moves_later_in_a_step_meets_the_copy_that_has_moved():
    game, g, d, slow = adversaries()
    fakes, values = vectors(8, 2, 4), []
    stale = -slow.net(g.net(fakes)).mean().item()
    made, followed = copy.deepcopy(g.net), copy.deepcopy(slow.net)
    fit(game, {"z": fakes}, steps=1, batch=8, lr=0.1, callback=lambda _, outs: values.append(outs["g"].value.item()))
    with torch.no_grad():
        for s, f in zip(followed.parameters(), d.net.parameters(), strict=True):
            s.lerp_(f, 0.25)
    assert values[0] == pytest.approx(-followed(made(fakes)).mean().item(), abs=1e-12)
    assert abs(values[0] - stale) > 1e-3


def test_weights_that_two_players_move_are_followed_once_per_update():
    torch.manual_seed(0)
    body, head = linear(3, 3), linear(3, 3)
    f = Deterministic("y = f(x)", nn.Sequential(body, nn.Tanh(), head), shape=3)
    slow = f.slow(0.5)
    loss = E(f, norm2(Value("y"))).mean() + E(slow.rename(y="y'"), norm2(Value("y'", 3))).mean()
    game = Game(a=Player(loss, [body]), b=Player(1.0 * loss, [head]))
    expected = copy.deepcopy(slow.net)

    def after(step, outs):
        with torch.no_grad():
            for s, w in zip(expected.parameters(), f.net.parameters(), strict=True):
                s.lerp_(w, 0.5)
        assert torch.equal(flat(slow.net), flat(expected))

    fit(game, {"x": vectors(6, 3, 5)}, steps=4, batch=6, callback=after)
    assert slow.slow_weights.count.item() == 4


def test_what_would_stand_still_unnoticed_is_refused_and_a_frozen_teacher_stands_still():
    model = Jepa()
    student = Deterministic("u = h(x)", linear(4, 3), shape=3)
    teacher = model.f.slow(0.9)
    loss = E(student * teacher, norm2(Value("u") - Value("s"))).mean()
    with pytest.raises(FormulaError, match=r"\\bar f\(x\) follows weights that this training does not move"):
        fit(loss, {"x": DATA["x"]}, steps=2, batch=4)
    model.f.net.requires_grad_(False)
    before = flat(teacher.net)
    fit(loss, {"x": DATA["x"]}, steps=2, batch=4)
    assert torch.equal(flat(teacher.net), before)
    assert teacher.slow_weights.count.item() == 0


def test_move_slow_finds_every_copy_once_and_refuses_nothing_to_move():
    model = Jepa()
    holder = nn.ModuleList([model.loss, model.target, nn.Linear(2, 2)])
    assert slow_weights(holder, model.loss) == [model.target.slow_weights]
    move_slow(holder, model.loss)
    assert model.target.slow_weights.count.item() == 1
    with pytest.raises(FormulaError, match="move_slow: Linear holds no slow copy"):
        move_slow(nn.Linear(2, 2))
    with pytest.raises(FormulaError, match="move_slow: nothing holds no slow copy"):
        move_slow()


# ----------------------------------------------------------------------------------------------- several processes


STEPS = 6


def updates(loss, batches):
    """A few updates of a loop of one's own; DDP is called as the formula is."""
    optimiser = torch.optim.Adam(loss.parameters(), lr=0.05)
    for batch in batches:
        optimiser.zero_grad()
        loss(**batch).value.backward()
        optimiser.step()
        move_slow(loss)


def rows(chosen):
    return [{key: value[chosen].roll(n, 0) for key, value in DATA.items()} for n in range(STEPS)]


def process(rank, folder):
    """One of two processes: its half of the rows, and what its weights became."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=dt.timedelta(seconds=100)
    )
    model = Jepa(0.7, every=2)
    with torch.no_grad():
        for p in model.loss.parameters():
            p.add_(rank)  # DDP begins with those of the first process
    updates(DistributedDataParallel(model.loss), rows(slice(6 * rank, 6 * rank + 6)))
    torch.save(model.loss.state_dict(), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_under_ddp_copies_are_equal_on_both_ranks_and_to_a_single_run(tmp_path):
    mp.spawn(process, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    alone = Jepa(0.7, every=2)
    halves = zip(rows(slice(0, 6)), rows(slice(6, 12)), strict=True)
    updates(alone.loss, [{key: torch.cat((a[key], b[key])) for key in a} for a, b in halves])
    assert first.keys() == second.keys() == alone.loss.state_dict().keys()
    for key, value in alone.loss.state_dict().items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, rtol=1e-12, atol=1e-13)
    assert first["slow_f_updates.count"] == STEPS
    assert (first["slow_f.0.weight"] - first["f.0.weight"]).abs().max() > 1e-3
