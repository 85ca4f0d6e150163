"""Factors and products called by themselves: every value reaches the variable that it belongs to."""

import pytest
import torch

from worldformula import Bernoulli, Data, Deterministic, Normal, OneHot
from worldformula.errors import FormulaError, MissingInputError, ShapeError, UnknownVariableError

H, D = torch.full((4, 2), 3.0), 2


def shifted():
    """h_t = h_{t-1} + 1, and z_t around h_{t-1}: two offsets of one name in one product."""
    core = Deterministic("h_t = f(h_{t-1})", lambda h: h + 1, shape=D)
    return core * Normal("p(z_t|h_{t-1})", lambda h: {"loc": h, "scale": torch.ones_like(h)}, shape=D)


def both():
    """z_t reads h_t as well as h_{t-1}."""
    core = Deterministic("h_t = f(h_{t-1})", lambda h: h + 1, shape=D)
    return core * Normal("p(z_t|h_t,h_{t-1})", lambda h, past: {"loc": h - past, "scale": 1.0 + 0 * h}, shape=D)


def latent():
    """z, and x of z and a."""
    return Normal("p(z)", shape=D) * Normal("p(x|z,a)", lambda z, a: {"loc": z + a, "scale": 1.0 + 0 * z}, shape=D)


def test_a_condition_at_the_earlier_step_gets_the_earlier_value():
    drawn = shifted().sample(h=H, deterministic=True)
    torch.testing.assert_close(drawn, {"h": H + 1, "z": H})
    torch.testing.assert_close(shifted().sample(h_prev=H, deterministic=True), drawn)


def test_the_density_reads_the_same_offsets_as_the_draw():
    z = torch.randn(4, D)
    expected = torch.distributions.Normal(H, 1.0).log_prob(z).sum(-1)
    for given in ({"h": H}, {"h_prev": H}, {"h": H + 1, "h_prev": H}):
        torch.testing.assert_close(shifted().log_prob(z=z, **given), expected)
    around_one = torch.distributions.Normal(torch.ones(4, D), 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(both().log_prob(z=z, h=H), around_one)
    torch.testing.assert_close(both().log_prob(z=z, h=H + 1, h_prev=H), around_one)


def test_two_offsets_that_nobody_declares_have_two_names():
    joint = Normal("p(z_t|h_t,h_{t-1})", lambda h, past: {"loc": h - past, "scale": 1.0 + 0 * h}, shape=D) * Data(
        "p(b)"
    )
    drawn = joint.sample(h=H, h_prev=2 * H, b=torch.zeros(4), deterministic=True)
    torch.testing.assert_close(drawn["z"], -H)
    with pytest.raises(MissingInputError, match="h_prev"):
        joint.sample(h=H, b=torch.zeros(4))


def test_seed_noise_and_sample_shape_of_a_product_do_what_they_say():
    joint, a = latent(), torch.arange(8.0).view(4, D)
    one = joint.sample(a=torch.zeros(D), seed=1)
    torch.testing.assert_close(joint.sample(a=torch.zeros(D), seed=1), one)
    assert not torch.equal(joint.sample(a=torch.zeros(D), seed=2)["z"], one["z"])
    noise = {"z": torch.ones(4, D), "x": torch.full((4, D), 2.0)}
    free = Normal("q(z|a)", lambda a: {"loc": a, "scale": torch.ones_like(a)}, shape=D) * joint.factors[1]
    torch.testing.assert_close(free.sample(a=a, noise=noise), {"z": a + 1, "x": 2 * a + 3})
    assert {k: v.shape for k, v in free.sample(a=a, sample_shape=(5, 3)).items()} == {
        "z": (5, 3, 4, D),
        "x": (5, 3, 4, D),
    }
    draws = free.sample(a=a, sample_shape=(4000,), seed=0)
    torch.testing.assert_close(draws["x"].mean(0), 2 * a, atol=0.1, rtol=0)
    torch.testing.assert_close(draws["x"].var(0), torch.full((4, D), 2.0), atol=0.2, rtol=0)
    known = shifted().sample(h=H, sample_shape=(7,), deterministic=True)
    assert {v.shape for v in known.values()} == {(7, 4, D)}


def test_generator_and_seed_exclude_each_other():
    prior, *_ = latent().factors
    for call in (prior.sample, lambda **how: latent().sample(a=torch.zeros(D), **how)):
        with pytest.raises(FormulaError, match="got both"):
            call(seed=1, generator=torch.Generator())


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: latent().sample(a=H, seeds=1), UnknownVariableError, "no variable 'seeds'"),
        (lambda: latent().sample(A=H), UnknownVariableError, "Did you mean 'a'"),
        (lambda: latent().sample(a=H, z=H), UnknownVariableError, "It is drawn, not given"),
        (lambda: latent().sample(), MissingInputError, "needs a; pass a=..."),
        (lambda: latent().sample(a=H, noise=H), FormulaError, "by variable"),
        (lambda: latent().sample(a=H, noise={"y": H}), UnknownVariableError, "no variable 'y'"),
        (lambda: latent().log_prob(a=H, z=H, x=H, w=H), UnknownVariableError, "no variable 'w'"),
        (lambda: latent().log_prob(a=H, z=H), MissingInputError, "needs x; pass x=..."),
        (lambda: shifted().log_prob(z=H), MissingInputError, "needs h; pass h=..."),
        (lambda: latent().log_prob(a=H, z=H[:1, :], x=H[:3]), ShapeError, "silently"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, error, said):
    with pytest.raises(error, match=said) as caught:
        call()
    if error in (UnknownVariableError, MissingInputError):
        assert "declared by" in str(caught.value)


def test_data_in_a_product_is_the_datum():
    encode = Normal("q(z|x)", lambda x: {"loc": 2 * x, "scale": torch.ones_like(x)}, shape=D)
    drawn = (Data("p_data(x)") * encode).sample(x=H, deterministic=True)
    torch.testing.assert_close(drawn, {"x": H, "z": 2 * H})
    with pytest.raises(MissingInputError, match="p_data"):
        (Data("p_data(x)") * encode).sample()


def test_a_draw_goes_back_into_the_density():
    joint = Deterministic("y = f(z)", torch.sinh) * Normal("p(z)", shape=D)
    drawn = joint.sample(sample_shape=(6,))
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(drawn["z"]).sum(-1)
    torch.testing.assert_close(joint.log_prob(**drawn), expected)


@pytest.mark.parametrize("factor", [Normal("p(z)", shape=2), Bernoulli("p(z)", shape=2), OneHot("p(z)", shape=(3, 2))])
def test_a_density_holds_to_the_declared_shape(factor):
    with pytest.raises(ShapeError, match="event shape that p\\(z\\) declares") as caught:
        factor.log_prob(z=torch.zeros(5, 3))
    assert "| [5, 3]" in str(caught.value)
    with pytest.raises(ShapeError, match="expected a tensor"):
        factor.log_prob(z=0.0)
