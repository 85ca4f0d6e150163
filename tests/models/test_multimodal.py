"""The multimodal models: formulas, inference from any set, bounds against integrals, iteration; R5, R6, R7, R11."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from worldformula import Joint, MoE, Normal
from worldformula.errors import ConfigError, FormulaError, ShapeError, UnknownVariableError
from worldformula.metrics.likelihood import importance_bound, quadrature
from worldformula.model.iterative import iterate
from worldformula.model.multimodal import Modality
from worldformula.models import jmvae, mmvae, mopoe, mvae, mvtcae

CATALOGUE = {"jmvae": jmvae, "mvae": mvae, "mmvae": mmvae, "mopoe": mopoe, "mvtcae": mvtcae}
MASKED = [name for name in CATALOGUE if name != "jmvae"]
SMALL = (Modality("a", 4), Modality("b", 3), Modality("c", 2, "normal", scale=0.5))
N = 6
HERE = {"b": torch.tensor([1, 0, 1, 1, 0, 1]).bool(), "c": torch.tensor([1, 1, 0, 1, 0, 0]).bool()}
LATEX = {
    "jmvae": r"0.1 \, \left( D_{\mathrm{KL}}\left[ q(z \mid a, b, c) \,\|\, q(z \mid a) \right] + ",
    "mvae": r"+ \left( \beta \, D_{\mathrm{KL}}\left[ q(z \mid b) \,\|\, p(z) \right] - \mathbb{E}_{q(z \mid b)}",
    "mmvae": r"-\mathbb{E}^{\mathrm{stratified}}_{q(z \mid a, b, c)}\left[ \log p(a \mid z)\, p(b \mid z)\, p(c",
    "mopoe": r"\beta \, \left( \log p(z) - \log q(z \mid a, b, c) \right)",
    "mvtcae": r"0.833333 \, \frac{1}{3}\left[ D_{\mathrm{KL}}\left[ q(z \mid a, b, c) \,\|\, q(z \mid a) \right] + ",
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def small(name, **changes):
    module = CATALOGUE[name]
    further = {"joint": (6,)} if name == "jmvae" else {}
    sizes = replace(module.tiny(), modalities=SMALL, latent=2, hidden=(6,), **further, **changes)
    model = module.build(sizes)
    model.loss.double()
    return model


@pytest.fixture
def rows():
    a, b = torch.rand(N, 4, dtype=torch.float64).round(), torch.rand(N, 3, dtype=torch.float64).round()
    return {"a": a, "b": b, "c": torch.randn(N, 2, dtype=torch.float64)}


def symbols(model):
    return dict.fromkeys(model.coefficients, 0.7)


def gradients(model, value):
    found = torch.autograd.grad(value, list(model.loss.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, model.loss.parameters(), strict=True)]


# ----------------------------------------------------------------------------------------------------------- formulas


@pytest.mark.parametrize("name", CATALOGUE)
def test_formula_prints_and_code_equals_interpreter(name, rows):
    model = small(name)
    assert LATEX[name] in model.loss.latex
    for present in (None, HERE) if name in MASKED else (None,):
        given = {**rows, **symbols(model)} | ({} if present is None else {"present": present})
        noise = model.loss.noise(**given)
        one, two = model.loss(**given, noise=noise).value, model.loss.interpret(**given, noise=noise).value
        torch.testing.assert_close(one, two)
        torch.testing.assert_close(gradients(model, one), gradients(model, two))


PRESETS = [(name, preset) for name, module in CATALOGUE.items() for preset in module.SYSTEM.presets]


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_preset_takes_a_step_that_lowers_its_loss(name, preset):
    system = CATALOGUE[name].SYSTEM
    sizes = system.sizes(preset)
    model = system.build(sizes)
    x = {m.name: torch.rand(4, m.width).round() for m in sizes.modalities}
    given = {**x, **dict.fromkeys(model.coefficients, 1.0)}
    optimiser = torch.optim.Adam(model.loss.parameters(), lr=1e-4)
    before = model.loss(**given, seed=0).value
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.loss.parameters())
    optimiser.step()
    assert model.loss(**given, seed=0).value < before


def test_the_bounds_of_mmvae_are_in_order(rows):
    """With many draws: the mean of logs is below the log of the mean, and the ELBO below both."""
    plain = small("mmvae", objective="iwae", samples=200, warm_up=0)
    values = {}
    for objective, k in (("elbo", 1), ("looser", 200), ("iwae", 200)):
        model = small("mmvae", objective=objective, samples=k, warm_up=0)
        model.loss.load_state_dict(plain.loss.state_dict())
        draws = [model.loss(**rows, **dict.fromkeys(model.coefficients, 1.0), seed=s).value for s in range(60)]
        values[objective] = torch.stack(draws).mean().item()
    assert values["iwae"] < values["looser"] < values["elbo"]


def test_weights_of_modalities_print_and_are_in_the_loss(rows):
    heavy = (SMALL[0], replace(SMALL[1], weight=10.0), SMALL[2])
    for name, module in CATALOGUE.items():
        further = {"joint": (6,)} if name == "jmvae" else {}
        model = module.build(replace(module.tiny(), modalities=heavy, latent=2, hidden=(6,), **further))
        assert r"10.0 \, \log p(b \mid z)" in model.loss.latex, name
        model.loss.double()
        assert model.loss(**rows, **symbols(model)).value.isfinite()


def test_choices_of_mopoe_are_printed():
    official = small("mopoe", prior_in="full", kl="bound")
    assert r"\beta \, \frac{1}{7}\left[ D_{\mathrm{KL}}\left[ q(z \mid a) \,\|\, p(z) \right] + " in official.loss.latex
    explained = {kind: small("mopoe", prior_in=kind).loss.explain() for kind in ("all", "full", "none")}
    assert "q(z|a) ∝ p(z) q(z|a)" in explained["all"]
    assert "q(z|a) ∝ p(z) q(z|a)" not in explained["full"]
    assert "q(z|a,b,c) ∝ p(z) q(z|a) q(z|b) q(z|c)" in explained["full"]
    assert "q(z|a,b,c) ∝ q(z|a) q(z|b) q(z|c)" in explained["none"]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("mvae", {"elbo": "some"}), ("mmvae", {"objective": "elbo", "samples": 3}), ("mmvae", {"dreg": True}),
     ("mmvae", {"objective": "iwae"}), ("mopoe", {"prior_in": "some"}), ("mvtcae", {"alpha": 2.0})],
)  # fmt: skip
def test_impossible_sizes_are_refused(name, wrong):
    with pytest.raises(ConfigError, match="expected|belongs|weighs"):
        replace(CATALOGUE[name].tiny(), **wrong)


# ---------------------------------------------------------------------------------------------------------- inference


@pytest.mark.parametrize("name", CATALOGUE)
def test_infer_and_predict_from_every_set(name, rows):
    model = small(name)
    assert model.modalities == ("a", "b", "c")
    for given in ("a", "b", "ac", "abc"):
        known = {m: rows[m] for m in given}
        assert model.infer(known).shape == (N, 2)
        assert model.infer(known, n=3).shape == (3, N, 2)
        assert model.infer(known, n=3, mean=True).shape == (3, N, 2)
        torch.testing.assert_close(model.infer(known, seed=1), model.infer(known, seed=1), rtol=0, atol=0)
        made = model.predict(known, list("abc"), n=2, seed=1) if given == "abc" else model.predict(known, n=2, seed=1)
        assert {k: tuple(v.shape) for k, v in made.items()} == {
            k: (2, N, rows[k].shape[1]) for k in rows if k not in given or given == "abc"
        }
    drawn, mean = model.predict({"c": rows["c"]}, "a")["a"], model.predict({"c": rows["c"]}, "a", mean=True)["a"]
    assert drawn.unique().tolist() in ([0.0, 1.0], [0.0], [1.0])
    assert ((mean > 0) & (mean < 1)).all()


def test_rules_of_inference():
    headers = {
        name: [getattr(q, "definition", str(q)) for q in (m.posterior("a"), m.posterior("ab"), m.posterior("abc"))]
        for name, m in ((name, small(name)) for name in CATALOGUE)
    }
    assert headers["jmvae"] == ["q(z|a)", "q(z|a,b) ∝ q(z|a) q(z|b)", "q(z|a,b,c)"]
    assert headers["mvae"][:2] == ["q(z|a) ∝ p(z) q(z|a)", "q(z|a,b) ∝ p(z) q(z|a) q(z|b)"]
    assert headers["mmvae"][:2] == ["q(z|a)", "q(z|a,b) = 1/2 (q(z|a) + q(z|b))"]
    assert headers["mopoe"][1] == "q(z|a,b) ∝ p(z) q(z|a) q(z|b)"
    assert headers["mvtcae"][1] == "q(z|a,b) ∝ q(z|a) q(z|b)"
    m = small("mopoe", rule="mixture", prior_in="full")
    assert isinstance(m.posterior("ab"), MoE)
    assert m.posterior("ab", "PoE").definition == "q(z|a,b) ∝ q(z|a) q(z|b)"
    assert m.posterior("abc", "PoE").definition == "q(z|a,b,c) ∝ p(z) q(z|a) q(z|b) q(z|c)"
    with pytest.raises(ConfigError, match="rule= among PoE, mixture"):
        m.posterior("ab", "sum")


@pytest.mark.parametrize("name", MASKED)
def test_infer_where_rows_lack_modalities(name, rows):
    """A row's posterior is that of what it has; what stands in the gaps does not matter."""
    model = small(name)
    broken = {m: torch.where(HERE[m][:, None], x, torch.nan) if m in HERE else x for m, x in rows.items()}
    z = model.infer(broken, present=HERE, mean=True)
    for row in range(N):
        own = {m: x[row : row + 1] for m, x in rows.items() if m not in HERE or HERE[m][row]}
        if name == "mopoe" and 1 < len(own) < 3:
            continue  # its product of some has another definition than the full one without the others, if not "all"
        torch.testing.assert_close(z[row : row + 1], model.infer(own, mean=True))


