"""Settings of fits that belong to presets: `worldformula fit` begins with them, and cards train by them."""

from __future__ import annotations

import dataclasses
import importlib
from types import SimpleNamespace

import numpy as np
import pytest

from worldformula import catalogue
from worldformula.model.config import start
from worldformula.training.minimise import FitConfig

OWN = [(s.name, p) for kind in ("models", "worlds") for s in catalogue.discover(kind) for p in s.fits]


def test_there_are_some():
    assert {"vae", "cvae", "ddpm", "mvae", "factor_vae", "dmm", "h_jepa", "recalling"} <= {name for name, _ in OWN}


@pytest.mark.parametrize(("name", "preset"), OWN)
def test_a_fit_begins_with_those_of_its_preset(name, preset):
    system = catalogue.find(name)
    assert preset in system.presets
    begun, own = start(name, preset, "digits"), dict(system.fits[preset])
    before = own.pop("before", {})
    usual = FitConfig(batch=16, clip=1.0) if system.kind == "worlds" else FitConfig()
    assert dataclasses.asdict(begun.fit) == dataclasses.asdict(usual) | own
    assert begun.before == {key: FitConfig(**how) for key, how in before.items()}


def test_a_preset_without_begins_with_the_defaults():
    assert start("vae", "paper", "digits").fit == FitConfig()
    assert start("rssm", "tiny", "digits").fit == FitConfig(batch=16, clip=1.0)


@pytest.mark.parametrize(
    ("card", "model", "preset"),
    [(*each, "tiny") for each in [
        ("vae_digits", "vae"), ("cvae_digits", "cvae"), ("vae_bounds", "iwae"), ("cgan_digits", "cgan"),
        ("ddpm_digits", "ddpm"), ("draw_digits", "draw"), ("mmd_vae_digits", "mmd_vae"), ("vib_sweep", "vib"),
        ("score_rings", "score_sde"), ("hierarchical_groups", "hierarchical"), ("mvtcae_digits", "mvtcae"),
        ("multimodal_digits", "jmvae"), ("made_digits", "made"), ("pixel_cnn_digits", "pixel_cnn"),
        ("transformer_digits", "transformer_ar"), ("masked_digits", "masked_diffusion"), ("rbm_digits", "rbm"),
        ("ebm_rings", "ebm"), ("vq_vae_digits", "vq_vae"), ("gqn_rooms", "gqn"), ("ldm_digits", "ldm"),
        ("gan_ring", "gan"), ("density_ratio_gaussians", "density_ratio"), ("lda_topics", "lda"),
        ("transport_digits", "flow_matching"), ("hierarchy", "h_jepa"),
    ]] + [("hidden_door", "recalling", "small"), ("jmvae_mnist", "jmvae", "paper")],
)  # fmt: skip
def test_a_card_trains_by_them(card, model, preset, monkeypatch):
    class Trained(Exception):
        pass

    def fit(loss, data, **how):
        raise Trained(how)

    module = importlib.import_module(f"worldformula.cards.{card}")
    place = module if hasattr(module, "fit") else importlib.import_module("worldformula.cards.trimodal_scores")
    monkeypatch.setattr(place, "fit", fit)
    if card == "jmvae_mnist":  # its files lie on few machines
        rows = {"x": np.zeros((2, 784), np.float32), "y": np.array([0, 9])}
        monkeypatch.setattr(module, "load", lambda name: SimpleNamespace(train=rows, test=rows))
    with pytest.raises(Trained) as stopped:
        module.measure(100)
    how = stopped.value.args[0]
    wanted = catalogue.find(model).fits[preset]
    assert {key: how[key] for key in wanted} == dict(wanted)
    assert set(how) - set(wanted) <= {"seed", "symbols", "inputs", "progress"}
    assert how["seed"] == 100
