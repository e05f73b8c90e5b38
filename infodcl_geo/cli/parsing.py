"""Words of the command line to options: one parser a command, that holds the options of the chosen model and no others.

Options come from dataclasses: their names, types, defaults and documentation. Words of a configuration file stand
before those of the command line, so that they are checked alike and give way.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from argparse import SUPPRESS
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from ..data.options import DataOptions
from ..errors import InfodclGeoError, OptionError
from ..text import escape, shortened

if TYPE_CHECKING:  # a command that trains nothing starts without the models
    from ..configuration import Config
    from ..models import Recipe

_SECTIONS = ("data", "options", "training")
_WIDTH = 100


class _Formatter(DefaultHelpFormatter):
    """Two columns, each option in a line or two."""

    def __init__(self, prog: str, **_: Any) -> None:
        super().__init__(prog, max_help_position=28, width=_WIDTH)

    def _get_help_string(self, action: Any) -> str:
        text, default = action.help or "", action.default
        choices = _choices(getattr(action, "_typehint", None))
        if choices and not all(str(choice) in text for choice in choices):
            text += f" ({', '.join(map(str, choices))})"
        if default is None or default is False or default == "==SUPPRESS==" or not action.option_strings:
            return text
        shown = " ".join(map(str, default)) if isinstance(default, tuple | list) else default
        return f"{text} [{str(shown).lower() if default is True else shown}]".strip()

    def _expand_help(self, action: Any) -> str:
        # As it is: what versions of the base make of "%" differs.
        return self._get_help_string(action)

    def _metavar_formatter(self, action: Any, default_metavar: str) -> Any:
        kind = getattr(action, "_typehint", None)
        metavar = "..." if action.nargs == "+" else _metavar(kind)
        return lambda size: (metavar,) * size if size != 1 else (metavar,)

    def _format_args(self, action: Any, default_metavar: str) -> str:
        if action.nargs == 0:
            return ""
        return "A B ..." if action.nargs == "+" else _metavar(getattr(action, "_typehint", None))

    def _format_usage(self, usage: Any, actions: Any, *rest: Any, **named: Any) -> str:
        return f"usage: {self._prog} [OPTIONS]\n\n"


def _choices(kind: Any) -> tuple[Any, ...]:
    """The values of a ``Literal``."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(choice for part in get_args(kind) for choice in _choices(part))


def _metavar(kind: Any) -> str:
    """What stands for a value in the help."""
    kinds = [part for part in (get_args(kind) or (kind,)) if part is not type(None)]
    names = {int: "N", float: "X", bool: "BOOL", str: "TEXT"}
    return "NAME" if _choices(kind) else names.get(kinds[0], "VALUE")


