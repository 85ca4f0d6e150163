"""The cards of joint-embedding worlds: what they learn from, how they plan, and what is kept of what was learnt."""

import numpy as np
import pytest
import torch

from worldformula.cards import jepa_mpc, no_collapse, variation
from worldformula.cards.rooms import STEPS, Episodes
from worldformula.envs.two_rooms import FACTORS, Rooms, two_rooms, wander
from worldformula.envs.variation import one_at_a_time
from worldformula.errors import CardError, ConfigError
from worldformula.planners.cem import CEM


def test_pictures_are_those_of_the_environment():
    episodes, env = Episodes.of("two", 3), Rooms(shown=False)
    seen = jepa_mpc.Pictures(episodes)
    env.reset(seed=50_000)
    np.testing.assert_allclose(env.position, episodes.starts[0])
    np.testing.assert_array_equal((255 * seen(episodes.starts)[0]).round().numpy(), env.render())
    np.testing.assert_array_equal((255 * seen.goals[0]).round().numpy(), env.batch_render(episodes.goals[:1])[0])


@pytest.mark.parametrize("name", ["colour", "size", "walls", "layout"])
def test_variations_are_seen_as_the_environment_shows_them(name, monkeypatch):
    """What the search of the card sees, and where its episodes begin, is what `Rooms` with these options shows."""
    options, given = FACTORS[name], {}
    env = Rooms(shown=False, **options)
    env.reset(seed=50_000)

    def still(_, seen, __):
        given["pictures"] = seen
        return lambda at: np.zeros((len(at), 1, 2))

    monkeypatch.setattr(variation, "planned", still)
    monkeypatch.setitem(STEPS, options.get("layout", "two"), 3)
    own, line = variation.planning(None, options, 2)
    assert own.final.hits == 0
    assert line.final.count == 2
    seen = given["pictures"]
    found = seen(np.stack((env.position, env.goal)))
    np.testing.assert_array_equal((255 * found[0]).round().numpy(), env.render())
    np.testing.assert_array_equal((255 * seen.goals[0]).round().numpy(), env.batch_render(env.goal[None])[0])


def test_clips_of_variations_show_each_factor_alone():
    """Red above blue is an orange point and its area its radius; blue far above red a blue one; grey is wall."""
    names, own = list(one_at_a_time("two_rooms")), variation.clips(3, 20)
    kinds = np.array([names[i % 5] for i in range(20)])
    red, blue = own.images[..., 0].double(), own.images[..., 2].double()
    of_blue = ((blue - red) > 100).flatten(1).any(1).numpy()
    np.testing.assert_array_equal(of_blue, kinds == "colour")
    area = ((red - blue).clamp_min(0) / 209).sum((2, 3)).mean(1).numpy() * (65 / 33) ** 2
    expected = np.pi * np.where(kinds == "size", 4.0, 2.5) ** 2
    np.testing.assert_allclose(area[~of_blue], expected[~of_blue], rtol=0.15)
    grey = ((red.clamp_max(120) - 24) / 96).mean((2, 3))[:, 0].numpy()
    np.testing.assert_array_equal(grey > 0.345, kinds == "walls")
    np.testing.assert_array_equal(own.layouts[:, 0] == 5, kinds == "layout")  # a wall that begins at the left edge
    again = variation.clips(3, 20)
    assert torch.equal(own.images, again.images)
    assert torch.equal(own.actions, again.actions)


def test_kept_is_the_lowest_share_over_that_where_nothing_varies():
    found = {"final_same": 0.5, "final_colour": 0.2, "final_size": 0.4}
    assert variation.lowest(found, ["same", "colour", "size"]) == pytest.approx(0.4)
    assert variation.lowest(found, ["size"]) == pytest.approx(0.8)


def test_the_episodes_are_the_ones_that_the_card_tells_of(monkeypatch):
    assert len(jepa_mpc.fixed().starts) == 100
    monkeypatch.setattr(jepa_mpc, "COUNT", 5)
    with pytest.raises(CardError, match="expected the episodes"):
        jepa_mpc.fixed()


