"""Tree search on a corridor with a trap, whose best plan is known by enumeration."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError
from worldformula.formula import Deterministic, OneHot
from worldformula.planner import ActionSet, Task
from worldformula.planners.mcts import MCTS
from worldformula.testing import check_planner
from worldformula.world import PriorDynamics

MOVES = {"a": ActionSet(3, "choice")}
DIGITS = torch.tensor([1.0, 3.0, 9.0, 27.0, 81.0])


class Word(nn.Module):
    """Shifts what was done into a word of five digits."""

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        return torch.cat((s[:, 1:], a.argmax(-1, keepdim=True).float()), 1)


WORDS = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1})", Word(), shape=5))


def cost_of(word: tuple[int, ...]) -> float:
    """Right digits in a row from the left are worth much, a wrong one ends it; 2 is dear in itself."""
    run = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(word, SECRET, strict=True))))
    return -float(run**2) + 0.1 * word.count(2)


SECRET = (2, 0, 2, 1, 1)


def task() -> Task:
    def cost(states, _):
        digits = states["s"].long()
        found = [[cost_of(tuple(step.tolist())) for step in dream] for dream in digits]
        return torch.tensor(found)

    return Task(cost, reduce="last")


def test_the_exhaustive_optimum_is_found_with_a_share_of_the_calls() -> None:
    best = min(cost_of(w) for w in itertools.product(range(3), repeat=5))
    start = {"s": torch.zeros(6, 5)}
    plan = MCTS(horizon=5, simulations=90).plan(WORDS, task(), start, space=MOVES)
    assert plan.cost.tolist() == pytest.approx([best] * 6)
    assert plan.actions["a"].argmax(-1).tolist() == [list(SECRET)] * 6
    assert plan.calls / 5 < 0.5 * 3**5


def test_it_looks_where_it_is_good_more_often_than_chance() -> None:
    """Equal calls of random sequences find less: a tree goes on where a beginning paid."""
    torch.manual_seed(0)
    start, random = {"s": torch.zeros(64, 5)}, torch.randint(3, (64, 60, 5))
    tree = MCTS(horizon=5, simulations=60).plan(WORDS, task(), start, space=MOVES)
    drawn = torch.tensor([[cost_of(tuple(word.tolist())) for word in row] for row in random]).amin(1)
    assert tree.cost.mean() < drawn.mean() - 1


def test_the_choice_of_the_root_is_one_that_pays() -> None:
    start = {"s": torch.zeros(8, 5)}
    plan = MCTS(horizon=5, simulations=60, answer="root").plan(WORDS, task(), start, space=MOVES)
    assert (plan.actions["a"][:, 0].argmax(-1) == SECRET[0]).float().mean() > 0.8
    assert plan.cost.isfinite().all()


def test_where_one_choice_is_allowed_the_race_is_over() -> None:
    start, mask = {"s": torch.zeros(2, 5)}, {"a": torch.tensor([[False, True, False], [True, True, True]])}
    plan = MCTS(horizon=5, simulations=20, answer="root").plan(WORDS, task(), start, space=MOVES, mask=mask)
    assert plan.actions["a"][0, 0].tolist() == [0, 1, 0]


def drawing() -> PriorDynamics:
    """The word is spelt by a latent, and 2 is improbable where the last digit is not 0."""

    class Law(nn.Module):
        def forward(self, s: Tensor) -> Tensor:
            return torch.where(s[:, -1:] == 0, torch.zeros(3), torch.tensor([0.0, 0.0, -5.0]))

    law = OneHot("p(z_t|s_{t-1})", Law(), shape=3)
    return PriorDynamics(law * Deterministic("s_t = f(s_{t-1}, z_t)", Word(), shape=5))


@pytest.mark.parametrize("surprise", [0.0, 1.0])
def test_latents_that_nobody_expects_cost_their_surprise(surprise: float) -> None:
    """By enumeration of all words, of a reward that counts 2s: without surprise it is 222, with it 2 comes after 0."""

    def ranked(word: tuple[int, ...]) -> float:
        total, last = 0.0, 0
        for digit in word:
            logits = torch.tensor([0.0, 0.0, 0.0 if last == 0 else -5.0])
            total += -float(digit == 2) - surprise * float(torch.distributions.Categorical(logits=logits).log_prob(
                torch.tensor(digit)))  # fmt: skip
            last = digit
        return total

    task = Task(lambda states, _: -(states["s"][..., -1] == 2).float())
    plan = MCTS(horizon=3, simulations=120, surprise=surprise).plan(
        drawing(), task, {"s": torch.zeros(2, 5)}, space={"z": ActionSet(3, "choice")}
    )
    best = min(itertools.product(range(3), repeat=3), key=ranked)
    assert plan.actions["z"].argmax(-1).tolist() == [list(best)] * 2
    assert plan.cost.tolist() == [-float(best.count(2))] * 2  # what it costs is said without the surprise
    assert (best.count(2) == 3) == (surprise == 0)


def test_surprise_of_what_says_no_probability_is_refused() -> None:
    with pytest.raises(ConfigError, match="surprise ≥ 0"):
        MCTS(surprise=-1.0)

    class Told:
        actions, roles = ("a",), {}

        def imagine(self, start, policy=None, **options):
            return WORDS.imagine(start, policy, **options)

    with pytest.raises(ConfigError, match="Told has no log_prob_of"):
        MCTS(horizon=2, simulations=4, surprise=0.1).plan(Told(), task(), {"s": torch.zeros(1, 5)}, space=MOVES)


def test_the_laws_hold_and_the_answer_of_the_root_is_a_choice_too() -> None:
    check_planner(MCTS(horizon=4, simulations=64), {"a": ActionSet(3, "choice")})
    planner = MCTS(horizon=4, simulations=64, answer="root")
    plan = planner.plan(WORDS, Task(lambda s, a: s["s"].sum(-1)), {"s": torch.zeros(2, 5)}, space=MOVES)
    assert MOVES["a"].holds(plan.actions["a"])


def test_costs_that_are_no_numbers_are_discarded() -> None:
    def cost(states, actions):
        return torch.where(actions["a"][..., 0] > 0, torch.nan, actions["a"][..., 1])

    plan = MCTS(horizon=3, simulations=150).plan(WORDS, Task(cost), {"s": torch.zeros(3, 5)}, space=MOVES)
    assert plan.cost.tolist() == [0.0, 0.0, 0.0]
    assert plan.discarded is not None
    assert (plan.discarded > 0).all()


def test_what_it_cannot_search_among_is_refused() -> None:
    several = {"a": ActionSet(3, "choice"), "b": ActionSet(2, "flags")}
    for space, who in (
        ({"a": ActionSet(2)}, "cem, icem, mppi and gradient"),
        (several, "beam and cem"),
        ({**several, "c": ActionSet(1)}, "cem, icem and mppi"),
    ):
        with pytest.raises(ConfigError, match=f"branches by one choice(.|\\n)*\n{who} "):
            MCTS().plan(WORDS, task(), {"s": torch.zeros(1, 5)}, space=space)
    with pytest.raises(ConfigError, match="answer"):
        MCTS(answer="mean")


def test_what_has_no_cost_is_left_alone_when_it_came_first() -> None:
    """A lost visit counts as the worst of all that is known, and not as 0 because nothing was known at its time."""
    space, mask = {"a": ActionSet(8, "choice")}, {"a": torch.eye(8).bool()[:1].expand(16, -1)}

    def cost(states, _):
        word = states["s"]
        second = torch.where(word[..., -1] < 4, torch.nan, 100 + word[..., -1])
        return torch.where(torch.arange(word.shape[1]) == 1, second, 0.0)

    start = {"s": torch.zeros(16, 5)}
    plan = MCTS(horizon=2, simulations=40, considered=1).plan(WORDS, Task(cost), start, space=space, mask=mask)
    assert plan.cost.tolist() == [104.0] * 16
    assert (plan.discarded < 20).all(), plan.discarded


def test_a_forbidden_proposal_is_behind_what_costs_infinity() -> None:
    def cost(states, _):
        return torch.full_like(states["s"][..., 0], torch.inf)

    mask, proposal = {"a": torch.tensor([[False, False, True]])}, torch.eye(3)[[0, 0]].view(1, 1, 2, 3)
    plan = MCTS(horizon=2, simulations=8).plan(
        WORDS, Task(cost), {"s": torch.zeros(1, 5)}, space=MOVES, mask=mask, proposals={"a": proposal}
    )
    assert plan.first["a"].argmax(-1).tolist() == [2]


def test_costs_in_another_unit_are_searched_alike() -> None:
    """Values are scaled to [0, 1] by all that was seen: a released search of THICK's never did."""
    start, whole = {"s": torch.zeros(6, 5)}, task().cost

    def told(factor: float) -> list[list[int]]:
        own = Task(lambda states, actions: factor * whole(states, actions), reduce="last")
        plan = MCTS(horizon=5, simulations=30).plan(WORDS, own, start, space=MOVES)
        return plan.actions["a"].argmax(-1).tolist()

    assert told(1.0) == told(2.0**20) == told(2.0**-20)


def test_of_one_choice_a_plan_is_the_plain_dream() -> None:
    """Every cost on the way is counted once, that of the leaf too."""
    more = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1})", lambda s, a: 2 * s + a, shape=1))
    start = {"s": torch.tensor([[0.0], [3.0]])}
    plan = MCTS(horizon=4, simulations=8).plan(
        more, Task(lambda states, _: states["s"][..., 0]), start, space={"a": ActionSet(1, "choice")}
    )
    wanted = []
    for s in (0.0, 3.0):
        total = 0.0
        for _ in range(4):
            s = 2 * s + 1
            total += s
        wanted.append(total)
    assert plan.cost.tolist() == wanted
