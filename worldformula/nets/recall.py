r"""A memory of keys and values that is read, written and corrected by what it is asked; all of it has gradients.

    q = W_q x,  k = W_k x                            scaled to the length √d, so that a key is nearest to itself
    w = softmax(q Kᵀ / √d / τ),   r = w V            read: of an empty memory, 0
    K ← [K, k],  V ← [V, v]                          write: into an empty slot, else in the place of one that is evicted
    V ← V + α wᵀ (v − r)                             overwrite: what was read becomes v as far as α says

Soft reading is attention (Graves et al. 2014, arXiv:1410.5401); correcting what was read is the delta rule (Schlag et
al. 2021, arXiv:2102.11174). All is batched: row b is the memory of episode b, and no row sees another. What a memory
holds is a tuple of tensors, `Slots`, zeros where it is empty, so that a world may carry it, and a reset empties it:

    step = Remembering(memory, writes=True)
    seen = Deterministic("K_t, V_t, U_t, N_t, r_t = write(K_{t-1}, V_{t-1}, U_{t-1}, N_{t-1}, q_t, v_t)", step,
                         shape=step.shapes)
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch._C import _functorch as functorch
from torch.compiler import is_compiling

from worldformula.errors import ConfigError, ShapeError, table


class Slots(NamedTuple):
    """What a memory of C slots holds for B episodes.

    keys: ``[B, C, d]``. values: ``[B, C, v]``. used: how much each was read, a write counting 1, ``[B, C]``. written:
    the number of the write that made it, from 1, and 0 of an empty slot, ``[B, C]``. Both are float32 at least,
    whatever keys and values are: in half precision a sum of small numbers soon stands still.
    """

    keys: Tensor
    values: Tensor
    used: Tensor
    written: Tensor


class KeyValue(nn.Module):
    """The memory.

    Args:
        asks: the width of what asks and what is stored under, x.
        value: the width of a value.
        key: d, the width of keys and queries.
        capacity: C, how many pairs it keeps; of a full memory each write evicts one.
        evicts: "oldest", or "least used", where of equally used ones the oldest goes.
        temperature: τ; 0 reads the nearest alone, without a gradient to keys and queries.
        sharpens: τ is learnt too, from there on. A soft read passes gradients to all that is stored, before anything is
            known of what should be read; a sharp one gives back what was stored.
        learnt: keys and queries are linear in x, each with weights of its own; otherwise they are x, and d its width.

    Raises:
        ConfigError: a size below 1, a negative temperature, another way to evict, or keys of another width than x that
            are not learnt.
    """

    def __init__(
        self, asks: int, value: int, key: int | None = None, *, capacity: int = 32,
        evicts: Literal["oldest", "least used"] = "oldest", temperature: float = 1.0, learnt: bool = True,
        sharpens: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        size = asks if key is None else key
        known = evicts in ("oldest", "least used")
        if min(asks, value, size, capacity) < 1 or not 0 <= temperature < math.inf or not known:
            raise ConfigError(
                "expected widths and a capacity of at least 1, a finite temperature ≥ 0 and evicts as 'oldest' or "
                f"'least used', got {asks}, {value}, {size}, {capacity}, {temperature} and {evicts!r}"
            )
        if not learnt and size != asks:
            raise ConfigError(f"keys that are not learnt have the width of x, {asks}; got key={size}")
        self.asks, self.size, self.value, self.capacity = asks, size, value, capacity
        if sharpens and not temperature:
            raise ConfigError("sharpens=True learns the temperature: expected temperature > 0, got 0")
        self.evicts = evicts
        self.temperature = temperature
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature))) if sharpens else None
        self.to_key: nn.Module = nn.Linear(asks, size, bias=False) if learnt else nn.Identity()
        self.to_query: nn.Module = nn.Linear(asks, size, bias=False) if learnt else nn.Identity()

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The event shapes of `Slots`, for a factor that declares them."""
        C = self.capacity
        return (C, self.size), (C, self.value), (C,), (C,)

    def initial(self, batch: int, like: Tensor | None = None) -> Slots:
        """Empty memories of so many episodes, of the device and dtype of a tensor."""
        made = torch.zeros(()) if like is None else like
        kinds = (made, made, _counting(made), _counting(made))
        return Slots(*(kind.new_zeros((batch, *shape)) for kind, shape in zip(kinds, self.shapes, strict=True)))

    # ------------------------------------------------------------------------------------------------------------- ask

    def weights(self, slots: Slots, x: Tensor) -> Tensor:
        """How much each slot says to a question ``[B, asks]``: ``[B, C]``, in sum 1, or 0 of an empty memory."""
        self._check(slots, x=x)
        q = self._long(self.to_query(x))
        return self._attended(torch.einsum("bd,bcd->bc", q, slots.keys) / self.size**0.5, slots)

    def read(self, slots: Slots, x: Tensor) -> tuple[Tensor, Slots]:
        """The value that is stored under what is like x, ``[B, v]``, and the memory, which knows that it was read."""
        w = self.weights(slots, x)
        return torch.einsum("bc,bcv->bv", w, slots.values), slots._replace(used=_counting(slots.used) + w.detach())

    def complete(self, slots: Slots, value: Tensor, known: Tensor) -> Tensor:
        """A value ``[B, v]`` whose missing parts, where ``known`` ``[B, v]`` is 0, are those of the stored values that
        are like its known parts: weights are softmax(−‖known (value − V)‖² / 2τ). In an empty memory they are 0.

        What stands in the missing parts of ``value`` is not read, NaN included.
        """
        self._check(slots, value=value, known=known)
        known = known.to(slots.values)
        inside = torch.where(known > 0, value, 0)
        off = (known.unsqueeze(1) * (inside.unsqueeze(1) - slots.values)).square().sum(-1)
        w = self._attended(-off / 2, slots)
        return known * inside + (1 - known) * torch.einsum("bc,bcv->bv", w, slots.values)

    # ------------------------------------------------------------------------------------------------------------ tell

    def write(self, slots: Slots, x: Tensor, value: Tensor, gate: Tensor | None = None) -> Slots:
        """Stores values ``[B, v]`` under x ``[B, asks]``; ``gate`` ``[B]`` from 0, not at all, to 1, wholly.

        Raises:
            ConfigError: a gate outside [0, 1]; looked at on a CPU alone, as an accelerator would have to be waited for.
        """
        self._check(slots, x=x, value=value)
        _check_gate(gate)
        place = nn.functional.one_hot(self._free(slots), self.capacity).to(slots.keys)
        place = place if gate is None else place * gate.to(place).unsqueeze(-1)
        k, at = self._long(self.to_key(x)).unsqueeze(1), place.unsqueeze(-1)
        slots = slots._replace(used=_counting(slots.used), written=_counting(slots.written))
        number, done = slots.written.amax(-1, keepdim=True) + 1, place.detach() > 0
        return Slots(
            _replaced(slots.keys, k, at), _replaced(slots.values, value.unsqueeze(1), at),
            torch.where(done, 1.0, slots.used), torch.where(done, number, slots.written),
        )  # fmt: skip

    def overwrite(self, slots: Slots, x: Tensor, value: Tensor, rate: float | Tensor = 1.0) -> Slots:
        """Corrects what is stored under what is like x: V + α wᵀ(v − r), α a number or ``[B]``.

        Raises:
            ConfigError: a number that is not finite.
        """
        self._check(slots, value=value)
        if not isinstance(rate, Tensor) and not math.isfinite(rate):
            raise ConfigError(f"expected a rate α as a finite number, 1 corrects wholly, got {rate}")
        w = self.weights(slots, x)
        off = value - torch.einsum("bc,bcv->bv", w, slots.values)
        much = rate.unsqueeze(-1) * w if isinstance(rate, Tensor) and rate.ndim else rate * w
        return slots._replace(values=slots.values + much.unsqueeze(-1) * off.unsqueeze(1))

    # ----------------------------------------------------------------------------------------------------------- parts

    def _attended(self, scores: Tensor, slots: Slots) -> Tensor:
        """Weights of slots by their scores ``[B, C]``; empty ones have none."""
        full = slots.written > 0
        if self.log_temperature is None and not self.temperature:
            best = scores.masked_fill(~full, -torch.inf).argmax(-1)
            return nn.functional.one_hot(best, self.capacity).to(scores) * full
        lowest = torch.finfo(scores.dtype).min  # not −∞: a row that is empty would be NaN
        temperature = self.temperature if self.log_temperature is None else self.log_temperature.exp()
        return (scores / temperature).masked_fill(~full, lowest).softmax(-1) * full

    def _free(self, slots: Slots) -> Tensor:
        """Which slot the next write takes, ``[B]``: the first empty one, else that which is evicted."""
        if self.evicts == "oldest":
            return slots.written.argmin(-1)
        used = slots.used.masked_fill(slots.written == 0, -1)
        least = used == used.amin(-1, keepdim=True)
        return slots.written.masked_fill(~least, torch.inf).argmin(-1)

    def _long(self, x: Tensor) -> Tensor:
        """At the length √d."""
        return self.size**0.5 * nn.functional.normalize(x, dim=-1)

    def _check(self, slots: Slots, **given: Tensor) -> None:
        B = slots.keys.shape[0]
        rows = [
            (name, [B, width], list(x.shape))
            for name, x in given.items()
            if tuple(x.shape) != (B, width := self.asks if name == "x" else self.value)
        ]
        if rows:
            raise ShapeError("a memory has a row for each episode\n" + table(("given", "expected", "got"), rows))