def test_clips_show_what_their_numbers_say():
    """The brightest point of a picture is where the clip says, and actions lead from one place to the next."""
    clips = no_collapse.Clips.of(5, 4)
    orange = (clips.images[..., 0].double() - clips.images[..., 2].double()).clamp_min(0)
    weight = orange / orange.sum((2, 3), keepdim=True)
    pixel = torch.arange(33) + 0.5
    found = torch.stack(((weight.sum(2) * pixel).sum(-1), (weight.sum(3) * pixel).sum(-1)), -1) * 65 / 33
    assert np.abs(found.numpy() - clips.positions).max() < 1.5
    moves = np.diff(clips.positions, axis=1)
    free = np.linalg.norm(moves - 2.45 * clips.actions[:, :-1].numpy(), axis=-1) < 1e-5
    assert free.mean() > 0.8


def test_a_search_in_latents_that_are_places_goes_to_the_goal():
    """A world whose latent is the place of the point, read off the picture, and moves as free points do."""
    episodes = Episodes.of("two", 4)
    seen = jepa_mpc.Pictures(episodes)
    world = no_collapse.made("pldm")

    def place(x):
        orange = (x[..., 0] - x[..., 2]).clamp_min(0)
        weight, pixel = orange / orange.sum((1, 2), keepdim=True), torch.arange(33) + 0.5
        return torch.stack(((weight.sum(1) * pixel).sum(-1), (weight.sum(2) * pixel).sum(-1)), -1) * 65 / 33

    world.posterior.factors[0].net.forward = lambda x: torch.nn.functional.pad(place(x), (0, 30))
    world.dynamics.prior.factors[0].net.forward = lambda z, a: z + torch.nn.functional.pad(2.45 * a, (0, 30))
    act = jepa_mpc.planned(world, seen, CEM(8, 64, 8, 4, std=0.8))
    near = episodes.goals + np.array([9.0, -6.0]) * np.sign(32 - episodes.goals)
    after = near + 2.45 * act(near).sum(1)
    assert (np.linalg.norm(after - episodes.goals, axis=-1) < 3).all()


def test_a_world_is_trained_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def learn(loss, seed, updates=0):
        calls.append(seed)
        with torch.no_grad():
            next(loss.parameters()).add_(1.0)

    monkeypatch.setattr(no_collapse, "learn", learn)
    first, second = no_collapse.trained("pldm", 7), no_collapse.trained("pldm", 7)
    assert calls == [7]
    for (name, a), (_, b) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)
    no_collapse.trained("pldm", 8)
    no_collapse.trained("no_idm", 7)
    assert calls == [7, 8, 7]


def test_a_clone_learns_to_go_where_the_later_frame_is():
    torch.manual_seed(0)
    clone = jepa_mpc.Cloned(0)
    clips = no_collapse.Clips.of(5, 16).batch()
    before = clone(clips["x"], clips["a"]).mean().item()
    adam = torch.optim.Adam(clone.parameters(), 3e-3)
    for _ in range(30):
        adam.zero_grad()
        clone(clips["x"], clips["a"]).mean().backward()
        adam.step()
    assert clone(clips["x"], clips["a"]).mean().item() < before
    seen = jepa_mpc.Pictures(Episodes.of("two", 2))
    assert clone.acting(seen)(Episodes.of("two", 2).starts).shape == (2, 1, 2)


def test_points_wander_each_in_the_rooms_that_it_is_given():
    rooms = [two_rooms(np.random.default_rng(i), thick=3 + 4 * (i % 2)) for i in range(4)]
    found, _, _ = wander(0, 4, 3, rooms)
    assert all(one is other for one, other in zip(found, rooms, strict=True))
    with pytest.raises(ConfigError, match="a layout for each of 5 episodes, got 4"):
        wander(0, 5, 3, rooms)