def test_wrong_questions_are_answered(rows):
    model = small("mmvae")
    with pytest.raises(UnknownVariableError, match="no modality 'd'"):
        model.infer({"d": rows["a"]})
    with pytest.raises(FormulaError, match="at least one modality"):
        model.infer({})
    with pytest.raises(FormulaError, match="name what to make"):
        model.predict(rows)
    with pytest.raises(ShapeError, match="as many rows"):
        model.infer({"a": rows["a"], "b": rows["b"][:2]})
    nobody = {m: torch.zeros(N, dtype=torch.bool) for m in rows}
    with pytest.raises(FormulaError, match="some rows have none of a, b, c"):
        model.infer(rows, present=nobody)
    assert small("mvae").infer(rows, present=nobody).isfinite().all()
    with pytest.raises(FormulaError, match="which some rows lack"):
        small("jmvae").infer(rows, present=HERE)


# ------------------------------------------------------------------------------------------------------------- bounds


def exact(model, rows, present=None):
    """log p of what every row has, by the trapezoidal rule over two latents."""

    def density(z):
        total = model.prior.log_prob(z=z)[:, None].expand(-1, N)
        for decoder in model.decode.factors:
            name = decoder.variable.key
            many = rows[name].expand(len(z), *rows[name].shape)
            term = decoder.log_prob(**{name: many, "z": z[:, None].expand(-1, N, -1)})
            total = total + (term if present is None or name not in present else torch.where(present[name], term, 0.0))
        return total

    return quadrature(density)


