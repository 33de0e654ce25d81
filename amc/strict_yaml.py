"""Reading YAML that a stranger may have written: plain data alone, and bounded work.

No aliases, which multiply what they name, no anchors, no tags, no merge keys, no key twice. Dates
are text. The scanner is libyaml's, which takes a millisecond for the largest file where Python's
takes a hundred; an installation of yaml that lacks it works with Python's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.parser import Parser as PlainParser
from yaml.reader import Reader, ReaderError
from yaml.resolver import Resolver
from yaml.scanner import Scanner

from amc.errors import InputError
from amc.printable import printable
from amc.strict_json import Limits, check_plain, read_bytes

try:
    from yaml.cyaml import CParser as Parser  # type: ignore[attr-defined]
except ImportError:

    class Parser(Reader, Scanner, PlainParser):  # type: ignore[no-redef]
        """The same events, made by Python."""

        def __init__(self, text: str) -> None:
            Reader.__init__(self, text)
            Scanner.__init__(self)
            PlainParser.__init__(self)


LIMITS = Limits(
    size=100_000,
    values=2_000,
    depth=16,
    text=10_000,
    remedy="correct it",
)
KINDS = ("bool", "int", "float", "null")  # that words without quotes may be, beside text


class _Refused(yaml.MarkedYAMLError):
    """What is YAML, but more than plain data. ``problem`` and ``problem_mark`` say what, where."""


class _PlainLoader(Composer, Parser, SafeConstructor, Resolver):
    """Stops at the first node that is refused; what follows is not even scanned."""

    # Dates and merge keys are text here, and ``=`` is no value of its own.
    yaml_implicit_resolvers = {  # noqa: RUF012 (as its base class has it)
        first: [(tag, rule) for tag, rule in rules if tag.rpartition(":")[2] in KINDS]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        Parser.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self.nodes = self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()
        self.nodes += 1
        why = None
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            why = "aliases are not allowed, nor anchors; write the value out"
        elif event.tag is not None:
            why = f"the tag {printable(repr(event.tag), 80)} is not allowed; leave it out"
        elif self.nodes > LIMITS.values:
            why = f"it holds more than {LIMITS.values} values; shorten it"
        elif self.depth >= LIMITS.depth:
            why = f"it is nested too deep; use {LIMITS.depth} levels at most"
        if why is not None:
            raise _Refused(problem=why, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            name, why = key.value, None
            if not isinstance(key, yaml.ScalarNode):
                why = "a key must be text; write a word"
            elif name == "<<":
                why = "merge keys (<<) are not allowed; write the values out"
            elif name in seen:
                why = f"key {printable(repr(name), 80)} stands twice; leave one out"
            if why is not None:
                raise _Refused(problem=why, problem_mark=key.start_mark)
            seen.add(name)
        return node


def parse_yaml(text: str, name: str) -> Any:
    """Return the plain value of one YAML document; ``InputError`` begins with ``name``."""
    if len(text) > LIMITS.size:
        raise InputError(f"{name} is longer than {LIMITS.size} characters; shorten it")
    loader = None
    try:
        loader = _PlainLoader(text)
        value = loader.get_single_data()
    except _Refused as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise InputError(f"{name} is not readable YAML{where}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{name} is not readable YAML{_said(error)}; correct it") from None
    except (ValueError, OverflowError) as error:
        digits = "digits" in str(error)
        why = "a number has too many digits" if digits else printable(str(error), 100)
        raise InputError(f"{name} is not readable YAML: {why}; correct it") from None
    finally:
        if loader is not None:
            loader.dispose()
    check_plain(value, name, LIMITS)
    return value


def _said(error: yaml.YAMLError) -> str:
    """Return where YAML ends and why, without the line itself, which may hold a password."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
        why = ", ".join(filter(None, [error.context, error.problem]))
    elif isinstance(error, ReaderError):
        where, why = f" at position {error.position}", str(error.reason)
    else:
        where, why = "", " ".join(str(error).split())
    return f"{where}: {printable(why, 200)}"


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; ``InputError`` when it is missing or malformed."""
    content = read_bytes(path, what, LIMITS.size, "shorten it")
    name = f"{what} {printable(repr(str(path)))}"
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not readable YAML: byte {error.start} is not UTF-8; save it as UTF-8"
        ) from None
    value = parse_yaml(text, name)
    if not isinstance(value, dict):
        raise InputError(
            f"{name} must hold keys and values at its top level; write lines such as task: digits"
        )
    return value
