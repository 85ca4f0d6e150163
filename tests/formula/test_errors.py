"""What an error says: the factor, a table of what was declared and what came, and what to write instead.

Every message is given in full. Errors of a call are raised alike by the emitted code and by the interpreter.
"""

import textwrap

import pytest
import torch
from torch import nn

from tests.formula.models import A, B, D, G, Join, K, T, X, Z, rssm, sequences, vae
from worldformula import (
    KL,
    Bernoulli,
    Categorical,
    Data,
    Deterministic,
    E,
    Gibbs,
    Normal,
    Sum,
    errors,
    exp,
    log,
    maximum,
    sg,
)
from worldformula.errors import (
    CycleError,
    DuplicateVariableError,
    FormulaError,
    GradientError,
    HeaderError,
    HeadError,
    MissingInputError,
    NoClosedFormError,
    OneDrawError,
    ShapeError,
    SharedDrawError,
    SupportError,
    TimeError,
    UnknownVariableError,
    UnnormalisedError,
)


def encode(outputs=2 * Z, inputs=X):
    return Normal("q(z|x)", nn.Linear(inputs, outputs), shape=Z)


def decode():
    return Bernoulli("p(x|z)", nn.Linear(Z, X), shape=X)


def prior(header="p(z)", size=Z):
    return Normal(header, shape=size)


def raises(error, message, call):
    with pytest.raises(FormulaError) as caught:
        call()
    assert type(caught.value) is error
    assert str(caught.value) == textwrap.dedent(message).strip("\n")


def x(*batch):
    return torch.zeros(*batch, X)


def shared_maximum(q):
    return maximum(E(q, log(q)), E(q, log(prior())))