def widened(model):
    """Decoders that matter, and proposals wide enough for bounded weights."""
    alone = isinstance(model, jmvae.JMVAE | mmvae.MMVAE)
    with torch.no_grad():
        for f in model.decode.factors:
            f.net.layers[-1].weight.mul_(3.0)
        for q in (*model.experts, *([model.encode] if isinstance(model, jmvae.JMVAE) else [])):
            q.net.net.layers[-1].bias[2:] = 2.0 if alone else 5.0
    return model


@pytest.mark.parametrize("name", CATALOGUE)
def test_bound_converges_to_the_integral(name, rows):
    model = widened(small(name))
    with torch.no_grad():
        truth = exact(model, rows)
        few = torch.stack([model.bound(7, seed=s, **rows) for s in range(20)]).mean(0)
        many = model.bound(40_000, seed=0, chunk=4000, **rows)
    assert (few < truth + 0.02).all()
    torch.testing.assert_close(many, truth, rtol=0, atol=0.08)


@pytest.mark.parametrize("name", MASKED)
def test_r11_bound_of_incomplete_rows_is_that_of_what_they_have(name, rows):
    model = widened(small(name))
    with torch.no_grad():
        truth = exact(model, rows, HERE)
        broken = {m: torch.where(HERE[m][:, None], x, torch.nan) if m in HERE else x for m, x in rows.items()}
        torch.testing.assert_close(
            model.bound(40_000, seed=0, chunk=4000, present=HERE, **broken), truth, rtol=0, atol=0.08
        )


