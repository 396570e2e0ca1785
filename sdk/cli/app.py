"""The command shell of ``edge-purify`` and the other commands: one line an error.

    @click.group(cls=App, name="edge-purify")
    def cli() -> None: ...

    @click.command(cls=Single, name="edge-protect")
    def cli() -> None: ...

Whatever ends a command, it ends with an exit code and at most one line on standard error: 0 done; 1 the work
failed; 2 wrong usage; 3 a gate not met; 130 stopped by Ctrl-C, SIGTERM or SIGHUP, with every file finished.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click

from sdk.cli.signals import STOPPED, Stops
from sdk.errors import EdgePurifyError, UsageError
from sdk.host.terminal import echo, printable

NO_OPENCV = "pip install 'edge-purify[opencv]', or on a Jetson apt install python3-opencv"
_OF_WRITING = {errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EPIPE}
_NO_ARGUMENTS: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())  # new in click 8.2


class Stopped(EdgePurifyError):
    """A signal ended the work; the hint says what goes on from where."""

    exit_code = STOPPED

    def __init__(self, hint: str | None = None) -> None:
        super().__init__("stopped", hint=hint)


class Shell(click.Command):
    """A click command that ends as this module says.

    Args:
        notices: the level from which the SDK's log is printed on standard error.
        torchrun: several processes may run this command at once: what all of them meet, the first one says.
    """

    def __init__(
        self, *arguments: Any, notices: int = logging.WARNING, torchrun: bool = False, **settings: Any
    ) -> None:
        settings.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(*arguments, **settings)
        self._notices = notices
        self._torchrun = torchrun

    @property
    def program(self) -> str:
        return self.name or "edge-purify"

    def main(  # type: ignore[override]  # it always exits
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **settings: Any
    ) -> None:
        """Run the command and exit. Without ``args``, those of the process, which ends here."""
        owns_process = args is None
        if owns_process:
            _open_closed_streams()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # an encoding that lacks × or a label's letters
                stream.reconfigure(errors="backslashreplace")
        code = STOPPED
        stops = Stops(self.program, owns_process=owns_process)
        with suppress(KeyboardInterrupt), stops, _log_printed(self):
            code = self._exit_code(args, stops)
        sys.exit(code)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _refuse_repeated(self, ctx, args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Stopped from None

    def _exit_code(self, args: Sequence[str] | None, stops: Stops) -> int:
        code: int | None = STOPPED
        try:
            try:
                ended = super().main(args, prog_name=self.program, standalone_mode=False)
                code = ended if isinstance(ended, int) else 0
                sys.stdout.flush()
            finally:
                stops.ignore()
        except (Exception, KeyboardInterrupt) as error:
            code = self._say(error, stops)
            if code is None:
                raise
        finally:
            _empty_stdout()
            stops.exit_code = STOPPED if code is None else code
        return code

    def _say(self, error: Exception | KeyboardInterrupt, stops: Stops) -> int | None:
        """Print what ended the command; returns the exit code, or None if nobody foresaw this."""
        if isinstance(error, _NO_ARGUMENTS):
            error.show()
            return UsageError.exit_code
        if isinstance(error, click.ClickException):
            context = getattr(error, "ctx", None)
            path = context.command_path if context else self.program
            return self._line(
                f"error: {error.format_message()} ({path} --help says more)", UsageError.exit_code
            )
        if isinstance(error, click.Abort | KeyboardInterrupt):
            error = Stopped()
        if isinstance(error, Stopped):
            return self._line(str(error), STOPPED)
        cut_short = stops.received and isinstance(error.__context__, ImportError)
        if isinstance(error, EdgePurifyError) and not cut_short:
            return self._line(f"error: {error}", error.exit_code)
        if isinstance(error, ImportError) and error.name == "cv2":
            return self._line(f"error: {error}; {NO_OPENCV}", EdgePurifyError.exit_code)
        if stops.received:  # an import that was cut short raises whatever it likes
            return self._line(f"stopped ({type(error).__name__}: {error})", STOPPED)
        if isinstance(error, OSError):
            return self._line(f"error: {_of_the_system(error)}", EdgePurifyError.exit_code)
        return None

    def _line(self, text: str, code: int) -> int:
        said_by_all = self._torchrun and code in (STOPPED, UsageError.exit_code)
        if not said_by_all or is_first_process():
            from sdk.host.urls import without_secrets

            text = without_secrets(text, keep_plain=code != UsageError.exit_code)
            with suppress(OSError):  # standard error is gone: the exit code has to do
                if code == STOPPED and sys.stderr.isatty():
                    echo(err=True)  # ^C, and perhaps a line of progress, keep theirs
                echo(f"{self.program}: {' '.join(text.split())}", err=True)
        return code


class App(Shell, click.Group):
    """A group of commands; see ``Shell``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            _refuse_repeated(command, click.Context(command, parent=ctx, info_name=name), rest)
        return name, command, rest


