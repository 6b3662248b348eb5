"""Search FITS files segment by segment, and rank the candidates above a rate of false alarms in one table."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from shutterless.models.evaluation.metrics import RateCurve
from shutterless.models.evaluation.posterior import MIN_EVENTS
from shutterless.pipeline.astrometry.identify import (
    IdentifiedStreaks,
    KeptIdentification,
    SolvedAmplifier,
    describe_solved,
    identify_stars,
    read_any_catalogue,
)
from shutterless.pipeline.astrometry.places import place_orphans
from shutterless.pipeline.astrometry.second_appearances import place_second_appearances
from shutterless.pipeline.compiled.cache import is_compiled
from shutterless.pipeline.detection.box_search import filter_rows
from shutterless.pipeline.files import hash_file, remove_partials, write_parquet, write_text
from shutterless.pipeline.reading.frames import FrameInfo
from shutterless.pipeline.reading.readout import read_utc_of
from shutterless.pipeline.reading.segments import FileSpan, Segment, plan_segments
from shutterless.pipeline.results.candidates import (
    CANDIDATE_TYPES,
    DetectedIn,
    empty_candidates,
    join_candidates,
    trail_names,
    write_candidates,
)
from shutterless.pipeline.results.file_places import FilePlace
from shutterless.pipeline.results.groups import MOST_CHANCE_GROUPS, FileGeometry, find_groups
from shutterless.pipeline.results.trail_joints import Trail
from shutterless.pipeline.settings import plain_values
from shutterless.pipeline.stored_files import read_json, read_parquet
from shutterless.workflows.execution.cluster import Executor
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.frames.ingest import (
    FAILURES,
    SEARCH_PIXELS_PER_SECOND,
    STACKED,
    Survey,
    describe_notes,
    describe_untimed,
    estimate_seconds,
    failure_row,
    failure_table,
    label_files,
    list_files,
    prepare_folder,
    survey_files,
    write_failures,
)
from shutterless.workflows.searching.detect import Detector, detector_columns, read_rates
from shutterless.workflows.searching.frame_rates import (
    FrameRates,
    describe_raised,
    exposure_hours,
    fit_frame_rates,
    join_parts,
    sky_exposure,
)
from shutterless.workflows.searching.segment_search import (
    PARTS,
    ExposureRecord,
    SearchedSegment,
    SegmentTask,
    by_span,
    find_name,
    in_file_rows,
    read_part,
    search_segment,
    settings_fingerprint,
    warm_up,
)
from shutterless.workflows.searching.set_aside import (
    N_KEPT,
    VETOED,
    describe_absurd,
    describe_budget,
    describe_vetoed,
    loud_vetoed,
    part_notes,
    rank_vetoed,
)
from shutterless.workflows.searching.unchanged import digest_inputs, read_finished_from, write_finished
from shutterless.workflows.settings.settings import SearchSettings
from shutterless.workflows.tracking.tracking import TEMPLATE_BANK, bundled_folder, model_type, resolve_model

RECORD = "search.json"
AMPLIFIERS = "amplifiers.parquet"
_CAMERA = ("band", "zero_point_mag", "row_rate_hz", "n_transit", "pixel_scale_arcsec")  # of an amplifier, in its table
_WRITTEN = ("candidates.parquet", "candidates.ecsv", AMPLIFIERS, VETOED, FAILURES, RECORD)
BUNDLED_MODEL = "bundled"  # reference of the model for frames where none is named


class SearchError(ValueError):
    """A detector without a known threshold, or a folder that holds another search."""


@dataclass(frozen=True)
class SearchResult:
    """Candidates, failures, the lowest threshold of all amplifiers, their rates, and lines for the user.

    ``set_aside`` says which loud triggers with a veto are no candidates, ``positions`` how well a catalogue on the sky
    fits the frames.
    """

    candidates: pd.DataFrame
    failures: pd.DataFrame
    threshold: float
    rates: FrameRates
    warnings: tuple[str, ...]
    instruments: tuple[str, ...]
    set_aside: tuple[str, ...] = ()
    positions: str = ""

    def said(self) -> dict[str, Any]:
        """All but the tables and the rates, as plain values."""
        return {
            name: getattr(self, name) for name in ("threshold", "warnings", "instruments", "set_aside", "positions")
        }


def search_files(
    files: Sequence[str | Path],
    *,
    reference: str | None,
    out: Path,
    settings: SearchSettings,
    catalogue: str | Path | None = None,
    instrument: str | None = None,
    supplied: Mapping[str, str] | None = None,
    executor: Executor,
    resume: bool = False,
    stack: bool = False,
    progress: Progress | None = None,
    command: str = "",
) -> SearchResult:
    """Search FITS files, from pixels to candidates.

    Parameters
    ----------
    files : sequence of path
    reference : str or None
        A model as the commands take it, or ``"template-bank"``. None takes what fits: the bundled model for frames, the
        template bank for image cubes.
    out : Path
        For ``candidates.parquet``, ``candidates.ecsv``, ``amplifiers.parquet`` (what was searched, and its quality),
        ``vetoed.parquet`` (loud triggers that are no candidates), ``failures.parquet``, ``search.json`` (the
        arguments), and ``parts/``, from which a search is resumed.
    settings : SearchSettings
    catalogue : path, optional
        Stars that resolve event times, and tell positions if they are on the sky, as
        `shutterless.pipeline.astrometry.identify.read_any_catalogue`.
    instrument, supplied
        As `shutterless.pipeline.reading.frames.read_frame_info`.
    executor : Executor
    resume : bool
        Keep parts that were made from the same files with the same settings.
    stack : bool
        Take the images of all files for one cube, which is written to ``stacked/`` in ``out``.
    progress : Progress, optional
    command : str
        Command line, for the record.

    Returns
    -------
    SearchResult
        The same to the bit for the same files, for any number of workers and interruptions.

    Raises
    ------
    CatalogueError
        If the catalogue cannot be used.
    IngestError
        If no file is given, or ``out`` is not writable.
    SearchError
        If the detector has no stored curve and an amplifier too few scores for a threshold of its own, or ``out`` holds
        a finished search and ``resume`` is not set.
    """
    job = SearchJob.prepare(
        reference, out, settings, catalogue=catalogue, instrument=instrument, supplied=supplied, command=command
    )
    _clear_folder(job.out, resume=resume)
    if resume:
        job = job.under_its_first_name()
    inputs = None if stack else job.digest(list_files(files))
    if resume and (said := read_finished_from(job.out, inputs)) is not None:
        if progress is not None:
            progress.write_line("nothing has changed since this search was finished")
        return job.read_result(said)
    survey = survey_files(
        files, instrument=instrument, supplied=supplied, executor=executor, progress=progress, same_names=True,
        stack=job.out / STACKED if stack else None, with_row_times=False,
    )  # fmt: skip
    return search_survey(job, survey, executor, resume=resume, progress=progress, inputs=inputs)


def search_survey(
    job: SearchJob,
    survey: Survey,
    executor: Executor,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    inputs: str | None = None,
) -> SearchResult:
    """Search what `survey_files` found, or a part of it; parameters and result are those of `search_files`.

    With ``inputs``, from `SearchJob.digest`, a search in which nothing failed is resumed without making it again.
    """
    tasks = job.tasks(plan_segments(survey.infos), resume=resume)
    columns = {info.path.absolute(): info.n_columns for info in survey.infos}
    frames = [task.segment for task in tasks if task.segment.quadrant is not None]  # stacks of images are small
    sizes = [segment.n_rows * columns[segment.spans[0].path] for segment in frames]
    if progress is not None and not is_compiled(filter_rows):
        progress.write_line("the first search compiles its loops, about a minute; later ones do not")
    executor.prepare(partial(warm_up, job.detector if frames else job.detector_of(None), max(sizes, default=0)))
    seconds = estimate_seconds(survey.n_pixels, 1, SEARCH_PIXELS_PER_SECOND)
    found, lost = run_tasks(tasks, executor, progress, seconds=seconds)
    parts = [found[task.segment.name] for task in tasks if task.segment.name in found]
    failures = pd.concat([survey.failures, lost_rows([task.segment for task in tasks], parts, lost)], ignore_index=True)
    candidates, rates, unmatched, set_aside, solved = job.write(parts, failures, survey.infos)
    first = *job.describe_rates(parts, rates), *job.describe_choice(survey.infos), *survey.overlaps
    last = (
        *describe_notes(survey.notes + part_notes(parts, survey.infos)), *describe_budget(parts),
        *describe_absurd(candidates), *unmatched,
    )  # fmt: skip
    result = SearchResult(
        candidates, failures, job.lowest_threshold(rates), rates, (*first, *survey.untimed, *last),
        tuple(survey.instruments), tuple(set_aside), describe_solved(solved),
    )  # fmt: skip
    if inputs is not None and failures.empty:
        said = result.said() | {"warnings": [*first, *describe_untimed(survey.infos), *last]}
        write_finished(job.out, inputs, [part.segment.name for part in parts], _WRITTEN, said)
    return result


@dataclass(frozen=True)
class SearchJob:
    """Detector, settings and output folder of a search; `prepare` checks all of them before any work is done.

    ``curve`` was counted on other frames; None if the detector has none, so that only the frames can tell a threshold.
    Image cubes are searched with ``cube_detector`` and its curve, or, if it is None, with the detector of the frames.
    ``command`` is the command line, for the record; empty where there is none. ``identified`` keeps the stars of every
    amplifier, so that a search which is written again and again solves for each pointing once.
    """

    reference: str
    out: Path
    settings: SearchSettings
    detector: Detector
    curve: RateCurve | None
    stars: pd.DataFrame | None
    catalogue: str | None
    instrument: str | None
    supplied: dict[str, str]
    cube_detector: Detector | None = None
    cube_curve: RateCurve | None = None
    command: str = ""
    identified: dict[str, KeptIdentification] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def prepare(
        cls,
        reference: str | None,
        out: Path,
        settings: SearchSettings,
        *,
        catalogue: str | Path | None = None,
        instrument: str | None = None,
        supplied: Mapping[str, str] | None = None,
        command: str = "",
    ) -> SearchJob:
        """Parameters and errors are those of `search_files`."""
        stars = None if catalogue is None else read_any_catalogue(catalogue)
        bank = None if reference is not None else Detector(TEMPLATE_BANK, None)
        reference = reference or BUNDLED_MODEL
        detector = find_detector(reference)
        curve = read_rates(_rates_folder(detector))
        if curve is None and not settings.own_rates:
            raise no_curve(detector, settings.false_alarms_per_hour)
        if settings.events_per_hour is not None and (curve is None or len(curve.event_scores) < MIN_EVENTS):
            raise SearchError(
                f"{detector.name} does not say what events score, so search.events_per_hour = "
                f"{settings.events_per_hour:g} gives no posterior: leave it out, or take a detector of the family "
                "forest or combined, such as --model bundled"
            )
        if instrument is not None and instrument.endswith(".toml"):
            instrument = str(Path(instrument).absolute())  # a worker on another machine may run in another folder
        return cls(
            reference, prepare_folder(out).absolute(), settings, detector, curve, stars,
            None if catalogue is None else str(catalogue), instrument, dict(supplied or {}),
            bank, None if bank is None else read_rates(_rates_folder(bank)), command,
        )  # fmt: skip

    def detector_of(self, quadrant: int | None) -> Detector:
        """Detector of a segment: image cubes, which have no quadrant, may have their own."""
        return self.cube_detector if quadrant is None and self.cube_detector is not None else self.detector

    def digest(self, paths: Sequence[Path]) -> str | None:
        """Hash of some files and of all that decides what a search of them writes; None if one cannot be read."""
        used = [detector for detector in (self.detector, self.cube_detector) if detector is not None]
        try:
            shared = {
                "reference": self.reference,
                "detectors": [[one.name, self.fingerprint_of(one)] for one in used],
                "curves": [curve and curve.to_dict() for curve in (self.curve, self.cube_curve)],
                "settings": plain_values(self.settings),
                "catalogue": self.catalogue and [self.catalogue, hash_file(Path(self.catalogue)).hexdigest()],
            }
        except OSError:  # a profile or a catalogue; what reads it says so
            return None
        return digest_inputs(paths, shared)

    def read_result(self, said: Mapping[str, Any]) -> SearchResult:
        """Result of a search that was finished before, from its tables and what it told the user."""
        candidates = read_parquet(self.out / "candidates.parquet").astype(CANDIDATE_TYPES)
        rates = FrameRates.from_dict(read_json(self.out / RECORD)["rates"])
        return SearchResult(
            candidates, failure_table([]), said["threshold"], rates, tuple(said["warnings"]),
            tuple(said["instruments"]), tuple(said["set_aside"]), said["positions"],
        )  # fmt: skip

    def describe_choice(self, infos: Sequence[FrameInfo]) -> list[str]:
        """Line for the user if cubes are searched with another detector than the default."""
        if self.cube_detector is None or all(None not in info.readouts for info in infos):
            return []
        return [
            f"no model was named: image cubes are searched with the {self.cube_detector.name}, not {self.reference}"
        ]

    def fingerprint_of(self, detector: Detector) -> str:
        """Fingerprint of a detector's weights, the settings and the instrument, whatever names they were given by."""
        settings = self.settings
        return settings_fingerprint(
            detector, settings.trigger_threshold, settings.batch_size, self.instrument, self.supplied, settings.budget
        )

    def under_its_first_name(self) -> SearchJob:
        """The same job, its detectors named as in the parts that the same weights have made already."""

        def rename(detector: Detector) -> Detector:
            name = find_name(self.out, self.fingerprint_of(detector))
            return detector if name is None else replace(detector, name=name)

        cubes = None if self.cube_detector is None else rename(self.cube_detector)
        return replace(self, detector=rename(self.detector), cube_detector=cubes)

    def tasks(self, segments: Sequence[Segment], *, resume: bool) -> list[SegmentTask]:
        """One task for each segment."""
        settings = self.settings
        used = {self.detector_of(segment.quadrant) for segment in segments}
        shared = {detector: self.fingerprint_of(detector) for detector in used}
        return [
            SegmentTask(
                segment, self.out, detector, settings.trigger_threshold, settings.batch_size, self.instrument,
                self.supplied, shared[detector], resume, settings.budget,
            )
            for segment in segments
            for detector in (self.detector_of(segment.quadrant),)
        ]  # fmt: skip

    def write(
        self, parts: Sequence[SearchedSegment], failures: pd.DataFrame, infos: Iterable[FrameInfo]
    ) -> tuple[pd.DataFrame, FrameRates, list[str], list[str], list[SolvedAmplifier]]:
        """Write every table of the search, its record last.

        Parameters
        ----------
        parts : sequence of SearchedSegment
        failures : DataFrame
        infos : iterable of FrameInfo
            Of all files.

        Returns
        -------
        candidates : DataFrame
        rates : FrameRates
        unmatched : list of str
            Warnings about the catalogue.
        set_aside : list of str
            Lines about loud triggers with a veto.
        solved : list of SolvedAmplifier
            Amplifiers that a catalogue on the sky fits.

        Raises
        ------
        SearchError
            If no threshold is known for an amplifier.
        """
        searched = [part for part in parts if part.exposures]
        joined = join_parts(searched)
        rates = self.fit_rates(searched, joined)
        infos = list(infos)
        labels = label_files(info.path.absolute() for info in infos)
        known = {labels[info.path.absolute()]: info for info in infos}
        found = []
        for detector, _, chosen in self._groups(searched):
            here = [searched[k] for k in chosen], [joined[k] for k in chosen]
            found.append(
                assemble(*here, detector.name, rates, self.stars, known, self.settings.events_per_hour, self.identified)
            )
        tables = [one.candidates for one in found]
        solved = {key: one for each in found for key, one in each.solved.items()}
        candidates = tables[0] if len(tables) == 1 else rank_candidates([table for table in tables if len(table)])
        vetoed = rank_vetoed(pd.concat([one.vetoed for one in found]))
        n_vetoed = dict(sum((one.n_vetoed for one in found), Counter()).most_common())
        record = {
            "model": self.reference,
            "detector": self.detector.name,
            "threshold": self.lowest_threshold(rates),
            "settings": plain_values(self.settings),
            "instrument": self.instrument,
            "catalogue": self.catalogue,
            "supplied": self.supplied,
            "data_hash": _data_hash(parts),
            "time_archive": _time_scales(parts, labels),
        }
        write_failures(self.out, failures)
        write_parquet(_amplifier_table(searched, rates, labels, solved), self.out / AMPLIFIERS)
        write_parquet(vetoed, self.out / VETOED)
        write_candidates(candidates, self.out, record)
        counted = {
            "rates": {**rates.to_dict(), "candidates": len(candidates)},
            "groups": {
                "n_groups": candidates["group_id"].nunique(),
                "expected_by_chance": sum(one.chance_groups for one in found),
                "most_expected_in_a_file": MOST_CHANCE_GROUPS,
            },
            "vetoed": n_vetoed,
            "files": {label: str(info.path.resolve()) for label, info in known.items()},
            "made": {
                "command": self.command,
                "date_utc": datetime.now(UTC).isoformat(timespec="seconds"),
                "shutterless": version("shutterless"),
            },
        }
        write_text(self.out / RECORD, json.dumps({**record, **counted}, indent=1))
        unmatched = [line for one in found for line in one.unmatched]
        return candidates, rates, unmatched, describe_vetoed(vetoed, n_vetoed), list(solved.values())

    def fit_rates(self, parts: Sequence[SearchedSegment], joined: Sequence[pd.DataFrame]) -> FrameRates:
        """Thresholds of all amplifiers at the requested rate of false alarms.

        Raises
        ------
        SearchError
            If there is no stored curve, and an amplifier has too few scores.
        """
        asked = self.settings.false_alarms_per_hour
        all_rates = FrameRates(asked, {}, {}, {})
        for detector, curve, chosen in self._groups(parts):
            mine = [parts[k] for k in chosen]
            rates = fit_frame_rates(
                mine, [joined[k] for k in chosen], detector.name, asked, curve, own=self.settings.own_rates
            )
            if curve is None and (not mine or not set(rates.names.values()) <= set(rates.rates)):
                raise no_curve(detector, asked, "the searched frames are too few to tell it: ")
            all_rates = all_rates.joined(rates)
        return all_rates

    def _groups(self, parts: Sequence[SearchedSegment]) -> list[tuple[Detector, RateCurve | None, list[int]]]:
        """Detectors with their curves, and the positions of the parts that they searched; the one of frames if none."""
        cubes = [k for k, part in enumerate(parts) if part.segment.quadrant is None and self.cube_detector is not None]
        frames = sorted(set(range(len(parts))) - set(cubes))
        groups = [(self.detector, self.curve, frames)] if frames or not cubes else []
        return groups + ([(self.cube_detector, self.cube_curve, cubes)] if self.cube_detector and cubes else [])

    def lowest_threshold(self, rates: FrameRates) -> float:
        """Lowest threshold of the amplifiers that were searched, that of the stored curve if there is none."""
        if rates.rates or self.curve is None:
            return min(rates.thresholds.values())
        return self.curve.threshold(self.settings.false_alarms_per_hour)[0]

    def describe_rates(self, parts: Sequence[SearchedSegment], rates: FrameRates) -> list[str]:
        """Lines for the user where a stored curve has too few alarms, or the frames raise its threshold a lot."""
        lines: list[str] = []
        asked = self.settings.false_alarms_per_hour
        searched = [part for part in parts if part.exposures]
        for detector, curve, chosen in self._groups(searched):
            mine = [searched[k] for k in chosen]
            hours = {
                exposure.numbers["pixel_rows_per_hour"]
                for part in mine
                for exposure in part.exposures
                if not rates.of(part).is_fitted
            }
            if curve is not None:
                lines += [line for hour in sorted(hours) if (line := describe_rate(curve, asked, hour))]
                lines += describe_raised(mine, rates, detector.name, curve.threshold(asked)[0])
        return lines


