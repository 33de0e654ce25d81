"""What a message about a bad file must say: which field, what value stands there, what to do.

What is wrong is known by comparing the file with the one that it was made of.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from amc.printable import dotted, shown

Place = tuple[str | int, ...]
GONE = object()

# A remedy is a clause of its own that tells the reader to do something, or the words to choose of.
VERBS = (
    *("add", "apply", "change", "check", "choose", "correct", "cut", "give", "go on", "leave"),
    *(
        "delete",
        "fine-tune",
        "list",
        "lower",
        "name",
        "raise",
        "remove",
        "rename",
        "restore",
        "save",
        "shorten",
        "sort",
    ),
    *("start", "take", "use", "write", "make"),
)
REMEDY = re.compile(
    rf"; (or |once its search has ended, )?({'|'.join(VERBS)})\b"
    r"|; did you mean '.*'\?|; known here: \S|[;?] Known: \S|; choose one of "
)
# What is wrong with a text rather than with a field, and where.
OF_TEXT = re.compile(
    r"not readable (JSON|YAML).*(at byte \d|in line \d|at position \d|byte \d+ is not"
    r"|too many digits|stands twice)|checksum|digest is not that of its content"
    r"|larger than \d+ bytes|longer than \d+ (bytes|characters)|holds more than \d+ values"
    r"|is nested too deep"
)
SEARCH = re.compile(r"^tasks\.(\S+), entries\.(\S+): ", re.MULTILINE)  # of an arena
# What a field may be refused for without any value of its own.
NO_VALUE = re.compile(
    r"is missing\b|is not a known |stands twice|is nested too deep|holds more than \d+ values"
    r"|has a key "
)


def differences(old: Any, new: Any, place: Place = ()) -> Iterator[Place]:
    """Yield where ``new`` is not as ``old``: the innermost places, and those that are gone."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if key not in old or key not in new:
                yield (*place, key)
            else:
                yield from differences(old[key], new[key], (*place, key))
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield place
        for index, (one, other) in enumerate(zip(old, new, strict=False)):
            yield from differences(one, other, (*place, index))
    elif type(old) is not type(new) or old != new:
        yield place


def at(value: Any, place: Place) -> Any:
    """Return what stands at a place, ``GONE`` where nothing does."""
    for key in place:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return GONE
    return value


def below(value: Any, place: Place, most: int = 3000) -> Iterator[tuple[Place, Any]]:
    """Yield the place with its value, and all within it, up to ``most`` of a list."""
    yield place, value
    if isinstance(value, dict):
        for key in list(value)[:most]:
            yield from below(value[key], (*place, key), most)
    elif isinstance(value, list):
        for index, one in enumerate(value[:most]):
            yield from below(one, (*place, index), most)


def is_named(message: str, place: Place) -> bool:
    """Whether a message has the dotted name of a place, or of what holds it and then its words.

    The index in a list may be left out.
    """
    for count in range(len(place), -1, -1):
        name = dotted(place[:count])
        if count and f"{name} is not a known key" in message:
            return True  # nor is what it holds
        if (
            count > 1
            and f"{dotted(place[: count - 1])} has a key {shown(place[count - 1])}" in message
        ):
            return True
        if not count or re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", message):
            rest = [part for part in place[count:] if isinstance(part, str)]
            return all(re.search(rf"(?<!\w){re.escape(dotted([p]))}(?!\w)", message) for p in rest)
    return False


def has_value(message: str, document: Any, place: Place) -> bool:
    """Whether a message shows what stands at a place, or in it, or what holds it."""
    if at(document, place) is GONE or NO_VALUE.search(message):
        return True
    if isinstance(place[-1], str) and shown(place[-1]) in message:  # a key is refused as it is
        return True
    if any(shown(value) in message for _, value in below(at(document, place), place)):
        return True
    above = (place[:count] for count in range(len(place)))
    return any(
        shown(at(document, one)) in message for one in above if one and is_named(message, one)
    )


