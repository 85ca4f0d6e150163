"""What random specifications grow on: data of every kind, and factors with parameters of every form.

A factor's parameters come as one head, as a dict, as numbers, tensors or an ``nn.Parameter``, under any of the names
that its family offers; tensors that no network computes have no batch axes.
"""

import functools
import random

import torch
from torch import nn

from tests.formula.spec import Det, Dist, Materials, base, index

B, T = 3, 4  # unless the grower chooses others: sizes that coincide hide axes that are mistaken for one another
FEATURES = (
    "unbatched parameters", "unbatched dict", "unbatched experts", "other names", "mixtures by other names",
    "machine names", "machine functions", "missing rows", "flags read as data", "NaN behind masks",
    "soft masks", "integer targets", "integer counts", "one-hot integers", "inner steps", "initial of a second output",
    "hidden modules", "long sums", "deep nests", "history", "experts", "experts of given scales", "unlike pairs",
    "numbers alone", "least energies",
)  # fmt: skip
# What is known to be wrong today, and stays out of the ordinary suite: features of the grower (above), oddities (by
# name, see `oddities`), and the rest; each has an xfail in `defects`. `python -m tests.formula.full --awaited` shows
# what each of them gives now. A name is taken out as its fault is mended; the suite then asks for it.
AWAITED: frozenset[str] = frozenset()
ORDINARY = ("z", "w", "u", "c", "b", "v'", r"\hat z", "theta")
MACHINE = (
    "s", "loc", "scale", "raw", "logits", "flags", "carry", "code", "program", "value", "formula", "T", "B", "t",
    "noise", "start", "rng", "torch", "F", "sum", "range", "present", "seed", "horizon", "node", "keep", "params",
)  # fmt: skip
FUNCTIONS = ("f", "g", "enc", "D")
MACHINE_FUNCTIONS = (
    "code", "program", "node", "forward", "noise", "train", "latex", "graph", "T", "type", "mean", "call",
)  # fmt: skip
SIZES = {"x": (3,), "y": (2,), "d": (), "v": (2,), "i": (), "k3": (3,), "n": (2,), "g": (2,), "f": (2,), "w3": (3,),
         "a": (1,), "o": (2,), "e": (2,)}  # fmt: skip
TARGETS = {  # what data may be scored by
    "y": ("Normal", "Normal", "Laplace", "StudentT", "MultivariateNormal", "LowRankNormal", "Mixture", "Mixture"),
    "v": ("Bernoulli", "Mixture"),
    "i": ("Categorical",), "k3": ("OneHot",), "n": ("Poisson", "NegativeBinomial"), "g": ("Gamma", "LogNormal"),
    "f": ("Beta", "Uniform", "TanhNormal", "TruncatedNormal"), "w3": ("Dirichlet",),
}  # fmt: skip
PARAMETERS = {
    "Normal": ("loc", "scale"), "Laplace": ("loc", "scale"), "StudentT": ("df", "loc", "scale"),
    "LogNormal": ("loc", "scale"), "Gamma": ("concentration", "rate"), "Beta": ("concentration1", "concentration0"),
    "Bernoulli": ("logits",), "Categorical": ("logits",), "OneHot": ("logits",), "Poisson": ("rate",),
    "NegativeBinomial": ("total_count", "logits"), "Uniform": ("low", "high"), "Dirichlet": ("concentration",),
    "MultivariateNormal": ("loc", "scale_tril"), "LowRankNormal": ("loc", "cov_factor", "cov_diag"),
    "VonMises": ("loc", "concentration"), "TanhNormal": ("loc", "scale"), "TruncatedNormal": ("loc", "scale"),
}  # fmt: skip
OTHER = {
    "Bernoulli": {"logits": "probs"}, "Categorical": {"logits": "probs"}, "OneHot": {"logits": "probs"},
    "NegativeBinomial": {"logits": "probs"}, "MultivariateNormal": {"scale_tril": "covariance_matrix"},
    "Beta": {"concentration1": "alpha", "concentration0": "beta"}, "Dirichlet": {"concentration": "alpha"},
}  # fmt: skip
FREE = ("loc", "logits")  # what may be learnt as it is
ABOVE_0 = (  # what may be learnt as `positive`
    "scale", "rate", "df", "total_count", "concentration", "concentration1", "concentration0", "alpha", "beta",
    "cov_diag",
)  # fmt: skip
HEADS = ("Normal", "Laplace", "Bernoulli", "OneHot", "Categorical")  # whose head needs no convention of the library


