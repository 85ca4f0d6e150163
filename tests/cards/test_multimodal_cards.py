"""What the multimodal cards compute, on models and numbers that are known."""

import math
from dataclasses import replace

import pytest
import torch

from worldformula.cards.multimodal_digits import margin
from worldformula.cards.multimodal_likelihood import fixed, likelihoods
from worldformula.cards.multimodal_missing import absences
from worldformula.cards.trimodal_scores import coherence, train
from worldformula.models import mvae

GOOD = {
    "jmvae_1": 0.88, "mvae_1": 0.45, "mmvae_1": 0.95, "mmvae_2": 0.95, "mopoe_1": 0.94, "mopoe_2": 0.99,
    "jmvae_nats": 12.2, "mvae_nats": 13.3, "mopoe_nats": 15.8, "mmvae_nats": 19.2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "kept"),
    [({}, 0.02), ({"mmvae_1": 0.9, "mmvae_2": 0.9}, -0.02), ({"mvae_1": 0.6}, -0.02), ({"mopoe_2": 0.96}, -0.01),
     ({"mmvae_2": 0.98}, -0.01), ({"mvae_nats": 12.0}, -0.2), ({"mopoe_nats": 12.9}, -0.4),
     ({"mmvae_nats": 15.0}, -0.8)],
)  # fmt: skip
def test_margin_is_the_condition_that_is_kept_least(change, kept):
    assert margin(GOOD | change) == pytest.approx(kept, abs=1e-6)


def test_every_row_has_something_and_the_ratio_holds():
    flags = torch.stack([*absences(5000, 0.5, 0).values()])
    assert flags.any(0).all()
    assert flags.float().mean().item() == pytest.approx(0.5 / (1 - 0.5**3), abs=0.02)
    assert torch.stack([*absences(50, 0.2, 1).values()]).equal(torch.stack([*absences(50, 0.2, 1).values()]))


def test_likelihoods_as_matrix_products_equal_the_factors():
    model = fixed(0)
    z, rows = (
        torch.randn(4, 2),
        {"a": torch.rand(3, 64).round(), "b": torch.rand(3, 64).round(), "c": torch.randn(3, 24)},
    )
    with torch.no_grad():
        ours = likelihoods(model, z, rows)
        many = z[:, None].expand(-1, 3, -1)
        data = {m: x.expand(4, *x.shape) for m, x in rows.items()}
        theirs = model.decode.log_prob(z=many, **data) + model.prior.log_prob(z=many)
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-5, atol=1e-3)


def test_training_takes_flags_and_coherence_counts_every_set():
    torch.manual_seed(0)
    model = mvae.build(replace(mvae.tiny(), latent=2, hidden=(8,), others=0))
    x = {"a": torch.rand(30, 64).round(), "b": torch.rand(30, 64).round(), "c": torch.rand(30, 24)}
    flags = {"present_b": torch.arange(30) % 2 == 0}
    x["b"][~flags["present_b"]] = math.nan
    train(model, {**x, **flags}, seed=0, steps=3)
    assert all(p.isfinite().all() for p in model.loss.parameters())
    seen = []

    def judge(name):
        def count(made):
            seen.append((name, len(made)))
            return torch.zeros(len(made), dtype=torch.long)

        return count

    judges = {m: judge(m) for m in "abc"}
    share = coherence(model, {m: v.nan_to_num() for m, v in x.items()}, torch.zeros(30), judges, 1, mean=True, seed=0)
    assert share == 1.0
    assert sorted(seen) == [(m, 120) for m in "aabbcc"]
