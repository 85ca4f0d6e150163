"""Writes docs/errors.md, the manual of all errors, from the docstrings of worldformula/errors.py.

python docs/errors.py --write      (without --write it prints the page)
"""

from __future__ import annotations

import argparse
import doctest
import inspect
from dataclasses import dataclass, replace
from pathlib import Path

from worldformula import errors

PAGE = Path(__file__).parent / "errors.md"
HEAD = """\
# Errors

Every error that the library raises on purpose is one of these classes of `worldformula.errors`. Its `code` stays the
same from version to version. A message says what was expected, what came, and what to write instead.

This page is written by `python docs/errors.py --write` from the docstrings, whose examples run as tests.
"""


@dataclass(frozen=True)
class Entry:
    """One class: when it is raised; what goes wrong, the message, and what is right."""

    name: str
    code: str
    bases: str
    when: str
    bad: str = ""
    message: str = ""
    good: str = ""


def entry(kind: type[errors.WorldformulaError]) -> Entry:
    """What the docstring of a class says."""
    documentation = inspect.getdoc(kind) or ""
    when = documentation.split(">>>", maxsplit=1)[0].strip().replace("``", "`")
    bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
    plain = Entry(kind.__name__, kind.code, bases, when)
    examples = doctest.DocTestParser().get_examples(documentation)
    place = next((i for i, example in enumerate(examples) if example.want.startswith("Traceback")), None)
    if place is None:
        return plain
    bad = "".join(example.source for example in examples[: place + 1])
    said = examples[place].want.split("\n", maxsplit=1)[1].removeprefix("worldformula.errors.").rstrip()
    good = "".join(shown(example) for example in examples[place + 1 :])
    return replace(plain, bad=bad, message=said, good=good)


def shown(example: doctest.Example) -> str:
    """An example with its result behind it as a comment."""
    return example.source.rstrip() + (f"  # {' '.join(example.want.split())}" if example.want else "") + "\n"


def section(found: Entry) -> str:
    """One class in Markdown."""
    lines = [f"## {found.name}", "", f"code `{found.code}` · a {found.bases}", "", found.when, ""]
    if found.bad:
        lines += ["```python", found.bad.rstrip(), "```", "", "raises", "", "```", found.message, "```", ""]
        lines += ["Write instead:", "", "```python", found.good.rstrip(), "```", ""]
    return "\n".join(lines)


def classes() -> list[type[errors.WorldformulaError]]:
    """All errors in the order in which they stand in the file."""
    found = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.WorldformulaError)]
    return [kind for kind in found if kind is not errors.WorldformulaError]


def page() -> str:
    """The whole page."""
    entries = [entry(kind) for kind in classes()]
    cells = [(e, " ".join(e.when.split()).replace("|", "\\|")) for e in entries]
    rows = [f"| [{e.name}](#{e.name.lower()}) | `{e.code}` | {when} |" for e, when in cells]
    overview = "\n".join(["| error | code | when |", "| --- | --- | --- |", *rows])
    return "\n".join([HEAD, overview, "", *map(section, entries)]).rstrip() + "\n"


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/errors.md")
    if parser.parse_args().write:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")


if __name__ == "__main__":
    main()
