"""The command shell: whatever ends a command, it ends with its files finished, a code and one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sdk.cli.app import App, Single, Stopped, given, is_first_process
from sdk.errors import BackendError, GateError
from tests.sdk.cli.helpers import COMMAND
from tests.sdk.conftest import wait_until

PROGRAM = """
import ctypes, os, time
from pathlib import Path
import click
from sdk.cli import signals
from sdk.cli.app import App

@click.group(cls=App, name="tool")
def main(): pass

@main.command()
def work():
{work}

main()
"""
ANNOUNCED = "Path('begun').touch()"


class Tool:
    """A command of the shell in a process of its own, whose work is the given statements."""

    def __init__(self, folder: Path, work: str, *, ignored: tuple[signal.Signals, ...] = ()) -> None:
        def set_up() -> None:
            for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(each, signal.SIG_IGN if each in ignored else signal.SIG_DFL)

        program = PROGRAM.format(work=textwrap.indent(textwrap.dedent(work), "    "))
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, "work"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=set_up,
        )

    def wait_for(self, name: str) -> None:
        wait_until(lambda: (self.folder / name).exists() or self.process.poll() is not None, name)
        assert self.process.poll() is None, self.process.communicate()

    def end(self) -> tuple[int, str]:
        """Its exit code and what it said."""
        try:
            _, err = self.process.communicate(timeout=60)
        finally:
            self.process.kill()
        return self.process.returncode, err


FINISHING = f"""
try:
    {ANNOUNCED}
    time.sleep(60)
finally:
    Path('finishing').touch()
    time.sleep(0.5)
    Path('finished').touch()
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_ends_the_work_and_another_one_spoils_nothing(
    first: signal.Signals, tmp_path: Path
) -> None:
    tool = Tool(tmp_path, FINISHING)
    tool.wait_for("begun")
    tool.process.send_signal(first)
    tool.wait_for("finishing")
    for another in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        tool.process.send_signal(another)
    assert tool.end() == (130, "tool: stopped\n")
    assert (tmp_path / "finished").exists()


def test_a_second_signal_is_obeyed_where_the_first_was_lost(tmp_path: Path) -> None:
    """Python drops a KeyboardInterrupt that is raised in a finalizer."""
    tool = Tool(
        tmp_path,
        f"""
        signals.AGAIN_S = 0.2
        class Held:
            def __del__(self):
                {ANNOUNCED}
                time.sleep(1)
                Path('lost').touch()
        held = Held()
        del held
        Path('lost').touch()
        time.sleep(60)
        """,
    )
    tool.wait_for("begun")
    tool.process.send_signal(signal.SIGTERM)
    tool.wait_for("lost")
    wait_until(lambda: tool.process.send_signal(signal.SIGTERM) or tool.process.poll() is not None, "its end")
    code, err = tool.end()
    assert code == 130
    assert err.endswith("tool: stopped\n")


def test_native_code_that_does_not_return_is_left(tmp_path: Path) -> None:
    tool = Tool(
        tmp_path,
        f"""
        signals.DELIVERY_S = 0.2
        mutex = ctypes.create_string_buffer(64)
        lock = ctypes.CDLL(None).pthread_mutex_lock
        lock(mutex)
        {ANNOUNCED}
        lock(mutex)
        """,
    )
    tool.wait_for("begun")
    tool.process.send_signal(signal.SIGINT)
    code, err = tool.end()
    assert code == 130
    assert err.startswith("tool: error: stopped by a signal, but native code didn't return within")
    assert err.count("\n") == 1


def test_a_finish_that_does_not_end_is_ended(tmp_path: Path) -> None:
    tool = Tool(
        tmp_path,
        f"""
        signals.FINISH_S = 0.2
        try:
            {ANNOUNCED}
            time.sleep(60)
        finally:
            time.sleep(60)
        """,
    )
    tool.wait_for("begun")
    tool.process.send_signal(signal.SIGINT)
    code, err = tool.end()
    assert code == 130
    assert "it didn't end within" in err


