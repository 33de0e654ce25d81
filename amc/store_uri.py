"""Where MLflow keeps a run: tracking URIs, and no secret of theirs in anything that we write.

Passwords may stand in the environment (``MLFLOW_TRACKING_URI`` or MLflow's own
``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD``) or in ``--tracking-uri``, never in a
configuration, since a run folder keeps a copy of that.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from amc.errors import InputError
from amc.printable import shown, unnamed

DATABASE = "mlflow.db"
SQLITE = "sqlite:///"
OFF = "off"
URI = "MLFLOW_TRACKING_URI"
USER, PASSWORD, TOKEN = (f"MLFLOW_TRACKING_{name}" for name in ("USERNAME", "PASSWORD", "TOKEN"))

_PARTS = re.compile(r"(?P<scheme>[\w+.-]+://)(?:(?P<user>.*)@)?(?P<rest>.*)", re.DOTALL)
_SECRET_KEY = re.compile(r"pass|pwd|secret|token|key", re.IGNORECASE)


class Parts(NamedTuple):
    """A URI without its secrets; user and password, decoded, are ``""`` where there is none."""

    public: str
    user: str
    password: str
    secrets: tuple[str, ...]  # all that others may not see, as it stands and decoded


def parts(uri: str) -> Parts:
    """Return ``uri`` taken apart. Whoever is named to a web server counts as a secret too."""
    match = _PARTS.fullmatch(uri.strip())
    if match is None or uri.startswith("sqlite"):
        return Parts(uri, "", "", ())
    scheme, userinfo, rest = match["scheme"], match["user"] or "", match["rest"]
    user, colon, password = userinfo.partition(":")
    web = _is_web(scheme)
    if web and userinfo and not colon:
        user, password = "", userinfo  # a bare name may be an access token
    host, question, query = rest.partition("?")
    asked = [part for part in query.split("&") if part]
    values = [part.partition("=")[2] for part in asked if _SECRET_KEY.search(_key(part))]
    secrets = [raw for raw in (password, *values) if raw]
    kept = "&".join(part for part in asked if not _SECRET_KEY.search(_key(part)))
    shown = f"{user}@" if user and not web else ""
    public = f"{scheme}{shown}{host}{question if kept else ''}{kept}"
    return Parts(public, unquote(user), unquote(password), (*secrets, *map(unquote, secrets)))


def _is_web(uri: str) -> bool:
    return uri.lower().startswith(("http:", "https:"))


def _key(part: str) -> str:
    return part.partition("=")[0]


def masked(text: str, *uris: str | None) -> str:
    """Return ``text`` without the secrets of ``uris`` and of the environment, to be shown."""
    known = {os.environ.get(PASSWORD, ""), os.environ.get(TOKEN, "")}
    for uri in (*uris, os.environ.get(URI)):
        known |= set(parts(uri or "").secrets)
    for secret in sorted(known - {""}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return unnamed(text)


@contextlib.contextmanager
def authorised(uri: str) -> Iterator[str]:
    """Yield ``uri`` as MLflow is to be given it: without what it could put into its messages.

    Of a web server that is the user and password, which MLflow finds in its own variables in the
    meantime; those of a database stay in the URI.
    """
    if not _is_web(uri):
        yield uri
        return
    found = parts(uri)
    new = {USER: found.user, PASSWORD: found.password} if found.password else {}
    before = {name: os.environ.get(name) for name in new}
    os.environ.update(new)
    try:
        yield found.public
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def chosen(uri: str | None) -> str | None:
    """Return the store that is asked for, absolute and with its secrets; ``None``: the default.

    ``uri`` (of the configuration or the command line) goes before ``MLFLOW_TRACKING_URI``. A
    password that the environment has for the same store is added.
    """
    environment = os.environ.get(URI) or None
    store = uri or environment
    if store is None:
        return None
    if environment and parts(environment).public == store:
        store = environment
    return absolute(store)


def check_confided(uri: str | None, command: str) -> None:
    """Raise ``InputError`` where what the environment knows would be sent on a file's word.

    ``uri`` is of a run folder, which may be a stranger's, and the credentials may be for a server
    that ``MLFLOW_TRACKING_URI`` or nobody names. ``command`` is what the person asked for.
    """
    credentials = [name for name in (USER, PASSWORD, TOKEN) if os.environ.get(name)]
    named = parts(os.environ.get(URI) or "").public
    if uri is None or uri == named or not _is_web(uri) or not credentials:
        return
    raise InputError(
        f"tracking_uri {shown(uri)} stands in the run folder alone, and {credentials[-1]} of the "
        f"environment is not sent there on a file's word; say that it is meant: {URI}={uri} "
        f"{command}"
    )


def default_store(run_dir: Path) -> str:
    """Return the URI of the database beside ``run_dir``, shared by all runs of that folder."""
    return f"{SQLITE}{run_dir.resolve().parent / DATABASE}"


def absolute(uri: str) -> str:
    """Return ``uri``, with the file of a relative sqlite URI made absolute."""
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).resolve()}" if uri.startswith(SQLITE) else uri


def store_of(run_dir: Path | None, db: str | None) -> str:
    """Return the tracking URI that ``amc ui`` shows; ``InputError`` where there is none.

    ``db`` is a URI or a database file; else the database in or beside ``run_dir`` is taken, else
    ``MLFLOW_TRACKING_URI``, else ``runs/mlflow.db``.
    """
    environment = os.environ.get(URI)
    if db is not None and "://" in db:
        return absolute(db)
    if db is not None:
        candidates = [Path(db)]
    elif run_dir is not None:
        candidates = [run_dir / DATABASE, run_dir.resolve().parent / DATABASE]
    elif environment:
        return absolute(environment)
    else:
        candidates = [Path("runs") / DATABASE]
    for path in candidates:
        if path.is_file():
            return f"{SQLITE}{path.resolve()}"
    looked = " and ".join(str(path) for path in candidates)
    raise InputError(
        f"no database of runs at {looked}; name one with --db, or run `amc search` first"
    )
