"""The picture of the six modules says what the objects are, and who moves what."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import torch

from worldformula.agent.configurator import Configuration
from worldformula.agent.modes import Surprise, Switch
from worldformula.agent.picture import modules_svg
from worldformula.agents import dreamer_v1, dreamer_v2, dreamer_v3, planet, tdmpc2
from worldformula.envs import ActionSpec, Column
from worldformula.planners.gradient import Gradient

PICTURES = {"image": Column("image", (16, 16, 3), "uint8", low=0, high=255)}
ACTIONS = ActionSpec("continuous", 2)
NS = "{http://www.w3.org/2000/svg}"


def drawn(system, **options):
    agent = system.build(system.tiny(), PICTURES, ACTIONS, seed=0)
    if options:
        agent.configure(Configuration(**options))
    return agent, modules_svg(agent)


def boxes(svg: str) -> dict[str, tuple[str, list[str]]]:
    """Title -> all that is said in the box, and the colours of its bars."""
    found = {}
    for group in ET.fromstring(svg).iter(f"{NS}g"):
        texts = [t.text for t in group.findall(f"{NS}text")]
        if group.get("class") is None and texts:
            found[texts[0]] = (
                " ".join(texts[1:]),
                [r.get("fill") for r in group.findall(f"{NS}rect") if r.get("fill")],
            )
    return found


def test_six_boxes_say_what_the_agent_is() -> None:
    agent, svg = drawn(dreamer_v3)
    found = boxes(svg)
    assert list(found) == ["Configurator", "Perception", "World", "Cost", "Short-term memory", "Actor"]
    assert "image [16, 16, 3] → x_t" in found["Perception"][0]
    assert "p(z_t|h_t)" in found["World"][0]
    assert found["Cost"][0] == "fixed: −reward critics: v"
    assert "π(a_t|h_t,z_t)" in found["Actor"][0]
    assert all(key in found["Short-term memory"][0] for key in agent.world.carried)
    learning = {title for title, (_, bars) in found.items() if bars}
    assert learning == {"Perception", "World", "Cost", "Actor"}


def test_players_have_a_colour_each_and_a_line() -> None:
    agent, svg = drawn(dreamer_v2)
    found = boxes(svg)
    colours = {title: bars for title, (_, bars) in found.items() if bars}
    assert len(colours["World"]) == len(colours["Cost"]) == len(colours["Actor"]) == 1
    assert len({colours["World"][0], colours["Cost"][0], colours["Actor"][0]}) == 3
    for name in agent.objective.players:
        assert f"{name} minimises" in svg


def test_an_agent_without_a_policy_and_one_that_thinks_where_it_is_surprised() -> None:
    _, svg = drawn(planet)
    found = boxes(svg)
    assert "Mode-2: CEM" in found["Actor"][0]
    assert found["Actor"][1] == []
    assert found["Perception"][1]
    _, svg = drawn(
        dreamer_v3, planner=Gradient(horizon=2, candidates=1, iterations=1), weights={"reward": 0.5},
        goal={"goal": torch.zeros(1, 2)}, switch=Switch((Surprise("h", 0.1),)),
    )  # fmt: skip
    found = boxes(svg)
    assert found["Configurator"][0] == "weights: reward 0.5 goal: goal thinks by surprise"
    assert "−0.5·reward" in found["Cost"][0]
    assert "∇C" in svg
    _, svg = drawn(dreamer_v3)
    assert "∇C" not in svg
    _, svg = drawn(dreamer_v1)  # whose policy learns by the gradient of what it dreams
    assert "∇C" in svg


def test_what_is_said_is_escaped_and_stays_in_its_box() -> None:
    for system in (tdmpc2, dreamer_v3, planet):
        columns = {"<b>&": Column("vector", (3,), "float32")}
        agent = system.build(system.tiny(), columns, ACTIONS, seed=0)
        svg = modules_svg(agent)
        ET.fromstring(svg)
        assert "<b>" not in svg
        assert max(len(t) for t in re.findall(r'class="said"[^>]*>([^<]*)<', svg)) <= 130
