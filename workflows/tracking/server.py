"""Wait for a tracking server, and put its errors into words. mlflow is not imported here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from urllib.parse import urlsplit

# attempts are 0, 4, 8 and 16 s apart: a server restarts in this half minute; MLflow's own 7 attempts take four
PATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
BRIEF = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_SILENT = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}

_NO_REASON = re.compile(r"\. Response body: ('<.*|''$)", re.DOTALL)


def set_request_limits(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the retries of MLflow's client and keep it from printing; values that the user has set stay."""
    for name, value in {**PATIENT, **_SILENT}.items():
        environment.setdefault(name, value)


@contextmanager
def brief_requests() -> Iterator[None]:
    """Wait at most 10 s for an answer and ask twice, as the server may be down. Values that the user has set stay."""
    ours = [name for name, value in PATIENT.items() if os.environ.get(name) == value]
    os.environ.update({name: BRIEF[name] for name in ours})
    try:
        yield
    finally:
        os.environ.update({name: PATIENT[name] for name in ours})


def hide_password(uri: str) -> str:
    """Address of a store for display, without a password."""
    try:
        password = urlsplit(uri).password
    except ValueError:
        return uri
    return uri.replace(f":{password}@", ":***@", 1) if password else uri


def explain_error(error: BaseException) -> str:
    """Describe a store's error in one line, with the way out where one is known."""
    unreachable = _find_unreachable(error)
    if unreachable is not None:
        return unreachable
    text = str(error).strip()
    if "Invalid Host header" in text:
        return "the server refuses requests under this name; add it to the server's --allowed-hosts"
    if isinstance(error, ModuleNotFoundError):
        return f"{text}; a PostgreSQL store needs postgresql+psycopg2://… and `pip install 'shutterless[server]'`"
    lines = _NO_REASON.sub("", text).splitlines()
    return lines[0] if lines else type(error).__name__


def _find_unreachable(error: BaseException) -> str | None:
    """Reason why a server did not answer; None if it did."""
    import requests  # comes with mlflow

    chain = list(_causes(error))
    found = next((e for e in chain if isinstance(e, requests.ConnectionError | requests.Timeout)), None)
    if found is None:
        return None
    last = chain[-1]
    reason = getattr(last, "strerror", None) or str(last) or type(last).__name__
    if isinstance(found, requests.exceptions.ProxyError):
        return f"the proxy of HTTP_PROXY does not answer ({reason}); NO_PROXY lists the hosts that need none"
    return f"the server does not answer ({reason})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
