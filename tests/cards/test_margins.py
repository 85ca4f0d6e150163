"""What decides in the cards of MVTCAE and the β-TCVAE, on numbers and models that are known."""

import pytest
import torch

from worldformula.cards.beta_tcvae_sprites import claims, cost
from worldformula.cards.mvtcae_digits import margin
from worldformula.models.beta_tcvae import Sizes, build

COHERENT = {"mvtcae_1": 0.78, "mvtcae_2": 0.94, "mvae_1": 0.45, "mmvae_nats": 20.5, "mvtcae_nats": 15.7}
APART = {"mig_tc": 0.4, "mig_beta_1": 0.2, "cost_tc": 4.5, "cost_beta_4": 9.0}


@pytest.mark.parametrize(
    ("change", "kept"),
    [({}, 0.13), ({"mvtcae_2": 0.8}, -0.01), ({"mvae_1": 0.7}, -0.02), ({"mvtcae_nats": 21.0}, -0.5)],
)
def test_margin_is_the_condition_of_mvtcae_that_is_kept_least(change, kept):
    assert margin(COHERENT | change) == pytest.approx(kept, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "kept"),
    [({}, 3), ({"mig_beta_1": 0.31}, 2), ({"mig_tc": 0.2, "mig_beta_1": 0.0}, 2), ({"cost_tc": 9.5}, 2),
     ({"mig_tc": 0.1, "cost_tc": 9.5}, 0)],
)  # fmt: skip
def test_each_statement_about_the_tcvae_counts_by_itself(change, kept):
    assert claims(APART | change) == kept


def test_a_decoder_that_knows_the_grey_levels_costs_nothing_and_a_blind_one_their_information():
    x = torch.full((5, 4), 0.25)
    model = build(Sizes(4, 2, hidden=(3,), decoder=(3,), rows=5, beta=2.0))
    last = model.decode.net.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(torch.logit(torch.tensor(0.25)))
    assert cost(model, x, 0) == pytest.approx(0.0, abs=1e-5)
    with torch.no_grad():
        last.bias.zero_()
    own = -(0.25 * torch.tensor(0.25).log() + 0.75 * torch.tensor(0.75).log())
    assert cost(model, x, 0) == pytest.approx(4 * float(torch.tensor(2.0).log() - own), abs=1e-5)
