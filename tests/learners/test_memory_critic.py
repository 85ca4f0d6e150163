"""Critics that learn from a memory: their losses by hand, and what they come to on a chain whose values are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldformula import Deterministic
from worldformula.agent.cost import Cost
from worldformula.agent.recollection import Hindsight, Recollection
from worldformula.agent.terms import Distance
from worldformula.errors import ConfigError, FormulaError, MissingInputError, ShapeError
from worldformula.learners.critics import MemoryCritic
from worldformula.testing import check_cost
from worldformula.training.fit import fit
from worldformula.world import PriorDynamics, State


class Flat(nn.Sequential):
    """A linear value of what it reads."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 1), nn.Flatten(0))

    def forward(self, *parts: Tensor) -> Tensor:
        return super().forward(torch.cat(parts, -1))


class Table(nn.Module):
    """A value for each number of a one-hot, or for each pair of them."""

    def __init__(self, size: int, *more: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(size, *more))

    def forward(self, s: Tensor, g: Tensor | None = None) -> Tensor:
        return s @ self.values if g is None else torch.einsum("ni,ij,nj->n", s, self.values, g)


def test_the_loss_of_returns_by_hand() -> None:
    torch.manual_seed(0)
    critic = MemoryCritic(Flat(3), ["s"], share=0.3)
    s, y = torch.randn(6, 3), torch.randn(6)
    d = y - critic.net(s)
    expected = (torch.where(d > 0, 0.3, 0.7) * d.square()).mean()
    torch.testing.assert_close(critic.loss(s=s, y=y).value, expected)


