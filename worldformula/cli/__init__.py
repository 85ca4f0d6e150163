"""The command line: `worldformula` (or `wf`, or `python -m worldformula`)."""

from worldformula.cli.main import main

__all__ = ["main"]