def run_tasks(
    tasks: Sequence[SegmentTask],
    executor: Executor,
    progress: Progress | None = None,
    *,
    seconds: float | None = None,
) -> tuple[dict[str, SearchedSegment], dict[str, str]]:
    """Search segments, and read the part of each as soon as it is there.

    Returns
    -------
    parts : dict of str to SearchedSegment
        By the name of the segment.
    lost : dict of str to str
        Reason of each segment that failed as a whole, by its name.
    """
    parts, lost = {}, {}
    long_first = sorted(tasks, key=lambda task: -task.segment.n_rows)  # so that no worker is left with a long one
    outcomes = executor.map(
        search_segment, long_first, describe="searching segments", progress=progress, ordered=False, seconds=seconds
    )
    for outcome in outcomes:
        task = outcome.item
        if outcome.value is None:
            lost[task.segment.name] = outcome.error or ""
        elif (part := read_part(task.out, task.segment)) is not None:
            parts[task.segment.name] = part
    return parts, lost


class Assembled(NamedTuple):
    """Candidates of a search; see `assemble`.

    Parameters
    ----------
    candidates : DataFrame
    unmatched : list of str
        Warnings of a catalogue that does not fit.
    chance_groups : float
        Groups of several candidates that are expected by chance.
    vetoed : DataFrame
        The strongest triggers with a veto that are no candidates, with the columns of candidates.
    n_vetoed : Counter
        How many of them each veto has.
    solved : dict of str to SolvedAmplifier
        Pointing of the amplifiers that a catalogue on the sky fits, by the name of the part and the number of its
        exposure.
    """

    candidates: pd.DataFrame
    unmatched: list[str]
    chance_groups: float
    vetoed: pd.DataFrame
    n_vetoed: Counter[str]
    solved: dict[str, SolvedAmplifier]


