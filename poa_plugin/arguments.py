"""Arguments of the command line: types with ranges, and a parser whose errors are sentences."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from poa_plugin.errors import UserError, did_you_mean

KEY_VALUE = "key=value"
"""The metavar of overrides of a configuration."""


class IntegerRange:
    """The type of a whole number from `low` to `high`."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high, self.range = low, high, f"{low} to {high}"

    def __call__(self, text: str) -> int:
        """Return the number.

        Raises:
            argparse.ArgumentTypeError: the text is no whole number, or out of range.
        """
        try:
            number = int(text)
        except ValueError:
            raise _out_of_range("a whole number", self.range, text) from None
        if not self.low <= number <= self.high:
            what = "positive: a whole number" if number <= 0 < self.low else "a whole number"
            raise _out_of_range(what, self.range, text)
        return number


class RealRange:
    """The type of a finite number from `low` to `high`."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high, self.range = low, high, f"{low:g} to {high:g}"

    def __call__(self, text: str) -> float:
        """Return the number.

        Raises:
            argparse.ArgumentTypeError: the text is no number, or out of range.
        """
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not self.low <= number <= self.high:  # false for nan, too
            raise _out_of_range("a number", self.range, text)
        return number


def _out_of_range(what: str, numbers: str, text: str) -> argparse.ArgumentTypeError:
    shown = text if len(text) <= 40 else f"{text[:37]}..."
    return argparse.ArgumentTypeError(f"must be {what} from {numbers}, not '{shown}'")


def path_text(text: str) -> str:
    """Return a path with `~` for the home folder spelled out, as the shell leaves it in `--to=~/x`.

    Raises:
        argparse.ArgumentTypeError: the text is empty, or no file can have the name.
    """
    if not text:
        raise argparse.ArgumentTypeError("takes a path, and got an empty one")
    try:
        illegal = b"\0" in os.fsencode(text)
    except UnicodeEncodeError:
        illegal = True
    if illegal:
        raise argparse.ArgumentTypeError(f"takes a path, and no file can be named {text!r}")
    return os.path.expanduser(text)  # noqa: PTH111 (Path.expanduser raises for an unknown user)


def path(text: str) -> Path:
    """Return a path; see `path_text`."""
    return Path(path_text(text))


class Parser(argparse.ArgumentParser):
    """A parser that raises a `UserError` of one sentence for a mistake, with the nearest name.

    Its help shows defaults, ranges, and the examples of `epilog` as they are written.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"formatter_class": _HelpFormatter, **options})
        self.set_defaults(parser=self)  # the parser of the last sub-command stays

    def error(self, message: str) -> NoReturn:
        """Raise the error of argparse as a sentence."""
        takes = re.fullmatch(r"argument (.*?): ((?:takes|must) .*)", message, re.DOTALL)
        needs = re.fullmatch(r"the following arguments are required: (.*)", message, re.DOTALL)
        if takes:
            sentence = f"{takes[1]} {takes[2]}."
        elif needs:
            sentence = self._what_is_needed(needs[1].split(", "))
        else:
            detail = message.removeprefix("argument ").rstrip(".")
            sentence = f"{detail[:1].upper()}{detail[1:]}: see '{self.prog} --help'."
        raise UserError(" ".join(sentence.split()))

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the arguments.

        Raises:
            UserError: one is invalid.
        """
        arguments, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise UserError(arguments.parser.unknown_arguments(unknown))
        return arguments

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the known arguments and the rest; a mistyped option is reported first."""
        argv = list(sys.argv[1:] if args is None else args)
        if self._subparsers is None:
            for argument in argv[: argv.index("--") if "--" in argv else None]:
                name = argument.split("=")[0]
                is_option = any(option.startswith(name) for option in self._option_string_actions)
                if name.startswith("--") and " " not in name and not is_option:
                    raise UserError(self.unknown_arguments([argument]))
        return super().parse_known_args(argv, namespace)

    def unknown_arguments(self, unknown: Sequence[str]) -> str:
        """Return the sentence about arguments that the parser does not take."""
        options = [argument for argument in unknown if argument.startswith("-")]
        if not options:
            return f"'{unknown[0]}' is one argument too many: see '{self.prog} --help'."
        name = options[0].split("=")[0]
        for action in self._get_positional_actions():
            shown = action.metavar or action.dest
            if name.lstrip("-") in (action.dest, str(shown).lower()):
                return f"'{name}' is no option of '{self.prog}': give the {shown} without it."
        takes_overrides = any(action.metavar == KEY_VALUE for action in self._actions)
        names = [option for option in self._option_string_actions if option not in ("-h", "--help")]
        if takes_overrides and not difflib.get_close_matches(name, names):
            return (
                f"'{self.prog}' has no option '{name}': keys of the configuration have no "
                f"dashes, such as train.seed=1."
            )
        return f"Unknown option '{name}' of '{self.prog}': {did_you_mean(name, names)}."

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            kind = action.metavar or action.dest if not action.option_strings else "value"
            name = "/".join(action.option_strings)
            where = f"of {name}" if name else f"of '{self.prog}'"
            choices = list(action.choices)
            raise UserError(
                f"Unknown {str(kind).lower()} '{value}' {where}: {did_you_mean(str(value), choices)}."
            )

    def _what_is_needed(self, names: Sequence[str]) -> str:
        """Return the sentence about arguments that are missing; a missing command lists all of them."""
        for action in self._get_positional_actions():
            if isinstance(action, argparse._SubParsersAction) and action.metavar in names:
                commands = ", ".join(action.choices)
                kind = str(action.metavar).lower()
                return f"'{self.prog}' needs a {kind}: {commands}; '{self.prog} --help' says more."
        return f"'{self.prog}' needs {' and '.join(names)}: see '{self.prog} --help'."


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Help with defaults, where there are any, and ranges."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        notes = (
            [f"({action.type.range})"] if isinstance(action.type, IntegerRange | RealRange) else []
        )
        hidden = action.default is False or action.default in (None, [], argparse.SUPPRESS)
        if text is not None and not hidden and "%(default)" not in text:
            default = action.default
            joined = " ".join(map(str, default)) if isinstance(default, list) else default
            notes.append(f"(default: {joined})".replace("%", "%%"))
        return " ".join([text, *notes]) if text is not None else None
