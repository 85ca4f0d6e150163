"""Formulas of half-precision networks, tensors and data: what is summed is summed in float32 at least.

The witness takes what the networks say, in their precision, and counts in float64. Nothing is drawn here, so that
library and witness agree to the precision of float32.
"""

import torch

from tests.formula.build import Builder
from tests.formula.examine import Fault, call_of, double, line
from tests.formula.soil import B, Join, Soil
from tests.formula.spec import Batch, Dist, Ent, Gap, Logp, Materials, Minus, Op
from tests.formula.spec_grower import Grown
from tests.formula.witness import Witness

RELATIVE = 2e-5


class Loud(Join):
    """A head whose numbers are large, as those of an untrained network on unscaled data may be."""

    def forward(self, *inputs):
        return 400 * super().forward(*inputs)


class HalfGrower(Soil):
    """Densities and divergences of events of 2 to 784 elements, by heads in half precision."""

    def __init__(self, seed):
        super().__init__(seed, ())
        self.kind = self.rng.choice((torch.bfloat16, torch.float16))
        self.size = self.rng.choice((2, 50, 784))
        raw = self.randn(B, self.size)
        self.materials.data |= {"x": self.randn(B, 3), "y": raw, "v": (raw > 0).double(), "f": raw.sigmoid()}

    def head(self, width, loud=False):
        return self.net((Loud if loud else Join)(3, width))

    def term(self):
        match self.rng.randrange(5):
            case 0:
                return Logp((Dist("Bernoulli", self.key("p_"), "v", (self.size,), ("x",), self.head(self.size)),))
            case 1:
                family = self.rng.choice(("Normal", "Laplace"))
                return Logp((Dist(family, self.key("p_"), "y", (self.size,), ("x",), self.head(2 * self.size)),))
            case 2:
                given = (("scale", 0.5),)
                return Logp((Dist("Normal", self.key("p_"), "y", (self.size,), ("x",), self.head(self.size), given),))
            case 3:
                return Ent(Dist("Normal", self.key("q_"), "z", (self.size,), ("x",), self.head(2 * self.size)))
        loud = self.rng.random() < 0.3
        q = Dist("Normal", self.key("q_"), "z", (self.size,), ("x",), self.head(2 * self.size, loud))
        scale = ("scale", round(self.rng.uniform(0.5, 2), 2))
        own = Dist("Normal", self.key("p_"), "z", (self.size,), ("x",), self.head(2 * self.size))
        standard = Dist("Normal", self.key("p_"), "z", (self.size,), (), "", self.rng.choice(((), (scale,))))
        return Gap("kl", q, own if self.rng.random() < 0.5 and not loud else standard)

    def grown(self):
        node = self.term()
        for _ in range(self.rng.randrange(3)):
            node = Op(self.rng.choice("+-"), node, self.term())
        node = self.rng.choice((node, Minus(node), Batch("mean", node)))
        halved = {k: v.to(self.kind) for k, v in self.materials.data.items()}
        nets = {k: net.to(self.kind) for k, net in self.materials.nets.items()}
        return Grown(node, Materials(nets, data=halved), frozenset(("half precision",)))


def examine_half(seed):
    """Emitted code and interpreter against the witness; raises `Fault`."""
    grown = HalfGrower(seed).grown()
    expression = Builder(grown.materials).expression(grown.node)
    call, shown = call_of(expression, grown), line(expression)
    with torch.no_grad():
        ours = {"emitted": expression(**call).value, "interpreted": expression.interpret(**call).value}
        with double():
            right = HalfWitness(grown).evaluate()
    if ours["emitted"].dtype != ours["interpreted"].dtype:
        raise Fault("half, dtype", f"{ours['emitted'].dtype} and {ours['interpreted'].dtype} of {shown}")
    for way, value in ours.items():
        size = right.abs().max() + 784
        if not torch.allclose(value.double(), right, rtol=RELATIVE, atol=RELATIVE * size.item()):
            raise Fault(f"half, {way}", f"{value.tolist()} for {right.tolist()} of {shown}")
    return expression


class HalfWitness(Witness):
    """What networks say, scales included, is in their own precision."""

    def __init__(self, grown):
        nets = {key: widened(net) for key, net in grown.materials.nets.items()}
        data = {key: value.double() for key, value in grown.materials.data.items()}
        self.kind = next(iter(grown.materials.data.values())).dtype
        super().__init__(grown.node, Materials(nets, data=data), {}, B)

    def positive(self, raw):
        return super().positive(raw.to(self.kind)).double()


def widened(net):
    """What a network says in its own precision, as float64."""
    kind = next(net.parameters()).dtype
    return lambda *inputs: net(*(v.to(kind) for v in inputs)).double()
