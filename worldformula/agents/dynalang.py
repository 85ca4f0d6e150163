"""Dynalang (Lin, Du, Watkins, Hafner, Abbeel, Klein & Dragan 2024, ICML; arXiv:2308.01399): a world model that reads.

    row       one picture and one word: x_t, k_t, a whole number; 0 where nothing is said       envs/speech.py
    world     h_t = f(h_{t-1}, z_{t-1}, a_{t-1}),  z_t ~ q(z_t|h_t,e_t),  e_t = enc(x_t, k_t)
              p(x_t, k_t, r_t, c_t | h_t, z_t),  0.5 KL(sg q ‖ p) + 0.1 KL(q ‖ sg p), one nat free
    behaviour actor and critic in dreams; where it speaks, a word is one more action             learners/imagination

Words are predicted as pictures are: they help as they tell what will be seen, earned, or possible. The agent is
DreamerV3, whose observations have a column of words; nothing else differs. Words are whole numbers of a vocabulary,
one-hots for the networks; vectors of a language model may stand in their place, as numbers. With ``--set
agent.world.aside=token`` its policy alone reads, which words were heard, for comparison. Its world learns words
from a text alone: ``worldformula fit dynalang --data text.txt --set data.env=ID``, which ``--init`` takes over.

Deviations            paper              official code    here                 why
base                  DreamerV3, 2023    the same         DreamerV3, 2025      one world model to maintain
optimisers            one a module       the same         one sum, LaProp      as DreamerV3
bottleneck of h       1024 (VLN)         the same         blocks               as DreamerV3
parameters, HomeGrid  281 M              the same         140 M at 64 pixels   see below
pre-training          128 × 512 tokens   the same         a line an episode    no marks of where a text ends
first state           learnt             the same         zeros                as DreamerV3
vocabulary            32 100 ids of T5   the same         that of the words    of 40 words that are said, the rest is
                                                                               weights that nothing moves
`tiny`                –                  –                small, faster rates  two CPU cores

The paper's widths with dense layers, 4 × 4 kernels of 96, 192, 384 and 768 channels, five layers in every head and
32 100 ids make 281.1 million weights. Here are 41 words, and three layers that read and one that tells them: 69.8
fewer; the core has blocks, 37.7 fewer, and so has the way into pictures, 25.8 fewer; reward and continuation have one
layer, 8.4 fewer; the prior has two, 1.1 more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from worldformula import catalogue
from worldformula.catalogue import System
from worldformula.envs.actions import ActionSpec
from worldformula.envs.columns import Column
from worldformula.errors import SpaceError
from worldformula.nets.sizes import Sizes

BASE = "dreamer_v3"
DOUBLING = {"stages": (1, 2, 4, 8), "style": "stride"}  # each stage of the image networks has twice the channels


def configured(preset: str, sizes: Sizes, world: Mapping[str, Any], **changes: Any) -> Any:
    """DreamerV3's settings with the paper's weights of the divergences, and these changes, of the world and others."""
    base = catalogue.find(BASE).sizes(preset)
    own = replace(base.world, sizes=sizes, dynamics=0.5, representation=0.1, **world)
    return replace(base, world=own, **changes)


def paper() -> Any:
    """HomeGrid's: 16 sequences of 256 rows, replay ratio 32, widths of 4096 and 1024."""
    sizes = Sizes(deter=4096, hidden=1024, classes=32, depth=96, units=1024, blocks=8)
    return configured("paper", sizes, DOUBLING, batch=16, length=256, train_ratio=32.0, lr=1e-4, layers=5)


def langroom() -> Any:
    """LangRoom's: 16 sequences of 64 rows, replay ratio 16, a recurrent state of 6144."""
    sizes = Sizes(deter=6144, hidden=2048, classes=32, depth=96, units=1024, blocks=8)
    return configured("paper", sizes, DOUBLING, batch=16, length=64, train_ratio=16.0, lr=1e-4, layers=5)


def tiny() -> Any:
    """On two CPU cores: DreamerV3's `tiny` with a wider state, which goes on from what the replay keeps."""
    sizes = Sizes(deter=256, hidden=64, classes=16, groups=16, blocks=1, depth=8, units=64)
    return configured("tiny", sizes, {"free_nats": 0.1}, batch=16, length=32, train_ratio=64.0, context=1)


def build(
    config: Any, columns: Mapping[str, Column], actions: ActionSpec | Mapping[str, ActionSpec], seed: int = 0
) -> Any:
    """The agent for these observations (key -> column) and actions: `ActionSpec` by name, or the only one.

    Raises:
        SpaceError: no observation is a word, a single whole number, or one a vector called ``token``.
    """
    words = [key for key, column in columns.items() if column.kind == "discrete" and not column.shape]
    if not words and "token" not in columns:
        told = ", ".join(f"{key} {column.kind} {list(column.shape)}" for key, column in columns.items())
        raise SpaceError(
            f"dynalang reads a word at each row: expected an observation that is one whole number, or a vector called "
            f"'token', got {told}\nwithout words it is dreamer_v3"
        )
    return catalogue.find(BASE).build(config, columns, actions, seed)


SYSTEM = System(
    name="dynalang",
    kind="agents",
    paper="Lin, Du, Watkins, Hafner, Abbeel, Klein & Dragan 2024, ICML; arXiv:2308.01399",
    bibtex="""@inproceedings{lin2024dynalang, title={Learning to model the world with language}, author={Lin, Jessy and
  Du, Yuqing and Watkins, Olivia and Hafner, Danijar and Abbeel, Pieter and Klein, Dan and Dragan, Anca},
  booktitle={ICML}, year={2024}}""",
    presets={"paper": paper, "langroom": langroom, "tiny": tiny},
    build=build,
    summary="DreamerV3 that reads a word at each row, and predicts words as it predicts pictures.",
    runs={"paper": ("env.num=66",), "langroom": ("env.num=4",)},
    reads={"token": Column("discrete", (), "int64", 0, 40, (41,), (0,))},
    env="home_dynamics",
)
