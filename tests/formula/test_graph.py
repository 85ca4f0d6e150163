"""The graphical model: what is observed, which edges infer, and a picture without overlaps."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.formula import temporal
from worldformula import (
    KL,
    Bernoulli,
    E,
    MoE,
    MoPoE,
    OneHot,
    PoE,
    Sum,
    Symbol,
    Value,
    log,
    norm2,
    ratio,
    softplus,
    together,
)
from worldformula.errors import UnknownVariableError
from worldformula.formula.factors.independent import Data, Deterministic, Factor, Normal
from worldformula.formula.graph import layout
from worldformula.formula.graph.graph import Graph, graph, svg
from worldformula.formula.ops.mmd import MMD
from worldformula.formula.ops.score_matching import ScoreMatching
from worldformula.formula.syntax.nodes import Binary, Divergence, Expectation, Log, Node, OverTime, Use

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


# ------------------------------------------------------------------------------------------------ the whole language


def m2():
    """Labels that some rows have: y is drawn in one term and given in another."""
    label, guess = OneHot("p(y)", shape=3), OneHot("q(y|x)", nn.Linear(2, 3), shape=3)
    prior, encode, decode = normal("p(z)"), normal("q(z|x,y)"), normal("p(x|z,y)")
    bound = KL(encode, prior) - E(encode, log(decode)) - log(label)
    return (E(guess, bound + log(guess), gradient="exact") + bound).mean()


def gan():
    """A critic reads what the data are, and what the generator makes."""
    real, noise = Data("p_data(x)", shape=2), normal("p(z)")
    make = Deterministic("x = G(z)", nn.Identity(), shape=2)
    critic = Deterministic("d = D(x)", lambda x: x.sum(-1), shape=())
    fooled = E(noise * make * critic, softplus(-Value("d")))
    return together(d=E(real * critic, softplus(-Value("d"))).mean(), g=fooled.mean())


def modalities(make):
    """Three observations of one latent, inferred by experts."""
    prior = normal("p(z)")
    encode = make([normal(f"q(z|{x})") for x in "xyw"], prior)
    return E(encode, log(encode) - log(prior) - log(normal("p(x|z)")) - log(normal("p(y|z)")) - log(normal("p(w|z)")))


def iwae():
    """Five samples of the latent for every row."""
    p, q = normal("p(z)") * normal("p(x|z)"), normal("q(z|x)")
    return -log(E(q, ratio(p, q), samples=5)).mean()


def plates(g: Graph) -> dict[str, set[str]]:
    return {p.label: set(map(str, p.members)) for p in g.plates}


def test_what_is_drawn_in_one_term_and_given_in_another_is_half_shaded():
    g = graph(m2())
    assert kinds(g) == {"y": "partial", "x": "observed", "z": "latent"}
    assert ("x", "y") in edges(g, "inference")
    assert svg(g).count('class="half"') == 1


def test_a_critic_is_a_function_and_what_it_reads_is_data_or_made():
    g = graph(gan())
    assert kinds(g) == {"x": "partial", "d": "deterministic", "z": "latent"}
    assert edges(g, "generative") == {("z", "x"), ("x", "d")}
    assert plates(g) == {"N": {"x", "d", "z"}}


@pytest.mark.parametrize(
    ("make", "label"),
    [
        (lambda q, p: PoE([p, *q]), "product of experts"),
        (lambda q, p: MoE(q), "mixture of experts"),
        (MoPoE, "mixture over subsets"),
    ],
)
def test_experts_are_drawn_as_their_parts_on_a_plate(make, label):
    g = graph(modalities(make))
    assert kinds(g) == {"z": "latent", "x": "observed", "y": "observed", "w": "observed"}
    assert edges(g, "inference") == {("x", "z"), ("y", "z"), ("w", "z")}
    assert plates(g) == {label: {"x", "y", "w"}}


def test_samples_and_rows_have_a_plate():
    assert plates(graph(iwae())) == {"N": {"z", "x"}, "K = 5": {"z"}}


def test_one_draw_has_no_plate():
    q, p = Normal("q(z|x)", nn.Linear(3, 4), shape=2), Normal("p(z)", shape=2)
    assert plates(graph(E(q, log(p), samples=1))) == {}
    assert plates(graph(E(q, log(p), samples=2))) == {"K = 2": {"z"}}


def test_iterations_have_a_plate_and_end_in_their_last_value():
    g = graph(temporal.draw()[0])
    assert plates(g)["l = 1, …, 4"] == {"e_l", "e_{l-1}", "z_l", "h_l", "h_{l-1}", "c_l", "c_{l-1}"}
    assert ("c_l", "c_L") in edges(g, "generative")
    assert ("c_L", "x") in edges(g, "generative")
    assert graph(temporal.gqn()[0]).index == "l"


def test_a_whole_series_is_made_of_its_steps():
    g = graph(temporal.dmm(reset="first").loss)
    assert edges(g, "inference") == {("z_{t-1}", "z_t"), ("h_t", "z_t"), ("x_{1:T}", "h_t"), ("x_t", "x_{1:T}")}
    assert kinds(g)["x_{1:T}"] == "observed"


def test_a_head_called_q_of_which_nothing_is_drawn_is_generative():
    encode, head = normal("q(z|x)"), OneHot("q(y|z)", nn.Linear(2, 3), shape=3)
    g = graph(Symbol("beta") * KL(encode, normal("r(z)")) - E(encode, log(head)))
    assert edges(g, "generative") == {("z", "y")}
    assert kinds(g) == {"z": "latent", "x": "observed", "y": "observed"}


def test_what_is_summed_out_is_latent():
    kind = OneHot("p(c)", shape=3)
    g = graph(log((kind * Bernoulli("p(x|c)", nn.Linear(3, 2), shape=2)).marginal("c")))
    assert kinds(g) == {"c": "latent", "x": "observed"}


def test_the_functions_of_an_auto_encoder_infer():
    encode, quantise, decode = function("e = enc(x)"), function("z = nearest(e)"), normal("p(x|z)")
    g = graph(E(encode * quantise, -log(decode)))
    assert edges(g, "inference") == {("x", "e"), ("e", "z")}
    assert edges(g, "generative") == {("z", "x")}


def test_data_and_what_is_made_of_them_under_an_index_are_two_variables():
    noisy, guess = function("x_t = blur(x, t, e)"), function("s = score(x_t, t)")
    drawn = Data("p_data(x)", shape=2) * normal("p(t)") * normal("p(e)") * noisy * guess
    g = graph(E(drawn, norm2(Value("e") - Value("s"))))
    assert kinds(g) == {
        "x": "observed", "x_t": "deterministic", "t": "latent", "e": "latent", "s": "deterministic",
    }  # fmt: skip


def test_a_score_looks_at_data_and_its_own_noise_is_not_drawn():
    g = graph(ScoreMatching(function("s = score(x)")).mean())
    assert kinds(g) == {"x": "observed", "s": "deterministic"}


def test_both_sides_of_a_comparison_are_drawn():
    data, encode = Data("p_data(x)", shape=2), normal("q(z|x)")
    g = graph(MMD(data * encode, normal("p(z)"), samples=3))
    assert kinds(g) == {"x": "observed", "z": "latent"}
    assert plates(g) == {"K = 3": {"z"}}


def test_a_latent_that_the_step_before_hands_on_is_not_data():
    assert kinds(graph(temporal.rssm(reset="first").loss))["z_{t-1}"] == "latent"
    assert kinds(graph(temporal.rssm(reset="first").loss))["a_{t-1}"] == "observed"


# ------------------------------------------------------------------------------------------------------- the picture


def circles(picture: str) -> dict[str, tuple[np.ndarray, float]]:
    """Centre and radius of every vertex, by the name in its title."""
    found = {}
    for group in ET.fromstring(picture).iter(f"{NS}g"):
        if group.get("class") in ("latent", "observed", "deterministic", "partial"):
            circle = group.find(f"{NS}circle")
            name = group.findtext(f"{NS}title", "").rsplit(":", 1)[0]
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


PICTURES = {
    "vae": vae, "rssm": rssm, "hierarchy": hierarchy, "m2": m2, "gan": gan, "iwae": iwae,
    "mopoe": lambda: modalities(MoPoE),
    **{case.__name__: lambda case=case: case()[0] for case in (*temporal.TEMPORAL, *temporal.ITERATED)},
}  # fmt: skip


@cache
def drawn(name: str) -> tuple[Graph, str]:
    g = graph(PICTURES[name]())
    return g, svg(g)


@pytest.mark.parametrize("name", PICTURES)
def test_arrows_touch_the_borders_of_their_circles_and_cross_no_other_circle(name):
    g, picture = drawn(name)
    where = circles(picture)
    assert len(arrows(picture)) == len(g.edges)
    for start, end, line, tip in arrows(picture):
        for name, point in ((start, line[0]), (end, tip)):
            centre, radius = where[name]
            assert abs(np.linalg.norm(point - centre) - radius) < 0.2
        for name, (centre, radius) in where.items():
            if name not in (start, end):
                assert np.linalg.norm(line - centre, axis=1).min() > radius, f"{start} to {end} runs through {name}"


@pytest.mark.parametrize("name", PICTURES)
def test_a_plate_holds_its_circles_and_no_others(name):
    g, picture = drawn(name)
    where = circles(picture)
    shown = [e for e in ET.fromstring(picture).iter(f"{NS}g") if e.get("class") == "plate"]
    assert len(shown) == len(g.plates)
    for group in shown:
        label = "".join(group.find(f"{NS}text").itertext())
        members = plates(g)[label]
        x, y, width, height = (float(group.find(f"{NS}rect").get(k)) for k in ("x", "y", "width", "height"))
        for circle, (centre, r) in where.items():
            nearest = np.clip(centre, [x, y], [x + width, y + height])
            inside = np.all(np.abs(centre - [x + width / 2, y + height / 2]) < np.array([width, height]) / 2 - r)
            outside = np.linalg.norm(nearest - centre) > r
            assert inside if circle in members else outside, f"{circle} and the plate {label}"


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


def test_time_runs_from_left_to_right():
    """What lies further back is further left, and what a sequence begins with is left of all its steps."""
    q, p = normal("q(z_t|z_{t-1},z_{t-2},z_{t-3},x_t)"), normal("p(x_t|z_t)")
    where = circles(svg(graph([q, p, normal("p(z_t|z_{t-1},z_{t-2},z_{t-3})")])))
    at = [where[name][0][0] for name in ("z_{t-3}", "z_{t-2}", "z_{t-1}", "z_t")]
    assert all(a + 2 * where["z_t"][1] < b for a, b in itertools.pairwise(at))
    chain = E(normal("q(z_t|z_{t-1},x_t)"), log(p) - KL(normal("q(z_t|z_{t-1},x_t)"), normal("p(z_t|z_{t-1})")))
    where = circles(svg(graph(Sum("t", chain, initial=normal("q(z_0|x_1)")).node)))
    at = [where[name][0][0] for name in ("x_1", "z_0", "z_{t-1}", "z_t")]
    assert all(a < b for a, b in itertools.pairwise(at))
    assert where["x_t"][0][0] > where["z_{t-1}"][0][0]


def slices(picture: str) -> dict[str, float]:
    """The middle of the name of every slice."""
    return {
        "".join(text.itertext()): float(text.get("x"))
        for text in ET.fromstring(picture).iter(f"{NS}text")
        if text.get("class") == "slice"
    }


def test_every_slice_has_its_name_above_it():
    picture = svg(graph([normal("p(x_t|x_{t-1},x_{t-3},h_{t-1})")]))
    where = circles(picture)
    named = slices(picture)
    assert set(named) == {"t \u2212 3", "t \u2212 1", "t"}
    assert named["t \u2212 3"] == where["x_{t-3}"][0][0]
    assert named["t"] == where["x_t"][0][0]
    assert named["t \u2212 1"] == (where["x_{t-1}"][0][0] + where["h_{t-1}"][0][0]) / 2
    assert slices(svg(graph(vae()))) == {}


def test_a_history_is_one_arrow_from_the_past_with_a_mark_of_its_own():
    """z_t is no part of z_{<t}: there is no way back."""
    drawn = graph([normal("q(z_t|x_t)"), normal("p(z_t|z_{<t},a_{<t})"), normal("p(x_t|z_t)")])
    pairs = {(str(e.source), str(e.target)) for e in drawn.edges}
    assert pairs == {("x_t", "z_t"), ("z_{<t}", "z_t"), ("a_{<t}", "z_t"), ("z_t", "x_t")}
    picture = svg(drawn)
    where = circles(picture)
    assert max(where["z_{<t}"][0][0], where["a_{<t}"][0][0]) < min(where["z_t"][0][0], where["x_t"][0][0])
    assert set(slices(picture)) == {"< t", "t"}
    marked = [g.find(f"{NS}title").text for g in ET.fromstring(picture).iter(f"{NS}g") if _arcs(g)]
    assert sorted(marked) == ["a_{<t}: observed", "z_{<t}: latent"]
    upto = graph([function("u_t = f(x_{\\le t})"), function("x_t = g(y_t)"), normal("p(w_t|u_t)")])
    assert ("x_t", "x_{≤t}") in {(str(e.source), str(e.target)) for e in upto.edges}, "x_t is a part of x_{≤t}"


def _arcs(group: ET.Element) -> list[ET.Element]:
    return [path for path in group.findall(f"{NS}path") if path.get("class") == "several"]


def test_what_two_steps_begin_with_leads_to_each_of_them():
    q = normal("q(z_t|z_{t-1},z_{t-2},x_t)")
    loss = Sum("t", E(q, log(normal("p(x_t|z_t)"))), initial=Normal("p(z_0)", shape=2) * Normal("p(z_m1)", shape=2))
    pairs = {(str(e.source), str(e.target)) for e in graph(loss.node).edges}
    assert {("z_0", "z_{t-1}"), ("z_{m1}", "z_{t-2}")} <= pairs
    where = circles(svg(graph(loss.node)))
    assert where["z_{m1}"][0][0] < where["z_{t-2}"][0][0] < where["z_{t-1}"][0][0]


def test_a_picture_is_saved_as_a_file(tmp_path):
    loss = E(normal("q(z|x)"), log(normal("p(x|z)")))
    path = loss.graph().save(tmp_path / "model.svg")
    assert path == tmp_path / "model.svg"
    assert path.read_text(encoding="utf-8") == str(loss.graph()) == loss.graph()._repr_svg_()
    assert ET.parse(path).getroot().tag == f"{NS}svg"


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


@settings(max_examples=12, deadline=None)
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


def test_of_very_many_arrows_as_many_are_compared_as_a_reader_waits_for(monkeypatch):
    """A world of a hundred choices has as many heads of the same two variables."""
    compared, costs = [], layout._costs
    monkeypatch.setattr(layout, "_PAIRS", 2e6)
    monkeypatch.setattr(
        layout, "_costs", lambda columns, picture: (compared.append(len(columns)), costs(columns, picture))[1]
    )
    rows, edges = [0, 0, *[1] * 100], [(source, 2 + i) for i in range(100) for source in (0, 1)]
    centres = layout.place(rows, [0] * 102, edges)
    assert sum(compared) * len(edges) ** 2 < 5 * (2e6 + len(edges) ** 2) + 1
    assert len({tuple(centre) for centre in centres.tolist()}) == 102
    few = layout.place([0, 0, *[1] * 6], [0] * 8, edges[:12])
    assert len(compared) > 20  # of few arrows all moves are tried
    assert np.ptp(few[2:, 0]) < np.ptp(centres[2:, 0])
