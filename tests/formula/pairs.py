"""Every pair of families in KL, CrossEntropy and JS: the value that torch and enumeration give, or a refusal.

A refusal comes where the formula is written, and says why. Where the left side has values that the right side does not
know, the divergence is infinite, and a finite number is wrong.
"""

import itertools

import torch

from tests.formula.build import Builder
from tests.formula.examine import Fault, double
from tests.formula.soil import B, Soil
from tests.formula.spec import Dist, Gap
from tests.formula.witness import Witness
from worldformula.errors import WorldformulaError

EVENTS = {  # the families whose events have one shape can meet
    (2,): ("Normal", "Laplace", "StudentT", "LogNormal", "Gamma", "Beta", "Uniform", "Poisson", "NegativeBinomial",
           "Bernoulli", "MultivariateNormal", "VonMises", "Mixture", "TanhNormal", "TruncatedNormal"),
    (3,): ("Normal", "Gamma", "Beta", "Bernoulli", "OneHot", "Dirichlet", "Poisson"),
    (): ("Normal", "Gamma", "Bernoulli", "Categorical", "Poisson"),
}  # fmt: skip
KINDS = ("kl", "cross", "js")
DRAWS = 4000
COUNTS = 120  # how far an enumeration of counts goes
ATOMS = ("Poisson", "NegativeBinomial", "Bernoulli", "OneHot", "Categorical")


def cases():
    """(kind, family of q, family of p, event)."""
    for event, families in EVENTS.items():
        yield from ((kind, q, p, event) for kind in KINDS for q, p in itertools.product(families, repeat=2))


def values(made, family, event):
    """Values of q: all of them, with their weights, where they are few; draws elsewhere."""
    if family in ("Poisson", "NegativeBinomial") and not event:
        found = torch.arange(float(COUNTS)).view(-1, 1).expand(-1, B)
    elif family == "Categorical":
        found = torch.arange(3.0).view(-1, 1).expand(-1, B)
    elif family == "OneHot":
        found = torch.eye(3)[:, None].expand(-1, B, -1)
    elif family == "Bernoulli":
        found = torch.tensor(list(itertools.product((0.0, 1.0), repeat=sum(event) if event else 1)))
        found = found.view(-1, 1, *event).expand(-1, B, *event)
    else:
        torch.manual_seed(0)
        return made.expand((B,) if made.event_shape else (B, *event)).sample((DRAWS,)), None
    return found, summed(made, found, event).exp()


def summed(made, value, event):
    """log-density of whole events; minus infinity outside the support."""
    logp = torch.where(inside(made, value), made.log_prob(value), -torch.inf)
    rank = len(event) - len(made.event_shape)
    return logp.flatten(-rank).sum(-1) if rank else logp


def inside(made, value):
    """Whether torch takes the value for one of the distribution."""
    try:
        return made.support.check(value)
    except (ValueError, RuntimeError):
        return torch.zeros(value.shape[: value.ndim - len(made.event_shape)], dtype=torch.bool)


def expectation(made, family, event, f):
    """E of f under q, and its standard error."""
    value, weights = values(made, family, event)
    if weights is not None:
        return torch.where(weights > 0, weights * f(value), torch.zeros(())).sum(0), torch.zeros(B)
    found = f(value)
    return found.mean(0), found.std(0) / DRAWS**0.5


def right(kind, q, p, families, event):
    """The divergence by enumeration or by draws, with its error; infinite where an atom meets a density."""
    if (families[0] in ATOMS) != (families[1] in ATOMS):
        return torch.full((B,), torch.inf), torch.zeros(B)

    def of(f):
        return expectation(q, families[0], event, f)

    if kind == "kl":
        return of(lambda v: summed(q, v, event) - summed(p, v, event))
    if kind == "cross":
        return of(lambda v: -summed(p, v, event))
    halves = []
    for (a, family), b in (((q, families[0]), p), ((p, families[1]), q)):
        mean, error = expectation(a, family, event, lambda v, a=a, b=b: torch.nn.functional.softplus(
            summed(b, v, event) - summed(a, v, event)))  # fmt: skip
        halves.append((mean, error))
    return torch.log(torch.tensor(2.0)) - sum(m for m, _ in halves) / 2, sum(e for _, e in halves)


def examine_pair(kind, left, right_, event, seed=0):
    """Refused with a reason (True), or as it should be (False); raises `Fault`."""
    soil = Soil(seed, ("unbatched parameters", "other names"), 0.5)
    x = soil.datum("x")
    dists = []
    for family in (left, right_):
        conditions = ((x,), (3,)) if soil.rng.random() < 0.7 else ((), ())
        standard = seed % 2 and dists and family not in ("StudentT", "MultivariateNormal", "Mixture", "Categorical")
        made = Dist(family, "p", "z", event) if standard else soil.dist(family, "q", "z", event, *conditions)
        dists.append(made)
    name = f"{kind} of {dists[0].family} and {dists[1].family} over {event}, seed {seed}"
    try:
        expression = Builder(soil.materials).expression(Gap(kind, *dists))
    except WorldformulaError as error:
        if not str(error).strip():
            raise Fault("pairs", f"{name}: refused without a word") from error
        return True
    data = {k: soil.materials.data[k] for k in expression.program.inputs}
    try:
        ours = [run(**data).value.detach().double().expand(B) for run in (expression, expression.interpret)]
    except WorldformulaError as error:
        raise Fault("pairs, refused late", f"{name}: {str(error)[:200]}") from error
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise Fault("pairs, crash", f"{name}: {type(error).__name__} {str(error)[:200]}") from error
    with double(), torch.no_grad():
        seen = Witness(Gap(kind, *dists), soil.materials, {}, B)
        made = [seen.distribution(d, {}) for d in dists]
        mean, error = right(kind, *made, (left, right_), event)
    if not torch.allclose(*ours, rtol=1e-6, atol=1e-6):
        raise Fault("pairs, interpreter", f"{name}: {ours[0].tolist()} and {ours[1].tolist()}")
    far = (ours[0] - mean).abs() > 6 * error + 1e-5 * (1 + mean.abs())
    if (far & ~(ours[0] == mean)).any() or ours[0].isnan().any() or (kind != "cross" and (ours[0] < -1e-6).any()):
        raise Fault("pairs, value", f"{name}: {ours[0].tolist()} for {mean.tolist()} ± {error.tolist()}")
    return False
