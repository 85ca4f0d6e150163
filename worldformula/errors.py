"""Every error of the library: a closed set, each with a code and a docstring that is its manual page.

A message says what was expected, what came, and what to write instead. Shape errors carry a table
*variable | declared | got*.
"""

from __future__ import annotations

from worldformula.wording import near as near  # noqa: PLC0414 - given on to all who raise
from worldformula.wording import table as table  # noqa: PLC0414


class WorldformulaError(Exception):
    """Base of every error that the library raises on purpose."""

    code = "error"


# ---------------------------------------------------------------------------------------------- the formula language


class FormulaError(WorldformulaError, ValueError):
    """A formula cannot be read, built or evaluated.

    >>> from worldformula import E, Normal, log
    >>> q, p = Normal("q(z|x)", torch.nn.Linear(3, 4)), Normal("p(x|z)", torch.nn.Linear(2, 6))
    >>> E(q, p)
    Traceback (most recent call last):
    worldformula.errors.FormulaError: expected an expression or a number, got Normal; write log(p) for its log-density
    >>> E(q, log(p))
    <Expression E_{q(z|x)}[log p(x|z)]>
    """

    code = "formula"


class HeaderError(FormulaError):
    """The text of a factor, such as ``"q(z|x)"``, cannot be read. The message points at the character.

    >>> from worldformula import Normal
    >>> Normal("q(z|x y)", shape=2)
    Traceback (most recent call last):
    worldformula.errors.HeaderError: expected ',' or ')', found 'y'
        q(z|x y)
              ^
    >>> Normal("q(z|x,y)", torch.nn.Bilinear(3, 3, 4), shape=2)
    <Normal q(z|x,y), shape=(2,)>
    """

    code = "header"


class UnknownVariableError(FormulaError):
    """A call names a variable that the formula does not have. The message lists the near misses.

    >>> from worldformula import KL, Normal
    >>> loss = KL(Normal("q(z|x)", torch.nn.Linear(3, 4)), Normal("p(z)", shape=2)).mean()
    >>> loss(y=torch.zeros(5, 3))
    Traceback (most recent call last):
    worldformula.errors.UnknownVariableError: the formula has no input 'y'.
      variable | declared by | needed by | got
      x        | data        | q(z|x)    | missing
    >>> loss(x=torch.zeros(5, 3)).value.shape
    torch.Size([])
    """

    code = "unknown-variable"


class MissingInputError(FormulaError):
    """A call lacks a variable that the formula reads as data.

    >>> from worldformula import Normal, log
    >>> loss = log(Normal("p(y|x)", torch.nn.Linear(3, 2), shape=1)).mean()
    >>> loss(x=torch.zeros(5, 3))
    Traceback (most recent call last):
    worldformula.errors.MissingInputError: the formula needs y; pass y=...
      variable | declared by | needed by | got
      y        | data        | p(y|x)    | missing
      x        | data        | p(y|x)    | given
    >>> loss(x=torch.zeros(5, 3), y=torch.zeros(5, 1)).value.shape
    torch.Size([])
    """

    code = "missing-input"


class ShapeError(FormulaError):
    """A value does not have the declared event shape, or two batch shapes would broadcast silently.

    >>> from worldformula import Normal, log
    >>> loss = log(Normal("p(x)", shape=3)).mean()
    >>> loss(x=torch.zeros(5, 2))
    Traceback (most recent call last):
    worldformula.errors.ShapeError: x does not have the event shape that p(x) declares
      variable | declared | got
      x        | [..., 3] | [5, 2]
    pass batch axes + event axes, or change shape= on its factor
    >>> loss(x=torch.zeros(5, 3)).value
    tensor(-2.7568)
    """

    code = "shape"


