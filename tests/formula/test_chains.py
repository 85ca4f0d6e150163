"""Discrete chains through time against every path of theirs, summed one by one in NumPy, and a forward pass by hand."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp
from scipy.stats import norm, poisson
from torch import nn
from torch.func import functional_call, grad, vmap

from tests.formula.defects.both import PATHS, finite_gradients, refused, run
from worldformula import (
    KL,
    Bernoulli,
    Categorical,
    Chain,
    Deterministic,
    E,
    Evidence,
    Filtered,
    Normal,
    OneHot,
    Poisson,
    Smoothed,
    Sum,
    Symbol,
    Uniform,
    Value,
    Viterbi,
    exp,
    log,
    sg,
    total,
)
from worldformula.errors import FormulaError, NoClosedFormError, TimeError, UnknownVariableError
from worldformula.formula.graph.graph import graph
from worldformula.formula.ops import recursions
from worldformula.formula.ops.posterior import drawn_states

K = 3


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


# ------------------------------------------------------------------------------------------------------- the witnesses


def numbers(x):
    return x.detach().numpy().astype(np.float64)


def affine(net, x):
    """A linear layer in NumPy."""
    return x @ numbers(net.weight).T + (0 if net.bias is None else numbers(net.bias))


def every_path(first, pairs, own):
    """log p of every path of a row: ``first`` [S] of z_1, ``pairs`` [T, S, S] into each step, ``own`` [T, S]."""
    steps, states = own.shape
    found = {}
    for path in itertools.product(range(states), repeat=steps):
        total = first[path[0]] + own[0][path[0]]
        for t in range(1, steps):
            total += pairs[t][path[t - 1], path[t]] + own[t][path[t]]
        found[path] = total
    return found


def brute(first, pairs, own):
    """Evidence, filtered and smoothed laws and the best path of a row, from all its paths."""
    steps, states = own.shape
    paths = every_path(first, pairs, own)
    evidence = logsumexp(list(paths.values()))
    smooth, seen = np.zeros((steps, states)), np.zeros((steps, states))
    for path, value in paths.items():
        for t, state in enumerate(path):
            smooth[t, state] += np.exp(value - evidence)
    for t in range(steps):
        ended = every_path(first, pairs[: t + 1], own[: t + 1])
        whole = logsumexp(list(ended.values()))
        for path, value in ended.items():
            seen[t, path[-1]] += np.exp(value - whole)
    return evidence, seen, smooth, max(paths, key=paths.get)


def forward(first, pairs, own):
    """The evidence of a long row by scaled sums, in NumPy: probabilities, not logarithms."""
    law, total = np.exp(first), 0.0
    for t, densities in enumerate(own):
        law = law if t == 0 else law @ np.exp(pairs[t])
        top = densities.max()
        law = law * np.exp(densities - top)
        total += np.log(law.sum()) + top
        law = law / law.sum()
    return total


def normal(params, x):
    """log N(x; params) of the last axis, its first half means, the other softplus of the head."""
    loc, raw = np.split(params, 2, -1)
    return norm.logpdf(x, loc, np.logaddexp(raw, 0)).sum(-1)


def gaussian(states=K, dims=2):
    """A chain of Normals that begins with p(z_1), and its tables of a series."""
    trans = OneHot("p(z_t|z_{t-1})", nn.Linear(states, states), shape=states)
    emit = Normal("p(x_t|z_t)", nn.Linear(states, 2 * dims), shape=dims)
    start = OneHot("p(z_1)", nn.Parameter(torch.randn(states)), shape=states)

    def tables(x):
        pairs = log_softmax(affine(trans.net, np.eye(states)), -1)
        own = np.stack([normal(affine(emit.net, np.eye(states)), row) for row in numbers(x)[:, None]])
        return log_softmax(numbers(start.head()), -1), np.stack([pairs] * len(x)), own

    return (trans, emit, start), tables


# --------------------------------------------------------------------------------------------------- values, all exact


@PATHS
def test_evidence_and_posteriors_are_those_of_all_paths(path):
    (trans, emit, start), tables = gaussian()
    hmm = Chain("t", trans * emit, over="z", initial=start)
    x = torch.randn(4, 5, 2)
    want = [brute(*tables(row)) for row in x]
    assert run(Evidence(hmm), path, x=x).value.tolist() == pytest.approx([w[0] for w in want], abs=1e-10)
    for kind, place in ((Filtered, 1), (Smoothed, 2)):
        found = numbers(run(kind(hmm), path, x=x).value)
        np.testing.assert_allclose(found, np.stack([w[place] for w in want]), atol=1e-10)
    best = run(Viterbi(hmm), path, x=x).value
    assert best.shape == (4, 5, K)
    assert best.argmax(-1).tolist() == [list(w[3]) for w in want]


def test_a_single_step():
    (trans, emit, start), tables = gaussian()
    hmm = Chain("t", trans * emit, over="z", initial=start)
    x = torch.randn(2, 1, 2)
    want = [brute(*tables(row)) for row in x]
    assert Evidence(hmm)(x=x).value.tolist() == pytest.approx([w[0] for w in want])
    np.testing.assert_allclose(numbers(Smoothed(hmm)(x=x).value), np.stack([w[2] for w in want]), atol=1e-12)


@PATHS
def test_a_start_before_the_first_step(path):
    """p(z_0): z_1 follows it by the transition."""
    (trans, emit, _), tables = gaussian()
    zeroth = OneHot("p(z_0)", nn.Parameter(torch.randn(K)), shape=K)
    hmm = Chain("t", trans * emit, over="z_t", initial=zeroth)
    x = torch.randn(3, 4, 2)
    for row, found, smooth, best in zip(
        x, run(Evidence(hmm), path, x=x).value, Smoothed(hmm)(x=x).value, Viterbi(hmm)(x=x).value, strict=True
    ):
        _, pairs, own = tables(row)
        before = log_softmax(numbers(zeroth.head()), -1)
        first = logsumexp(before[:, None] + pairs[0], 0)
        want = brute(first, pairs, own)
        assert found.item() == pytest.approx(want[0], abs=1e-10)
        np.testing.assert_allclose(numbers(smooth), want[2], atol=1e-10)
        ahead = brute((before[:, None] + pairs[0]).max(0), pairs, own)  # the best z_0 for each z_1
        assert best.argmax(-1).tolist() == list(ahead[3])


@PATHS
def test_inputs_and_autoregression(path):
    """p(z_t|z_{t-1},u_t), p(x_t|z_t,x_{t-1}), p(z_1|u_1): all of data, and x_0 is zeros."""
    trans = Categorical("p(z_t|z_{t-1},u_t)", Reads(K, K), shape=(), classes=K)
    emit = Normal("p(x_t|z_t,x_{t-1})", Reads(4, 2, 2), shape=2)
    start = Categorical("p(z_1|u_1)", nn.Linear(2, K), shape=(), classes=K)
    hmm = Chain("t", trans * emit, over="z", initial=start)
    x, u = torch.randn(3, 5, 2), torch.randn(3, 5, 2)
    want = []
    for row, put in zip(x, u, strict=True):
        pairs = np.stack([log_softmax(trans.net.table(numbers(v)), -1) for v in put])
        before = np.concatenate([np.zeros((1, 2)), numbers(row)[:-1]])
        own = np.stack([normal(emit.net.table(b), v) for b, v in zip(before, numbers(row), strict=True)])
        want.append(brute(log_softmax(affine(start.net, numbers(put[0]))), pairs, own))
    assert run(Evidence(hmm), path, x=x, u=u).value.tolist() == pytest.approx([w[0] for w in want], abs=1e-10)
    np.testing.assert_allclose(
        numbers(run(Smoothed(hmm), path, x=x, u=u).value), np.stack([w[2] for w in want]), atol=1e-10
    )
    assert run(Viterbi(hmm), path, x=x, u=u).value.tolist() == [list(w[3]) for w in want]


class Reads(nn.Module):
    """A head of a class and two numbers: rows of a table, and a linear layer."""

    def __init__(self, width, states=K, read=2):
        super().__init__()
        self.rows, self.line = nn.Embedding(K, width), nn.Linear(read, width)

    def forward(self, z, u):
        return self.rows(z) + self.line(u)

    def table(self, u):
        return numbers(self.rows.weight) + affine(self.line, u)


@PATHS
def test_states_of_bits(path):
    """Two bits are four values, in the order of the support: 00, 01, 10, 11."""
    trans = Bernoulli("p(b_t|b_{t-1})", nn.Linear(2, 2), shape=2)
    emit = Poisson("p(n_t|b_t)", nn.Linear(2, 1), shape=1)
    start = Bernoulli("p(b_1)", nn.Parameter(torch.randn(2)), shape=2)
    hmm = Chain("t", trans * emit, over="b", initial=start)
    bits = np.array(list(itertools.product([0.0, 1.0], repeat=2)))
    order = numbers(trans.family.support((2,)))
    assert sorted(map(tuple, order)) == sorted(map(tuple, bits))

    def law(logits):  # [2] -> [4]
        return np.array(
            [sum(-np.logaddexp(0, -v if b else v) for b, v in zip(row, logits, strict=True)) for row in order]
        )

    pair = np.stack([law(affine(trans.net, row)) for row in order])
    n = torch.poisson(torch.full((2, 4, 1), 2.0))
    rates = np.stack([affine(emit.net, row) for row in order])[:, 0]
    rates = numbers(emit.family.params(torch.as_tensor(rates)[:, None], (1,), {})[0])[:, 0]
    want = [
        brute(law(numbers(start.head())), np.stack([pair] * 4), poisson.logpmf(numbers(row), rates[None])) for row in n
    ]
    assert run(Evidence(hmm), path, n=n).value.tolist() == pytest.approx([w[0] for w in want], abs=1e-8)
    np.testing.assert_allclose(numbers(Smoothed(hmm)(n=n).value), np.stack([w[2] for w in want]), atol=1e-8)
    assert numbers(Viterbi(hmm)(n=n).value).tolist() == [[order[s].tolist() for s in w[3]] for w in want]


@PATHS
def test_two_chains_in_one_formula(path):
    """A factorial HMM: the states of both chains together are one state of K·M values."""
    M = 2
    a = OneHot("p(a_t|a_{t-1})", nn.Linear(K, K), shape=K)
    b = Categorical("p(b_t|b_{t-1})", nn.Embedding(M, M), shape=(), classes=M)
    emit = Normal("p(x_t|a_t,b_t)", Both(M), shape=1)
    begin = OneHot("p(a_1)", nn.Parameter(torch.randn(K)), shape=K) * Categorical(
        "p(b_1)", nn.Parameter(torch.randn(M)), shape=(), classes=M
    )
    chain = Chain("t", a * b * emit, over=("a", "b"), initial=begin)
    x = torch.randn(2, 4, 1)
    log_a = log_softmax(affine(a.net, np.eye(K)), -1)
    log_b = log_softmax(numbers(b.net.weight), -1)
    pair = (log_a[:, None, :, None] + log_b[None, :, None, :]).reshape(K * M, K * M)
    firsts = [log_softmax(numbers(f.head())) for f in begin.factors]
    first = (firsts[0][:, None] + firsts[1][None]).reshape(-1)
    heads = np.stack(
        [affine(emit.net.a, np.eye(K))[i] + numbers(emit.net.b.weight)[j] for i in range(K) for j in range(M)]
    )
    want = [brute(first, np.stack([pair] * 4), np.stack([normal(heads, v) for v in numbers(row)])) for row in x]
    assert run(Evidence(chain), path, x=x).value.tolist() == pytest.approx([w[0] for w in want], abs=1e-10)
    both = np.stack([w[2] for w in want]).reshape(2, 4, K, M)
    np.testing.assert_allclose(numbers(run(Smoothed(chain, "a"), path, x=x).value), both.sum(-1), atol=1e-10)
    np.testing.assert_allclose(numbers(run(Smoothed(chain, "b"), path, x=x).value), both.sum(-2), atol=1e-10)
    assert Viterbi(chain, "a")(x=x).value.argmax(-1).tolist() == [[s // M for s in w[3]] for w in want]
    assert Viterbi(chain, "b")(x=x).value.tolist() == [[s % M for s in w[3]] for w in want]


class Both(nn.Module):
    """A head of two states."""

    def __init__(self, other):
        super().__init__()
        self.a, self.b = nn.Linear(K, 2), nn.Embedding(other, 2)

    def forward(self, a, b):
        return self.a(a) + self.b(b)


@PATHS
@pytest.mark.parametrize("zeroth", [True, False])
def test_a_state_of_one_step_and_data_that_read_two(path, zeroth):
    """c_t, which nothing remembers, is summed in its step; x_t may read z_{t-1} where the chain begins with z_0."""
    trans = OneHot("p(z_t|z_{t-1})", nn.Linear(K, K), shape=K)
    label = Categorical("p(c_t|z_t)", nn.Linear(K, 2), shape=(), classes=2)
    emit = Normal("p(x_t|c_t)", nn.Embedding(2, 2), shape=1)
    two = Normal(
        "p(y_t|z_t,z_{t-1})", lambda z, before: torch.cat([z[..., :1] - before[..., 1:2], z[..., :1]], -1), shape=1
    )
    start = OneHot("p(z_0)" if zeroth else "p(z_1)", nn.Parameter(torch.randn(K)), shape=K)
    product = trans * label * emit * two if zeroth else trans * label * emit
    chain = Chain("t", product, over=("z", "c"), initial=start)
    x, y = torch.randn(2, 4, 1), torch.randn(2, 4, 1)
    log_z, log_c = log_softmax(affine(trans.net, np.eye(K)), -1), log_softmax(affine(label.net, np.eye(K)), -1)
    begin = log_softmax(numbers(start.head()), -1)
    head = np.array([[[np.eye(K)[j, 0] - np.eye(K)[i, 1], np.eye(K)[j, 0]] for j in range(K)] for i in range(K)])
    want = []
    for row, more in zip(numbers(x), numbers(y), strict=True):
        own = np.stack([logsumexp(log_c + normal(numbers(emit.net.weight), v)[None], 1) for v in row])
        pairs = np.stack([log_z + (normal(head, v) if zeroth else 0) for v in more])
        want.append(brute(logsumexp(begin[:, None] + pairs[0], 0) if zeroth else begin, pairs, own))
    given = {"x": x, "y": y} if zeroth else {"x": x}
    assert run(Evidence(chain), path, **given).value.tolist() == pytest.approx([w[0] for w in want], abs=1e-10)
    np.testing.assert_allclose(
        numbers(run(Smoothed(chain, "z"), path, **given).value), np.stack([w[2] for w in want]), atol=1e-10
    )


def test_drawn_paths_have_the_law_of_the_posterior():
    """Every path as often as its probability says: within four standard errors, resets included."""
    (trans, emit, start), tables = gaussian(2)
    hmm = Chain("t", trans * emit, over="z", initial=start, reset="first")
    x, draws = torch.randn(1, 4, 2), 20000
    first = torch.tensor([[False, False, True, False]])
    found = drawn_states(hmm, seed=0, x=x.expand(draws, 4, 2), first=first.expand(draws, 4))["z"]
    assert found.shape == (draws, 4, 2)
    begin, pairs, own = tables(x[0])
    halves = [every_path(begin, pairs[a:b], own[a:b]) for a, b in ((0, 2), (2, 4))]
    joint = {p + q: v + w for p, v in halves[0].items() for q, w in halves[1].items()}
    total = logsumexp(list(joint.values()))
    counts = dict.fromkeys(joint, 0)
    for path in found.argmax(-1).tolist():
        counts[tuple(path)] += 1
    for path, value in joint.items():
        p = np.exp(value - total)
        assert abs(counts[path] / draws - p) < 4 * np.sqrt(p * (1 - p) / draws) + 1e-4, path
    again = drawn_states(hmm, seed=0, x=x.expand(draws, 4, 2), first=first.expand(draws, 4))["z"]
    assert torch.equal(found, again)


# --------------------------------------------------------------------------------------------------- flags and calls


@PATHS
@pytest.mark.parametrize("zeroth", [True, False])
def test_resets_begin_a_new_sequence(path, zeroth):
    (trans, emit, start), _ = gaussian()
    start = OneHot("p(z_0)", nn.Parameter(torch.randn(K)), shape=K) if zeroth else start
    whole = Chain("t", trans * emit, over="z", initial=start, reset="first")
    alone = Chain("t", trans * emit, over="z", initial=start)
    x, first = torch.randn(2, 7, 2), torch.zeros(2, 7, dtype=torch.bool)
    first[0, 3] = first[1, 0] = first[1, 5] = True
    cuts = [(0, 3, 7), (0, 5, 7)]
    pieces = [[row[None, a:b] for a, b in itertools.pairwise(cut)] for row, cut in zip(x, cuts, strict=True)]
    want = [sum(Evidence(alone)(x=p).value.item() for p in parts) for parts in pieces]
    assert run(Evidence(whole), path, x=x, first=first).value.tolist() == pytest.approx(want, abs=1e-10)
    for kind in (Filtered, Smoothed, Viterbi):
        found = run(kind(whole), path, x=x, first=first).value
        parts = [torch.cat([kind(alone)(x=p).value for p in row], 1) for row in pieces]
        torch.testing.assert_close(found, torch.cat(parts), atol=1e-10, rtol=0)


@PATHS
def test_starts_at_resets_read_their_own_row(path):
    trans = OneHot("p(z_t|z_{t-1})", nn.Linear(K, K), shape=K)
    emit = Normal("p(x_t|z_t)", nn.Linear(K, 4), shape=2)
    start = OneHot("p(z_1|x_1)", nn.Linear(2, K), shape=K)
    x, first = torch.randn(2, 6, 2), torch.zeros(2, 6, dtype=torch.bool)
    first[:, 4] = True
    whole = Evidence(Chain("t", trans * emit, over="z", initial=start, reset="first"))
    alone = Evidence(Chain("t", trans * emit, over="z", initial=start))
    want = alone(x=x[:, :4]).value + alone(x=x[:, 4:]).value
    torch.testing.assert_close(run(whole, path, x=x, first=first).value, want, atol=1e-10, rtol=0)


@PATHS
def test_steps_that_do_not_count_are_not_seen(path):
    """What was not seen is summed out: its emission is 1, and the state moves on. At the end it is a shorter row."""
    (trans, emit, start), tables = gaussian()
    hmm = Chain("t", trans * emit, over="z", initial=start, mask="valid")
    plain = Chain("t", trans * emit, over="z", initial=start)
    x, valid = torch.randn(2, 5, 2), torch.ones(2, 5, dtype=torch.bool)
    valid[0, 2] = valid[1, 3] = valid[1, 4] = False
    first, pairs, own = tables(x[0])
    own[2] = 0
    gap = brute(first, pairs, own)
    x[0, 2], x[1, 3:] = torch.nan, torch.inf
    value = run(Evidence(hmm), path, x=x, valid=valid).value
    assert value[0].item() == pytest.approx(gap[0], abs=1e-10)
    assert value[1].item() == pytest.approx(Evidence(plain)(x=x[1:, :3]).value.item(), abs=1e-10)
    np.testing.assert_allclose(numbers(run(Smoothed(hmm), path, x=x, valid=valid).value[0]), gap[2], atol=1e-10)
    loss = Evidence(hmm)
    finite_gradients(loss(x=x, valid=valid).value, loss)


def test_until_is_a_shorter_row():
    (trans, emit, start), _ = gaussian()
    hmm = Chain("t", trans * emit, over="z", initial=start, until="last")
    x, last = torch.randn(2, 5, 2), torch.zeros(2, 5, dtype=torch.bool)
    last[:, 2] = True
    want = Evidence(Chain("t", trans * emit, over="z", initial=start))(x=x[:, :3]).value
    torch.testing.assert_close(Evidence(hmm)(x=x, last=last).value, want)


@PATHS
def test_it_goes_on_from_the_last_law(path):
    """The chain rule: log p(x_{1:T}) = log p(x_{1:k}) + log p(x_{k+1:T}|x_{1:k})."""
    (trans, emit, start), _ = gaussian()
    loss = Evidence(Chain("t", trans * emit, over="z", initial=start))
    x = torch.randn(2, 6, 2)
    begun = run(loss, path, x=x[:, :2])
    rest = run(loss, path, x=x[:, 2:], start=begun.last)
    torch.testing.assert_close(begun.value + rest.value, loss(x=x).value)
    torch.testing.assert_close(rest.last["alpha_z"].exp(), Filtered(loss.node.chain)(x=x).value[:, -1])


class Joined(nn.Linear):
    """A linear layer of all that it is given."""

    def forward(self, *given):
        return super().forward(torch.cat(given, -1))


@PATHS
@pytest.mark.parametrize("flags", [{}, {"reset": "first"}, {"mask": "first"}])
def test_several_draws_around_it_have_a_law_each(path, flags):
    """The evidence given s, of K draws, of every value, and of one: transitions, data and starts that read it."""
    s, given = Normal("q(s|c)", nn.Linear(2, 2), shape=1), OneHot("q(s|c)", nn.Linear(2, 1), shape=1)
    moving, seen = (
        OneHot("p(z_t|z_{t-1},s)", Joined(K + 1, K), shape=K),
        Normal("p(x_t|z_t,s)", Joined(K + 1, 4), shape=2),
    )
    chain = Chain("t", moving * seen, over="z", initial=OneHot("p(z_1|s)", nn.Linear(1, K), shape=K), **flags)
    known = Evidence(chain)
    data = {"x": torch.randn(2, 4, 2)} | ({"first": (torch.rand(2, 4) < 0.5).float()} if flags else {})
    c, noise = torch.randn(2, 2), torch.randn(3, 2, 1)
    draws = s.net(c)[:, :1] + torch.nn.functional.softplus(s.net(c)[:, 1:]) * noise
    each = torch.stack([known(s=draw, **data).value for draw in draws])
    bound = log(E(s, exp(known), samples=3))
    expected = each.logsumexp(0) - np.log(3)
    found = run(bound, path, c=c, noise={"s": noise}, **data).value
    torch.testing.assert_close(found, expected)
    weights = list(bound.parameters())
    for a, b in zip(*(torch.autograd.grad(v.sum(), weights) for v in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)
    every = run(E(given, known, gradient="exact"), path, c=c, **data).value
    torch.testing.assert_close(every, known(s=torch.ones(2, 1), **data).value)
    mean = E(s, known, samples=3)
    if not flags:
        head = mean(x=data["x"][:, :2], c=c, noise={"s": noise})
        tail = mean(x=data["x"][:, 2:], c=c, noise={"s": noise}, start=head.last)
        assert head.last["alpha_z"].shape == (2, 3, K)
        torch.testing.assert_close(head.value + tail.value, each.mean(0))


def test_the_score_of_a_draw_around_it_is_that_of_all_steps():
    """E over a coin of the evidence given it: both its values with their probabilities, by their draws."""
    logits = torch.tensor([[0.4], [-0.7]], requires_grad=True)
    coin = Bernoulli("q(s|c)", nn.Identity(), shape=1)
    seen = Normal("p(x_t|z_t,s)", Joined(K + 1, 4), shape=2)
    known = Evidence(Chain("t", z() * seen, over="z", initial=first()))
    data, found = torch.randn(2, 4, 2), torch.zeros(2, 1)
    values = [known(x=data, s=torch.full((2, 1), v)).value for v in (0.0, 1.0)]
    for value, noise in ((0.0, 1 - 1e-6), (1.0, 1e-6)):
        out = E(coin, known, gradient="score")(x=data, c=logits, noise={"s": torch.full((2, 1), noise)})
        share = torch.distributions.Bernoulli(logits=logits).log_prob(torch.tensor(value)).exp().detach()
        torch.testing.assert_close(out.value, values[int(value)])
        found += share * torch.autograd.grad(out.value.sum(), logits)[0]
    p = logits.sigmoid()
    expected = (p * (1 - p)).detach() * (values[1] - values[0]).detach()[:, None]
    torch.testing.assert_close(found, expected)


@PATHS
def test_a_path_goes_on_from_the_last_law(path):
    """The most probable states of the rest, and of the step before them by its law: of all such paths, one by one."""
    (trans, emit, start), tables = gaussian()
    with torch.no_grad():
        trans.net.weight.mul_(4)  # what follows depends on the state before
    hmm = Chain("t", trans * emit, over="z", initial=start)
    x = torch.randn(12, 5, 2)
    last = Evidence(hmm)(x=x[:, :2]).last
    found = run(Viterbi(hmm), path, x=x[:, 2:], start=last).value.argmax(-1)
    for row, law, states in zip(x[:, 2:], numbers(last["alpha_z"]), found, strict=True):
        _, pairs, own = tables(row)

        def worth(states, law=law, pairs=pairs, own=own):
            steps = enumerate(itertools.pairwise(states))
            return law[states[0]] + sum(pairs[t][i, j] + own[t][j] for t, (i, j) in steps)

        best = max(itertools.product(range(K), repeat=4), key=worth)
        assert list(best[1:]) == states.tolist()


@PATHS
def test_rows_that_lack_a_modality(path):
    (trans, emit, start), _ = gaussian()
    other = Normal("p(y_t|z_t)", nn.Linear(K, 2), shape=1)
    both = Evidence(Chain("t", trans * emit * other, over="z", initial=start))
    one = Evidence(Chain("t", trans * emit, over="z", initial=start))
    x, y, has = torch.randn(2, 4, 2), torch.randn(2, 4, 1), torch.tensor([True, False])
    found = run(
        both, path, x=x, y=torch.where(has[:, None, None], y, torch.nan), present={"y": has[:, None].expand(2, 4)}
    ).value
    torch.testing.assert_close(found, torch.stack([both(x=x, y=y).value[0], one(x=x).value[1]]))


@PATHS
@pytest.mark.parametrize("swapped", [False, True])
def test_steps_may_lack_any_of_what_is_seen(path, swapped):
    """Whichever factor stands first, and tells the batch: what is not there has no part in the forward recursion."""
    (trans, emit, start), _ = gaussian()
    other = Normal("p(y_t|z_t)", nn.Linear(K, 2), shape=1)
    seen = (other, emit) if swapped else (emit, other)
    both = Evidence(Chain("t", trans * seen[0] * seen[1], over="z", initial=start))
    data = {"x": torch.randn(2, 4, 2), "y": torch.randn(2, 4, 1)}
    has = {"x": torch.rand(2, 4) < 0.5, "y": torch.rand(2, 4) < 0.5}
    hidden = {k: torch.where(has[k][..., None], v, torch.nan) for k, v in data.items()}
    states = torch.eye(K)
    law = start.log_prob(z_1=states)[None]
    for t in range(4):
        own = torch.zeros(2, K)
        for key, p in (("x", emit), ("y", other)):
            density = torch.stack([p.log_prob(**{key: data[key][:, t], "z": z.expand(2, K)}) for z in states], 1)
            own = own + torch.where(has[key][:, t, None], density, 0.0)
        law = law + own
        if t < 3:
            table = trans.net(states).log_softmax(-1)
            law = (law[:, :, None] + table).logsumexp(1)
    found = run(both, path, present=has, **hidden).value
    torch.testing.assert_close(found, law.logsumexp(1))


@PATHS
def test_a_latent_around_it_and_a_memory_of_data(path):
    """E_q(s|x_{1:T}) of the evidence given s, and a transition that reads h_t = f(h_{t-1}, u_t)."""
    trans = OneHot("p(z_t|z_{t-1},h_t)", lambda z, h: z * 2 + h, shape=K)
    emit = Normal("p(x_t|z_t,s)", lambda z, s: torch.cat([z[..., :1] + s, z[..., 1:2]], -1), shape=1)
    core = Deterministic("h_t = f(h_{t-1}, u_t)", lambda h, u: (h + u).tanh(), shape=K)
    start = OneHot("p(z_1)", shape=K)
    q, prior = Normal("q(s|v)", nn.Linear(2, 2), shape=1), Normal("p(s)", shape=1)
    chain = Chain("t", core * trans * emit, over="z", initial=start)
    loss = KL(q, prior) - E(q, Evidence(chain))
    x, u, v = torch.randn(2, 4, 1), torch.randn(2, 4, K), torch.randn(2, 2)
    noise = loss.noise(x=x, u=u, v=v)
    found = run(loss, path, x=x, u=u, v=v, noise=noise)
    s, kl = numbers(found.samples["s"]), numbers(KL(q, prior)(v=v).value)
    for row in range(2):
        h, pairs, own = np.zeros(K), [], []
        for t in range(4):
            h = np.tanh(h + numbers(u[row, t]))
            pairs.append(log_softmax(2 * np.eye(K) + h, -1))
            heads = np.stack([np.eye(K)[:, 0] + s[row], np.eye(K)[:, 1]], -1)
            own.append(normal(heads, numbers(x[row, t])))
        want = brute(np.full(K, -np.log(K)), np.stack(pairs), np.stack(own))[0]
        assert found.value[row].item() == pytest.approx(kl[row] - want, abs=1e-10)


class Adds(nn.Module):
    """A head [N, 4] of a state and what is added to the means."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(K, 4)

    def forward(self, z, s):
        return self.line(z) + torch.cat([s, 0 * s], -1)