class Single(Shell):
    """A command without sub-commands; see ``Shell``."""


def given(*names: str) -> list[str]:
    """The running command's options that stand on its command line, as flags; only ``names``, if given."""
    context = click.get_current_context()
    source = click.core.ParameterSource.COMMANDLINE
    return [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if parameter.name is not None
        and (not names or parameter.name in names)
        and context.get_parameter_source(parameter.name) is source
    ]


def is_first_process() -> bool:
    """Whether this is the process that speaks, of those that ``torchrun`` started; true without it."""
    return os.environ.get("RANK", "0") == "0"


def _refuse_repeated(command: click.Command, ctx: click.Context, args: Sequence[str]) -> None:
    """Check that no option is given twice, of which click would take the last without a word.

    Raises:
        click.UsageError: one is.
    """
    _, _, order = command.make_parser(ctx).parse_args(args=list(args))
    once = [each for each in order if isinstance(each, click.Option) and not each.multiple]
    for option in once:
        if not option.is_flag and not option.count and once.count(option) > 1:
            raise click.UsageError(f"{max(option.opts, key=len)} is given twice", ctx)


def _of_the_system(error: OSError) -> str:
    """``FILE: No space left on device``, or the same of standard output, which has no name."""
    what = error.strerror or str(error)
    if error.filename is not None:
        return f"{printable(os.fsdecode(error.filename))}: {what}"
    if error.errno not in _OF_WRITING:
        return what
    return f"standard output: {'is closed' if error.errno == errno.EBADF else what}"


def _open_closed_streams() -> None:
    """Put something in the place of standard streams that the caller closed.

    The next file to be opened would become standard output otherwise. Writing to it still fails, as it must.
    """
    flags = {"stdin": os.O_RDONLY, "stdout": os.O_RDONLY, "stderr": os.O_WRONLY}
    for number, (name, flag) in enumerate(flags.items()):
        if getattr(sys, name) is not None:
            continue
        opened = os.open(os.devnull, flag)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        stream = os.fdopen(number, "r" if name == "stdin" else "w", closefd=False)
        setattr(sys, name, stream)


def _empty_stdout() -> None:
    """Write what standard output holds; where that fails, drop it, or Python's exit complains as well."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ValueError:
        pass  # it was closed by its name, with nothing in it


@contextmanager
def _log_printed(app: Shell) -> Iterator[None]:
    """Print the SDK's notices (what runs the engines, a stream that is lost), one line each on stderr."""
    log = logging.getLogger("sdk")
    before = log.handlers, log.level
    log.handlers = [_Notices(app.program)]
    log.setLevel(app._notices)
    try:
        yield
    finally:
        log.handlers, log.level = before[0], before[1]


class _Notices(logging.Handler):
    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            echo(f"{self._program}: {' '.join(record.getMessage().split())}", err=True)
