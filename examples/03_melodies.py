"""A world that attends to its past: every sequence repeats a melody of its own, and the dream goes on with it.

python examples/03_melodies.py
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from worldformula import Deterministic, E, OneHot, Sum, World, log
from worldformula.nets.transformer import CausalTransformer
from worldformula.training.fit import fit

NOTES, LENGTH = 8, 4


def melodies(count: int) -> Tensor:
    """Four notes, four times over: [count, 16]."""
    return torch.randint(NOTES, (count, LENGTH)).repeat(1, 4)


torch.manual_seed(0)
note = Deterministic("z_t = one_hot(x_t)", lambda x: F.one_hot(x, NOTES).float(), shape=NOTES)
attend = CausalTransformer(NOTES, NOTES, width=32, heads=2, layers=1)
prior = OneHot("p(z_t|z_{<t})", attend, shape=NOTES)
loss = Sum("t", E(note, -log(prior))).mean()
world = World(prior=prior, posterior=note, heads=[], loss=loss)

fit(world.loss, {"x": melodies(2000)}, steps=400, batch=64, lr=3e-3)
print("one call for the whole series in training:")
print(next(line for line in loss.code.splitlines() if "flat(self." in line).strip())

heard = melodies(200)
with torch.no_grad():
    states = world.filter({"x": heard[:, :8]})  # two rounds of the melody
    dream = world.imagine(states.last(), horizon=8, deterministic=True)["z"][:, 1:].argmax(-1)
right = (dream == heard[:, 8:]).float().mean().item()
print(f"heard {heard[0, :8].tolist()}, dreamt {dream[0].tolist()}")
print(f"notes that are right: {right:.3f}, by chance {1 / NOTES:.3f}")
