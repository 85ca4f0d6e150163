"""Python source as HTML with a class per kind of token."""

from __future__ import annotations

import builtins
import io
import keyword
import token
import tokenize
from html import escape

_KINDS = {token.STRING: "string", token.COMMENT: "comment", token.NUMBER: "number"}


def highlight(source: str) -> str:
    """``<pre>``-ready HTML: the same characters, escaped, in spans of class ``keyword``, ``string``, ``name``, …

    Text that is not Python comes back escaped and plain.
    """
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError):
        return escape(source)
    starts = [0]
    for line in source.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    out, at, before = [], 0, ""
    for found in tokens:
        if found.type in (token.ENDMARKER, token.INDENT, token.DEDENT, token.NEWLINE, token.NL):
            continue
        start, end = (starts[row - 1] + column for row, column in (found.start, found.end))
        kind = _kind(found, before)
        start = max(start, at)  # the braces of f-strings are reported twice by some versions of Python
        text = escape(source[start:end])
        out += [escape(source[at:start]), f'<span class="{kind}">{text}</span>' if kind else text]
        at, before = end, found.string
    return "".join([*out, escape(source[at:])])


def _kind(found: tokenize.TokenInfo, before: str) -> str | None:
    if found.type in _KINDS:
        return _KINDS[found.type]
    if found.type != token.NAME:
        return "string" if token.tok_name[found.type].startswith("FSTRING") else None
    if keyword.iskeyword(found.string):
        return "keyword"
    if before in ("def", "class"):
        return "name"
    return "builtin" if hasattr(builtins, found.string) and before != "." else None
