"""The parameter counts of DreamerV3, module by module: a layer too many or too few shows here."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from worldformula.errors import ConfigError
from worldformula.nets import sizes
from worldformula.nets.actor import ContinuousActor, DiscreteActor
from worldformula.nets.conv import ImageDecoder, ImageEncoder
from worldformula.nets.gru import BlockGRU
from worldformula.nets.mlp import MLP, VectorDecoder, VectorEncoder
from worldformula.nets.sizes import Sizes

OBSERVATIONS = (14, 1, 9)
ACTIONS = 6
TOTALS = {
    "size1m": (640_867, 686_846),
    "size12m": (9_738_019, 10_494_158),
    "size25m": (21_782_947, 23_489_326),
    "size50m": (38_612_003, 41_650_062),
    "size100m": (86_622_499, 93_468_238),
    "size200m": (153_769_507, 165_948_686),
    "size400m": (345_473_059, 372_896_398),
}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def modules(s: Sizes, images: bool) -> dict[str, int]:
    """Every network of an agent for 24 sensor values (or 64×64×3 images) and 6 actions, on the meta device."""
    with torch.device("meta"):
        d, f, u = s.deter, s.feature, s.units
        encoder = ImageEncoder(64, 3, s.depth) if images else VectorEncoder(OBSERVATIONS, u)
        tokens = 64 * s.depth if images else u
        dynamics = nn.ModuleList([
            BlockGRU(d, s.stoch, ACTIONS, s.hidden, s.blocks),
            MLP(d, s.stoch, s.hidden, layers=2),
            MLP(d + tokens, s.stoch, s.hidden, layers=1),
        ])  # fmt: skip
        vectors = VectorDecoder(d, s.stoch, sum(OBSERVATIONS), u)
        return {
            "enc": count(encoder),
            "dyn": count(dynamics),
            "dec": count(ImageDecoder(64, 3, s.depth, d, s.stoch, u, blocks=s.blocks) if images else vectors),
            "rew": count(MLP(f, 255, u, layers=1, outscale=0)),
            "con": count(MLP(f, 1, u, layers=1)),
            "pol": count(ContinuousActor(f, ACTIONS, u)),
            "val": count(MLP(f, 255, u, layers=3, outscale=0)),
        }


def test_modules_of_size1m() -> None:
    proprio = {"enc": 10_112, "dyn": 364_416, "dec": 51_096, "rew": 57_663, "con": 41_153, "pol": 50_316, "val": 66_111}
    assert modules(sizes.size1m(), images=False) == proprio
    assert modules(sizes.size1m(), images=True) == proprio | {"enc": 14_304, "dyn": 376_704, "dec": 80_595}


def test_modules_of_size12m() -> None:
    expected = {
        "enc": 138_752,
        "dyn": 5_783_040,
        "dec": 794_136,
        "rew": 721_407,
        "con": 656_129,
        "pol": 791_052,
        "val": 853_503,
    }
    assert modules(sizes.size12m(), images=False) == expected


@pytest.mark.parametrize("name", TOTALS)
def test_totals(name: str) -> None:
    size = getattr(sizes, name)()
    assert (sum(modules(size, False).values()), sum(modules(size, True).values())) == TOTALS[name]


def test_a_discrete_actor_has_one_output_per_action() -> None:
    s = sizes.size1m()
    assert count(ContinuousActor(s.feature, 6, s.units)) - count(DiscreteActor(s.feature, 6, s.units)) == 6 * 65


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"multiple of blocks=8, got 100\. Write deter=96"):
        Sizes(deter=100, hidden=16, classes=4, depth=4, units=16)
    with pytest.raises(ConfigError, match="classes"):
        Sizes(deter=64, hidden=16, classes=0, depth=4, units=16)
