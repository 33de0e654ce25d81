"""What pydantic refused, said so that a person can act on it: field, value, remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from amc.printable import dotted, printable, shown
from amc.registry import nearest

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

FIELD = 200  # characters of a field's dotted name
LINES = 20  # refused fields that are told; one mistake can refuse thousands
REMEDIES = {  # by the beginning of pydantic's name for the rule
    "missing": "add it",
    "greater_than": "raise it",
    "less_than": "lower it",
    "literal_error": "choose one of these",
    "finite_number": "write a finite number",
    "int_": "write a whole number",
    "float_": "write a number",
    "bool_": "write true or false",
    "string_too": "write another one",
    "string_pattern": "write another one",
    "string_key": "write another one",
    "string_": "write text, in quotes where it looks like a number",
    "dict_": "write keys and values",
    "model_": "write keys and values",
    "tuple_": "write a list",
    "list_": "write a list",
    "too_long": "shorten it",
    "too_short": "add to it",
}


def explain(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Return one line a refused field: its dotted name, the value, the rule and the remedy.

    With ``model``, the class that was being filled, an unknown key is answered with the nearest
    known one.
    """
    entries = error.errors(include_url=False, include_context=False)
    lines = [_line(dict(entry), model) for entry in entries[:LINES]]
    if len(entries) > LINES:
        lines.append(f"and {len(entries) - LINES} fields more; correct these first")
    return "\n".join(lines)


def _line(entry: dict[str, Any], model: type[BaseModel] | None) -> str:
    location = entry["loc"]
    if location and location[-1] == "[key]":  # how pydantic says it of a key itself
        entry, location = {**entry, "type": "string_key"}, location[:-2]
    field = printable(dotted(location), FIELD) or "the document"
    if entry["type"] == "extra_forbidden":
        known = known_keys(model, location[:-1]) if model else []
        hint = nearest(str(location[-1])[:FIELD], known)
        listing = f"; known here: {', '.join(known)}" if known else "; remove it"
        return f"{field} is not a known key{hint or listing}"
    if entry["type"] == "missing":
        return f"{field} is missing; add it"
    rule = printable(entry["msg"].removeprefix("Value error, "))
    value = ("has a key " if entry["type"] == "string_key" else "") + shown(entry["input"])
    remedy = "" if ";" in rule else f"; {_remedy(entry['type'])}"
    if entry["type"] == "value_error" and (field in rule or value in rule):
        return f"{rule}{remedy}"  # a validator of ours has said it
    return f"{field} {value}: {rule[:1].lower()}{rule[1:]}{remedy}"


def _remedy(rule: str) -> str:
    return next((text for start, text in REMEDIES.items() if rule.startswith(start)), "correct it")


def known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that ``model`` knows at ``location``, or ``[]`` where it has no fields."""
    from pydantic import BaseModel

    here: type[BaseModel] = model
    for part in location:
        field = here.model_fields.get(str(part))
        below = [] if field is None else [field.annotation, *get_args(field.annotation)]
        nested = [t for t in below if isinstance(t, type) and issubclass(t, BaseModel)]
        if not nested:
            return []
        here = nested[0]
    return list(here.model_fields)
