"""``worldformula models NAME`` shows one system: what it says is what the system is."""

from __future__ import annotations

import re
import resource
from itertools import pairwise

import pytest

from worldformula import catalogue
from worldformula.cli import main
from worldformula.cli.models import weighed
from worldformula.model.config import start
from worldformula.model.run import build
from worldformula.models import vae


def test_a_model_shows_formula_sizes_card_and_a_command_that_trains_it(
    capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    assert main(["models", "vae"]) == 0
    said = capsys.readouterr().out
    layers = [(64, 256), (256, 256), (256, 2 * 16), (16, 256), (256, 256), (256, 64)]
    weights = sum((a + 1) * b for a, b in layers)  # by hand: encoder to a mean and a deviation, decoder to bits
    assert f"preset tiny: {weights:,} parameters" in said
    assert "mean(KL(q(z|x) ‖ p(z)) - E_{q(z|x)}[log p(x|z)])" in said
    assert r"D_{\mathrm{KL}}\left[ q(z \mid x) \,\|\, p(z) \right]" in said
    assert "vae (models; presets: paper, tiny, pictures, world_models)" in said
    assert "Kingma & Welling 2013" in said
    assert "    latent=16\n" in said
    assert re.search(r"(PASS|FAIL) vae_digits: ", said)
    command = said.strip().splitlines()[-1].split()
    assert command == ["worldformula", "fit", "vae", "--data", "digits"]
    assert main([*command[1:], "--steps", "2", "--run", f"{tmp_path}/run"]) == 0


def test_another_preset_has_other_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "vae", "--preset", "paper"]) == 0
    said = capsys.readouterr().out
    made = build(start("vae", "paper", ""))
    assert f"preset paper: {sum(p.numel() for p in made.loss.parameters()):,} parameters" in said
    assert f"    latent={vae.paper().latent}\n" in said
    assert said.strip().splitlines()[-1].endswith("--preset paper")


@pytest.mark.parametrize(
    "name", [*catalogue.names("worlds"), *catalogue.names("planners"), "gan", "gqn", "neuro_serket"]
)
def test_every_kind_of_system_is_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", name]) == 0
    said = capsys.readouterr().out
    system = catalogue.find(name)
    assert said.startswith(f"{name} ({system.kind}; presets: ")
    assert ("\nformula" in said) == (system.kind != "planners")
    assert ("to train it" in said) == (system.kind != "planners")
    trained = next((line for line in said.splitlines() if line.startswith("    worldformula fit ")), "")
    assert (name == "mdn_rnn") == ("worldformula train --model world_models" in said)  # it reads what a VAE sees
    assert bool(trained) == (system.kind in ("models", "worlds") and name != "mdn_rnn")
    assert ("to plan with it\n    worldformula plan " in said) == (system.kind == "planners")
    assert (name != "cem") or "    horizon=12    Steps of a plan.\n" in said
    assert (name != "lagrangian") or "    planner.elites=20    How many" in said  # of both searches, with words
    assert (name != "lagrangian") or "    rounds=5    Searches, each" in said


