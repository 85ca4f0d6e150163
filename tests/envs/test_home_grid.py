"""HomeGrid: the map, what every action does, what is paid, what is said and when; floors and the controller."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.envs.playing import play, same, twice
from worldformula.envs import Envs, make
from worldformula.envs import home_map as home
from worldformula.envs.home_grid import KINDS, RULES, HomeGrid, reference
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
    env.home.things = [[-1, -1, home.ABSENT] for _ in THINGS]
    env.home.bins = [[-1, -1, home.NO_BIN, -1] for _ in BINS]
    env.home.bins[TRASH], env.home.lasting, env.home.waits = [1, 9, home.CLOSED, 2], RECYCLING, {}
    env.home.x, env.home.y, env.home.facing, env._reading = 3, 8, 0, 0
    env.home.task, env.home.paid = (home.TAKE, PLATES, -1), False
    env.home.jump = env.home.announce = list
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
    assert (env.home.x, env.home.y, env.home.facing) == (2, 8, LEFT)
    env.home.x, env.home.y = 2, 9
    does(env, LEFT)  # the bin
    assert (env.home.x, env.home.y, env.home.facing) == (2, 9, LEFT)
    does(env, DOWN)  # the countertop
    assert (env.home.x, env.home.y, env.home.facing) == (2, 9, DOWN)
    env.home.things[FRUIT] = [3, 9, home.VISIBLE]
    does(env, RIGHT)
    assert (env.home.x, env.home.facing) == (2, RIGHT)
    env.home.things[FRUIT][2] = home.COMING  # what is only announced is walked over
    does(env, RIGHT)
    assert (env.home.x, env.home.facing) == (3, RIGHT)


def test_things_are_picked_up_dropped_and_put_into_open_empty_bins():
    env = quiet()
    env.home.things[FRUIT], env.home.things[PAPERS] = [4, 8, home.VISIBLE], [3, 7, home.COMING]
    assert does(env, PICKUP, RIGHT, PICKUP, PICKUP)[1] == [[], [], ["pickup"], []]
    assert env.home.things[FRUIT][2] == home.CARRIED
    env.home.facing = UP
    assert does(env, DROP)[1] == [[]]  # papers are announced there
    env.home.x, env.home.y, env.home.facing = 2, 9, LEFT
    assert does(env, DROP, LIFT, DROP, PICKUP, GET)[1] == [[], ["open"], ["drop_in_bin"], [], ["get"]]
    env.home.things[PAPERS] = [-1, -1, home.INSIDE + TRASH]
    assert does(env, DROP, GET)[1] == [[], []]  # the bin is full, and hands are
    env.home.facing = DOWN
    assert does(env, DROP)[1] == [["drop"]]
    assert env.home.things[FRUIT] == [2, 10, home.VISIBLE]  # on the countertop
    env.home.facing, env.home.things[FRUIT] = UP, [-1, -1, home.CARRIED]
    env.home.x, env.home.y = 2, 7
    env.home.facing = UP
    assert does(env, DROP)[1] == [["drop"]]
    env.home.things[FRUIT], env.home.x, env.home.y, env.home.facing = [-1, -1, home.CARRIED], 12, 7, RIGHT
    assert does(env, DROP)[1] == [[]]  # no dropping into a wall


def test_announced_things_can_be_taken_and_are_seen_after_five_steps():
    env = quiet()
    env.home.things[FRUIT], env.home.waits = [4, 8, home.COMING], {"fruit": 5}
    env.home.facing = RIGHT
    env.home.task = (home.FIND, FRUIT, -1)
    rewards, events = does(env, *[GET] * 5)
    assert (rewards, events) == ([0, 0, 0, 0, 1.0], [[]] * 4 + [["appear", "task_done"]])
    env = quiet()
    env.home.things[FRUIT], env.home.waits, env.home.facing = [4, 8, home.COMING], {"fruit": 5}, RIGHT
    assert does(env, PICKUP)[1] == [["pickup"]]
    does(env, *[LEFT] * 6)
    assert env.home.things[FRUIT][2] == home.CARRIED


def test_the_wrong_way_breaks_a_closed_bin_for_good_or_for_five_steps():
    env = quiet()
    env.home.x, env.home.y, env.home.facing = 2, 9, LEFT
    _, events = does(env, PEDAL, LIFT, GRASP, LIFT, LIFT, LIFT)
    assert events == [["break"], [], [], [], [], ["bin_reset", "open"]]
    assert does(env, PEDAL)[1] == [[]]  # nothing happens to an open one
    env = quiet()
    env.home.lasting = TRASH
    env.home.x, env.home.y, env.home.facing = 2, 9, LEFT
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
    env.home.things[FRUIT], env.home.x, env.home.y, env.home.facing = [3, 9, home.VISIBLE], 2, 9, UP
    if task[0] == home.PUT:
        env.home.bins[TRASH][2] = home.OPEN
    env.home.task = task
    found, events = does(env, *actions)
    assert tuple(found) == rewards
    assert [("task_done" in e, "subtask" in e) for e in events] == [(r == 1, r == 0.5) for r in rewards]


def test_a_new_task_interrupts_and_is_repeated_after_twenty_quiet_steps():
    env = quiet()
    env.home.things[FRUIT] = [4, 8, home.VISIBLE]
    env.home.facing, env.home.task = RIGHT, (home.TAKE, FRUIT, -1)
    env.speech.say("open the trash bin")
    env.step(GET)
    *_, info = env.step(PICKUP)
    assert info["event"] == ["pickup", "task_done"]
    assert info["sentence"] == home.task_text(env.home.task)
    env.home.task = (home.TAKE, PLATES, -1)
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


@pytest.mark.parametrize("kind", ["future", "dynamics"])
def test_actions_while_something_is_read_change_and_earn_nothing(kind):
    """One stream does the controller's actions, the other any: both begin to act in the same home, none was paid."""
    rng, envs = np.random.default_rng(0), [HomeGrid(8, kind=kind) for _ in range(2)]
    for seed in range(8):
        infos = [env.reset(seed=seed)[1] for env in envs]
        while infos[0]["is_read_step"]:
            acts = reference(infos[0]["state"]), int(rng.integers(10))
            answers = [env.step(act) for env, act in zip(envs, acts, strict=True)]
            infos = [answer[4] for answer in answers]
            assert [answer[1:4] for answer in answers] == [(0.0, False, False)] * 2
            assert all((infos[0]["state"][key] == infos[1]["state"][key]).all() for key in infos[0]["state"])
            assert infos[0]["event"] == infos[1]["event"] == []
        assert [env.step(PEDAL)[3] for env in envs[:1] for _ in range(100)] == [False] * 99 + [True]


