"""A causal transformer with rotary positions, a band and a cache.

Pre-norm blocks; rotary positions (Su et al. 2021, arXiv:2104.09864), which tell distances alone; each layer sees the
last ``window`` positions, or all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldformula.errors import ConfigError
from worldformula.nets.causal import Memory, begins, joined

ROOM = 16  # positions that a cache has room for at least


@dataclass
class Written:
    """How many positions of a buffer are written: who holds as many may write the next ones in place."""

    count: int = 0


@dataclass(frozen=True)
class Cache(Memory):
    """Keys and values of the past, by layer.

    own: ``[2, B, heads, room, d]``, of which ``count`` positions are written. shared: ``[2, B / r, heads, P, d]``, the
    past that r rows behind one another have in common, or nothing. begin: ``[B]``, where the sequence began.
    """

    own: tuple[Tensor, ...]
    shared: tuple[Tensor, ...]
    begin: Tensor
    count: int
    written: Written

    @property
    def length(self) -> int:
        """How many positions it holds."""
        return self.count + (self.shared[0].shape[3] if self.shared else 0)

    def select(self, rows: Tensor) -> Cache:
        """The past of some rows."""
        own = tuple(layer[:, rows] for layer in self._whole())
        return Cache(own, (), self.begin[rows], self.length, Written(self.length))

    def repeat(self, times: int) -> Cache:
        """Every row ``times`` times; they share their past and write futures of their own."""
        past, own = (
            self._whole(),
            tuple(t.new_empty(2, t.shape[1] * times, t.shape[2], 0, t.shape[4]) for t in self.own),
        )
        return Cache(own, past, self.begin.repeat_interleave(times), 0, Written())

    def detach(self) -> Cache:
        """The same without gradient."""
        own, shared = (tuple(t.detach() for t in layers) for layers in (self.own, self.shared))
        return replace(self, own=own, shared=shared)

    def stored(self) -> dict[str, Any]:
        """The written positions alone, and the room that their buffers have: what follows is computed alike."""
        own = tuple(layer[:, :, :, : self.count].clone() for layer in self.own)
        return {"own": own, "room": self.own[0].shape[3], "shared": self.shared, "begin": self.begin}

    def restored(self, kept: Mapping[str, Any], device: torch.device) -> Cache:
        """With these positions."""
        own, shared = (tuple(layer.to(device) for layer in kept[key]) for key in ("own", "shared"))
        count, rooms = own[0].shape[3], []
        for layer in own:
            rooms.append(layer.new_zeros(*layer.shape[:3], int(kept["room"]), layer.shape[4]))
            rooms[-1][:, :, :, :count] = layer
        return Cache(tuple(rooms), shared, kept["begin"].to(device), count, Written(count))

    def of(self, dtype: torch.dtype) -> Cache:
        """The same in another dtype: what is written in place would be cut to that of the buffer."""
        if self.own[0].dtype == dtype:
            return self
        own, shared = (tuple(t.to(dtype) for t in layers) for layers in (self.own, self.shared))
        return replace(self, own=own, shared=shared, written=Written(self.count))

    def _whole(self) -> tuple[Tensor, ...]:
        """The written positions of every layer, what is shared included."""
        own = tuple(layer[:, :, :, : self.count] for layer in self.own)
        if not self.shared:
            return own
        times = len(self.begin) // self.shared[0].shape[1]
        return tuple(torch.cat((s.repeat_interleave(times, 1), o), 3) for s, o in zip(self.shared, own, strict=True))

    def trimmed(self, last: int) -> Cache:
        """Its last positions alone, where it holds more."""
        gone = self.length - last
        if gone <= 0 or (self.shared and gone < self.length - self.count):
            return self
        own = tuple(layer[:, :, :, self.count - last : self.count] for layer in self.own)
        return Cache(own, (), (self.begin - gone).clamp(min=0), last, Written(last))

    def with_room(self, more: int) -> Cache:
        """One whose buffers take ``more`` positions that nobody else writes."""
        room = self.own[0].shape[3]
        if self.count + more <= room and self.written.count == self.count:
            return self
        size = room if self.count + more <= room else max(2 * room, self.count + more, ROOM)
        own = []
        for layer in self.own:
            fresh = layer.new_empty(*layer.shape[:3], size, layer.shape[4])
            fresh[:, :, :, : self.count] = layer[:, :, :, : self.count].detach()
            own.append(fresh)
        return replace(self, own=tuple(own), written=Written(self.count))


def angles(total: int, d: int, like: Tensor) -> Tensor:
    """Cosines and sines ``[2, total, d / 2]`` of the rotary positions 0 … total − 1."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    rates = torch.exp(torch.arange(d // 2, device=like.device, dtype=dtype) * (-math.log(10000.0) / (d // 2)))
    turns = torch.arange(total, device=like.device, dtype=dtype).unsqueeze(1) * rates
    return torch.stack((turns.cos(), turns.sin())).to(like.dtype)


def rotated(x: Tensor, turns: Tensor) -> Tensor:
    """x ``[..., n, d]`` at the positions of ``turns``, ``[2, n, d / 2]``."""
    (cos, sin), (a, b) = turns, x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


class Block(nn.Module):
    """Attention, then two layers, each added to what it reads."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, n, width]`` to queries ``[B, heads, n, d]``, and keys and values ``[2, B, heads, n, d]``."""
        B, n, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(B, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return q, torch.stack((k, v))

    def after(self, x: Tensor, seen: Tensor) -> Tensor:
        """What was attended to ``[B, heads, n, d]``, added to x ``[B, n, width]``, and the layers behind it."""
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm_2(x))


