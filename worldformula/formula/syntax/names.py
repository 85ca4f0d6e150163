r"""Names: reading ``"q(z_t|h_t,e_t)"`` and ``"h_t = f(h_{t-1}, a_{t-1})"``, by hand, with a caret under every error.

A variable is what the paper prints: a base (``x``, ``\hat z``, ``h'``, ``image``), perhaps a static subscript
(``z_1``) or a time index with an offset (``z_{t-1}``). A single letter as a subscript, with or without an offset, is an
index: ``Sum("t", ...)`` binds it. ``z_{<t}``, ``z_{\le t}`` and ``z_{t-3:t}`` are histories, up to a step or before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from worldformula.errors import HeaderError, TimeError, UnknownVariableError, near
from worldformula.formula.syntax.spelling import belongs, by_keyword, greek, normal

ACCENTS = ("hat", "tilde", "bar", "dot", "vec")


@dataclass(frozen=True)
class Variable:
    """One variable as written. ``index`` is the time index (``"t"``), ``offset`` its shift (−1 in ``z_{t-1}``).

    ``span`` is set in ``x_{1:T}``, the whole series; ``inner`` is the second index of ``x_{k,l}``. ``past`` is set in a
    history, which ends at ``offset``: −1 in ``z_{<t}``, 0 in ``z_{≤t}``; ``window`` is its length, 4 in ``z_{t-3:t}``,
    or how many first rows there are, 2 in ``x_{1:2}``.
    """

    base: str
    accent: str | None = None
    primes: int = 0
    subscript: str | None = None
    index: str | None = None
    offset: int = 0
    span: bool = False
    inner: str | None = None
    past: bool = False
    window: int | None = None

    @cached_property
    def key(self) -> str:
        """The keyword under which a value is passed: an identifier without the time index.

        >>> [Variable("z", index="t", offset=-1).key, Variable("z", accent="hat").key, Variable("h", primes=1).key]
        ['z', 'hat_z', 'h_prime']
        """
        accent = f"{self.accent}_" if self.accent else ""
        base = "".join(greek(c) for c in self.base)
        return accent + base + "_prime" * self.primes + (f"_{self.subscript}" if self.subscript else "")

    @cached_property
    def identifier(self) -> str:
        """The name in emitted code: the key, and ``_prev`` or ``_next`` for a shifted index."""
        if self.span:
            return f"{self.key}_series"
        if self.first:
            return f"{self.key}_first"
        if self.past:
            return self.key + ("_past" if self.offset else "_so_far" if self.window is None else "_window")
        shift = {0: "", -1: "_prev", 1: "_next"}.get(self.offset)
        return self.key + (shift if shift is not None else f"_{'m' if self.offset < 0 else 'p'}{abs(self.offset)}")

    def lag(self, steps: int) -> Variable:
        """What a state keeps of the value so many steps before its own, as a variable: ``z_m1`` is one step older.

        >>> Variable("z", index="t").lag(1).key
        'z_m1'
        """
        before = f"{self.subscript}_" if self.subscript else ""
        return replace(self, subscript=f"{before}m{steps}", offset=0)

    def at(self, offset: int) -> Variable:
        """The same variable at one step, at this offset of its index."""
        return replace(self, offset=offset, past=False, window=None)

    @property
    def several(self) -> bool:
        """Whether it stands for several steps: a whole series, a history, or the first rows."""
        return self.span or self.past or self.first

    @property
    def first(self) -> bool:
        """Whether it is the first rows of a series, ``x_{1:2}``."""
        return self.window is not None and not self.past

    @property
    def now(self) -> Variable:
        """The variable of the current step that a value waits for: h_t for ``h_{1:T}`` and ``h_{≤t}``."""
        return replace(self, span=False, past=False, window=None) if self.several else self

    @property
    def suffix(self) -> str:
        """The time index as text: ``t``, ``t-1``, ``1:T``, ``<t``, ``t-3:t``, or nothing."""
        if self.span:
            return f"1:{str(self.index).upper()}"
        if self.first:
            return f"1:{self.window}"
        if self.past and self.window is None:
            return f"{'<' if self.offset else '≤'}{self.index}"
        own = "" if self.index is None else f"{self.index}{self.offset:+d}" if self.offset else self.index
        if self.past and self.window is not None:
            first = self.offset - self.window + 1
            return f"{self.index}{f'{first:+d}' if first else ''}:{own}"
        return own if self.inner is None else f"{own},{self.inner}"

    def __str__(self) -> str:
        base = (f"\\{self.accent} " if self.accent else "") + self.base + "'" * self.primes
        sub = ",".join(s for s in (self.subscript, self.suffix) if s)
        return base + (f"_{sub}" if len(sub) == 1 else f"_{{{sub}}}" if sub else "")


@dataclass(frozen=True)
class Header:
    """``letter(variables | conditions)``, or ``variable = letter(conditions)`` for a deterministic factor.

    ``bar``: whether the letter has one, as that of a slow copy.
    """

    letter: str
    variables: tuple[Variable, ...]
    conditions: tuple[Variable, ...]
    deterministic: bool
    written: str
    bar: bool = False

    @cached_property
    def identifier(self) -> str:
        """The attribute of an expression under which the network lives: ``q_z_given_x``, ``enc``, ``slow_p_z``."""
        letter = ("slow_" if self.bar else "") + re.sub(r"\W", "_", "".join(greek(c) for c in self.letter))
        if self.deterministic:
            return letter
        name = "_".join([letter, *(v.identifier for v in self.variables)])
        return name + ("_given_" + "_".join(c.identifier for c in self.conditions) if self.conditions else "")

    def __str__(self) -> str:
        variables, conditions = (",".join(map(str, vs)) for vs in (self.variables, self.conditions))
        letter = rf"\bar {self.letter}" if self.bar else self.letter
        if self.deterministic:
            return f"{variables} = {letter}({conditions})"
        return f"{letter}({variables}{'|' + conditions if conditions else ''})"


_WORD = re.compile(r"[^\W\d_][^\W_]*")
_SUBSCRIPT = re.compile(r"[^\W_]+")
_INDEX = re.compile(r"([^\W\d_])(?:([+-])(\d+))?")
_PAST = re.compile(r"(<=|≤|\\leq?|<)([^\W\d_])")
_WINDOW = re.compile(r"([^\W\d_])(?:-(\d+))?:([^\W\d_])(?:-(\d+))?")


class _Reader:
    """A cursor over one header; every method's docstring is its line of the grammar."""

    def __init__(self, text: str) -> None:
        self.text, self.at = normal(text), 0

    def fail(self, expected: str) -> HeaderError:
        found = repr(self.text[self.at]) if self.at < len(self.text) else "the end"
        return HeaderError(f"expected {expected}, found {found}\n    {self.text}\n    {' ' * self.at}^")

    def space(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def take(self, symbol: str) -> bool:
        self.space()
        if self.text.startswith(symbol, self.at):
            self.at += len(symbol)
            return True
        return False

    def need(self, symbol: str, expected: str | None = None) -> None:
        if not self.take(symbol):
            raise self.fail(expected or repr(symbol))

    def match(self, pattern: re.Pattern[str], expected: str) -> str:
        found = pattern.match(self.text, self.at)
        if not found:
            raise self.fail(expected)
        self.fits(found.group(), expected)
        self.at = found.end()
        return found.group()

    def fits(self, word: str, expected: str) -> None:
        """Refuse what is a letter but cannot stand in a name of Python's: x²."""
        if not belongs(word):
            self.at = next(i for i in range(self.at, len(self.text)) if not belongs(self.text[i]))
            raise self.fail(f"{expected} of letters and digits that names in Python may have")

    def variable(self) -> Variable:
        r"""variable := ['\' accent] name {"'"} ['_' subscript | '_{' subscript {',' subscript} '}']"""
        self.space()
        accent = None
        if self.take("\\"):
            name = self.match(_WORD, "a Greek letter or an accent such as \\hat")
            if name in ACCENTS:
                accent, braces = name, self.take("{")
                self.space()
                self.take("\\")
                name = self.match(_WORD, "a variable")
                if braces:
                    self.need("}")
        else:
            name = self.match(_WORD, "a variable")
        primes = 0
        while self.at < len(self.text) and self.text[self.at] == "'":
            self.at, primes = self.at + 1, primes + 1
        variable = Variable(greek(name), accent, primes)  # \theta and θ are one variable
        if self.at < len(self.text) and self.text[self.at] == "_":
            variable = self.subscripted(variable)
        if variable.key == "self":
            raise HeaderError(f"{self.text}: a variable cannot be called 'self', the first argument of every call")
        return variable

    def subscripted(self, variable: Variable) -> Variable:
        r"""subscript := letter [('+'|'-') digits] | word | ('<'|'<='|'\\le') letter | letter ['-' digits] ':' letter"""
        self.at += 1
        if not self.take("{"):
            return self._with(variable, self.match(_SUBSCRIPT, "a subscript"))
        end = self.text.find("}", self.at)
        if end < 0:
            self.at = len(self.text)
            raise self.fail("'}'")
        for part in self.text[self.at : end].replace(" ", "").split(","):
            if _PAST.fullmatch(part) or _WINDOW.fullmatch(part):
                variable = self._history(variable, part)
                continue
            if not re.fullmatch(r"[^\W_]+([+-]\d+)?|1:([A-Z]|[1-9]\d*)", part):
                raise self.fail("a subscript such as 't-1' or '1:T'")
            self.fits(re.sub(r"[^\w]", "", part), "a subscript")
            variable = self._with(variable, part)
        self.at = end + 1
        return variable

    def _history(self, variable: Variable, part: str) -> Variable:
        """``<t``, ``≤t``, or a window ``t-3:t``, both ends included."""
        past = _PAST.fullmatch(part)
        if past is not None:
            return replace(variable, index=past[2], offset=-1 if past[1] == "<" else 0, past=True)
        window = _WINDOW.fullmatch(part)
        assert window is not None
        first, last = (int(steps or 0) for steps in (window[2], window[4]))
        if window[1] != window[3] or last > 1 or first < last:
            raise self.fail(f"a window that ends at {window[1]} or {window[1]}-1, such as '{window[1]}-3:{window[1]}'")
        return replace(variable, index=window[1], offset=-last, past=True, window=first - last + 1)

    @staticmethod
    def _with(variable: Variable, part: str) -> Variable:
        if part.startswith("1:") and part[2:].isdigit():
            return replace(variable, window=int(part[2:]))
        if part.startswith("1:"):
            return replace(variable, index=part[2:].lower(), span=True)
        index = _INDEX.fullmatch(part)
        if index is None:
            return replace(variable, subscript=f"{variable.subscript or ''}{part}")
        letter, sign, steps = index.groups()
        if variable.index is not None and not sign:
            return replace(variable, inner=letter)
        return replace(variable, index=letter, offset=int(f"{sign}{steps}") if steps else 0)

    def variables(self, closing: str) -> tuple[Variable, ...]:
        """variables := variable {',' variable}"""
        found = [self.variable()]
        while self.take(","):
            found.append(self.variable())
        self.space()
        if self.at >= len(self.text) or self.text[self.at] not in closing:
            raise self.fail(" or ".join(repr(c) for c in "," + closing))
        return tuple(found)

    def letter(self) -> tuple[str, bool]:
        r"""letter := ['\bar'] word ['_' word], such as p, q, π or p_data; and whether there is a bar"""
        self.space()
        bar = re.compile(r"\\bar(\s+|\s*(?={))").match(self.text, self.at)
        self.at = bar.end() if bar else self.at
        start, closed = self.at, bar is not None and self.take("{")
        if self.take("\\"):
            start = self.at
        self.match(_WORD, "a name such as p or q")
        if closed:
            self.need("}")
        if self.text.startswith("_", self.at):
            self.at += 1
            braces = self.take("{")
            self.take("\\")
            self.match(_SUBSCRIPT, "a subscript")
            if braces:
                self.need("}")
        return re.sub(r"[{}\\]", "", self.text[start : self.at]), bar is not None


def read_header(text: str, *, deterministic: bool = False) -> Header:
    """Read a factor's header.

    density := letter '(' variables ['|' variables] ')'
    deterministic := variables '=' letter '(' variables ')'

    >>> print(read_header("q(z_t | h_t, x_{t-1})"))
    q(z_t|h_t,x_{t-1})
    """
    if not isinstance(text, str):
        raise HeaderError(f"expected a header such as 'q(z|x)', found {type(text).__name__}")
    reader = _Reader(text)
    variables: tuple[Variable, ...] = ()
    if deterministic:
        variables = reader.variables("=")
        reader.need("=")
    letter, bar = reader.letter()
    reader.need("(")
    conditions: tuple[Variable, ...] = ()
    if deterministic:
        conditions = reader.variables(")")
    else:
        variables = reader.variables("|)")
        if reader.take("|"):
            conditions = reader.variables(")")
    reader.need(")")
    reader.space()
    if reader.at < len(reader.text):
        raise reader.fail("the end")
    _refuse_repeats(text, variables, conditions)
    return Header(letter, variables, conditions, deterministic, text, bar)


def read_variable(text: str) -> Variable:
    """Read one variable, ``"z'"`` or ``"z_{t-1}"``.

    >>> read_variable("z_{t-1}").offset
    -1
    """
    if not isinstance(text, str):
        raise HeaderError(f"expected a variable such as 'z', found {type(text).__name__}")
    reader = _Reader(text)
    variable = reader.variable()
    reader.space()
    if reader.at < len(reader.text):
        raise reader.fail("the end")
    return variable


def renamed(header: Header, names: Mapping[str, str]) -> Header:
    """The header with some variables (by key) under other names; a name without an index keeps that of the variable.

    ``h`` renames h at every time, ``h_prev`` what is read at t−1 alone:

    >>> print(renamed(read_header("q(z_t|x_t,h_{t-1})"), {"z": "z'", "h": "g"}))
    q(z'_t|x_t,g_{t-1})
    >>> print(renamed(read_header("h_t = f(h_{t-1})", deterministic=True), {"h": "h''", "h_prev": "h'"}))
    h''_t = f(h'_{t-1})
    """
    names = by_keyword(names)
    known = {name: v for v in (*header.variables, *header.conditions) for name in (v.key, v.identifier)}
    for name in names:
        if name not in known:
            raise UnknownVariableError(
                f"{header} has no variable {name!r}.{near(name, known)} It has {', '.join(known)}."
            )
    new = {key: read_variable(name) for key, name in names.items()}

    def other(variable: Variable) -> Variable:
        found = new.get(variable.identifier, new.get(variable.key))
        if found is None or found.index is not None or variable.index is None:
            return variable if found is None else found
        return replace(
            found, index=variable.index, offset=variable.offset, span=variable.span, past=variable.past,
            window=variable.window,
        )  # fmt: skip

    variables, conditions = (tuple(map(other, vs)) for vs in (header.variables, header.conditions))
    found = replace(header, variables=variables, conditions=conditions)
    return read_header(str(found), deterministic=header.deterministic)


def _refuse_repeats(text: str, variables: tuple[Variable, ...], conditions: tuple[Variable, ...]) -> None:
    everything = [*variables, *conditions]
    for variable in everything:
        if everything.count(variable) > 1:
            raise HeaderError(f"expected each variable once, found {variable} twice\n    {text}")
        if variable.offset > 0:
            raise TimeError(
                f"{text}: expected an offset of 0 or below, found {variable}, which lies ahead\nmove the index, so "
                f"that the latest variable is that of {variable.index}, or read the whole series, "
                f"{variable.base}_{{1:{str(variable.index).upper()}}}"
            )
    for variable in variables:
        if variable.span:
            raise TimeError(f"{text}: a factor declares its variable at one step, found the series {variable}")
        if variable.past or variable.first:
            what = "the history" if variable.past else "the first rows"
            raise TimeError(f"{text}: a factor declares its variable at one step, found {what} {variable}")
        if variable.offset and variable.at(0) not in conditions:  # p(x_{t-1}|x_t) goes back, outside of sums over time
            raise TimeError(f"{text}: a factor declares its variable at the current step, found {variable}")
