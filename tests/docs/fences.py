"""Markdown that runs: its Python blocks, and what they print, shown in the block behind.

A ``text`` or ``math`` block right behind a Python block is what that block prints; ``…`` in it stands for anything.

python -m tests.docs.fences docs/tutorials/*.md      (writes into the pages what they print and draw now)
"""

from __future__ import annotations

import contextlib
import io
import linecache
import re
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Python source, the line it stands at, what the page says it prints, and where it says so."""

    source: str
    line: int
    shown: str | None
    span: tuple[int, int] = (0, 0)


def blocks(text: str) -> list[Block]:
    """The Python blocks of a page, in order."""
    found, fences = [], list(FENCE.finditer(text))
    for fence, behind in zip(fences, [*fences[1:], None], strict=True):
        if fence[1] != "python":
            continue
        near = behind is not None and not text[fence.end() : behind.start()].strip() and behind[1] in ("text", "math")
        line = text[: fence.start(2)].count("\n")
        found.append(
            Block(fence[2], line, behind[2], behind.span(2)) if near and behind else Block(fence[2], line, None)
        )
    return found


def session(path: Path) -> dict[str, Any]:
    """The names of a page, those of a module: classes of a page can be data classes and pickled."""
    module = types.ModuleType(f"page_{path.stem}")
    sys.modules[module.__name__] = module
    return module.__dict__


def run(block: Block, scope: dict[str, Any], page: str) -> str:
    """What a block prints; its tracebacks show the lines of the page."""
    source = "\n" * block.line + block.source
    linecache.cache[page] = (len(source), None, source.splitlines(keepends=True), page)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(source, page, "exec"), scope)
    return out.getvalue()


def agrees(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed, up to white space."""
    parts = (re.escape(" ".join(part.split())) for part in shown.split("…"))
    return re.fullmatch(" ?.*? ?".join(parts), " ".join(printed.split())) is not None


@dataclass(frozen=True)
class Row:
    """A table row that holds code: its cells without escapes of Markdown, its line, and the name of its last column."""

    cells: list[str]
    line: int
    last: str

    @property
    def prints(self) -> bool:
        """Whether the last cell is what the code in the one before it prints."""
        return self.last == "prints"


def rows(text: str) -> list[Row]:
    """The rows with code of all tables."""
    found, last, lines = [], "", text.splitlines()
    for number, line in enumerate(lines):
        if number + 1 < len(lines) and re.fullmatch(r"\|[-|]+\|", lines[number + 1]):
            last = line.split("|")[-2].strip()
        elif line.startswith("| ") and "`" in line:
            cells = line.replace("\\|", "\0").strip("| ").split("|")
            found.append(Row([c.strip().replace("\0", "|") for c in cells], number, last))
    return found


def code(cell: str) -> list[str]:
    """The code spans of a cell."""
    return re.findall(r"(?<!\$)`([^`]+)`(?!\$)", cell)


def printed(source: str, scope: dict[str, Any]) -> str:
    r"""What a table shows of the value of an expression: its LaTeX, with ``\|`` as ``\Vert``, which Markdown leaves."""
    value = eval(source, scope)
    found = value.latex if hasattr(value, "latex") else str(value)
    found = re.sub(r"\|(?=[A-Za-z])", r"\\vert ", found.replace("\\|", "\\Vert"))
    return f"$`{found}`$".replace("|", "\\vert")


def figures(text: str, page: Path) -> list[tuple[Path, str]]:
    """The pictures of a page that name the code that draws them, ``![…](file "code")``: file and code."""
    return [(page.parent / file, source) for file, source in re.findall(r'!\[[^]]*\]\((\S+) "([^"]+)"\)', text)]


def write(path: Path) -> None:
    """Put what the blocks of a page print now into the page, where it shows something without ``…``."""
    text, scope = path.read_text(encoding="utf-8"), session(path)
    ran = [(block, run(block, scope, path.name)) for block in blocks(text)]
    for block, now in reversed(ran):
        if block.shown is not None and "…" not in block.shown:
            text = text[: block.span[0]] + now.strip("\n") + "\n" + text[block.span[1] :]
    for file, source in figures(text, path):
        file.write_text(eval(source, scope), encoding="utf-8")
    lines = text.splitlines()
    for row in rows(text):
        if row.prints:
            (source,) = code(row.cells[-2])
            lines[row.line] = lines[row.line].rpartition(" | ")[0] + f" | {printed(source, scope)} |"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    import torch

    for name in sys.argv[1:]:
        torch.manual_seed(0)
        write(Path(name))