class HeadError(FormulaError):
    """The network of a factor returned a tensor that does not split into the family's parameters.

    >>> from worldformula import KL, Normal
    >>> prior = Normal("p(z)", shape=2)
    >>> KL(Normal("q(z|x)", torch.nn.Linear(3, 2)), prior)(x=torch.zeros(5, 3))
    Traceback (most recent call last):
    worldformula.errors.HeadError: q(z|x): normal: the head does not split into loc, scale.
      event shape | expected head | got head
      (2,)        | [..., 4]      | [5, 2]
    End the network in 4 features, declare another shape=..., or fix a parameter by keyword.
    >>> KL(Normal("q(z|x)", torch.nn.Linear(3, 4)), prior)(x=torch.zeros(5, 3)).value.shape
    torch.Size([5])
    """

    code = "head-width"


class DuplicateVariableError(FormulaError):
    """Two factors of one expectation declare the same variable.

    >>> from worldformula import Normal
    >>> Normal("q(z|x)", torch.nn.Linear(3, 4)) * Normal("p(z)", shape=2)
    Traceback (most recent call last):
    worldformula.errors.DuplicateVariableError: two factors declare z: q(z|x) and p(z)
      variable | declared by | got
      z        | q(z|x)      | p(z)
    rename one of them, e.g. z', or leave one out of the product
    >>> Normal("q(z|x)", torch.nn.Linear(3, 4)) * Normal("p(z')", shape=2)
    <Joint q(z|x) p(z')>
    """

    code = "two-factors"


class CycleError(FormulaError):
    """The factors of a product need each other at the same time step.

    >>> from worldformula import Normal
    >>> Normal("p(x|y)", torch.nn.Linear(2, 4)) * Normal("p(y|x)", torch.nn.Linear(2, 4))
    Traceback (most recent call last):
    worldformula.errors.CycleError: these factors need each other at the same step
      variable | declared by | needs
      x        | p(x|y)      | y
      y        | p(y|x)      | x
    break the cycle with an earlier step, e.g. a condition at t-1
    >>> Normal("p(x_t|y_{t-1})", torch.nn.Linear(2, 4)) * Normal("p(y_t|x_t)", torch.nn.Linear(2, 4))
    <Joint p(x_t|y_{t-1}) p(y_t|x_t)>
    """

    code = "cycle"


class GradientError(FormulaError):
    """An expectation over a factor without reparametrised samples does not say how its gradient is estimated.

    >>> from worldformula import Bernoulli, E, Normal, log
    >>> q, p = Bernoulli("q(z|x)", torch.nn.Linear(3, 2)), Normal("p(x|z)", torch.nn.Linear(2, 6))
    >>> E(q, log(p))
    Traceback (most recent call last):
    worldformula.errors.GradientError: E over q(z|x): a bernoulli sample is not reparametrised, so its gradient would
    be silently missing
      variable | declared by | got
      z        | q(z|x)      | no gradient=
    choose an estimator: E(q, f, gradient='straight-through' or gradient='gumbel' or gradient='score')
    >>> E(q, log(p), gradient="score")
    <Expression E_{q(z|x); score}[log p(x|z)]>
    """

    code = "no-gradient"


class SharedDrawError(FormulaError):
    """A product, ratio, maximum or minimum of two expectations would use one draw for both: E[f]·E[g] is not E[f·g].

    >>> from worldformula import E, Normal, log
    >>> q, p = Normal("q(z|x)", torch.nn.Linear(3, 4), shape=2), Normal("p(z)", shape=2)
    >>> E(q, log(p)) * E(q, log(q))
    Traceback (most recent call last):
    worldformula.errors.SharedDrawError: the product of two expectations over q(z|x) needs two independent draws, and
    inside one expression a factor draws once
      variable | declared by | drawn in
      z        | q(z|x)      | E_{q(z|x)}[log p(z)]
      z        | q(z|x)      | E_{q(z|x)}[log q(z|x)]
    write E(q, f) * E(q.fresh(), g) for independent draws, or E(q, f * g) for the expectation of f * g
    >>> E(q, log(p)) * E(q.fresh(), log(q))
    <Expression E_{q(z|x)}[log p(z)] * E_{q(z|x)}[log q(z|x)]>
    """

    code = "shared-draw"


