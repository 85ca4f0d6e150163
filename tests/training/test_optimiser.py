from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldformula.errors import ConfigError
from worldformula.nets.sizes import Sizes
from worldformula.training.chosen import chosen
from worldformula.training.config import FitConfig
from worldformula.training.optimiser import ClipUnits, LaProp, clip_to_weights

GRADIENTS = [(6.0, 8.0), (0.3, -0.4), (0.0, 2.0)]
CLIPPED = [(0.9, 1.2), (0.3, -0.4), (0.0, 1.499976)]
WEIGHTS = [(2.99996, 3.99996), (2.999931636, 3.999950470), (2.999913738, 3.999924915)]


def test_golden_values() -> None:
    w = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    optimiser = LaProp([w], lr=4e-5, warmup=0)
    for gradient, clipped, weights in zip(GRADIENTS, CLIPPED, WEIGHTS, strict=True):
        w.grad = torch.tensor(gradient, dtype=torch.float64)
        assert clip_to_weights([w.grad], [w], 0.3, 1e-3)[0].tolist() == pytest.approx(clipped, abs=1e-6)
        optimiser.step()
        assert w.tolist() == pytest.approx(weights, abs=1e-9)


def reference(w: Tensor, gradients: list[Tensor], lr: float, warmup: int) -> Tensor:
    """One tensor, straight from the formula, in double precision."""
    w, size, momentum = w.double().clone(), torch.zeros_like(w).double(), torch.zeros_like(w).double()
    for n, g in enumerate(gradients, 1):
        g = g.double()
        if g.norm() > 0:
            g = g * min(1.0, 0.3 * max(1e-3, w.norm().item()) / g.norm().item())
        size = 0.999 * size + 0.001 * g**2
        momentum = 0.9 * momentum + 0.1 * g / ((size / (1 - 0.999**n)).sqrt() + 1e-20)
        w -= lr * min(1.0, (n - 1) / warmup) * momentum / (1 - 0.9**n)
    return w


def test_many_tensors_against_the_formula() -> None:
    torch.manual_seed(0)
    shapes, steps = [(4, 3), (7,), (), (2, 3, 4)], 12
    start = [torch.randn(s) for s in shapes]
    start[1].zero_()  # a head that starts at zero: min_norm decides its clipping
    gradients = [[torch.randn(s) * 10.0 ** (t - 6) for s in shapes] for t in range(steps)]
    gradients[3][0].zero_()
    params = [nn.Parameter(w.clone()) for w in start]
    optimiser = LaProp(params, lr=1e-2, warmup=5)
    for row in gradients:
        for p, g in zip(params, row, strict=True):
            p.grad = g.clone()
        optimiser.step()
    for i, p in enumerate(params):
        expected = reference(start[i], [row[i] for row in gradients], 1e-2, 5)
        torch.testing.assert_close(p.detach().double(), expected, atol=1e-6, rtol=1e-5)


def test_warm_up_is_linear_from_zero() -> None:
    w = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimiser = LaProp([w], lr=1e-3, clip=0.0, warmup=4)
    moves = []
    for _ in range(6):  # a constant gradient makes m / (1 − β₁ⁿ) exactly one
        before = w.item()
        w.grad = torch.ones(1, dtype=torch.float64)
        optimiser.step()
        moves.append(before - w.item())
    assert moves == pytest.approx([0.0, 0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3], abs=1e-12)


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("linear", [0, 0.5, 1, 0.775, 0.55, 0.325, 0.1, 0.1]),
        ("cosine", [0, 0.5, 1, 0.868198, 0.55, 0.231802, 0.1, 0.1]),
    ],
)
def test_behind_the_warm_up_the_rate_falls_to_a_tenth(schedule: str, wanted: list[float]) -> None:
    """.1 + .9 · (1 − k/4), and .1 + .9 · (1 + cos(π k/4))/2, for k = 0 … 4."""
    w = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimiser = LaProp([w], lr=1e-3, clip=0.0, warmup=2, schedule=schedule, anneal=6)  # type: ignore[arg-type]
    moves = []
    for _ in wanted:
        before = w.item()
        w.grad = torch.ones(1, dtype=torch.float64)
        optimiser.step()
        moves.append(1e3 * (before - w.item()))
    assert moves == pytest.approx(wanted, abs=1e-6)