def test_what_is_said_of_each_kind_is_true():
    for kind in KINDS:
        env, said = HomeGrid(8, kind=kind, chance=1.0), Counter()
        rng = np.random.default_rng(1)
        for seed in range(12):
            _, info = env.reset(seed=seed)
            cut = False
            while not cut:
                before = [list(row) for row in env.home.things]
                *_, cut, info = env.step(int(rng.integers(4)))
                text = info["sentence"]
                if not text or text == home.task_text(env.home.task) or info["is_read_step"]:
                    continue
                said[text.split()[-1] if kind == "future" and "later" in text else text.split()[1]] += 1
                if text.endswith("later"):
                    what = next(k for k, name in enumerate(THINGS) if name in text)
                    assert env.home.things[what][2] == home.COMING
                elif text.startswith("i moved"):
                    what = next(k for k, name in enumerate(THINGS) if name in text)
                    assert env.home.things[what][:2] != before[what][:2]
                elif " is in " in text:
                    assert kind == "future"
                elif "to open" in text:
                    assert kind == "dynamics"
                    can = next(k for k, name in enumerate(BINS) if name in text)
                    assert text.startswith(home.OPENING[env.home.bins[can][3]])
                else:
                    assert (kind, text) == ("corrections", home.NO)
        assert (len(said) > 0) == (kind != "task")