class OneDrawError(FormulaError):
    """A function that is not linear is taken of an expectation that one draw estimates: E[g(f)] is not g(E[f]).

    >>> from worldformula import E, Normal, exp, log
    >>> q, p = Normal("q(z|x)", torch.nn.Linear(3, 4), shape=2), Normal("p(z)", shape=2)
    >>> exp(E(q, log(p)))
    Traceback (most recent call last):
    worldformula.errors.OneDrawError: the exp of an expectation, which one draw estimates: E[g(f)] is not g(E[f])
      variable | declared by | drawn once in
      z        | q(z|x)      | E_{q(z|x)}[log p(z)]
    write E(q, g(f)) for the expectation of the exp, E(q, f) * E(q.fresh(), f) for a square,
    or E(q, f, samples=K) for the exp of a mean
    >>> exp(E(q, log(p), samples=8))
    <Expression exp(E_{q(z|x); K=8}[log p(z)])>
    """

    code = "one-draw"


class NoClosedFormError(FormulaError):
    """A KL (or entropy) has no closed form for this pair of families.

    >>> from worldformula import KL, Bernoulli, E, Normal, log
    >>> q, p = Normal("q(z|x)", torch.nn.Linear(3, 4)), Bernoulli("p(z)", shape=2)
    >>> KL(q, p)
    Traceback (most recent call last):
    worldformula.errors.NoClosedFormError: KL(q(z|x) ‖ p(z)): no closed form for normal ‖ bernoulli
      variable | declared by | shape
      z        | q(z|x)      | undeclared
      z        | p(z)        | (2,)
    estimate it on the sample: E(q, log(q) - log(p))
    >>> E(q, log(q) - log(p))
    <Expression E_{q(z|x)}[log q(z|x) - log p(z)]>
    """

    code = "no-closed-form"


class UnnormalisedError(FormulaError):
    """The log-density of an energy is asked for, or a draw: both need a normalising constant that nobody knows.

    >>> from worldformula import ContrastiveDivergence, Gibbs, log
    >>> p = Gibbs("p(x)", torch.nn.Linear(2, 1), shape=2)
    >>> log(p)
    Traceback (most recent call last):
    worldformula.errors.UnnormalisedError: p(x): exp(-energy) is not normalised, so its log-density is unknown and it
    has no direct draw
    write ContrastiveDivergence(p) or ScoreMatching(p, noise=0.1) to learn it, Energy(p) for its energy, and
    p.sample(start, steps=...) for a chain
    >>> ContrastiveDivergence(p, steps=10, step_size=0.1)
    <Expression CD{k=10; step=0.1}[p(x)]>
    """

    code = "unnormalised"


class SupportError(FormulaError):
    """A value lies where its distribution has no density: pixels of 0 … 255 under a Bernoulli, a negative waiting time.

    Checked by ``interpret`` and at the first call of each formula; later calls do not wait for it.

    >>> from worldformula import Bernoulli, log
    >>> loss = log(Bernoulli("p(x|z)", torch.nn.Linear(2, 3), shape=3)).mean()
    >>> loss(z=torch.zeros(1, 2), x=torch.tensor([[0.0, 255.0, 17.0]]))
    Traceback (most recent call last):
    worldformula.errors.SupportError: p(x|z): bernoulli: expected a value from 0 to 1, got 255 in the tensor; this looks
    like an image from 0 to 255: divide it by 255
    >>> loss(z=torch.zeros(1, 2), x=torch.tensor([[0.0, 1.0, 0.5]])).value.shape
    torch.Size([])
    """

    code = "support"