def test_the_loss_of_transitions_by_hand_and_nothing_learns_through_its_target() -> None:
    torch.manual_seed(0)
    critic = MemoryCritic(Flat(5), ["h", "z"], "g", learns="transitions", share=0.2)
    given = {k: torch.randn(6, n) for k, n in {"h": 1, "z": 2, "g": 2, "h_prime": 1, "z_prime": 2}.items()}
    c, d = torch.rand(6), torch.rand(6)
    target = c + d * critic.net(given["h_prime"], given["z_prime"], given["g"]).detach()  # the copy begins as it is
    value = critic.net(given["h"], given["z"], given["g"])
    off = target - value
    expected = (torch.where(off > 0, 0.2, 0.8) * off.square()).mean()
    out = critic.loss(**given, c=c, d=d)
    torch.testing.assert_close(out.value, expected)
    weights = list(critic.net.parameters())
    ours, theirs = (torch.autograd.grad(x, weights) for x in (out.value, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_a_network_may_end_in_an_axis_of_one() -> None:
    net = nn.Linear(3, 1)
    critic, s, y = MemoryCritic(net, ["s"]), torch.randn(6, 3), torch.randn(6)
    torch.testing.assert_close(critic.loss(s=s, y=y).value, 0.5 * (y - net(s).squeeze(-1)).square().mean())
    assert critic(State({"s": torch.randn(2, 4, 3)}, 2)).shape == (2, 4)
    assert len(list(critic.parameters())) == 2


def test_it_prints_what_it_learns() -> None:
    told = MemoryCritic(Flat(4), ["s"], "g", learns="transitions", share=0.1).loss
    assert repr(told) == (r"<Expression mean(E_{V = v(s,g), W = \bar v(s',g)}[Expectile{τ=0.1}[sg(c + d * W) - V]])>")
    assert repr(MemoryCritic(Flat(2), ["s"]).loss) == "<Expression mean(E_{V = v(s)}[Expectile{τ=0.5}[y - V]])>"


def chain(episodes: int = 400, steps: int = 30) -> tuple[Tensor, np.ndarray]:
    """A lazy walk on five places in a row, as one-hots, and its transition matrix."""
    P = np.zeros((5, 5))
    for i in range(5):
        for j in (i - 1, i + 1):
            P[i, min(max(j, 0), 4)] += 0.5
    rng, at = np.random.default_rng(0), np.random.default_rng(1).integers(0, 5, episodes)
    walks = [at]
    for _ in range(steps - 1):
        at = np.array([rng.choice(5, p=P[i]) for i in at])
        walks.append(at)
    return nn.functional.one_hot(torch.as_tensor(np.stack(walks, 1)), 5).float(), P


COST = torch.tensor([0.0, 1.0, 3.0, 0.5, 2.0])


@pytest.mark.slow
def test_it_learns_the_discounted_sum_of_a_chain() -> None:
    """V = (I − γ P)⁻¹ P c, by linear algebra."""
    s, P = chain()
    memory, gamma, held_out = Recollection(), 0.6, Recollection()
    memory.write(State({"s": s[:300]}, 2), s[:300] @ COST)
    held_out.write(State({"s": s[300:]}, 2), s[300:] @ COST)
    expected = np.linalg.solve(np.eye(5) - gamma * P, P @ COST.numpy())
    critic = MemoryCritic(Table(5), ["s"], learns="transitions", slow_rate=0.1)
    judged, whole = MemoryCritic(critic.net, ["s"]).loss, held_out.returns(2000, discount=gamma)
    at_first = judged(**whole).value.item()
    fit(
        critic.loss, lambda: memory.transitions(512, discount=gamma, steps=3, lam=0.7), batch=512, steps=800, lr=0.03,
        schedule="cosine",
    )  # fmt: skip
    np.testing.assert_allclose(critic.net.values.detach(), expected, atol=0.12)
    assert judged(**whole).value.item() < 0.5 * at_first  # of episodes that it has not seen
    pair = MemoryCritic(Table(5), ["s"])
    fit(pair.loss, lambda: memory.pairs(512, 2), batch=512, steps=400, lr=0.05, schedule="cosine")
    np.testing.assert_allclose(pair.net.values.detach(), P @ P @ COST.numpy(), atol=0.15)


@pytest.mark.slow
def test_with_goals_and_a_small_share_it_learns_the_shortest_way() -> None:
    """Of a walk at random: the mean of its steps is far more, the fewest are |i − j| − 1 behind the first step."""
    s, _ = chain()
    memory = Recollection()
    memory.write(State({"s": s}, 2))
    far = Hindsight(lambda states: 1 - (states["s"] * states["g"]).sum(-1), "s", "g", ahead=6.0, others=0.3)
    critic = MemoryCritic(Table(5, 5), ["s"], "g", learns="transitions", share=0.03, slow_rate=0.1)
    fit(
        critic.loss, lambda: memory.transitions(512, discount=1.0, goals=far), batch=512, steps=900, lr=0.03,
        schedule="cosine",
    )  # fmt: skip
    found = critic.net.values.detach().numpy()
    for i in range(5):
        for j in range(5):
            if i != j:
                assert found[i, j] == pytest.approx(abs(i - j) - 1, abs=0.35), (i, j)


def test_it_is_a_critic_of_a_cost() -> None:
    torch.manual_seed(0)

    class Add(nn.Module):
        def forward(self, s: Tensor, a: Tensor) -> Tensor:
            return s + a

    dynamics = PriorDynamics(Deterministic("s_t = f(s_{t-1}, a_{t-1})", Add(), shape=2))
    critic = MemoryCritic(Flat(4), ["s"], "goal", learns="transitions")
    states = State({"s": torch.randn(3, 4, 2), "goal": torch.randn(3, 1, 2).expand(-1, 4, -1)}, 2)
    cost = Cost(dynamics, {"far": Distance("s")}, {"later": critic}, {"later": 0.7})
    assert len(cost.learnt) == 2
    memory, goals = Recollection(), Hindsight(Distance("s"), "s")
    memory.write(State({"s": torch.randn(5, 9, 2)}, 2))

    def train(_: Cost) -> None:
        fit(critic.loss, lambda: memory.transitions(16, discount=0.9, goals=goals), batch=16, steps=5)

    check_cost(cost, states, {"a": torch.randn(3, 4, 2)}, train=train)
    torch.testing.assert_close(critic(states)[1, 2], critic(State({k: v[1, 2][None] for k, v in states.items()}))[0])


def test_what_is_wrong_is_refused() -> None:
    with pytest.raises(ConfigError, match="share in"):
        MemoryCritic(Flat(2), ["s"], share=1.0)
    with pytest.raises(ConfigError, match="expected features"):
        MemoryCritic(Flat(2), [])
    with pytest.raises(FormulaError, match="rename the variable y"):
        MemoryCritic(Flat(2), ["s"], "y")
    critic = MemoryCritic(Flat(4), ["s"], "goal")
    with pytest.raises(MissingInputError, match="and not goal\nof a plan"):
        critic(State({"s": torch.zeros(2, 2)}))
    with pytest.raises(ShapeError, match="expected a State"):
        critic({"s": torch.zeros(2, 2), "goal": torch.zeros(2, 2)})
