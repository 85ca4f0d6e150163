"""H-JEPA: its loss by hand in NumPy, one level as the flat world, laws at every depth, what HWM's levels share."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from worldformula.agent.perception import Perception
from worldformula.envs import ActionSpec, Column
from worldformula.errors import ConfigError
from worldformula.planner import ActionSet, Task
from worldformula.planners.cem import CEM
from worldformula.planners.gradient import Gradient
from worldformula.planners.hierarchy import Hierarchy, Level
from worldformula.testing import check_world
from worldformula.worlds import h_jepa, jepa

B, T, D, U, M = 4, 9, 6, 3, 2
SMALL = h_jepa.HJEPAConfig(
    stride=2, latent=D, upper=U, macro=M, channels=(4, 4), units=8, covariance=0.3, similarity=0.7, inverse=1.1,
    slowness=0.4,
)  # fmt: skip
SHAPES = {"image": (9, 9, 3), "body": (2,)}


def rows(dtype=torch.float64):
    torch.manual_seed(0)
    first = torch.zeros(B, T, dtype=torch.bool)
    first[:, 0] = first[1, 3] = True
    seen = {"image": torch.rand(B, T, 9, 9, 3, dtype=dtype), "body": torch.randn(B, T, 2, dtype=dtype)}
    return {**seen, "a": torch.rand(B, T, 2, dtype=dtype) * 2 - 1, "first": first}


def built(config, levels=2):
    """A world whose predictors do something."""
    torch.manual_seed(1)
    world = h_jepa.build(replace(config, levels=levels), SHAPES, 2)
    for network in world.loss.children():
        if hasattr(network, "net") and hasattr(network.net, "head"):
            torch.nn.init.normal_(network.net.head.weight, std=0.3)
    return world


def apart(z):
    """V and C at each step, the mean over steps; ``[B, T, D]``."""
    low = [np.maximum(0, 1 - np.sqrt(z[:, t].var(0, ddof=1) + 1e-4)).mean() for t in range(T)]
    alike = []
    for t in range(T):
        c = np.cov(z[:, t].T)
        alike.append(((c**2).sum() - (np.diag(c) ** 2).sum()) / z.shape[-1])
    return SMALL.deviation * np.mean(low) + SMALL.covariance * np.mean(alike)


def steps_since(first):
    """How many rows of its episode lie before a row."""
    count = np.zeros((B, T), int)
    for b in range(B):
        for t in range(1, T):
            count[b, t] = 0 if first[b, t] else count[b, t - 1] + 1
    return count


def foretold(z, level, ahead, span, since):
    """The squared error of rollouts that go ``span`` steps at once, and the squared steps of the latent."""
    rolled, error, far = np.zeros(z.shape), np.zeros((B, T)), np.zeros((B, T))
    for b in range(B):
        for t in range(T):
            if since[b, t] < span:
                rolled[b, t] = z[b, t]
                continue
            rolled[b, t] = ahead(rolled[b, t - span], level[b][t])
            error[b, t] = ((rolled[b, t] - z[b, t]) ** 2).mean()
            far[b, t] = ((z[b, t] - z[b, t - span]) ** 2).mean()
    return error.mean(), far.mean()


def call(network, *given):
    return network(*(torch.as_tensor(np.asarray(x))[None] for x in given))[0].detach().numpy()


@pytest.mark.parametrize("path", ["call", "interpret"])
def test_the_loss_is_that_of_loops_over_rows(path):
    world, given = built(SMALL, 3).double(), rows()
    net, since, a = dict(world.loss.named_children()), steps_since(rows()["first"].numpy()), given["a"].numpy()
    z = net["e"](given["image"].flatten(0, 1), given["body"].flatten(0, 1)).detach()
    z2 = net["e_2"](z)
    z3 = net["e_3"](z2).detach().unflatten(0, (B, T)).numpy()
    z, z2 = (v.detach().unflatten(0, (B, T)).numpy() for v in (z, z2))
    none = np.zeros(M)
    one = [[a[b, t - 1] for t in range(T)] for b in range(B)]
    two = [[call(net["c_2"], a[b, t - 2], a[b, t - 1]) if t > 1 else none for t in range(T)] for b in range(B)]
    three = [[call(net["c_3"], two[b][t - 2], two[b][t]) if t > 3 else none for t in range(T)] for b in range(B)]
    total = 0.0
    for latent, macro, name, span, slow in (
        (z, one, "f", 1, SMALL.similarity), (z2, two, "f_2", 2, SMALL.slowness), (z3, three, "f_3", 4, SMALL.slowness),
    ):  # fmt: skip
        error, far = foretold(latent, macro, lambda s, u, f=net[name]: call(f, s, u), span, since)
        total += error + apart(latent) + slow * far
    guess = [
        ((call(net["g"], z[b, t - 1], z[b, t]) - a[b, t - 1]) ** 2).mean() if since[b, t] else 0.0
        for b in range(B) for t in range(T)
    ]  # fmt: skip
    total += SMALL.inverse * np.mean(guess)
    loss = world.loss if path == "call" else world.loss.interpret
    assert loss(**given).value.item() == pytest.approx(total, rel=1e-9)


def test_one_level_is_the_flat_world_bit_by_bit():
    torch.manual_seed(3)
    flat = jepa.build(jepa.JEPAConfig(D, (4, 4), 8, 3.98, 0.3, 0.7, 1.1), SHAPES, 2)
    torch.manual_seed(3)
    one = h_jepa.build(replace(SMALL, levels=1), SHAPES, 2)
    given = rows(torch.float32)
    for key, value in flat.state_dict().items():
        assert torch.equal(value, one.state_dict()[key])
    values = [world.loss(**given).value for world in (flat, one)]
    assert torch.equal(*values)
    assert str(flat.loss) == str(one.loss)
    start = flat.filter(given).last()
    dreams = [world.imagine(start, actions=torch.rand(B, 3, 2, generator=torch.Generator().manual_seed(0)))["z"]
              for world in (flat, one)]  # fmt: skip
    assert torch.equal(*dreams)


@pytest.mark.parametrize(
    "config", [SMALL, replace(SMALL, levels=3), replace(SMALL, shared=True), replace(SMALL, normality=0.5)],
    ids=["two", "three", "HWM", "SIGReg"],
)  # fmt: skip
def test_laws(config):
    torch.manual_seed(0)
    world = h_jepa.build(config, SHAPES, {"left": 1, "right": 2})
    seen = rows(torch.float32)
    macros = {f"u_{i}": torch.rand(B, T, M) for i in range(2, config.levels + 1)}
    moves = {"left": torch.rand(B, T, 1), "right": torch.rand(B, T, 2)}
    check_world(world, {k: v for k, v in seen.items() if k != "a"} | moves | macros)


def test_a_step_above_is_what_the_loss_foretells():
    """A dream of level 2 under the encoded chunk ends where the loss compares it."""
    world, given = built(SMALL), rows(torch.float32)
    out = world.loss(**given)
    start = {"z_2": out.samples["z_2"][:, 4]}
    dream = world.levels["2"].imagine(start, actions=out.samples["u_2"][:, 6:7])
    expected = world.levels["2"].prior.factors[0].net(out.samples["z_2"][:, 4], out.samples["u_2"][:, 6])
    torch.testing.assert_close(dream["z_2"][:, 1], expected)
    assert out.samples["u_2"].abs().max() < 1


def test_macro_actions_are_of_whole_chunks_of_one_episode():
    world, given = built(SMALL, 3).double(), rows()
    found = h_jepa.macros(replace(SMALL, levels=3), world, given)
    since = steps_since(given["first"].numpy())
    net = dict(world.loss.named_children())
    pairs = [(b, t) for b in range(B) for t in range(T) if since[b, t] >= 2]
    expected = [call(net["c_2"], given["a"][b, t - 2], given["a"][b, t - 1]) for b, t in pairs]
    np.testing.assert_allclose(found["u_2"].numpy(), expected, rtol=1e-9)
    assert len(found["u_3"]) == (since >= 4).sum()


def test_above_a_shared_latent_nothing_is_learnt_by_it():
    world, given = built(replace(SMALL, shared=True)), rows(torch.float32)
    assert torch.equal(world.filter(given)["z_2"], world.filter(given)["z"])
    flat = built(SMALL, 1)
    flat.load_state_dict({k: world.state_dict()[k] for k in flat.state_dict()})
    grads = []
    for own in (world, flat):
        own.loss(**given).value.backward()
        grads.append({k: p.grad for k, p in own.named_parameters()})
    for key, grad in grads[1].items():
        torch.testing.assert_close(grads[0][key], grad)


def test_the_latent_of_every_level_is_watched_and_a_shared_one_once():
    for config, expected in ((replace(SMALL, levels=3), ("z", "z_2", "z_3")), (replace(SMALL, shared=True), ("z",))):
        world, given = built(config, config.levels), rows(torch.float32)
        assert world.embeddings == expected
        z = world.filter(given)[expected[-1]].flatten(0, 1).detach().double().numpy()
        told = world.watched(given)
        assert told[f"codes/{expected[-1]}/least"] == pytest.approx(z.std(0, ddof=1).min(), rel=1e-5)


def test_its_lowest_level_is_what_an_agent_acts_and_dreams_in():
    world, given = built(SMALL, 3), rows(torch.float32)
    assert (world.main, world.actions) == ("1", ("a",))
    columns = {"image": Column("image", (9, 9, 3), "uint8", 0, 255), "body": Column("vector", (2,), "float32")}
    columns = {key: replace(column, shape=SHAPES[key]) for key, column in columns.items()}
    perception = Perception.of(world, 0.99, columns, ActionSpec("continuous", 2))
    assert [act.variable for act in perception.acts] == ["a"]
    start, actions = world.filter(given, deterministic=True).last(), given["a"][:, :3]
    dreams = [own.imagine(start, actions=actions, deterministic=True) for own in (world, world.levels["1"])]
    assert torch.equal(dreams[0]["z"], dreams[1]["z"])


def test_refused():
    with pytest.raises(ConfigError, match="stride ≥ 2"):
        replace(SMALL, stride=1)
    with pytest.raises(ConfigError, match="expected weights ≥ 0"):
        replace(SMALL, slowness=-1.0)
    with pytest.raises(ConfigError, match="action dimension"):
        h_jepa.build(SMALL, SHAPES, 0)
    with pytest.raises(ConfigError, match="other names than u"):
        h_jepa.build(SMALL, SHAPES, {"u": 2})


# ------------------------------------------------------------------------------------------------------------- plans

SPACE = {"a": ActionSet(2)}
LOW = CEM(horizon=4, candidates=32, elites=6, iterations=3)


def aims(world, given, name):
    """To be where the last row of every sequence is."""
    goal = world.filter(given)[name][:, -1]
    return Task(lambda states, _: (states[name] - states["goal"]).square().sum(-1), given={"goal": goal})


def test_a_hierarchy_of_one_level_plans_as_the_flat_world_bit_by_bit():
    torch.manual_seed(3)
    flat = jepa.build(jepa.JEPAConfig(D, (4, 4), 8, 3.98, 0.3, 0.7, 1.1), SHAPES, 2)
    torch.nn.init.normal_(dict(flat.loss.named_children())["f"].net.head.weight)
    one, given = h_jepa.build(replace(SMALL, levels=1), SHAPES, 2), rows(torch.float32)
    one.load_state_dict(flat.state_dict())
    start = flat.filter(given).at(0)
    alone = LOW.plan(flat, aims(flat, given, "z"), start, space=SPACE)
    found = Hierarchy(LOW).plan(one, aims(one, given, "z"), start, space=SPACE)
    assert torch.equal(found.actions["a"], alone.actions["a"])
    assert torch.equal(found.cost, alone.cost)
    assert found.calls == alone.calls


@pytest.mark.parametrize("search", [LOW, Gradient(horizon=3, candidates=4, iterations=5)], ids=["CEM", "gradient"])
def test_three_levels_plan_from_the_top_down(search):
    config = replace(SMALL, levels=3)
    world, given = built(SMALL, 3), rows(torch.float32)
    seen = h_jepa.macros(config, world, given)
    above = [Level.of(world, str(i), search, {f"u_{i}": seen[f"u_{i}"]}) for i in (2, 3)]
    start = world.filter(given).at(0).only(["z"])
    plan = Hierarchy(search, tuple(above)).plan(world.levels["1"], aims(world, given, "z_3"), start, space=SPACE)
    top, middle = plan.upper
    net = dict(world.loss.named_children())
    with torch.no_grad():
        begin = net["e_3"](net["e_2"](start["z"]))
        torch.testing.assert_close(top.states["z_3"][:, 0], begin)
        # The middle level's cost is the squared way of its states, as the top sees them, to the top's first one; where
        # the goal itself is aimed for, that of the task.
        far = (net["e_3"](middle.states["z_2"][:, 1:]) - top.states["z_3"][:, 1:2]).square().sum((1, 2))
        task = net["e_3"](middle.states["z_2"][:, 1:]) - aims(world, given, "z_3").given["goal"][:, None]
    either = torch.stack((far, task.square().sum((1, 2))))
    assert ((either - middle.cost).abs().amin(0) < 1e-3 * (1 + middle.cost)).all()
    assert plan.actions["a"].abs().max() <= 1
