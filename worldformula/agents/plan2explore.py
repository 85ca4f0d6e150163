r"""Plan2Explore (Sekar, Rybkin, Daniilidis, Abbeel, Hafner & Pathak 2020, ICML; arXiv:2005.05960).

    world      DreamerV3's                                                            worlds/rssm.py
    members    −Σ_k log p_k(e'|h,z,a), K one-step predictors of the next embedding    learners/curiosity
    bonus      the variance of their means: what the data leave open, before anybody goes there
    policy     actor and critic in dreams, whose reward is the bonus of each step     learners/imagination

It explores without a reward, which its world predicts all the same. So the same world serves a task afterwards, in two
ways: ``agent.configure(Configuration(weights={"reward": 1.0, "disagreement": 0.0}))`` and further updates on its
replay, or a run that begins with these weights:

    worldformula train plan2explore --env ENV --run runs/explore
    worldformula train plan2explore --env ENV --run runs/task --init runs/explore \
        --set agent.curiosity.reward=1 --set agent.curiosity.bonus=0

Deviations      paper                 authors' later code    here                    why
base            Dreamer v1's world    Dreamer v2             DreamerV3               one world model to maintain
target          next embedding        next z                 `paper` e, `official` z as each of them
members         –, 2 layers           10 of 4 × 400          as the latter           the paper's are not known
bonus           variance              standard deviation     variance, 1 on average  returns are scaled down, never up
policies        two, the task's too   two                    one, configured anew    weights of the cost are data
what it shapes  policy alone          policy alone           policy alone            DreamerV3's replayed values reach
                                                                                     its world; see cards/plan2explore
`tiny`          –                     –                      5 of 2 × 64, e          two CPU cores
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from worldformula import catalogue
from worldformula.catalogue import System
from worldformula.envs.actions import ActionSpec
from worldformula.envs.columns import Column
from worldformula.learners.curiosity import CuriositySettings

BASE = "dreamer_v3"
EXPLORING = CuriositySettings("disagreement", reward=0.0)


def configured(preset: str, **changes: Any) -> Any:
    """DreamerV3's settings with a policy that learns by disagreement alone, and these changes of it.

    No value is learnt on replayed steps: its gradients would move the world by a bonus that is another one tomorrow.
    """
    found = catalogue.find(BASE).sizes(preset)
    return replace(found, curiosity=replace(EXPLORING, **changes), replay_value=0.0)


def paper() -> Any:
    """12M parameters of DreamerV3; the members predict embeddings."""
    return configured("paper")


def official() -> Any:
    """As the authors' later code: the members predict the next z."""
    return configured("paper", target="latent")


def tiny() -> Any:
    """DreamerV3's `tiny`, and five small members."""
    return configured("tiny", members=5, units=64, layers=2)


def build(
    config: Any, columns: Mapping[str, Column], actions: ActionSpec | Mapping[str, ActionSpec], seed: int = 0
) -> Any:
    """The agent for these observations (key -> column) and actions: `ActionSpec` by name, or the only one."""
    return catalogue.find(BASE).build(config, columns, actions, seed)


SYSTEM = System(
    name="plan2explore",
    kind="agents",
    paper="Sekar, Rybkin, Daniilidis, Abbeel, Hafner & Pathak 2020, ICML; arXiv:2005.05960",
    bibtex="""@inproceedings{sekar2020plan2explore, title={Planning to explore via self-supervised world models},
  author={Sekar, Ramanan and Rybkin, Oleh and Daniilidis, Kostas and Abbeel, Pieter and Hafner, Danijar and
  Pathak, Deepak}, booktitle={ICML}, year={2020}}""",
    presets={"paper": paper, "official": official, "tiny": tiny},
    build=build,
    summary="Explores without a reward, towards steps of dreams on whose outcome an ensemble disagrees.",
)
