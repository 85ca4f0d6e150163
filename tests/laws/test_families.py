"""Every family keeps the laws of `check_family`; values of the literature, layouts of heads, errors, and costs."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from worldformula.errors import ConfigError, FormulaError, HeadError, NoClosedFormError, ShapeError
from worldformula.families import (
    BernoulliFamily,
    CategoricalFamily,
    NormalFamily,
    OneHotFamily,
    TwoHotFamily,
    bernoulli,
    categorical,
    discover,
    kl_pair,
    normal,
    one_hot,
    two_hot,
)
from worldformula.testing import check_family

DOUBLE = torch.float64
CASES = [
    *((family, None) for family in discover().values()),
    (normal, ()),
    (NormalFamily(min_scale=0.1), (2, 3)),
    (bernoulli, (2, 3)),
    (OneHotFamily(unimix=0.01), (3, 4)),
    (CategoricalFamily(unimix=0.01, classes=5), (2,)),
    (categorical, (2, 3)),
    (two_hot, (3,)),
    (TwoHotFamily(bins=10, low=-5.0, high=5.0), ()),
    (TwoHotFamily(bins=11, low=-2.0, high=5.0), (2,)),
    (TwoHotFamily(bins=11, low=-2.0, high=5.0, spacing="linear"), (2,)),
]


@pytest.mark.parametrize(("family", "shape"), CASES, ids=str)
def test_laws(family, shape):
    check_family(family, shape)


def closed(family, q, p, rank):
    """Entropy of q and KL(q, p), those that have a closed form."""
    found = []
    for form in (lambda: family.entropy(q, rank), lambda: family.kl(q, p, rank)):
        with suppress(NoClosedFormError):
            found.append(form())
    return found


class Operations(TorchDispatchMode):
    """Counts the tensor operations inside a ``with`` block, by name."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.__name__.split(".")[0])
        return function(*args, **(kwargs or {}))


# ------------------------------------------------------------------------------------------- the law suite itself


@dataclass(frozen=True)
class WrongKL(NormalFamily):
    def kl(self, q_params, p_params, rank, shape=None):
        return 1.01 * super().kl(q_params, p_params, rank, shape)


@dataclass(frozen=True)
class Broadcasts(NormalFamily):
    def log_prob(self, params, value, rank):
        loc, scale = params
        return torch.distributions.Normal(loc, scale).log_prob(value).sum(tuple(range(-rank, 0)))


def test_check_family_finds_a_wrong_kl_and_prints_the_table():
    with pytest.raises(AssertionError, match="laws broken") as found:
        check_family(WrongKL())
    broken = [line.split("|")[0].strip() for line in str(found.value).splitlines() if "<- broken" in line]
    assert "kl of Normal" in broken
    assert "KL by Monte Carlo" in broken
    assert "log_prob of Normal" not in broken


def test_check_family_finds_silent_broadcasting():
    with pytest.raises(AssertionError, match=r"a value of another shape +\| ShapeError +\| returned Tensor"):
        check_family(Broadcasts())


def test_discovery_lists_the_folder_and_names_the_default_instances():
    found = discover()
    assert {"bernoulli", "categorical", "normal", "one_hot", "two_hot"} <= set(found)
    assert all(family.name == name for name, family in found.items())
    assert all(set(family.biased) <= set(family.gradients) for family in found.values())


# ------------------------------------------------------------------------------------------- values of the literature


def test_entropy_and_kl_of_unit_normals():
    assert normal.entropy((0.0, 1.0), 1, (64,)) == pytest.approx(90.8121, abs=5e-5)
    assert normal.entropy((0.0, 1.0), 1, (10,)) == pytest.approx(14.1894, abs=5e-5)
    assert normal.kl((0.0, 1.0), (1.0, 1.0), 1, (64,)) == 32.0
    cross = normal.entropy((0.0, 1.0), 1, (64,)) + normal.kl((0.0, 1.0), (1.0, 1.0), 1, (64,))
    assert cross == pytest.approx(122.8121, abs=5e-5)
    standard = normal.params(None, (1,))
    assert normal.log_prob(standard, torch.zeros(1), 1).item() == pytest.approx(-0.9189, abs=5e-5)