@PATHS
def test_several_draws_and_values_around_it(path):
    """log E over K draws of s, and all values of c, of the evidence given both: an IWAE, and a mixture of chains."""
    trans = OneHot("p(z_t|z_{t-1},c)", lambda z, c: 2 * z * (1 + c.unsqueeze(-1)), shape=K)
    emit = Normal("p(x_t|z_t,s)", Adds(), shape=2)
    start = OneHot("p(z_1|s)", nn.Linear(2, K), shape=K)
    q, mix = Normal("q(s|v)", nn.Linear(2, 4), shape=2), Categorical("p(c|v)", nn.Linear(2, 2), shape=(), classes=2)
    evidence = Evidence(Chain("t", trans * emit, over="z", initial=start, mask="valid"))
    loss = log(E(q, E(mix, exp(evidence), "exact"), samples=5))
    x, v, valid = torch.randn(3, 4, 2), torch.randn(3, 2), torch.ones(3, 4, dtype=torch.bool)
    valid[1, 2:] = False
    noise = loss.noise(x=x, v=v, valid=valid)
    found = run(loss, path, x=x, v=v, valid=valid, noise=noise)
    s = found.samples["s"]
    assert s.shape == (5, 3, 2)
    both = [(k, torch.full((3,), c)) for k in range(5) for c in range(2)]
    each = torch.stack([evidence(x=x, s=s[k], c=c, valid=valid).value for k, c in both]).unflatten(0, (5, 2))
    shares = torch.log_softmax(mix.net(v), -1).T
    want = (each + shares).logsumexp(1).logsumexp(0) - np.log(5)
    torch.testing.assert_close(found.value, want)
    finite_gradients(found.value, loss)