def assemble(
    parts: Sequence[SearchedSegment],
    joined: Sequence[pd.DataFrame],
    name: str,
    rates: FrameRates,
    stars: pd.DataFrame | None = None,
    infos: Mapping[str, FrameInfo] | None = None,
    events_per_hour: float | None = None,
    kept: dict[str, KeptIdentification] | None = None,
) -> Assembled:
    """Join the parts of a search to one table of candidates, and one of what is set aside.

    Parameters
    ----------
    parts : sequence of SearchedSegment
        By series, in the order of rows.
    joined : sequence of DataFrame
        Triggers of each part, every cause once.
    name : str
        Of the detector.
    rates : FrameRates
        Which say how high a score must be in each amplifier, and what a score is worth there.
    stars : DataFrame, optional
        From `shutterless.pipeline.astrometry.identify.read_any_catalogue`.
    infos : mapping of str to FrameInfo, optional
        Headers of the files by the names that they have in the table. Without them files have their own names, no
        candidate has a place in its file, and no two quadrants touch.
    events_per_hour : float, optional
        Events per amplifier-hour that are expected, for the posterior probability.
    kept : dict of str to KeptIdentification, optional
        As `shutterless.pipeline.astrometry.identify.identify_stars`.
    """
    infos = infos or {}
    labels = {info.path.absolute(): label for label, info in infos.items()}
    exposures = {f"{part.segment.name}/{k}": exposure for part in parts for k, exposure in enumerate(part.exposures)}
    identified = identify_stars(
        {key: exposure.streaks for key, exposure in exposures.items()},
        {key: exposure.readout for key, exposure in exposures.items()},
        stars,
        {key: exposure.sky for key, exposure in exposures.items()},
        kept,
    )
    solved = identified.solved
    found, loud = _Chosen(), _Chosen()
    trails: dict[str, Trail] = {}
    n_vetoed = Counter[str]()
    for part, triggers in zip(parts, joined, strict=True):
        score = triggers[f"{name}/score"].to_numpy(dtype=np.float64)
        # score -inf means vetoed, even where a detector without a false alarm has the threshold -inf
        is_found = (score >= rates.threshold(part)) & np.isfinite(score)
        set_aside = loud_vetoed(triggers, is_found)
        n_vetoed.update(set_aside.get("veto", ()))
        loud.add(part, set_aside.head(N_KEPT))
        if not is_found.any():
            continue
        accepted = triggers[is_found].assign(
            false_alarm_rate=rates.of(part).rate(score[is_found]),
            posterior=rates.posterior(part, score[is_found], events_per_hour),
        )
        for where, here in found.add(part, accepted):
            label = labels.get(where.span.path, where.span.path.name)
            trails |= _trails(here, triggers, where.position, where.exposure, label, infos.get(label))
    tables = [_candidates_of(chosen, identified, labels, infos, name) for chosen in (found, loud.strongest(N_KEPT))]
    ranked = rank_vetoed(tables[1])
    if tables[0].empty:
        return Assembled(empty_candidates(), identified.warnings, 0.0, ranked, n_vetoed, solved)
    timed = set()  # candidates whose place on their segment tells their time
    for rows, where in found.slices():
        if where.key in solved and solved[where.key].solution.knows_rows:
            timed.update(tables[0]["candidate_id"].iloc[rows])
    geometry = {label: FileGeometry.of(info) for label, info in infos.items()}
    grouped = find_groups(place_second_appearances(tables[0], timed), geometry, trails)
    return Assembled(
        rank_candidates([grouped.table]), identified.warnings, grouped.chance_groups, ranked, n_vetoed, solved
    )