def test_corrections_follow_steps_away_from_what_is_wanted():
    env = quiet("corrections", chance=1.0)
    env.home.things[FRUIT], env.home.task, env._said = [6, 8, home.VISIBLE], (home.TAKE, FRUIT, -1), -99
    assert env.step(LEFT)[4]["sentence"] == home.NO
    assert [env.step(RIGHT)[4]["sentence"] for _ in range(5)] == [""] * 5
    env.home.things[FRUIT], env.home.task = [-1, -1, home.CARRIED], (home.MOVE, FRUIT, 1)
    env.home.x, env.home.y, env.home.paid = 7, 8, True
    assert env.step(LEFT)[4]["sentence"] == home.NO  # away from the dining room, to which it is carried


@pytest.mark.parametrize("task", [(home.MOVE, FRUIT, 1), (home.PUT, FRUIT, TRASH)])
def test_taking_what_is_wanted_is_no_step_away_from_where_it_is_brought(task):
    """The fruit lies in front of the figure; what it is brought to, another room or a bin, is farther away."""
    env = quiet("corrections", chance=1.0)
    env.home.things[FRUIT], env.home.facing, env.home.task, env._said = [4, 8, home.VISIBLE], RIGHT, task, -99
    taken = env.step(PICKUP)[4]
    assert (taken["event"], taken["sentence"]) == (["pickup", "subtask"], "")
    away = RIGHT if task[0] == home.PUT else LEFT  # the bin stands at x = 1, the dining room begins at x = 8
    assert env.step(away)[4]["sentence"] == home.NO


def test_official_starts_are_anywhere_and_hide_what_they_fall_on():
    """Of 60 cells two are places of two of ten things, two of two of three bins, and two are rugs."""
    env, found = HomeGrid(8, rules="official"), Counter()
    for seed in range(1500):
        env.reset(seed=seed)
        here = [env.home.x, env.home.y]
        things = {k for k, row in enumerate(env.home.things) if row[:2] == here}
        bins = {k for k, row in enumerate(env.home.bins) if row[:2] == here}
        assert env.home.lost == things | {len(THINGS) + k for k in bins}
        rug = here in [[9, 3], [10, 3]]
        found += Counter({"thing": len(things), "bin": len(bins), "rug": rug})
    for name, share in (("thing", 2 / 60 * 2 / 10), ("bin", 2 / 60 * 2 / 3), ("rug", 2 / 60)):
        assert found[name] / 1500 == pytest.approx(share, abs=3.5 * np.sqrt(share / 1500))


def test_what_an_official_start_hides_is_found_by_nobody_until_it_jumps():
    env = quiet(rules="official")
    env.home.bins[TRASH], env.home.things[FRUIT] = [4, 8, home.OPEN, 2], [3, 7, home.VISIBLE]
    env.home.lost, env.home.facing = {FRUIT, len(THINGS) + TRASH}, RIGHT
    env.home.task = (home.FIND, len(THINGS) + TRASH, -1)
    bare = quiet(rules="official")
    bare.home.bins[TRASH][2] = home.NO_BIN
    bare.home.facing = RIGHT
    np.testing.assert_array_equal(env.render(), bare.render())
    assert does(env, GET, UP, RIGHT) == ([0, 0, 0], [[], [], []])
    assert (env.home.x, env.home.y) == (4, 7)  # over the fruit, and on
    assert set(env.step(GET)[4]["hidden"]) == {"fruit_x", "fruit_y", "trash_x", "trash_y", "trash_opens"}
    del env.home.jump
    env.home.rng = Drawn()
    assert env.home.jump()[0][0] == "teleport"
    assert env.home.lost == {len(THINGS) + TRASH}
    assert env.home.thing_at(*env.home.things[FRUIT][:2]) == FRUIT


class Drawn:
    """Draws the first of everything."""

    def random(self):
        return 0.0

    def choice(self, options):
        return options[0]

    def integers(self, many):
        return 0