def test_a_signal_after_the_work_changes_nothing_of_its_outcome(tmp_path: Path) -> None:
    tool = Tool(
        tmp_path,
        f"""
        import atexit
        def late():
            {ANNOUNCED}
            time.sleep(60)
        atexit.register(late)
        """,
    )
    tool.wait_for("begun")
    tool.process.send_signal(signal.SIGTERM)
    assert tool.end() == (0, "")


def test_a_signal_that_is_ignored_from_outside_stays_ignored(tmp_path: Path) -> None:
    tool = Tool(tmp_path, FINISHING.replace("60", "1"), ignored=(signal.SIGHUP,))
    tool.wait_for("begun")
    tool.process.send_signal(signal.SIGHUP)
    assert tool.end() == (0, "")
    assert (tmp_path / "finished").exists()


# --- in this process


@click.group(cls=App, name="tool", torchrun=True)
def tool() -> None:
    pass


@tool.command()
@click.option("-n", "--number", type=int, default=1)
@click.option("--name", default="x")
def show(number: int, name: str) -> None:
    click.echo(" ".join(given()) + "|" + " ".join(given("name")))


@tool.command()
@click.argument("kind")
def fail(kind: str) -> None:
    if kind == "stop":
        raise Stopped("go on with --resume")
    if kind == "signal":
        signal.raise_signal(signal.SIGTERM)
    if kind == "import":
        signals_came_while_importing()
    if kind == "backend":
        try:
            signals_came_while_importing()
        except ImportError as error:
            raise BackendError(f"can't be imported ({error})", hint="pip install it") from None
    raise {
        "error": BackendError("engine a\x1b[2Jb: failed\non two lines", hint="build it again"),
        "gate": GateError("a figure misses"),
        "usage": click.UsageError("two of them"),
        "file": OSError(28, "No space left on device", "out\x1b.mp4"),
        "system": OSError("socket: no route"),
        "cv2": ImportError("No module named 'cv2'", name="cv2"),
        "bug": ZeroDivisionError(),
    }[kind]


def signals_came_while_importing() -> None:
    try:
        signal.raise_signal(signal.SIGTERM)  # not SIGINT, which a shell's background job ignores
    except KeyboardInterrupt:
        raise ImportError("numpy failed to import") from None


@pytest.mark.parametrize(
    ("kind", "code", "line"),
    [
        ("error", 1, "error: engine a\\u001b[2Jb: failed on two lines; build it again"),
        ("gate", 3, "error: a figure misses"),
        ("usage", 2, "error: two of them (tool fail --help says more)"),
        ("file", 1, "error: out\\u001b.mp4: No space left on device"),
        ("system", 1, "error: socket: no route"),
        ("stop", 130, "stopped; go on with --resume"),
        ("signal", 130, "stopped"),
        ("import", 130, "stopped (ImportError: numpy failed to import)"),
        (
            "backend",
            130,
            "stopped (BackendError: can't be imported (numpy failed to import); pip install it)",
        ),
        (
            "cv2",
            1,
            "error: No module named 'cv2'; pip install 'edge-purify[opencv]', or on a Jetson apt install "
            "python3-opencv",
        ),
    ],
)
def test_every_end_is_one_line_and_a_code(kind: str, code: int, line: str) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    done = CliRunner().invoke(tool, ["fail", kind])
    assert (done.exit_code, done.stdout, done.stderr) == (code, "", f"tool: {line}\n")
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        CliRunner().invoke(tool, ["fail", "bug"], catch_exceptions=False)


def test_a_command_that_is_missing_or_unknown() -> None:
    nothing = CliRunner().invoke(tool, [])
    assert nothing.exit_code == 2
    assert nothing.output.startswith("Usage: tool ")
    unknown = CliRunner().invoke(tool, ["weave"])
    assert (unknown.exit_code, unknown.stdout) == (2, "")
    assert unknown.stderr == "tool: error: No such command 'weave'. (tool --help says more)\n"


@click.command("late")
@click.option("--size", default=1)
@click.option("--name", multiple=True)
@click.option("--flag", is_flag=True)
def late(size: int, name: tuple[str, ...], flag: bool) -> None:
    click.echo(f"{size} {name} {flag}")


tool.add_command(late)