def test_weights_of_two_axes_decay_by_the_rate_and_others_do_not() -> None:
    """With a gradient of zero nothing else moves: w (1 − lr d)ⁿ; with one of ones lr more, of the same w."""
    matrix, bias = (nn.Parameter(torch.full(shape, 2.0, dtype=torch.float64)) for shape in ((2, 2), (2,)))
    optimiser = LaProp([matrix, bias], lr=0.1, clip=0.0, warmup=0, decay=0.5)
    for _ in range(3):
        matrix.grad, bias.grad = torch.zeros_like(matrix), torch.zeros_like(bias)
        optimiser.step()
    assert matrix.flatten().tolist() == pytest.approx([2 * 0.95**3] * 4)
    assert bias.tolist() == [2.0, 2.0]
    one = nn.Parameter(torch.full((1, 1), 2.0, dtype=torch.float64))
    optimiser = LaProp([one], lr=0.1, clip=0.0, warmup=0, decay=0.5)
    one.grad = torch.ones_like(one)
    optimiser.step()
    assert one.item() == pytest.approx(2.0 - 0.1 * (1.0 + 0.5 * 2.0))


def test_clipping_leaves_the_gradients_and_the_direction_alone() -> None:
    g, w = torch.tensor([30.0, 40.0]), torch.tensor([0.0, 0.0])
    assert clip_to_weights([g], [w], 0.3, 1e-3)[0].tolist() == pytest.approx([1.8e-4, 2.4e-4])
    assert g.tolist() == [30.0, 40.0]
    assert clip_to_weights([torch.zeros(2)], [w], 0.3, 1e-3)[0].tolist() == [0.0, 0.0]


def test_a_parameter_without_gradient_keeps_value_and_age() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimiser = LaProp([a, b], lr=0.1, warmup=0)
    for with_b in (False, True):
        a.grad, b.grad = torch.ones(2), torch.ones(2) if with_b else None
        optimiser.step()
    assert [optimiser.state[p]["step"].item() for p in (a, b)] == [2, 1]
    assert b.tolist() == pytest.approx([0.9, 0.9])


def test_a_restored_run_continues_bit_for_bit() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(8, 2, 5)

    def advance(params: list[nn.Parameter], optimiser: LaProp, rows: Tensor) -> None:
        for row in rows:
            for p, g in zip(params, row, strict=True):
                p.grad = g.clone()
            optimiser.step()

    whole = [nn.Parameter(torch.ones(5)), nn.Parameter(torch.full((5,), 2.0))]
    optimiser = LaProp(whole, warmup=3)
    advance(whole, optimiser, gradients[:4])
    copies = [nn.Parameter(p.detach().clone()) for p in whole]
    restored = LaProp(copies, lr=99.0)
    restored.load_state_dict(copy.deepcopy(optimiser.state_dict()))  # torch shares the tensors
    advance(whole, optimiser, gradients[4:])
    advance(copies, restored, gradients[4:])
    for p, q in zip(whole, copies, strict=True):
        assert torch.equal(p, q)
    assert restored.param_groups[0]["lr"] == 4e-5


def test_it_minimises_and_returns_the_loss_of_a_closure() -> None:
    w = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimiser = LaProp([w], lr=1e-2, warmup=0)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = (w - 1).square().sum()
        loss.backward()
        return loss

    losses = [optimiser.step(closure).item() for _ in range(600)]
    assert losses[0] == 13.0
    assert losses[-1] < 1e-3


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"betas=\(0.9, 1.0\)"):
        LaProp([nn.Parameter(torch.ones(1))], betas=(0.9, 1.0))