CONSTRUCTION = {
    "two factors": (
        DuplicateVariableError,
        """
        two factors declare z: q(z|x) and p(z)
          variable | declared by | got
          z        | q(z|x)      | p(z)
        rename one of them, e.g. z', or leave one out of the product
        """,
        lambda: encode() * prior(),
    ),
    "two factors in time": (
        DuplicateVariableError,
        """
        two factors declare z_t: q(z_t|x_t) and p(z_t)
          variable | declared by | got
          z_t      | q(z_t|x_t)  | p(z_t)
        rename one of them, e.g. z', or leave one out of the product
        """,
        lambda: Normal("q(z_t|x_t)", nn.Linear(X, 4)) * prior("p(z_t)"),
    ),
    "cycle": (
        CycleError,
        """
        these factors need each other at the same step
          variable | declared by | needs
          x        | p(x|y)      | y
          y        | p(y|x)      | x
        break the cycle with an earlier step, e.g. a condition at t-1
        """,
        lambda: Normal("p(x|y)", nn.Linear(2, 4)) * Normal("p(y|x)", nn.Linear(2, 4)),
    ),
    "cycle in time": (
        CycleError,
        """
        these factors need each other at the same step
          variable | declared by  | needs
          h_t      | h_t = f(y_t) | y_t
          y_t      | p(y_t|h_t)   | h_t
        break the cycle with an earlier step, e.g. a condition at t-1
        """,
        lambda: (
            Normal("q(z_t|h_{t-1})", nn.Linear(2, 4))
            * Deterministic("h_t = f(y_t)", nn.Identity())
            * Normal("p(y_t|h_t)", nn.Linear(2, 4))
        ),
    ),
    "no estimator": (
        GradientError,
        """
        E over q(c|x): a categorical sample is not reparametrised, so its gradient would be silently missing
          variable | declared by | got
          c        | q(c|x)      | no gradient=
        choose an estimator: E(q, f, gradient='score')
        """,
        lambda: E(Categorical("q(c|x)", nn.Linear(X, 3)), log(Categorical("p(c)", nn.Linear(X, 3)))),
    ),
    "no estimator in time": (
        GradientError,
        """
        E over q(c_t|x_t): a bernoulli sample is not reparametrised, so its gradient would be silently missing
          variable | declared by | got
          c_t      | q(c_t|x_t)  | no gradient=
        choose an estimator: E(q, f, gradient='straight-through' or gradient='gumbel' or gradient='score')
        """,
        lambda: E(Bernoulli("q(c_t|x_t)", nn.Linear(X, 3)), log(Bernoulli("p(c_t)", shape=3))),
    ),
    "an estimator that the family lacks": (
        GradientError,
        """
        E over q(c|x): a categorical factor has gradient='score', got gradient='straight-through'
          variable | declared by | got
          c        | q(c|x)      | gradient='straight-through'
        write gradient='score'
        """,
        lambda: E(Categorical("q(c|x)", nn.Linear(X, 3)), log(decode()), gradient="straight-through"),
    ),
    "an estimator where none is needed": (
        GradientError,
        """
        E over q(z|x): a normal factor has gradient='reparametrised' or gradient='score' or gradient='dreg', got \
gradient='gumbel'
          variable | declared by | got
          z        | q(z|x)      | gradient='gumbel'
        leave gradient= out: the sample is reparametrised
        """,
        lambda: E(encode(), log(decode()), gradient="gumbel"),
    ),
    "no closed form": (
        NoClosedFormError,
        """
        KL(q(z|x) ‖ p(z)): no closed form for normal ‖ bernoulli
          variable | declared by | shape
          z        | q(z|x)      | (2,)
          z        | p(z)        | (2,)
        estimate it on the sample: E(q, log(q) - log(p))
        """,
        lambda: KL(encode(), Bernoulli("p(z)", shape=Z)),
    ),
    "no closed form in time": (
        NoClosedFormError,
        """
        KL(q(z_t|x_t) ‖ p(z_t)): no closed form for bernoulli ‖ normal
          variable | declared by | shape
          z_t      | q(z_t|x_t)  | undeclared
          z_t      | p(z_t)      | (2,)
        estimate it on the sample: E(q, log(q) - log(p), gradient='score')
        """,
        lambda: KL(Bernoulli("q(z_t|x_t)", nn.Linear(X, Z)), prior("p(z_t)")),
    ),
    "KL of a function": (
        NoClosedFormError,
        """
        KL(h = f(x) ‖ p(h)): a deterministic or data factor has no density
          variable | declared by | shape
          h        | h = f(x)    | undeclared
          h        | p(h)        | (2,)
        compare values instead, e.g. with log of a Normal with scale=1.0
        """,
        lambda: KL(Deterministic("h = f(x)", nn.Identity()), prior("p(h)")),
    ),
    "KL of two variables": (
        FormulaError,
        """
        KL(q(z|x) ‖ p(w)): expected two factors of one variable
          variable | declared by | shape
          z        | q(z|x)      | (2,)
          w        | p(w)        | (2,)
        give both headers the same variable
        """,
        lambda: KL(encode(), prior("p(w)")),
    ),
    "KL of a product": (
        FormulaError,
        """
        KL(q(z|x) p(w) ‖ p(z)): expected two products over the same random variables
          side        | random variables
          q(z|x) p(w) | z, w
          p(z)        | z
        put what only one side has into a term of its own, e.g. KL(q, prior) - E(q, log(decode))
        """,
        lambda: KL(encode() * prior("p(w)"), prior()),
    ),
    "KL of two shapes": (
        ShapeError,
        """
        KL(q(z|x) ‖ p(z)): expected equal event shapes
          variable | declared by | shape
          z        | q(z|x)      | (2,)
          z        | p(z)        | (3,)
        declare the same shape= on both
        """,
        lambda: KL(encode(), prior(size=3)),
    ),
    "product of two expectations": (
        SharedDrawError,
        """
        the maximum of two expectations over q(z|x) needs two independent draws,
        and inside one expression a factor draws once
          variable | declared by | drawn in
          z        | q(z|x)      | E_{q(z|x)}[log q(z|x)]
          z        | q(z|x)      | E_{q(z|x)}[log p(z)]
        write E(q, f) * E(q.fresh(), g) for independent draws, or E(q, f * g) for the expectation of f * g
        """,
        lambda: shared_maximum(encode()),
    ),
    "function of one draw": (
        OneDrawError,
        """
        the exp of an expectation, which one draw estimates: E[g(f)] is not g(E[f])
          variable | declared by | drawn once in
          z        | q(z|x)      | E_{q(z|x)}[log p(x|z)]
        write E(q, g(f)) for the expectation of the exp, E(q, f) * E(q.fresh(), f) for a square,
        or E(q, f, samples=K) for the exp of a mean
        """,
        lambda: exp(2 * E(encode(), log(decode())).mean() + 1),
    ),
    "inverse of one draw": (
        OneDrawError,
        """
        the inverse of an expectation, which one draw estimates: E[g(f)] is not g(E[f])
          variable | declared by | drawn once in
          z        | q(z|x)      | E_{q(z|x)}[log p(x|z)]
        write E(q, g(f)) for the expectation of the inverse, E(q, f) * E(q.fresh(), f) for a square,
        or E(q, f, samples=K) for the inverse of a mean
        """,
        lambda: 1 / E(encode(), log(decode())),
    ),
    "header": (
        HeaderError,
        """
        expected ',' or ')', found 'y'
            q(z|x y)
                  ^
        """,
        lambda: Normal("q(z|x y)", shape=2),
    ),
    "repeated variable": (
        HeaderError,
        "expected each variable once, found z twice\n    q(z|z)",
        lambda: prior("q(z|z)"),
    ),
    "two variables": (
        HeaderError,
        "q(z,y|x): expected one variable, found 2; write a product of factors, e.g. p(x|z) * p(y|z)",
        lambda: prior("q(z,y|x)"),
    ),
    "offset": (
        TimeError,
        """
        q(z_t|x_{t+1}): expected an offset of 0 or below, found x_{t+1}, which lies ahead
        move the index, so that the latest variable is that of t, or read the whole series, x_{1:T}
        """,
        lambda: prior("q(z_t|x_{t+1})"),
    ),
    "data with conditions": (
        HeaderError,
        "p_data(x|y): expected data without conditions, e.g. p_data(x)",
        lambda: Data("p_data(x|y)"),
    ),
    "class for a network": (
        FormulaError,
        "q(z|x): expected a network, got the class Linear; build it: Linear(...)",
        lambda: Normal("q(z|x)", nn.Linear),
    ),
    "misspelt parameter": (
        FormulaError,
        "q(z): normal has no parameter 'scal'; it has loc, scale. Did you mean 'scale'?",
        lambda: Normal("q(z)", scal=1.0, shape=2),
    ),
    "misspelt option": (
        FormulaError,
        "q(z): normal has no parameter 'shpae'; it has loc, scale. Did you mean 'shape'?",
        lambda: Normal("q(z)", shpae=2),
    ),
    "no network": (FormulaError, "q(z|x): expected a network of x, got nothing", lambda: prior("q(z|x)")),
    "factor for an expression": (
        FormulaError,
        "expected an expression or a number, got Bernoulli; write log(p) for its log-density",
        lambda: E(encode(), decode()),
    ),
    "log of a function": (
        FormulaError,
        "log h = f(x): a deterministic or data factor has no density",
        lambda: log(Deterministic("h = f(x)", nn.Identity())),
    ),
    "text for a factor": (FormulaError, "expected a factor or a product of factors, got str: 'q'", lambda: E("q", 1)),
    "sg of a number": (FormulaError, "expected an expression or a factor, got int", lambda: sg(3)),
    "log of an energy": (
        UnnormalisedError,
        """
        p(x): exp(-energy) is not normalised, so its log-density is unknown and it has no direct draw
        write ContrastiveDivergence(p) or ScoreMatching(p, noise=0.1) to learn it, Energy(p) for its energy, and \
p.sample(start, steps=...) for a chain
        """,
        lambda: log(Gibbs("p(x)", nn.Linear(2, 1), shape=2)),
    ),
    "log of a marginal": (
        NoClosedFormError,
        """
        log ∫ p(x|z) p(z) dz: a normal variable cannot be summed out exactly: z has no short list of values
        write a bound, log(E(q, ratio(p, q), samples=K)), or draw it inside E(...)
        """,
        lambda: log((decode() * prior()).marginal("z")),
    ),
    "factor under Sum": (FormulaError, "expected Sum('t', expression), got Normal", lambda: Sum("t", encode())),
}


