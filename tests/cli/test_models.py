"""``worldformula models NAME`` shows one system: what it says is what the system is."""

from __future__ import annotations

import re

import pytest

from worldformula import catalogue
from worldformula.cli import main
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
    assert (name != "cem") or "    horizon=12\n" in said


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
