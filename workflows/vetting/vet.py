"""Serve the page on which a person labels the candidates of a search: the command ``shutterless vet``."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from pathlib import Path

from shutterless.pipeline.results.labels import read_label_lines
from shutterless.workflows.execution.cluster import open_executor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.pages.loopback import serve_pages
from shutterless.workflows.vetting.app import build_vetting_app
from shutterless.workflows.vetting.blind import VETTING, VetError, open_blind, prepare_blind
from shutterless.workflows.vetting.candidate_queue import line_up, read_names
from shutterless.workflows.vetting.desk import Desk
from shutterless.workflows.vetting.summary import LABELS, summarise_vetters


def vet_search(
    search: Path,
    *,
    announce: Callable[[str], None],
    who: str | None = None,
    port: int = 0,
    n_blind: int = 0,
    only: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Serve the candidates of a search to one vetter until the process gets a signal to end.

    Parameters
    ----------
    search : Path
        Folder of the search. Labels go to ``vetting/labels.csv`` in it.
    announce : callable
        Gets lines for the user; one of them holds the address of the page.
    who : str, optional
        Name of the vetter; that of the account if it is left out.
    port : int
        0 takes a free one.
    n_blind : int
        Injected events among the candidates. A blind test that was begun goes on, whatever is asked here.
    only : Path, optional
        CSV file with the names (``candidate_id``) of the candidates to vet, without a blind test.
    progress : Progress, optional
        Of the preparation of a blind test.

    Raises
    ------
    VetError
        If there is nothing to vet, or a name cannot be used.
    AddressError
        If nothing can listen at the port.
    """
    search, who = Path(search), _check_name(who or getpass.getuser())
    names = None if only is None else read_names(only)
    labels = search / VETTING / LABELS
    if labels.is_file():
        for note in read_label_lines(labels).notes:
            announce(f"note: {note}")
    line_up(search, only=names)  # finds a folder that is none before any work
    blind = None if only is not None else open_blind(search)
    if only is None and blind is None and n_blind:
        with open_executor(when_worth=True) as executor:
            n_found = prepare_blind(search, n_blind, executor, progress=progress)
        announce(f"{n_found} injected events are among the candidates" + _say_fewer(n_found, n_blind))
        blind = open_blind(search)
    elif blind is not None and n_blind not in (0, len(blind.truth)):
        announce(f"the blind test of {len(blind.truth)} events that was begun goes on")
    queue = line_up(search, blind, names)
    desk = Desk(queue, labels, who)
    n_open = len(queue) - len(desk.own_labels())

    def conclude() -> str:
        return next(summary.text() for summary in summarise_vetters(search) if summary.who == who)

    serve_pages(
        lambda: build_vetting_app(desk, conclude),
        port,
        lambda address: announce(f"{n_open} of {len(queue)} candidates wait for {who} at {address}"),
    )


def _check_name(who: str) -> str:
    name = who.strip()
    if not name or len(name) > 100 or not name.isprintable():
        raise VetError(f"--who {who!r} is no name: 1 to 100 printable characters are expected")
    return name


def _say_fewer(n_found: int, n_wanted: int) -> str:
    return "" if n_found == n_wanted else f"; the search found no more of {n_wanted} wanted"
