"""The world that looks up what it has seen: its laws, its loss by hand, and what its memory is worth to it."""

from __future__ import annotations

import pytest
import torch

from worldformula.errors import ConfigError
from worldformula.testing import check_world
from worldformula.training.fit import fit
from worldformula.world import State
from worldformula.worlds import recalling
from worldformula.worlds.recalling import Sizes

B, T = 3, 6


def series(sizes: Sizes) -> dict[str, torch.Tensor]:
    widths = {"x": sizes.x, "a": sizes.a, "y": sizes.y}
    first = torch.zeros(B, T, dtype=torch.bool)
    first[1, 3] = True
    return {name: torch.randn(B, T, width) for name, width in widths.items()} | {"first": first}


def test_it_keeps_the_laws_of_worlds():
    torch.manual_seed(0)
    sizes = recalling.tiny()
    check_world(recalling.build(sizes), series(sizes))


def test_the_loss_by_hand():
    torch.manual_seed(0)
    sizes = recalling.tiny()
    world, batch = recalling.build(sizes), series(sizes)
    embed, stored = world.posterior.factors
    ahead, memory = world.prior.factors[0].net, stored.net.memory
    seen, told = (world.heads[name].net for name in ("x", "y"))
    half_log = 0.5 * torch.log(torch.tensor(2 * torch.pi))
    losses = []
    for b in range(B):
        x, a, y = (batch[name][b] for name in ("x", "a", "y"))
        slots, total, before = memory.initial(1), [], None
        for t in range(T):
            if batch["first"][b, t]:
                slots, before = memory.initial(1), None
            z = embed.net(x[t : t + 1])
            r, slots = memory.read(slots, z)
            slots = memory.write(slots, z, z)
            off = 0.0 if before is None else (ahead(*before) - z.detach()).square().sum() / sizes.latent
            fits = 0.5 * (seen(z) - x[t]).square().sum() + sizes.x * half_log
            knows = 0.5 * (told(z, r) - y[t]).square().sum() + sizes.y * half_log
            total.append(off + fits + knows)
            before = (z, a[t : t + 1], r)
        losses.append(torch.stack(total).mean())
    torch.testing.assert_close(world.loss(**batch).value, torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


def test_a_dream_stores_nothing_and_what_is_stored_decides_it():
    torch.manual_seed(0)
    sizes = recalling.tiny()
    world, batch = recalling.build(sizes), series(sizes)
    start, actions = world.filter(batch).last(), torch.randn(B, 4, sizes.a)
    dream = world.imagine(start, actions=actions)
    assert torch.equal(dream["V"][:, 0], dream["V"][:, -1])
    other = world.imagine(start | {"V": start["V"] + 1}, actions=actions)
    assert not torch.allclose(dream["z"][:, 2], other["z"][:, 2])
    moved = State({k: v.clone().requires_grad_(v.is_floating_point()) for k, v in start.items()})
    gradients = torch.autograd.grad(world.imagine(moved, actions=actions)["z"][:, -1].sum(), (moved["K"], moved["V"]))
    assert all(bool(g.isfinite().all()) and bool(g.any()) for g in gradients)


@pytest.mark.slow
def test_it_recalls_what_was_shown_at_the_beginning_alone():
    """A number of each episode is seen in the first two rows of twelve; the others show noise alone. It is ±1, so that
    whoever has forgotten it is wrong by 1 at least.
    """
    torch.manual_seed(0)
    sizes = Sizes(x=3, y=1, latent=16, units=32, key=4, capacity=4)

    def shown(rows=64, steps=12):
        y = (torch.randint(2, (rows, 1, 1)) * 2.0 - 1).expand(-1, steps, -1)
        flag = (torch.arange(steps) < 2).float()[None, :, None].expand(rows, -1, -1)
        x = torch.cat((y * flag, flag, torch.randn(rows, steps, 1)), -1)
        return {"x": x, "a": torch.zeros(rows, steps, 2), "y": y, "first": torch.zeros(rows, steps, dtype=torch.bool)}

    world = recalling.build(sizes)
    fit(world.loss, shown, batch=64, steps=300, lr=3e-3, schedule="cosine", clip=1.0)
    held_out = shown(500)
    states = world.filter({k: v for k, v in held_out.items() if k != "y"})
    with torch.no_grad():
        said = world.decode(states, ["y"])["y"]
    error = (said - held_out["y"]).square().mean((0, 2))
    assert error[2:].max() < 0.2


def test_of_an_agent_it_keeps_the_laws_of_worlds_and_recalls_rewards_and_ends():
    torch.manual_seed(0)
    world = recalling.build(recalling.tiny(), {"body": (2,), "arm": (3,)}, {"a_1": 1, "a_2": 2})
    batch = {k: torch.randn(B, T, n) for k, n in {"body": 2, "arm": 3, "a_1": 1, "a_2": 2}.items()}
    batch |= {"r": torch.randn(B, T), "c": torch.rand(B, T), "first": series(recalling.tiny())["first"]}
    check_world(world, batch)
    assert world.roles == {"reward": "r", "continue": "c"}
    last = world.filter(batch).last()
    moved = world.decode(last | {"m": last["m"] + 1}, ["r", "c", "body"])
    said = world.decode(last, ["r", "c", "body"])
    assert not torch.allclose(moved["r"], said["r"])
    assert not torch.allclose(moved["c"], said["c"])
    assert torch.equal(moved["body"], said["body"])


def test_what_it_cannot_observe_is_refused():
    with pytest.raises(ConfigError, match="reads numbers, and eye is a picture"):
        recalling.build(recalling.tiny(), {"eye": (8, 8, 3)}, 1)
    with pytest.raises(ConfigError, match="of other names than"):
        recalling.build(recalling.tiny(), {"body": (2,)}, {"m": 1})
    with pytest.raises(ConfigError, match="at least one action dimension"):
        recalling.build(recalling.tiny(), {"body": (2,)}, {})


def test_sizes_are_checked():
    with pytest.raises(ConfigError, match="sizes of at least 1"):
        Sizes(capacity=0)