@PATHS
@pytest.mark.parametrize("K", [None, 4])
def test_a_chain_over_latents_that_are_drawn_at_every_step(path, K):
    """A VAE whose prior is a chain: E over whole trajectories of s, of the evidence of the chain and of the data."""
    (trans, _, start), _ = gaussian()
    emit = Normal("p(s_t|z_t)", nn.Linear(3, 4), shape=2)
    q, decode = Normal("q(s_t|x_t)", nn.Linear(5, 4), shape=2), Normal("p(x_t|s_t)", nn.Linear(2, 10), shape=5)
    evidence = Evidence(Chain("t", trans * emit, over="z", initial=start))
    bound, x = Sum("t", log(decode) - log(q)), torch.randn(2, 4, 5)
    for body in (evidence, bound + evidence):
        loss = E(q, body, samples=K)
        noise = loss.noise(x=x)
        found = run(loss, path, x=x, noise=noise)
        s = found.samples["s"]
        assert s.shape == ((2, 4, 2) if K is None else (K, 2, 4, 2))
        draws = [s] if K is None else list(s)
        given = [{"s": each} if body is evidence else {"s": each, "x": x} for each in draws]
        torch.testing.assert_close(found.value, sum(body(**each).value for each in given) / len(draws))


@PATHS
def test_all_data_may_read_the_state_before(path):
    trans = OneHot("p(z_t|z_{t-1})", nn.Linear(K, K), shape=K)
    emit = Normal("p(x_t|z_{t-1})", nn.Linear(K, 2), shape=1)
    start = OneHot("p(z_0)", nn.Parameter(torch.randn(K)), shape=K)
    x = torch.randn(2, 4, 1)
    pair, heads = log_softmax(affine(trans.net, np.eye(K)), -1), affine(emit.net, np.eye(K))
    begin, want = log_softmax(numbers(start.head())), []
    for row in numbers(x):
        pairs = np.stack([normal(heads, v)[:, None] + pair for v in row])
        want.append(brute(logsumexp(begin[:, None] + pairs[0], 0), pairs, np.zeros((4, K)))[0])
    loss = Evidence(Chain("t", trans * emit, over="z", initial=start))
    assert run(loss, path, x=x).value.tolist() == pytest.approx(want, abs=1e-10)