class Parser(ArgumentParser):
    """A parser whose errors are one line, with the nearest option."""

    def __init__(self, command: str, description: str) -> None:
        self.recipe: Recipe | None = None
        self.command = command
        super().__init__(prog=f"infodcl-geo {command}".strip(), description=description, formatter_class=_Formatter)
        self.allow_abbrev = False  # a shortened name would be taken in silence

    @property
    def names(self) -> list[str]:
        """Names of the options."""
        return [action.dest for action in self._actions if action.option_strings]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
        unknown = re.search(r"nrecognized arguments: (\S+)", message)
        if unknown:
            message = self._unknown(unknown[1])
        else:
            named = re.search(r'[Pp]arser key "([^"]+)"', message)
            found = re.search(r"(?:Given value|value): (.*)$", message, flags=re.DOTALL)
            lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
            message = lines[0] if len(lines) == 1 else "; ".join(lines[:3])
            if named:
                wanted = next((a for a in self._actions if a.dest == named[1]), None)
                kind = getattr(wanted, "_typehint", None)
                what = _type_words(kind) if kind is not None else "something else"
                value = f", not {' '.join(found[1].splitlines()[:1]).strip()!r}" if found else ""
                message = f"--{named[1]} takes {what}{value}"
        print(f"infodcl-geo: {shortened(escape(' '.join(message.split())))}", file=sys.stderr)
        raise SystemExit(2)

    def parse_args(self, *given: Any, **more: Any) -> Namespace:  # type: ignore[override]
        """As the base, but what its conversions of values do not catch is one line, too."""
        try:
            return super().parse_args(*given, **more)
        except (ValueError, TypeError, ArithmeticError, RecursionError, OSError) as error:
            if isinstance(error, InfodclGeoError):
                raise
            self.error(f"a value cannot be read ({' '.join(str(error).split()) or type(error).__name__})")

    def _unknown(self, word: str) -> str:
        name = word.lstrip("-").partition("=")[0]
        if not word.startswith("-"):
            return f"{word!r} is no option; what belongs to an option follows it: see infodcl-geo {self.command} --help"
        if self.recipe is not None:
            from ..configuration import TRAINING, no_such_option
            from ..models import RECIPES

            of_model = name.rpartition(".")[2] if "." in name else name
            if any(of_model in recipe.option_names for recipe in RECIPES) or of_model in TRAINING:
                return no_such_option(self.recipe, of_model, self.names)
        near = difflib.get_close_matches(name, self.names, 1)
        hint = f"did you mean --{near[0]}?" if near else f"see infodcl-geo {self.command} --help"
        return f"there is no option --{name}; {hint}"

    def add(self, name: str, kind: Any, default: Any, text: str, *, group: Any = None, **more: Any) -> None:
        """One option ``--name``.

        Args:
            name, kind, default: its name, type and default.
            text: its documentation, of which the first sentence is shown.
            group: an argument group.
        """
        (group or self).add_argument(f"--{name}", type=kind, default=default, help=_first_sentence(text), **more)

    def add_list(self, name: str, default: Sequence[Any], text: str, *, group: Any = None) -> None:
        """An option that takes several values, separated by spaces or commas; read it by :func:`listed`."""
        (group or self).add_argument(
            f"--{name}", nargs="+", type=str, default=[str(v) for v in default], help=_first_sentence(text)
        )

    def add_dataclass(self, kind: type, title: str, changes: Mapping[str, Any] = {}, skip: Sequence[str] = ()) -> None:
        """An option for each field.

        Args:
            kind: the dataclass.
            title: of the group in the help.
            changes: other defaults.
            skip: fields to leave out.
        """
        group = self.add_argument_group(title)
        hints, texts = get_type_hints(kind), documentation(kind)
        for part in fields(kind):
            if part.name not in skip:
                default = changes.get(part.name, None if part.default is MISSING else part.default)
                self.add(part.name, hints[part.name], default, texts.get(part.name, ""), group=group)


def _type_words(kind: Any) -> str:
    if _choices(kind):
        return "one of " + ", ".join(map(str, _choices(kind)))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    kinds = [part for part in (get_args(kind) or (kind,)) if part is not type(None)]
    return " or ".join(names.get(part, str(part)) for part in kinds)