class Join(nn.Module):
    """A linear layer on its concatenated inputs, and tanh; shaped, and then cut, as parameters by name need it."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs).double()

    def forward(self, *inputs):
        return 1.5 * self.linear(torch.cat([v.flatten(1).to(self.linear.weight.dtype) for v in inputs], -1)).tanh()


class Whole(Join):
    """The same on a whole series [B, T, ...], looking at all of it."""

    def forward(self, *inputs):
        x = torch.cat(inputs, -1).to(self.linear.weight.dtype)
        return self.linear(x + x.mean(1, keepdim=True)).tanh()


class Named(nn.Module):
    """Parameters by name: those of ``free`` have no batch axes."""

    def __init__(self, inputs, family, names, event, classes, free):
        super().__init__()
        self.family, self.names, self.event, self.classes = family, names, event, classes
        self.nets = nn.ModuleDict({n: Join(inputs, width(family, n, event)) for n in names if n not in free})
        self.free = nn.ParameterDict({n: nn.Parameter(torch.randn(width(family, n, event)).double()) for n in free})

    def forward(self, *inputs):
        rows = {n: self.nets[n](*inputs) if n in self.nets else self.free[n] for n in self.names}
        if not self.event and self.family != "Categorical":
            rows = {n: raw[..., 0] for n, raw in rows.items()}
        return {n: proper(self.family, n, raw, self.event) for n, raw in rows.items()}


class Mixed(nn.Module):
    """Parameters of two components by name, and perhaps their weights: those of ``free`` have no batch axes."""

    def __init__(self, inputs, family, names, event, free):
        super().__init__()
        self.family, self.names, self.event = family, names, event
        sizes = {n: () if n == "weights" else (width(family, n, event),) for n in names}
        self.sizes = {n: (2, *s) for n, s in sizes.items()}
        self.nets = nn.ModuleDict({n: Join(inputs, 2 * sum(sizes[n] or (1,))) for n in names if n not in free})
        self.free = nn.ParameterDict({n: nn.Parameter(torch.randn(self.sizes[n]).double()) for n in free})

    def forward(self, *inputs):
        rows = {n: self.nets[n](*inputs).unflatten(-1, self.sizes[n]) if n in self.nets else self.free[n]
                for n in self.names}  # fmt: skip
        return {n: proper(self.family, n, raw, self.event) for n, raw in rows.items()}


class Pair(nn.Module):
    """Two outputs."""

    def __init__(self, inputs, size):
        super().__init__()
        self.net = Join(inputs, 2 * size)

    def forward(self, *inputs):
        return self.net(*inputs).chunk(2, -1)


def width(family, name, event):
    """How many numbers a parameter is made of."""
    size = 3 if family == "Categorical" else event[-1] if event else 1
    return size * size if name in ("scale_tril", "covariance_matrix") else size


def proper(family, name, raw, event):
    """Any numbers ``[..., width]`` as a parameter of its set."""
    match name:
        case "scale" | "rate" | "concentration" | "concentration1" | "concentration0" | "alpha" | "beta" | "cov_diag":
            return raw.exp().clamp(0.3, 3) + 0.2
        case "total_count" | "df":
            return raw.exp().clamp(0.3, 3) + 2.5
        case "low" | "high":
            return raw.sigmoid() * (-1 if name == "low" else 1) + (1.1 if name == "high" else 0)
        case "probs" if family in ("OneHot", "Categorical"):
            return raw.softmax(-1)
        case "probs":
            return raw.sigmoid()
        case "cov_factor":
            return raw.unsqueeze(-1)
        case "weights":
            return raw.softmax(-1)
        case "scale_tril" | "covariance_matrix":
            raw = raw.unflatten(-1, (event[-1], event[-1]))
            square = raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).exp().clamp(0.3, 3))
            return square if name == "scale_tril" else square @ square.mT
    return raw


class Soil:
    """Makes factors, networks, tensors and data as they are asked for; ``features`` are those it may use."""

    def __init__(self, seed, features, share=0.2):
        self.rng, self.share = random.Random(seed), share
        self.chosen = {f for f in features if self.rng.random() < share}
        self.used, self.batch, self.steps = set(), B, T
        self.materials = Materials()
        torch.manual_seed(seed)  # of the networks
        self.generator = torch.Generator().manual_seed(seed)
        self.count = 0

    def may(self, feature, chance=0.5):
        """Whether a feature is to be used here; remembers that it was."""
        found = feature in self.chosen and self.rng.random() < chance
        self.used |= {feature} if found else set()
        return found

    def key(self, wish):
        self.count += 1
        return f"{wish}{self.count}"

    def tensor(self, value, name="loc"):
        """The key of a new tensor for a parameter of this name: learnt, learnt above 0, or neither."""
        key = self.key("k")
        if self.rng.random() < 0.4 and name in FREE:
            self.materials.tensors[key] = nn.Parameter(value)
        elif self.rng.random() < 0.4 and name in ABOVE_0:
            self.materials.raws[key] = nn.Parameter(value.expm1().log())
        else:
            self.materials.tensors[key] = value
        return key

    def net(self, module):
        key = self.key("net")
        self.materials.nets[key] = module
        return key

    def randn(self, *shape):
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    # -------------------------------------------------------------------------------------------------------- data

    def datum(self, name):
        """Data of a name, as the call gives it: a series where the name has a subscript of time."""
        key = base(name)
        if key not in self.materials.data:
            lead = (self.batch, self.steps) if index(name)[0] == "t" else (self.batch,)
            self.materials.data[key] = self.kind_of(key, lead)
        return name

    def kind_of(self, key, lead):
        raw, kind = self.randn(*lead, *SIZES[key]), torch.float64
        match key:
            case "v":
                kind = self.rng.choice((torch.uint8, torch.int64, torch.bool)) if self.may("integer targets") else kind
                return (raw > 0).to(kind)
            case "i":
                return raw.abs().long().clamp_max(2)
            case "k3":
                kind = self.rng.choice((torch.uint8, torch.int64, torch.bool)) if self.may("one-hot integers") else kind
                return nn.functional.one_hot(raw.argmax(-1), 3).to(kind)
            case "n":
                kind = self.rng.choice((torch.uint8, torch.int64)) if self.may("integer counts") else kind
                return (3 * raw.abs()).floor().to(kind)
            case "g":
                return raw.exp()
            case "f":
                return raw.sigmoid()
            case "w3":
                return raw.softmax(-1)
        return raw

    # ----------------------------------------------------------------------------------------------------- factors

    def given(self, family, names, event, feature):
        """Parameters that no network computes: numbers, tensors, or an nn.Parameter, without batch axes."""
        found = []
        for name in names:
            raw = self.randn(width(family, name, event))
            value = proper(family, name, raw, event)
            value = value[0] if not event and family != "Categorical" else value
            plain = name in ("loc", "scale", "rate", "df", "logits") and family not in ("OneHot", "Categorical")
            if plain and self.rng.random() < 0.4:
                found.append((name, round(float(value.flatten()[0]), 3)))
            elif feature is None or self.may(feature, 1.0):
                found.append((name, self.tensor(value, name)))
            else:
                return None
        return tuple(found)

    def dist(self, family, letter, variable, event, conditions=(), sizes=()):
        """A factor of the family, with parameters in any form. No two factors print alike, so that text names them."""
        self.letters = getattr(self, "letters", 0) + 1
        letter = f"{letter}_{{{self.letters}}}" if self.letters > 1 else letter
        if family == "Mixture":
            return self.mixture(letter, variable, event, tuple(conditions), sum(sizes))
        names, inputs = list(PARAMETERS[family]), sum(sizes)
        other = OTHER.get(family, {})
        named = [other.get(n, n) for n in names] if other and self.may("other names", 0.7) else names
        if not conditions:
            if self.rng.random() < 0.3 and family not in ("StudentT", "MultivariateNormal") and event:
                return Dist(family, letter, variable, event)
            found = self.given(family, named, event, None)
            return Dist(family, letter, variable, event, (), "", found or ())
        fixed = ()
        if named == names and len(names) > 1 and family in ("Normal", "Laplace") and self.rng.random() < 0.4:
            fixed = self.given(family, ["scale"], event, "unbatched parameters") or ()
        names = named
        if family in HEADS and names == list(PARAMETERS[family]) and self.rng.random() < 0.6:
            free = len(names) - len(fixed)
            head = self.net(Join(inputs, free * (3 if family == "Categorical" else (event[-1] if event else 1))))
            self.hide(head)
            return Dist(family, letter, variable, event, tuple(conditions), head, fixed)
        free = [self.rng.choice(names)] if len(names) > 1 and self.may("unbatched dict") else []
        head = self.net(Named(inputs, family, names, event, 3, free))
        return Dist(family, letter, variable, event, tuple(conditions), head)

    def mixture(self, letter, variable, event, conditions, inputs):
        """A mixture of two whose parameters are tensors, of the component's family, or what a network says by name."""
        bits = base(variable) == "v"
        component = "Bernoulli" if bits else self.rng.choice(("Normal", "Laplace", "MultivariateNormal"))
        names = list(PARAMETERS[component])
        if component in OTHER and self.may("mixtures by other names", 0.7):
            names = [OTHER[component].get(n, n) for n in names]
        if conditions and self.rng.random() < 0.5:
            names += ["weights"] if self.rng.random() < 0.5 else []
            free = [self.rng.choice(names)] if len(names) > 1 and self.may("unbatched dict") else []
            head = self.net(Mixed(inputs, component, names, event, free))
            return Dist("Mixture", letter, variable, event, conditions, head, (), component, 2)
        rows = {n: torch.stack([proper(component, n, self.randn(width(component, n, event)), event) for _ in "ab"])
                for n in names}  # fmt: skip
        given = tuple((n, self.tensor(v, n)) for n, v in rows.items())
        weights = (("weights", self.tensor(self.randn(2).softmax(-1), "weights")),) if self.rng.random() < 0.5 else ()
        return Dist("Mixture", letter, variable, event, (), "", weights + given, component, 2)

    def det(self, variables, conditions, sizes, size=2, letter=None):
        """A computed variable, or two."""
        letter = self.rng.choice(MACHINE_FUNCTIONS) if self.may("machine functions") else self.rng.choice(FUNCTIONS)
        inputs = sum(sizes)
        two = len(variables) > 1
        head = self.hide(self.net(Pair(inputs, size) if two else Join(inputs, size)))
        return Det(letter, variables, conditions, head, ((size,),) * len(variables))

    def hide(self, key):
        """The network behind a function, as users pass them: a bound method, a lambda, a partial."""
        net = self.materials.nets[key]
        if self.may("hidden modules"):
            ways = (net.forward, functools.partial(net), functools.partial(_call, net), _behind(net))
            self.materials.disguise[key] = self.rng.choice(ways)
        return key


def _call(net, *inputs):
    return net(*inputs)


def _behind(net):
    def function(*inputs):
        return net(*inputs)

    return function
