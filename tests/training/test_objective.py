"""Terms that are made of one another's results, and who moves what: against updates written out by hand."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from worldformula import Deterministic, E, Normal, Value, log, norm2, together
from worldformula.errors import ConfigError, FormulaError, UnknownVariableError
from worldformula.training.objective import Minimises, Objective, Updates
from worldformula.training.optimiser import LaProp

B, X, Z = 5, 3, 2


class Parts:
    """A code of data, a critic of codes, and an actor that the critic judges: a world's dream in two lines."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.code, self.critic, self.actor = nn.Linear(X, Z), nn.Linear(Z, 1), nn.Linear(Z, Z)
        code = Deterministic("z = code(x)", self.code, shape=Z)
        self.world = E(code, -log(Normal("p(y|z)", lambda z: z, scale=1.0, shape=Z))).mean()
        value = Deterministic("v = critic(z)", self.critic, shape=1)
        self.judged = E(value, norm2(Value("v") - Value("r", shape=1))).mean()
        act = Deterministic("u = actor(z)", self.actor, shape=Z) * Deterministic("w = critic(u)", self.critic, shape=1)
        self.acted = E(act, norm2(Value("w") - 1.0)).mean()

    @staticmethod
    def seen(outs, batch, generator):
        return {"z": outs["world"].samples["z"], "r": batch["r"]}

    @staticmethod
    def dreamt(outs, batch, generator):
        return {"z": outs["world"].samples["z"]}

    def objective(self, order="simultaneous", attached=(), **players) -> Objective:
        terms = {"world": self.world, "critic": self.judged, "actor": self.acted}
        return Objective(
            order, terms=terms, data={"critic": self.seen, "actor": self.dreamt}, attached=attached, **players
        )

    def three(self, optimiser, order="simultaneous", attached=(), weight=1.0) -> Objective:
        also = {"critic": weight} if attached else {}
        return self.objective(
            order, attached,
            world=Minimises({"world": 1.0, **also}, [self.code], optimiser),
            critic=Minimises({"critic": weight}, [self.critic], optimiser),
            actor=Minimises({"actor": 1.0}, [self.actor], optimiser),
        )  # fmt: skip

    def weights(self) -> list[Tensor]:
        return [p.detach().clone() for net in (self.code, self.critic, self.actor) for p in net.parameters()]

    # by hand

    def losses(self, x, y, r, attached) -> tuple[Tensor, Tensor, Tensor]:
        z = self.code(x)
        half = 0.5 * torch.log(torch.tensor(2 * torch.pi))
        world = (0.5 * (y - z).square() + half).sum(-1).mean()
        critic = (self.critic(z if attached else z.detach()) - r).square().sum(-1).mean()
        actor = (self.critic(self.actor(z.detach())) - 1.0).square().sum(-1).mean()
        return world, critic, actor


def data() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {"x": torch.randn(B, X), "y": torch.randn(B, Z), "r": torch.randn(B, 1)}


SGD = partial(torch.optim.SGD, lr=0.1)


@pytest.mark.parametrize("attached", [(), ("critic",)])
def test_simultaneous_players_take_their_gradients_at_the_same_weights(attached) -> None:
    ours, hand, rows = Parts(), Parts(), data()
    updates = Updates(ours.three(SGD, attached=attached, weight=0.3))
    for _ in range(3):
        outs = updates.update(rows)
        world, critic, actor = hand.losses(**rows, attached=bool(attached))
        own = [list(net.parameters()) for net in (hand.code, hand.critic, hand.actor)]
        sums = (world + 0.3 * critic if attached else world, 0.3 * critic, actor)
        found = [torch.autograd.grad(s, p, retain_graph=True) for s, p in zip(sums, own, strict=True)]
        torch.testing.assert_close(outs["totals"]["critic"], 0.3 * critic.detach())
        with torch.no_grad():
            for params, gradients in zip(own, found, strict=True):
                for p, g in zip(params, gradients, strict=True):
                    p -= 0.1 * g
    for a, b in zip(ours.weights(), hand.weights(), strict=True):
        torch.testing.assert_close(a, b)


