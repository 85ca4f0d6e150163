"""The hand-written references agree with torch.distributions and with each other."""

import pytest
import torch
import torch.distributions as td
from torch import nn

from benchmarks.handwritten import (
    RSSM,
    Batch,
    draw,
    kl_classes,
    log_mix,
    rssm_loss,
    rssm_loss_in_loop,
    two_hot_nll,
    vae_loss,
)

B, T, D, G, K, E, A, PIXELS, BINS = 3, 5, 6, 2, 4, 7, 2, 8, 11


class Join(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, dtype=torch.float64)

    def forward(self, *inputs):
        return self.linear(torch.cat([x.flatten(1) for x in inputs], -1)).tanh() * 2


@pytest.fixture
def parts():
    nets = nn.ModuleDict(
        {
            "encoder": Join(PIXELS, E),
            "core": Join(D + G * K + A, D),
            "prior": Join(D, G * K),
            "posterior": Join(D + E, G * K),
            "decoder": Join(D + G * K, PIXELS),
            "reward": Join(D + G * K, BINS),
        }
    )
    return nets, RSSM(**nets, deter=D, groups=G, classes=K, scale=0.5)


@pytest.fixture
def batch():
    first = torch.zeros(B, T, dtype=torch.float64)
    first[:, 0] = 1
    first[1, 3] = 1
    image = torch.randn(B, T, PIXELS, dtype=torch.float64)
    return Batch(image, torch.randn(B, T).double() * 3, torch.randn(B, T, A).double(), first)


def gumbel():
    return td.Gumbel(0.0, 1.0).sample((B, T, G, K)).double()


def test_vae_loss_is_the_elbo_of_torch_distributions():
    encoder, decoder = Join(PIXELS, 2 * D), Join(D, PIXELS)
    x, noise = torch.rand(B, PIXELS).bernoulli().double(), torch.randn(B, D).double()
    loc, raw = encoder(x).chunk(2, -1)
    q = td.Independent(td.Normal(loc, nn.functional.softplus(raw)), 1)
    p = td.Independent(td.Normal(torch.zeros(D).double(), torch.ones(D).double()), 1)
    z = loc + q.base_dist.scale * noise
    expected = (
        td.kl_divergence(q, p.expand((B,))) - td.Independent(td.Bernoulli(logits=decoder(z)), 1).log_prob(x)
    ).mean()
    torch.testing.assert_close(vae_loss(encoder, decoder, x, noise), expected)


def test_time_batched_and_looped_rssm_agree_in_value_and_gradient(parts, batch):
    nets, rssm = parts
    noise = gumbel()
    gradients = []
    for loss in (rssm_loss, rssm_loss_in_loop):
        value = loss(rssm, batch, noise)
        gradients.append((value, *torch.autograd.grad(value, list(nets.parameters()))))
    torch.testing.assert_close(*gradients)


def test_reset_cuts_the_sequence(parts, batch):
    """After a reset at t = 3, nothing before it changes the rest; without the flag it does."""
    _, rssm = parts
    noise = gumbel()
    changed = Batch(batch.image.clone(), batch.reward, batch.action.clone(), batch.first)
    changed.image[1, :3] += 5.0
    changed.action[1, :3] += 1.0

    def tail(batch, first):
        one = Batch(batch.image[1:2], batch.reward[1:2], batch.action[1:2], first[1:2])
        cut = Batch(*(x[:, :3] for x in (one.image, one.reward, one.action, one.first)))
        return rssm_loss(rssm, one, noise[1:2]) - rssm_loss(rssm, cut, noise[1:2, :3])

    torch.testing.assert_close(tail(batch, batch.first), tail(changed, batch.first))
    open_first = batch.first.clone()
    open_first[1, 3] = 0
    assert (tail(batch, open_first) - tail(changed, open_first)).abs() > 1e-3


def test_classes_agree_with_torch_distributions():
    logits, other = torch.randn(B, G, K).double(), torch.randn(B, G, K).double()
    q, p = log_mix(logits, 0.01), log_mix(other, 0.01)
    probs = 0.99 * logits.softmax(-1) + 0.01 / K
    expected = td.kl_divergence(td.Categorical(probs), td.Categorical(logits=p)).sum(-1)
    torch.testing.assert_close(kl_classes(q, p), expected)


def test_draws_follow_the_probabilities_and_pass_their_gradient():
    logits = torch.tensor([0.3, -1.0, 0.7, 0.0]).double().requires_grad_()
    log_probs = log_mix(logits, 0.01)
    noise = td.Gumbel(0.0, 1.0).sample((20_000, 4)).double()
    sample = draw(log_probs.expand(20_000, 4), noise)
    # Four standard errors of a frequency over 20,000 draws are at most 0.0142.
    torch.testing.assert_close(sample.mean(0), log_probs.exp(), atol=0.0142, rtol=0)
    weights = torch.randn(4).double()
    (got,) = torch.autograd.grad((draw(log_probs, noise[0]) * weights).sum(), logits, retain_graph=True)
    (expected,) = torch.autograd.grad((log_probs.exp() * weights).sum(), logits)
    torch.testing.assert_close(got, expected)


def test_two_hot_on_a_bin_is_plain_cross_entropy_and_halfway_is_the_mean_of_two():
    logits = torch.randn(3, BINS).double()
    y = torch.linspace(-20, 20, BINS).double()
    bins = y.sign() * y.abs().expm1()
    value = torch.stack([bins[5], (bins[5] + bins[6]) / 2, bins[-1] * 2])
    log_probs = logits.log_softmax(-1)
    expected = torch.stack([-log_probs[0, 5], -(log_probs[1, 5] + log_probs[1, 6]) / 2, -log_probs[2, -1]])
    torch.testing.assert_close(two_hot_nll(logits, value), expected)
