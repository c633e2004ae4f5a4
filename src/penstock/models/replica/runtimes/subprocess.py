"""The runtime of programs in any language: JSON lines on standard input and output."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, NoReturn

import msgspec

from penstock.failures import CallFailed, Category
from penstock.models.replica import commands
from penstock.models.replica.data_urls import Lifter, Unreadable, inlined
from penstock.models.replica.media_paths import MediaPaths
from penstock.models.replica.program import LONGEST_LINE, Program, TooLong
from penstock.models.replica.program_lines import OutOfStep, Said, read
from penstock.models.replica.runtime import BlockingRuntime, Call, Cancelled, Output, Schema, Spec, unknown_options

GONE_STATUS: Final = 70  # exit status of a replica whose program has ended

_OPTIONS: Final = ("command", "cancel", "media")
_MEDIA: Final = ("data_url", "path")
_LAST_ANSWER_SECONDS: Final = 0.2  # for sending an answer after which the program ended at once


class SubprocessRuntime(BlockingRuntime):
    """``subprocess``: a program that reads inputs from standard input and writes answers to standard output.

    The manifest's table::

        [subprocess]
        command = ["java", "Words.java"]  # or one string, split as a shell would split it; no shell runs it
        cancel = "signal"                 # optional: send SIGINT to the program when its caller has gone
        media = "path"                    # optional: media are paths of files in the JSON, not data: URLs

    ``docs/subprocess-models.md`` specifies the protocol; ``penstock.models.replica.program_lines`` parses its lines.
    The program is started once per replica and gets the calls one after the other. Only the order shows which call an
    answer belongs to, so a program that is out of step is replaced before a caller can get another call's answer.
    """

    name: ClassVar[str] = "subprocess"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._signals = spec.options.get("cancel") == "signal"
        self._lifter = Lifter(spec.schema.output)
        self._paths: MediaPaths | None = None
        self._program: Program | None = None
        self._turn = threading.Lock()  # held by the call that uses the program
        self._running: Call | None = None
        self._signalling = threading.Lock()  # so that no signal is sent for a call that has ended

    @classmethod
    def check(cls, options: Mapping[str, Any], folder: Path) -> Sequence[tuple[str, str]]:
        problems = commands.mistakes(options.get("command"), folder)
        if options.get("cancel", "signal") != "signal":
            problems.append(("cancel", 'must be "signal" if it is given'))
        if options.get("media", "path") not in _MEDIA:
            problems.append(("media", f"must be one of {', '.join(_MEDIA)}"))
        problems += unknown_options(cls.name, options, _OPTIONS)
        return problems

    def describe(self) -> Schema:
        return msgspec.structs.replace(self.spec.schema, cancels=self._signals)

    def load(self) -> None:
        if self.spec.options.get("media") == "path":
            schema = self.spec.schema
            self._paths = MediaPaths(self.spec.files, schema.input, schema.output)
        self._program = self._started()

    def unload(self) -> None:
        program, self._program = self._program, None
        if program is not None:
            program.stop()

    def predict(self, call: Call) -> Output | None:
        line = _line(call, self._paths)
        with self._turn:
            program = self._in_step(call)
            with self._signalling:
                self._running = call
            if self._signals:
                call.on_cancel = partial(self._interrupt, call)
            try:
                if call.cancelled:
                    raise Cancelled
                program.send(line)
                return self._answer(call, program)
            except OutOfStep as error:
                self._replace(program)
                raise CallFailed(Category.INTERNAL, f"the program answered {error}") from None
            finally:
                with self._signalling:
                    self._running = None
                if self._paths is not None:
                    self._paths.clear()

    def _answer(self, call: Call, program: Program) -> Output | None:
        """Read the answer to its end, even after a failure, because the next line belongs to the next call."""
        failure: BaseException | None = None
        answer: Output | None = None
        streamed = self.spec.schema.streams
        while True:
            said = self._next(program)
            try:
                if failure is None:
                    answer = self._taken(call, said)
                    if answer is not None and (streamed or not said.final):
                        streamed = True
                        call.chunk(answer)
                        answer = None
            except (Exception, Cancelled) as error:  # noqa: BLE001 - kept until the end
                failure = error
            if said.final:
                if call.cancelled:
                    raise Cancelled
                if failure is not None:
                    raise failure
                return answer

    def _next(self, program: Program) -> Said:
        try:
            line = program.line()
        except TooLong:
            raise OutOfStep(f"a line of more than {LONGEST_LINE} bytes") from None
        if line is None:
            self._end(program)
        return read(line)

    def _taken(self, call: Call, said: Said) -> Output | None:
        """Return what a line adds to the output; report the progress and the log line in it."""
        if call.cancelled:
            raise Cancelled
        if said.error is not None:
            raise said.error
        if said.progress is not None:
            call.progress(said.progress)
        if said.log is not None:
            call.log(said.log.message, said.log.level)
        if said.output is None:
            return None
        try:
            lifted = self._lifter.lift(said.output)
            return lifted if self._paths is None else self._paths.returned(lifted, call)
        except Unreadable as error:
            where = f": {error.field}" if error.field else ":"
            raise CallFailed(Category.INTERNAL, f"the program's output cannot be used{where} {error.message}") from None

    # The program's life

    def _started(self) -> Program:
        program, *arguments = commands.words_of(self.spec.options.get("command"))
        path = commands.found(program, self.spec.folder)
        if path is None:
            raise CallFailed(
                Category.UNAVAILABLE, f"there is no program {program} in the manifest's folder or on the PATH"
            )
        started = Program([path, *arguments])
        threading.Thread(target=self._watch, args=(started,), name="penstock-watch", daemon=True).start()
        return started

    def _in_step(self, call: Call) -> Program:
        program = self._program
        if program is None:
            raise CallFailed(Category.UNAVAILABLE, "the program is not running")
        surplus = program.surplus()
        if not surplus:
            return program
        # The text may come from another caller's input, so it is not logged.
        call.log(f"the program wrote {surplus} bytes that no call requested; it is restarted", "warning")
        return self._replace(program)

    def _replace(self, program: Program) -> Program:
        program.stop(gracefully=False)
        self._program = None
        self._program = started = self._started()
        return started

    def _interrupt(self, call: Call) -> None:
        with self._signalling:
            if self._running is call and self._program is not None:
                self._program.signal(signal.SIGINT)

    def _watch(self, program: Program) -> None:
        """End the replica when its program has ended on its own."""
        program.wait()
        with self._turn:
            pass  # a call may still be reading its last output
        if not program.unwanted.wait(_LAST_ANSWER_SECONDS):
            self._end(program)

    def _end(self, program: Program) -> NoReturn:
        """End the replica, which is useless without its program. The host starts another one."""
        os.write(2, f"{program.how_it_ended()}; its replica ends with it\n".encode())
        os._exit(GONE_STATUS)


def _line(call: Call, paths: MediaPaths | None) -> bytes:
    """Return a call's input as one line."""
    line = inlined(call.input, call.segments) if paths is None else paths.given(call)
    if b"\n" in line or b"\r" in line:
        line = msgspec.json.format(line, indent=-1)
    if len(line) > LONGEST_LINE:
        raise CallFailed(
            Category.BAD_INPUT, f"as one line of JSON it has {len(line)} bytes; the model takes {LONGEST_LINE}"
        )
    return line