@pytest.mark.parametrize("case", CONSTRUCTION)
def test_construction(case):
    error, message, build = CONSTRUCTION[case]
    raises(error, message, build)


# ---------------------------------------------------------------------------------------------------------- calls


def without(data, key):
    return {k: v for k, v in data.items() if k != key}


def series_elbo(factor):
    return Sum("t", KL(factor, prior("p(z_t)")))


def one_step():
    core = Deterministic("h_t = f(h_{t-1}, z_{t-1})", lambda h, z: h + z, shape=Z)
    post = Normal("q(z_t|h_t,x_t)", Join(Z + X, 2 * Z), shape=Z)
    return E(core * post, KL(post, prior("p(z_t)")))


CALLS = {
    "unknown": (
        UnknownVariableError,
        """
        the formula has no input 'y'.
          variable | declared by | needed by      | got
          x        | data        | q(z|x), p(x|z) | given
        """,
        vae,
        lambda: {"x": x(B), "y": x(B)},
    ),
    "flags of rows": (
        ShapeError,
        """
        present: expected one flag for each row of x
          variable | its shape | flags | got
          x        | [3, 6]    | [3]   | [3, 1]
        """,
        lambda: log(Normal("p(x)", shape=X)),
        lambda: {"x": x(B), "present": {"x": torch.ones(B, 1)}},
    ),
    "support": (
        SupportError,
        """
        p(x): bernoulli: expected a value from 0 to 1, got 2 in the tensor
        """,
        lambda: log(Bernoulli("p(x)", shape=X)),
        lambda: {"x": torch.full((B, X), 2.0)},
    ),
    "misspelt in time": (
        UnknownVariableError,
        """
        the formula has no input 'frist'. Did you mean 'first'?
          variable | declared by | needed by                        | got
          x        | data        | e_t = enc(x_t), p(x_t|h_t,z_t)   | given
          a        | data        | h_t = f(h_{t-1},z_{t-1},a_{t-1}) | given
          r        | data        | p(r_t|h_t,z_t)                   | given
          first    | data        | reset                            | missing
        """,
        rssm,
        lambda: {**without(sequences(), "first"), "frist": torch.zeros(B, T)},
    ),
    "missing": (
        MissingInputError,
        """
        the formula needs x; pass x=...
          variable | declared by | needed by      | got
          x        | data        | q(z|x), p(x|z) | missing
        """,
        vae,
        dict,
    ),
    "missing in time": (
        MissingInputError,
        """
        the formula needs a; pass a=...
          variable | declared by | needed by                        | got
          x        | data        | e_t = enc(x_t), p(x_t|h_t,z_t)   | given
          a        | data        | h_t = f(h_{t-1},z_{t-1},a_{t-1}) | missing
          r        | data        | p(r_t|h_t,z_t)                   | given
          first    | data        | reset                            | given
        """,
        rssm,
        lambda: without(sequences(), "a"),
    ),
    "no Sum around what is carried": (
        MissingInputError,
        """
        the formula needs h_prev, z_prev. h_{t-1} and z_{t-1} are of an earlier step, and no Sum goes over t
          variable | declared by | needed by                | got
          h_prev   | data        | h_t = f(h_{t-1},z_{t-1}) | missing
          z_prev   | data        | h_t = f(h_{t-1},z_{t-1}) | missing
          x        | data        | q(z_t|h_t,x_t)           | given
        write Sum('t', ...) around what belongs to a step; for one step alone, pass h_prev=..., z_prev=...
        """,
        lambda: one_step().mean(),
        lambda: {"x": x(B, T)},
    ),
    "no Sum around lagged data": (
        UnknownVariableError,
        """
        the formula has no input 'a'. a_{t-1} is of an earlier step, and no Sum goes over t
          variable | declared by | needed by      | got
          x        | data        | p(x_t|a_{t-1}) | given
          a_prev   | data        | p(x_t|a_{t-1}) | missing
        write Sum('t', ...) around what belongs to a step; for one step alone, pass a_prev=...
        """,
        lambda: log(Normal("p(x_t|a_{t-1})", nn.Linear(A, 2 * X), shape=X)).mean(),
        lambda: {"x": x(B, T), "a": torch.zeros(B, T, A)},
    ),
    "float64 data": (
        FormulaError,
        """
        q(z|x): its network failed: mat1 and mat2 must have the same dtype, but got Double and Float
          variable | got
          x        | float64 [3, 6]
          weights  | float32
        pass x=x.float(); or compute in float64 throughout: loss.double()
        """,
        lambda: E(encode(), log(decode())),
        lambda: {"x": x(B).double()},
    ),
    "float64 networks": (
        FormulaError,
        """
        q(z|x): its network failed: mat1 and mat2 must have the same dtype, but got Float and Double
          variable | got
          x        | float32 [3, 6]
          weights  | float64
        pass x=x.double(); or compute in float32 throughout: loss.float()
        """,
        lambda: E(encode(), log(decode())).double(),
        lambda: {"x": x(B)},
    ),
    "float64 data behind what is carried": (
        FormulaError,
        """
        q(z_t|h_t,x_t): its network failed: mat1 and mat2 must have the same dtype, but got Double and Float
          variable | got
          h_t      | float64 [3, 2]
          x_t      | float64 [3, 6]
          weights  | float32
        pass x=x.float(); or compute in float64 throughout: loss.double()
        """,
        lambda: Sum("t", one_step()).mean(),
        lambda: {"x": x(B, T).double()},
    ),
    "whole numbers before a layer": (
        FormulaError,
        """
        p(x|z): its network failed: mat1 and mat2 must have the same dtype, but got Long and Float
          variable | got
          z        | int64 [3, 2]
          weights  | float32
        pass z=z.float(); or, where they are classes, z=torch.nn.functional.one_hot(z, n).float()
        """,
        lambda: log(decode()),
        lambda: {"x": x(B), "z": torch.zeros(B, Z, dtype=torch.int64)},
    ),
    "event shape": (
        ShapeError,
        """
        x does not have the event shape that p(x|z) declares
          variable | declared | got
          x        | [..., 6] | [3, 5]
        pass batch axes + event axes, or change shape= on its factor
        """,
        lambda: E(encode(), log(decode())),
        lambda: {"x": torch.zeros(B, X - 1)},
    ),
    "event shape in time": (
        ShapeError,
        """
        x does not have the event shape that p(x_t|h_t,z_t) declares
          variable | declared  | got
          x        | [B, T, 6] | [3, 4, 5]
        pass batch axes + event axes, or change shape= on its factor
        """,
        rssm,
        lambda: sequences() | {"x": torch.zeros(B, T, X - 1)},
    ),
    "undeclared event shape": (
        ShapeError,
        """
        h_t = f(h_{t-1},z_{t-1},a_{t-1}): its network failed: mat1 and mat2 shapes cannot be multiplied (3x12 and 13x5)
          variable | declared    | got
          h_{t-1}  | [..., 5]    | [3, 5]
          z_{t-1}  | [..., 2, 3] | [3, 2, 3]
          a_{t-1}  | undeclared  | [3, 1]
        make the network take these shapes, with one batch
        """,
        rssm,
        lambda: sequences() | {"a": torch.zeros(B, T, A - 1)},
    ),
    "series of two lengths": (
        ShapeError,
        """
        expected series with one batch of at least one row and one length of at least 1
          variable | declared    | got
          x        | [B, T, ...] | [3, 4, 6]
          a        | [B, T, ...] | [3, 3, 2]
          r        | [B, T, ...] | [3, 4]
          first    | [B, T, ...] | [3, 4]
        pass batch-first series, all of one length
        """,
        rssm,
        lambda: sequences() | {"a": torch.zeros(B, T - 1, A)},
    ),
    "flags": (
        ShapeError,
        """
        first does not have the event shape that reset= declares
          variable | declared | got
          first    | [B, T]   | [3, 4, 1]
        pass one flag per step
        """,
        rssm,
        lambda: sequences() | {"first": torch.zeros(B, T, 1)},
    ),
    "not a tensor": (
        ShapeError,
        "x: expected a tensor, got list; write x=torch.as_tensor(...)",
        vae,
        lambda: {"x": x(B).tolist()},
    ),
    "head": (
        HeadError,
        """
        q(z|x): normal: the head does not split into loc, scale.
          event shape | expected head | got head
          (2,)        | [..., 4]      | [3, 3]
        End the network in 4 features, declare another shape=..., or fix a parameter by keyword.
        """,
        lambda: KL(encode(outputs=3), prior()),
        lambda: {"x": x(B)},
    ),
    "result of a function": (
        HeadError,
        """
        h_t = f(h_{t-1},x_t): the network's result does not end in the declared event shape
          variable | declared | got
          h_t      | [4]      | [3, 6]
        change the network, or shape=
        """,
        lambda: Sum(
            "t",
            E(
                Deterministic("h_t = f(h_{t-1},x_t)", lambda h, x: x, shape=4),
                log(Normal("p(y_t|h_t)", nn.Linear(4, 2))),
            ),
        ),
        lambda: {"x": x(B, T), "y": torch.zeros(B, T, 1)},
    ),
    "batches that would broadcast": (
        ShapeError,
        """
        the terms have different batch shapes, and combining them would broadcast one into another
          variable | declared        | got
          log p(x) | one batch shape | [4]
          log p(y) | one batch shape | [1]
        give every input the same batch axes, and declare event shapes (shape=), so that log sums the right axes
        """,
        (log(prior("p(x)", X)) + log(prior("p(y)"))).mean,
        lambda: {"x": x(4), "y": torch.zeros(1, Z)},
    ),
    "a series and a batch that would broadcast": (
        ShapeError,
        """
        the terms have different batch shapes, and combining them would broadcast one into another
          variable       | declared        | got
          Σ_t log p(x_t) | one batch shape | [4]
          log p(y)       | one batch shape | [1]
        give every input the same batch axes, and declare event shapes (shape=), so that log sums the right axes
        """,
        (Sum("t", log(prior("p(x_t)", X))) + log(prior("p(y)"))).mean,
        lambda: {"x": x(4, T), "y": torch.zeros(1, Z)},
    ),
    "nested factors of one variable": (
        DuplicateVariableError,
        """
        two factors declare z in nested expectations; the inner is p(z)
        rename one of them, e.g. z'
        """,
        lambda: E(encode(), E(prior(), log(decode()))),
        lambda: {"x": x(B)},
    ),
    "two event shapes": (
        ShapeError,
        """
        z has two event shapes
          variable | declared by | declared
          z        | q(z|x)      | (2,)
          z        | p(z)        | (3,)
        declare the same shape= on both
        """,
        lambda: E(encode(), log(prior(size=3))),
        lambda: {"x": x(B)},
    ),
    "carry of unknown size": (
        TimeError,
        """
        q(z_t|z_{t-1},x_t) carries z_{t-1} from step to step, so its size must be known before the first step
          variable | declared by        | shape
          z_t      | q(z_t|z_{t-1},x_t) | undeclared
        declare it on the factor of z_t, e.g. shape=16
        """,
        lambda: Sum("t", E(Normal("q(z_t|z_{t-1},x_t)", Join(8, 4)), log(Normal("p(x_t|z_t)", nn.Linear(2, 12))))),
        lambda: {"x": x(B, T)},
    ),
    "draw of unknown size": (
        TimeError,
        """
        q(z_t|x_t) draws z_t at every step, so its size must be known before the first step
          variable | declared by | shape
          z_t      | q(z_t|x_t)  | undeclared
        declare it on the factor of z_t, e.g. shape=16
        """,
        lambda: Sum("t", E(Normal("q(z_t|x_t)", Join(6, 4)), log(Normal("p(x_t|z_t)", nn.Linear(2, 12))))),
        lambda: {"x": x(B, T)},
    ),
    "a variable outside its E": (
        TimeError,
        "p(x_t|z_t) reads z_t outside the E that draws it; put the term inside that E",
        lambda: Sum(
            "t",
            log(Normal("p(x_t|z_t)", nn.Linear(2, 12)))
            + E(Normal("q(z_t|x_t)", nn.Linear(X, 4), shape=Z), log(prior("p(z_t)"))),
        ),
        lambda: {"x": x(B, T)},
    ),
    "score through a carry": (
        GradientError,
        """
        E over q(c_t|c_{t-1},x_t): gradient='score' would miss what the draw does to later steps,
        which read it through the carry
        use gradient='straight-through', or a family such as OneHot
        """,
        lambda: Sum(
            "t",
            E(
                Bernoulli("q(c_t|c_{t-1},x_t)", Join(8, 2), shape=2),
                log(Bernoulli("p(c_t)", shape=2)),
                gradient="score",
            ),
        ),
        lambda: {"x": x(B, T)},
    ),
    "two clocks": (
        TimeError,
        "one formula has one clock: found Sum over 't' with reset=None and over 's' with reset=None",
        lambda: Sum("t", log(prior("p(x_t)", X))) + Sum("s", log(prior("p(y_s)", X))),
        lambda: {"x": x(B, T), "y": x(B, T)},
    ),
    "no index": (
        TimeError,
        """
        Sum over 't': nothing inside has the index t
        give a variable its subscript, e.g. x_t; one number for the whole call belongs outside
        """,
        lambda: Sum("t", log(prior("p(x)", X))),
        lambda: {"x": x(B)},
    ),
    "part of a start": (
        MissingInputError,
        """
        start: expected all that goes from step to step
          variable | declared                 | got
          h        | carried                  | given
          z        | carried                  | missing
          a        | last value of the series | missing
        pass the whole out.last of the call before, or no start= for zeros
        """,
        rssm,
        lambda: sequences() | {"start": {"h": torch.zeros(B, D)}},
    ),
    "unknown start": (
        UnknownVariableError,
        "start: no variable 'hh' is carried; these are: h, z, a. Did you mean 'h'?",
        rssm,
        lambda: sequences() | {"start": {"hh": torch.zeros(B, D)}},
    ),
    "shape of the start": (
        ShapeError,
        """
        start: expected batch + event
          variable | declared | got
          h        | [3, 5]   | [3, 6]
        """,
        rssm,
        lambda: (
            sequences() | {"start": {"h": torch.zeros(B, D + 1), "z": torch.zeros(B, G, K), "a": torch.zeros(B, A)}}
        ),
    ),
    "unknown noise": (
        UnknownVariableError,
        "noise: no variable 'zz' is drawn; these are: z. Did you mean 'z'?",
        vae,
        lambda: {"x": x(B), "noise": {"zz": torch.zeros(B, Z)}},
    ),
    "shape of the noise": (
        ShapeError,
        """
        noise: expected batch + event
          variable | declared | got
          z        | [3, 2]   | [3, 3]
        """,
        lambda: E(encode(), log(decode())),
        lambda: {"x": x(B), "noise": {"z": torch.zeros(B, Z + 1)}},
    ),
    "seed and generator": (
        FormulaError,
        "expected seed= or generator=, got both",
        vae,
        lambda: {"x": x(B), "seed": 0, "generator": torch.Generator()},
    ),
    "a reserved name": (
        FormulaError,
        "p(seed): a variable cannot be called 'seed', which is an option of the call",
        lambda: log(prior("p(seed)")),
        dict,
    ),
}


