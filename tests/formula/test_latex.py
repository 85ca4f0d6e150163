r"""LaTeX: names, every formula that Pixyz printed beside what is printed here, lines, definitions.

Pixyz (Suzuki, Kaneko & Matsuo 2021, arXiv:2107.13109) prints `D_{KL} \left[q||p \right]` for `D_{\mathrm{KL}}[q ‖ p]`,
`|` for `\mid`, sorts the terms of a sum, and draws the letters of the family below; here the written order stays.
"""

from __future__ import annotations

import re

import pytest
import torch
from pylatexenc.latexwalker import LatexWalker
from torch import nn

from tests.formula import temporal
from tests.formula.models import rssm
from worldformula import (
    KL,
    Data,
    Deterministic,
    E,
    Expression,
    Flow,
    Mixture,
    MoE,
    MoPoE,
    Normal,
    OneHot,
    PoE,
    Sum,
    Symbol,
    Value,
    clamp,
    exp,
    log,
    maximum,
    minimum,
    norm2,
    ratio,
    sg,
    softplus,
    sqrt,
    together,
    total,
)
from worldformula.formula.factors.composed import Autoregressive
from worldformula.formula.ops.cross_entropy import CrossEntropy
from worldformula.formula.ops.density_ratio import DensityRatio
from worldformula.formula.ops.each import each
from worldformula.formula.ops.entropy import Entropy
from worldformula.formula.ops.js import JS
from worldformula.formula.ops.mmd import MMD
from worldformula.formula.print.latex import symbol, variable
from worldformula.formula.print.mathml import mathml
from worldformula.formula.syntax.names import read_header, read_variable
from worldformula.nets.coupling import RealNVP
from worldformula.nets.masked import MaskedMLP


def n(header: str) -> Normal:
    """A Normal of two numbers; one without conditions is standard."""
    return Normal(header, nn.Identity() if "|" in header else None, shape=2)


def f(header: str, shape: object = 2) -> Deterministic:
    return Deterministic(header, nn.Identity(), shape=shape)


PRIOR, DECODE, ENCODE = n("p_prior(z)"), n("p(x|z)"), n("q(z|x)")
Q = {c: n(f"q(z|{c})") for c in ("x", "y", "x,y")}
K = OneHot("p(k)", shape=3)


# ------------------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("p1", "p_{1}"),
        ("alpha", r"\alpha"),
        ("theta_x", r"\theta_{x}"),
        ("z_t2", "z_{t_{2}}"),
        ("z_{t-1}", "z_{t-1}"),
        ("zeta10", r"\zeta_{10}"),
        ("x'", "x'"),
        ("mu_var", r"\mu_{\mathrm{var}}"),
        ("h_prev", r"h_{\mathrm{prev}}"),
        ("x1_t", "x_{1,t}"),
        (r"\hat z_t", r"\hat{z}_{t}"),
        ("z''_{t-1}", "z''_{t-1}"),
        ("x_{1:T}", "x_{1:T}"),
        ("image", r"\mathrm{image}"),
        ("lambda", r"\lambda"),
    ],
)
def test_names(name, shown):
    assert variable(read_variable(name)) == shown


@pytest.mark.parametrize(("letter", "shown"), [("p1", "p_{1}"), ("p_prior", r"p_{\mathrm{prior}}"), ("π", r"\pi")])
def test_letters(letter, shown):
    factor = Normal(f"{letter}(z)", shape=2)
    assert factor.latex == f"{shown}(z)"
    assert read_header(f"{letter}(z)").letter == letter
    assert symbol("alpha") == r"\alpha"


# ------------------------------------------------------------------------------------------------- beside Pixyz

DATA = Data("p_data(x)", shape=2)
CRITIC = Deterministic("d = D(x)", lambda x: x.sum(-1), shape=())
SHUFFLED = n("q_shf(z)")
ON_CODES = Deterministic("d = D(z)", lambda z: z.sum(-1), shape=())
GENERATOR = Deterministic("x = G(z)", nn.Identity(), shape=2)
VAE = KL(ENCODE, PRIOR) - E(ENCODE, log(DECODE))
JOINT = n("q(z|x,y)")
MADE = Autoregressive("p(x)", MaskedMLP(2), shape=2)