class _Where(NamedTuple):
    """File of a part in which triggers were chosen: name and number of the exposure, its record, and the span."""

    key: str
    position: int
    exposure: ExposureRecord
    span: FileSpan


class _Chosen:
    """Triggers of many parts, to be made candidates at once, in rows of their files; they may begin before or after."""

    def __init__(self) -> None:
        self.tables: list[pd.DataFrame] = []
        self.places: list[_Where] = []

    def add(self, part: SearchedSegment, triggers: pd.DataFrame) -> list[tuple[_Where, pd.DataFrame]]:
        """Add triggers of a part; return them file by file."""
        added = [
            (_Where(f"{part.segment.name}/{k}", k, part.exposures[k], span), here)
            for k, span, here in by_span(part.exposures, triggers)
        ]
        self.places += [where for where, _ in added]
        self.tables += [in_file_rows(here, where.span) for where, here in added]
        return added

    def strongest(self, number: int) -> _Chosen:
        """Those with the highest S/N, and all that are as strong as the last of them."""
        strength = [table["snr"].abs().to_numpy(dtype=np.float64) for table in self.tables]
        if sum(map(len, strength)) <= number:
            return self
        least = np.sort(np.concatenate(strength))[-number]
        kept = _Chosen()
        for table, where, own in zip(self.tables, self.places, strength, strict=True):
            if (own >= least).any():
                kept.tables.append(table[own >= least])
                kept.places.append(where)
        return kept

    def slices(self) -> Iterator[tuple[slice, _Where]]:
        """Rows of each file in the table of all."""
        first = 0
        for table, where in zip(self.tables, self.places, strict=True):
            yield slice(first, first := first + len(table)), where