def attend(q: Tensor, kv: Tensor, turns: Tensor, mask: Tensor | None, shared: Tensor | None = None) -> Tensor:
    """Attention of the last positions to all of them; the keys of ``shared`` come before those of ``kv``.

    Keys are kept as they are and rotated where they are read, so that positions stay small however long a past is.
    """
    before = 0 if shared is None else shared.shape[3]
    q, k = rotated(q, turns[:, -q.shape[2] :]), rotated(kv[0], turns[:, before:])
    if shared is None:
        return F.scaled_dot_product_attention(q, k, kv[1], attn_mask=mask, is_causal=mask is None)
    rows, (heads, n, d) = shared.shape[1], q.shape[1:]
    times = len(q) // rows
    several = q.view(rows, times, heads, n, d).transpose(1, 2).reshape(rows, heads, times * n, d)
    far = several @ rotated(shared[0], turns[:, :before]).transpose(-1, -2)
    far = far.view(rows, heads, times, n, before).transpose(1, 2).reshape(len(q), heads, n, before)
    scores = torch.cat((far, q @ k.transpose(-1, -2)), -1) / math.sqrt(d)
    assert mask is not None
    weights = scores.masked_fill(~mask, -math.inf).softmax(-1)
    share = weights[..., :before].view(rows, times, heads, n, before).transpose(1, 2)
    seen = share.reshape(rows, heads, times * n, before) @ shared[1]
    seen = seen.view(rows, heads, times, n, d).transpose(1, 2).reshape(len(q), heads, n, d)
    return seen + weights[..., before:] @ kv[1]


class CausalTransformer(nn.Module):
    """``layers`` blocks of ``width`` over series of ``inputs`` numbers a position, to ``outputs``.

    window: how many positions a layer sees, its own included; None for all. ``context`` is what the whole network sees:
    layers · (window − 1) + 1.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int = 64, heads: int = 4, layers: int = 2, window: int | None = None
    ) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ConfigError(f"CausalTransformer: expected a width that 2 · heads = {2 * heads} divides, got {width}")
        self.inputs, self.heads, self.width, self.window = inputs, heads, width, window
        self.context: int | None = None if window is None else layers * (window - 1) + 1
        self.embed = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(Block(width, heads, 4 * width) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, *series: Tensor, reset: Tensor | None = None) -> Tensor:
        """Series ``[B, T, ...]`` to ``[B, T, outputs]``, all positions at once."""
        x = self.embed(joined(series, self.inputs, "CausalTransformer"))
        B, T = x.shape[:2]
        simple = reset is None and (self.window is None or self.window >= T)
        mask = None
        if not simple:
            starts = begins(None if reset is None else reset != 0, x.new_zeros(B, dtype=torch.long), 0, T)
            mask = self._mask(starts if reset is not None else starts[:1], 0, T)
        turns = angles(T, self.width // self.heads, x)
        for block in self.blocks:
            assert isinstance(block, Block)
            q, kv = block.project(x)
            x = block.after(x, attend(q, kv, turns, mask))
        return self.head(self.norm(x))

    def step(self, cache: Cache, *x: Tensor, reset: Tensor | None = None) -> tuple[Cache, Tensor]:
        """The next n positions ``[B, n, ...]``: the new cache, and ``[B, n, outputs]``."""
        new = self.embed(joined(x, self.inputs, "CausalTransformer"))
        n, cache = new.shape[1], cache.of(new.dtype)
        if self.window is not None and cache.length > 2 * self.window:
            cache = cache.trimmed(self.window - 1)
        first, follows = cache.length, self._follows(cache, new)
        if not follows:
            cache = cache.with_room(n)
        starts = begins(None if reset is None else reset != 0, cache.begin, first, n)
        mask, turns = self._mask(starts, first, first + n), angles(first + n, self.width // self.heads, new)
        own = []
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            q, kv = block.project(new)
            past = cache.own[number]
            if follows:
                past = torch.cat((past[:, :, :, : cache.count], kv), 3)
            else:
                past[:, :, :, cache.count : cache.count + n] = kv
            own.append(past)
            shared = cache.shared[number] if cache.shared else None
            new = block.after(new, attend(q, past[:, :, :, : cache.count + n], turns, mask, shared))
        written = Written(cache.count) if follows else cache.written
        written.count += n
        cache = Cache(tuple(own), cache.shared, starts[:, -1], cache.count + n, written)
        return cache, self.head(self.norm(new))

    @staticmethod
    def _follows(cache: Cache, x: Tensor) -> bool:
        """Whether gradients go through the cache, which then may not be written in place."""
        return x.requires_grad or any(layer.requires_grad for layer in cache.own)

    def _mask(self, starts: Tensor, first: int, total: int) -> Tensor:
        """``[B, 1, n, total]``: which of all positions each of the last n sees."""
        keys = torch.arange(total, device=starts.device)
        queries = keys[first:].unsqueeze(1)
        seen = (keys <= queries) & (keys >= starts.unsqueeze(-1))
        if self.window is not None:
            seen = seen & (keys > queries - self.window)
        return seen.unsqueeze(1)

    def cache(
        self, batch: int, length: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Cache:
        """Room for ``length`` positions, none of them written."""
        room = length if self.window is None else min(length, 2 * self.window + 1)
        shape = (2, batch, self.heads, room, self.width // self.heads)
        own = tuple(torch.empty(shape, device=device, dtype=dtype) for _ in self.blocks)
        return Cache(own, (), torch.zeros(batch, dtype=torch.long, device=device), 0, Written())
