"""A third witness of what a formula is worth: torch.distributions, and plain loops over samples, steps and values.

It reads the specification alone (`spec`) and shares no code with the library. The noise of a call is given to both, so
that values and gradients must be equal: a Normal is loc + scale·ε, a Bernoulli ε < p, a one-hot the largest of
logits + ε; every value of an enumerated variable is visited in turn.
"""

import itertools
import math

import torch
import torch.distributions as D
import torch.nn.functional as F

from tests.formula.spec import Det, Dist, Draw, Experts, Stopped, base, index, walk
from tests.formula.witness_families import DEFAULTS, DISCRETE, canonical, converted, made_of

FUNCTIONS = {
    "exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "abs": torch.abs, "tanh": torch.tanh, "relu": torch.relu,
    "sigmoid": torch.sigmoid, "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
}  # fmt: skip


class Witness:
    """Evaluates a specification. ``batch`` is B, ``steps`` T; ``noise`` is by the name of the variable."""

    def __init__(self, node, materials, noise, batch, steps=0):
        self.node, factors = node, [n for n in walk(node) if isinstance(n, Dist | Det)]
        named = [(d.variables, d.events) if isinstance(d, Det) else ((d.variable,), (d.event,)) for d in factors]
        self.shapes = {base(v): e for names, events in named for v, e in zip(names, events, strict=True)}
        self.carried = {base(c) for d in factors for c in d.conditions if index(c) == ("t", "past")}
        drawn = [v for n in walk(node) if isinstance(n, Draw) for u in n.q for v in self.names(u)]
        self.carried &= {base(v) for v in drawn}
        self.nets, self.tensors, self.raws, self.data = (
            materials.nets,
            materials.tensors,
            materials.raws,
            materials.data,
        )
        self.present = materials.present
        self.noise, self.batch, self.steps = noise, batch, steps
        self.born = {}  # a sample axis -> when it was first met
        self.history, self.finished = {}, {}
        self.carry = self.here = None
        self.t = None
        self.iteration = 0

    def evaluate(self):
        """The value of the formula."""
        return self.value(self.node, {})

    # --------------------------------------------------------------------------------------------------- variables

    def read(self, name, env):
        """The value of a variable: drawn, carried, shifted or given."""
        if name in env:
            return env[name][0]
        letter, how = index(name)
        key = base(name)
        if name in self.finished:
            return self.finished[name]
        if letter == "l" and how == "past":
            return torch.zeros(self.batch, *self.shapes[key])
        if how == "past":
            return self.carry[key] if key in self.carry else self.shifted(key)
        if how == "all":
            return torch.stack(self.history[key], 1) if key in self.history else self.given(key)
        value = self.given(key)
        return value[:, self.t] if how == "now" and letter == "t" else value

    def given(self, key):
        """Data, with zeros in the rows that are absent."""
        value = self.data[key]
        if key not in self.present:
            return value
        keep = self.present[key].reshape(self.present[key].shape + (1,) * (value.ndim - self.present[key].ndim))
        return torch.where(keep, value, torch.zeros_like(value))

    def shifted(self, key):
        late = torch.zeros_like(self.given(key)[:, 0]) if self.t == 0 else self.given(key)[:, self.t - 1].clone()
        late[self.restarting] = 0
        return late

    def lead(self, names, env):
        """The sample axes of the values of these variables: {axis: the place in it}."""
        return {axis: place for n in names if n in env for axis, place in env[n][1].items()}

    # ----------------------------------------------------------------------------------------------------- factors

    def parameters(self, d, env):
        """The parameters by canonical name; ``probs`` keep theirs."""
        found, head = {}, None
        if d.head:
            head = self.nets[d.head](*(self.read(c, env) for c in d.conditions))
        named = [(n, self.tensor(v) if isinstance(v, str) else v) for n, v in d.given]
        named += list(head.items()) if isinstance(head, dict) else []
        family = d.component or d.family
        for name, value in named:
            value, kept = converted(name, value)
            found[kept or canonical(family, name)] = value
        free = [n for n in DEFAULTS[family] if n not in found and not (n == "logits" and "probs" in found)]
        if isinstance(head, torch.Tensor):
            pieces = head.chunk(len(free), -1) if d.event else [head] if d.family == "Categorical" else head.unbind(-1)
            found |= {n: self.positive(p) if n == "scale" else p for n, p in zip(free, pieces, strict=True)}
        for name in free:
            found.setdefault(name, torch.tensor(DEFAULTS[family][name]))
        return found

    def tensor(self, key):
        """A given parameter, which may be softplus of what is learnt."""
        return F.softplus(self.raws[key]) if key in self.raws else self.tensors[key]

    @staticmethod
    def positive(raw):
        """The scale of a head."""
        return F.softplus(raw)

    def distribution(self, d, env):
        """As torch has it; events whose elements are independent keep their axes."""
        stopped = isinstance(d, Stopped)
        d = d.of if stopped else d
        found = self.parameters(d, env)
        found = {n: v.detach() for n, v in found.items()} if stopped else found
        if d.family == "Mixture":
            weights = found.pop("log_weights", torch.zeros(d.components))
            each = made_of(d.component, found, d.event)
            each = D.Independent(each, len(d.event) - len(each.event_shape))
            return D.MixtureSameFamily(D.Categorical(logits=weights), each, validate_args=False)
        return made_of(d.family, found, d.event)

    def density(self, d, env):
        """log p, summed over the event; 0 in the rows that lack the variable."""
        if isinstance(d, Experts):
            return self.density_of_experts(d, env)
        inner = d.of if isinstance(d, Stopped) else d
        key, made = base(inner.variable), self.distribution(d, env)
        known = self.given
        self.given = self.data.__getitem__  # a row that is absent does not count, whatever stands there
        value = self.read(inner.variable, env)
        self.given = known
        value = value if inner.family == "Categorical" else value.to(torch.get_default_dtype())
        logp = (value * made.logits).sum(-1) if inner.family == "OneHot" else made.log_prob(value)
        rank = len(inner.event) - len(made.event_shape)
        logp = logp.flatten(-rank).sum(-1) if rank else logp
        if key not in self.present or inner.variable in env:
            return logp
        flags = self.present[key] if self.present[key].ndim == 1 or self.t is None else self.present[key][:, self.t]
        return torch.where(flags, logp, torch.zeros(()))

    def flags_of(self, part):
        """Which rows have all that an expert reads."""
        keys = [base(c) for c in part.conditions if base(c) in self.present]
        found = [f if self.t is None or f.ndim == 1 else f[:, self.t] for f in (self.present[k] for k in keys)]
        return torch.stack([torch.ones(self.batch, dtype=torch.bool), *found]).all(0)

    def product(self, experts, env):
        """The precision-weighted Normal of the experts that a row has."""
        weight, mean = torch.zeros(()), torch.zeros(())
        for part in experts.parts:
            made, here = self.distribution(part, env), self.flags_of(part)[:, None]
            precision = torch.where(here, made.scale**-2, torch.zeros(()))
            weight, mean = weight + precision, mean + precision * made.loc
        return D.Normal(mean / weight, weight**-0.5, validate_args=False)

    def density_of_experts(self, d, env):
        value = self.read(d.parts[0].variable, env)
        if d.how == "product":
            return self.product(d, env).log_prob(value).sum(-1)
        each = [self.distribution(p, env).log_prob(value).sum(-1) for p in d.parts]
        return torch.stack([e.expand(self.batch) for e in each]).logsumexp(0) - math.log(len(each))

    # ------------------------------------------------------------------------------------------------------- draws

    def noise_at(self, d, lead):
        """The noise of one draw: at the places of its sample axes, the newest first, and at the step."""
        key = base(d.variable)
        value = self.noise[key if self.iteration < 2 else f"{key}_{self.iteration}"]
        for axis in sorted(lead, key=self.born.__getitem__, reverse=True):
            value = value[lead[axis]]
        return value[:, self.t] if self.t is not None and index(d.variable)[0] else value

    def drawn(self, d, env, lead, how):
        """One draw, with the gradient of its estimator."""
        stopped = isinstance(d, Stopped)
        inner = d.parts[0] if isinstance(d, Experts) else d.of if stopped else d
        made = self.product(d, env) if isinstance(d, Experts) else self.distribution(d, env)
        noise = self.noise_at(inner, lead)
        if inner.family in ("Normal", "Laplace"):
            value = made.loc + made.scale * noise
            return value.detach() if how == "score" else value
        if inner.family == "Bernoulli":
            value = (noise < made.probs).to(noise.dtype)
            return value + made.probs - made.probs.detach() if how == "straight-through" else value
        if inner.family == "OneHot":
            value = F.one_hot((made.logits + noise).argmax(-1), made.logits.shape[-1]).to(noise.dtype)
            return value if how == "score" else value + made.probs - made.probs.detach()
        cumulative = made.probs.cumsum(-1)[..., :-1]
        return (cumulative <= noise.unsqueeze(-1)).sum(-1)

    @staticmethod
    def support(d, count):
        """Every value of a discrete variable, in the usual order."""
        if d.family == "Bernoulli":
            size = math.prod(d.event)
            return [torch.tensor([float(i >> j & 1) for j in range(size)]).view(d.event) for i in range(2**size)]
        rows = torch.eye(count) if d.family == "OneHot" else torch.arange(count)
        return list(rows)

    def expectation(self, node, env, inside=lambda v: v, log=False):
        """E by its estimator, or its log; ``inside`` is applied to what one sample says."""
        random = [d for d in node.q if not isinstance(d, Det)]
        inner = [d.parts[0] if isinstance(d, Experts) else d.of if isinstance(d, Stopped) else d for d in random]
        exact = [d for d in inner if node.how == "exact" and d.family in DISCRETE]
        pathwise = [d.family in ("Normal", "Laplace") for d in inner]
        own = ("samples", node.q, self.iteration) if node.samples else None
        if own:
            self.born.setdefault(own, len(self.born))
        each = []
        for k in range(node.samples or 1):
            for choice in itertools.product(*(range(self.sizes(d)) for d in exact)):
                places = dict(zip(exact, choice, strict=True))
                here, weight, scores = dict(env), torch.zeros(()), []
                for use in self.order(node.q, env):
                    if isinstance(use, Det):
                        self.compute(use, here)
                        continue
                    d = use.parts[0] if isinstance(use, Experts) else use.of if isinstance(use, Stopped) else use
                    lead = self.lead(d.conditions, here) | ({own: k} if own else {})
                    if d in places:
                        axis = ("value", d, self.iteration)
                        self.born.setdefault(axis, len(self.born))
                        value = self.support(d, self.sizes(d))[places[d]]
                        here[d.variable] = (value.expand(self.batch, *d.event), lead | {axis: places[d]})
                        weight = weight + self.density(use, here)
                        continue
                    scored = node.how == "score" and (all(pathwise) or d.family in DISCRETE)
                    how = "score" if scored else node.how
                    here[d.variable] = (self.drawn(use, here, lead, how), lead)
                    scores += [self.density(use, here)] if scored else []
                self.keep(node.q, here)
                value = self.value(node.body, here)
                known = self.value(node.baseline, env) if node.baseline not in (None, "leave-one-out") else 0.0
                each.append((inside(value), weight, scores, known))
        return self.log_combined(node, each) if log else self.combined(node, each, bool(exact))

    def log_combined(self, node, each):
        """log of the mean, with the score function of each draw: what one draw adds is what the log would be without
        it, the geometric mean of the others in its place."""
        values = [v for v, *_ in each]
        bound = found = (sum(values) / len(values)).log()
        for place, (_, _, scores, known) in enumerate(each):
            if node.baseline == "leave-one-out":
                others = [v for k, v in enumerate(values) if k != place]
                instead = torch.stack([v.log() for v in others]).mean(0).exp()
                known = ((sum(others) + instead) / len(values)).log()
            for logq in scores:
                found = found + (logq - logq.detach()) * (bound - known).detach()
        return found

    def combined(self, node, each, weighted):
        values = [v for v, *_ in each]
        found = []
        for place, (value, weight, scores, known) in enumerate(each):
            if node.baseline == "leave-one-out":
                scores = scores if value.ndim else []  # the same for all samples
                known = (sum(values) - value) / (len(values) - 1)
            for logq in scores:
                value = value + (logq - logq.detach()) * (values[place] - known).detach()
            found.append(value * weight.exp() if weighted else value)
        return sum(found[1:], found[0]) / (node.samples or 1)

    def sizes(self, d):
        """How many values a discrete variable has."""
        return 2 ** math.prod(d.event) if d.family == "Bernoulli" else d.event[-1] if d.event else 3

    def order(self, q, env):
        """Causes before effects."""
        waiting, done = list(q), []
        names = {v for u in q for v in self.names(u)}
        while waiting:
            known = {v for u in done for v in self.names(u)}
            ready = next(u for u in waiting if all(c in known or c not in names for c in self.needs(u)))
            waiting.remove(ready)
            done.append(ready)
        return done

    @staticmethod
    def names(u):
        d = u.parts[0] if isinstance(u, Experts) else u.of if isinstance(u, Stopped) else u
        return d.variables if isinstance(d, Det) else (d.variable,)

    @staticmethod
    def needs(u):
        parts = u.parts if isinstance(u, Experts) else (u.of if isinstance(u, Stopped) else u,)
        return tuple(c for p in parts for c in p.conditions)

    def compute(self, d, env):
        """The outputs of a deterministic factor."""
        out = self.nets[d.head](*(self.read(c, env) for c in d.conditions))
        lead = self.lead(d.conditions, env)
        for name, value in zip(d.variables, out if len(d.variables) > 1 else (out,), strict=True):
            whole = any(index(c)[1] == "all" for c in d.conditions) and index(name)[0] == "t"
            env[name] = (value[:, self.t] if whole else value, lead)

    def keep(self, q, env):
        """What this step says to the next one."""
        if self.here is not None:
            self.here |= {n: env[n][0] for u in q for n in self.names(u) if index(n)[0] is not None}

    # -------------------------------------------------------------------------------------------------- expressions

    def value(self, node, env):
        """The number per row (with event axes, of a variable that has them) that a node says."""
        return getattr(self, f"of_{type(node).__name__.lower()}")(node, env)

    def of_num(self, node, env):
        return torch.tensor(float(node.value))

    def of_var(self, node, env):
        return self.read(node.name, env).to(torch.get_default_dtype())

    def of_logp(self, node, env):
        return sum(self.density(d, env) for d in node.of)

    def of_rat(self, node, env):
        return (sum(self.density(d, env) for d in node.over) - sum(self.density(d, env) for d in node.under)).exp()

    def of_gap(self, node, env):
        q = self.product(node.q, env) if isinstance(node.q, Experts) else self.distribution(node.q, env)
        p = self.distribution(node.p, env)
        if q.batch_shape != p.batch_shape:  # torch wants them alike for some pairs
            shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
            q, p = q.expand(shape), p.expand(shape)
        kl = D.kl_divergence(q, p)
        kl = kl + q.entropy() if node.kind == "cross" else kl
        event = (node.p.of if isinstance(node.p, Stopped) else node.p).event
        rank = len(event) - len(p.event_shape)
        return kl.flatten(-rank).sum(-1) if rank else kl

    def of_ent(self, node, env):
        made = self.distribution(node.of, env)
        rank = len(node.of.event) - len(made.event_shape)
        return made.entropy().flatten(-rank).sum(-1) if rank else made.entropy()

    def of_draw(self, node, env):
        return self.expectation(node, env)

    def of_least(self, node, env):
        """One value after another; of energies that draw nothing."""
        each = []
        for value in self.support(node.q, self.sizes(node.q)):
            here = env | {node.q.variable: (value.expand(self.batch, *node.q.event), {})}
            each.append(self.value(node.body, here))
        each = torch.stack(each)
        return each.amin(0) if node.beta is None else -torch.logsumexp(-node.beta * each, 0) / node.beta

    def of_op(self, node, env):
        a, b = self.value(node.left, env), self.value(node.right, env)
        ways = {"+": torch.add, "-": torch.sub, "*": torch.mul, "/": torch.div, "^": torch.pow,
                "max": torch.maximum, "min": torch.minimum}  # fmt: skip
        return ways[node.op](a, b)

    def of_fn(self, node, env):
        if node.name == "log" and isinstance(node.body, Draw) and node.body.how == "score":
            return self.expectation(node.body, env, log=True)
        body = self.value(node.body, env)
        if node.name == "expectile":
            return torch.where(body > 0, node.bounds[0], 1 - node.bounds[0]) * body * body
        return body.clamp(*node.bounds) if node.name == "clamp" else FUNCTIONS[node.name](body)

    def of_minus(self, node, env):
        return -self.value(node.body, env)

    def of_stop(self, node, env):
        return self.value(node.body, env).detach()

    def of_label(self, node, env):
        return self.value(node.body, env)

    def of_event(self, node, env):
        body = self.value(node.body, env)
        return (body.square() if node.how == "norm2" else body).sum(-1)

    def of_batch(self, node, env):
        body = self.value(node.body, env)
        return getattr(body, node.how)() if body.ndim else body

    def of_inner(self, node, env):
        """A loop over l: what the factors say goes from iteration to iteration."""
        outer, self.here, found, here = self.here, {}, [], dict(env)
        for step in range(1, node.steps + 1):
            self.iteration = step
            found.append(self.value(node.body, here))
            here |= {f"{base(n)}_{{l-1}}": (v, {}) for n, v in self.here.items()}
        self.finished |= {f"{base(n)}_L": v for n, v in self.here.items()}
        self.here, self.iteration = outer, 0
        return sum(found) / (node.steps if node.how == "mean" else 1)

    def of_clock(self, node, env):
        """A loop over t with carries, resets, masks, the end, and the burn-in."""
        start = {base(v): self.tensors[key].expand(self.batch, *self.tensors[key].shape) for v, key in node.initial}
        zeros = {n: torch.zeros(self.batch, *shape) for n, shape in self.shapes.items()}
        self.carry = {n: start.get(n, zeros[n]) for n in self.carried}
        ended = torch.zeros(self.batch, dtype=torch.bool)
        total, count = torch.zeros(()), torch.zeros(())
        self.history = {}
        for t in range(self.steps):
            self.t = t
            self.restarting = torch.zeros(self.batch, dtype=torch.bool)
            if node.reset:
                self.restarting = self.data[node.reset][:, self.t] != 0
            for name, value in self.carry.items():
                again = self.restarting.view(-1, *(1,) * (value.ndim - 1))
                self.carry[name] = torch.where(again, start.get(name, zeros[name]), value)
            self.here = {}
            value = self.value(node.body, env)
            for name, new in self.here.items():
                self.history.setdefault(base(name), []).append(new)
                self.carry |= {base(name): new} if base(name) in self.carried else {}
            weight = ~ended if node.mask is None else self.data[node.mask][:, self.t] * ~ended
            weight = weight.to(torch.get_default_dtype()) * (self.t >= node.burn_in)
            total = total + torch.where(weight != 0, weight * value, torch.zeros(()))
            count = count + weight
            ended = ended | (self.data[node.until][:, self.t] != 0) if node.until else ended
        self.finished |= {f"{n}_T": values[-1] for n, values in self.history.items()}
        self.t = self.here = None
        return total if node.how == "sum" else total / torch.where(count == 0, torch.ones(()), count)
