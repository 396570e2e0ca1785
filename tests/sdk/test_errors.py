"""The errors' own promise: a message is one line."""

from __future__ import annotations

import pytest

from sdk.errors import BundleError, EdgePurifyError


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "a\x0bb", "a\x85b", "a\u2028b"])
def test_a_message_is_one_line_whatever_a_file_holds(text: str) -> None:
    error = BundleError(f"no such key {text!s}", hint=f"remove {text!s}")
    assert len(str(error).splitlines()) == len(error.what.splitlines()) == 1
    assert error.hint is not None
    assert len(error.hint.splitlines()) == 1
    assert (error.what[-1], error.hint[-1]) == ("b", "b")


def test_other_text_stays_as_it_is() -> None:
    assert str(EdgePurifyError("café \\n\t‮", hint=None)) == "café \\n\t‮"
