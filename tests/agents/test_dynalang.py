"""Dynalang: DreamerV3 with a column of words, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from worldformula.agents import dreamer_v3, dynalang
from worldformula.envs import ActionSpec, Column, Envs
from worldformula.errors import ConfigError, SpaceError
from worldformula.nets.sizes import Sizes
from worldformula.testing import check_agent
from worldformula.worlds import rssm

B, T, V = 3, 6, 5
BODY, WORD = (
    {"body": Column("vector", (4,), "float32")},
    {"token": Column("discrete", (), "int64", 0, V - 1, (V,), (0,))},
)
CHOICE = ActionSpec("discrete", 3)
SIZES = Sizes(deter=16, hidden=8, classes=4, groups=3, blocks=1, depth=2, units=8)
SMALL = replace(
    dynalang.tiny(), world=replace(dynalang.tiny().world, sizes=SIZES), batch=B, length=T, imag_last=3, imagine=3,
    context=0, prefill=0,
)  # fmt: skip


@pytest.mark.parametrize("env", ["home_dynamics", "home_corrections", "lang_room_mini"])
def test_it_keeps_the_contract_where_there_are_words(env):
    envs = Envs(env, 2, seed=0)
    check_agent(dynalang.build(SMALL, envs.observations, envs.actions), envs, turns=12)


def test_a_word_that_never_changes_leaves_the_loss_what_it_is_but_for_its_own_term():
    """The same weights elsewhere, and no weight from the word into the encoder: every other term is equal."""
    torch.manual_seed(0)
    config = SMALL.world
    plain = rssm.build(config, {"body": (4,)}, 3)
    reads = rssm.build(config, {"body": (4,), "token": (V,)}, 3, {"token": (V,)})
    own, other = dict(plain.named_parameters()), dict(reads.named_parameters())
    kept = {}
    for name, p in other.items():
        source = own.get(name)
        if source is not None and source.shape == p.shape:
            kept[name] = source
    with torch.no_grad():
        for name, p in kept.items():
            other[name].copy_(p)
    shared = ("f", "p_z_given_h", "q_z_given_h_e", "p_r_given_h_z", "p_c_given_h_z")
    assert all(any(n.startswith(f + ".") for n in kept) for f in shared)
    enc, alone = reads.enc.vector, plain.enc.vector
    first, lone = (
        next(m for m in enc.modules() if isinstance(m, torch.nn.Linear)),
        next(m for m in alone.modules() if isinstance(m, torch.nn.Linear)),
    )
    assert first.weight.shape == (8, 4 + V)
    with torch.no_grad():
        first.weight[:, :4].copy_(lone.weight)
        first.weight[:, 4:].zero_()
    g = torch.Generator().manual_seed(1)
    body = torch.randn(B, T, 4, generator=g)
    word = torch.nn.functional.one_hot(torch.full((B, T), 2), V).float()
    rest = {
        "a": torch.nn.functional.one_hot(torch.randint(3, (B, T), generator=g), 3).float(),
        "r": torch.randn(B, T, generator=g), "c": torch.ones(B, T), "first": torch.arange(T).expand(B, T) == 0,
    }  # fmt: skip
    noise = plain.loss.noise(x=body, **rest, generator=torch.Generator().manual_seed(2))
    without, with_ = plain.loss(x=body, **rest, noise=noise), reads.loss(body=body, token=word, **rest, noise=noise)
    for term in ("KL(sg(q(z_t|h_t,e_t)) ‖ p(z_t|h_t))", "log p(r_t|h_t,z_t)", "log p(c_t|h_t,z_t)"):
        torch.testing.assert_close(without.terms[term], with_.terms[term])
    said = [term for term in with_.terms if "token" in term]
    assert len(said) == 1


def test_what_it_is_made_of_is_dreamer_v3():
    columns = {**BODY, **WORD}
    agent, base = dynalang.build(SMALL, columns, CHOICE), dreamer_v3.build(SMALL, columns, CHOICE)
    assert {n: p.shape for n, p in agent.named_parameters()} == {n: p.shape for n, p in base.named_parameters()}
    assert repr(agent.loss) == repr(base.loss)
    assert (SMALL.world.dynamics, SMALL.world.representation) == (0.5, 0.1)


def test_rows_without_words_are_refused():
    with pytest.raises(SpaceError, match=r"one whole number.+\n.*dreamer_v3"):
        dynalang.build(SMALL, BODY, CHOICE)
    vectors = {**BODY, "token": Column("vector", (8,), "float32")}
    assert np.isfinite(sum(p.sum().item() for p in dynalang.build(SMALL, vectors, CHOICE).parameters()))


@pytest.mark.parametrize("direction", ["policy", "words"])
def test_what_is_said_is_kept_near_to_the_word_that_is_expected_next(direction):
    """The divergence by hand: of each state the policy's words and those of the head at the state behind it."""
    envs = Envs("lang_room_mini", 2, seed=0)
    agent = dynalang.build(replace(SMALL, talk="talk=token", talk_direction=direction), envs.observations, envs.actions)
    learner, act = agent.learner, next(a for a in agent.perception.acts if a.action == "talk")
    policy = next(f for f in learner.policy.factors if f.variable.key == act.variable)
    torch.nn.init.normal_(policy.net.mlp.head.weight)
    dream, reward, going = agent.dream(agent.world.initial(4), torch.Generator().manual_seed(0))
    out = learner.dream(**learner.dreamed(dream, dream, reward, going))
    head = agent.world.heads["k_1"]
    logits = head.net(dream["h"].flatten(0, 1), dream["z"].flatten(0, 1)).view(4, -1, act.size)
    said = policy.params(dream["h"].flatten(0, 1), dream["z"].flatten(0, 1))[0].view(4, -1, act.size).log_softmax(-1)
    ahead = logits.log_softmax(-1)[:, 1:]
    first, second = (said[:, :-1], ahead) if direction == "policy" else (ahead, said[:, :-1])
    wanted = (first.exp() * (first - second)).sum(-1)
    title = next(term for term in out.terms if term.startswith("KL(") and "ρ" in term)
    torch.testing.assert_close(out.steps[title][:, :-1], wanted, rtol=1e-3, atol=1e-4)
    assert f"H[{policy}]" not in out.terms
    assert sum("H[" in term for term in out.terms) == 1  # that of the moves
    out.value["actor"].backward()
    assert all(p.grad is None for p in agent.world.parameters())
    agent.update(envs_rows(envs))