@pytest.mark.parametrize("path", ["emitted", "interpreted"])
@pytest.mark.parametrize("case", CALLS)
def test_calls(case, path):
    error, message, build, data = CALLS[case]
    loss, given = build(), data()
    raises(error, message, lambda: loss(**given) if path == "emitted" else loss.interpret(**given))


def test_positional_arguments():
    raises(
        FormulaError,
        "expected the variables as keywords, e.g. loss(x=batch), got positional arguments",
        lambda: vae()(x(B)),
    )


FACTORS = {
    "dtype": (
        FormulaError,
        """
        q(z|x): its network failed: mat1 and mat2 must have the same dtype, but got Double and Float
          variable | got
          x        | float64 [3, 6]
          weights  | float32
        pass x=x.float(); or compute in float64 throughout: q.double()
        """,
        lambda: encode().sample(x=x(B).double()),
    ),
    "floats for an index": (
        FormulaError,
        """
        q(z|x): its network failed: one_hot is only applicable to index tensor of type LongTensor.
          variable | got
          x        | float32 [3]
          weights  | none
        it takes whole numbers: pass x=x.long()
        """,
        lambda: Normal("q(z|x)", lambda x: nn.functional.one_hot(x, 2 * Z).float(), shape=Z).sample(x=torch.ones(B)),
    ),
    "log_prob": (
        MissingInputError,
        """
        q(z|x) needs z; pass z=...
          variable | declared by | got
          z        | q(z|x)      | missing
          x        | q(z|x)      | given
        """,
        lambda: encode().log_prob(x=x(B)),
    ),
    "sample": (
        UnknownVariableError,
        """
        q(z|x) has no variable 'y'.
          variable | declared by | got
          x        | q(z|x)      | missing
        """,
        lambda: encode().sample(y=x(B)),
    ),
    "batches": (
        ShapeError,
        """
        p(x|z): bernoulli: the value and the parameters have different shapes, and nothing is broadcast silently.
          variable  | declared | got
          the value | [1, 6]   | [3, 6]
        Give both the same batch axes and the same event shape.
        """,
        lambda: decode().log_prob(x=x(B), z=torch.zeros(1, Z)),
    ),
}