def test_normal_against_scipy():
    loc, scale, x = np.array([0.3, -2.0]), np.array([0.5, 3.0]), np.array([1.0, -1.0])
    params = torch.tensor(loc), torch.tensor(scale)
    expected = scipy.stats.norm(loc, scale)
    assert normal.log_prob(params, torch.tensor(x), 1).item() == pytest.approx(expected.logpdf(x).sum(), abs=1e-12)
    assert normal.entropy(params, 1).item() == pytest.approx(expected.entropy().sum(), abs=1e-12)


def test_bernoulli_of_an_impossible_value_is_the_log_of_epsilon():
    params = bernoulli.params({"probs": torch.tensor([1.0])}, (1,))
    assert bernoulli.log_prob(params, torch.zeros(1), 1).item() == pytest.approx(-15.9424, abs=1e-4)


def test_bernoulli_takes_grey_levels_and_other_types():
    logits = torch.tensor([[0.5, -1.0]], dtype=DOUBLE)
    grey = torch.tensor([[0.25, 0.75]], dtype=DOUBLE)
    expected = 0.25 * math.log(scipy.special.expit(0.5)) + 0.75 * math.log(scipy.special.expit(-0.5))
    expected += 0.75 * math.log(scipy.special.expit(-1.0)) + 0.25 * math.log(scipy.special.expit(1.0))
    assert bernoulli.log_prob((logits,), grey, 1).item() == pytest.approx(expected, abs=1e-12)
    bits = torch.tensor([[True, False]])
    assert torch.equal(bernoulli.log_prob((logits,), bits, 1), bernoulli.log_prob((logits,), bits.double(), 1))
    assert bernoulli.log_prob((0.0,), bits, 1).item() == pytest.approx(-2 * math.log(2))


def test_one_hot_score_of_a_class_is_its_log_probability():
    params = one_hot.params({"probs": torch.tensor([0.7, 0.2, 0.1], dtype=DOUBLE)})
    score = one_hot.log_prob(params, torch.tensor([1.0, 0.0, 0.0], dtype=DOUBLE), 1)
    assert score.exp().item() == pytest.approx(0.7, abs=1e-12)


def test_kl_with_one_percent_uniform():
    mixed = OneHotFamily(unimix=0.01)

    def params(*probs):
        return mixed.params({"probs": torch.tensor(probs, dtype=DOUBLE)}, (4,))

    sure_against_uniform = mixed.kl(params(1, 0, 0, 0), mixed.params(None, (4,)), 1)
    assert sure_against_uniform.item() == pytest.approx(1.333887, abs=1e-6)
    assert mixed.kl(params(0.7, 0.1, 0.1, 0.1), params(0.1, 0.7, 0.1, 0.1), 1).item() == pytest.approx(
        1.143196, abs=1e-6
    )


@pytest.mark.parametrize("classes", [2, 3, 7, 8, 11])
@pytest.mark.parametrize("groups", [1, 300])
def test_mixed_shares_of_few_and_of_many_classes(classes, groups):
    logits = torch.randn(4, groups, classes, dtype=DOUBLE) * 9
    logits[0, 0, 0], logits[1, 0, 1] = -math.inf, 80.0
    given = logits.clone().requires_grad_()
    (found,) = OneHotFamily(unimix=0.01).params(given, (groups, classes))
    shares = scipy.special.softmax(logits.numpy(), -1)
    assert found.is_contiguous()
    assert np.abs(found.detach().exp().numpy() - (0.99 * shares + 0.01 / classes)).max() < 1e-14
    weights = torch.randn(found.shape, dtype=DOUBLE)
    (gradient,) = torch.autograd.grad((found.exp() * weights).sum(), given)
    expected = 0.99 * shares * (weights.numpy() - (shares * weights.numpy()).sum(-1, keepdims=True))
    assert np.abs(gradient.numpy() - expected).max() < 1e-13


