"""Several cameras and whole numbers of an RSSM: one joint picture, one-hots in and classes out, against arithmetic."""

from __future__ import annotations

import math

import pytest
import torch

from worldformula.agents import dreamer_v3
from worldformula.envs import ActionSpec, Column
from worldformula.nets.conv import ImageDecoder
from worldformula.nets.mlp import VectorDecoder
from worldformula.nets.sizes import Sizes
from worldformula.testing import check_world
from worldformula.world import saying
from worldformula.worlds import rssm

SMALL = rssm.RSSMConfig(Sizes(deter=16, hidden=8, classes=4, groups=4, blocks=2, depth=2, units=8), free_nats=0.0)
SHAPES = {"front": (16, 16, 3), "side": (16, 16, 1), "speed": (2,), "gear": (3,), "turn": (6,)}
CLASSES = {"gear": (3,), "turn": (2, 4)}
B, T = 3, 5


def batch(*keys: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    hot = {n: torch.eye(n)[torch.randint(n, (B, T))] for n in (3, 2, 4)}
    all_of_them = {
        "front": torch.rand(B, T, 16, 16, 3), "side": torch.rand(B, T, 16, 16, 1), "speed": torch.randn(B, T, 2),
        "gear": hot[3], "turn": torch.cat((hot[2], hot[4]), -1),
    }  # fmt: skip
    rest = {"a": torch.randn(B, T, 2), "r": torch.randn(B, T), "c": torch.ones(B, T)}
    return {key: all_of_them[key] for key in keys} | rest | {"first": torch.zeros(B, T, dtype=torch.bool)}


def test_every_observation_counts_as_by_hand() -> None:
    world = rssm.build(SMALL, SHAPES, 2, CLASSES)
    data = batch(*SHAPES)
    out = world.loss(**data, seed=0)
    h, z = (out.samples[name].flatten(0, 1) for name in "hz")
    (pictures,) = {m for m in world.modules() if isinstance(m, ImageDecoder)}
    (vectors,) = {m for m in world.modules() if isinstance(m, VectorDecoder)}
    seen = torch.cat((data["front"], data["side"]), -1).flatten(0, 1)
    error = (pictures(h, z) - seen).square().flatten(1).sum(-1)
    logits = vectors(h, z)
    assert logits.shape == (B * T, 2 + 3 + 2 + 4)
    speed = torch.sign(data["speed"]) * torch.log1p(data["speed"].abs())
    missed = (logits[:, :2] - speed.flatten(0, 1)).square().sum(-1)
    parts = {  # by the names of the observations: gear, turn
        "k_{1,t}|g_{1,t}": (2, 5, "gear", 0),
        "k_{2,t}|g_{2,t}": (5, 7, "turn", 0),
        "k_{3,t}|g_{3,t}": (7, 11, "turn", 2),
    }
    constant = 0.5 * math.log(2 * math.pi * 0.5)
    right = {
        "log p(i_t|h_t,z_t)": (-error - 16 * 16 * 4 * constant).mean(),
        "log p(y_t|d_t)": (-missed - 2 * constant).mean(),
    }
    for name, (start, stop, key, first) in parts.items():
        hot = data[key].flatten(0, 1)[:, first : first + stop - start]
        right[f"log p({name})"] = (logits[:, start:stop].log_softmax(-1) * hot).sum(-1).mean()
    for name, value in right.items():
        torch.testing.assert_close(out.terms[name], value, rtol=1e-4, atol=1e-4)
    decoded = world.decode(world.filter(data, seed=0))
    whole = pictures(h, z).unflatten(0, (B, T))
    torch.testing.assert_close(decoded["front"], whole[..., :3], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(decoded["side"], whole[..., 3:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(decoded["k_2"], logits[:, 5:7].softmax(-1).unflatten(0, (B, T)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("keys", [("front", "side"), ("gear",), ("turn", "speed")])
def test_the_laws_hold_with_any_of_them(keys: tuple[str, ...]) -> None:
    shapes = {key: SHAPES[key] for key in keys}
    world = rssm.build(SMALL, shapes, 2, {key: CLASSES[key] for key in keys if key in CLASSES})
    data = batch(*keys)
    if len(keys) == 1:
        data["x"] = data.pop(keys[0])
    check_world(world, data)


@pytest.mark.parametrize("beside", ["gear", "speed", ""])
def test_choices_of_as_many_classes_are_one_factor(beside: str) -> None:
    """A board of 2 × 3 cells of 4 classes: its −log p by hand, and one head that says all of it."""
    shapes: dict[str, tuple[int, ...]] = {"board": (24,)} | ({beside: SHAPES[beside]} if beside else {})
    classes = {"board": (4,) * 6} | ({"gear": CLASSES["gear"]} if beside == "gear" else {})
    world = rssm.build(SMALL, shapes, 2, classes)
    cells = torch.randint(4, (B, T, 6))
    seen = torch.nn.functional.one_hot(cells, 4).flatten(-2).float()
    data = batch(beside) if beside else batch("gear")
    data["board" if beside else "x"] = seen
    data = {key: data[key] for key in (*world.loss.program.inputs,) if key in data}
    heads = saying.heads_of(world, classes, "board")
    assert heads == [{"gear": "k_1", "speed": "k", "": "k"}[beside]]
    states = world.filter(data, seed=0)
    said = world.decode(states, heads)[heads[0]]
    assert said.shape == (B, T, 6, 4)
    out = world.loss(**data, seed=0)
    (term,) = (value for name, value in out.terms.items() if name.startswith(f"log p({_at_t(heads[0])}|"))
    drawn = out.samples
    logits = world.heads[heads[0]].net(drawn["h"].flatten(0, 1), drawn["z"].flatten(0, 1)).view(B, T, 6, 4)
    by_hand = logits.log_softmax(-1).gather(-1, cells[..., None])[..., 0].sum(-1).mean()
    torch.testing.assert_close(term, by_hand, rtol=1e-4, atol=1e-4)
    check_world(world, data)


def _at_t(head: str) -> str:
    name, _, number = head.partition("_")
    return f"{name}_{{{number},t}}" if number else f"{name}_t"


def test_one_hots_are_read_as_they_are() -> None:
    world = rssm.build(SMALL, {"gear": (3,)}, 2, {"gear": (3,)})
    (encoder,) = {m for m in world.modules() if isinstance(m, rssm.Encoder)}
    assert encoder.vector is not None
    one = torch.eye(3)
    torch.testing.assert_close(encoder(one), encoder.vector.trunk(one))


def test_two_cameras_have_one_decoder_of_the_published_size() -> None:
    """64 × 64, three channels and one: 80,595 parameters for three, and 201 for one more."""
    columns = {
        "front": Column("image", (64, 64, 3), "uint8", 0, 255),
        "side": Column("image", (64, 64, 1), "uint8", 0, 255),
    }
    agent = dreamer_v3.build(dreamer_v3.size1m(), columns, ActionSpec("continuous", 6))
    (decoder,) = {m for m in agent.modules() if isinstance(m, ImageDecoder)}
    assert sum(p.numel() for p in decoder.parameters()) == 80_796


def test_an_agent_says_what_its_whole_numbers_are() -> None:
    columns = {
        "card": Column("discrete", (2,), "int64", 0, 3, (3, 4), (0, 0)),
        "speed": Column("vector", (2,), "float32"),
    }
    agent = dreamer_v3.build(dreamer_v3.DreamerConfig(SMALL, layers=1), columns, ActionSpec("discrete", 3, (3,)))
    assert "k_{1,t},k_{2,t} = choices(card_t)" in repr(agent.world.loss)
    assert list(agent.world.heads) == ["y", "k_1", "k_2", "r", "c"]