def test_an_option_given_twice_is_refused_whatever_way_its_command_was_made() -> None:
    assert CliRunner().invoke(tool, ["late", "--name=a", "--name=b", "--flag", "--flag"]).exit_code == 0
    for arguments in (["late", "--size=1", "--size", "2"], ["show", "--name=a", "-n1", "--name=a"]):
        done = CliRunner().invoke(tool, arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert " is given twice (tool " in done.stderr


def test_options_given_are_told_by_their_long_names() -> None:
    assert CliRunner().invoke(tool, ["show"]).stdout == "|\n"
    assert CliRunner().invoke(tool, ["show", "-n", "1", "--name=x"]).stdout == "--number --name|--name\n"


def test_of_several_processes_the_first_says_what_all_of_them_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_first_process()
    monkeypatch.setenv("RANK", "1")
    assert not is_first_process()
    said = {
        kind: CliRunner().invoke(tool, ["fail", kind]).stderr for kind in ("stop", "usage", "error", "gate")
    }
    assert [kind for kind, text in said.items() if text] == ["error", "gate"]


# --- standard streams


def shell(command: str, tiny_bundle: Path) -> subprocess.CompletedProcess[str]:
    """Run ``edge-purify`` in a POSIX shell, which can close streams."""
    program = f"'{COMMAND[0]}' -c '{COMMAND[2]}'"
    line = command.replace("edge-purify", program).replace("BUNDLE", str(tiny_bundle))
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
@pytest.mark.parametrize("arguments", ["--help", "inspect BUNDLE", "inspect BUNDLE --json", "doctor"])
def test_a_full_disk_is_one_line(arguments: str, tiny_bundle: Path) -> None:
    done = shell(f"edge-purify {arguments} >/dev/full", tiny_bundle)
    assert (done.returncode, done.stderr) == (
        1,
        "edge-purify: error: standard output: No space left on device\n",
    )


@pytest.mark.parametrize("arguments", ["--help", "inspect BUNDLE", "inspect BUNDLE --json"])
@pytest.mark.parametrize("closed", [">&-", "<&- >&-"])
def test_a_closed_standard_output_is_one_line(arguments: str, closed: str, tiny_bundle: Path) -> None:
    done = shell(f"edge-purify {arguments} {closed}", tiny_bundle)
    assert (done.returncode, done.stderr) == (1, "edge-purify: error: standard output: is closed\n")


def test_closed_standard_streams_spoil_no_file_and_no_exit_code(tiny_bundle: Path, tmp_path: Path) -> None:
    done = shell("edge-purify inspect nowhere <&- >&- 2>&-", tiny_bundle)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    done = shell(f"edge-purify inspect BUNDLE >'{tmp_path}/out' 2>&-", tiny_bundle)
    assert done.returncode == 0
    assert "tiny (ren)" in (tmp_path / "out").read_text()


def test_a_reader_that_goes_away_is_no_error_message(tiny_bundle: Path) -> None:
    done = shell("{ edge-purify inspect BUNDLE --json; echo $? >&2; } | true", tiny_bundle)
    assert done.stderr in ("1\n", "0\n")  # 0 where all of it fitted into the pipe


def test_an_encoding_without_the_letters_is_no_traceback(tiny_bundle: Path) -> None:
    done = shell("PYTHONIOENCODING=ascii edge-purify inspect BUNDLE", tiny_bundle)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 purifiers \\xd7 2 classifiers" in done.stdout


def test_a_command_without_sub_commands_ends_alike() -> None:
    @click.command(cls=Single, name="tool")
    @click.argument("what")
    @click.option("--count", type=int)
    def tool(what: str, count: int | None) -> None:
        if what == "gate":
            raise GateError("too low", hint="train longer")
        raise KeyboardInterrupt

    for arguments, code, said in (
        (["gate"], 3, "tool: error: too low; train longer\n"),
        (["stop"], 130, "tool: stopped\n"),
        (["gate", "--count", "x"], 2, "tool: error: Invalid value for '--count'"),
        (["gate", "--count", "1", "--count", "2"], 2, "tool: error: --count is given twice"),
    ):
        result = CliRunner().invoke(tool, arguments)
        assert (result.exit_code, result.stderr.count("\n")) == (code, 1)
        assert result.stderr.startswith(said)
