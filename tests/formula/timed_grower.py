"""Random specifications over time: carries, lags, resets, masks, ends, burn-in, initial values, iterations inside."""

import torch

from tests.formula.soil import Whole
from tests.formula.spec import Batch, Clock, Det, Draw, Logp, Op, Var, base
from tests.formula.spec_grower import Grown, Latent, StaticGrower

CARRIES = ("h", "z", "c")
MACHINE_CARRIES = ("carry", "loc", "s", "flags", "T", "start", "value", "keep", "step")
READ = ("x", "y", "a")  # data that networks read
FLAGS = {"reset": ("first", "restart", "keep"), "mask": ("valid", "mask", "t"), "until": ("end", "last", "until")}


class TimedGrower(StaticGrower):
    """Formulas under a Sum or Mean over t."""

    suffix = "_t"

    def vocabulary(self, taken=()):
        """A world of what goes from step to step; and what is drawn inside a step, or once per call."""
        names = [self.rng.choice(MACHINE_CARRIES) if self.may("machine names") else n for n in CARRIES]
        names = [n if names.count(n) == 1 else c for n, c in zip(names, CARRIES, strict=True)]
        self.h, self.z, self.c = names
        self.world, self.seen = [], {}
        x, a = self.datum("x_t"), self.datum("a_t")
        self.encoder(x)
        self.core(a)
        kind = self.rng.choice(("real", "real", "hot", "none"))
        if kind != "none":
            reads = [(n, s) for n, (s, _) in self.seen.items() if self.rng.random() < 0.7] or [(x, 3)]
            family, event = ("Normal", (2,)) if kind == "real" else ("OneHot", (3,))
            if kind == "real" and self.rng.random() < 0.3:
                reads.append((self.past(self.z), 2))
            q = self.dist(family, "q", f"{self.z}_t", event, tuple(n for n, _ in reads), tuple(s for _, s in reads))
            self.world.append(q)
            self.seen[f"{self.z}_t"] = (event[0], "real" if kind == "real" else "hot")
        found = super().vocabulary((self.h, self.z, self.c, *sum(FLAGS.values(), ())))
        found = found[:2] + found[4:]
        once = self.dist("Normal", "q", "g", (2,), (self.datum("o"),), (2,))
        return [*found, Latent((once,), (("g", 2, "real"),), (None,))]

    @staticmethod
    def past(name):
        return f"{name}_{{t-1}}"

    def encoder(self, x):
        """e_t of x_t, or of the whole series."""
        if self.rng.random() < 0.3:
            head = self.net(Whole(3, 2))
            self.world.append(Det("birnn", ("e_t",), ("x_{1:T}",), head, ((2,),)))
        else:
            self.world.append(self.det(("e_t",), (x,), (3,)))
        self.seen["e_t"] = (2, "real")

    def core(self, a):
        """h_t from its past, perhaps with a second output, the past draw (if there is one) and the past action."""
        two = self.rng.random() < 0.3
        reads = [(self.past(self.h), 2)] + ([(self.past(self.c), 2)] if two else [])
        reads += [(self.past("a"), 1)] if self.rng.random() < 0.5 else [("e_t", 2)]
        names = (f"{self.h}_t", f"{self.c}_t") if two else (f"{self.h}_t",)
        self.world.append(self.det(names, tuple(n for n, _ in reads), tuple(s for _, s in reads)))
        self.seen |= dict.fromkeys(names, (2, "real"))

    def leaf(self, scope):
        if self.flags and self.may("flags read as data"):
            return Var(f"{self.rng.choice(self.flags)}_t")
        if self.rng.random() < 0.15:
            return self.lagged()
        return super().leaf(scope)

    def lagged(self):
        """log p(y_t|x_{t-1}): data of the step before."""
        self.datum("x_t")
        p = self.dist("Normal", "p", self.datum("y_t"), (2,), ("x_{t-1}", "e_t"), (3, 2))
        return Logp((p,))

    def clock(self):
        """Flags of any kind, the burn-in, and first values."""
        found = {}
        for kind, words in FLAGS.items():
            # A flag that is read cannot be told from a variable of its name: that is refused.
            names = [n for n in words if "flags read as data" not in self.chosen or n not in (self.h, self.z, self.c)]
            if self.rng.random() < 0.35:
                name = self.rng.choice(names) if self.may("machine names") else names[0]
                raw = self.randn(self.batch, self.steps) > (0.3 if kind != "mask" else -0.5)
                raw = raw.double() if self.rng.random() < 0.5 or "flags read as data" in self.chosen else raw
                if kind == "mask" and self.may("soft masks", 1.0):
                    raw = raw * self.randn(self.batch, self.steps).sigmoid()
                self.materials.data[name], found[kind] = raw, name
        found["burn_in"] = self.rng.choice((0, 0, 0, 1))
        if self.rng.random() < 0.3:
            carried = [base(v) for d in self.world if isinstance(d, Det) for v in d.variables[:1] if base(v) == self.h]
            if len(self.world[1].variables) > 1 and self.may("initial of a second output", 1.0):
                carried = [self.c]
            found["initial"] = tuple((n, self.tensor(self.randn(2))) for n in carried)
        return found

    def grown(self, depth=2):
        self.flags, self.outer = (), set(self.seen)
        clock = self.clock()
        self.flags = [clock[k] for k in FLAGS if k in clock]
        step = Draw(tuple(self.world), self.grow(depth, dict(self.seen)))
        node = Clock(self.rng.choice(("sum", "mean")), step, **clock)
        if self.rng.random() < 0.2:
            last = self.dist("Normal", "p", self.datum("o"), (2,), (f"{self.h}_T",), (2,))
            node = Op("-", node, Logp((last,)))
        elif self.may("history", 1.0):
            last = self.dist("Normal", "p", self.datum("o"), (2,), (f"{self.h}_{{1:T}}",), (2 * self.steps,))
            node = Op("-", node, Logp((last,)))
        how = self.rng.choice((None, "mean", "sum"))
        node = Batch(how, node) if how else node
        if self.may("missing rows", 1.0):
            self.lose_rows(node)
        whole = any(isinstance(net, Whole) for net in self.materials.nets.values())
        if "mask" in clock and not whole and self.may("NaN behind masks", 1.0):
            self.pad(clock["mask"])
        return Grown(node, self.materials, frozenset(self.used), self.batch, self.steps, self.reached)

    def pad(self, mask):
        """Sequences of unequal length, with NaN behind their ends; the mask says where they end."""
        lengths = torch.tensor([self.rng.randrange(1, self.steps + 1) for _ in range(self.batch)])
        valid = torch.arange(self.steps) < lengths[:, None]
        self.materials.data[mask] = valid.to(self.materials.data[mask].dtype)
        for key, value in self.materials.data.items():
            if value.is_floating_point() and value.ndim == 3:
                self.materials.dirty[key] = value.where(valid[:, :, None], float("nan"))
                if (
                    key in READ
                ):  # what follows from it is not counted, but h_T and h_{1:T} may be read: zeros are carried
                    self.materials.data[key] = value.where(valid[:, :, None], 0.0)