class TimeError(FormulaError):
    """A time subscript cannot be carried out: no ``Sum`` over it, or a carry without a declared shape.

    >>> from worldformula import Deterministic, E, Normal, Sum, log
    >>> core = Deterministic("h_t = f(h_{t-1}, x_t)", torch.nn.Bilinear(2, 3, 2))
    >>> step = E(core, log(Normal("p(y_t|h_t)", torch.nn.Linear(2, 2))))
    >>> Sum("t", step)(x=torch.zeros(5, 4, 3), y=torch.zeros(5, 4, 1))
    Traceback (most recent call last):
    worldformula.errors.TimeError: h_t = f(h_{t-1},x_t) carries h_{t-1} from step to step, so its size must be known
    before the first step
      variable | declared by            | shape
      h_t      | h_t = f(h_{t-1},x_t)   | undeclared
    declare it on the factor of h_t, e.g. shape=16
    >>> core = Deterministic("h_t = f(h_{t-1}, x_t)", torch.nn.Bilinear(2, 3, 2), shape=2)
    >>> step = E(core, log(Normal("p(y_t|h_t)", torch.nn.Linear(2, 2))))
    >>> Sum("t", step)(x=torch.zeros(5, 4, 3), y=torch.zeros(5, 4, 1)).value.shape
    torch.Size([5])
    """

    code = "time"


# --------------------------------------------------------------------------------------------------- running things


class ConfigError(WorldformulaError, ValueError):
    """A configuration key does not exist, or its value is impossible; or a call gives a setting an impossible number.

    >>> from worldformula import RelaxedBernoulli, Symbol, log
    >>> loss = log(RelaxedBernoulli("q(b)", shape=2, logits=0.0, temperature=Symbol("tau")))
    >>> loss(b=torch.full((3, 2), 0.5), tau=0.0)
    Traceback (most recent call last):
    worldformula.errors.ConfigError: relaxed_bernoulli: the temperature must be positive, got 0.0.
    >>> loss(b=torch.full((3, 2), 0.5), tau=1.0).value
    tensor([0., 0., 0.])
    """

    code = "config"


class EnvironmentIdError(WorldformulaError, ValueError):
    """No environment has this id. The message lists the near misses."""

    code = "environment-id"


class SpaceError(WorldformulaError, ValueError):
    """An observation or action space is not supported, or a value is not what its space declares.

    >>> from worldformula.envs import Envs
    >>> envs = Envs("cartpole", 2)
    >>> rows = envs.reset()
    >>> envs.step([1, 7])
    Traceback (most recent call last):
    worldformula.errors.SpaceError: expected 'action' as one of 2 choices, counted from 0; got [1, 7]
    >>> envs.step([1, 0])["is_last"].shape
    (2,)
    """

    code = "space"


class BrokenEnvironmentError(WorldformulaError, RuntimeError):
    """The code of an environment raised an error of its own, which is chained: ``--debug`` shows where.

    Or it hung longer than ``env.timeout``, or its process ended. A run makes the environment anew and goes on, unless
    that leads ten times in a row no further than the first step.
    """

    code = "broken-environment"


class RobotError(WorldformulaError, RuntimeError):
    """A robot does not answer any more, failed, or said something that is no number. It was paused.

    A run stores a checkpoint and ends; the message says how to go on once the robot is well again. Nothing is tried
    anew by itself, and what was done is never played again on a robot that is not simulated.
    """

    code = "robot"


class NonFiniteError(WorldformulaError, ValueError):
    """An observation, a reward or a loss is NaN or infinite."""

    code = "non-finite"


class ReplayError(WorldformulaError, ValueError):
    """The replay has too little data, or its files do not fit its description."""

    code = "replay"


class CheckpointError(WorldformulaError, OSError):
    """A checkpoint is missing, truncated or corrupted, or does not fit the model."""

    code = "checkpoint"


class RunFolderError(WorldformulaError, OSError):
    """The run folder cannot be written, or belongs to another configuration."""

    code = "run-folder"


class CatalogueError(WorldformulaError, LookupError):
    """No system, card or preset has this name. The message lists the near misses."""

    code = "catalogue"


class CardError(WorldformulaError, ValueError):
    """A card lacks a field, has an unknown one or an impossible value; or its measurement lacks the metric."""

    code = "card"
