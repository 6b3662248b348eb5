"""What a tracking server needs that a file does not: how long to wait for it, its errors in words. No mlflow here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from urllib.parse import urlsplit

# attempts are 0, 4, 8 and 16 s apart: half a minute, in which a server restarts; MLflow's own 7 take four minutes
PATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
BRIEF = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_SILENT = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}

_NO_REASON = re.compile(r"\. Response body: ('<.*|''$)", re.DOTALL)


def set_request_limits(environment: MutableMapping[str, str] = os.environ) -> None:
    """Give MLflow's client our patience, and nothing to print; what the user has set stays."""
    for name, value in {**PATIENT, **_SILENT}.items():
        environment.setdefault(name, value)


@contextmanager
def brief_requests() -> Iterator[None]:
    """Wait 10 s at most for an answer, and ask twice: where nobody may be there. What the user has set stays."""
    ours = [name for name, value in PATIENT.items() if os.environ.get(name) == value]
    os.environ.update({name: BRIEF[name] for name in ours})
    try:
        yield
    finally:
        os.environ.update({name: PATIENT[name] for name in ours})


def hide_password(uri: str) -> str:
    """Address of a store as it may be shown: without the password that it may hold."""
    try:
        password = urlsplit(uri).password
    except ValueError:
        return uri
    return uri.replace(f":{password}@", ":***@", 1) if password else uri


def explain_error(error: BaseException) -> str:
    """Say in one line what a store's error means, and what can be done where that is known."""
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
    """Reason why a server did not answer, None if it did."""
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
    """The error, and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