def test_what_is_said_weighs_as_much_as_is_asked():
    """The loss of the actor is linear in the weight: three losses, of 1, 2 and 4, lie on a line that is not flat."""
    envs, found = Envs("lang_room_mini", 2, seed=0), []
    for weight in (1.0, 2.0, 4.0):
        config = replace(SMALL, talk="talk=token", talk_weight=weight)
        agent = dynalang.build(config, envs.observations, envs.actions, 3)
        dream, reward, going = agent.dream(agent.world.initial(4), torch.Generator().manual_seed(0))
        out = agent.learner.dream(**agent.learner.dreamed(dream, dream, reward, going))
        found.append(out.value["actor"].item())
    first, second, third = found
    assert second - first > 1e-6
    assert third - second == pytest.approx(2 * (second - first), rel=1e-3)
    with pytest.raises(ConfigError, match=r"above 0, got -1\.0"):
        dynalang.build(replace(config, talk_weight=-1.0), envs.observations, envs.actions)


def test_a_dream_goes_on_from_what_is_done_and_from_what_is_said():
    """Of three dreams from one state under one noise, two differ from the first in one of both actions alone."""
    envs = Envs("lang_room_mini", 1, seed=0)
    agent = dynalang.build(SMALL, envs.observations, envs.actions)
    sizes = {act.variable: act.size for act in agent.perception.acts}
    assert sorted(sizes.values()) == [5, 11]
    acts = {name: torch.eye(size)[[0]][None] for name, size in sizes.items()}
    start = agent.world.initial(1)
    first = agent.world.imagine(start, actions=acts, seed=1)["h"][0, 1]
    for name, size in sizes.items():
        other = {**acts, name: torch.eye(size)[[1]][None]}
        assert not torch.allclose(agent.world.imagine(start, actions=other, seed=1)["h"][0, 1], first, atol=1e-4)


def envs_rows(envs):
    rng = np.random.default_rng(0)
    found = {k: rng.integers(0, 2, (B, T, *c.shape)).astype(c.dtype) for k, c in envs.observations.items()}
    found |= {
        f"action/{name}": np.stack([spec.random(rng, T) for _ in range(B)]) for name, spec in envs.actions.items()
    }
    flags = {k: np.zeros((B, T), bool) for k in ("is_first", "is_last", "is_terminal")}
    flags["is_first"][:, 0] = True
    return found | flags | {"reward": rng.normal(size=(B, T)).astype(np.float32)}


@pytest.mark.parametrize("talk", ["talk", "say=token", "talk=word", "move=token"])
def test_other_words_are_refused(talk):
    envs = Envs("lang_room_mini", 1, seed=0)
    with pytest.raises(ConfigError, match="action=column"):
        dynalang.build(replace(SMALL, talk=talk), envs.observations, envs.actions)