def fault(message: str, documents: tuple[Any, Any] | None) -> str | None:
    """Return what a message lacks, or ``None``.

    ``documents`` are what the file was and what it is, ``None`` for one that cannot be parsed: then
    a byte or a line is enough. ``message`` may have a line for each refused field.
    """
    if problem := _no_remedy(message):
        return problem
    wrong = [()] if documents is None else list(differences(*documents))
    named = [place for place in wrong if place and is_named(message, place)]
    if documents is not None:  # what holds it, shown as a whole, is as good
        above = {place[:-1] for place in wrong if len(place) > 1}
        wholes = [place for place in above if shown(at(documents[1], place)) in message]
        named += [place for place in wholes if is_named(message, place)]
    if any(has_value(message, documents and documents[1], place) for place in named):
        return None
    if named:
        return f"no value of {[dotted(place) for place in named][:5]}"
    # The text itself is refused, or all of it is another one.
    if OF_TEXT.search(message) or (wrong == [()] and documents is not None):
        return None
    return f"none of the fields {[dotted(place) for place in wrong][:5]}, nor a byte or line"


def fault_of_experiment(message: str, documents: tuple[Any, Any] | None) -> str | None:
    """Return what a message about an arena's file lacks, or ``None``.

    It may also name the task, the entry, and the field by its name in a search's configuration.
    """
    found, search = fault(message, documents), SEARCH.match(message)
    if found is None or search is None or documents is None:
        return found
    old, new = (_of_search(document, *search.groups()) for document in documents)
    return fault(SEARCH.sub("", message), (old, new))


def _of_search(document: Any, task: str, label: str) -> dict[str, Any]:
    """Return the configuration of one search of an arena, as far as it can be told."""
    sections = [at(document, place) for place in (("common",), ("tasks", task), ("entries", label))]
    common, own, entry = (one if isinstance(one, dict) else {} for one in sections)
    options = {key: value for key, value in entry.items() if key not in ("agent", "seeds")}
    seeds = {key: entry[key] for key in ("seeds",) if key in entry}
    return {**common, **own, **seeds, "agents": {str(entry.get("agent", label)): options}}


def fault_of_overrides(message: str, overrides: Sequence[str]) -> str | None:
    """Return what a message about values of ``--set`` lacks, or ``None``.

    It must show one as a whole, or have its key and its value.
    """
    if problem := _no_remedy(message):
        return problem
    for override in overrides:
        key, _, text = override.partition("=")
        if f"--set {shown(override)}" in message:
            return None
        if is_named(message, tuple(key.split("."))) and _shows(message, text):
            return None
    return f"none of {overrides}"


def _shows(message: str, text: str) -> bool:
    with contextlib.suppress(yaml.YAMLError, ValueError):
        value = yaml.load(text, Loader=yaml.CSafeLoader)
        if any(shown(one) in message for _, one in below(value, ())):
            return True
    return NO_VALUE.search(message) is not None


def _no_remedy(message: str) -> str | None:
    for line in message.splitlines():
        if not REMEDY.search(line) and not re.fullmatch(r"and \d+ fields more; .*", line):
            return f"no remedy in {line!r}"
    return None


def in_lines(message: str, content: bytes, documents: tuple[Any, Any] | None) -> str | None:
    """Return what a message about a file of one JSON object a line lacks, or ``None``.

    It must name the line that is wrong by its byte, and beyond that be as ``fault`` wants it.
    """
    if problem := _no_remedy(message):
        return problem
    named = re.search(r"corrupt at byte (\d+)", message)
    if named is None:
        return None if "has no header" in message else "no byte"
    lines = content.split(b"\n")
    offsets = [sum(len(line) + 1 for line in lines[:number]) for number in range(len(lines))]
    if int(named[1]) not in offsets:
        return f"byte {named[1]} begins no line"
    number = offsets.index(int(named[1]))
    if documents is None or not all(isinstance(document, list) for document in documents):
        return None
    old, new = documents
    if number >= min(len(old), len(new)) or new[number] in old:
        return None  # a line too many, or not in its place
    return fault(message.replace(named[0], "corrupt"), (old[number], new[number]))