@pytest.mark.parametrize("name", CATALOGUE)
def test_r6_order_and_batch_of_rows_change_nothing(name, rows):
    model, order = small(name), torch.tensor([4, 2, 0, 5, 1, 3])
    value = model.bound(50, seed=3, **rows)
    turned = model.bound(50, seed=3, **{m: x[order] for m, x in rows.items()})
    torch.testing.assert_close(turned, value[order], rtol=0, atol=1e-12)
    parts = [model.bound(50, seed=3, **{m: x[i : i + 2] for m, x in rows.items()}) for i in (0, 2, 4)]
    torch.testing.assert_close(torch.cat(parts), value, rtol=0, atol=1e-12)


def test_r7_every_component_is_drawn_from(rows):
    """The same draws weighed by hand; draws of one component alone give another value."""
    model = small("mmvae")
    value = model.bound(600, seed=0, chunk=600, **rows)
    generator = torch.Generator().manual_seed(0)
    noise = model.encode.family.noise((3, 200, 1, 3), dtype=torch.float64, generator=generator)[..., 1:]
    logw = []
    for q, n in zip(model.experts, noise, strict=True):
        loc, scale = q.params(rows[q.conditions[0].key])
        z = loc + scale * n
        many = {m: x.expand(200, *x.shape) for m, x in rows.items()}
        joint = model.prior.log_prob(z=z) + model.decode.log_prob(z=z, **many)
        densities = torch.stack(
            [e.log_prob(z=z, **{e.conditions[0].key: many[e.conditions[0].key]}) for e in model.experts]
        )
        logw.append(joint - (densities.logsumexp(0) - math.log(3)))
    torch.testing.assert_close(value, importance_bound(torch.cat(logw)))
    assert all((importance_bound(w) - value).abs().max() > 0.01 for w in logw)


@pytest.mark.parametrize("name", CATALOGUE)
def test_r5_the_callers_data_are_left_alone(name, rows):
    model, before = small(name), copy.deepcopy(rows)
    flags = copy.deepcopy(HERE)
    masked = {"present": flags} if name in MASKED else {}
    model.bound(10, **rows, **masked)
    model.predict(dict(rows.items()), "a", **masked)
    model.loss(**rows, **symbols(model), **masked)
    assert rows.keys() == before.keys()
    assert all(torch.equal(rows[m], before[m]) for m in before)
    assert all(torch.equal(flags[m], HERE[m]) for m in HERE)


# ---------------------------------------------------------------------------------------------------------- iteration


class Posterior(nn.Module):
    """q(z|a,b) of z ~ N(0, 1), a = z + N(0, s²), b = z + N(0, s²), in closed form."""

    def forward(self, a, b):
        precision = 1 + 2 / 0.5**2
        return {"loc": (a + b) / 0.5**2 / precision, "scale": torch.full_like(a, precision**-0.5)}


def chain_parts():
    decode = Joint.of(*(Normal(f"p({m}|z)", nn.Identity(), scale=0.5, shape=1) for m in "ab"))
    return Normal("q(z|a,b)", Posterior(), shape=1), decode, Normal("p(z)", shape=1)


def test_iteration_reaches_the_exact_conditional():
    """Gibbs between exact conditionals: b is distributed as p(b|a), whose moments are known."""
    encode, decode, prior = chain_parts()
    a = torch.full((20_000, 1), 1.5)
    *_, last = iterate(encode, decode, {"a": a}, 60, prior=prior, seed=0)
    gain = 1 / (1 + 0.5**2)
    assert last["b"].mean().item() == pytest.approx(1.5 * gain, abs=0.02)
    assert last["b"].var().item() == pytest.approx((1 - gain) + 0.5**2, abs=0.02)


def test_iteration_starts_where_it_is_told_and_refills_by_means():
    encode, decode, prior = chain_parts()
    a = torch.zeros(4, 1)
    steps = list(iterate(encode, decode, {"a": a}, 3, start=torch.full((4, 1), 50.0), mean=("b",), seed=0))
    assert len(steps) == 3
    assert all(torch.equal(s["b"], s["z"]) for s in steps)  # the decoder's mean is z
    assert 15 < steps[0]["z"].mean().item() < 35
    with pytest.raises(FormulaError, match="prior= or start="):
        next(iterate(encode, decode, {"a": a}, 1))
    with pytest.raises(FormulaError, match="nothing is missing"):
        next(iterate(encode, decode, {"a": a, "b": a}, 1, prior=prior))