@pytest.mark.parametrize("case", FACTORS)
def test_direct_calls_of_a_factor(case):
    error, message, call = FACTORS[case]
    raises(error, message, call)


def test_every_error_of_the_language_is_told_in_full_here():
    language = {k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, FormulaError)}
    assert {case[0] for case in (*CONSTRUCTION.values(), *CALLS.values(), *FACTORS.values())} == language


def test_the_traceback_shows_the_emitted_line():
    def fail(_):
        raise KeyError("from inside the network")

    loss = log(Normal("p(x|z)", fail, shape=X))
    with pytest.raises(KeyError) as caught:
        loss(x=x(B), z=torch.zeros(B, Z))
    lines = [str(entry.statement) for entry in caught.traceback if str(entry.path).startswith("<formula")]
    assert any("function_1(z).split_with_sizes((6, 6), -1)" in line for line in lines)


def test_a_factor_that_goes_back_stays_outside_of_sums_over_time():
    q = Normal("q(x_{t-1}|x_t)", nn.Linear(2, 4), shape=2)
    p = Normal("p(x_{t-1}|x_t)", nn.Linear(2, 4), shape=2)
    assert str(KL(q, p)) == r"D_{\mathrm{KL}}\left[ q(x_{t-1} \mid x_{t}) \,\|\, p(x_{t-1} \mid x_{t}) \right]"
    assert KL(q, p)(x=torch.ones(3, 2)).value.shape == (3,)
    with pytest.raises(TimeError, match="goes back in time"):
        Sum("t", KL(q, p))
    with pytest.raises(TimeError, match="at the current step"):
        Normal("q(x_{t-1}|z_t)", nn.Linear(2, 4), shape=2)