def test_unimix_mixes_the_probabilities_everywhere():
    logits = torch.randn(3, 2, 4, dtype=DOUBLE)
    expected = 0.9 * logits.softmax(-1) + 0.1 / 4
    family = OneHotFamily(unimix=0.1)
    assert torch.allclose(family.mean(family.params(logits, (2, 4))), expected, rtol=0, atol=1e-14)
    assert torch.allclose(family.params({"logits": logits}, (2, 4))[0].exp(), expected, rtol=0, atol=1e-14)
    picks = CategoricalFamily(unimix=0.1)
    assert torch.allclose(picks.params(logits, (2,))[0].exp(), expected, rtol=0, atol=1e-14)


# ------------------------------------------------------------------------------------------- two-hot


def grid(family: TwoHotFamily) -> np.ndarray:
    y = np.linspace(family.low, family.high, family.bins)
    bins = np.sign(y) * np.expm1(np.abs(y))
    return np.where(np.abs(bins) < 1e-12, 0.0, bins)


def test_two_hot_bins():
    got = two_hot.value_of(torch.tensor([0, 126, 127, 128, 129, 254]), DOUBLE).tolist()
    assert got[2] == 0.0
    assert got[3] == -got[1] == pytest.approx(math.expm1(40 / 254), abs=1e-15)
    assert got[3] == pytest.approx(0.170557718, abs=5e-9)  # as published, rounded in single precision
    assert got[4] == pytest.approx(0.370205365, abs=1e-9)
    assert got[5] == -got[0] == pytest.approx(485_165_194.41, abs=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize(
    ("value", "weights"),
    [
        (0.1, {127: 0.413688, 128: 0.586312}),
        (1.0, {131: 0.617329, 132: 0.382671}),
        (-1.0, {122: 0.382671, 123: 0.617329}),
        (3.0, {135: 0.209682, 136: 0.790318}),
        (10.0, {142: 0.786963, 143: 0.213037}),
        (1e9, {254: 1.0}),
        (-1e9, {0: 1.0}),
        (0.0, {127: 1.0}),
    ],
)
def test_two_hot_weights(value, weights, dtype):
    index, upper = two_hot.neighbours(torch.tensor(value, dtype=dtype))
    got = np.zeros(255)
    got[index], got[index + 1] = 1.0 - upper, upper
    expected = np.zeros(255)
    expected[list(weights)] = list(weights.values())
    assert np.abs(got - expected).max() < 3e-6


def test_two_hot_at_zero_logits_has_mean_exactly_zero_and_the_cross_entropy_of_its_bins():
    logits = torch.zeros(7, 255)
    assert torch.equal(two_hot.mean((logits,)), torch.zeros(7))
    even = TwoHotFamily(bins=40)
    assert torch.equal(even.mean((torch.zeros(7, 40),)), torch.zeros(7))
    values = torch.tensor([0.0, 0.1, 1.0, -3.0, 1e4, 1e9, -1e9])
    assert torch.allclose(two_hot.log_prob((logits,), values, 0), torch.tensor(-5.541264), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "family", [two_hot, TwoHotFamily(bins=10, low=-5, high=5), TwoHotFamily(bins=11, low=-2, high=5)]
)
def test_two_hot_against_linear_interpolation(family):
    bins = grid(family)
    logits = torch.randn(200, family.bins, dtype=DOUBLE, requires_grad=True)
    values = np.concatenate(
        [np.random.default_rng(0).normal(0, 20, 190), bins[[0, 3, -1]], [0, 1e-9, -1e-9] * 2, [2e9]]
    )
    log_probs = scipy.special.log_softmax(logits.detach().numpy(), -1)
    expected = [np.interp(v, bins, row) for v, row in zip(values, log_probs, strict=True)]
    got = family.log_prob((logits,), torch.tensor(values), 0)
    assert np.abs(got.detach().numpy() - np.array(expected)).max() < 1e-9
    target = np.stack([[np.interp(v, bins, row) for row in np.eye(family.bins)] for v in values])
    (gradient,) = torch.autograd.grad(got.sum(), logits)
    assert np.abs(gradient.numpy() - (target - np.exp(log_probs))).max() < 1e-9
    means = (np.exp(log_probs) * bins).sum(-1)
    assert np.allclose(family.mean((logits,)).detach().numpy(), means, rtol=1e-9, atol=1e-9 * np.abs(bins).max())


@pytest.mark.parametrize(("bins", "low", "high"), [(101, -10.0, 10.0), (10, -5.0, 5.0), (11, -2.0, 5.0)])
def test_two_hot_on_a_linear_grid_against_linear_interpolation(bins, low, high):
    family = TwoHotFamily(bins=bins, low=low, high=high, spacing="linear")
    line = np.linspace(low, high, bins)
    logits = torch.randn(200, bins, dtype=DOUBLE)
    values = np.concatenate([np.random.default_rng(0).normal(0, 5, 194), [0, 1e-9, -1e-9, 0.5, 2e9, -2e9]])
    log_probs = scipy.special.log_softmax(logits.numpy(), -1)
    expected = [np.interp(y, line, row) for y, row in zip(values, log_probs, strict=True)]
    got = family.log_prob((logits,), torch.tensor(values), 0)
    assert np.abs(got.numpy() - np.array(expected)).max() < 1e-9
    assert np.abs(family.mean((logits,)).numpy() - (np.exp(log_probs) * line).sum(-1)).max() < 1e-12
    assert float(family.mean((0.0,))) == pytest.approx(line.mean(), abs=1e-12)


def test_two_hot_of_an_unknown_spacing_is_refused():
    with pytest.raises(ConfigError, match="expected spacing as 'symexp' or 'linear', got 'log'"):
        TwoHotFamily(spacing="log")


# ------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("family", [normal, bernoulli, OneHotFamily(unimix=0.01)], ids=str)
def test_flat_and_structured_heads_agree(family):
    k = len(family.parameters)
    structured = torch.randn(5, 2, k * 3)
    flat = torch.cat([piece.flatten(1) for piece in structured.chunk(k, -1)], -1)
    assert flat.shape == (5, family.head_width((2, 3)))
    for a, b in zip(family.params(structured, (2, 3)), family.params(flat, (2, 3)), strict=True):
        assert a.shape == (5, 2, 3)
        assert torch.equal(a, b)


def test_head_layouts_of_the_normal():
    head = torch.randn(5, 8)
    loc, scale = head[:, :4], F.softplus(head[:, 4:])
    for shape in (None, (4,)):
        got = normal.params(head, shape)
        assert torch.equal(got[0], loc)
        assert torch.equal(got[1], scale)
    scalar = normal.params(head[:, :2], ())
    assert [p.shape for p in scalar] == [(5,), (5,)]
    assert torch.equal(scalar[1], F.softplus(head[:, 1]))
    image = normal.params(torch.randn(5, 2 * 12), (3, 2, 2))
    assert image[1].shape == (5, 3, 2, 2)
    row = normal.params(head[:1], (1, 4))  # leading event axes of 1: flat, whatever the batch size
    assert row[0].shape == (1, 1, 4)


def test_head_layouts_with_classes():
    assert categorical.params(torch.randn(5, 7), ())[0].shape == (5, 7)
    assert categorical.params(torch.randn(5, 7), None)[0].shape == (5, 7)
    assert categorical.params(torch.randn(5, 2, 7), (2,))[0].shape == (5, 2, 7)
    assert categorical.params(torch.randn(5, 7), (1,))[0].shape == (5, 1, 7)
    assert CategoricalFamily(classes=7).params(torch.randn(5, 14), (2,))[0].shape == (5, 2, 7)
    assert two_hot.params(torch.randn(5, 255), ())[0].shape == (5, 255)
    assert two_hot.params(torch.randn(5, 510), (2,))[0].shape == (5, 2, 255)
    assert two_hot.params(torch.randn(5, 2, 255), (2,))[0].shape == (5, 2, 255)
    assert categorical.head_width((2,)) is None
    assert CategoricalFamily(classes=7).head_width((2,)) == 14
    assert two_hot.head_width((2,)) == 510


def test_fixed_parameters_take_no_part_of_the_head():
    head = torch.randn(5, 4)
    assert normal.params(head, (4,), {"scale": 1})[0] is head
    assert normal.params(head, (4,), {"scale": 1})[1] == 1.0
    assert torch.equal(normal.params(head, (4,), {"loc": 0.0})[1], F.softplus(head))
    assert normal.head_width((4,), {"scale": 1.0}) == 4
    scale = torch.nn.Parameter(torch.ones(4))
    loc_and_scale = normal.params(head, (4,), {"scale": scale})
    assert torch.equal(loc_and_scale[1], scale.expand(5, 4))
    expected = torch.distributions.Normal(head, scale).log_prob(head + 1).sum(-1)
    assert torch.allclose(normal.log_prob(loc_and_scale, head + 1, 1), expected)
    assert torch.allclose(normal.entropy(loc_and_scale, 1), torch.full((5,), 4 * 1.418939))


def test_one_number_as_a_tensor_fills_the_event():
    shared = normal.params(None, (4,), {"scale": torch.tensor(2.0)})
    assert shared[1].shape == (4,)
    assert normal.entropy(shared, 1).item() == pytest.approx(4 * (1.418939 + math.log(2)), abs=1e-4)
    groups = one_hot.params(None, (3, 2), {"probs": torch.tensor([0.25, 0.75])})
    assert groups[0].shape == (3, 2)


def test_a_mapping_is_taken_as_it_is():
    loc, scale = torch.randn(5, 4), torch.rand(5, 4)
    got = normal.params({"scale": scale, "loc": loc}, (4,))
    assert got[0] is loc
    assert got[1] is scale
    assert normal.params({"loc": loc}, (4,), {"scale": 2})[1] == 2.0
    probs = torch.rand(5, 4, dtype=DOUBLE)
    assert torch.allclose(bernoulli.mean(bernoulli.params({"probs": probs}, (4,))), probs)
    assert bernoulli.mean(bernoulli.params({"probs": 0.3}, (4,))) == pytest.approx(0.3)
    picks = categorical.params({"probs": probs})[0].exp()
    assert torch.allclose(picks, probs / probs.sum(-1, keepdim=True))


@pytest.mark.parametrize(
    ("family", "head", "shape", "fixed", "words"),
    [
        (normal, torch.zeros(5, 7), (4,), {}, ["loc, scale", "(4,)", "[..., 8]", "[5, 7]", "8 features"]),
        (normal, torch.zeros(5, 7), None, {}, ["not declared", "[..., 2·n]", "[5, 7]"]),
        (normal, torch.zeros(5, 7), (2, 3), {}, ["[..., 12] or [..., 2, 6]", "[5, 7]"]),
        (normal, torch.zeros(()), None, {}, ["got head"]),
        (normal, torch.zeros(5, 4), (4,), {"loc": 0, "scale": 1}, ["fixed", "Drop the network"]),
        (normal, {"loc": 0.0, "scales": 1.0}, (4,), {}, ["'scales'", "Did you mean 'scale'"]),
        (normal, {"loc": 0.0}, (4,), {}, ["lacks scale", "got loc"]),
        (normal, {"loc": 0.0, "scale": 1.0}, (4,), {"scale": 1.0}, ["a keyword fixes"]),
        (normal, {"loc": torch.zeros(5, 3), "scale": 1.0}, (4,), {}, ["[..., 4]", "[5, 3]"]),
        (normal, {"loc": "left", "scale": 1.0}, (4,), {}, ["a tensor or a number", "'left'"]),
        (normal, None, (4,), {"scale": -1.0}, ["positive", "-1.0"]),
        (normal, None, None, {}, ["no network and no shape"]),
        (bernoulli, {"probs": 0.5, "logits": 0.0}, (4,), {}, ["'probs' and 'logits' are names of one"]),
        (bernoulli, None, (4,), {"probs": 1.5}, ["between 0 and 1"]),
        (one_hot, torch.zeros(5, 4), (), {}, ["class axis"]),
        (one_hot, None, (), {}, ["class axis"]),
        (one_hot, {"logits": 0.0}, None, {}, ["declare shape=K"]),
        (categorical, torch.zeros(5, 8), (2,), {}, ["[..., 2, K]", "classes=K"]),
        (categorical, None, (2,), {}, ["classes=K"]),
        (two_hot, torch.zeros(5, 254), (), {}, ["[..., 255]", "[5, 254]"]),
    ],
)
def test_head_errors_say_what_to_do(family, head, shape, fixed, words):
    with pytest.raises(HeadError) as found:
        family.params(head, shape, fixed)
    assert all(word in str(found.value) for word in words), str(found.value)


@pytest.mark.parametrize(
    "build",
    [
        lambda: NormalFamily(min_scale=-1.0),
        lambda: OneHotFamily(unimix=1.0),
        lambda: CategoricalFamily(unimix=-0.1),
        lambda: CategoricalFamily(classes=0),
        lambda: TwoHotFamily(bins=1),
        lambda: TwoHotFamily(low=3.0, high=3.0),
    ],
)
def test_impossible_options(build):
    with pytest.raises(ConfigError):
        build()


# ------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("loc", "value"), [((4, 3), (1, 3)), ((3,), (2, 3)), ((1, 2), (4, 3)), ((2, 3), (3,)), ((5, 3), (4, 5, 3))]
)
def test_nothing_broadcasts_silently(loc, value):
    params = torch.zeros(loc), torch.ones(loc)
    with pytest.raises(ShapeError) as found:
        normal.log_prob(params, torch.zeros(value), 1)
    assert str(list(loc)) in str(found.value)
    assert str(list(value)) in str(found.value)
    with pytest.raises(ShapeError):
        normal.kl(params, (torch.zeros(value), torch.ones(value)), 1)


