"""C-RSSM: its loss by a loop written by hand, its laws, what either level may read, and its published widths."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from worldformula.errors import ConfigError, MissingInputError
from worldformula.testing import check_world
from worldformula.worlds import c_rssm

B, T, A = 3, 6, 2
SMALL = replace(
    c_rssm.tiny(), deter=7, context=3, hidden=6, groups=2, classes=4, depth=2, units=5, gates=2.5, proceed=0.7
)
SEEN = {
    "pictures": ({"image": (16, 16, 3)}, None),
    "numbers": ({"speed": (3,)}, None),
    "symbols": ({"near": (8,), "speed": (2,)}, {"near": (4, 4)}),
    "unlike choices": ({"near": (5,)}, {"near": (2, 3)}),
}


def rows(world, shapes, classes=None, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    found = {"a": torch.rand(B, T, A, generator=g, dtype=dtype), "r": torch.randn(B, T, generator=g, dtype=dtype)}
    found |= {"d": torch.rand(B, T, generator=g, dtype=dtype), "first": torch.zeros(B, T, dtype=torch.bool)}
    found["first"][:, 0] = found["first"][1, 3] = True
    for key, word in world.observations.items():
        if classes and key in classes:
            drawn = [torch.randint(n, (B, T), generator=g) for n in classes[key]]
            parts = [torch.nn.functional.one_hot(x, n) for x, n in zip(drawn, classes[key], strict=True)]
            found[word] = torch.cat(parts, -1).to(dtype)
        else:
            found[word] = torch.rand(B, T, *shapes[key], generator=g, dtype=dtype)
    return {key: value for key, value in found.items() if key in world.loss.program.inputs}


@pytest.mark.parametrize("seen", SEEN)
def test_the_laws_hold_of_every_observation(seen):
    torch.manual_seed(0)
    shapes, classes = SEEN[seen]
    world = c_rssm.build(SMALL, shapes, A, classes)
    check_world(world, rows(world, shapes, classes))


def test_the_loss_is_that_of_a_loop():
    """Both divergences of one posterior, four heads twice, and β times the share of open gates, all by hand."""
    torch.manual_seed(1)
    shapes, classes = {"near": (8,)}, {"near": (4, 4)}
    world = c_rssm.build(SMALL, shapes, A, classes).double()
    given = rows(world, shapes, classes, torch.float64)
    nets, noise = (
        dict(world.loss.named_children()),
        world.loss.noise(**given, generator=torch.Generator().manual_seed(2)),
    )
    out = world.loss(**given, noise=noise)
    z = out.samples["z"].detach()
    c, h = torch.zeros(B, 3).double(), torch.zeros(B, 7).double()
    before, losses, terms = torch.zeros(B, 2, 4).double(), [], {"kl": [], "kl_coarse": [], "gates": []}
    act = torch.zeros(B, A).double()
    eps = noise["epsilon"] * 0.1

    def law(logits):
        return Independent(Categorical(logits=logits.view(B, 2, 4)), 1)

    def balanced(q, p):
        still = [Independent(Categorical(logits=x.base_dist.logits.detach()), 1) for x in (q, p)]
        return 0.8 * kl_divergence(still[0], p) + 0.2 * kl_divergence(q, still[1])

    for t in range(T):
        keep = (~given["first"][:, t]).double()[:, None]
        c, h, before, act = c * keep, h * keep, before * keep[..., None], act * keep
        u = nets["f"](before, act)
        c, opened = nets["memory"](u, c, eps[:, t])
        h = nets["gru"](u, c, h)
        q = law(nets["q_z_given_c_h_e"](c, h, nets["enc"](given["x"][:, t])))
        g = nets["g"](before, act, c)
        fine = law(nets["p_z_given_h_c"](h, c))
        coarse = law(nets["p_c_z_given_z_prev_g"](before, g))
        before, act = z[:, t], given["a"][:, t]
        step = 2.5 * opened.mean(-1)
        for name, p in (("kl", fine), ("kl_coarse", coarse)):
            terms[name].append(balanced(q, p))
            step = step + terms[name][-1]
        terms["gates"].append(opened.mean(-1))
        for word, read in (("p_{}_given_h_z_c", (h, before, c)), ("p_c_{}_given_z_c", (before, c))):
            near = law(nets[word.format("k")](*read)).log_prob(given["x"][:, t].view(B, 2, 4).argmax(-1))
            reward = Normal(nets[word.format("r")](*read)[:, 0], 1.0).log_prob(given["r"][:, t])
            p_go = torch.sigmoid(nets[word.format("d")](*read)[:, 0])
            going = given["d"][:, t] * p_go.log() + (1 - given["d"][:, t]) * (1 - p_go).log()
            step = step - near - reward - 0.7 * going
        losses.append(step)
    assert out.value.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-10)
    for name, found in terms.items():
        assert out.terms[name].item() == pytest.approx(torch.stack(found).mean().item(), rel=1e-10)
    assert world.loss.interpret(**given, noise=noise).value.item() == pytest.approx(out.value.item(), rel=1e-12)
    assert 0 < out.terms["gates"] < 1


def test_the_loss_is_its_named_terms_each_with_its_weight_and_nothing_else():
    """The authors' loss counts the gates a second time under no name: their β is one more than the paper's."""
    torch.manual_seed(0)
    world = c_rssm.build(SMALL, {"speed": (3,)}, A)
    out = world.loss(**rows(world, {"speed": (3,)}), seed=1)
    heads = {f"log {law}({word}_t|{given})": 0.7 if word == "d" else 1.0
             for law, given in (("p", "h_t,z_t,c_t"), ("p_c", "z_t,c_t")) for word in "xrd"}  # fmt: skip
    assert set(out.terms) == {"kl", "kl_coarse", "gates", *heads}
    total = out.terms["kl"] + out.terms["kl_coarse"] + 2.5 * out.terms["gates"]
    total = total - sum(weight * out.terms[name] for name, weight in heads.items())
    assert out.value.item() == pytest.approx(total.item(), rel=1e-5)
    assert c_rssm.official().gates == c_rssm.paper().gates + 1


def test_neither_the_coarse_level_nor_the_context_reads_h():
    torch.manual_seed(0)
    world = c_rssm.build(SMALL, {"speed": (3,)}, A)
    states = world.filter(rows(world, {"speed": (3,)}), seed=0).last()
    coarse, actions = world.levels["coarse"], torch.randn(B, 5, A)
    other = type(states)({**states, "h": torch.randn_like(states["h"])})
    first, second = (coarse.imagine(s, actions=actions, seed=1) for s in (states, other))
    assert "h" not in first
    for key in ("c", "z"):
        assert torch.equal(first[key], second[key])
    assert set(coarse.decode(first)) == {"x_coarse", "r_coarse", "d_coarse"}
    fine = world.imagine(states, actions=actions, seed=1)
    assert not torch.equal(fine["h"], world.levels["fine"].imagine(other, actions=actions, seed=1)["h"])
    assert world.roles == {"reward": "r", "continue": "d"}


def test_a_context_changes_where_a_gate_opens_and_nowhere_else():
    torch.manual_seed(0)
    world = c_rssm.build(SMALL, {"speed": (3,)}, A)
    given = rows(world, {"speed": (3,)})
    out = world.loss(**given, seed=3)
    c, opened = out.samples["c"], out.samples["Theta"]
    before = torch.cat((torch.zeros(B, 1, 3), c[:, :-1]), 1) * ~given["first"][..., None]
    going = ~given["first"]  # at a first row nothing is known, and what an open gate lets in is zero as well
    assert torch.equal((c != before)[going], (opened > 0)[going])


@pytest.mark.parametrize("gates", [0.0, None])
def test_beta_is_a_number_of_the_world_or_of_the_call(gates):
    torch.manual_seed(0)
    world = c_rssm.build(replace(SMALL, gates=gates), {"speed": (3,)}, A)
    given = rows(world, {"speed": (3,)})
    if gates is None:
        plain, more = (world.loss(**given, beta=beta, seed=0) for beta in (0.0, 3.0))
        assert (more.value - plain.value).item() == pytest.approx(3 * more.terms["gates"].item(), rel=1e-4)
        with pytest.raises(MissingInputError, match="beta"):
            world.loss(**given, seed=0)
    else:
        assert "gates" not in world.loss(**given, seed=0).terms


def dense(*widths):
    return sum((i + 1) * o for i, o in pairwise(widths))


def test_the_published_world_has_the_weights_of_its_layers():
    """64 × 64 × 3 pixels, 6 choices, MiniHack: the layer list of the authors' configuration."""
    S, D, C, A = 1024, 256, 16, 6
    pairs = [(3, 48), (48, 96), (96, 192), (192, 384)]
    encoder = sum(16 * i * o + o for i, o in pairs)

    def heads(inputs):
        back = [(1536, 192, 5), (192, 96, 5), (96, 48, 6), (48, 3, 6)]
        return (
            dense(inputs, 1536) + sum(k * k * i * o + o for i, o, k in back) + 2 * dense(inputs, 400, 400, 400, 400, 1)
        )

    read, memory, gru = dense(S + A, D), 2 * dense(D + C, C), dense(D + C + D, 3 * D)
    post, fine = dense(C + D + 1536, D, S), dense(D + C, D, S)
    coarse = dense(S + A + C, D, D, D, D) + dense(S + D, D, S)
    own = encoder + read + memory + gru + post + fine + coarse + heads(D + S + C) + heads(S + C)
    world = c_rssm.build(c_rssm.paper(), {"image": (64, 64, 3)}, A)
    assert sum(p.numel() for p in world.parameters()) == own


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gates": -1.0}, "gates"),
        ({"balance": 2.0}, "balance"),
        ({"context": 0}, "widths"),
        ({"noise": 0.0}, "noise > 0"),
    ],
)
def test_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        replace(SMALL, **change)