@PATHS
def test_beside_a_sum_with_its_clock(path):
    (trans, emit, start), _ = gaussian()
    evidence = Evidence(Chain("t", trans * emit, over="z", initial=start))
    own = Sum("t", log(Normal("p(x_t)", shape=2)))
    x = torch.randn(2, 4, 2)
    torch.testing.assert_close(run(evidence - 2 * own, path, x=x).value, evidence(x=x).value - 2 * own(x=x).value)


@PATHS
@pytest.mark.parametrize("chain_first", [True, False])
def test_beside_a_sum_that_leaves_out_its_first_steps(path, chain_first):
    """The burn-in is the Sum's own: the chain counts all its steps."""
    (trans, emit, start), _ = gaussian()
    evidence = Evidence(Chain("t", trans * emit, over="z", initial=start))
    own = Sum("t", log(Normal("p(x_t)", shape=2)), burn_in=2)
    both = evidence + own if chain_first else own + evidence
    x = torch.randn(2, 4, 2)
    torch.testing.assert_close(run(both, path, x=x).value, evidence(x=x).value + own(x=x).value)


@PATHS
def test_beside_a_sum_that_begins_late_and_with_something(path):
    evidence = Evidence(Chain("t", z() * x(), over="z", initial=first()))
    begun = Sum("t", E(moves(), log(x("p(x_t|h_t)"))), burn_in=1, initial={"h": torch.zeros(K)})
    data = torch.randn(2, 4, 2)
    expected = evidence(x=data).value + begun(x=data).value
    torch.testing.assert_close(run(begun + evidence, path, x=data).value, expected)