@pytest.mark.parametrize("family", list(discover().values()), ids=str)
def test_expand_gives_a_distribution_more_batch_axes(family):
    shape = (4,) * family.default_rank
    params = family.params(torch.randn(family.head_width(shape) or 5), shape)
    noise = family.noise(family.noise_shape((6, 2), shape, params))
    value = family.sample(params, noise)
    wide = family.expand(params, (6, 2), len(shape))
    together = family.log_prob(wide, value, len(shape))
    alone = [family.log_prob(params, v, len(shape)) for v in value.flatten(0, 1)]
    assert together.shape == (6, 2)
    assert torch.allclose(together.flatten(), torch.stack(alone))


def test_constants_need_a_shape_for_their_closed_forms():
    with pytest.raises(FormulaError, match="shape"):
        normal.entropy((0.0, 1.0), 1)
    with pytest.raises(FormulaError, match="shape"):
        bernoulli.kl((0.0,), (1.0,), 1)


def test_questions_without_an_answer_are_errors():
    with pytest.raises(FormulaError, match="OneHot"):
        categorical.mean(categorical.params(torch.randn(3)))
    with pytest.raises(FormulaError, match=r"\.long\(\)"):
        categorical.log_prob(categorical.params(torch.randn(5, 3)), torch.zeros(5), 0)
    for family in (one_hot, two_hot, CategoricalFamily(classes=4)):
        with pytest.raises(FormulaError, match="no mode"):
            family.mode(family.params(None, (4,)))


