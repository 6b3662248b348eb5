"""Write the report of a run, a search or a store: one self-contained HTML file, one small function per section.

``shutterless report DIR`` writes ``DIR/report.html``. Sections without data are left out, with one line that states it.
The report of a store is the page of `shutterless.workflows.report.quality_page`, or for image cubes that of
`shutterless.workflows.report.cube_sections`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from shutterless.pipeline.files import write_text
from shutterless.pipeline.store.quality_record import read_quality
from shutterless.pipeline.store.store import MANIFEST, read_manifest
from shutterless.workflows.pages.page import page
from shutterless.workflows.pages.parts import Paragraph, Part, Section
from shutterless.workflows.pages.run_folder import FIRST_GROUPS, LeftOutError, Pictured, RunFolder, is_cube
from shutterless.workflows.report.candidate_list import list_candidates, list_vetoed
from shutterless.workflows.report.cube_sections import VIEWS, cube_store_sections, write_cubes, write_view
from shutterless.workflows.report.detector_sections import (
    write_comparison,
    write_completeness,
    write_controls,
    write_kinds,
    write_learning,
    write_losses,
    write_reliability,
)
from shutterless.workflows.report.pictures import calibrate_pictured
from shutterless.workflows.report.quality_page import (
    MAX_AMPLIFIER_SECTIONS,
    picture_amplifiers,
    quality_sections,
    summarise_amplifiers,
)
from shutterless.workflows.report.run_sections import (
    find_nights,
    placed_candidates,
    write_frame,
    write_map,
    write_places,
    write_quality,
    write_run,
    write_skipped,
    write_streaks,
)
from shutterless.workflows.report.sweep_sections import draw_sweep_figure, write_sweep, write_trials
from shutterless.workflows.searching.search import AMPLIFIERS


class ReportError(ValueError):
    """A folder from which no report can be made."""


@dataclass(frozen=True)
class Topic:
    """Anchor and heading of a possible section of a report, and the function that writes it or raises `LeftOutError`.

    Topics ``of_run`` do not appear in the report of a search.
    """

    anchor: str
    heading: str
    write: Callable[[RunFolder], list[Part]]
    of_run: bool = False


def write_report(folder: Path, entries: Sequence[str] = (), choice: Pictured = FIRST_GROUPS) -> Path:
    """Write ``report.html`` into the output folder of a command, or into a store.

    Parameters
    ----------
    folder : Path
    entries : sequence of str
        Amplifiers of a store to draw; when left out, all or the worst.
    choice : Pictured
        Candidates to draw.

    Returns
    -------
    Path
        The report. Pixels and light curves of the drawn candidates are in the folder ``report`` beside it.

    Raises
    ------
    ReportError
        If the folder does not exist or holds nothing to report, ``entries`` are given for a folder that is no store, or
        a candidate is not known.
    StoreError
        If the store has no such entry.
    """
    folder = _existing(folder)
    run = RunFolder(folder, choice)
    if (folder / MANIFEST).is_file():
        skipped, _ = _write_sections([_FAILURES], run)
        return _write_page(folder, [*store_sections(folder, entries), *skipped])
    if entries:
        raise ReportError(f"{folder} is not a store (it has no {MANIFEST}), so it has no entry {entries[0]!r}")
    _check_names(run)
    calibrate_pictured(run)
    topics = [topic for topic in choose_topics(run) if not (topic.of_run and run.is_search)]
    sections, n_found = _write_sections(topics, run)
    if not n_found:
        raise ReportError(
            f"{folder} holds nothing to report: no settings.toml, frames/, store/, models/, evaluation/, "
            f"candidates.parquet, summary.parquet, tune.parquet or {MANIFEST}; give the folder named as --out to "
            "`shutterless run`, `search`, `ingest`, `evaluate` or `tune`"
        )
    return _write_page(folder, sections)


def write_night_reports(folder: Path) -> list[Path]:
    """Write a page for each night of a search, with a picture of every group of candidates.

    A night is what was read without a pause of six hours; its page ``night-DATE.html`` has the date of its first row.

    Raises
    ------
    ReportError
        If the folder does not exist, holds no search, or no UTC is known.
    """
    folder = _existing(folder)
    nights = find_nights(RunFolder(folder).table(AMPLIFIERS))
    if not nights:
        raise ReportError(
            f"{folder} has no nights: its {AMPLIFIERS} names no UTC; give SHUTOPEN by --set, or repeat the search with "
            "--resume if an older version made it"
        )
    pages = []
    for first, last in nights:
        run = RunFolder(folder, Pictured(top=None), span=(first, last))
        calibrate_pictured(run)
        sections, _ = _write_sections([_CANDIDATES], run)
        date = first[:10]
        pages.append(_write_page(folder, sections, f"night-{date}.html", f", night of {date}"))
    return pages


def _existing(folder: Path) -> Path:
    if not Path(folder).is_dir():
        raise ReportError(
            f"no folder {folder}; give the folder named as --out to `shutterless run`, `shutterless search` or "
            "`shutterless ingest`"
        )
    return Path(folder)


def _check_names(run: RunFolder) -> None:
    """Refuse names of candidates that neither candidates nor vetoed triggers have."""
    unknown = [name for name in run.choice.names if name not in set(run.pictured["candidate_id"])]
    if unknown:
        raise ReportError(
            f"{run.path} has no candidate {unknown[0]!r}; candidates.parquet and vetoed.parquet list the names"
        )


def choose_topics(run: RunFolder) -> tuple[Topic, ...]:
    """Topics of the kind of folder, and of the amplifier or image cube that is shown: that of the first candidate."""
    if run.is_sweep or run.is_evaluation:
        return SWEEP_TOPICS if run.is_sweep else EVALUATION_TOPICS
    if run.manifest is not None and run.shown_entry is not None:
        entry = run.manifest[run.manifest["folder"] == str(run.shown_entry)]
        if is_cube(entry).any():
            return CUBE_TOPICS
    return tuple(topic for topic in TOPICS if topic is not _MAP or len(placed_candidates(run)))


def store_sections(store: Path, entries: Sequence[str] = ()) -> list[Section]:
    """Sections of a store's page: its image cubes, then its amplifiers.

    Parameters and errors are those of `shutterless.workflows.report.quality_page.quality_sections`.
    """
    manifest = read_manifest(store)
    cubes = is_cube(manifest)
    if not cubes.any():
        return quality_sections(store, entries)
    return [*cube_store_sections(store, entries), *_amplifiers_beside_cubes(store, manifest[~cubes]["entry"], entries)]


def _amplifiers_beside_cubes(store: Path, known: Iterable[str], entries: Sequence[str]) -> list[Section]:
    """Quality of the amplifiers of a store that also holds cubes; without ``entries`` the first ones are drawn."""
    qualities = [read_quality(store, entry) for entry in known]
    if not qualities:
        return []
    shown = [quality for quality in qualities if quality.entry in entries or not entries][:MAX_AMPLIFIER_SECTIONS]
    summary = summarise_amplifiers(qualities, [quality.entry for quality in shown])
    pictured = [picture_amplifiers(store, shown)] if shown else []
    return [Section("amplifiers", "Amplifiers", summary), *pictured]


def _write_sections(topics: Iterable[Topic], run: RunFolder) -> tuple[list[Section], int]:
    """Section of each topic, and the number with data; a topic without data gets the reason."""
    written, n_found = [], 0
    for topic in topics:
        try:
            parts = topic.write(run)
            n_found += 1
        except LeftOutError as reason:
            parts = [Paragraph(f"Left out: {reason}.", "left-out")]
        written.append(Section(topic.anchor, topic.heading, parts))
    return written, n_found


def _write_page(folder: Path, sections: list[Section], name: str = "report.html", what: str = "") -> Path:
    title = f"shutterless report: {folder.resolve().name}{what}"
    report = folder / name
    write_text(report, page(title, f"Written by shutterless {version('shutterless')}.", sections))
    return report


_FAILURES = Topic("failures", "Skipped files", write_skipped)
_CANDIDATES = Topic("candidates", "Candidates", list_candidates)
_VETOED = Topic("vetoed", "Set aside", list_vetoed)
_MAP = Topic("map", "Map of the field", write_map)
_PLACES = Topic("places", "Where everything lies", write_places)
_RUN = Topic("run", "What was run", write_run)
_DETECTORS = (
    Topic("comparison", "Detectors compared", write_comparison, of_run=True),
    Topic("completeness", "Completeness", write_completeness, of_run=True),
    Topic("kinds", "Completeness by kind of event", write_kinds, of_run=True),
)
_RELIABILITY = Topic("reliability", "Are the probabilities right?", write_reliability, of_run=True)
_LOSSES = Topic("losses", "Found and lost events", write_losses, of_run=True)
EVALUATION_TOPICS = (*_DETECTORS, _LOSSES, _RELIABILITY, _PLACES)
SWEEP_TOPICS = (
    Topic("sweep", "The best of each family", write_sweep),
    Topic("figure", "All trials, drawn", draw_sweep_figure),
    Topic("trials", "All trials", write_trials),
    _PLACES,
)
TOPICS = (
    _RUN,
    *_DETECTORS,
    _LOSSES,
    Topic("learning", "Learning curves", write_learning, of_run=True),
    Topic("controls", "Control: what the labels taught", write_controls, of_run=True),
    _RELIABILITY,
    _CANDIDATES,
    _VETOED,
    _MAP,
    Topic("frame", "The frame", write_frame),
    Topic("streaks", "Its streaks", write_streaks),
    Topic("quality", "How well it is calibrated", write_quality),
    _FAILURES,
    _PLACES,
)
CUBE_TOPICS = (
    _RUN,
    _CANDIDATES,
    _VETOED,
    Topic("cubes", "Image cubes", write_cubes),
    *(Topic(anchor, heading, partial(write_view, view)) for anchor, heading, view in VIEWS),
    _FAILURES,
    _PLACES,
)
