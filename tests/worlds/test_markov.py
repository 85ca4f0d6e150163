"""DMM and VRNN: the bound against a loop by hand, the laws of a world, and what the options change."""

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from worldformula.errors import ConfigError
from worldformula.testing import check_world
from worldformula.worlds import dmm, vrnn

B, T = 4, 6
WORLDS = {
    "dmm": lambda: dmm.build(dmm.tiny()),
    "dmm, left": lambda: dmm.build(dmm.Sizes(8, 4, 12, 12, 12, "left")),
    "dmm, both": lambda: dmm.build(dmm.Sizes(8, 4, 12, 12, 12, "both")),
    "dmm, actions": lambda: dmm.build(dmm.Sizes(8, 4, 12, 12, 12, "left", actions=3)),
    "vrnn": lambda: vrnn.build(vrnn.tiny()),
}


def batch(actions=0):
    first = torch.zeros(B, T, dtype=torch.bool)
    first[1, 3] = True
    return {"x": torch.rand(B, T, 8).bernoulli(), "first": first} | ({"a": torch.randn(B, T, 3)} if actions else {})


def inputs(world):
    return {k: v for k, v in batch(actions=3).items() if k in world.loss.program.inputs}


@pytest.mark.parametrize("name", WORLDS)
def test_code_is_interpreter_and_a_step_lowers_the_loss(name):
    torch.manual_seed(0)
    world = WORLDS[name]().double()
    data = {k: v if v.dtype is torch.bool else v.double() for k, v in inputs(world).items()}
    noise = world.loss.noise(**data)
    values = [run(**data, noise=noise).value for run in (world.loss, world.loss.interpret)]
    torch.testing.assert_close(*values)
    pulls = [torch.autograd.grad(v, list(world.parameters()), allow_unused=True) for v in values]
    torch.testing.assert_close(*pulls)
    optimiser = torch.optim.Adam(world.parameters(), lr=1e-3)
    values = [run(**data, noise=noise).value for run in (world.loss,)]
    values[0].backward()
    optimiser.step()
    assert world.loss(**data, noise=noise).value < values[0]


@pytest.mark.parametrize("name", ["dmm, left", "dmm, actions", "vrnn"])
def test_laws(name):
    torch.manual_seed(0)
    world = WORLDS[name]()
    check_world(world, inputs(world))


def test_the_formulas_print():
    assert str(dmm.build(dmm.tiny()).loss) == (
        r"\operatorname{mean}\left( \sum_{t;\, \mathrm{reset}=\mathrm{first};\, \mathrm{initial}=z} "
        r"\mathbb{E}_{h_{t} = "
        r"\mathrm{rnn}(x_{1:T}),\, q(z_{t} \mid z_{t-1}, h_{t})}\left[ D_{\mathrm{KL}}\left[ q(z_{t} \mid z_{t-1}, "
        r"h_{t}) \,\|\, p(z_{t} \mid z_{t-1}) \right] - \log p(x_{t} \mid z_{t}) \right] \right)"
    )
    assert r"p(x_{t} \mid \tilde{z}_{t}, h_{t-1})" in str(vrnn.build(vrnn.tiny()).loss)


def test_dmm_by_hand():
    torch.manual_seed(0)
    world = dmm.build(dmm.tiny())
    data, noise = batch(), torch.randn(B, T, 16)
    nets = dict(world.loss.named_children())
    h = nets["rnn"].rnn(data["x"].flip(1))[0].flip(1)
    start = world.loss.initial_state.z
    start.data.normal_()
    z, total = start.expand(B, -1), torch.zeros(B)
    for t in range(T):
        z = torch.where(data["first"][:, t, None], start, z)
        q = Normal(**nets["q_z_given_z_prev_h"](z, h[:, t]))
        p = Normal(**nets["p_z_given_z_prev"](z))
        z = q.loc + q.scale * noise[:, t]
        x = Bernoulli(logits=nets["p_x_given_z"](z))
        total = total + kl_divergence(q, p).sum(-1) - x.log_prob(data["x"][:, t]).sum(-1)
    torch.testing.assert_close(world.loss(**data, noise={"z": noise}).value, total.mean())


def test_the_right_summary_reads_the_future_and_the_left_one_does_not():
    torch.manual_seed(0)
    data = {"x": torch.rand(B, T, 8).bernoulli(), "first": torch.zeros(B, T, dtype=torch.bool)}
    later = data | {"x": torch.cat((data["x"][:, :3], 1 - data["x"][:, 3:]), 1)}
    for name, same in (("dmm", False), ("dmm, left", True), ("dmm, both", False)):
        world = WORLDS[name]()
        one, two = (world.filter(d, deterministic=True)["z"][:, :3] for d in (data, later))
        assert torch.allclose(one, two) == same


def test_the_transition_begins_near_the_identity_and_has_a_gate():
    torch.manual_seed(0)
    net = dmm.Transition(dmm.tiny())
    z = torch.randn(5, 16)
    net.gate[2].bias.data.fill_(-50)
    torch.testing.assert_close(net(z)["loc"], z)
    net.gate[2].bias.data.fill_(50)
    torch.testing.assert_close(net(z)["loc"], net.proposal(z))


def test_vrnn_imagines_frames_that_its_recurrence_reads():
    torch.manual_seed(0)
    world = vrnn.build(vrnn.tiny())
    state = {k: v[:, -1] for k, v in world.filter(batch(), deterministic=True).items()}
    dream = world.imagine(state, horizon=3, deterministic=True)
    assert set(dream) == {"h", "tilde_z", "g"}
    torch.testing.assert_close(dream["g"][:, 1:], dream["h"][:, :-1])
    frames = world.decode(dream)["x"]
    nets = dict(world.loss.named_children())
    x = (frames[:, 1] > 0.5).float()
    expected = nets["f"](nets["phi_x"](x), dream["tilde_z"][:, 1], dream["h"][:, 0])
    torch.testing.assert_close(dream["h"][:, 1], expected)


def test_sizes_are_checked():
    with pytest.raises(ConfigError, match="inference"):
        dmm.Sizes(8, 4, 12, 12, 12, "up")