def test_closed_kl_pairs():
    assert kl_pair(normal, NormalFamily(min_scale=0.1)) is not None
    assert kl_pair(one_hot, OneHotFamily(unimix=0.01)) is not None
    assert kl_pair(bernoulli, BernoulliFamily()) is not None
    assert kl_pair(categorical, categorical) is not None
    assert kl_pair(normal, bernoulli) is None
    q, p = (normal.params(torch.randn(3, 8), (4,)) for _ in range(2))
    assert torch.equal(kl_pair(normal, normal)(q, p, 1), normal.kl(q, p, 1))


# ------------------------------------------------------------------------------------------- samples


def test_one_hot_samples_are_exactly_one_hot_and_carry_the_gradient_of_the_mixed_probabilities():
    family = OneHotFamily(unimix=0.01)
    head = torch.randn(50, 3, 4, requires_grad=True)
    sample = family.sample(family.params(head, (3, 4)), family.noise((50, 3, 4)))
    assert set(sample.flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(sample.sum(-1), torch.ones(50, 3))
    weight = torch.randn(50, 3, 4)
    expected = torch.autograd.grad(((0.99 * head.softmax(-1) + 0.01 / 4) * weight).sum(), head)[0]
    (gradient,) = torch.autograd.grad((sample * weight).sum(), head)
    assert torch.allclose(gradient, expected, rtol=0, atol=1e-6)


def test_bernoulli_straight_through():
    logits = torch.randn(50, 3, requires_grad=True)
    noise = bernoulli.noise((50, 3))
    sample = bernoulli.straight_through((logits,), noise)
    assert torch.equal(sample, bernoulli.sample((logits,), noise))
    weight = torch.randn(50, 3)
    expected = torch.autograd.grad((logits.sigmoid() * weight).sum(), logits)[0]
    (gradient,) = torch.autograd.grad((sample * weight).sum(), logits)
    assert torch.allclose(gradient, expected, rtol=0, atol=1e-7)
    assert not bernoulli.sample((logits,), noise).requires_grad


def test_reparametrised_gradient_is_that_of_the_expectation():
    loc = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
    scale = torch.tensor(1.3, dtype=DOUBLE, requires_grad=True)
    value = normal.sample((loc, scale), normal.noise((200_000,), dtype=DOUBLE))
    by_loc, by_scale = torch.autograd.grad((value**2).mean(), (loc, scale))  # E x² = loc² + scale²
    assert by_loc.item() == pytest.approx(1.4, abs=3 * 2 * 1.3 / 200_000**0.5)
    assert by_scale.item() == pytest.approx(2.6, abs=3 * (4 * 0.49 + 8 * 1.69) ** 0.5 / 200_000**0.5)


def test_masked_classes_are_never_drawn_and_keep_everything_finite():
    mask = torch.tensor([-math.inf, 0.0, -math.inf, 1.0, -math.inf])
    for family in (categorical, one_hot):
        head = (torch.randn(2000, 5) + mask).requires_grad_()
        params = family.params(head)
        value = family.sample(params, family.noise(family.noise_shape((2000,), (5,)[: family.default_rank])))
        index = value if family is categorical else value.argmax(-1)
        assert set(index.tolist()) == {1, 3}
        rank = family.default_rank
        total = family.log_prob(params, value.detach(), rank) + family.entropy(params, rank)
        total = (total + family.kl(params, family.params(head.detach().roll(1, 0)), rank)).sum()
        assert torch.isfinite(total)
        assert torch.isfinite(torch.autograd.grad(total, head)[0]).all()
    edges = torch.tensor([0.0, 1.0 - 2.0**-24]).repeat(1000)  # the ends of torch.rand
    assert set(categorical.sample(categorical.params(torch.randn(2000, 5) + mask), edges).tolist()) == {1, 3}


def test_noise_follows_the_generator_and_stays_finite():
    for family in discover().values():
        first, second = (family.noise((3, 4), generator=torch.Generator().manual_seed(7)) for _ in range(2))
        assert torch.equal(first, second)
        assert torch.isfinite(family.noise((100_000,), dtype=torch.float16)).all()


# ------------------------------------------------------------------------------------------- costs and environments


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        (lambda q, x: normal.log_prob(q, x, 1), 6),
        (lambda q, x: normal.log_prob((q[0], 1.0), x, 1), 4),
        (lambda q, x: normal.kl(q, (0.0, 1.0), 1), 6),
        (lambda q, x: normal.kl(q, q, 1), 9),
        (normal.sample, 2),
        (lambda q, x: bernoulli.log_prob((q[0],), x, 1), 3),
        (lambda q, x: one_hot.log_prob((q[0],), x, 1), 2),
        (lambda q, x: one_hot.kl((q[0],), (q[1],), 1), 6),  # two of the sum: ∞ where p says 0
        (lambda q, x: OneHotFamily(unimix=0.01).kl((q[0],), (q[1],), 1), 4),  # p is nowhere 0
        (lambda q, x: one_hot.kl((q[0],), (-1.4,), 1), 4),
        (lambda q, x: normal.entropy((0.0, 1.0), 1, (4,)), 0),
        (lambda q, x: normal.kl((0.0, 1.0), (1.0, 2.0), 1, (4,)), 0),
        (lambda q, x: normal.params(x, (4,), {"scale": 1.0}), 0),
    ],
)
def test_operations_stay_at_hand_written_level(what, limit):
    q, x = (torch.randn(3, 4), torch.rand(3, 4)), torch.rand(3, 4)
    with Operations() as seen:
        what(q, x)
    assert len(seen.names) <= limit, seen.names