def clipped_by_hand(gradients: list[np.ndarray], weights: list[np.ndarray]) -> list[np.ndarray]:
    """One unit, all of whose tensors share a norm."""
    size = np.sqrt(sum((g**2).sum() for g in gradients))
    limit = 0.3 * max(1e-3, np.sqrt(sum((w**2).sum() for w in weights)))
    return [g * min(1.0, limit / size) for g in gradients]


class Kept(nn.Module):
    """Two rows that are tensors of their own elsewhere, and two matrices that are one."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(5, 3))
        self.left, self.right = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(6))
        self.alone = nn.Parameter(torch.randn(3))
        self.clip_units = {"rows": (2, 3), "left": "matrix", "right": "matrix"}


def test_units_of_clipping_against_arithmetic_by_hand() -> None:
    torch.manual_seed(3)
    nets = nn.ModuleList([Kept(), Kept()]).double()
    units, weights = ClipUnits.of(nets), list(nets.parameters())
    gradients = [torch.randn_like(w) * 10.0 ** (i % 4 - 1) for i, w in enumerate(weights)]
    found = clip_to_weights(gradients, weights, 0.3, 1e-3, units)
    for k in (0, 4):  # of one module and then the other: the labels of units are a module's own
        w, g = ([t.detach().numpy() for t in side[k : k + 4]] for side in (weights, gradients))
        parts = [clipped_by_hand([g[0][cut]], [w[0][cut]])[0] for cut in (slice(2), slice(2, 5))]
        right = [np.concatenate(parts), *clipped_by_hand(g[1:3], w[1:3]), *clipped_by_hand(g[3:], w[3:])]
        for ours, hand in zip(found[k : k + 4], right, strict=True):
            np.testing.assert_allclose(ours.numpy(), hand, rtol=1e-12)


def test_a_copy_clips_by_the_units_of_its_own_weights() -> None:
    torch.manual_seed(0)
    net = Kept()
    optimiser = LaProp(net.parameters(), lr=0.1, warmup=0, units=ClipUnits.of(net))
    twin, its = copy.deepcopy((net, optimiser))
    own = {id(p) for p in twin.parameters()}
    assert {id(p) for p in (*its.units.apart, *its.units.together)} <= own
    assert len(its.units.apart) == 1
    assert len(its.units.together) == 2
    for _ in range(3):
        gradients = [10 * torch.randn_like(p) for p in net.parameters()]
        for one, by in ((net, optimiser), (twin, its)):
            for p, g in zip(one.parameters(), gradients, strict=True):
                p.grad = g.clone()
            by.step()
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), twin.parameters(), strict=True))


def test_dreamer_clips_what_its_authors_keep_as_tensors() -> None:
    """Mean and deviation of the policy, every key's output, the three norms of the core apart; its one matrix whole."""
    from worldformula.agents.dreamer_v3 import DreamerConfig, build
    from worldformula.envs import Envs
    from worldformula.worlds import rssm

    config = DreamerConfig(rssm.RSSMConfig(Sizes(deter=16, hidden=8, classes=4, groups=4, blocks=2, depth=2, units=8)))
    envs = Envs("pendulum", 1)
    agent = build(config, envs.observations, envs.actions)
    optimiser = agent.updates.optimisers["agent"]
    assert isinstance(optimiser, LaProp)
    known = {id(p): name for name, p in agent.named_parameters()}
    apart = {known[id(p)]: rows for p, rows in optimiser.units.apart.items()}
    together = sorted(known[id(p)] for p in optimiser.units.together)
    heads = [name for name in apart if "mlp.head" in name]
    assert [apart[name] for name in heads if "π" in name or "pi" in name or "policy" in name] == [(1, 1)] * 2
    assert [rows for name, rows in apart.items() if name.endswith("read_norm.scale")] == [(1, 1, 1)]
    assert [name.rpartition(".")[2] for name in together] == ["weight", "shared"]


def test_an_optimiser_by_its_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optimizer= expects a class such as torch.optim.SGD, .* got 'adam'"):
        chosen("adam", FitConfig(), None)
