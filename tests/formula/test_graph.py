"""The graphical model: what is observed, which edges infer, and a picture without overlaps."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from worldformula.errors import UnknownVariableError
from worldformula.formula.factors import Data, Deterministic, Factor, Normal
from worldformula.formula.graph import Graph, graph, svg
from worldformula.formula.nodes import Binary, Divergence, Expectation, Log, Node, OverTime, Use

NS = "{http://www.w3.org/2000/svg}"


def normal(header: str) -> Factor:
    return Normal(header, nn.Identity(), shape=2)


def function(header: str) -> Factor:
    return Deterministic(header, nn.Identity(), shape=2)


def uses(*factors: Factor) -> tuple[Use, ...]:
    return tuple(map(Use, factors))


def vae() -> Node:
    q = normal("q(z|x)")
    return Binary("-", Divergence(Use(q), Use(normal("p(z)"))), Expectation(uses(q), Log(uses(normal("p(x|z)")))))


def rssm_factors() -> dict[str, Factor]:
    return {
        "e": function("e_t = enc(x_t)"),
        "h": function("h_t = f(h_{t-1}, z_{t-1}, a_{t-1})"),
        "prior": normal("p(z_t|h_t)"),
        "post": normal("q(z_t|h_t,e_t)"),
        "x": normal("p(x_t|h_t,z_t)"),
        "r": normal("p(r_t|h_t,z_t)"),
        "c": normal("p(c_t|h_t,z_t)"),
    }


def rssm() -> Node:
    f = rssm_factors()
    body: Node = Divergence(Use(f["post"]), Use(f["prior"]))
    for head in "xrc":
        body = Binary("-", body, Log(uses(f[head])))
    return OverTime("sum", "t", Expectation(uses(f["e"], f["h"], f["post"]), body))


def hierarchy() -> list[Factor]:
    generative = ["p(z_3)", "p(z_2|z_3)", "p(z_1|z_2,z_3)", "p(x|z_1,z_2,z_3)"]
    return [normal(h) for h in [*generative, "q(z_3|x)", "q(z_2|z_3,x)", "q(z_1|z_2,z_3,x)"]]


def kinds(g: Graph) -> dict[str, str]:
    return {v.name: v.kind for v in g.vertices}


def edges(g: Graph, kind: str) -> set[tuple[str, str]]:
    return {(str(e.source), str(e.target)) for e in g.edges if e.kind == kind}


def test_a_vae_shades_its_data_and_dashes_its_encoder():
    g = graph(vae())
    assert kinds(g) == {"z": "latent", "x": "observed"}
    assert edges(g, "generative") == {("z", "x")}
    assert edges(g, "inference") == {("x", "z")}
    assert g.index is None


def test_an_rssm_has_two_slices_and_an_encoder_on_the_inference_side():
    g = graph(rssm())
    assert kinds(g) == {
        "e_t": "deterministic", "x_t": "observed", "h_t": "deterministic", "h_{t-1}": "deterministic",
        "z_{t-1}": "latent", "a_{t-1}": "observed", "z_t": "latent", "r_t": "observed", "c_t": "observed",
    }  # fmt: skip
    assert edges(g, "inference") == {("x_t", "e_t"), ("h_t", "z_t"), ("e_t", "z_t")}
    assert ("h_t", "z_t") in edges(g, "generative")
    assert ("h_{t-1}", "z_{t-1}") in edges(g, "generative")  # the step before repeats what the picture shows of it
    assert {v.name: v.slice for v in g.vertices}["a_{t-1}"] == -1
    assert g.index == "t"


def test_a_list_of_factors_shades_what_the_inference_model_reads_and_the_leaves():
    assert kinds(graph(rssm_factors().values()))["r_t"] == "observed"
    assert kinds(graph(hierarchy())) == {"z_1": "latent", "z_2": "latent", "z_3": "latent", "x": "observed"}


def test_observed_names_replace_the_guess():
    g = graph([normal("p(z)"), normal("p(x|z)")], observed=["z"])
    assert kinds(g) == {"z": "observed", "x": "latent"}


def test_an_unknown_observed_variable_is_refused_with_the_near_miss():
    with pytest.raises(UnknownVariableError, match=r"reward.*found 'rewrd'.*Did you mean 'reward'"):
        graph([normal("p(reward|z)")], observed=["rewrd"])


def test_an_encoder_called_p_infers_when_an_expectation_samples_it_and_a_rival_is_not_sampled():
    encoder, prior, decoder = normal("p(z|x)"), normal("r(z)"), normal("q(y|z)")
    node = Binary("-", Divergence(Use(encoder), Use(prior)), Expectation(uses(encoder), Log(uses(decoder))))
    assert ("x", "z") in edges(graph(node), "inference")


def test_data_factors_are_observed_though_an_expectation_samples_them():
    node = Expectation(uses(Data("p_data(x)", shape=2), normal("q(z|x)")), Log(uses(normal("p(x|z)"))))
    assert kinds(graph(node)) == {"x": "observed", "z": "latent"}


def test_the_dictionary_holds_plain_strings():
    found = graph(vae()).as_dict()
    assert {"source": "x", "target": "z", "kind": "inference"} in found["edges"]
    assert {"name": "x", "kind": "observed", "slice": None} in found["vertices"]


# ------------------------------------------------------------------------------------------------------- the picture


def circles(picture: str) -> dict[str, tuple[np.ndarray, float]]:
    """Centre and radius of every vertex, by the name in its title."""
    found = {}
    for group in ET.fromstring(picture).iter(f"{NS}g"):
        if group.get("class") in ("latent", "observed", "deterministic"):
            circle = group.find(f"{NS}circle")
            name = group.findtext(f"{NS}title", "").split(":")[0]
            found[name] = np.array([float(circle.get("cx")), float(circle.get("cy"))]), float(circle.get("r"))
    return found


def arrows(picture: str) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """(source, target, points of the line [N, 2], tip) of every edge."""
    found = []
    for group in ET.fromstring(picture).iter(f"{NS}g"):
        if group.get("class") in ("generative", "inference"):
            source, target = group.findtext(f"{NS}title").rsplit(":", 1)[0].split(" to ")
            numbers = list(map(float, re.findall(r"-?[\d.]+", group.find(f"{NS}path").get("d"))))
            p = np.array(numbers).reshape(-1, 2)
            t = np.linspace(0, 1, 60)[:, None]
            bezier = (1 - t) ** 2 * p[0] + 2 * t * (1 - t) * p[1] + t**2 * p[-1]
            line = bezier if len(p) == 3 else (1 - t) * p[0] + t * p[1]
            tip = np.array(list(map(float, group.find(f"{NS}polygon").get("points").split()[0].split(","))))
            found.append((source, target, line, tip))
    return found


@pytest.mark.parametrize("source", [vae(), rssm(), hierarchy()], ids=["vae", "rssm", "hierarchy"])
def test_arrows_touch_the_borders_of_their_circles_and_cross_no_other_circle(source):
    picture = svg(graph(source))
    where = circles(picture)
    assert len(arrows(picture)) == len(graph(source).edges)
    for start, end, line, tip in arrows(picture):
        for name, point in ((start, line[0]), (end, tip)):
            centre, radius = where[name]
            assert abs(np.linalg.norm(point - centre) - radius) < 0.2
        for name, (centre, radius) in where.items():
            if name not in (start, end):
                assert np.linalg.norm(line - centre, axis=1).min() > radius, f"{start} to {end} runs through {name}"


def test_parents_are_above_their_children_within_a_step():
    picture = svg(graph(rssm()))
    where = {name: centre for name, (centre, _) in circles(picture).items()}
    for parent, child in [("h_t", "z_t"), ("z_t", "x_t"), ("z_t", "r_t"), ("h_{t-1}", "z_{t-1}")]:
        assert where[parent][1] < where[child][1]
    assert where["h_t"][1] == where["h_{t-1}"][1]


def test_the_separation_lies_between_the_slices():
    picture = svg(graph(rssm()))
    x = float(re.search(r'class="separator" d="M([-\d.]+)', picture)[1])
    for name, (centre, radius) in circles(picture).items():
        assert (centre[0] + radius < x) == ("t-1" in name)
    assert "separator" not in svg(graph(vae())).split("</style>")[1]


def test_labels_are_typeset():
    text = re.sub(r"<[^>]*>", "", svg(graph([normal(r"p(\hat x_t|theta, h'_{t-1})")])).split("</style>")[1])
    assert "x\u0302t" in text
    assert "θ" in text
    assert "h\u2032t\u22121" in text
    assert svg(graph(rssm())).count("<tspan dy=") == 9


def test_kinds_are_drawn_apart():
    picture = svg(graph(rssm()))
    groups = list(ET.fromstring(picture).iter(f"{NS}g"))
    rings = {g.get("class"): len(g.findall(f"{NS}circle")) for g in groups if g.find(f"{NS}circle") is not None}
    assert rings == {"observed": 1, "latent": 1, "deterministic": 2}
    dashed = re.search(r"\.wf-graph \.(\w+) path\{stroke-dasharray", picture)[1]
    assert dashed == "inference"


def test_the_picture_is_deterministic_and_carries_no_fixed_text_colour():
    assert svg(graph(rssm())) == svg(graph(rssm()))
    assert 'stroke="#' not in svg(graph(rssm()))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_circles_never_overlap_and_stay_inside_the_picture(data):
    names = "abcdefghk"[: data.draw(st.integers(1, 8))]
    factors = []
    for i, name in enumerate(names):
        now = [f"{n}_t" for n in data.draw(st.lists(st.sampled_from(names[:i]), unique=True))] if i else []
        before = [f"{n}_{{t-1}}" for n in data.draw(st.lists(st.sampled_from(names), unique=True, max_size=2))]
        given_ = ",".join(now + before)
        factors.append(normal(f"p({name}_t|{given_})") if given_ else Normal(f"p({name}_t)", shape=2))
    picture = svg(graph(factors))
    width, height = (float(v) for v in re.search(r'viewBox="[-\d.]+ [-\d.]+ ([\d.]+) ([\d.]+)"', picture).groups())
    left, top = (float(v) for v in re.search(r'viewBox="([-\d.]+) ([-\d.]+)', picture).groups())
    where = circles(picture)
    for (a, r), (b, s) in itertools.combinations(where.values(), 2):
        assert np.linalg.norm(a - b) > r + s
    for centre, r in where.values():
        assert left <= centre[0] - r
        assert centre[0] + r <= left + width
        assert top <= centre[1] - r
        assert centre[1] + r <= top + height


def test_an_empty_list_draws_an_empty_picture():
    assert ET.fromstring(svg(graph([]))).tag == f"{NS}svg"
