"""The fork's measures: claims that count by themselves, worlds that are known."""

import pytest
import torch

from worldformula.cards import load
from worldformula.cards.fork import CLAIMS, TINY, WORLDS, Crossing, Drives, evaluate, opened
from worldformula.envs.fork import LANE
from worldformula.worlds import latent_jepa

GOOD = {"nmi_two": 0.99, "best_two": 0.01, "best_none": 1.0, "near_none": 0.95, "auroc_two": 1.0, "texture_two": 0.5}


@pytest.mark.parametrize(
    ("change", "holds"),
    [({}, 5), ({"nmi_two": 0.5}, 4), ({"best_none": 0.5}, 4), ({"near_none": 0.1}, 4), ({"texture_two": 0.7}, 4),
     ({"auroc_two": 0.85}, 4), ({"best_two": 0.3, "nmi_two": 0.0}, 3)],
)  # fmt: skip
def test_each_claim_counts_by_itself(change, holds):
    assert sum(claim(GOOD | change) for claim in CLAIMS.values()) == holds


def test_what_a_free_latent_opens_is_the_difference_and_its_interval_decides():
    card, low = load("fork"), [0.21, 0.27, 0.03]
    assert opened({"auroc_two": 0.99, "auroc_free": 0.78}) == pytest.approx(0.21)
    rows = [{"claims": 5.0, "opened": 0.2 + 0.02 * (i % 3)} for i in card.seeds]
    assert card.holds(rows)
    assert not card.holds([{**rows[0], "claims": 4.0}, *rows[1:]])
    wide = [{"claims": 5.0, "opened": low[i % 3]} for i in range(5)]
    assert not card.holds(wide)  # their mean is above .1, and the end of its interval is not


class Eye(torch.nn.Module):
    """Sees where the orange car is, and nothing else: (y, x) and the 14 numbers that are left are zeros."""

    def forward(self, pictures):
        orange = (pictures - torch.tensor([255, 176, 46]) / 255).abs().sum(-1) < 0.1
        grid = torch.linspace(-1, 1, 32)
        weight = orange.float() / orange.float().sum((1, 2), keepdim=True).clamp_min(1)
        place = torch.stack(((-grid[:, None] * weight).sum((1, 2)), (grid * weight).sum((1, 2))), -1)
        return torch.nn.functional.pad(place, (0, 14))


class Jump(torch.nn.Module):
    """One code is left, the other right."""

    def forward(self, s, a, *z):
        side = z[0][:, 1:] - z[0][:, :1] if z else torch.zeros_like(s[:, :1])
        x = s[:, 1:2] if (s[:, 1].abs() > 0.2).all() else LANE * side
        return torch.cat((s[:, :1] + 0.25 + 0.075 * a[:, :1], x, s[:, 2:]), -1)


def made(kind):
    """A world whose networks are put in by hand."""
    config = WORLDS[kind]
    world = latent_jepa.build(config, {"image": (32, 32, 3)}, 2)
    world.posterior.factors[0].net.forward = Eye().forward
    next(f for f in world.dynamics.prior.factors if f.family is None).net.forward = Jump().forward
    return config, world


def test_worlds_that_are_known_are_told_so():
    data, held_out = Drives.of(1, 64), Drives.of(2, 200)
    config, world = made("two")
    at = Crossing.of(world, held_out, 0)
    assert at.x.abs().unique().tolist() == [LANE]
    assert (at.s[:, 1].abs() < 0.1).all()
    found = evaluate(config, world, data, held_out, 0)
    assert found["nmi"] == pytest.approx(1.0)
    assert found["best"] < 0.02
    assert found["near"] < 0.02
    assert found["auroc"] > 0.99
    assert found["bits"] == pytest.approx(1.0, abs=1e-4)  # its prior knows nothing
    assert abs(found["texture"] - 0.5) < 0.2
    config, world = made("none")
    found = evaluate(config, world, data, held_out, 0)
    assert found["best"] == pytest.approx(1.0, abs=0.02)
    assert found["near"] == pytest.approx(1.0, abs=0.02)
    assert found["auroc"] < 0.05  # it believes in the middle
    assert TINY.codes == 2
