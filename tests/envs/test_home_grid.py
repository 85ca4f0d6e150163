"""HomeGrid: the map, what every action does, what is paid, what is said and when; floors and the controller."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.envs.playing import play, same, twice
from worldformula.envs import Envs, make
from worldformula.envs import home_map as home
from worldformula.envs.home_grid import KINDS, HomeGrid, reference
from worldformula.envs.home_tiles import BIN_GLYPHS, BINS, RED, THINGS
from worldformula.errors import ConfigError

LEFT, RIGHT, UP, DOWN, PICKUP, DROP, GET, PEDAL, GRASP, LIFT = range(10)
BOTTLE, FRUIT, PAPERS, PLATES = range(4)
RECYCLING, TRASH, COMPOST = range(3)
MAP = """
      ########
      #lsss.c#
      #a.....#
      #a.rr..#
      #......#
########.....#
#kkkkkk#.....#
#............#
#........hth.#
#........hth.#
#nnnnnn#.....#
##############
"""


def quiet(kind="task", **options):
    """An environment in which nothing jumps or appears, nothing lies around, and one bin stands in the kitchen."""
    env = HomeGrid(48, kind=kind, **options)
    env.reset(seed=0)
    env.things = [[-1, -1, home.ABSENT] for _ in THINGS]
    env.bins = [[-1, -1, home.NO_BIN, -1] for _ in BINS]
    env.bins[TRASH], env.lasting, env.waits = [1, 9, home.CLOSED, 2], RECYCLING, {}
    env.x, env.y, env.facing, env._reading = 3, 8, 0, 0
    env.task, env.paid = (home.TAKE, PLATES, -1), False
    env._jump = env._announce = list
    env.speech.interrupt()
    return env


def does(env, *actions):
    """Rewards and events."""
    rows = [env.step(a) for a in actions]
    return [r[1] for r in rows], [r[4]["event"] for r in rows]


def test_the_map():
    letter = {"plant": "l", "sofa": "s", "coffee table": "s", "cabinet": "c", "sofa side": "a", "rug": "r",
              "cupboard": "k", "stove": "k", "fridge": "k", "chair": "h", "table": "t", "countertop": "n"}  # fmt: skip
    rows = [["." for _ in range(14)] for _ in range(12)]
    for name, cells in home.PLACES.items():
        for x, y in cells:
            rows[y][x] = letter[name]
    for y, x in np.argwhere(home.WALLS):
        rows[y][x] = "#" if x >= 6 or y >= 5 else " "
    drawn = ["".join(row).rstrip() for row in rows]
    assert drawn == MAP.strip("\n").split("\n")
    assert len(set(home.STARTS)) == len(home.STARTS) == 60
    assert not any(home.WALLS[y, x] for x, y in (*home.STARTS, *home.THING_CELLS, *home.BIN_CELLS))
    for name, cells in (("living room", ((7, 1), (12, 4), (8, 5))), ("dining room", ((8, 6), (12, 10))),
                        ("kitchen", ((1, 6), (6, 10), (7, 7), (7, 9)))):  # fmt: skip
        assert all(home.ROOMS[home.ROOM_OF[y, x]] == name for x, y in cells)
    assert home.ROOM_OF[6, 7] == -1
    assert len([t for group in home.tasks((0, 1, 2, 3), (0, 1, 2)) for t in group]) == 38
    assert [len(group) for group in home.tasks((0, 1, 2, 3), (0, 1, 2))] == [7, 4, 12, 12, 3]


def test_a_move_turns_and_goes_where_the_cell_is_free():
    env = quiet()
    does(env, LEFT)
    assert (env.x, env.y, env.facing) == (2, 8, LEFT)
    env.x, env.y = 2, 9
    does(env, LEFT)  # the bin
    assert (env.x, env.y, env.facing) == (2, 9, LEFT)
    does(env, DOWN)  # the countertop
    assert (env.x, env.y, env.facing) == (2, 9, DOWN)
    env.things[FRUIT] = [3, 9, home.VISIBLE]
    does(env, RIGHT)
    assert (env.x, env.facing) == (2, RIGHT)
    env.things[FRUIT][2] = home.COMING  # what is only announced is walked over
    does(env, RIGHT)
    assert (env.x, env.facing) == (3, RIGHT)


def test_things_are_picked_up_dropped_and_put_into_open_empty_bins():
    env = quiet()
    env.things[FRUIT], env.things[PAPERS] = [4, 8, home.VISIBLE], [3, 7, home.COMING]
    assert does(env, PICKUP, RIGHT, PICKUP, PICKUP)[1] == [[], [], ["pickup"], []]
    assert env.things[FRUIT][2] == home.CARRIED
    env.facing = UP
    assert does(env, DROP)[1] == [[]]  # papers are announced there
    env.x, env.y, env.facing = 2, 9, LEFT
    assert does(env, DROP, LIFT, DROP, PICKUP, GET)[1] == [[], ["open"], ["drop_in_bin"], [], ["get"]]
    env.things[PAPERS] = [-1, -1, home.INSIDE + TRASH]
    assert does(env, DROP, GET)[1] == [[], []]  # the bin is full, and hands are
    env.facing = DOWN
    assert does(env, DROP)[1] == [["drop"]]
    assert env.things[FRUIT] == [2, 10, home.VISIBLE]  # on the countertop
    env.facing, env.things[FRUIT] = UP, [-1, -1, home.CARRIED]
    env.x, env.y = 2, 7
    env.facing = UP
    assert does(env, DROP)[1] == [["drop"]]
    env.things[FRUIT], env.x, env.y, env.facing = [-1, -1, home.CARRIED], 12, 7, RIGHT
    assert does(env, DROP)[1] == [[]]  # no dropping into a wall


def test_announced_things_can_be_taken_and_are_seen_after_five_steps():
    env = quiet()
    env.things[FRUIT], env.waits = [4, 8, home.COMING], {"fruit": 5}
    env.facing = RIGHT
    env.task = (home.FIND, FRUIT, -1)
    rewards, events = does(env, *[GET] * 5)
    assert (rewards, events) == ([0, 0, 0, 0, 1.0], [[]] * 4 + [["appear", "task_done"]])
    env = quiet()
    env.things[FRUIT], env.waits, env.facing = [4, 8, home.COMING], {"fruit": 5}, RIGHT
    assert does(env, PICKUP)[1] == [["pickup"]]
    does(env, *[LEFT] * 6)
    assert env.things[FRUIT][2] == home.CARRIED


def test_the_wrong_way_breaks_a_closed_bin_for_good_or_for_five_steps():
    env = quiet()
    env.x, env.y, env.facing = 2, 9, LEFT
    _, events = does(env, PEDAL, LIFT, GRASP, LIFT, LIFT, LIFT)
    assert events == [["break"], [], [], [], [], ["bin_reset", "open"]]
    assert does(env, PEDAL)[1] == [[]]  # nothing happens to an open one
    env = quiet()
    env.lasting = TRASH
    env.x, env.y, env.facing = 2, 9, LEFT
    assert does(env, GRASP, *[LIFT] * 60)[1] == [["break"]] + [[]] * 60


@pytest.mark.parametrize(
    ("task", "actions", "rewards"),
    [
        ((home.FIND, FRUIT, -1), (DOWN, RIGHT), (0, 1)),
        ((home.TAKE, FRUIT, -1), (RIGHT, PICKUP), (0, 1)),
        ((home.PUT, FRUIT, TRASH), (RIGHT, PICKUP, LEFT, DROP), (0, 0.5, 0, 1)),
        ((home.MOVE, FRUIT, 2), (DOWN,), (1,)),  # it is in the kitchen already
        ((home.MOVE, FRUIT, 1), (RIGHT, PICKUP, LEFT, PICKUP), (0, 0.5, 0, 0)),
        ((home.FIND, 4 + TRASH, -1), (LEFT,), (1,)),
        ((home.UNLOCK, 4 + TRASH, -1), (LEFT, LIFT), (0, 1)),
    ],
)
def test_what_each_task_pays(task, actions, rewards):
    """The figure at (2, 9) between the bin (1, 9) and the fruit (3, 9)."""
    env = quiet()
    env.things[FRUIT], env.x, env.y, env.facing = [3, 9, home.VISIBLE], 2, 9, UP
    if task[0] == home.PUT:
        env.bins[TRASH][2] = home.OPEN
    env.task = task
    found, events = does(env, *actions)
    assert tuple(found) == rewards
    assert [("task_done" in e, "subtask" in e) for e in events] == [(r == 1, r == 0.5) for r in rewards]


def test_a_new_task_interrupts_and_is_repeated_after_twenty_quiet_steps():
    env = quiet()
    env.things[FRUIT] = [4, 8, home.VISIBLE]
    env.facing, env.task = RIGHT, (home.TAKE, FRUIT, -1)
    env.speech.say("open the trash bin")
    env.step(GET)
    *_, info = env.step(PICKUP)
    assert info["event"] == ["pickup", "task_done"]
    assert info["sentence"] == home.task_text(env.task)
    env.task = (home.TAKE, PLATES, -1)
    said = [env.step(GET)[4]["sentence"] for _ in range(45)]
    assert [k for k, text in enumerate(said) if text] == [19, 39]
    assert set(said) == {"", "get the plates"}


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_the_sentences_that_were_meant_interruptions_included(kind):
    env = HomeGrid(8, kind=kind, chance=0.5)
    rng = np.random.default_rng(0)
    for seed in range(12):
        observation, info = env.reset(seed=seed)
        rows = [(int(observation["token"]), info["sentence"], info["is_read_step"])]
        cut = False
        while not cut:
            action = reference(info["state"]) if rng.random() < 0.5 else int(rng.integers(10))
            observation, _, _, cut, info = env.step(action)
            rows.append((int(observation["token"]), info["sentence"], info["is_read_step"]))
        meant: list[int] = []
        for token, text, _ in rows:
            meant = home.VOCABULARY.numbers(text) if text else meant
            assert token == (meant.pop(0) if meant else 0)
        reading = [row for row in rows if row[2]]
        assert len(rows) == 101 + len(reading)
        assert rows[len(reading)][1].split()[0] in ("find", "get", "put", "move", "open")
        assert (len(reading) > 0) == (kind in ("future", "dynamics"))
        assert len(reading) <= 28


def test_what_is_said_of_each_kind_is_true():
    for kind in KINDS:
        env, said = HomeGrid(8, kind=kind, chance=1.0), Counter()
        rng = np.random.default_rng(1)
        for seed in range(12):
            _, info = env.reset(seed=seed)
            cut = False
            while not cut:
                before = [list(row) for row in env.things]
                *_, cut, info = env.step(int(rng.integers(4)))
                text = info["sentence"]
                if not text or text == home.task_text(env.task) or info["is_read_step"]:
                    continue
                said[text.split()[-1] if kind == "future" and "later" in text else text.split()[1]] += 1
                if text.endswith("later"):
                    what = next(k for k, name in enumerate(THINGS) if name in text)
                    assert env.things[what][2] == home.COMING
                elif text.startswith("i moved"):
                    what = next(k for k, name in enumerate(THINGS) if name in text)
                    assert env.things[what][:2] != before[what][:2]
                elif " is in " in text:
                    assert kind == "future"
                elif "to open" in text:
                    assert kind == "dynamics"
                    can = next(k for k, name in enumerate(BINS) if name in text)
                    assert text.startswith(home.OPENING[env.bins[can][3]])
                else:
                    assert (kind, text) == ("corrections", home.NO)
        assert (len(said) > 0) == (kind != "task")


def test_corrections_follow_steps_away_from_what_is_wanted():
    env = quiet("corrections", chance=1.0)
    env.things[FRUIT], env.task, env._said = [6, 8, home.VISIBLE], (home.TAKE, FRUIT, -1), -99
    assert env.step(LEFT)[4]["sentence"] == home.NO
    assert [env.step(RIGHT)[4]["sentence"] for _ in range(5)] == [""] * 5
    env.things[FRUIT], env.task = [-1, -1, home.CARRIED], (home.MOVE, FRUIT, 1)
    env.x, env.y, env.paid = 7, 8, True
    assert env.step(LEFT)[4]["sentence"] == home.NO  # away from the dining room, to which it is carried


@pytest.mark.parametrize("task", [(home.MOVE, FRUIT, 1), (home.PUT, FRUIT, TRASH)])
def test_taking_what_is_wanted_is_no_step_away_from_where_it_is_brought(task):
    """The fruit lies in front of the figure; what it is brought to, another room or a bin, is farther away."""
    env = quiet("corrections", chance=1.0)
    env.things[FRUIT], env.facing, env.task, env._said = [4, 8, home.VISIBLE], RIGHT, task, -99
    taken = env.step(PICKUP)[4]
    assert (taken["event"], taken["sentence"]) == (["pickup", "subtask"], "")
    away = RIGHT if task[0] == home.PUT else LEFT  # the bin stands at x = 1, the dining room begins at x = 8
    assert env.step(away)[4]["sentence"] == home.NO


def test_starts_are_free_and_things_at_their_places():
    env, kinds, opened = HomeGrid(8), Counter(), []
    for seed in range(300):
        env.reset(seed=seed)
        lying = [k for k, row in enumerate(env.things) if row[2] == home.VISIBLE]
        assert len(lying) == 2
        assert all(tuple(env.things[k][:2]) in home.THING_CELLS for k in lying)
        standing = [row for row in env.bins if row[2] != home.NO_BIN]
        assert len(standing) == 2
        assert {tuple(row[:2]) for row in standing} <= set(home.BIN_CELLS)
        assert env._walkable(env.x, env.y)
        kinds[env.task[0]] += 1
        opened += [row[2] for row in standing]
    assert min(kinds.values()) > 300 / 5 - 3.5 * np.sqrt(300 * 0.2 * 0.8)
    assert np.mean(opened) == pytest.approx(0.5, abs=3 * 0.5 / np.sqrt(600))


def test_jumps_and_new_things_come_as_often_as_the_rules_say():
    """0.05 a step, and 0.2 while two kinds are missing; none lands where another lies or the figure stands."""
    env, jumps, news, steps = HomeGrid(8), 0, 0, 0
    for seed in range(60):
        env.reset(seed=seed)
        env.task = (home.FIND, 4, -1)
        for _ in range(40):
            missing = sum(row[2] == home.ABSENT for row in env.things)
            *_, info = env.step(PEDAL)
            jumps += "teleport" in info["event"]
            news += "spawn" in info["event"] if missing == 2 else 0
            steps += missing == 2
            cells = [tuple(row[:2]) for row in env.things if row[2] in (home.VISIBLE, home.COMING)]
            assert len(set(cells)) == len(cells)
            assert (env.x, env.y) not in cells
    assert jumps / 2400 == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 2400))
    assert news / steps == pytest.approx(0.2, abs=3 * np.sqrt(0.16 / steps))


def test_what_is_not_seen_is_hidden_and_makes_no_difference():
    env = quiet()
    env.things[FRUIT] = [4, 8, home.COMING]
    env.things[BOTTLE] = [9, 1, home.VISIBLE]
    env.bins[TRASH][:3] = [2, 8, home.CLOSED]
    *_, info = env.step(GET)
    assert set(info["hidden"]) == {"fruit_x", "fruit_y", "bottle_x", "bottle_y", "trash_opens"}
    first = env.render()
    env.things[FRUIT], env.things[BOTTLE], env.bins[TRASH][3] = [8, 6, home.COMING], [12, 2, home.VISIBLE], 0
    np.testing.assert_array_equal(env.render(), first)
    row, _ = make("home_grid_dynamics", labels=("hidden/trash_opens", "hidden/bottle_x")).reset(seed=1)
    assert row["label/hidden/trash_opens"].shape == ()


def test_the_picture_is_three_by_three_cells_north_up_and_dark_while_reading():
    env = quiet()
    env.things[FRUIT], env.facing = [4, 7, home.VISIBLE], RIGHT
    frame = env.render().astype(int)
    light = 0.7 * np.array([240, 120, 30]) + 0.3 * 255
    rows, columns = (np.abs(frame - light).sum(-1) < 20).nonzero()
    assert 32 <= columns.min() <= columns.max() < 48
    assert 0 <= rows.min() <= rows.max() < 16
    rows, columns = (np.abs(frame - (0.7 * np.array(RED) + 0.3 * 255)).sum(-1) < 20).nonzero()
    assert columns.mean() > 28
    env._reading = 1
    np.testing.assert_array_equal(env.render(), (frame // 2))
    env._reading, env.things[FRUIT] = 0, [-1, -1, home.CARRIED]
    rows, columns = (np.abs(env.render().astype(int) - light).sum(-1) < 20).nonzero()
    assert 24 <= columns.min() <= columns.max() < 32  # in the figure's own cell
    np.testing.assert_array_equal(BIN_GLYPHS[TRASH][2], np.rot90(BIN_GLYPHS[TRASH][0]))  # broken: turned
    seen = []
    for state in (home.CLOSED, home.OPEN, home.BROKEN):
        env.bins[TRASH] = [3, 9, state, 0]
        seen.append(env.render()[32:, 16:32])
    assert all((a != b).any() for a, b in ((seen[0], seen[1]), (seen[0], seen[2]), (seen[1], seen[2])))


@pytest.mark.parametrize("kind", KINDS)
def test_random_play_scores_what_was_measured_before(kind):
    """0.38, 0.40, 0.42, 0.47, each with an error of 0.04."""
    floor = dict(zip(KINDS, (0.38, 0.40, 0.42, 0.47), strict=True))[kind]
    assert play(HomeGrid(8, kind=kind), 60, 200).off(floor, 0.04) < 3


@pytest.mark.slow
def test_the_controller_scores_here_what_it_scored_in_the_authors_package():
    """There 12.42 ± 0.45 (60 episodes of its task variant, states read from its info). Scripts that are greedy had
    scored 9.33 ± 0.33 when they knew how bins open, and 7.52 ± 0.33 when they guessed: lower bounds.
    """
    best = play(HomeGrid(8), 100, 200, policy=reference)
    assert best.off(12.42, 0.45) < 3
    assert best.returns.mean() > 9.33
    rng = np.random.default_rng(0)

    def guessing(state):
        bins = state["bins"].copy()
        bins[:, 3] = rng.integers(0, 3, 3)
        return reference({**state, "bins": bins})

    guess = play(HomeGrid(8), 100, 200, policy=guessing)
    assert 7.52 < guess.returns.mean() < best.returns.mean() - 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_says_everything(kind):
    assert all(same(a, b) for a, b in twice(lambda: HomeGrid(16, kind=kind), 60))


def test_pictures_and_words_are_rows():
    envs = Envs("home_grid_future", 2, size=24)
    rows = envs.reset()
    assert rows["image"].shape == (2, 24, 24, 3)
    assert envs.observations["token"].classes == (len(home.VOCABULARY),)
    assert make("home_grid", pixels=True, size=24).observations.keys() == {"image", "token"}


def test_wrong_options_are_told():
    with pytest.raises(ConfigError, match="Did you mean 'dynamics'"):
        HomeGrid(kind="dynamic")
    with pytest.raises(ConfigError, match="chance in"):
        HomeGrid(chance=2.0)