def _check_gate(gate: Tensor | None) -> None:
    """Between an old pair and a new one there is nothing beyond either, and of what is NaN nothing would be stored."""
    if gate is None or gate.device.type != "cpu" or is_compiling() or functorch.is_batchedtensor(gate):
        return
    if bool((~((gate >= 0) & (gate <= 1))).any()):
        raise ConfigError(
            f"expected gates from 0 to 1, got {float(gate.min()):g} to {float(gate.max()):g}\nlet the network that "
            f"makes them end in a sigmoid"
        )


def _counting(x: Tensor) -> Tensor:
    """As what may be counted in: a state that was begun in half precision is so from its first step on."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _replaced(old: Tensor, new: Tensor, share: Tensor) -> Tensor:
    """``[B, C, n]``: the new one as far as a share ``[B, C, 1]`` says; where that is 0 nothing of it, NaN included."""
    mixed = torch.lerp(old, new.expand_as(old), share.expand_as(old))
    return torch.where(share > 0, mixed, old)


class Remembering(nn.Module):
    """A step of a world that reads a memory while it predicts; with ``writes`` it also stores what it is given.

    A posterior writes what it has seen, a prior, which has seen nothing, reads:

        seen:  K_t, V_t, U_t, N_t, r_t = write(K_{t-1}, V_{t-1}, U_{t-1}, N_{t-1}, q_t, v_t)
        dream: K_t, V_t, U_t, N_t, r_t = read(K_{t-1}, V_{t-1}, U_{t-1}, N_{t-1}, q_t)

    What is read is what was stored before this step. The two share one `KeyValue`, whose weights are those of the step
    that writes: one that reads has none of its own.
    """

    memory: KeyValue

    def __init__(self, memory: KeyValue, *, writes: bool) -> None:
        super().__init__()
        self.writes = writes
        if writes:
            self.memory = memory
        else:
            self.__dict__["memory"] = memory  # out of the module tree, or it would stand in a state_dict twice

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The event shapes of what it returns, ``shape=`` of its factor."""
        return [*self.memory.shapes, (self.memory.value,)]

    def forward(
        self, keys: Tensor, values: Tensor, used: Tensor, written: Tensor, x: Tensor, *more: Tensor
    ) -> tuple[Tensor, ...]:
        """The memory of the step before and a question ``[B, asks]``; where it writes, a value ``[B, v]``, which is the
        question itself where none is given, and, where it is told, how far to store it, ``[B]`` or ``[B, 1]``. The
        memory after it, and what was read, ``[B, v]``.
        """
        found, slots = self.memory.read(Slots(keys, values, used, written), x)
        if self.writes:
            value, *gates = more or (x,)
            slots = self.memory.write(slots, x, value, gates[0].reshape(len(x)) if gates else None)
        return (*slots, found)