def _candidates_of(
    chosen: _Chosen,
    identified: IdentifiedStreaks,
    labels: Mapping[Path, str],
    infos: Mapping[str, FrameInfo],
    name: str,
) -> pd.DataFrame:
    """Candidates of chosen triggers, file by file."""
    if not chosen.tables:
        return empty_candidates()
    amplifiers = []
    for where in chosen.places:
        exposure, span, first = where.exposure, where.span, where.exposure.spans[0]
        offset = span.first - span.start - first.first  # of the file's row 0 from the exposure's
        clock = exposure.readout if offset == 0 else exposure.readout.from_row(offset, offset)
        label = labels.get(span.path, span.path.name)
        info = infos.get(label)
        place = None if info is None else FilePlace.of(info, clock.quadrant, exposure.archive)
        amplifiers.append(DetectedIn(identified.streaks[where.key], clock, label, exposure.n_y, place))
    sizes = [len(table) for table in chosen.tables]
    detections = detector_columns(pd.concat(chosen.tables, ignore_index=True), name)
    table = join_candidates(detections, list(zip(sizes, amplifiers, strict=True)), model=name)
    if not identified.solved:
        return table
    placed = [
        place_orphans(table.iloc[rows], identified.solved[where.key], here.readout)
        if where.key in identified.solved
        else table.iloc[rows]
        for (rows, where), here in zip(chosen.slices(), amplifiers, strict=True)
    ]
    return pd.concat(placed, ignore_index=True)


