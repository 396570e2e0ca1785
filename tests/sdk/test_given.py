"""What a user names is read whole, from a pipe too, and has an end."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from sdk.bundle.signature import read_key
from sdk.cli import main
from sdk.errors import UsageError
from sdk.given import read_given, read_given_text


def test_a_pipe_is_read_to_its_end() -> None:
    reader, writer = os.pipe()

    def send() -> None:
        os.write(writer, "\ufeffvotes = 3\r\n".encode())
        os.close(writer)

    sender = threading.Thread(target=send)
    sender.start()
    assert read_given_text(f"/dev/fd/{reader}") == "votes = 3\n"
    sender.join()
    os.close(reader)


def test_a_file_of_the_bound_is_read_and_a_larger_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_given(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="it is larger than 0 MiB"):
        read_given(tmp_path / "file", 4)


def test_what_has_no_end_is_an_error_of_one_line() -> None:
    with pytest.raises(UsageError, match="key /dev/zero: can't be read: it is larger than 64 MiB"):
        read_key("/dev/zero")
    result = CliRunner().invoke(main, ["--config", "/dev/zero"])
    assert result.exit_code == 2
    assert "config /dev/zero: it is larger than 64 MiB" in result.stderr
