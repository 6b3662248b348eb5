"""The long run of `make fuzz`: 10⁵ inputs over all surfaces, resumable; what fails is kept with its seed.

Each batch runs in a process of its own, so that a crash or a hang costs one batch and is known by its seed. The state
file counts the inputs done; the same seed gives the same inputs. Prints the peak memory of all batches.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.surface import Surface, try_input
from fuzz.surfaces import SURFACES
from hypothesis import HealthCheck, Phase, given, seed, settings

BATCH = 250  # inputs
BATCH_S = 1800.0  # on a busy machine; a single input has its own limit
MOST_BYTES = 2 << 30  # in use at any time
_ADDRESSES = 12 << 30  # of a batch: what asks for 10¹² pixels fails here instead of filling the machine


def main() -> int:
    """Run what the state file has not counted yet; the exit code is 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--surfaces", nargs="*", choices=[surface.name for surface in SURFACES])
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    state = _read_state(asked.out)
    whole = sum(surface.share for surface in SURFACES)
    for surface in SURFACES:
        if asked.surfaces and surface.name not in asked.surfaces:
            continue
        surface.prepare()
        wanted = round(asked.inputs * surface.share / whole)
        done = state.setdefault(surface.name, {"inputs": 0, "failed_seeds": []})
        while done["inputs"] < wanted:
            n_inputs = min(BATCH, wanted - done["inputs"])
            number = done["inputs"] // BATCH
            if not _run_batch(surface, number, n_inputs, asked.out):
                done["failed_seeds"].append(number)
            done["inputs"] += n_inputs
            state["peak_bytes"] = max(state.get("peak_bytes", 0), _peak_bytes())
            _write_state(asked.out, state)
        print(
            f"{surface.name}: {done['inputs']:,} inputs, seeds that failed: {done['failed_seeds'] or 'none'}",
            flush=True,
        )
    return _report(state)


def _report(state: dict[str, Any]) -> int:
    surfaces = [value for value in state.values() if isinstance(value, dict)]
    n_failed = sum(len(value["failed_seeds"]) for value in surfaces)
    peak = state.get("peak_bytes", 0)
    print(
        f"{sum(value['inputs'] for value in surfaces):,} inputs, {n_failed} batches failed, peak {peak / 2**20:.0f} MiB"
    )
    return int(n_failed > 0 or peak > MOST_BYTES)


def _run_batch(surface: Surface, number: int, n_inputs: int, out: Path) -> bool:
    """Whether all inputs of a batch went well."""
    note = out / f"{surface.name.replace(' ', '-')}-{number}.txt"
    process = multiprocessing.get_context("fork").Process(target=_batch, args=(surface, number, n_inputs, note))
    process.start()
    process.join(BATCH_S)
    if process.is_alive():
        process.kill()
        process.join()
        note.write_text(f"hung for {BATCH_S:g} s\n")
    elif process.exitcode and not note.exists():
        note.write_text(f"ended with {process.exitcode}\n")
    return process.exitcode == 0


def _batch(surface: Surface, number: int, n_inputs: int, note: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))

    @seed(number)
    @settings(
        max_examples=n_inputs, database=None, deadline=None, suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )  # fmt: skip
    @given(surface.inputs)
    def run(value: Any) -> None:
        try_input(surface, value)

    try:
        run()
    except BaseException as error:
        note.write_text("".join(traceback.format_exception(error)))
        sys.exit(1)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10


def _read_state(out: Path) -> dict[str, Any]:
    path = out / "state.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _write_state(out: Path, state: dict[str, Any]) -> None:
    partial = out / "state.partial"
    partial.write_text(json.dumps(state, indent=1))
    partial.replace(out / "state.json")


if __name__ == "__main__":
    started = time.monotonic()
    code = main()
    print(f"{time.monotonic() - started:.0f} s")
    sys.exit(code)