@pytest.mark.parametrize("rules", RULES)
def test_official_tasks_are_paid_behind_the_jump_and_for_what_is_announced(rules):
    own = rules == "official"
    env = quiet(rules=rules)
    env.home.things[FRUIT], env.home.facing, env.home.task = [4, 8, home.COMING], RIGHT, (home.FIND, FRUIT, -1)
    assert does(env, GET)[0] == [float(own)]
    env.home.things[FRUIT], env.home.task = [4, 8, home.COMING], (home.MOVE, FRUIT, 2)
    assert does(env, GET)[0] == [float(own)]
    env.home.things[FRUIT], env.home.task = [4, 8, home.VISIBLE], (home.FIND, FRUIT, -1)

    def jump():
        env.home.things[FRUIT] = [9, 1, home.VISIBLE]
        return [("teleport", home.was_moved(FRUIT, 0))]

    env.home.jump = jump
    assert does(env, GET)[0] == [float(not own)]


@pytest.mark.parametrize(("rules", "said"), [("clean", ""), ("official", home.NO)])
def test_official_corrections_point_to_the_corner_once_a_thing_is_carried(rules, said):
    """The fruit to be moved is in front of the figure; taken, it counts as at (−1, −1), by its record."""
    env = quiet("corrections", chance=1.0, rules=rules)
    env.home.things[FRUIT], env.home.facing, env.home.task = [4, 8, home.VISIBLE], RIGHT, (home.MOVE, FRUIT, 1)
    env._said = -99
    assert env.step(PICKUP)[4]["sentence"] == said
    env.speech.interrupt()
    assert env.step(LEFT)[4]["sentence"] == ("" if rules == "official" else home.NO)  # nearer to the corner
    env.speech.interrupt()
    assert env.step(RIGHT)[4]["sentence"] == said


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_official_row_that_is_acted_in_is_dark_and_marked_as_well(kind):
    """25.6 and 13 rows were counted of what is read, of future and dynamics in words of T5; else one."""
    marked = {}
    for rules in RULES:
        env = HomeGrid(16, kind=kind, rules=rules)
        for seed in range(5):
            observation, info = env.reset(seed=seed)
            rows = [(info["is_read_step"], observation["image"].mean())]
            for _ in range(40):
                observation, *_, info = env.step(PEDAL)
                rows.append((info["is_read_step"], observation["image"].mean()))
            marked[rules, seed] = sum(flag for flag, _ in rows)
            assert all(flag == (k < marked[rules, seed]) for k, (flag, _) in enumerate(rows))
            dark = {light for flag, light in rows if flag}
            assert not dark or max(dark) < 0.6 * rows[marked[rules, seed]][1]
    if kind == "dynamics":
        assert {marked["official", seed] for seed in range(5)} == {13}
    assert all(marked["official", seed] == 1 + marked["clean", seed] or kind == "future" for seed in range(5))


def test_starts_are_free_and_things_at_their_places():
    env, kinds, opened = HomeGrid(8), Counter(), []
    for seed in range(300):
        env.reset(seed=seed)
        lying = [k for k, row in enumerate(env.home.things) if row[2] == home.VISIBLE]
        assert len(lying) == 2
        assert all(tuple(env.home.things[k][:2]) in home.THING_CELLS for k in lying)
        standing = [row for row in env.home.bins if row[2] != home.NO_BIN]
        assert len(standing) == 2
        assert {tuple(row[:2]) for row in standing} <= set(home.BIN_CELLS)
        assert env.home.walkable(env.home.x, env.home.y)
        kinds[env.home.task[0]] += 1
        opened += [row[2] for row in standing]
    assert min(kinds.values()) > 300 / 5 - 3.5 * np.sqrt(300 * 0.2 * 0.8)
    assert np.mean(opened) == pytest.approx(0.5, abs=3 * 0.5 / np.sqrt(600))


def test_jumps_and_new_things_come_as_often_as_the_rules_say():
    """0.05 a step, and 0.2 while two kinds are missing; none lands where another lies or the figure stands."""
    env, jumps, news, steps = HomeGrid(8), 0, 0, 0
    for seed in range(60):
        env.reset(seed=seed)
        env.home.task = (home.FIND, 4, -1)
        for _ in range(40):
            missing = sum(row[2] == home.ABSENT for row in env.home.things)
            *_, info = env.step(PEDAL)
            jumps += "teleport" in info["event"]
            news += "spawn" in info["event"] if missing == 2 else 0
            steps += missing == 2
            cells = [tuple(row[:2]) for row in env.home.things if row[2] in (home.VISIBLE, home.COMING)]
            assert len(set(cells)) == len(cells)
            assert (env.home.x, env.home.y) not in cells
    assert jumps / 2400 == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 2400))
    assert news / steps == pytest.approx(0.2, abs=3 * np.sqrt(0.16 / steps))


