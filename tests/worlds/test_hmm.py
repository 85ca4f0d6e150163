"""A hidden Markov model: its likelihood and belief by hand, the laws of a world, and what a dream knows."""

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, logsumexp
from scipy.stats import bernoulli

from worldformula.errors import ConfigError
from worldformula.testing import check_world
from worldformula.worlds import hmm

B, T, X = 4, 6, 8
SIZES = {
    "bits": hmm.tiny(),
    "numbers": hmm.Sizes(X, 4, "numbers"),
    "actions": hmm.Sizes(X, 3, actions=2),
    "places": hmm.Sizes(X, 3, places=4),
    "all of it": hmm.Sizes(X, 3, "numbers", actions=2, places=4),
}


def batch(world):
    first = torch.zeros(B, T, dtype=torch.bool)
    first[1, 3] = True
    given = {"x": torch.rand(B, T, X).bernoulli(), "first": first, "a": torch.randn(B, T, 2)}
    return {k: v for k, v in given.items() if k in world.loss.program.inputs}


@pytest.mark.parametrize("name", SIZES)
def test_laws(name):
    torch.manual_seed(0)
    world = hmm.build(SIZES[name])
    for weight in world.parameters():
        torch.nn.init.normal_(weight)
    check_world(world, batch(world))


@pytest.mark.parametrize("name", SIZES)
def test_code_is_interpreter_and_a_step_lowers_the_loss(name):
    torch.manual_seed(0)
    world = hmm.build(SIZES[name]).double()
    data = {k: v if v.dtype is torch.bool else v.double() for k, v in batch(world).items()}
    values = [run(**data).value for run in (world.loss, world.loss.interpret)]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(v, list(world.parameters())) for v in values))
    optimiser = torch.optim.Adam(world.parameters(), lr=1e-3)
    before = world.loss(**data).value
    before.backward()
    optimiser.step()
    assert world.loss(**data).value < before


def by_hand(world, x, first):
    """−log p(x) and the beliefs of a row, by probabilities in NumPy."""
    moves = world.prior.factors[0].net
    table, start = (log_softmax(w.detach().numpy().astype(float), -1) for w in (moves.stay.rows, moves.first))
    rates = expit(world.heads["x"].net.loc.rows.detach().numpy().astype(float))
    total, beliefs, law = 0.0, [], None
    for row, begins in zip(x.numpy(), first.numpy(), strict=True):
        ahead = np.exp(start) if begins or law is None else law @ np.exp(table)
        own = ahead * np.exp(bernoulli.logpmf(row, rates).sum(-1))
        total += np.log(own.sum())
        law = own / own.sum()
        beliefs.append(law)
    return -total, np.stack(beliefs)


def test_likelihood_and_beliefs_by_hand():
    torch.manual_seed(1)
    world = hmm.build(hmm.Sizes(X, 5))
    for weight in world.parameters():
        torch.nn.init.normal_(weight)
    data = batch(world)
    want = [by_hand(world, x, first) for x, first in zip(data["x"], data["first"], strict=True)]
    assert world.loss(**data).value.item() == pytest.approx(np.mean([w[0] for w in want]), rel=1e-5)
    found = world.filter(data, seed=0)
    np.testing.assert_allclose(found["b"].detach().numpy(), np.stack([w[1] for w in want]), atol=1e-5)
    assert ((found["z"] == 0) | (found["z"] == 1)).all()


def test_what_cannot_be_seen_begins_no_sequence():
    """A number whose density is 0 in every state: there is no belief until the next sequence, where it was p(z_1)."""
    torch.manual_seed(5)
    world = hmm.build(SIZES["numbers"])
    for weight in world.parameters():
        torch.nn.init.normal_(weight)
    data = batch(world)
    data["first"][0, 4] = True
    whole = world.filter(data, seed=0)["b"]
    x = data["x"].clone()
    x[0, 2] = 1e25
    belief = world.filter({**data, "x": x}, seed=0)["b"]
    unknown = torch.zeros(B, T, dtype=torch.bool)
    unknown[0, 2:4] = True
    assert torch.equal(belief.isnan().all(-1), unknown)
    torch.testing.assert_close(belief[~unknown], whole[~unknown])
    assert world.loss(**{**data, "x": x}).value == torch.inf


def test_a_dream_from_nothing_begins_with_the_first_state():
    """Zeros are followed by p(z_1), and the state of a dream is known."""
    torch.manual_seed(2)
    world = hmm.build(hmm.Sizes(X, 3))
    moves = world.prior.factors[0].net
    with torch.no_grad():
        moves.first.copy_(torch.tensor([-20.0, 20.0, -20.0]))
        moves.stay.rows.copy_(40 * torch.roll(torch.eye(3), 1, 1))  # 0 → 1 → 2 → 0
    dream = world.imagine(world.initial(2), horizon=4, seed=0)
    assert dream["z"][:, 1:].argmax(-1).tolist() == [[1, 2, 0, 1]] * 2
    torch.testing.assert_close(dream["b"][:, 1:], dream["z"][:, 1:])
    rates = world.decode(dream)["x"][:, 1]
    torch.testing.assert_close(rates, moves_of(world).loc.rows[1].sigmoid().expand(2, X))


def moves_of(world):
    """The network of what is seen."""
    return world.heads["x"].net


def test_places_are_mixtures_that_may_change():
    """With transitions that keep the state it is a mixture of products over the whole row of steps."""
    torch.manual_seed(4)
    world = hmm.build(hmm.Sizes(3, 2, places=4))
    with torch.no_grad():
        world.prior.factors[0].net.stay.rows.copy_((60 * torch.eye(2)).expand(4, 2, 2))
    x = torch.rand(5, 4, 3).bernoulli()
    rates = expit(world.heads["x"].net.loc.rows.detach().double().numpy())  # [4, 2, 3]
    each = bernoulli.logpmf(x.numpy()[:, :, None], rates[None]).sum((1, 3))
    found = world.loss(x=x, first=torch.zeros(5, 4, dtype=torch.bool)).value
    assert found.item() == pytest.approx(-np.mean(logsumexp(each - np.log(2), -1)), rel=1e-5)


def test_more_states_explain_more_after_learning():
    """Rows that alternate between two patterns: with two states the chain knows which comes next."""
    torch.manual_seed(3)
    world = hmm.build(hmm.Sizes(4, 2))
    pattern = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]])
    x = pattern.repeat(3, 1)[None].expand(8, 6, 4)
    given = {"x": x, "first": torch.zeros(8, 6, dtype=torch.bool)}
    optimiser = torch.optim.Adam(world.parameters(), lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        loss = world.loss(**given).value
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.5  # nats of a sequence; without time each of its 6 rows is a coin, 6 log 2
    assert logsumexp(log_softmax(world.prior.factors[0].net.stay.rows.detach().numpy(), -1).max(-1)) > -0.1


def test_sizes_are_checked():
    with pytest.raises(ConfigError, match="states ≥ 2"):
        hmm.Sizes(8, 1)
    with pytest.raises(ConfigError, match="'bits' or 'numbers'"):
        hmm.Sizes(8, 3, "words")