def test_a_sample_without_gradients_costs_no_straight_through():
    params, noise = one_hot.params(torch.randn(3, 4)), one_hot.noise((3, 4))
    with torch.no_grad(), Operations() as seen:
        one_hot.sample(params, noise)
    assert "exp" not in seen.names


@pytest.mark.parametrize("family", list(discover().values()), ids=str)
def test_no_method_waits_for_the_device(family):
    # Tensors on the meta device have no values: anything that reads one raises.
    shape = (4,) * family.default_rank
    head = torch.zeros(2, family.head_width(shape) or 5, device="meta")
    q, p = family.params(head, shape), family.params(head, shape)
    noise = family.noise(family.noise_shape((2,), shape, q), device="meta")
    value, rank = family.sample(q, noise), len(shape)
    results = [family.log_prob(q, value, rank), *closed(family, q, p, rank)]
    assert {r.shape for r in results} == {(2,)}
    assert family.mode(q).shape == (2, *shape)
    with suppress(FormulaError):  # class numbers, for one, have no mean
        assert family.mean(q).shape == (2, *shape)


@pytest.mark.parametrize("family", list(discover().values()), ids=str)
def test_under_autocast_densities_are_float32(family):
    shape = (4,) * family.default_rank
    net = torch.nn.Linear(3, family.head_width(shape) or 5)
    x = torch.randn(2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q = family.params(net(x), shape)
        value = family.sample(q, family.noise(family.noise_shape((2,), shape, q)))
        results = family.log_prob(q, value, len(shape)), *closed(family, q, q, len(shape))
    assert all(r.dtype is torch.float32 for r in results)
    results[0].sum().backward()
    assert torch.isfinite(net.weight.grad).all()


@pytest.mark.parametrize("family", list(discover().values()), ids=str)
def test_gradients_for_each_row_under_vmap(family):
    shape = (4,) * family.default_rank
    head = torch.randn(3, family.head_width(shape) or 5, dtype=DOUBLE)
    noise = family.noise(family.noise_shape((3,), shape), dtype=DOUBLE)

    def loss(head, noise):
        q = family.params(head, shape)
        value = family.sample(q, noise)
        value = value.detach() if value.is_floating_point() else value
        return sum(closed(family, q, q, len(shape)), start=family.log_prob(q, value, len(shape))).sum()

    leaf = head.clone().requires_grad_()
    loss(leaf, noise).backward()
    assert torch.allclose(torch.func.vmap(torch.func.grad(loss))(head, noise), leaf.grad, rtol=0, atol=1e-12)


def test_straight_through_survives_torch_func():
    family = OneHotFamily(unimix=0.01)
    head, noise, weight = torch.randn(3, 4, dtype=DOUBLE), family.noise((3, 4), dtype=DOUBLE), torch.randn(4)

    def loss(head, noise):
        return (family.sample(family.params(head, (4,)), noise) * weight).sum()

    leaf = head.clone().requires_grad_()
    loss(leaf, noise).backward()
    assert leaf.grad.abs().sum() > 0
    assert torch.allclose(torch.func.vmap(torch.func.grad(loss))(head, noise), leaf.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_model_gets_half_precision_samples(dtype):
    for family, shape in ((normal, (4,)), (bernoulli, (4,)), (OneHotFamily(unimix=0.01), (4,))):
        params = family.params(torch.randn(2, family.head_width(shape)).to(dtype), shape)
        assert family.sample(params, family.noise((2, *shape), dtype=dtype)).dtype is dtype