def test_what_is_not_seen_is_hidden_and_makes_no_difference():
    env = quiet()
    env.home.things[FRUIT] = [4, 8, home.COMING]
    env.home.things[BOTTLE] = [9, 1, home.VISIBLE]
    env.home.bins[TRASH][:3] = [2, 8, home.CLOSED]
    *_, info = env.step(GET)
    assert set(info["hidden"]) == {"fruit_x", "fruit_y", "bottle_x", "bottle_y", "trash_opens"}
    first = env.render()
    env.home.things[FRUIT], env.home.things[BOTTLE], env.home.bins[TRASH][3] = (
        [8, 6, home.COMING],
        [12, 2, home.VISIBLE],
        0,
    )
    np.testing.assert_array_equal(env.render(), first)
    row, _ = make("home_grid_dynamics", labels=("hidden/trash_opens", "hidden/bottle_x")).reset(seed=1)
    assert row["label/hidden/trash_opens"].shape == ()


def test_the_picture_is_three_by_three_cells_north_up_and_dark_while_reading():
    env = quiet()
    env.home.things[FRUIT], env.home.facing = [4, 7, home.VISIBLE], RIGHT
    frame = env.render().astype(int)
    light = 0.7 * np.array([240, 120, 30]) + 0.3 * 255
    rows, columns = (np.abs(frame - light).sum(-1) < 20).nonzero()
    assert 32 <= columns.min() <= columns.max() < 48
    assert 0 <= rows.min() <= rows.max() < 16
    rows, columns = (np.abs(frame - (0.7 * np.array(RED) + 0.3 * 255)).sum(-1) < 20).nonzero()
    assert columns.mean() > 28
    env._reading = 1
    np.testing.assert_array_equal(env.render(), (frame // 2))
    env._reading, env.home.things[FRUIT] = 0, [-1, -1, home.CARRIED]
    rows, columns = (np.abs(env.render().astype(int) - light).sum(-1) < 20).nonzero()
    assert 24 <= columns.min() <= columns.max() < 32  # in the figure's own cell
    np.testing.assert_array_equal(BIN_GLYPHS[TRASH][2], np.rot90(BIN_GLYPHS[TRASH][0]))  # broken: turned
    seen = []
    for state in (home.CLOSED, home.OPEN, home.BROKEN):
        env.home.bins[TRASH] = [3, 9, state, 0]
        seen.append(env.render()[32:, 16:32])
    assert all((a != b).any() for a, b in ((seen[0], seen[1]), (seen[0], seen[2]), (seen[1], seen[2])))


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_random_play_scores_what_was_measured_before(kind, rules):
    """0.38, 0.40, 0.42, 0.47, each with an error of 0.04."""
    floor = dict(zip(KINDS, (0.38, 0.40, 0.42, 0.47), strict=True))[kind]
    assert play(HomeGrid(8, kind=kind, rules=rules), 60, 200).off(floor, 0.04) < 3


@pytest.mark.slow
def test_the_controller_scores_here_what_it_scored_in_the_authors_package():
    """There 12.42 ± 0.45 (60 episodes of its task variant, states read from its info). Scripts that are greedy had
    scored 9.33 ± 0.33 when they knew how bins open, and 7.52 ± 0.33 when they guessed: lower bounds.
    """
    assert play(HomeGrid(8, rules="official"), 100, 200, policy=reference).off(12.42, 0.45) < 3
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
    with pytest.raises(ConfigError, match="rules as one of clean, official, got 'oficial'"):
        HomeGrid(rules="oficial")
    with pytest.raises(ConfigError, match="chance in"):
        HomeGrid(chance=2.0)
