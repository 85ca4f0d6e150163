"""``worldformula completion``: what the Tab key knows, of commands and options by tyro, of names by us.

source <(worldformula completion bash)     in ~/.bashrc
source <(worldformula completion zsh)      in ~/.zshrc, behind compinit
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from worldformula import cards, catalogue, data
from worldformula.envs import registry

FOLDERS = "--run|--init|eval|dream|plan|report"
OWN = {"bash": "_tyro_worldformula", "zsh": '_tyro_worldformula "$@"'}


@dataclass(frozen=True)
class Completion:
    """Print a script that completes commands, options, names of models, data sets, environments, cards, run folders.

    In ~/.bashrc: source <(worldformula completion bash). In ~/.zshrc, behind compinit: source <(worldformula completion
    zsh). What was listed as it was printed is what it knows.
    """

    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional] = "bash"
    """Of which shell."""

    def run(self) -> int:
        """Prints."""
        print(script(self.shell))
        return 0


def names() -> Mapping[str, list[str]]:
    """What may stand behind these words: a command, or an option."""
    trained = [*catalogue.names("models"), *catalogue.names("worlds")]
    return {
        "fit": trained,
        "models": [name for kind in catalogue.KINDS for name in catalogue.names(kind)],
        "--data|data": data.names(),
        "--model": catalogue.names("agents"),
        "--planner": catalogue.names("planners"),
        "--env|envs": [entry.alias for entry in registry.entries()],
        "reproduce": cards.names(),
    }


def script(shell: Literal["bash", "zsh"]) -> str:
    """The script of tyro, and one function before it that knows the names."""
    from worldformula.cli.main import COMMANDS

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        arguments = ["--tyro-print-completion", shell]
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="worldformula", args=arguments)
    inner = out.getvalue().rstrip().removesuffix('_tyro_worldformula "$@"').rstrip()  # zsh: not while it is read
    return "\n".join([inner, "", *(_bash() if shell == "bash" else _zsh())])


def _bash() -> list[str]:
    cases = [
        f'    {words}) COMPREPLY=($(compgen -W "{" ".join(known)}" -- "$cur"){FILES * ("data" in words)}); return ;;'
        for words, known in names().items()
    ]
    return [
        "_worldformula() {",
        '  local cur="${COMP_WORDS[COMP_CWORD]}"',
        '  [[ "$cur" == -* ]] || case "${COMP_WORDS[COMP_CWORD-1]}" in',
        *cases,
        f'    {FOLDERS}) COMPREPLY=($(compgen -d -- "$cur")); return ;;',
        "  esac",
        f"  {OWN['bash']}",
        "}",
        "complete -F _worldformula worldformula wf",
    ]


FILES = ' $(compgen -f -- "$cur")'


def _zsh() -> list[str]:
    cases = [
        f"    {words}) compadd -- {' '.join(known)}{'; _files' * ('data' in words)}; return ;;"
        for words, known in names().items()
    ]
    return [
        "_worldformula() {",
        '  [[ "${words[CURRENT]}" == -* ]] || case "${words[CURRENT-1]}" in',
        *cases,
        f"    {FOLDERS}) _files -/; return ;;",
        "  esac",
        f"  {OWN['zsh']}",
        "}",
        "compdef _worldformula worldformula wf",
    ]