@pytest.mark.parametrize("wrong", [V, -1, 2.5])
def test_a_word_that_is_none_is_told_when_it_is_learnt_from_and_when_it_is_read(wrong):
    columns = {**BODY, **WORD}
    agent = dynalang.build(SMALL, columns, CHOICE)
    rng = np.random.default_rng(0)
    rows = {
        "body": rng.normal(size=(B, T, 4)).astype(np.float32), "token": rng.integers(0, V, (B, T)),
        "action": rng.integers(0, 3, (B, T)), "reward": np.zeros((B, T), np.float32),
        **{flag: np.zeros((B, T), bool) for flag in ("is_first", "is_last", "is_terminal")},
    }  # fmt: skip
    agent.update(rows)
    rows["token"] = rows["token"].astype(type(wrong))
    rows["token"][1, 2] = wrong
    with pytest.raises(SpaceError, match=f"^token names one of {V} classes: expected whole numbers from 0 to {V - 1}"):
        agent.update(rows)
    with pytest.raises(SpaceError, match="^token names one of"):
        agent.act({key: column[:, 2] for key, column in rows.items()}, agent.initial(B))
    rows["token"], rows["action"][0, 0] = rng.integers(0, V, (B, T)), 3
    with pytest.raises(SpaceError, match="^action names one of 3 classes: expected whole numbers from 0 to 2"):
        agent.update(rows)


def test_a_world_that_expects_no_words_keeps_no_talk_near_to_them():
    envs = Envs("lang_room_mini", 1, seed=0)
    world = replace(SMALL.world, target="none")
    with pytest.raises(ConfigError, match="expected world.target=reconstruction, got none"):
        dynalang.build(replace(SMALL, talk="talk=token", world=world), envs.observations, envs.actions)


def test_the_next_embedding_is_foretold_from_two_actions():
    envs = Envs("lang_room_mini", 2, seed=0)
    config = replace(SMALL, world=replace(SMALL.world, target="next"))
    agent = dynalang.build(config, envs.observations, envs.actions)
    assert "a_{1,<t}" in repr(agent.loss)
    assert all(np.isfinite(value.item()) for value in agent.update(envs_rows(envs)).values())


def test_the_paper_s_widths_make_its_number_of_weights_and_ours_without_what_is_told_to_be_left_out():
    """281 M in the paper: dense layers, four 4 × 4 kernels, five layers a head, 32 100 ids. Millions of each part."""
    h, units, z, ids, words, actions = 4096, 1024, 1024, 32_100, 41, 10
    feature, hidden = h + z, 4 * units**2
    kernels = 16 * (3 * 96 + 96 * 192 + 192 * 384 + 384 * 768)
    head = feature * units + hidden
    theirs = {
        "core": (z + actions) * units + (h + units) * 3 * h,
        "prior": h * units + units * z,
        "posterior": (h + 4 * 4 * 768 + units) * units + units * z,
        "enc.image": kernels,
        "enc.vector": ids * units + hidden,
        "image": feature * 4 * 4 * 768 + kernels,
        "token": head + units * ids,
        "reward, continue": 2 * head + 256 * units,
        "actor, critic": 2 * head + (actions + 255) * units,
    }
    assert sum(theirs.values()) == pytest.approx(281e6, rel=2e-3)
    columns = {
        "image": Column("image", (64, 64, 3), "uint8", 0, 255),
        "token": Column("discrete", (), "int64", 0, words - 1, (words,), (0,)),
    }
    with torch.device("meta"):
        agent = dynalang.build(dynalang.paper(), columns, ActionSpec("discrete", actions, classes=(actions,)))
    names = {
        "world.f.": "core", "world.p_z_given_h.": "prior", "world.q_z_given_h_e.": "posterior",
        "world.enc.image.": "enc.image", "world.enc.vector.": "enc.vector", "world.p_image_given_h_z.": "image",
        "world.p_token_given_h_z.": "token", "world.p_r_given_h_z.": "reward, continue",
        "world.p_c_given_h_z.": "reward, continue", "policy.": "actor, critic", "learner.critic.": "actor, critic",
    }  # fmt: skip
    ours = dict.fromkeys(theirs, 0)
    for name, p in agent.named_parameters():
        if p.requires_grad:
            ours[next(part for start, part in names.items() if name.startswith(start))] += p.numel()
    assert round(sum(ours.values()) / 1e6) == 140
    fewer = {part: (theirs[part] - ours[part]) / 1e6 for part in theirs}
    assert fewer["enc.vector"] + fewer["token"] == pytest.approx(69.8, abs=0.05)
    for part, told in (("core", 37.7), ("image", 25.8), ("reward, continue", 8.4), ("prior", -1.1)):
        assert fewer[part] == pytest.approx(told, abs=0.05), part
    for part in ("enc.image", "posterior", "actor, critic"):
        assert fewer[part] == pytest.approx(0, abs=0.05), part