def test_an_agent_shows_all_that_it_learns_by(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "dreamer-v3"]) == 0
    said = capsys.readouterr().out
    for part in ("formula of world", "formula of dream", "formula of replay", "world.sizes.deter=128    The recurrent"):
        assert part in said
    assert (
        said.strip().splitlines()[-1].strip()
        == "worldformula train --model dreamer_v3 --env pendulum --run runs/dreamer_v3"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["vea"], "no system is called 'vea'. Did you mean 'vae'"),
        (["vae", "--preset", "papre"], "vae has no preset 'papre'. Did you mean 'paper'"),
        (["vae", "--kind", "models"], "--kind is for the list"),
        (["--preset", "tiny"], "--preset is for one system"),
        (["--kind", "model"], "no catalogue is called 'model'. Did you mean 'models'"),
    ],
)
def test_what_is_misspelt_is_told(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", *arguments]) == 1
    assert says in capsys.readouterr().err


OBSERVED, ACTIONS, BINS = 24, 6, 255
PUBLISHED_SIZES = {  # deter, hidden, classes, depth, units, as in the paper's table and the authors' code
    "size1m": (512, 64, 4, 4, 64), "size12m": (2048, 256, 16, 16, 256), "size25m": (3072, 384, 24, 24, 384),
    "size50m": (4096, 512, 32, 32, 512), "size100m": (6144, 768, 48, 48, 768), "size200m": (8192, 1024, 64, 64, 1024),
    "size400m": (12288, 1536, 96, 96, 1536),
}  # fmt: skip


def by_hand(d: int, h: int, classes: int, depth: int, u: int, picture: bool) -> int:
    """The parameters of DreamerV3 layer by layer, of 24 numbers or a picture of 64 × 64 × 3, and 6 actions."""

    def linear(inputs: int, outputs: int) -> int:
        return inputs * outputs + outputs

    def dense(inputs: int, outputs: int) -> int:
        return linear(inputs, outputs) + outputs  # and the scale of its norm

    def trunk(inputs: int, layers: int) -> int:
        return dense(inputs, u) + (layers - 1) * dense(u, u)

    s, blocks = 32 * classes, 8
    f, channels = d + s, [2 * depth, 3 * depth, 4 * depth, 4 * depth]
    read = dense(d, h) + dense(s, h) + dense(ACTIONS, h)
    core = (d * (d // blocks + 3 * h) + d + d) + (d * 3 * d // blocks + 3 * d)
    prior = dense(d, h) + dense(h, h) + linear(h, s)
    if picture:
        seen, tokens = sum(25 * i * o + o + o for i, o in pairwise([3, *channels])), 4 * 4 * channels[-1]
        decoded = (d * tokens // blocks + tokens) + dense(s, 2 * u) + linear(2 * u, tokens) + channels[-1]
        decoded += sum(25 * i * o + o + o for i, o in pairwise(channels[::-1])) + 25 * channels[0] * 3 + 3
    else:
        seen, tokens = trunk(OBSERVED, 3), u
        decoded = trunk(f, 3) + linear(u, OBSERVED)
    posterior = dense(d + tokens, h) + linear(h, s)
    heads = trunk(f, 1) + linear(u, BINS) + trunk(f, 1) + linear(u, 1)
    behaviour = trunk(f, 3) + 2 * linear(u, ACTIONS) + trunk(f, 3) + linear(u, BINS)
    return seen + read + core + prior + posterior + decoded + heads + behaviour


def test_every_size_of_dreamer_v3_has_the_parameters_of_its_layers() -> None:
    rows = {preset: counts for preset, *counts in weighed(catalogue.find("dreamer_v3"))}
    for name, widths in PUBLISHED_SIZES.items():
        assert rows[name][:2] == [f"{by_hand(*widths, picture=picture):,}" for picture in (False, True)], name
    assert rows["size1m"] == ["640,867", "686,846", "640,867"]  # the last is what the authors' code counts
    assert rows["paper"][:2] == rows["size12m"][:2]
    assert rows["official"][:2] == rows["size200m"][:2]


def test_parameters_are_counted_without_room_for_them() -> None:
    """Those of the largest size would take 1.4 GB, and their slow copies more."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    system = catalogue.find("dreamer_v3")
    assert [row[0] for row in weighed(system)] == list(system.presets)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # kB


@pytest.mark.parametrize("name", [name for name in catalogue.names("agents") if name != "dreamer_v3"])
def test_an_agent_shows_the_parameters_of_each_preset(name: str) -> None:
    system = catalogue.find(name)
    found = list(weighed(system))
    assert [row[0] for row in found] == list(system.presets)
    assert all(row[2] != "–" for row in found)  # all of them see pictures