def test_two_chains_of_one_name_are_two():
    (trans, emit, start), _ = gaussian()
    (trans_2, emit_2, start_2), _ = gaussian()
    one = Evidence(Chain("t", trans * emit, over="z", initial=start))
    two = Evidence(Chain("t", trans_2 * emit_2, over="z", initial=start_2))
    x = torch.randn(2, 4, 2)
    torch.testing.assert_close((one - two)(x=x).value, one(x=x).value - two(x=x).value)
    torch.testing.assert_close((one - two).interpret(x=x).value, one(x=x).value - two(x=x).value)
    assert sorted((one - two)(x=x).last) == ["alpha_z", "alpha_z_"]


@PATHS
def test_whole_numbers_as_data_and_weights_of_another_precision(path):
    """Nothing of the call says which type the values of a state have; another letter for the steps, and an accent."""
    torch.set_default_dtype(torch.float32)
    trans = OneHot(r"p(\hat z_n|\hat z_{n-1},c_n)", lambda z, c: z + c.unsqueeze(-1), shape=K)
    emit = Categorical(r"p(x_n|\hat z_n)", nn.Linear(K, 4), shape=(), classes=4)
    start = OneHot(r"p(\hat z_1)", nn.Parameter(torch.randn(K)), shape=K)
    loss = Evidence(Chain("n", trans * emit, over="hat_z", initial=start)).double()
    x, c = torch.randint(4, (2, 4)), torch.randint(3, (2, 4))
    pair = log_softmax(np.eye(K), -1)
    own = log_softmax(affine(emit.net, np.eye(K)), -1)
    want = [brute(log_softmax(numbers(start.head())), np.stack([pair] * 4), own[:, row].T)[0] for row in x.numpy()]
    found = run(loss, path, x=x, c=c).value
    assert found.dtype is torch.float64
    assert found.tolist() == pytest.approx(want, abs=1e-10)


