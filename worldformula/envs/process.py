"""An environment in a process of its own, which is killed when it does not answer in time.

The process imports what the environment needs: an id of this package or of an installed one, or ``module:ID``. It is
no copy of this process, whose threads and locks no copy survives. Only arrays, numbers and texts travel back and forth.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from worldformula import errors
from worldformula.envs.actions import ActionSpec
from worldformula.envs.columns import Column
from worldformula.envs.stream import Action, Row
from worldformula.errors import BrokenEnvironmentError, WorldformulaError

START = 120.0  # seconds that a process may take to import and make its environment


class Remote:
    """Answers as `Typed` does, from another process.

    Args:
        id: as for :func:`worldformula.envs.make`.
        options: its keyword arguments.
        timeout: seconds that one answer may take.

    Raises:
        BrokenEnvironmentError: no answer in time, or the process ended by itself; the process is gone then.
    """

    def __init__(self, id: str, options: Mapping[str, Any], timeout: float) -> None:
        self.id, self.timeout = id, timeout
        context = clean_context()
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, id, dict(options)), daemon=True)
        self._process.start()
        theirs.close()
        self._asked: tuple[str, Any] | None = ("describe", None)
        found = self._answer(START + timeout)
        self.columns: dict[str, Column] = found[0]
        self.observations: dict[str, Column] = found[1]
        self.actions: dict[str, ActionSpec] = found[2]

    def ask(self, what: str, value: Any = None) -> None:
        """Sends a question whose answer is fetched later, so that several environments think at the same time."""
        if self._asked is not None and self._process.is_alive():  # nobody fetched it: another stream failed meanwhile
            with contextlib.suppress(WorldformulaError):
                self._answer(self.timeout)
        with contextlib.suppress(OSError):  # a process that is gone is told when its answer is fetched
            self._pipe.send((what, value))
        self._asked = (what, value)

    def _answer(self, timeout: float) -> Any:
        assert self._asked is not None
        what, self._asked = self._asked[0], None
        try:
            if not self._pipe.poll(timeout):
                self.kill()
                raise BrokenEnvironmentError(
                    f"the environment {self.id} did not answer within {timeout:g} s ({what}) and was killed. Look for "
                    "what it waits for, or set a longer env.timeout."
                )
            kind, found = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(1.0)
            raise BrokenEnvironmentError(
                f"the process of the environment {self.id} ended by itself (exit code {self._process.exitcode}); "
                "a simulator may have crashed."
            ) from error
        if kind != "answer":
            raise getattr(errors, kind)(found)
        return found

    def _call(self, what: str, value: Any = None) -> Any:
        asked = self._asked
        same = asked is not None and asked[0] == what and asked[1] is value  # what was asked for beforehand
        if not same:
            self.ask(what, value)
        return self._answer(self.timeout)

    def reset(self, *, seed: int | None = None) -> tuple[Row, dict[str, Any]]:
        """The first row of an episode."""
        return self._call("reset", seed)

    def step(self, action: Action) -> tuple[Row, float, bool, bool, dict[str, Any]]:
        """The next row."""
        return self._call("step", action)

    def render(self) -> Any:
        """Its picture."""
        return self._call("render")

    def lasting(self) -> dict[str, Any] | None:
        """What lasts beyond an episode."""
        return self._call("lasting")

    def return_to(self, lasting: Mapping[str, Any]) -> None:
        """Puts the answer of `lasting` back."""
        self._call("return_to", dict(lasting))

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()
        self._process.join()

    def close(self) -> None:
        """Ends the process, which may say goodbye for a second."""
        self.ask("close")
        self._process.join(1.0)
        self.kill()
        self._pipe.close()


def clean_context() -> Any:
    """Of ``multiprocessing``: processes that begin without the threads and locks of this one."""
    clean = "forkserver" in multiprocessing.get_all_start_methods()  # Windows has it not
    context: Any = multiprocessing.get_context("forkserver" if clean else "spawn")
    if clean:
        context.set_forkserver_preload([__name__, "worldformula.envs.factory"])
    return context


def serve(pipe: Connection, id: str, options: dict[str, Any]) -> None:
    """The other process: makes the environment and answers until it is told to close."""
    from worldformula.envs.factory import make

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which then closes its environments
    try:
        env = make(id, **options)
        pipe.send(("answer", (env.columns, env.observations, env.actions)))
    except WorldformulaError as error:
        pipe.send((type(error).__name__, str(error)))
        return
    calls: dict[str, Any] = {
        "reset": lambda seed: env.reset(seed=seed),
        "step": env.step,
        "render": lambda _: env.render(),
    }
    calls |= {"lasting": lambda _: env.lasting(), "return_to": env.return_to}
    while True:
        what, value = pipe.recv()
        if what == "close":
            env.close()
            return
        try:
            pipe.send(("answer", calls[what](value)))
        except WorldformulaError as error:
            pipe.send((type(error).__name__, str(error)))
