"""The laws of a cost, for costs of every kind of term, and for costs that break them."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from worldformula import Bernoulli, Deterministic, E, Normal, Sum, World, log
from worldformula.agent.cost import Cost
from worldformula.agent.terms import Distance, Effort, seen
from worldformula.errors import ConfigError, MissingInputError, ShapeError
from worldformula.planner import ActionSet, Task
from worldformula.planners.cem import CEM
from worldformula.testing import check_cost
from worldformula.world import PriorDynamics, State

N, T = 3, 4


class Add(nn.Module):
    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        return 0.9 * s + a


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, states: State) -> Tensor:
        return self.net(torch.cat((states["s"], states["goal"]), -1)).squeeze(-1)


class Fixed(nn.Module):
    """An intrinsic term with numbers of its own."""

    def __init__(self, learns: bool = False) -> None:
        super().__init__()
        self.target = nn.Parameter(torch.tensor([0.3, -0.2]), requires_grad=learns)

    def forward(self, states: State) -> Tensor:
        return (states["s"] - self.target).abs().sum(-1)


@pytest.fixture
def world() -> World:
    torch.manual_seed(0)
    encode = Deterministic("s_t = e(x_t)", nn.Linear(5, 2), shape=2)
    move = Deterministic("s_t = f(s_{t-1}, a_{t-1})", Add(), shape=2)
    reward = Normal("p(r_t|s_t)", nn.Linear(2, 1), shape=(), scale=1.0)
    proceed = Bernoulli("p(c_t|s_t)", nn.Linear(2, 1), shape=())
    loss = Sum("t", E(encode, -log(reward) - log(proceed)), reset="first").mean()
    return World(prior=move, posterior=encode, heads=[reward, proceed], loss=loss, roles={"reward": "r"})


@pytest.fixture
def states() -> State:
    goal = torch.randn(N, 1, 2).expand(-1, T, -1)
    return State({"s": torch.randn(N, T, 2), "goal": goal}, 2)


ACTIONS = {"a": torch.randn(N, T, 2, generator=torch.Generator().manual_seed(1))}


def test_a_cost_of_a_reward_a_goal_an_effort_fixed_numbers_and_a_critic(world: World, states: State) -> None:
    intrinsic = {"far": Distance("s"), "effort": Effort(), "fixed": Fixed()}
    cost = Cost(world, intrinsic, {"later": Critic()}, {"reward": 0.5, "effort": 0.1, "later": 2.0})
    batch = {"x": torch.randn(N, T, 5), "first": torch.zeros(N, T)}
    check_cost(cost, states, ACTIONS, batch=batch | ACTIONS)


def test_a_world_that_says_how_probably_it_goes_on(world: World, states: State) -> None:
    going = World(
        prior=world.prior, posterior=world.posterior, heads=world.heads, loss=world.loss,
        roles={"reward": "r", "continue": "c"},
    )  # fmt: skip
    check_cost(Cost(going, {"far": Distance("s")}), states, ACTIONS)


@dataclass(frozen=True)
class Broken(Cost):
    """A cost with one thing wrong."""

    how: str = ""

    def __call__(self, states, actions=None):
        found = super().__call__(states, actions)
        return {
            "constant": lambda: found + 1,
            "square": found.square,
            "batch": lambda: found - found.mean(0),
            "stopped": lambda: found.detach() + 0 * sum(w for w in self.weights.values()),
        }[self.how]()


@pytest.mark.parametrize(
    ("how", "law"),
    [
        ("constant", "the total is the weighted sum of its terms"),
        ("square", "linear in the weights of intrinsic terms"),
        ("batch", "rows do not see each other"),
        ("stopped", "gradients reach the states"),
    ],
)
def test_a_broken_law_is_found(how: str, law: str, world: World, states: State) -> None:
    weights = {"reward": 1.0, "far": 1.5}
    with pytest.raises(AssertionError, match=rf"{law}.*broken"):
        check_cost(Broken(world, {"far": Distance("s")}, weights=weights, how=how), states, ACTIONS)


def test_training_that_moves_an_intrinsic_term_is_found(world: World, states: State) -> None:
    cost = Cost(world, {"fixed": Fixed()}, {"later": Critic()})

    def train(own: Cost) -> None:
        with torch.no_grad():
            for p in (*own.learnt, own.intrinsic["fixed"].target):
                p.add_(1e-7 + p.abs() * 1e-6)

    with pytest.raises(AssertionError, match=r"the same to the bit after training.*broken"):
        check_cost(cost, states, ACTIONS, train=train)


def test_the_critics_are_put_back_after_the_check(world: World, states: State) -> None:
    cost = Cost(world, {"fixed": Fixed()}, {"later": Critic()})
    before = copy.deepcopy(cost.critics["later"].state_dict())
    check_cost(cost, states, ACTIONS)
    after = cost.critics["later"].state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_an_intrinsic_term_that_learns_is_refused(world: World) -> None:
    term = Fixed(learns=True)
    for given in (term, lambda states: 2 * term(states)):
        with pytest.raises(ConfigError, match=r"fixed is an intrinsic term, which does not learn.*\n.*requires_grad_"):
            Cost(world, {"fixed": given})
    assert not Cost(world, {"fixed": Fixed()}).learnt
    assert Cost(world, {"head": lambda states: world.decode(states, ("c",))["c"]}).learnt == []  # it reads the world
    critic = Critic()
    assert Cost(world, critics={"a": critic, "b": lambda states: 2 * critic(states)}).learnt == [*critic.parameters()]


def test_effort_and_distance_by_hand() -> None:
    states = State(
        {"s": torch.tensor([[[1.0, 2.0], [0.0, 0.0]]]), "goal": torch.tensor([[[4.0, -2.0], [0.0, 0.5]]])}, 2
    )
    torch.testing.assert_close(Distance("s", unit=5.0)(states), torch.tensor([[5.0, 0.05]]))
    actions = {"m": torch.tensor([[[3.0, 0.0], [1.0, 1.0]]]), "u": torch.tensor([[[0.0], [2.0]]])}
    assert Effort()(states, actions).tolist() == [[9.0, 6.0]]
    number = State({"p": torch.tensor([[1.0, 3.0]]), "goal": torch.tensor([[0.0, 5.0]])}, 2)
    assert Distance("p")(number).tolist() == [[1.0, 4.0]]


def test_a_term_of_actions_reads_those_of_a_dream_one_step_before(world: World) -> None:
    s, a = torch.zeros(1, 3, 2), torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]])
    cost = Cost(world, {"effort": Effort()}, weights={"reward": 0.0})
    expected = torch.tensor([[0.0, 1.0, 4.0]]) - 0 * world.decode({"s": s}, ("r",))["r"]
    torch.testing.assert_close(cost(State({"s": s, "a": a}, 2)), expected)
    torch.testing.assert_close(cost.outcome(State({"s": s, "a": a}, 2))[0], -expected)
    with pytest.raises(MissingInputError, match="a term of actions needs a"):
        cost(State({"s": s}, 2))
    with pytest.raises(ShapeError, match="of the step that leads to a state"):
        cost(State({"s": s[:, 0], "a": a[:, 0]}))


def test_goals_are_rows_of_a_task_and_every_episode_has_its_own() -> None:
    dynamics = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1})", Add(), shape=2))
    goals = torch.tensor([[0.5, -0.5], [-1.0, 1.0], [0.0, 0.2]])
    planner, start = CEM(horizon=3, candidates=64, elites=8, iterations=6), {"s": torch.zeros(3, 2)}
    cost = Cost(dynamics, {"far": Distance("s")})
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    plan = planner.plan(
        dynamics, cost.task(given={"goal": goals}), start, space={"a": ActionSet(2)}, generators=generators
    )
    assert (plan.states["s"][:, -1] - goals).norm(dim=-1).max() < 0.15
    torch.testing.assert_close(plan.states["goal"], goals[:, None].expand(-1, 4, -1))
    torch.testing.assert_close(cost(plan.states.span(1)).sum(1), plan.cost)
    for i in range(3):  # alone as beside others
        own = Task(lambda states, _, i=i: (states["s"] - goals[i]).square().sum(-1))
        alone = planner.plan(
            dynamics, own, {"s": torch.zeros(1, 2)}, space={"a": ActionSet(2)},
            generators=[torch.Generator().manual_seed(i)],
        )  # fmt: skip
        torch.testing.assert_close(alone.actions["a"][0], plan.actions["a"][i])


def test_wrong_goals_are_refused(world: World) -> None:
    dynamics = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1})", Add(), shape=2))
    planner, start = CEM(horizon=2, candidates=8, elites=2, iterations=1), {"s": torch.zeros(3, 2)}
    cost, space = Cost(dynamics, {"far": Distance("s")}), {"a": ActionSet(2)}
    with pytest.raises(ShapeError, match="a row for each of 3 episodes"):
        planner.plan(dynamics, cost.task(given={"goal": torch.zeros(2)}), start, space=space)
    with pytest.raises(ConfigError, match="s is a variable of the dreams already"):
        planner.plan(dynamics, cost.task(given={"s": torch.zeros(3, 2)}), start, space=space)
    with pytest.raises(MissingInputError, match="not goal\nof a plan, say cost.task"):
        planner.plan(dynamics, cost.task(), start, space=space)
    with pytest.raises(ShapeError, match="a goal has the shape"):
        planner.plan(dynamics, cost.task(given={"goal": torch.zeros(3, 3)}), start, space=space)


def test_a_goal_that_is_shown_is_what_the_world_infers_from_it(world: World) -> None:
    x = torch.randn(4, 5)
    expected = x @ world.posterior.factors[0].net.weight.T + world.posterior.factors[0].net.bias
    torch.testing.assert_close(seen(world, {"x": x})["s"], expected)


def test_a_goal_in_a_world_that_reads_actions() -> None:
    encode = Deterministic("s_t = e(x_t, a_{t-1})", lambda x, a: x[..., :2] + a, shape=2)
    move = Deterministic("s_t = f(s_{t-1}, a_{t-1})", Add(), shape=2)
    head = Normal("p(x_t|s_t)", nn.Linear(2, 5), shape=5, scale=1.0)
    world = World(
        prior=move, posterior=encode, heads=[head], loss=Sum("t", E(encode, -log(head)), reset="first").mean()
    )
    x = torch.randn(4, 5)
    torch.testing.assert_close(seen(world, {"x": x}, {"a": ActionSet(2)})["s"], x[:, :2])


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_a_picture_of_a_goal_is_in_the_range_of_those_that_were_learnt_from(kind: torch.dtype) -> None:
    encode = Deterministic("s_t = e(x_t)", nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), shape=2)
    move = Deterministic("s_t = f(s_{t-1}, a_{t-1})", Add(), shape=2)
    head = Normal("p(r_t|s_t)", nn.Linear(2, 1), shape=1, scale=1.0)
    world = World(prior=move, posterior=encode, heads=[head], loss=Sum("t", E(encode, -log(head))).mean())
    levels = torch.randint(2, 256, (3, 2, 2, 3))
    levels[0, 0, 0] = 2
    with pytest.raises(ConfigError, match=r"x: expected pictures with numbers from 0 to 1(.|\n)*x.float\(\) / 255"):
        seen(world, {"x": levels.to(kind)})
    with pytest.raises(ConfigError, match="from -0.98"):
        seen(world, {"x": levels.float() / 127.5 - 1})
    seen(world, {"x": levels.float() / 250 - 0.01})  # as a decoder may have it
    found = seen(world, {"x": levels.float() / 255})["s"]
    linear = world.posterior.factors[0].net[1]
    torch.testing.assert_close(found, levels.float().flatten(1) / 255 @ linear.weight.T + linear.bias)