# ---------------------------------------------------------------------------------------------------------- gradients


def test_gradient_is_that_of_all_paths():
    """Finite differences of the sum over all paths, for every weight."""
    (trans, emit, start), tables = gaussian()
    loss = Evidence(Chain("t", trans * emit, over="z", initial=start))
    x = torch.randn(1, 4, 2)
    weights = list(loss.parameters())
    found = torch.autograd.grad(loss(x=x).value.sum(), weights)
    h = 1e-5
    for weight, slope in zip(weights, found, strict=True):
        for place in itertools.product(*map(range, weight.shape)):
            sides = []
            for way in (h, -h):
                with torch.no_grad():
                    weight[place] += way
                    sides.append(brute(*tables(x[0]))[0])
                    weight[place] -= way
            assert slope[place].item() == pytest.approx((sides[0] - sides[1]) / (2 * h), abs=1e-7)


def test_the_gradient_by_an_emission_is_the_smoothed_law():
    """∂ log p(x_{1:T}) / ∂ log p(x_t|z_t=j) = p(z_t=j|x_{1:T})."""
    trans = OneHot("p(z_t|z_{t-1})", nn.Linear(K, K), shape=K)
    emit = Normal("p(x_t|z_t,w_t)", lambda z, w: (z * w).sum(-1, keepdim=True), shape=1, scale=1.0)
    hmm = Chain("t", trans * emit, over="z", initial=OneHot("p(z_1)", shape=K))
    x, w = torch.randn(2, 5, 1), torch.randn(2, 5, K, requires_grad=True)
    (slope,) = torch.autograd.grad(Evidence(hmm)(x=x, w=w).value.sum(), w)
    torch.testing.assert_close(slope, Smoothed(hmm)(x=x, w=w).value * (x - w))


def test_stopped_transitions_and_numbers_of_the_call():
    trans = OneHot("p(z_t|z_{t-1})", nn.Linear(K, K), shape=K)
    emit = Normal("p(x_t|z_t)", nn.Linear(K, 1), shape=1, scale=Symbol("sigma"))
    start = OneHot("p(z_1)", shape=K)
    x = torch.randn(2, 4, 1)
    free, held = (Evidence(Chain("t", t * emit, over="z", initial=start)) for t in (trans, sg(trans)))
    torch.testing.assert_close(free(x=x, sigma=0.7).value, held(x=x, sigma=0.7).value)
    assert free(x=x, sigma=0.7).value.tolist() != free(x=x, sigma=0.5).value.tolist()
    held(x=x, sigma=0.7).value.sum().backward()
    assert trans.net.weight.grad is None
    assert emit.net.weight.grad is not None


# -------------------------------------------------------------------------------------------------------- long and rare


def test_a_forward_pass_by_hand_at_two_hundred_steps():
    (trans, emit, start), tables = gaussian(8)
    x = 3 * torch.randn(2, 200, 2)
    found = Evidence(Chain("t", trans * emit, over="z", initial=start))(x=x).value
    assert found.tolist() == pytest.approx([forward(*tables(row)) for row in x], rel=1e-12)


def test_two_thousand_steps_in_single_precision():
    (trans, emit, start), tables = gaussian(4)
    x = 30 * torch.randn(1, 2000, 2)  # far out, so that the densities themselves would underflow at once
    want = forward(*tables(x[0]))
    hmm = Chain("t", trans * emit, over="z", initial=start)
    loss = Evidence(hmm)
    loss.float()
    value = loss(x=x.float()).value
    assert value.dtype is torch.float32
    assert value.item() == pytest.approx(want, rel=1e-6)
    assert want < -1e5
    finite_gradients(value, loss)
    smooth = Smoothed(hmm)(x=x.float()).value
    torch.testing.assert_close(smooth.sum(-1), torch.ones(1, 2000, dtype=torch.float32), atol=1e-4, rtol=0)