def fits(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON can be that of an option."""
    kinds = get_args(kind) or (kind,)
    if _choices(kind):
        return value in _choices(kind) or (value is None and type(None) in kinds)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, tuple(float | int if part is float else part for part in kinds))


@cache
def documentation(kind: type) -> dict[str, str]:
    """Documentation of a dataclass' fields by name, from its docstring and those of its bases."""
    from docstring_parser import DocstringStyle, parse

    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base.__doc__ and base is not object:
            for entry in parse(base.__doc__, DocstringStyle.GOOGLE).params:
                found[entry.arg_name] = " ".join((entry.description or "").split())
    return found


def _first_sentence(text: str) -> str:
    plain = re.sub(r":\w+:`~?(?:[\w.]+\.)?([\w-]+)`", r"\1", text).replace("``", "")
    depth = 0
    for place, sign in enumerate(plain):
        depth += (sign == "(") - (sign == ")")
        if depth == 0 and sign in ".;" and plain[place + 1 : place + 2] in ("", " ") and plain[:place][-2:] != "eq":
            return plain[:place].partition(", see ")[0]
    return plain.partition(", see ")[0]


def listed(values: Sequence[Any] | str) -> list[str]:
    """The items of a list however it was written: ``a b``, ``a,b``, ``[a,b]``."""
    words = [values] if isinstance(values, str) else list(values)
    items = (item.strip(" []'\"") for word in words for item in str(word).split(","))
    return [item for item in items if item]


def whole_numbers(name: str, values: Sequence[Any] | str, least: int = 1) -> tuple[int, ...]:
    """:func:`listed` as distinct whole numbers.

    Raises:
        OptionError: if one is none, or below ``least``, or there is none at all.
    """
    found = []
    for item in listed(values):
        if not re.fullmatch(r"-?\d{1,18}", item) or int(item) < least:
            raise OptionError(f"{name} are whole numbers from {least}, not {item!r}")
        found.append(int(item))
    if not found:
        raise OptionError(f"{name} needs at least one whole number")
    return tuple(dict.fromkeys(found))


# ---------------------------------------------------------------------------------------------------------------------
# Words


def words_of(argv: Sequence[str], recipe: Recipe | None = None) -> list[str]:
    """The words with ``_`` in the names of options, and ``--model.option`` as ``--option``."""
    words = []
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            if recipe is not None:
                name = name.removeprefix(f"{recipe.name}.")
            word = f"--{name}{equals}{value}"
        words.append(word)
    return words


def with_flags(words: Sequence[str], parser: Parser) -> list[str]:
    """Words in which ``--flag`` alone means ``--flag true``."""
    hints = {f"--{a.dest}": getattr(a, "_typehint", None) for a in parser._actions}
    found: list[str] = []
    for place, word in enumerate(words):
        following = words[place + 1] if place + 1 < len(words) else "--"
        if hints.get(word) in (bool, bool | None) and following.startswith("--"):
            word = f"{word}=true"
        found.append(word)
    return found


def peek(words: Sequence[str], name: str) -> str | None:
    """The value of an option before there is a parser; the last one where it is given several times."""
    value = None
    for place, word in enumerate(words):
        if word.startswith(f"--{name}="):
            value = word.partition("=")[2]
        elif word == f"--{name}" and place + 1 < len(words):
            value = words[place + 1]
    return value


def file_words(path: str | Path) -> list[str]:
    """The options of a configuration file as words: a printed configuration, ``metrics.json``, or names with values.

    Raises:
        OptionError: if it cannot be read, or holds something else; one line that names it.
    """
    from ..settings import read_mapping

    content = read_mapping(path)
    if isinstance(content.get("config"), Mapping):
        content = content["config"]
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            # A section, or the options of the model under its own name.
            flat |= {str(key): v for key, v in value.items()}
        else:
            flat[str(name)] = value
    for name, value in flat.items():
        if isinstance(value, Mapping):
            raise OptionError(f"{path}: {name} is an option, so a value, and not names with values")
    return option_words(flat)


def option_words(options: Mapping[str, Any]) -> list[str]:
    """Options by name as words."""
    words = []
    for name, value in options.items():
        if isinstance(value, list | tuple):
            value = ",".join(map(str, value))
        words.append(f"--{name.replace('-', '_')}={value if isinstance(value, str) else json.dumps(value)}")
    return words


# ---------------------------------------------------------------------------------------------------------------------
# Configurations


def add_model(parser: Parser, recipe: Recipe, defaults: Mapping[str, Any]) -> None:
    """The model's own options and, where it is trained, those of training."""
    from ..training.options import TrainOptions

    parser.recipe = recipe
    parser.add_dataclass(recipe.options, f"model {recipe.name}: {recipe.summary}", defaults)
    if not recipe.closed_form:
        parser.add_dataclass(TrainOptions, "training", defaults)


def hide_idle(parser: Parser, words: Sequence[str]) -> None:
    """Leave out of the help what belongs to another value of an option than the one that ``words`` or the model take.

    The fields of the options say it in their metadata, as ``of``: the option and its values.
    """
    assert parser.recipe is not None
    actions = {action.dest: action for action in parser._actions}
    for part in fields(parser.recipe.options):
        option, values = part.metadata.get("of", ("", ()))
        if option in actions and (peek(words, option) or actions[option].default) not in values:
            actions[part.name].help = SUPPRESS


def add_data(parser: Parser) -> None:
    parser.add_dataclass(DataOptions, "data")


def config_of(namespace: Namespace, recipe: Recipe) -> Config:
    """The configuration that parsed options make."""
    from ..configuration import TRAINING, configure

    parts = {name: namespace[name] for name in (*recipe.option_names, *TRAINING) if name in namespace}
    return configure(recipe, **parts)


def data_of(namespace: Namespace) -> DataOptions:
    return DataOptions(**{part.name: namespace[part.name] for part in fields(DataOptions)})


def configuration(data: DataOptions, config: Config) -> dict[str, Any]:
    """What ``--print_config`` prints and ``metrics.json`` holds."""
    return {"data": asdict(data), **config.to_dict()}


def model_of(words: Sequence[str], default: str) -> Recipe:
    from ..models import find_recipe

    return find_recipe(peek(words, "model") or default)
