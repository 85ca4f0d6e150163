"""Messages between mixtures: against torch.distributions, Bayes' rule by hand, and permuted labels."""

import pytest
import torch

from worldformula.training.messages import (
    Gaussians,
    Topics,
    expect,
    far_apart,
    gaussians,
    maximise,
    restarted,
    topics,
    translated,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def separate(count=300, classes=3):
    y = torch.arange(count) % classes
    return torch.randn(count, 2) + 8.0 * torch.eye(classes)[y][:, :2] - 8.0 * (y == 2)[:, None], y


def test_evidence_of_gaussians_equals_torch():
    square = torch.randn(3, 2, 2)
    factor = torch.linalg.cholesky(square @ square.mT + torch.eye(2))
    module = Gaussians(torch.zeros(3), torch.randn(3, 2), factor)
    z = torch.randn(5, 2)
    theirs = torch.distributions.MultivariateNormal(module.mean, scale_tril=factor).log_prob(z[:, None])
    torch.testing.assert_close(module.evidence(z), theirs)


def test_evidence_of_topics_equals_torch_up_to_the_coefficient():
    words = torch.rand(3, 4).log_softmax(-1)
    counts = torch.tensor([[2.0, 0.0, 1.0, 0.0]])
    theirs = torch.distributions.Multinomial(3, logits=words).log_prob(counts) - torch.tensor(3.0).log()
    torch.testing.assert_close(Topics(torch.zeros(3), words).evidence(counts)[0], theirs)


def test_a_message_multiplies_what_is_known():
    module = Topics(torch.tensor([0.7, 0.3]).log(), torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log())
    message = torch.tensor([[0.1, 0.9]]).log()
    weights = torch.tensor([0.7 * 0.9 * 0.1, 0.3 * 0.2 * 0.9])
    found = expect(module, torch.tensor([[1.0, 0.0]]), message).exp()
    torch.testing.assert_close(found[0], weights / weights.sum())


def test_em_finds_separate_clusters_and_raises_the_likelihood():
    z, y = separate()
    module = restarted(gaussians, z, 3, times=3)
    found = expect(module, z).argmax(-1)
    assert all(len(found[y == k].unique()) == 1 for k in range(3))
    assert len(found.unique()) == 3
    start = far_apart(z, 3)
    assert start.sum(-1).eq(1).all()
    scores, random = [], torch.randn(300, 3, generator=torch.Generator().manual_seed(1)).softmax(-1)
    for times in (0, 3, 20):
        other = maximise(gaussians, z, random, times=times)
        scores.append((other.weight + other.evidence(z)).logsumexp(-1).mean().item())
    assert scores == sorted(scores)


def test_a_message_moves_em_to_the_labels_that_it_names():
    """Two words that both classes use: only the message tells the topics apart."""
    y = torch.arange(200) % 2
    counts = torch.eye(2)[torch.randint(2, (200,))]
    message = torch.where(y[:, None] == torch.arange(2), 0.9, 0.1).log()
    module = maximise(topics, counts, torch.full((200, 2), 0.5), message)
    assert (expect(module, counts, message).argmax(-1) == y).float().mean() > 0.95


def test_translation_knows_no_names_and_no_certainty():
    """Permuted labels translate back; a sender that is right two times in three is believed that much."""
    y = torch.arange(900) % 3
    order = torch.tensor([2, 0, 1])
    said = torch.where(torch.eye(3).bool()[order[y]], 0.98, 0.01).log()
    ours = torch.where(torch.eye(3).bool()[y], 0.98, 0.01).log()
    message = translated(said, ours)
    assert (message.argmax(-1) == y).all()
    torch.testing.assert_close(message.exp().sum(-1), torch.ones(900))
    wrong = torch.rand(900) < 1 / 3
    noisy = torch.where(wrong[:, None], said.roll(1, 0), said)
    believed = translated(noisy, ours).exp().max(-1).values.mean().item()
    assert 0.55 < believed < 0.8


def test_a_sender_that_knows_nothing_says_nothing():
    ours = torch.where(torch.eye(3).bool()[torch.arange(900) % 3], 0.98, 0.01).log()
    message = translated(torch.full((900, 3), 1 / 3).log(), ours)
    torch.testing.assert_close(message.exp(), torch.full((900, 3), 1 / 3), atol=0.01, rtol=0)