@PATHS
def test_what_is_impossible_has_no_part(path):
    """A left-to-right chain: transitions and emissions of probability 0; the gradient stays a number."""
    never = -torch.inf
    table = nn.Embedding.from_pretrained(
        torch.tensor([[0.3, 0.7, 0.0], [0.0, 0.4, 0.6], [0.0, 0.0, 1.0]]).log(), freeze=False
    )
    words = nn.Embedding.from_pretrained(
        torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.2, 0.6]]).log(), freeze=False
    )
    assert table.weight[1, 0] == never
    trans = Categorical("p(z_t|z_{t-1})", table, shape=(), classes=3)
    emit = Categorical("p(x_t|z_t)", words, shape=(), classes=3)
    begin = Categorical("p(z_1)", logits=torch.tensor([1.0, 0.0, 0.0]).log(), shape=(), classes=3)
    hmm = Chain("t", trans * emit, over="z", initial=begin)
    x = torch.tensor([[0, 1, 1, 2], [0, 1, 2, 2]])
    pairs = np.stack([numbers(table.weight)] * 4)
    with np.errstate(divide="ignore"):
        first = np.log([1.0, 0.0, 0.0])
    want = [brute(first, pairs, numbers(words.weight)[:, row].T) for row in x.numpy()]
    loss = Evidence(hmm)
    value = run(loss, path, x=x).value
    assert value.tolist() == pytest.approx([w[0] for w in want], abs=1e-10)
    value.sum().backward()
    assert all(p.grad.isfinite().all() for p in loss.parameters() if p.grad is not None)
    assert words.weight.grad.abs().sum() > 0
    np.testing.assert_allclose(numbers(run(Smoothed(hmm), path, x=x).value), np.stack([w[2] for w in want]), atol=1e-10)
    assert run(Viterbi(hmm), path, x=x).value.tolist() == [list(w[3]) for w in want]
    impossible = run(loss, path, x=torch.tensor([[2, 0, 0, 0], [0, 1, 1, 2]])).value
    assert impossible[0].item() < -1e300  # the logits of classes are finite: the largest there are
    assert impossible[1].item() == pytest.approx(want[0][0])


@PATHS
def test_densities_of_zero_are_no_nan(path):
    """Uniform emissions: −0.5 comes from the state 1 alone, and of 3 the density is 0 in both."""
    trans = Categorical("p(z_t|z_{t-1})", nn.Embedding(2, 2), shape=(), classes=2)
    emit = Uniform("p(x_t|z_t)", lambda z: {"low": -1.0 * z[..., None], "high": 1.0 + 0.0 * z[..., None]}, shape=1)
    hmm = Chain("t", trans * emit, over="z", initial=Categorical("p(z_1)", shape=(), classes=2))
    x = torch.tensor([[[0.5], [-0.5], [0.2]]])
    with np.errstate(divide="ignore"):
        own = np.log([[1, 0.5], [0, 0.5], [1, 0.5]])
    want = brute(np.log([0.5, 0.5]), np.stack([log_softmax(numbers(trans.net.weight), -1)] * 3), own)
    loss = Evidence(hmm)
    value = run(loss, path, x=x).value
    assert value.item() == pytest.approx(want[0], abs=1e-12)
    finite_gradients(value, loss)
    np.testing.assert_allclose(numbers(run(Smoothed(hmm), path, x=x).value[0]), want[2], atol=1e-12)
    assert run(Viterbi(hmm), path, x=x).value.tolist() == [list(want[3])]


def test_recursions_of_nothing_but_impossible_states():
    law = torch.tensor([[-torch.inf, -torch.inf], [0.0, -torch.inf]], requires_grad=True)
    found = recursions.log_sum(law)
    assert found.tolist() == [-torch.inf, 0.0]
    assert torch.autograd.grad(found[1] + found[0].clamp_min(-1.0), law)[0].tolist() == [[0, 0], [1, 0]]
    assert recursions.normalised(law)[0].tolist() == [-torch.inf, -torch.inf]


# ---------------------------------------------------------------------------------------------------- what it costs