def td_vae() -> Expression:
    """The belief b summarises the series; z at two steps."""
    belief, late, early = f("b_t = rnn(b_{t-1}, x_t)"), n("p_b(z|b_t)"), n("p_b(z'|b_{t-1})")
    smooth, step, decode = n("q(z'|z,b_{t-1},b_t)"), n("p_t(z|z')"), n("p_d(x_t|z)")
    inner = KL(smooth, early) + E(smooth, log(late) - log(decode) - log(step))
    return Sum("t", E(belief * late, inner)).mean()


PIXYZ = {
    # products
    r"p(x,z) = p(x|z)p_{prior}(z)": (DECODE * PRIOR, r"p(x, z) = p(x \mid z)\, p_{\mathrm{prior}}(z)"),
    r"p(x,z|y) = p(x|z,y)p(z|y)": (
        n("p(x|z,y)") * n("p(z|y)"), r"p(x, z \mid y) = p(x \mid z, y)\, p(z \mid y)",
    ),
    r"p(x,z|y) = p(x|z)p(z|y)": (DECODE * n("p(z|y)"), r"p(x, z \mid y) = p(x \mid z)\, p(z \mid y)"),
    r"p(x,y|z,a) = p(x|z)p(y|a)": (DECODE * n("p(y|a)"), r"p(x, y \mid z, a) = p(x \mid z)\, p(y \mid a)"),
    # marginals
    r"p(x) = \int p(x|z)p_{prior}(z)dz": (
        (DECODE * PRIOR).marginal("z"), r"p(x) = \int p(x \mid z)\, p_{\mathrm{prior}}(z)\, dz",
    ),
    r"p(x'|x) = \int p(x'|z)q(z|x)dz": (
        (DECODE.rename(x="x'") * ENCODE).marginal("z"), r"p(x' \mid x) = \int p(x' \mid z)\, q(z \mid x)\, dz",
    ),
    r"q(z) = \int q(z|x)p_{data}(x)dx": (
        (ENCODE * DATA).marginal("x"), r"q(z) = \int q(z \mid x)\, p_{\mathrm{data}}(x)\, dx",
    ),
    r"q(z|x,y) \propto p(z)q(z|x)q(z|y)": (
        PoE([n("p(z)"), Q["x"], Q["y"]]), r"q(z \mid x, y) \propto p(z)\, q(z \mid x)\, q(z \mid y)",
    ),
    # mixtures and posteriors
    r"p(x) = p_{0}(x|z=0)prior(z=0) + p_{1}(x|z=1)prior(z=1)": (
        Mixture("p(x)", components=2, shape=2, loc=torch.zeros(2, 2), scale=1.0),
        r"p(x) = \sum_{k=1}^{2} w_{k}\, p_{k}(x)",
    ),
    r"p(x) = \sum_k p(x|k)p(k)": (
        (n("p(x|k)") * K).marginal("k"), r"p(x) = \sum_{k} p(x \mid k)\, p(k)",
    ),
    r"p(z|x) = \frac{p(z,x)}{p(x)}": (
        ratio(n("p(x|k)") * K, (n("p(x|k)") * K).marginal("k")),
        r"\frac{p(x \mid k)\, p(k)}{\sum_{k} p(x \mid k)\, p(k)}",
    ),
    # flows
    r"p(x) = p(x=f^{-1}_{flow}(z))": (
        Flow("p(x)", RealNVP(2), shape=2),
        r"p(x) = p_{0}\left( f(x) \right) \left| \det \frac{\partial f(x)}{\partial x} \right|",
    ),
    r"p(x|y) = p(x=f^{-1}_{flow}(z,y))": (
        Flow("p(x|y)", RealNVP(2, context=3), shape=2),
        r"p(x \mid y) = p_{0}\left( f(x; y) \right) \left| \det \frac{\partial f(x; y)}{\partial x} \right|",
    ),
    r"q(z) = q(z=f_{flow}(x))": (f("z = f(x)"), "z = f(x)"),
    # losses
    r"mean \left(D_{KL} \left[q(z|x)||p_{prior}(z) \right] - \mathbb{E}_{q(z|x)} \left[\log p(x|z) \right] \right)": (
        VAE.mean(),
        (r"\operatorname{mean}\left( D_{\mathrm{KL}}\left[ q(z \mid x) \,\|\, p_{\mathrm{prior}}(z) \right] "
        r"- \mathbb{E}_{q(z \mid x)}\left[ \log p(x \mid z) \right] \right)"),
    ),
    r"\mathbb{E}_{q(z|x)} \left[\log p(x,z) - \log q(z|x) \right]": (
        E(ENCODE, log(DECODE * PRIOR) - log(ENCODE)),
        r"\mathbb{E}_{q(z \mid x)}\left[ \log p(x \mid z)\, p_{\mathrm{prior}}(z) - \log q(z \mid x) \right]",
    ),
    r"D_{KL} \left[q(z|x,y)||q(z|x) \right] + D_{KL} \left[q(z|x,y)||q(z|y) \right]": (
        KL(JOINT, Q["x"]) + KL(JOINT, Q["y"]),
        (r"D_{\mathrm{KL}}\left[ q(z \mid x, y) \,\|\, q(z \mid x) \right] "
        r"+ D_{\mathrm{KL}}\left[ q(z \mid x, y) \,\|\, q(z \mid y) \right]"),
    ),
    r"H \left[ {q(z|x)} \right]": (Entropy(ENCODE), r"\mathbb{H}\left[ q(z \mid x) \right]"),
    r"|\log p(x|z)|": (abs(log(DECODE)), r"\left| \log p(x \mid z) \right|"),
    r"detach \left(\log p(x|z) \right)": (sg(log(DECODE)), r"\mathrm{sg}\left[ \log p(x \mid z) \right]"),
    r"min \left(a, b\right)": (minimum(Value("a"), Value("b")), r"\min\left( a,\, b \right)"),
    r"max \left(a, b\right)": (maximum(Value("a"), Value("b")), r"\max\left( a,\, b \right)"),
    r"\frac{a}{b}": (Value("a") / Value("b"), r"\frac{a}{b}"),
    r"10 D_{KL}": (
        10 * KL(ENCODE, PRIOR),
        r"10 \, D_{\mathrm{KL}}\left[ q(z \mid x) \,\|\, p_{\mathrm{prior}}(z) \right]",
    ),
    r"D_{KL} \left[q(z|x)||p(z) \right] \beta": (
        Symbol("beta") * KL(ENCODE, PRIOR),
        r"\beta \, D_{\mathrm{KL}}\left[ q(z \mid x) \,\|\, p_{\mathrm{prior}}(z) \right]",
    ),
    # iterations
    r"\sum_{t=1}^{T} \log p(x_t)": (Sum("t", log(n("p(x_t)"))), r"\sum_{t} \log p(x_{t})"),
    r"\sum_{t=0}^{9} \log p(x|z)": (
        Sum("l", E(n("q(z_l|x)"), log(n("p(x|z_l)"))), steps=10),
        r"\sum_{l=1}^{10} \mathbb{E}_{q(z_{l} \mid x)}\left[ \log p(x \mid z_{l}) \right]",
    ),
    r"\sum_{\tau=0}^{2} \tau": (Sum("τ", log(n("p(x_τ)")), steps=3), r"\sum_{\tau=1}^{3} \log p(x_{\tau})"),
    # adversaries
    r"mean(D_{JS}^{Adv} \left[p_{data}(x)||p(x) \right])": (
        DensityRatio(DATA, PRIOR * GENERATOR, CRITIC).js(),
        r"D_{\mathrm{JS}}^{\mathrm{adv}}\left[ p_{\mathrm{data}}(x) \,\|\, p_{\mathrm{prior}}(z),\, x = G(z) \right]",
    ),
    r"10 mean(D_{KL}^{Adv} \left[q(z|x)||q_{shf}(z|x_{shf}) \right])": (
        10 * DensityRatio(DATA * ENCODE, SHUFFLED, ON_CODES).kl(),
        (r"10 \, D_{\mathrm{KL}}^{\mathrm{adv}}"
        r"\left[ p_{\mathrm{data}}(x)\, q(z \mid x) \,\|\, q_{\mathrm{shf}}(z) \right]"),
    ),
    r"W^{upper} \left(p_{data}(x), p(x) \right)": (
        DensityRatio(DATA, PRIOR * GENERATOR, CRITIC).wasserstein(),
        r"W^{\mathrm{adv}}\left[ p_{\mathrm{data}}(x) \,\|\, p_{\mathrm{prior}}(z),\, x = G(z) \right]",
    ),
    r"D_{MMD^2} \left[q(z|x)||p(z) \right]": (
        MMD(DATA * ENCODE, PRIOR),
        (r"\mathrm{MMD}^{2}_{\mathrm{gaussian}}"
        r"\left[ p_{\mathrm{data}}(x)\, q(z \mid x) \,\|\, p_{\mathrm{prior}}(z) \right]"),
    ),
    r"\sum_{t=1}^{19} ... D_{KL} \left[q(z_{t1}|z_{t2},b_{t1},b_{t2})||p_{b}(z_{t1}|b_{t1}) \right]": (
        td_vae(),
        (r"\operatorname{mean}\left( \sum_{t} \mathbb{E}_{b_{t} = \mathrm{rnn}(b_{t-1}, x_{t}),\, p_{b}(z \mid b_{t})}"
        r"\left[ D_{\mathrm{KL}}\left[ q(z' \mid z, b_{t-1}, b_{t}) \,\|\, p_{b}(z' \mid b_{t-1}) \right] + "
        r"\mathbb{E}_{q(z' \mid z, b_{t-1}, b_{t})}\left[ \log p_{b}(z \mid b_{t}) - \log p_{d}(x_{t} \mid z) "
        r"- \log p_{t}(z \mid z') \right] \right] \right)"),
    ),
    # and what it has no string for
    "autoregressive": (MADE, r"p(x) = \prod_{i} p(x_{i} \mid x_{<i})"),
    "a head on features": (
        n("q(z|h)") * f("h = enc(x)"), r"q(z \mid x) = q(z \mid h),\quad h = \mathrm{enc}(x)",
    ),
    "mixture of experts": (
        MoE([Q["x"], Q["y"]]), r"q(z \mid x, y) = \tfrac{1}{2} \left( q(z \mid x) + q(z \mid y) \right)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("theirs", PIXYZ)
def test_what_pixyz_printed_is_printed_here(theirs):
    made, ours = PIXYZ[theirs]
    assert made.latex == ours
    assert parses(ours)
    assert made._repr_latex_() == f"$\\displaystyle {ours}$" or isinstance(made, Expression)


def test_terms_keep_their_order_and_nothing_cancels():
    a, b = log(DECODE), log(PRIOR)
    assert (b - a).latex.index("prior") < (a - b).latex.index("prior")
    assert (a - a).latex == r"\log p(x \mid z) - \log p(x \mid z)"
    assert (0 * a).latex.startswith("0 ")


# ------------------------------------------------------------------------------------------------ lines, definitions


def parses(tex: str) -> bool:
    """Whether a strict reader of LaTeX takes it, and every row of an environment has its own brackets."""
    LatexWalker(f"${tex}$", tolerant_parsing=False).get_latex_nodes()
    rows = re.sub(r"\\substack\{.*?\}\}", "", tex).split("\\\\\n")
    return all(row.count(r"\left") == row.count(r"\right") and row.count("{") == row.count("}") for row in rows[1:-1])


def every_node() -> dict[str, Expression]:
    """Formulas that have every kind of node between them."""
    q, p, d = Q["x,y"], n("p(z)"), n("p(x|z)")
    experts = MoPoE([Q["x"], Q["y"]], p)
    bound = (KL(q, p) - E(q, log(d))).named("bound")
    score = E(K, log(n("p(x|k)")), gradient="score", baseline=Value("b"))
    waves = clamp(exp(log(p)), 0.0, None) + sqrt(softplus(log(p))) ** 2 + total(Value("z", shape=2)) + norm2(Value("z"))
    return {
        "rssm": rssm(),
        "draw": temporal.draw()[0],
        "overshooting": temporal.overshooting(reset="first").loss,
        "experts": each(experts, lambda e: KL(e, p)) - E(experts, log(d) + log(n("p(y|z)"))),
        "group": together(d=bound.mean(), g=E(q, score) + 1e-5 * sg(bound)),
        "operators": CrossEntropy(q, p) + Entropy(q) + JS(q, p, samples=3) - E(q, waves),
        "iwae": -log(E(q, ratio(p * d, q), samples=8)).mean(),
        "marginal": E(n("q(z|x)"), log((K * n("p(z|k)")).marginal("k")) + log(d)),
    }


@pytest.mark.parametrize("name", every_node())
@pytest.mark.parametrize("width", [20, 72, 10_000])
def test_lines_are_latex(name, width):
    formula = every_node()[name]
    assert parses(formula.latex_lines(width))
    assert parses(formula.latex)


def symbols(tex: str) -> str:
    """What a reader sees: no spaces, no sizes of brackets, no marks of the environment."""
    tex = re.sub(r"\\begin\{aligned\}|\\end\{aligned\}|\\quad|\\text\{where\}|\\phantom|\\\\|&|\\substack|\\,", "", tex)
    return re.sub(r"\\(?:left|right|Bigl|Bigr)|[\s{}]", "", tex)


@pytest.mark.parametrize("make", [rssm, lambda: temporal.td_vae().loss, VAE.mean, lambda: temporal.gqn()[0]])
@pytest.mark.parametrize("width", [0, 40, 72])
def test_breaking_lines_changes_no_symbol(make, width):
    formula = make()
    assert symbols(formula.latex_lines(width)) == symbols(formula.latex)


def test_a_short_formula_is_one_line_and_a_long_one_is_an_environment():
    assert VAE.latex_lines(200) == VAE.latex
    assert VAE._repr_latex_() == f"$\\displaystyle {VAE.latex}$"
    assert rssm().latex_lines().splitlines() == [
        r"\begin{aligned}",
        (
            r"&\operatorname{mean}\Bigl( \sum_{t;\, \mathrm{reset}=\mathrm{first}} \mathbb{E}_{\substack{e_{t} = "
            r"\mathrm{enc}(x_{t}), \\ h_{t} = f(h_{t-1}, z_{t-1}, a_{t-1}), \\ q(z_{t} \mid h_{t}, e_{t})}}\Bigl[ \\"
        ),
        (
            r"&\quad 1.0 \, \max\left( D_{\mathrm{KL}}\left[ \mathrm{sg}\left[q(z_{t} \mid h_{t}, e_{t})\right] \,\|\, "
            r"p(z_{t} \mid h_{t}) \right],\, 1 \right) \\"
        ),
        (
            r"&\quad + 0.1 \, \max\left( D_{\mathrm{KL}}\left[ q(z_{t} \mid h_{t}, e_{t}) \,\|\, "
            r"\mathrm{sg}\left[p(z_{t} \mid h_{t})\right] \right],\, 1 \right) \\"
        ),
        r"&\quad - \log p(x_{t} \mid h_{t}, z_{t}) \\",
        r"&\quad - \log p(r_{t} \mid h_{t}, z_{t}) \Bigr] \Bigr)",
        r"\end{aligned}",
    ]


def test_named_parts_experts_and_marginals_are_explained_below():
    prior, encode = n("p(z)"), PoE([n("p(z)"), Q["x"], Q["y"]])
    recon = (-E(encode, log(DECODE))).named("recon")
    rows = (KL(encode, prior) + recon).latex_lines().splitlines()[1:-1]
    assert rows == [
        r"&D_{\mathrm{KL}}\left[ q(z \mid x, y) \,\|\, p(z) \right] + \mathrm{recon} \\",
        (
            r"&\text{where}\quad \mathrm{recon} = "
            r"-\mathbb{E}_{q(z \mid x, y)}\left[ \log p(x \mid z) \right] \\"
        ),
        r"&\phantom{\text{where}}\quad q(z \mid x, y) \propto p(z)\, q(z \mid x)\, q(z \mid y)",
    ]
    shown = mathml((KL(encode, prior) + recon).node)
    assert shown.count("<mtr>") == 3
    assert "∝" in shown
    marginal = -log((K * n("p(x|k)")).marginal("k")).mean()
    assert r"\text{where}\quad p(x) = \sum_{k} p(k)\, p(x \mid k)" in marginal.latex_lines()


def test_a_baseline_stays_where_its_expectation_is_broken():
    score = E(K, log(n("p(x|k)")) - log(K), gradient="score", baseline=Value("b"))
    assert r"\mathrm{baseline}\ b" in score.latex_lines(10)
    assert "baseline" in mathml(score.node, width=10)


def test_the_underscore_of_a_setting_is_no_subscript() -> None:
    shown = str(Sum("t", log(Normal("p(z_t)", shape=2)), burn_in=2))
    assert shown == r"\sum_{t;\, \mathrm{burn\_in}=2} \log p(z_{t})"
