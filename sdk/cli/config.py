"""``--config camera.toml``: options of the loop from a file, which those of the command line override.

    source = "rtsp://camera/1"
    votes = 3
    save = "annotated.mp4"

A key is an option's name without its dashes. Its value has the option's type and is checked as the option is.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from sdk.cli.app import given
from sdk.errors import UsageError
from sdk.given import read_given_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Options of which one replaces the others: given on the command line, the file's ones step aside.
ALTERNATIVES = ("source", "camera", "source_list")


def read_config(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Callback of the eager option ``--config``: make the file's values the command's defaults.

    Raises:
        UsageError: the file can't be read, or a key or value in it is none of the command's.
    """
    if path is None:
        return
    where = f"config {path}"
    try:
        tree = tomllib.loads(read_given_text(path))
    except OSError as error:
        raise UsageError(f"{where}: {error.strerror}", hint="give a TOML file with options as keys") from None
    except RecursionError:
        raise UsageError(f"{where}: not TOML that is read here: nested too deeply") from None
    except ValueError as error:  # no TOML, no UTF-8, or a number of thousands of digits
        raise UsageError(f"{where}: not TOML: {error}") from None
    context.default_map = _checked(tree, context, where)


def prefer_command_line(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` of the running command, without the file's source where the command line names one."""
    context = click.get_current_context()
    sources = [name for name in ALTERNATIVES if name in values]
    if not given(*sources):
        return dict(values)
    from_file = click.core.ParameterSource.DEFAULT_MAP
    unset = [name for name in sources if context.get_parameter_source(name) is from_file]
    return {**values, **{name: () if isinstance(values[name], tuple) else None for name in unset}}


def _checked(tree: Mapping[str, Any], context: click.Context, where: str) -> dict[str, Any]:
    options = [each for each in context.command.params if isinstance(each, click.Option)]
    known = {_key(option): option for option in options if not option.is_eager}  # no --config, --help
    values: dict[str, Any] = {}
    for key, value in tree.items():
        option = known.get(key.replace("-", "_"))
        if option is None:
            raise UsageError(f"{where}: {key}: no such key; expected one of {', '.join(known)}")
        assert option.name is not None  # click gives every option one
        try:
            values[option.name] = _converted(option, value, context)
        except click.BadParameter as error:
            raise UsageError(f"{where}: {key}: {error.message}") from None
    return values


def _key(option: click.Option) -> str:
    """``max_frames`` for ``--max-frames``."""
    return max(option.opts, key=len).lstrip("-").replace("-", "_")


def _converted(option: click.Option, value: Any, context: click.Context) -> Any:
    """``value`` as the option's own; a list for an option that may be repeated."""
    if not option.multiple:
        return _one(option, value, context)
    return [_one(option, item, context) for item in (value if isinstance(value, list) else [value])]


def _one(option: click.Option, value: Any, context: click.Context) -> Any:
    expected, types = _type_of(option)
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise click.BadParameter(f"expected {expected}, got {value!r}")
    return option.type.convert(value, option, context)


def _type_of(option: click.Option) -> tuple[str, tuple[type, ...]]:
    if option.is_flag:
        return "true or false", (bool,)
    if isinstance(option.type, click.types.IntParamType):
        return "a whole number", (int,)
    if isinstance(option.type, click.types.FloatParamType):
        return "a number", (int, float)
    return "a string", (str,)
