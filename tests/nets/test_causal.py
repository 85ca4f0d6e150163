"""Causal networks: the laws, and what each computes against attention and windows by hand."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from worldformula.errors import ConfigError, ShapeError
from worldformula.nets.causal import Causal
from worldformula.nets.transformer import CausalTransformer
from worldformula.nets.window import WindowMLP
from worldformula.testing import check_causal

B, T, W = 3, 9, 5
NETWORKS = {
    "all of the past": lambda: CausalTransformer(W + 1, 4, width=16, heads=2, layers=2),
    "a band of 3": lambda: CausalTransformer(W + 1, 4, width=16, heads=2, layers=2, window=3),
    "a band of 1": lambda: CausalTransformer(W + 1, 4, width=16, heads=2, layers=1, window=1),
    "a frame stack of 3": lambda: WindowMLP(W + 1, 4, context=3, units=8, layers=1),
    "a frame stack of 1": lambda: WindowMLP(W + 1, 4, context=1, units=8, layers=1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_the_laws(build, dtype):
    check_causal(build().to(dtype), torch.randn(B, T, W, dtype=dtype), torch.randn(B, T, dtype=dtype))


def test_the_laws_find_a_network_that_looks_ahead_and_one_that_forgets_to_reset():
    class Ahead(WindowMLP):
        def forward(self, *series, reset=None):
            return super().forward(*(s.roll(-1, 1) for s in series), reset=reset)

    class Deaf(WindowMLP):
        def step(self, cache, *x, reset=None):
            return super().step(cache, *x)

    series = torch.randn(B, T, W), torch.randn(B, T)
    with pytest.raises(AssertionError, match="sees nothing that comes later .*<- broken"):
        check_causal(Ahead(W + 1, 4, context=3), *series)
    with pytest.raises(AssertionError, match="sees nothing before a reset .*<- broken"):
        check_causal(Deaf(W + 1, 4, context=3), *series)


def test_the_verdict_comes_first_and_the_report_is_short():
    class Ahead(CausalTransformer):
        def forward(self, *series, reset=None):
            return super().forward(*(s.roll(-1, 1) for s in series), reset=reset)

    with pytest.raises(AssertionError) as caught:
        check_causal(Ahead(W, 4), torch.randn(B, T, W))
    lines = str(caught.value).splitlines()
    number, of = re.fullmatch(r"causal network Ahead: (\d+) of (\d+) laws broken", lines[0]).groups()
    shown = [line for line in lines if line.endswith("<- broken")]
    assert shown[0].split("|")[0].strip() == "sees nothing that comes later"
    assert len(shown) == 12 < int(number), "the table is bounded"
    assert lines[2:14] == shown
    assert lines[14].startswith(f"  … and {int(number) - 12} more: ")
    assert lines[15].startswith(f"  {int(of) - int(number)} hold: is a Causal: has context, cache and step; ")
    assert len(lines) == 16


def test_the_laws_find_a_network_that_mixes_the_rows_of_a_batch():
    class Centred(WindowMLP):
        def forward(self, *series, reset=None):
            y = super().forward(*series, reset=reset)
            return y - y.mean(0, keepdim=True)

        def step(self, cache, *x, reset=None):
            cache, y = super().step(cache, *x, reset=reset)
            return cache, y - y.mean(0, keepdim=True)

    with pytest.raises(AssertionError, match=r"a row sees no other row .*<- broken"):
        check_causal(Centred(W, 4, context=3), torch.randn(B, T, W))


def test_the_laws_find_steps_without_gradient():
    class Still(WindowMLP):
        def step(self, cache, *x, reset=None):
            with torch.no_grad():
                return super().step(cache, *x, reset=reset)

    with pytest.raises(AssertionError, match="can be differentiated .*<- broken"):
        check_causal(Still(W, 4, context=3), torch.randn(B, T, W))


def test_a_gradient_that_differs_is_named():
    class Cut(WindowMLP):
        def step(self, cache, *x, reset=None):
            return super().step(cache, *(s.detach() if s.shape[1] == 1 else s for s in x), reset=reset)

    with pytest.raises(AssertionError, match=r"steps: gradients that differ +\| none +\| series 1 +\| <- broken"):
        check_causal(Cut(W, 4, context=3), torch.randn(B, T, W))


def test_what_is_no_causal_network_and_series_that_are_too_short_are_told_in_words():
    x, net = torch.randn(B, T, W), WindowMLP(W, 4, context=1)
    with pytest.raises(AssertionError, match="is a Causal: has context, cache and step .*<- broken"):
        check_causal(nn.Linear(W, 4), x)
    for series in ((x[:, :1],), (x[:, :3],), (x[:1],), (x, x[:, 1:]), ()):
        with pytest.raises(ShapeError, match="at least 2 rows and of at least 4 steps"):
            check_causal(net, *series)
    check_causal(net, x[:2, :4])


def test_a_frame_stack_reads_the_last_positions_zeros_before_the_first():
    net, x = WindowMLP(W, 2, context=3, units=8, layers=1).double(), torch.randn(B, T, W).double()
    reset = torch.zeros(B, T)
    reset[:, 4] = 1
    y = net(x, reset=reset)
    frames = torch.cat((torch.zeros(B, 2, W).double(), x), 1)
    for t in range(T):
        window = frames[:, t : t + 3].clone()
        if t in (4, 5):
            window[:, : 6 - t] = 0  # before the reset
        torch.testing.assert_close(y[:, t], net.head(net.trunk(window.flatten(1))))


def test_one_layer_of_attention_by_hand():
    """Position 3 with a band of 3 and a reset at 2: softmax over the positions 2 and 3 alone."""
    net = CausalTransformer(W, 2, width=8, heads=1, layers=1, window=3).double()
    x, reset = torch.randn(1, 5, W).double(), torch.zeros(1, 5)
    reset[0, 2] = 1
    block = net.blocks[0]
    e = net.embed(x)[0]
    q, k, v = block.qkv(block.norm(e)).chunk(3, -1)

    def turn(row, place):
        rates = 10000.0 ** (-torch.arange(4).double() / 4)
        z = torch.polar(torch.ones(4).double(), place * rates) * torch.complex(row[:4], row[4:])
        return torch.cat((z.real, z.imag))

    scores = torch.stack([turn(q[3], 3) @ turn(k[i], i) for i in (2, 3)]) / 8**0.5
    h = e[3] + block.out(F.softmax(scores, 0) @ v[2:4])
    h = h + block.mlp(block.norm_2(h))
    torch.testing.assert_close(net(x, reset=reset)[0, 3], net.head(net.norm(h)), rtol=1e-6, atol=1e-6)


def test_a_cache_grows_is_written_in_place_and_forgets_what_no_layer_sees():
    net, x = CausalTransformer(W, 2, width=8, heads=1, layers=2, window=4), torch.randn(B, 60, W)
    with torch.no_grad():
        cache, whole = net.cache(B, 60), net(x)
        rooms = set()
        for t in range(60):
            before = cache
            cache, y = net.step(cache, x[:, t : t + 1])
            torch.testing.assert_close(y[:, 0], whole[:, t], atol=1e-5, rtol=1e-4)
            rooms.add(cache.own[0].shape[3])
        assert max(rooms) <= 16
        assert cache.length <= 9
        assert cache.own[0].data_ptr() == before.own[0].data_ptr()


def test_candidates_share_their_past():
    net, x = CausalTransformer(W, 2, width=8, heads=2, layers=1), torch.randn(B, T, W)
    with torch.no_grad():
        cache, _ = net.step(net.cache(B, T), x)
        many = cache.repeat(100)
        assert many.shared[0].data_ptr() == cache.own[0].data_ptr()
        assert many.own[0].numel() == 0


def test_messages():
    with pytest.raises(ConfigError) as error:
        CausalTransformer(W, 2, width=10, heads=2)
    assert str(error.value) == "CausalTransformer: expected a width that 2 · heads = 4 divides, got 10"
    with pytest.raises(ShapeError) as error:
        WindowMLP(W, 2, context=2)(torch.randn(2, 3, 4))
    assert str(error.value) == "WindowMLP: expected series of 5 numbers a position, got [[2, 3, 4]]"
    cache = WindowMLP(W, 2, context=2).cache(2, 3)
    with pytest.raises(ShapeError) as error:
        cache[:, -1]
    assert str(error.value) == (
        "a memory has its last value only, so it cannot be cut over time\n"
        "take the last state by states.last(), and some of its rows by states.last().select(rows)"
    )
    assert isinstance(WindowMLP(W, 2, context=2), Causal)
    assert not isinstance(torch.nn.GRU(W, 2), Causal)


def test_a_cache_of_whole_numbers_is_not_cut_to_them():
    net, x = CausalTransformer(W, 2, width=8, heads=1), torch.randn(B, T, W)
    with torch.no_grad():
        cache = net.cache(B, T, dtype=torch.long)
        for t in range(T):
            cache, y = net.step(cache, x[:, t : t + 1])
        torch.testing.assert_close(y[:, 0], net(x)[:, -1], rtol=1e-4, atol=1e-5)
