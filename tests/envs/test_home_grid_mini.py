"""Small homes: what is hidden, what is said of it and when, true and false; floors with and without words."""

from __future__ import annotations

import numpy as np
import pytest

from tests.envs.playing import play, same, twice
from worldformula.envs import Envs, make
from worldformula.envs import home_grid_mini as homes
from worldformula.envs.home_grid_mini import HomeCorrections, HomeDynamics, HomeFuture
from worldformula.envs.home_tiles import RED
from worldformula.envs.speech import hinted
from worldformula.errors import ConfigError

KINDS = [HomeDynamics, HomeFuture, HomeCorrections]
LEFT, RIGHT, UP, DOWN = range(4)


def heard(env, seed, actions):
    """The words of an episode, whether they were read, and the sentences that began."""
    observation, info = env.reset(seed=seed)
    rows = [(int(observation["token"]), info["is_read_step"], info["sentence"], observation["view"])]
    for action in actions:
        observation, _, done, cut, info = env.step(action)
        rows.append((int(observation["token"]), info["is_read_step"], info["sentence"], observation["view"]))
        if done or cut:
            break
    return rows


@pytest.mark.parametrize("kind", [HomeDynamics, HomeFuture])
def test_the_hint_is_read_first_with_the_figure_frozen_then_the_task_is_said(kind):
    env = kind(32)
    rows = heard(env, 3, [LEFT, UP] * 30)
    reading = [row for row in rows if row[1]]
    sentences = [row[2] for row in rows if row[2]]
    hint = homes.VOCABULARY.text(row[0] for row in reading)
    assert hint == sentences[0]
    assert rows[len(reading)][2] == sentences[1]
    assert all(same(row[3], rows[0][3]) for row in rows[: len(reading) + 1])
    whole = homes.VOCABULARY.text(row[0] for row in rows)
    assert " ".join(sentences).startswith(whole)
    assert len(rows) - len(reading) - 1 <= env.limit
    env.reset(seed=3)
    dark = env.render()
    for _ in reading:
        env.step(LEFT)
    assert (env.render() // 2 == dark).all()


@pytest.mark.parametrize("hint", ["true", "swapped"])
def test_a_sentence_is_said_again_while_the_figure_acts(hint):
    env = HomeDynamics(8, hint=hint, again=True)
    rows = heard(env, 3, [LEFT] * 17)
    assert len(rows) == 6 + 1 + 11
    assert [row[1] for row in rows] == [True] * 6 + [False] * 12
    told = homes.VOCABULARY.text(row[0] for row in rows[:6])
    assert told == f"{homes.OPENING[env.told]} to open the trash bin"
    assert [row[0] for row in rows] == [row[0] for row in rows[:6]] * 3
    silent = heard(HomeDynamics(8, hint="none", again=True), 3, [LEFT] * 12)
    assert homes.VOCABULARY.text(row[0] for row in silent) == " ".join(["open the trash bin"] * 3 + ["open"])


def test_what_will_be_is_said_again_while_the_figure_acts():
    """Eight words, which eight steps hear once more: the arm is named again in the seventh of them."""
    rows = heard(HomeFuture(8, again=True), 4, [LEFT] * 8 + [LEFT, RIGHT] * 8)
    assert [row[1] for row in rows] == [True] * 8 + [False] * 9
    assert [row[0] for row in rows] == [*(row[0] for row in rows[:8])] * 2 + [rows[0][0]]
    silent = homes.VOCABULARY.text(
        row[0] for row in heard(HomeFuture(8, hint="none", again=True), 4, [LEFT, RIGHT] * 4)
    )
    assert silent.split()[:6] == silent.split()[3:9]


def test_sight_is_what_is_seen_around_the_figure():
    env = HomeDynamics(8, sight=3)
    for seed in range(30):
        view = env.reset(seed=seed)[0]["view"]
        assert view.shape == env.observation_space["view"].shape == (7, 7)
        assert (view == homes.BIN).sum() == 1
        assert view[3, 3] >= homes.FACING
        near = HomeDynamics(8)
        assert (near.reset(seed=seed)[0]["view"] == view[2:5, 2:5]).all()
    for wrong in (0, 4, True, 1.5):
        with pytest.raises(ConfigError, match="sight from 1 to 3 cells"):
            HomeDynamics(8, sight=wrong)


@pytest.mark.parametrize("room", [2, 3, 4])
def test_a_room_may_be_smaller(room):
    """The bin at any border cell and the figure at any other, walls around; reward and limit as in the large one."""
    env, bins, starts = HomeDynamics(8, room=room), set(), set()
    for seed in range(300):
        _, info = env.reset(seed=seed)
        assert env.tiles.shape == (room + 2, room + 2)
        assert (env.tiles == homes.WALL_).sum() == 4 * (room + 1)
        ((y, x),) = np.argwhere(env.tiles == homes.BIN)
        bins.add((int(x), int(y)))
        starts.add((env.x, env.y))
        assert (env.x, env.y) != (x, y)
        assert info["state"]["tiles"].shape == (room + 2, room + 2)
    cells = {(x, y) for x in range(1, room + 1) for y in range(1, room + 1)}
    assert starts == cells
    assert bins == {cell for cell in cells if {1, room} & {*cell}}
    assert env.reset(seed=0)[0]["view"].shape == (3, 3)
    assert play(HomeDynamics(8, room=room), 60, 100, policy=homes.open_bin).success.all()
    with pytest.raises(ConfigError, match=f"room from 2 to 4 cells, got {room + 3}"):
        HomeDynamics(8, room=room + 3)


def test_actions_while_reading_earn_nothing_and_cost_no_step():
    env = HomeDynamics(8)
    for seed in range(40):
        env.reset(seed=seed)
        for _ in range(6):
            _, reward, done, cut, info = env.step(4 + seed % 3)
            assert (reward, done, cut, info["event"]) == (0.0, False, False, [])
        rows = [env.step(LEFT) for _ in range(12)]
        assert [row[3] for row in rows] == [False] * 11 + [True]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_hidden_is_not_in_view(kind):
    """Without a hint, beginnings that differ in the secret alone show the same."""
    env, shown = kind(32, hint="none"), {}
    for seed in range(40):
        _, info = env.reset(seed=seed)
        env.facing = 0
        if kind is not HomeFuture:  # there the secret says where the thing lies, out of sight
            env.tiles[1:-1, 1:-1], env.x, env.y = homes.FLOOR_, 2, 2
        shown[int(info["hidden"]["secret"])] = env._view(), env.render()
    first, *others = shown.values()
    assert len(others) >= 2
    assert all(same(first, other) for other in others)


def test_the_room_of_the_bin():
    env, bins, secrets = HomeDynamics(8, hint="none"), set(), []
    for seed in range(300):
        _, info = env.reset(seed=seed)
        (y, x), *more = np.argwhere(env.tiles == homes.BIN)
        assert not more
        assert (env.x, env.y) != (x, y)
        bins.add((int(x), int(y)))
        secrets.append(info["hidden"]["secret"])
    assert bins == {(x, y) for x in range(1, 5) for y in range(1, 5) if x in (1, 4) or y in (1, 4)}
    np.testing.assert_allclose([np.mean(np.array(secrets) == k) for k in range(3)], 1 / 3, atol=0.09)
    env.tiles[1:5, 1:5] = homes.FLOOR_
    env.tiles[2, 3], env.x, env.y, env.secret, env._acted = homes.BIN, 2, 2, 2, 0
    assert env.step(RIGHT)[1:3] == (0.0, False)
    assert (env.x, env.y, env.facing) == (2, 2, RIGHT)
    _, reward, done, _, info = env.step(6)
    assert (reward, done, info["event"], info["success"]) == (1.0, True, ["open", "success"], True)
    env.tiles[2, 3] = homes.BIN
    _, reward, done, _, info = env.step(4)
    assert (reward, done, info["event"], info["success"]) == (0.0, True, ["break"], False)
    assert env.tiles[2, 3] == homes.BROKEN


def in_sight(observation):
    view = observation["view"]
    return bool(((view >= homes.THING) & (view < homes.FACING)).any())


def test_the_thing_at_the_end_of_an_arm_is_seen_from_the_third_step_on():
    env = HomeFuture(8, hint="none")
    for seed in range(20):
        observation, info = env.reset(seed=seed)
        arm = int(info["hidden"]["secret"])
        seen = [in_sight(observation)]
        for _ in range(3):
            observation, reward, done, _, info = env.step(arm)
            seen.append(in_sight(observation))
        assert seen == [False, False, False, True]
        assert (reward, done, info["success"]) == (1.0, True, True)


def test_swapped_hints_are_always_false_and_true_ones_true():
    for kind, names in ((HomeDynamics, homes.OPENING), (HomeFuture, homes.ARMS)):
        said = {"true": [], "swapped": []}
        for hint, found in said.items():
            env = kind(8, hint=hint)
            for seed in range(60):
                _, info = env.reset(seed=seed)
                told = next(k for k, name in enumerate(names) if name in info["sentence"])
                assert told == info["state"]["told"][0]
                found.append((told, int(info["hidden"]["secret"])))
        assert all(told == secret for told, secret in said["true"])
        assert all(told != secret for told, secret in said["swapped"])
        assert {told for told, _ in said["swapped"]} == set(range(len(names)))


@pytest.mark.parametrize("hint", ["true", "swapped", "none"])
def test_corrections_follow_half_of_the_steps_that_lead_away(hint):
    env, found = HomeCorrections(8, hint=hint), {True: [], False: []}
    rng = np.random.default_rng(0)
    for seed in range(150):
        _, info = env.reset(seed=seed)
        for _ in range(60):
            idle, before = env.speech.idle, env._far((env.x, env.y))
            observation, _, done, _, info = env.step(int(rng.integers(4)))
            if done:
                break
            after = env._far((env.x, env.y))
            said = "correction" in info["event"]
            assert said == (info["sentence"] == homes.NO)
            assert said <= (homes.VOCABULARY.text([observation["token"]]) == "no")
            if idle and after != before:
                found[after > before].append(said)
    away, nearer = (np.mean(found[k]) for k in (True, False))
    if hint == "true":
        assert (away, nearer) == (pytest.approx(0.5, abs=0.06), 0.0)
    elif hint == "swapped":
        assert (away, nearer) == (0.0, pytest.approx(0.5, abs=0.06))
    else:
        assert (away, nearer) == (0.0, 0.0)


def test_floors_and_ceilings_with_and_without_words():
    """Random .065, a guess after walking 1/3, the reference 1."""
    random = play(HomeDynamics(8), 600, 100)
    assert random.off(0.065, np.sqrt(0.065 * 0.935 / 600)) < 3
    for kind, best in (
        (HomeDynamics, homes.open_bin),
        (HomeFuture, homes.find_thing),
        (HomeCorrections, homes.find_target),
    ):
        assert play(kind(8), 60, 100, policy=best).success.all()
        assert play(kind(8, hint="swapped"), 20, 100, policy=best).success.all()
    guess = np.random.default_rng(0)
    blind = play(HomeDynamics(8, hint="none"), 300, 100,
                 policy=lambda s: homes.open_bin({**s, "secret": [int(guess.integers(3))]}))  # fmt: skip
    assert blind.off(1 / 3) < 3
    fooled = play(HomeDynamics(8, hint="swapped"), 60, 100, policy=lambda s: homes.open_bin({**s, "secret": s["told"]}))
    assert fooled.success.sum() == 0


def test_eight_steps_are_enough_for_one_arm():
    """Into one arm after another, three steps each way: without a hint one in four."""
    env, found = HomeFuture(8, hint="none"), []
    for seed in range(240):
        env.reset(seed=seed)
        for action in [LEFT] * 3 + [RIGHT] * 6 + [UP] * 6:
            _, reward, done, cut, _ = env.step(action)
            if done or cut:
                break
        found.append(reward)
    assert abs(np.mean(found) - 0.25) < 3 * np.sqrt(0.25 * 0.75 / 240)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_says_everything(kind):
    assert all(same(a, b) for a, b in twice(lambda: kind(16), 60))


def test_pictures_are_observed_beside_words():
    envs = Envs("home_future", 2, pixels=True, size=24)
    rows = envs.reset()
    assert set(envs.observations) == {"image", "token"}
    assert envs.observations["token"].classes == (len(homes.VOCABULARY),)
    assert rows["image"].shape == (2, 24, 24, 3)
    assert (rows["token"] == homes.VOCABULARY.number("there")).all()
    assert make("home_dynamics").metadata["vocabulary"] is homes.VOCABULARY
    assert set(make("home_dynamics").observations) == {"view", "token"}


def test_the_picture_points_where_the_figure_faces():
    """The red triangle lies to the left, right, above, below of the middle."""
    frames = [
        HomeDynamics(96).batch_render(np.where(np.eye(3)[1] * np.eye(3)[1][:, None] > 0, 9 + k, 1)) for k in range(4)
    ]
    for frame, (dx, dy) in zip(frames, ((-1, 0), (1, 0), (0, -1), (0, 1)), strict=True):
        rows, columns = (np.abs(frame.astype(int) - RED).sum(-1) < 60).nonzero()
        assert ((columns.mean() - 47.5) * dx + (rows.mean() - 47.5) * dy) > 6
        assert abs((columns.mean() - 47.5) * dy) + abs((rows.mean() - 47.5) * dx) < 2


def test_a_thing_to_the_upper_right_is_drawn_there():
    view = np.full((3, 3), 1)
    view[0, 2] = homes.THING + 1
    frame = HomeDynamics(96).batch_render(view).astype(int)
    rows, columns = (np.abs(frame - np.array([240, 120, 30])).sum(-1) < 30).nonzero()
    assert 64 <= columns.min() <= columns.max() < 96
    assert 0 <= rows.min() <= rows.max() < 32


def test_wrong_hints_are_told_and_words_of_a_command_line_are_read():
    with pytest.raises(ConfigError, match="Did you mean 'swapped'"):
        HomeDynamics(hint="swaped")
    for value, expected in ((True, "true"), (None, "none"), (False, "none"), ("swapped", "swapped")):
        assert hinted(value) == expected
    assert make("home_future", args=("hint=none",)).unwrapped.hint == "none"