def test_alternating_players_meet_what_those_before_them_have_become() -> None:
    ours, hand, rows = Parts(), Parts(), data()
    updates = Updates(ours.three(SGD, "alternating"))
    for _ in range(2):
        outs = updates.update(rows)
        for turn, net in enumerate((hand.code, hand.critic, hand.actor)):
            loss = hand.losses(**rows, attached=False)[turn]
            own = list(net.parameters())
            with torch.no_grad():
                for p, g in zip(own, torch.autograd.grad(loss, own), strict=True):
                    p -= 0.1 * g
        assert set(outs) == {"world", "critic", "actor", "totals"}
    for a, b in zip(ours.weights(), hand.weights(), strict=True):
        torch.testing.assert_close(a, b)


def test_three_players_are_one_optimiser_over_the_sum_to_the_last_bit() -> None:
    """Per-tensor optimisers do not see who asks, as long as no term reaches what another player moves."""
    optimiser = partial(LaProp, lr=0.01, warmup=2)
    one, three, rows = Parts(), Parts(), data()
    for parts in (one, three):  # the actor's term reaches the critic; without the critic's weights there it does not
        parts.acted = E(Deterministic("u = actor(z)", parts.actor, shape=Z), norm2(Value("u") - 1.0)).mean()
    sums = Updates(
        one.objective(
            all=Minimises({"world": 1.0, "critic": 1.0, "actor": 1.0}, [one.code, one.critic, one.actor], optimiser)
        )
    )
    apart = Updates(three.three(optimiser))
    for _ in range(5):
        sums.update(rows)
        apart.update(rows)
    assert all(torch.equal(a, b) for a, b in zip(one.weights(), three.weights(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one.weights(), Parts().weights(), strict=True))


def test_what_moved_makes_new_what_depends_on_it_and_nothing_else() -> None:
    parts = Parts()
    objective = parts.three(SGD)
    objective.run(data())
    assert objective.stale(list(parts.actor.parameters())) == {"actor"}
    assert objective.stale(list(parts.critic.parameters())) == {"critic", "actor"}
    assert objective.stale(list(parts.code.parameters())) == {"world", "critic", "actor"}


def test_a_player_moves_at_its_turns_only_and_clips_its_own_gradient() -> None:
    parts, rows = Parts(), data()
    objective = parts.objective(
        world=Minimises({"world": 1.0}, [parts.code], SGD, every=2),
        rest=Minimises({"critic": 1.0, "actor": 1.0}, [parts.critic, parts.actor], SGD, clip=0.01),
    )
    updates, before = Updates(objective), parts.weights()
    updates.update(rows)
    first = parts.weights()
    moved = torch.cat([(a - b).flatten() for a, b in zip(first[2:], before[2:], strict=True)])
    torch.testing.assert_close(moved.norm(), torch.tensor(0.1 * 0.01), rtol=1e-3, atol=0)
    updates.update(rows)
    assert all(torch.equal(a, b) for a, b in zip(first[:2], parts.weights()[:2], strict=True))
    assert not torch.equal(first[2], parts.weights()[2])


def test_parts_of_a_together_are_terms_and_slow_copies_follow() -> None:
    parts, rows = Parts(), data()
    slow = Deterministic("s = critic(z)", parts.critic, shape=1).slow(0.9)
    follow = E(slow, norm2(Value("s") - Value("r", shape=1))).mean()
    terms = {"world": parts.world, "both": together(critic=parts.judged, follow=follow), "actor": parts.acted}
    objective = Objective(
        terms=terms, data={"both": parts.seen, "actor": parts.dreamt},
        all=Minimises({"world": 1.0, "critic": 0.5, "actor": 1.0}, [parts.code, parts.critic, parts.actor], SGD),
    )  # fmt: skip
    before, copied = parts.critic.weight.detach().clone(), slow.net.weight.detach().clone()
    assert torch.equal(before, copied)
    outs = Updates(objective).update(rows)
    torch.testing.assert_close(slow.net.weight, 0.9 * copied + 0.1 * parts.critic.weight)
    total = sum(objective.value(name, outs) * w for name, w in (("world", 1.0), ("critic", 0.5), ("actor", 1.0)))
    torch.testing.assert_close(outs["totals"]["all"], total.detach())
    assert "all minimises world + 0.5 critic + actor" in objective._repr_html_()


@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
def test_what_is_saved_goes_on_to_the_last_bit(order) -> None:
    optimiser, rows = partial(torch.optim.AdamW, lr=0.01), data()
    parts = Parts()
    updates = Updates(parts.three(optimiser, order))
    for _ in range(2):
        updates.update(rows)
    state, weights = copy.deepcopy(updates.state_dict()), parts.weights()
    updates.update(rows)
    other = Parts()
    resumed = Updates(other.three(optimiser, order))
    with torch.no_grad():
        nets = (other.code, other.critic, other.actor)
        for p, w in zip((p for net in nets for p in net.parameters()), weights, strict=True):
            p.copy_(w)
    resumed.load_state_dict(state)
    resumed.update(rows)
    assert all(torch.equal(a, b) for a, b in zip(parts.weights(), other.weights(), strict=True))
    assert set(state["world"]) == {"code.weight", "code.bias"}


def test_a_further_term_shifts_no_draw_of_another() -> None:
    rows = data()
    noisy = E(Normal("q(z|x)", nn.Linear(X, 2 * Z), shape=Z), norm2(Value("z"))).mean()
    more = E(Normal("q(s|x)", nn.Linear(X, 2 * Z), shape=Z), norm2(Value("s"))).mean()
    nets = list(noisy.children())
    alone = Objective(terms={"noisy": noisy}, data={}, all=Minimises({"noisy": 1.0}, nets))
    both = Objective(
        terms={"more": more, "noisy": noisy}, data={},
        all=Minimises({"noisy": 1.0, "more": 1.0}, [*nets, *more.children()]),
    )  # fmt: skip
    x = {"x": rows["x"]}
    assert torch.equal(alone.run(x, seed=3)["noisy"].value, both.run(x, seed=3)["noisy"].value)
    assert not torch.equal(alone.run(x, seed=3)["noisy"].value, alone.run(x, seed=4)["noisy"].value)


def test_what_cannot_be_an_objective_is_refused() -> None:
    parts = Parts()
    whole = [parts.code, parts.critic, parts.actor]
    with pytest.raises(
        FormulaError, match=r"every parameter that the terms read is moved by one player\n(.|\n)*critic.weight"
    ):
        parts.objective(all=Minimises({"world": 1.0}, [parts.code, parts.actor]))
    with pytest.raises(
        FormulaError, match=r"the player 'idle' moves nothing that learns: expected modules with weights"
    ):
        parts.objective(all=Minimises({"world": 1.0}, whole), idle=Minimises({"world": 1.0}, [nn.Tanh()]))
    with pytest.raises(UnknownVariableError, match=r"all minimises 'wrld', which is no term; .*Did you mean"):
        parts.objective(all=Minimises({"wrld": 1.0}, whole))
    with pytest.raises(FormulaError, match=r"expected weights of terms, such as Minimises\(\{'world': 1.0\}"):
        Minimises({}, whole)
    with pytest.raises(ConfigError, match=r"expected order='alternating' or 'simultaneous', got 'at once'"):
        parts.objective("at once", all=Minimises({"world": 1.0}, whole))
    updates = Updates(parts.objective(all=Minimises({"world": 1.0}, whole)))
    with pytest.raises(ConfigError, match=r"the state of all is of another objective: it has 'code.other'"):
        updates.load_state_dict({"count": 0, "all": {"code.other": {}}})


def test_players_of_a_turn_move_at_once_and_what_is_kept_is_evaluated_once() -> None:
    """y = w·x first, then two that read what it said before it moved: by hand, one gradient step each."""
    torch.manual_seed(0)
    nets = {name: nn.Linear(1, 1, bias=False).double() for name in ("one", "two", "three")}
    before = {name: net.weight.item() for name, net in nets.items()}
    calls = []
    nets["one"].register_forward_hook(lambda *_: calls.append(1))
    y = Normal("p(y|x)", nets["one"], shape=1, scale=1.0)
    z, v = Normal("p(z|y)", nets["two"], shape=1, scale=1.0), Normal("p(v|y)", nets["three"], shape=1, scale=1.0)
    x, rate = torch.full((4, 1), 2.0).double(), 0.1
    sgd = partial(torch.optim.SGD, lr=rate)
    objective = Objective(
        (("first",), ("second", "third")),
        terms={"y": (-log(y)).mean(), "z": (-log(z)).mean(), "v": (-log(v)).mean()},
        data={
            "y": lambda outs, batch, _: {"x": x, "y": torch.ones_like(x)},
            "z": lambda outs, batch, _: {"y": torch.full_like(x, outs["y"].value.item()), "z": torch.ones_like(x)},
            "v": lambda outs, batch, _: {"y": torch.full_like(x, outs["y"].value.item()), "v": torch.ones_like(x)},
        },
        kept=("y",),
        first=Minimises({"y": 1.0}, [nets["one"]], sgd),
        second=Minimises({"z": 1.0}, [nets["two"]], sgd),
        third=Minimises({"v": 1.0}, [nets["three"]], sgd),
    )  # fmt: skip
    Updates(objective).update({})
    assert len(calls) == 1
    said = 0.5 * (1 - before["one"] * 2) ** 2 + 0.5 * math.log(2 * math.pi)
    assert nets["one"].weight.item() == pytest.approx(before["one"] + rate * 2 * (1 - before["one"] * 2))
    for name in ("two", "three"):
        assert nets[name].weight.item() == pytest.approx(before[name] + rate * said * (1 - before[name] * said))
    for wrong in ((("first",),), (("first", "second"), ("third", "first")), (("first", "second", "fourth"),)):
        with pytest.raises(ConfigError, match="expected turns of the players first, second, third, each once"):
            Objective(wrong, terms=objective.terms, data=objective.data, **objective.players)


def test_a_turn_evaluates_what_it_wants_and_what_that_reads_alone() -> None:
    parts, evaluated = Parts(), list[str]()
    parts.seen = lambda *given: (evaluated.append("critic"), Parts.seen(*given))[1]
    parts.dreamt = lambda *given: (evaluated.append("actor"), Parts.dreamt(*given))[1]
    objective = parts.objective(
        (("model",), ("actor",)),
        model=Minimises({"world": 1.0, "critic": 1.0}, [parts.code, parts.critic], SGD),
        actor=Minimises({"actor": 1.0}, [parts.actor], SGD),
    )
    outs = Updates(objective).update(data())
    assert evaluated == ["critic", "actor"]  # the critic's loss moves in the first turn, and no later one reads it
    assert all(math.isfinite(float(objective.value(name, outs).detach())) for name in ("world", "critic", "actor"))


@pytest.mark.parametrize("wanted", [("actor",), ("critic", "actor")])
def test_a_wanted_term_brings_those_that_it_reads_with_their_gradients(wanted) -> None:
    parts = Parts()
    objective = parts.three(SGD)
    outs = objective.run(data(), wanted=wanted)
    assert set(outs) == {"world", *wanted}
    assert outs["world"].value.requires_grad
    whole = objective.run(data())
    assert all(torch.equal(outs[name].value, whole[name].value) for name in outs)
