"""What pydantic refused, said so that a person can act on it: field, value, remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from amc.registry import nearest

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

SHOWN = 60  # characters of a refused value


def explain(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Return one line a refused field: its dotted name, the value, and the rule or the remedy.

    With ``model``, the class that was being filled, an unknown key is answered with the nearest
    known one.
    """
    return "\n".join(_line(dict(entry), model) for entry in error.errors(include_url=False))


def _line(entry: dict[str, Any], model: type[BaseModel] | None) -> str:
    location = entry["loc"]
    field = ".".join(str(part) for part in location) or "the document"
    if entry["type"] == "extra_forbidden":
        known = known_keys(model, location[:-1]) if model else []
        hint = nearest(str(location[-1]), known)
        listing = f"; known here: {', '.join(known)}" if known else "; remove it"
        return f"{field} is not a known key{hint or listing}"
    if entry["type"] == "missing":
        return f"{field} is missing; add it"
    rule = entry["msg"].removeprefix("Value error, ")
    value = repr(entry["input"])
    if entry["type"] == "value_error" and (field in rule or value in rule):
        return str(rule)  # a validator of ours has said it
    shown = value if len(value) <= SHOWN else value[: SHOWN - 3] + "..."
    return f"{field} {shown}: {rule[:1].lower()}{rule[1:]}"


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
