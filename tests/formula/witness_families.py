"""The distributions of the witness: parameters under any of their names, as torch.distributions has them."""

import torch
import torch.distributions as D

DISCRETE = ("Bernoulli", "OneHot", "Categorical")
DEFAULTS = {
    "Normal": {"loc": 0.0, "scale": 1.0}, "Laplace": {"loc": 0.0, "scale": 1.0}, "Bernoulli": {"logits": 0.0},
    "StudentT": {"df": None, "loc": 0.0, "scale": 1.0}, "LogNormal": {"loc": 0.0, "scale": 1.0},
    "Gamma": {"concentration": 1.0, "rate": 1.0}, "Beta": {"concentration1": 1.0, "concentration0": 1.0},
    "Poisson": {"rate": 1.0}, "Uniform": {"low": 0.0, "high": 1.0}, "OneHot": {"logits": 0.0},
    "Categorical": {"logits": 0.0}, "MultivariateNormal": {"loc": 0.0, "scale_tril": None},
    "NegativeBinomial": {"total_count": 1.0, "logits": 0.0}, "Dirichlet": {"concentration": 1.0},
    "LowRankNormal": {"loc": 0.0, "cov_factor": None, "cov_diag": 1.0}, "VonMises": {"loc": 0.0, "concentration": 1.0},
    "TanhNormal": {"loc": 0.0, "scale": 1.0}, "TruncatedNormal": {"loc": 0.0, "scale": 1.0},
}  # fmt: skip
OTHER_NAMES = {
    "probs": "logits", "covariance_matrix": "scale_tril", "alpha": {"Beta": "concentration1", "": "concentration"},
    "beta": "concentration0", "weights": "log_weights",
}  # fmt: skip


def canonical(family, name):
    other = OTHER_NAMES.get(name, name)
    return other if isinstance(other, str) else other.get(family, other[""])


def converted(name, value):
    """A parameter under its canonical name, from whatever it was given as."""
    value = torch.as_tensor(value, dtype=torch.get_default_dtype()) if not isinstance(value, torch.Tensor) else value
    if name == "probs":
        return value, "probs"
    if name == "covariance_matrix":
        return torch.linalg.cholesky(value), ""
    return (value.log(), "") if name == "weights" else (value, "")


def made_of(family, found, event):
    """The distribution of torch; events of independent elements keep their axes in the batch."""
    if family in ("OneHot", "Categorical") and found.get("logits", torch.ones(1)).ndim == 0:
        found = {"logits": torch.zeros(event or 3)}
    if family not in ("MultivariateNormal", "LowRankNormal") and event and family not in ("OneHot", "Dirichlet"):
        found = {n: v.expand(event) if v.ndim == 0 else v for n, v in found.items()}
    if family == "Dirichlet" and found["concentration"].ndim == 0:
        found = {"concentration": found["concentration"].expand(event)}
    if family == "TanhNormal":
        return D.TransformedDistribution(D.Normal(**found, validate_args=False), [D.TanhTransform(cache_size=1)])
    if family == "TruncatedNormal":
        return Truncated(**found)
    kind = {"OneHot": "OneHotCategorical", "LowRankNormal": "LowRankMultivariateNormal"}.get(family, family)
    return getattr(D, kind)(**found, validate_args=False)


class Truncated(D.Distribution):
    """The Normal that is held between -1 and 1, by its density and by the inverse of its distribution function."""

    support = D.constraints.interval(-1.0, 1.0)

    def __init__(self, loc, scale):
        self.whole = D.Normal(loc, scale, validate_args=False)
        super().__init__(self.whole.batch_shape, validate_args=False)

    def expand(self, shape, _instance=None):
        return Truncated(self.whole.loc.expand(shape), self.whole.scale.expand(shape))

    def _ends(self):
        return (self.whole.cdf(torch.full_like(self.whole.loc, end)) for end in (-1.0, 1.0))

    def log_prob(self, value):
        low, high = self._ends()
        return self.whole.log_prob(value) - (high - low).log()

    def rsample(self, sample_shape=()):
        low, high = self._ends()
        u = torch.rand(*sample_shape, *self.batch_shape, dtype=low.dtype)
        return self.whole.icdf(low + u * (high - low))

    def sample(self, sample_shape=()):
        with torch.no_grad():
            return self.rsample(sample_shape)
