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

from shutterless.pipeline.store.quality_record import read_quality
from shutterless.pipeline.store.store import MANIFEST, read_manifest
from shutterless.workflows.pages.page import page
from shutterless.workflows.pages.parts import Paragraph, Part, Section
from shutterless.workflows.pages.run_folder import LeftOutError, RunFolder, is_cube
from shutterless.workflows.report.candidate_cards import write_frame_candidates
from shutterless.workflows.report.cube_cards import write_cube_candidates
from shutterless.workflows.report.cube_sections import VIEWS, cube_store_sections, write_cubes, write_view
from shutterless.workflows.report.detector_sections import (
    write_comparison,
    write_completeness,
    write_controls,
    write_kinds,
    write_learning,
    write_reliability,
)
from shutterless.workflows.report.pictures import calibrate_pictured
from shutterless.workflows.report.quality_page import (
    MAX_AMPLIFIER_SECTIONS,
    describe_amplifier,
    quality_sections,
    summarise_amplifiers,
)
from shutterless.workflows.report.run_sections import (
    write_frame,
    write_places,
    write_quality,
    write_run,
    write_skipped,
    write_streaks,
)


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


def write_report(folder: Path, entries: Sequence[str] = ()) -> Path:
    """Write ``report.html`` into the output folder of ``shutterless run`` or ``search``, or into a store.

    Parameters
    ----------
    folder : Path
    entries : sequence of str
        Amplifiers of a store to draw; when left out, all or the worst.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    ReportError
        If the folder does not exist or holds nothing to report, or ``entries`` are given for a folder that is no store.
    StoreError
        If the store has no such entry.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ReportError(
            f"no folder {folder}; give the folder named as --out to `shutterless run`, `shutterless search` or "
            "`shutterless ingest`"
        )
    run = RunFolder(folder)
    if (folder / MANIFEST).is_file():
        skipped, _ = _write_sections([_FAILURES], run)
        return _write_page(folder, [*store_sections(folder, entries), *skipped])
    if entries:
        raise ReportError(f"{folder} is not a store (it has no {MANIFEST}), so it has no entry {entries[0]!r}")
    calibrate_pictured(run)
    topics = [topic for topic in choose_topics(run) if not (topic.of_run and run.is_search)]
    sections, n_found = _write_sections(topics, run)
    if not n_found:
        raise ReportError(
            f"{folder} holds nothing to report: no settings.toml, frames/, store/, models/, evaluation/, "
            f"candidates.parquet or {MANIFEST}; give the folder named as --out to `shutterless run`, `shutterless "
            "search` or `shutterless ingest`"
        )
    return _write_page(folder, sections)


def choose_topics(run: RunFolder) -> tuple[Topic, ...]:
    """Topics of the amplifier or image cube in the report: that of the first candidate, or the first one."""
    if run.manifest is None or run.shown_entry is None:
        return TOPICS
    entry = run.manifest[run.manifest["folder"] == str(run.shown_entry)]
    return CUBE_TOPICS if is_cube(entry).any() else TOPICS


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
    pictured = [Section(quality.entry, quality.entry, describe_amplifier(store, quality)) for quality in shown]
    return [Section("amplifiers", "Amplifiers", summarise_amplifiers(qualities)), *pictured]


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


def _write_page(folder: Path, sections: list[Section]) -> Path:
    title = f"shutterless report: {folder.resolve().name}"
    report = folder / "report.html"
    report.write_text(page(title, f"Written by shutterless {version('shutterless')}.", sections), encoding="utf-8")
    return report


_FAILURES = Topic("failures", "Skipped files", write_skipped)
TOPICS = (
    Topic("run", "What was run", write_run),
    Topic("frame", "The frame", write_frame),
    Topic("streaks", "Its streaks", write_streaks),
    Topic("quality", "How well it is calibrated", write_quality),
    Topic("comparison", "Detectors compared", write_comparison, of_run=True),
    Topic("completeness", "Completeness", write_completeness, of_run=True),
    Topic("kinds", "Completeness by kind of event", write_kinds, of_run=True),
    Topic("learning", "Learning curves", write_learning, of_run=True),
    Topic("controls", "Control: what the labels taught", write_controls, of_run=True),
    Topic("reliability", "Are the probabilities right?", write_reliability, of_run=True),
    Topic("candidates", "Candidates", write_frame_candidates),
    _FAILURES,
    Topic("places", "Where everything lies", write_places),
)
CUBE_TOPICS = (
    Topic("cubes", "Image cubes", write_cubes),
    *(Topic(anchor, heading, partial(write_view, view)) for anchor, heading, view in VIEWS),
    Topic("candidates", "Candidates", write_cube_candidates),
    _FAILURES,
    Topic("places", "Where everything lies", write_places),
)