class Counting(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the operations of torch."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(loss, **given):
    loss(**given)
    with Counting() as counting, torch.no_grad():
        loss(**given)
    return counting.count


def test_the_cost_grows_as_the_number_of_steps():
    (trans, emit, start), _ = gaussian()
    hmm = Chain("t", trans * emit, over="z", initial=start)
    for kind in (Evidence, Smoothed, Viterbi):
        counts = [operations(kind(hmm), x=torch.randn(2, T, 2)) for T in (10, 20, 30)]
        assert counts[1] - counts[0] == counts[2] - counts[1] > 0, kind


def test_networks_run_once_outside_of_the_loop():
    """The transition on its values, the emission on every value at all steps: [B·T·S, ...]."""
    seen = []

    def net(z):
        seen.append(z.shape)
        return torch.cat([z[..., :1], z[..., 1:2]], -1)

    trans = OneHot("p(z_t|z_{t-1})", nn.Linear(K, K), shape=K)
    trans.net.register_forward_hook(lambda module, given, out: seen.append(given[0].shape))
    emit = Normal("p(x_t|z_t)", net, shape=1)
    Evidence(Chain("t", trans * emit, over="z", initial=OneHot("p(z_1)", shape=K)))(x=torch.randn(2, 7, 1))
    assert sorted(seen) == [(K, K), (2 * 7 * K, K)]


def test_what_reads_the_state_alone_sees_its_values_once_and_what_reads_data_too_every_row():
    """An emission by a module: [S, ...]; one that reads data too: [B·T·S, ...]; one that mixes rows: [B·S, ...]."""
    trans, start = OneHot("p(z_t|z_{t-1})", nn.Linear(K, K), shape=K), OneHot("p(z_1)", shape=K)
    plain = Normal("p(x_t|z_t)", nn.Sequential(nn.Linear(K, 8), nn.Tanh(), nn.Linear(8, 4)), shape=2)
    beside = Normal("p(y_t|z_t, u_t)", Beside(), shape=1)
    mixing = Normal("p(w_t|z_t)", nn.Sequential(nn.Linear(K, 4), nn.BatchNorm1d(4)), shape=2)
    rows = {}
    for factor in (trans, plain, beside, mixing):
        factor.net.register_forward_hook(lambda m, given, out, f=factor: rows.update({str(f): len(given[0])}))
    given = {"x": torch.randn(2, 7, 2), "y": torch.randn(2, 7, 1), "u": torch.randn(2, 7, 1), "w": torch.randn(2, 7, 2)}
    hmm = Chain("t", trans * plain * beside * mixing, over="z", initial=start)
    hmm_code = Evidence(hmm).eval()
    together = hmm_code(**given).value
    assert rows == {str(trans): K, str(plain): K, str(beside): 2 * 7 * K, str(mixing): 2 * K}
    pairs = log_softmax(affine(trans.net, np.eye(K)), -1)
    for row, found in enumerate(together):
        own = np.zeros((7, K))
        for t, k in itertools.product(range(7), range(K)):
            state = torch.eye(K)[k][None]
            heads = (plain.net(state), beside.net(state, given["u"][row, t][None]), mixing.net(state))
            own[t, k] = sum(normal(numbers(h)[0], numbers(given[n])[row, t]) for h, n in zip(heads, "xyw", strict=True))
        right = forward(np.full(K, -np.log(K)), [pairs] * 7, own)
        assert found.item() == pytest.approx(right, rel=1e-5)


class Beside(nn.Linear):
    """A head of a state and of a number beside it."""

    def __init__(self):
        super().__init__(K + 1, 2)

    def forward(self, z, u):
        return super().forward(torch.cat((z, u), -1))


# ------------------------------------------------------------------------------------------------------ print, explain


def test_it_prints_what_it_computes():
    (trans, emit, start), _ = gaussian()
    chain = Chain("t", trans * emit, over="z", initial=start, reset="first", mask="valid")
    below = r"t;\, \mathrm{reset}=\mathrm{first};\, \mathrm{mask}=\mathrm{valid};\, \mathrm{initial}=p(z_{1})"
    product = r"\left[ p(z_{t} \mid z_{t-1})\, p(x_{t} \mid z_{t}) \right]"
    assert str(Evidence(chain)) == rf"\log \sum_{{z_{{1:T}}}} \prod_{{{below}}}{product}"
    assert str(Smoothed(chain)) == rf"\mathbb{{P}}_{{z_{{t}} \mid x_{{1:T}}}}{product}"
    assert str(Filtered(chain)) == rf"\mathbb{{P}}_{{z_{{t}} \mid x_{{\le t}}}}{product}"
    assert str(Viterbi(chain)) == rf"\operatorname{{argmax}}_{{z_{{1:T}}}} p{product}"
    assert repr(Evidence(Chain("t", trans * emit, over="z", initial=start))) == (
        "<Expression log Σ_{z_{1:T}} Π_{t; initial=p(z_1)}[p(z_t|z_{t-1}) p(x_t|z_t)]>"
    )
    assert repr(chain) == "<Chain Σ_{z_{1:T}} Π_t p(z_t|z_{t-1}) p(x_t|z_t)>"
    for kind in (Evidence, Filtered, Smoothed, Viterbi):
        assert "<math" in kind(chain)._repr_html_()
    assert "exact: the forward recursion over t, every state" in str(Evidence(chain).explain())


def test_the_state_is_latent_and_the_data_are_observed_in_the_picture():
    (trans, emit, start), _ = gaussian()
    picture = graph(Evidence(Chain("t", trans * emit, over="z", initial=start)))
    kinds = {str(v.variable): v.kind for v in picture.vertices}
    assert (kinds["z_t"], kinds["z_1"], kinds["x_t"]) == ("latent", "latent", "observed")
    edges = {(str(e.source), str(e.target)) for e in picture.edges}
    assert edges == {("z_1", "z_t"), ("z_{t-1}", "z_t"), ("z_t", "x_t")}


# ------------------------------------------------------------------------------------------------------------ refusals


def z(header="p(z_t|z_{t-1})", width=K):
    return OneHot(header, nn.Linear(width, K), shape=K)


def x(header="p(x_t|z_t)", width=K):
    return Normal(header, nn.Linear(width, 4), shape=2)


def first():
    return OneHot("p(z_1)", shape=K)


def test_what_is_no_chain_is_refused_with_what_to_write():
    with refused("z_{t-2}", "pair", "z_{t-1}", error=TimeError):
        Chain("t", z("p(z_t|z_{t-1},z_{t-2})", 2 * K) * x(), over="z", initial=first())
    with refused("z_{t-2}", "pair", error=TimeError):
        Chain("t", z() * x("p(x_t|z_t,z_{t-2})", 2 * K), over="z", initial=first())
    with refused("independent", "marginal('z')", error=FormulaError):
        Chain("t", OneHot("p(z_t)", shape=K) * x(), over="z", initial=first())
    with refused("no short list of values", "bound", error=NoClosedFormError):
        Chain("t", Normal("p(z_t|z_{t-1})", nn.Linear(3, 6), shape=3) * x(), over="z", initial=first())
    with refused("over='y'", "z, x", error=UnknownVariableError):
        Chain("t", z() * x(), over="y", initial=first())
    with refused("initial=", "p(z_1)", error=FormulaError):
        Chain("t", z() * x(), over="z")
    with refused("z_1", "z_0", error=FormulaError):
        Chain("t", z() * x(), over="z", initial=OneHot("p(w_1)", shape=K))
    with refused("4 values", "3", error=FormulaError):
        Chain("t", z() * x(), over="z", initial=OneHot("p(z_1)", shape=4))
    with refused("says nothing of data", error=FormulaError):
        Chain("t", Joint(z()), over="z", initial=first())
    with refused("the state before the first", "z_0", error=FormulaError):
        Chain("t", z() * x("p(x_t|z_{t-1})"), over="z", initial=first())
    remembers = Deterministic("h_t = f(h_{t-1}, z_t)", lambda h, z: h + z, shape=K)
    with refused("further back than one step", error=TimeError):
        Chain("t", remembers * z() * x("p(x_t|h_t)"), over="z", initial=first())
    with refused("knows no steps", "x_1", error=TimeError):
        Chain("t", z() * x(), over="z", initial=OneHot("p(z_1|x_t)", nn.Linear(2, K), shape=K))
    with refused("expected a Chain", error=FormulaError):
        Evidence(z() * x())
    with refused("no state of the chain", error=FormulaError):
        Smoothed(Chain("t", z() * x(), over="z", initial=first()), "x")


def moves():
    return Deterministic("h_t = f(h_{t-1}, x_t)", lambda h, x: h + x[..., :1], shape=K)


def Joint(factor):
    return factor * Deterministic("e_t = f(u_t)", nn.Identity(), shape=1)


def test_what_a_formula_cannot_do_with_a_chain():
    evidence = Evidence(Chain("t", z() * x(), over="z", initial=first()))
    data = torch.randn(2, 4, 2)
    with refused("beside the Sum", error=TimeError):
        Sum("t", evidence)(x=data)
    around = Smoothed(Chain("t", z() * Normal("p(x_t|z_t,s)", Adds(), shape=2), over="z", initial=first()))
    with refused("several draws", "one draw", error=TimeError):
        E(Normal("p(s)", shape=2), total(around), samples=4)(x=data)
    with refused("start", error=FormulaError):
        evidence(x=data, start={"z": torch.zeros(2, K)})
    assert isinstance(evidence + Value("y"), type(evidence))


# ------------------------------------------------------------------------------------------------------- plain PyTorch


def test_it_is_copied_saved_compiled_and_transformed():
    (trans, emit, start), _ = gaussian()
    hmm = Chain("t", trans * emit, over="z", initial=start)
    loss, data = -Evidence(hmm).mean(), torch.randn(3, 6, 2)
    value = loss(x=data).value
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert other(x=data).value.item() == value.item()
    for formula in (loss, Smoothed(hmm), Viterbi(hmm)):
        compiled = copy.deepcopy(formula).compile(backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x=data).value, formula(x=data).value)
    weights = dict(loss.named_parameters())
    slopes = grad(lambda p: functional_call(loss, p, (), {"x": data}).value)(weights)
    value.backward()
    for name, weight in weights.items():
        torch.testing.assert_close(slopes[name], weight.grad)
    many = {name: torch.stack((p.detach(), 1.1 * p.detach())) for name, p in weights.items()}
    found = vmap(lambda p: functional_call(loss, p, (), {"x": data}).value)(many)
    assert found[0].item() == pytest.approx(value.item())
    assert found[1].item() != pytest.approx(value.item())
