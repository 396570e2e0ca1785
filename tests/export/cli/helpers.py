"""``edge-export`` in this process, and what its errors look like."""

from __future__ import annotations

from click.testing import CliRunner, Result

from export import cli


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def assert_one_line(result: Result, exit_code: int, *parts: str) -> None:
    assert result.exit_code == exit_code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("edge-export: error: ")
    assert result.stderr.count("\n") == 1
    for part in parts:
        assert part in result.stderr