def rank_candidates(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Candidates of some tables in one, the surest first."""
    if not tables:
        return empty_candidates()
    candidates = pd.concat(tables, ignore_index=True)
    order = candidates.assign(strength=candidates["snr"].abs()).sort_values(
        ["probability", "strength", "candidate_id"], ascending=[False, False, True], kind="stable"
    )
    return order.drop(columns="strength").reset_index(drop=True)


def _trails(
    found: pd.DataFrame,
    triggers: pd.DataFrame,
    position: int,
    exposure: ExposureRecord,
    label: str,
    info: FrameInfo | None,
) -> dict[str, Trail]:
    """Trails of the candidates of one file, with all triggers of each, by the ``trail_id`` in the table."""
    readout = exposure.readout
    if info is None or "trail_id" not in found or exposure.n_y > 1 or found["trail_id"].isna().all():
        return {}
    plan, trails = FileGeometry.of(info), {}
    on_trails = found[found["trail_id"].notna()]
    names = trail_names(label, readout, on_trails)
    for number, name in zip(on_trails["trail_id"], names, strict=True):
        own = triggers[(triggers["exposure"] == position) & (triggers["trail_id"] == number)]
        ccd_x = plan.ccd_x(readout.quadrant, own["x"].to_numpy(dtype=np.float64))
        row, half = (own["row_start"] + own["row_stop"]) / 2, own["width_rows"] / 2
        trails[str(name)] = Trail(
            f"{readout.sequence}_{readout.ccd}", plan.half(readout.quadrant), np.asarray(ccd_x), row.to_numpy(float),
            half.to_numpy(float),
        )  # fmt: skip
    return trails


def _amplifier_table(
    parts: Sequence[SearchedSegment],
    rates: FrameRates,
    labels: Mapping[Path, str],
    solved: Mapping[str, SolvedAmplifier],
) -> pd.DataFrame:
    """Table of the searched rows: one line per segment part without a gap, with its threshold and quality numbers."""
    exposures = [(part, k, exposure) for part in parts for k, exposure in enumerate(part.exposures)]
    ends = [[0, exposure.spans[-1].last - 1 - exposure.spans[0].first] for _, _, exposure in exposures]
    utc = read_utc_of([exposure.readout for _, _, exposure in exposures], ends)  # empty texts where none is known
    rows = [
        {
            "segment": part.segment.name,
            "files": ", ".join(labels.get(span.path, span.path.name) for span in exposure.spans),
            "ccd": exposure.readout.ccd,
            "quadrant": exposure.readout.quadrant,
            "first_row": exposure.spans[0].first,
            "n_rows": sum(span.stop - span.start for span in exposure.spans),
            "n_triggers": int((part.triggers["exposure"] == k).sum()),
            "first_read_utc": str(first_utc),
            "last_read_utc": str(last_utc),
            "live_hours": exposure_hours(part, exposure),
            "threshold": rates.threshold(part),
            "threshold_error": rates.of(part).threshold_error(rates.asked),
            "deg2_hours": sky_exposure(part, exposure),
            **{name: getattr(exposure.readout, name) for name in _CAMERA},
            **exposure.numbers,
            "notes": "; ".join(exposure.numbers.get("notes", ())),
            **(solved[key].numbers() if (key := f"{part.segment.name}/{k}") in solved else {}),
        }
        for (part, k, exposure), (first_utc, last_utc) in zip(exposures, utc, strict=True)
    ]
    columns = ["segment", "files", "ccd", "quadrant", "first_row", "n_rows", "n_triggers"]
    columns += ["first_read_utc", "last_read_utc", "live_hours", "threshold", "threshold_error", "deg2_hours", *_CAMERA]
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)
    return table.astype({"ccd": "Int64", "quadrant": "Int64", "zero_point_mag": "float64"})


def lost_rows(segments: Sequence[Segment], parts: Sequence[SearchedSegment], lost: Mapping[str, str]) -> pd.DataFrame:
    """Failures of segments and of files within segments; each file, quadrant and reason once."""
    by_name = {part.segment.name: part for part in parts}
    rows: dict[tuple[Path, int | None, str], None] = {}
    for segment in segments:
        for span in segment.spans if segment.name in lost else ():
            rows[span.path, segment.quadrant, lost[segment.name]] = None
        for path, reason in by_name[segment.name].failures if segment.name in by_name else ():
            rows[Path(path), segment.quadrant, reason] = None
    return failure_table([failure_row(*row) for row in rows])


def _clear_folder(out: Path, *, resume: bool) -> None:
    """Refuse to overwrite a finished search; delete the parts of an unfinished one unless it is resumed."""
    remove_partials(out / PARTS)
    if resume:
        return
    if (out / RECORD).exists():
        raise SearchError(f"{out} already holds a finished search; go on with --resume or choose another --out")
    shutil.rmtree(out / PARTS, ignore_errors=True)


def _data_hash(parts: Sequence[SearchedSegment]) -> str:
    """Hash of the bytes of the files and of the settings behind the parts."""
    return hashlib.blake2b("\n".join(sorted(part.content for part in parts)).encode(), digest_size=16).hexdigest()


def _time_scales(parts: Sequence[SearchedSegment], labels: Mapping[Path, str]) -> dict[str, str]:
    """Kind of the archive's own times, for each file that has any."""
    return {
        labels.get(span.path, span.path.name): exposure.readout.time_scale
        for part in parts
        for exposure in part.exposures
        for span in exposure.spans
        if exposure.readout.time_scale
    }


def find_detector(reference: str) -> Detector:
    """Turn a model reference into a detector, with its name in tables."""
    folder = resolve_model(reference)
    if folder is None:
        return Detector(TEMPLATE_BANK, None)
    return Detector(_model_name(reference, folder), str(folder.absolute()))


def find_curve(detector: Detector, rate_per_hour: float) -> RateCurve:
    """Read the false-alarm curve of a detector, counted on other frames than those of a search.

    Raises
    ------
    SearchError
        If no false-alarm curve lies beside the weights, because the model was never evaluated.
    """
    curve = read_rates(_rates_folder(detector))
    if curve is None:
        raise no_curve(detector, rate_per_hour)
    return curve


def no_curve(detector: Detector, rate_per_hour: float, why: str = "") -> SearchError:
    """Error of a detector without a stored curve whose threshold nothing else tells."""
    return SearchError(
        f"{_rates_folder(detector)} holds no false-alarm curve, so no threshold is known for {rate_per_hour:g} per "
        f"amplifier-hour; {why}run `shutterless evaluate STORE --model {detector.folder}` first"
    )


def _rates_folder(detector: Detector) -> Path:
    return bundled_folder() / TEMPLATE_BANK if detector.folder is None else Path(detector.folder)


def describe_rate(curve: RateCurve, rate_per_hour: float, pixel_rows_per_hour: float) -> str | None:
    """Warn that a curve holds too few alarms for a rate per hour of pixel-rows; None if it holds enough.

    For the camera they were counted on they need not be more: a detector that never raises as many gives all it has.
    """
    n_alarms, hours = len(curve.scores), curve.hours_of(pixel_rows_per_hour)
    asked, counted = f"{rate_per_hour:g} false alarms per amplifier-hour", f"in {hours:.3g} amplifier-hours"
    if curve.threshold(rate_per_hour, pixel_rows_per_hour)[1]:
        return f"{asked} is extrapolated: {n_alarms} alarms were counted {counted}"
    if rate_per_hour * hours > n_alarms + 0.5 and pixel_rows_per_hour != curve.pixel_rows_per_hour:
        return f"{asked} is more than is known: {n_alarms} {counted} are all, so the search has {n_alarms / hours:.3g}"
    return None


def _model_name(reference: str, folder: Path) -> str:
    """Family and origin of a detector, so that a table identifies the model even after it is gone."""
    return f"{model_type(folder)} ({reference})"
