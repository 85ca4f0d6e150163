"""An expression is a plain nn.Module: copy, save, cast, move, map, compile."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.utils._pytree import tree_map

from tests.formula.models import A, B, D, T, X, gradients, rssm, sequences, vae
from worldformula import KL, E, Normal, log
from worldformula.errors import FormulaError


def pixels(*batch):
    return torch.rand(*batch, X).bernoulli()


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))])
@pytest.mark.parametrize(("build", "data"), [(vae, lambda: {"x": pixels(B)}), (rssm, sequences)])
def test_a_copy_computes_the_same_and_shares_nothing(twin, build, data):
    loss, given = build(), data()
    value = loss(**given, seed=1).value
    other = twin(loss)
    assert str(other) == str(loss)
    assert other.code == loss.code
    torch.testing.assert_close(other(**given, seed=1).value, value)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    torch.testing.assert_close(loss(**given, seed=1).value, value)
    assert other(**given, seed=1).value != value


def test_state_dict_has_flat_stable_names_and_round_trips():
    loss, given = rssm(), sequences()
    names = {name.rsplit(".", 2)[0] for name in loss.state_dict()}
    assert names == {"enc", "f", "p_z_given_h", "q_z_given_h_e", "p_x_given_h_z", "p_r_given_h_z"}
    other = rssm()
    other.load_state_dict(loss.state_dict())
    torch.testing.assert_close(other(**given, seed=0).value, loss(**given, seed=0).value)


@pytest.mark.parametrize("after_a_call", [False, True])
def test_double(after_a_call):
    loss = vae()
    if after_a_call:
        loss(x=pixels(B))
    out = loss.double()(x=pixels(B).double())
    assert out.value.dtype == out.samples["z"].dtype == torch.float64


@pytest.mark.parametrize(("build", "data"), [(vae, lambda: {"x": pixels(B)}), (rssm, sequences)])
def test_the_meta_device(build, data):
    loss = build()
    loss(**data())
    out = loss.to("meta")(**{k: v.to("meta") for k, v in data().items()})
    assert out.value.device.type == "meta"
    assert out.value.shape == ()


@pytest.mark.parametrize(("build", "data"), [(vae, lambda: {"x": pixels(B)}), (rssm, sequences)])
def test_autocast_to_bfloat16(build, data):
    loss, given = build(), data()
    exact = loss(**given, seed=0).value
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(**given, seed=0).value
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, exact, rtol=0.15, atol=0.15)
    value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())


def test_functional_call_takes_the_given_weights():
    loss, x = vae(), pixels(B)
    zeros = {k: torch.zeros_like(v) for k, v in loss.named_parameters()}
    value = functional_call(loss, zeros, (), {"x": x, "seed": 0}).value
    scale = torch.tensor(2.0).log()  # softplus(0)
    kl = 2 * (0.5 * (scale**2 - 1) - scale.log())
    torch.testing.assert_close(value, kl + X * torch.tensor(2.0).log())
    by_func = grad(lambda p: functional_call(loss, p, (), {"x": x, "seed": 0}).value)(dict(loss.named_parameters()))
    by_hand = gradients(loss(x=x, seed=0).value, loss)
    torch.testing.assert_close(tuple(by_func.values()), by_hand)


def test_vmap_over_data():
    loss, x = vae(), pixels(B)
    noise = torch.randn(B, 2)
    torch.testing.assert_close(
        vmap(lambda x, z: loss(x=x, noise={"z": z}).value)(x, noise),
        torch.stack([loss(x=x[i], noise={"z": noise[i]}).value for i in range(B)]),
    )
    values = vmap(lambda x: loss(x=x).value, randomness="different")(pixels(1).expand(50, X))
    assert values.shape == (50,)
    assert values.unique().numel() == 50


def test_the_steps_of_a_result_that_something_else_made_are_refused():
    loss, data = rssm(), sequences(6)
    whole = loss(**data)
    assert whole.steps
    again = tree_map(lambda v: v, whole)
    torch.testing.assert_close(again.terms, whole.terms)
    with pytest.raises(FormulaError, match="its terms are reduced"):
        _ = again.steps


def test_vmap_over_stacked_weights():
    models, x = [vae() for _ in range(4)], pixels(B)
    weights, buffers = stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")
    noise = {"z": torch.randn(B, 2)}
    values = vmap(lambda p: functional_call(base, (p, buffers), (), {"x": x, "noise": noise}).value)(weights)
    torch.testing.assert_close(values, torch.stack([m(x=x, noise=noise).value for m in models]))


def test_vmap_over_sequences():
    loss, data = rssm(), sequences(6)
    one = vmap(lambda d: loss(**{k: v.unsqueeze(0) for k, v in d.items()}).value, randomness="different")
    assert one(data).shape == (6,)


# ---------------------------------------------------------------------------------------------------------- compile


@pytest.fixture(autouse=True)
def _forget_compiled_graphs():
    torch.compiler.reset()


def agrees(loss, compiled, given):
    noise = loss.noise(**given, generator=torch.Generator().manual_seed(0))
    expected = copy.deepcopy(loss)(**given, noise=noise)
    out = compiled(**given, noise=noise)
    torch.testing.assert_close(out.value, expected.value)
    torch.testing.assert_close(gradients(out.value, loss), gradients(loss(**given, noise=noise).value, loss))


@pytest.mark.parametrize(("build", "data"), [(vae, lambda: {"x": pixels(B)}), (rssm, lambda: sequences(length=1))])
def test_loss_compile_is_one_graph(build, data):
    loss, given = build(), data()
    assert loss.compile(fullgraph=True, backend="eager") is loss
    agrees(loss, loss, given)


@pytest.mark.slow
@pytest.mark.parametrize(("build", "data"), [(vae, lambda: {"x": pixels(B)}), (rssm, lambda: sequences(length=2))])
@pytest.mark.parametrize("called_before", [False, True])
def test_torch_compile_of_the_loss_is_one_graph(build, data, called_before):
    loss, given = build(), data()
    if called_before:
        loss(**given)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    assert compiled(**given).value.isfinite()
    agrees(loss, compiled, given)


def test_compile_of_a_function_that_reads_the_value():
    loss = vae()
    train = torch.compile(lambda x: loss(x=x).value * 2, fullgraph=True, backend="eager")
    assert train(pixels(B)).shape == ()


@pytest.mark.slow
def test_inductor():
    loss, x = vae(), pixels(B)
    agrees(loss, torch.compile(loss, fullgraph=True), {"x": x})


# ------------------------------------------------------------------------------------------------- sharing of networks


def test_a_network_of_two_factors_appears_once():
    shared = nn.Linear(X, 2 * X)
    loss = E(Normal("q(y|x)", shared), log(Normal("p(w|y)", shared))).mean()
    assert list(loss.state_dict()) == ["q_y_given_x.weight", "q_y_given_x.bias"]
    loss(x=torch.randn(B, X), w=torch.randn(B, X)).value.backward()
    assert shared.weight.grad is not None


def test_every_factor_of_one_letter_gets_its_own_name():
    one, two = (Normal("q(z|x)", nn.Linear(X, 4)) for _ in range(2))
    loss = (KL(one, Normal("p(z)", shape=2)) + KL(two, Normal("p(z)", shape=2))).mean()
    assert {k.split(".")[0] for k in loss.state_dict()} == {"q_z_given_x", "q_z_given_x_2"}


def test_buffers_and_training_mode_reach_the_networks():
    net = nn.Sequential(nn.Linear(X, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    loss = KL(Normal("q(z|x)", net), Normal("p(z)", shape=2)).mean()
    assert "q_z_given_x.1.running_mean" in loss.state_dict()
    loss.eval()
    assert not net.training
    x = pixels(B)
    torch.testing.assert_close(loss(x=x).value, loss(x=x).value)


def test_a_sequence_axis_that_is_not_contiguous():
    loss, data = rssm(), sequences()
    strided = {k: v.transpose(0, 1).contiguous().transpose(0, 1) for k, v in data.items()}
    torch.testing.assert_close(loss(**strided, seed=0).value, loss(**data, seed=0).value)
    assert (A, D, T) == (2, 5, 4)
