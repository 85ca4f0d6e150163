"""A memory of keys and values: what is stored is read exactly, all of it has gradients, and NumPy says the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldformula import Deterministic, E, Mean, Normal, Value, World, log, norm2
from worldformula.errors import ConfigError, ShapeError
from worldformula.nets.recall import KeyValue, Remembering, Slots
from worldformula.testing import check_world
from worldformula.training.fit import fit

B, ASKS, V, C = 3, 6, 4, 5


def filled(memory: KeyValue, count: int, seed: int = 0) -> tuple[Slots, Tensor, Tensor]:
    """A memory after so many writes, and what was written: ``[count, B, ...]``."""
    rng = torch.Generator().manual_seed(seed)
    x, v = torch.randn(count, B, ASKS, generator=rng), torch.randn(count, B, V, generator=rng)
    slots = memory.initial(B)
    for row, value in zip(x, v, strict=True):
        slots = memory.write(slots, row, value)
    return slots, x, v


class Witness:
    """One episode in NumPy: lists of pairs, and loops."""

    def __init__(self, memory: KeyValue) -> None:
        self.m, self.pairs, self.count = memory, [], 0
        self.k, self.q = (
            np.eye(ASKS) if isinstance(net, nn.Identity) else net.weight.detach().numpy()
            for net in (memory.to_key, memory.to_query)
        )

    def long(self, x):
        return x / np.sqrt((x**2).sum()) * math.sqrt(len(x))

    def write(self, x, v):
        self.count += 1
        if len(self.pairs) == self.m.capacity:
            rank = (lambda p: p["at"]) if self.m.evicts == "oldest" else (lambda p: (round(p["used"], 9), p["at"]))
            del self.pairs[min(range(len(self.pairs)), key=lambda i: rank(self.pairs[i]))]
        self.pairs.append({"k": self.long(self.k @ x), "v": v.copy(), "used": 1.0, "at": self.count})

    def softmax(self, scores):
        e = np.exp((scores - scores.max()) / self.m.temperature)
        return e / e.sum()

    def weights(self, x):
        q = self.long(self.q @ x)
        return self.softmax(np.array([q @ p["k"] / math.sqrt(len(q)) for p in self.pairs]))

    def read(self, x):
        w = self.weights(x)
        for p, much in zip(self.pairs, w, strict=True):
            p["used"] += much
        return sum(much * p["v"] for p, much in zip(self.pairs, w, strict=True))

    def overwrite(self, x, v, rate):
        w = self.weights(x)
        off = v - sum(much * p["v"] for p, much in zip(self.pairs, w, strict=True))
        for p, much in zip(self.pairs, w, strict=True):
            p["v"] = p["v"] + rate * much * off

    def complete(self, v, known):
        w = self.softmax(
            np.array([-0.5 * sum((v[i] - p["v"][i]) ** 2 for i in np.nonzero(known)[0]) for p in self.pairs])
        )
        r = sum(much * p["v"] for p, much in zip(self.pairs, w, strict=True))
        return np.where(known, v, r)


@pytest.mark.parametrize("evicts", ["oldest", "least used"])
@pytest.mark.parametrize("learnt", [True, False])
def test_numpy_says_the_same(evicts, learnt):
    torch.manual_seed(0)
    memory = KeyValue(
        ASKS, V, 8 if learnt else None, capacity=C, evicts=evicts, temperature=0.3, learnt=learnt
    ).double()
    rng, slots = np.random.default_rng(0), memory.initial(B, torch.zeros(1, dtype=torch.float64))
    own = [Witness(memory) for _ in range(B)]
    for step in range(14):
        x, v = rng.normal(size=(B, ASKS)), rng.normal(size=(B, V))
        known = rng.random((B, V)) < 0.6
        slots = memory.write(slots, torch.as_tensor(x), torch.as_tensor(v))
        asked = rng.normal(size=(B, ASKS))
        found, slots = memory.read(slots, torch.as_tensor(asked))
        filled_in = memory.complete(slots, torch.as_tensor(v), torch.as_tensor(known))
        if step % 3 == 0:
            slots = memory.overwrite(slots, torch.as_tensor(x), torch.as_tensor(v + 1), 0.7)
        for b, w in enumerate(own):
            w.write(x[b], v[b])
            np.testing.assert_allclose(found[b].detach(), w.read(asked[b]), atol=1e-9)
            np.testing.assert_allclose(filled_in[b].detach(), w.complete(v[b], known[b]), atol=1e-9)
            if step % 3 == 0:
                w.overwrite(x[b], v[b] + 1, 0.7)
            order = slots.written[b].argsort()[C - len(w.pairs) :]
            np.testing.assert_allclose(slots.values[b][order].detach(), [p["v"] for p in w.pairs], atol=1e-9)
            np.testing.assert_allclose(slots.used[b][order], [p["used"] for p in w.pairs], atol=1e-9)


@pytest.mark.parametrize("temperature", [0.0, 1e-7])
def test_at_a_temperature_of_nothing_the_stored_value_is_read_exactly(temperature):
    memory = KeyValue(ASKS, V, capacity=C, temperature=temperature, learnt=False)
    slots, x, v = filled(memory, C)
    for row, value in zip(x, v, strict=True):
        assert torch.equal(memory.read(slots, row)[0], value)
        assert torch.equal(memory.read(slots, 3 * row)[0], value)  # how long a question is does not matter


def test_gradients_reach_keys_values_questions_and_weights():
    torch.manual_seed(0)
    memory = KeyValue(ASKS, V, 3, capacity=C)
    slots, *_ = filled(memory, C)
    inside = Slots(*(t.detach().requires_grad_() for t in slots[:2]), *slots[2:])
    x = torch.randn(B, ASKS, requires_grad=True)
    found, _ = memory.read(inside, x)
    gradients = torch.autograd.grad(found.square().sum(), (inside.keys, inside.values, x))
    assert all(
        bool(g.isfinite().all()) and bool((g.abs().sum((-1, -2)) if g.ndim == 3 else g.abs().sum(-1)).gt(0).all())
        for g in gradients
    )
    through, *_ = filled(memory, C)
    memory.read(through, torch.randn(B, ASKS))[0].square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in memory.parameters())
    rate = torch.full((B,), 0.5, requires_grad=True)
    corrected = memory.overwrite(inside, x, torch.ones(B, V), rate)
    assert torch.autograd.grad(corrected.values.square().sum(), rate)[0].abs().min() > 0


def test_gradients_are_those_of_differences():
    torch.manual_seed(0)
    memory = KeyValue(3, 2, 2, capacity=3, temperature=0.5).double()

    def story(x: Tensor, v: Tensor, rate: Tensor) -> Tensor:
        slots = memory.initial(2, x)
        for i in range(4):
            slots = memory.write(slots, x[i], v[i], torch.tensor([0.4, 1.0]).double() if i == 2 else None)
        slots = memory.overwrite(slots, x[4], v[4], rate)
        return memory.read(slots, x[5])[0]

    x, v = torch.randn(6, 2, 3).double().requires_grad_(), torch.randn(5, 2, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(story, (x, v, torch.tensor([0.3, 0.9]).double().requires_grad_()))


def test_the_oldest_goes_first():
    memory = KeyValue(ASKS, V, capacity=C, temperature=0.0, learnt=False)
    slots, _, v = filled(memory, C + 2)
    kept = {tuple(row) for row in slots.values[0].tolist()}
    assert kept == {tuple(row) for row in v[2:, 0].tolist()}
    assert slots.written[0].sort().values.tolist() == [3, 4, 5, 6, 7]


def test_the_least_used_goes_first():
    memory = KeyValue(ASKS, V, capacity=C, temperature=0.0, evicts="least used", learnt=False)
    slots, x, v = filled(memory, C)
    for i in (0, 1, 1, 2, 4):  # the fourth was never asked for
        _, slots = memory.read(slots, x[i])
    slots = memory.write(slots, torch.randn(B, ASKS), torch.zeros(B, V))
    kept = {tuple(row) for row in slots.values[0].tolist()}
    assert kept == {tuple(row) for row in v[[0, 1, 2, 4], 0].tolist()} | {(0.0,) * V}


def test_overwriting_wholly_is_reading_the_new_value_and_leaves_the_others():
    memory = KeyValue(ASKS, V, capacity=C, temperature=0.0, learnt=False)
    slots, x, v = filled(memory, 3)
    slots = memory.overwrite(slots, x[1], torch.full((B, V), 7.0))
    torch.testing.assert_close(memory.read(slots, x[1])[0], torch.full((B, V), 7.0))
    assert torch.equal(memory.read(slots, x[0])[0], v[0])
    assert torch.equal(memory.read(slots, x[2])[0], v[2])


def test_what_is_missing_is_filled_in_and_what_stands_there_is_not_read():
    memory = KeyValue(ASKS, V, capacity=C, temperature=1e-6, learnt=False)
    slots, _, v = filled(memory, C)
    known = torch.tensor([1, 0, 1, 0]).expand(B, V)
    cue = torch.where(known > 0, v[3], torch.nan)
    torch.testing.assert_close(memory.complete(slots, cue, known), v[3])


def test_an_empty_memory_says_nothing():
    memory = KeyValue(ASKS, V, capacity=C)
    slots, x = memory.initial(B), torch.randn(B, ASKS, requires_grad=True)
    found, after = memory.read(slots, x)
    assert torch.equal(found, torch.zeros(B, V))
    assert torch.equal(after.used, slots.used)
    known = torch.tensor([1.0, 0, 0, 1]).expand(B, V)
    assert torch.equal(memory.complete(slots, torch.ones(B, V), known), known)
    found.sum().backward()
    assert x.grad.isfinite().all()


def test_rows_are_apart_and_a_gate_keeps_a_memory_as_it_is():
    torch.manual_seed(0)
    memory = KeyValue(ASKS, V, 4, capacity=C, evicts="least used")
    slots, x, v = filled(memory, 7)
    one = Slots(*(t[1:2] for t in slots))
    torch.testing.assert_close(memory.read(one, x[2][1:2])[0], memory.read(slots, x[2])[0][1:2])
    alone, beside = memory.write(one, x[2][1:2], v[2][1:2]), memory.write(slots, x[2], v[2])
    for a, b in zip(alone, beside, strict=True):
        torch.testing.assert_close(a, b[1:2])
    gated = memory.write(
        slots, x[0], torch.where(torch.tensor([[0.0], [1], [0]]) > 0, v[0], torch.nan), torch.tensor([0.0, 1, 0])
    )
    for a, b in zip(gated, slots, strict=True):
        assert torch.equal(a[[0, 2]], b[[0, 2]])
    assert not torch.equal(gated.values[1], slots.values[1])


def test_what_is_wrong_is_refused():
    with pytest.raises(ConfigError, match="a capacity of at least 1"):
        KeyValue(ASKS, V, capacity=0)
    with pytest.raises(ConfigError, match="evicts as"):
        KeyValue(ASKS, V, evicts="newest")
    with pytest.raises(ConfigError, match="keys that are not learnt have the width of x"):
        KeyValue(ASKS, V, 3, learnt=False)
    memory = KeyValue(ASKS, V)
    with pytest.raises(ConfigError, match="a rate α as a finite number, 1 corrects wholly, got nan"):
        memory.overwrite(memory.initial(B), torch.zeros(B, ASKS), torch.zeros(B, V), math.nan)
    with pytest.raises(ShapeError, match="a row for each episode"):
        memory.write(memory.initial(B), torch.zeros(B, ASKS), torch.zeros(B, V + 1))
    with pytest.raises(ShapeError, match="a row for each episode"):
        memory.read(memory.initial(B), torch.zeros(B + 1, ASKS))


# ----------------------------------------------------------------------------------------------------------- in a world

MEMORY = "K_{t-1}, V_{t-1}, U_{t-1}, N_{t-1}"


def remembering() -> World:
    """What was seen is stored under the place where it was seen, and a dream reads it there: x_t of a place p_t that
    actions lead to.
    """
    torch.manual_seed(0)
    memory = KeyValue(3, 4, 3, capacity=6, temperature=0.2)
    write, read = Remembering(memory, writes=True), Remembering(memory, writes=False)
    place = Deterministic("p_t = move(p_{t-1}, a_{t-1})", Add(), shape=3)
    seen = Deterministic("v_t = e(x_t)", nn.Linear(5, 4), shape=4)
    stored = Deterministic(f"K_t, V_t, U_t, N_t, r_t = write({MEMORY}, p_t, v_t)", write, shape=write.shapes)
    recalled = Deterministic(f"K_t, V_t, U_t, N_t, r_t = read({MEMORY}, p_t)", read, shape=read.shapes)
    picture = Normal("p(x_t|p_t,r_t)", Beside(7, 5), shape=5, scale=1.0)
    loss = Mean("t", E(place * seen * stored, -log(picture)), reset="first").mean()
    return World(prior=place * recalled, posterior=place * seen * stored, heads=[picture], loss=loss)


class Add(nn.Module):
    def forward(self, p: Tensor, a: Tensor) -> Tensor:
        return p + a


class Beside(nn.Linear):
    def forward(self, *parts: Tensor) -> Tensor:
        return super().forward(torch.cat(parts, -1))


def test_a_world_that_reads_it_while_predicting_keeps_the_laws_of_worlds():
    world = remembering()
    batch = {"x": torch.randn(3, 5, 5), "a": torch.randn(3, 5, 3), "first": torch.zeros(3, 5)}
    check_world(world, batch)
    states = world.filter(batch)
    assert {"K", "V", "U", "N"} <= states.keys()
    assert states["K"].shape == (3, 5, 6, 3)
    assert states["N"][:, -1].amax(-1).tolist() == [5.0] * 3
    dream = world.imagine(states.last(), actions=torch.randn(3, 4, 3))
    assert torch.equal(dream["N"][:, 0], dream["N"][:, -1])  # a dream stores nothing
    assert bool((dream["U"].sum(-1).diff(dim=1) > 0.99).all())  # and reads at every step


class Story(nn.Module):
    """Six things with their values one after another, then a question."""

    def __init__(self, memory: KeyValue) -> None:
        super().__init__()
        self.memory = memory

    def forward(self, x: Tensor, v: Tensor, q: Tensor) -> Tensor:
        slots = self.memory.initial(len(x), x)
        for thing, value in zip(x.unbind(1), v.unbind(1), strict=True):
            slots = self.memory.write(slots, thing, value)
        return self.memory.read(slots, q)[0]


def things(rows: int = 128) -> dict[str, Tensor]:
    """Each has a number of its own among twelve, one-hot, and noise beside it, which a question has anew.
    Values are ±1.
    """
    which = torch.rand(rows, 12).argsort(-1)[:, :6]
    x = torch.cat((nn.functional.one_hot(which, 12).float(), 0.5 * torch.randn(rows, 6, 16)), -1)
    v, asked = torch.randint(2, (rows, 6, 3)) * 2.0 - 1, torch.randint(6, (rows,))
    at = torch.arange(rows)
    q = torch.cat((x[at, asked, :12], 0.5 * torch.randn(rows, 16)), -1)
    return {"x": x, "v": v, "q": q, "y": v[at, asked]}


@pytest.mark.slow
def test_keys_learn_to_leave_out_what_does_not_matter():
    """Error per number: 1 of the mean of all values. Keys that are not learnt are misled by the noise."""
    torch.manual_seed(0)

    def loss(memory: KeyValue):
        told = Deterministic("r = story(x,v,q)", Story(memory), shape=3)
        return E(told, norm2(Value("r", shape=3) - Value("y", shape=3)) / 3).mean()

    learnt = loss(KeyValue(28, 3, 16, capacity=6, temperature=0.1))
    plain = loss(KeyValue(28, 3, capacity=6, temperature=0.1, learnt=False))
    fit(learnt, things, batch=128, steps=400, lr=1e-2, schedule="cosine")
    held_out = things(2000)
    assert learnt(**held_out).value < 0.1
    assert plain(**held_out).value > 0.5


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
def test_the_oldest_goes_however_many_were_written(kind) -> None:
    """bfloat16 counts to 256: 256 + 1 is 256, and which of two was older would be lost."""
    memory = KeyValue(2, 1, capacity=4, learnt=False)
    slots = memory.initial(1, torch.zeros((), dtype=kind))
    for i in range(300):
        slots = memory.write(slots, torch.ones(1, 2, dtype=kind), torch.full((1, 1), float(i % 7), dtype=kind))
        held = sorted(j % 7 for j in range(max(i - 3, 0), i + 1))
        assert sorted(slots.values[0, :, 0].tolist()) == sorted([0.0] * (4 - len(held)) + held), i


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
def test_the_least_used_goes_however_often_all_were_read(kind) -> None:
    """In bfloat16 16 + 0.03 is 16: two slots that are read again and again would seem to be read alike."""
    memory = KeyValue(2, 1, capacity=2, evicts="least used", learnt=False, temperature=1.0)
    slots = memory.initial(1, torch.zeros((), dtype=kind))
    one, other = torch.tensor([[1.0, 0.0]], dtype=kind), torch.tensor([[0.0, 1.0]], dtype=kind)
    for value, x in enumerate((one, other)):
        slots = memory.write(slots, x, torch.full((1, 1), float(value), dtype=kind))
    counted = np.ones(2)
    for i in range(400):
        x = one if i % 2 else (other + 0.1 * one) / 1.005**0.5  # the first one a little more, on the whole
        counted += memory.weights(slots, x)[0].double().numpy()
        slots = memory.read(slots, x)[1]
    assert slots.values.dtype == kind
    assert slots.used[0].numpy() == pytest.approx(counted, rel=1e-4)
    least = int(counted.argmin())
    slots = memory.write(slots, one, torch.full((1, 1), 9.0, dtype=kind))
    assert slots.values[0, least, 0] == 9
    assert slots.values[0, 1 - least, 0] != 9


def test_a_temperature_that_is_learnt_has_the_gradient_of_the_softmax_and_no_limit_of_zero() -> None:
    memory = KeyValue(3, 1, capacity=3, temperature=0.5, sharpens=True, learnt=False).double()
    x = torch.tensor([[0.3, -0.2, 0.9]], dtype=torch.float64)
    keys = torch.randn(3, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slots = memory.initial(1, x)
    for key, value in zip(keys, (1.0, -2.0, 4.0), strict=True):
        slots = memory.write(slots, key, torch.full((1, 1), value, dtype=torch.float64))
    read = memory.read(slots, x)[0]
    read.sum().backward()

    def by_hand(log_temperature: float) -> float:
        k = keys[:, 0].numpy() / np.linalg.norm(keys[:, 0].numpy(), axis=1, keepdims=True)
        scores = np.sqrt(3) * k @ (x[0].numpy() / np.linalg.norm(x[0].numpy())) / np.exp(log_temperature)
        w = np.exp(scores - scores.max())
        return float(w @ np.array([1.0, -2.0, 4.0]) / w.sum())

    at, h = np.log(0.5), 1e-6
    assert float(read.detach()) == pytest.approx(by_hand(at), rel=1e-6)
    assert float(memory.log_temperature.grad) == pytest.approx((by_hand(at + h) - by_hand(at - h)) / (2 * h), rel=1e-5)
    with pytest.raises(ConfigError, match="expected temperature > 0, got 0"):
        KeyValue(3, 1, temperature=0, sharpens=True)


def test_what_is_known_is_said_of_each_episode():
    """One row of flags would be taken for one of slots where as many are kept as a value has numbers."""
    memory = KeyValue(ASKS, 2, capacity=2, learnt=False)
    slots = memory.initial(1)
    for value in ([1.0, 5.0], [2.0, 7.0]):
        slots = memory.write(slots, torch.randn(1, ASKS), torch.tensor([value]))
    asked, known = torch.tensor([[1.0, 0.0]]), torch.tensor([1.0, 0.0])
    weights = np.exp([-0.0, -0.5]) / np.exp([-0.0, -0.5]).sum()  # ‖1 − 1‖²/2 and ‖1 − 2‖²/2
    assert memory.complete(slots, asked, known[None])[0, 1].item() == pytest.approx(weights @ [5.0, 7.0])
    with pytest.raises(ShapeError, match=r"known \| \[1, 2\] +\| \[2\]"):
        memory.complete(slots, asked, known)
    with pytest.raises(ShapeError, match=r"x +\| \[1, 6\] +\| \[1, 4\]"):
        memory.read(slots, torch.zeros(1, 4))
    with pytest.raises(ConfigError, match="a finite temperature ≥ 0"):
        KeyValue(3, 2, temperature=float("nan"))


@pytest.mark.parametrize("gate", [[1.5, 0.0, 1.0], [-0.1, 0.0, 1.0], [math.nan, 0.0, 1.0]])
def test_a_gate_beyond_its_ends_is_refused(gate) -> None:
    """With 1.5 the slot would hold what is neither the old pair nor the new one, nor between them."""
    memory = KeyValue(ASKS, V, capacity=C)
    slots, x, v = filled(memory, C)
    with pytest.raises(ConfigError, match="expected gates from 0 to 1, got .*\n.*end in a sigmoid"):
        memory.write(slots, x[0], v[0], torch.tensor(gate))
    with pytest.raises(ConfigError, match="expected gates from 0 to 1"):
        Remembering(memory, writes=True)(*slots, x[0], v[0], torch.tensor(gate)[:, None])
    mixed = torch.vmap(lambda g: memory.write(slots, x[0], v[0], g).values)(torch.rand(2, B))
    assert mixed.shape == (2, B, C, V)
