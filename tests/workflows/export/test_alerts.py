"""Alert packets: their schema, values that come back, and cut-outs intact to the bit."""

from __future__ import annotations

import gzip
import io
import sys
from importlib.resources import files

import fastavro
import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import QTable

from shutterless.pipeline.results.candidates import CANDIDATE_DESCRIPTIONS, CANDIDATE_TYPES
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.export.alert_folder import AlertFolder
from shutterless.workflows.export.alerts import (
    alert_path,
    alert_schema,
    alerted_candidates,
    earlier_of_star,
    read_alert,
    write_alerts,
)
from shutterless.workflows.export.cut_outs import CutAmplifier, CutOuts, cut_all
from shutterless.workflows.export.errors import ExportError
from shutterless.workflows.searching.search import search_files
from shutterless.workflows.settings.settings import SearchSettings

from .conftest import ORPHAN, STAR, VETOED

_AVRO = {"string": "string", "float64": "double", "Int64": "long", "int64": "long"}
_AVRO["datetime64[us, UTC]"] = {"type": "long", "logicalType": "timestamp-micros"}


def test_the_schema_has_the_columns_of_the_table_with_their_types_and_meanings():
    """A new column needs a new version of the schema."""
    record = next(field["type"] for field in alert_schema()["fields"] if field["name"] == "candidate")
    assert [field["name"] for field in record["fields"]] == list(CANDIDATE_TYPES)
    for field in record["fields"]:
        name, kind = field["name"], field["type"]
        assert (kind[1] if isinstance(kind, list) else kind) == _AVRO[CANDIDATE_TYPES[name]], name
        assert field["doc"].startswith(CANDIDATE_DESCRIPTIONS[name]), name
    fastavro.parse_schema(alert_schema())
    names = [path.name for path in files("shutterless.workflows.export").iterdir()]
    assert [name for name in names if name.endswith(".avsc")] == [f"alert-{alert_schema()['version']}.avsc"]


@pytest.fixture
def written(candidates, tmp_path):
    cut = CutAmplifier(candidates, {STAR: CutOuts(b"\x00strip\xff", b"curve")}, "")
    paths = write_alerts([cut], candidates, tmp_path)
    return {path: read_alert(path) for path in paths}


def test_an_alert_comes_back_by_its_own_schema(written, candidates, tmp_path):
    assert list(written) == [alert_path(tmp_path, name) for name in (STAR, ORPHAN, VETOED)]
    with alert_path(tmp_path, STAR).open("rb") as file:
        reader = fastavro.reader(file)
        assert reader.writer_schema["name"] == "shutterless.v1_0.alert"
        (packet,) = reader
    assert (packet["schemavsn"], packet["candid"], packet["objectId"]) == ("1.0", STAR, "Gaia 7")
    assert packet["publisher"].startswith("shutterless ")
    assert packet["cutoutStrip"] == {"fileName": f"{STAR}_strip.fits.gz", "stampData": b"\x00strip\xff"}
    assert packet["candidate"]["segment_ra_1"] is None
    pd.testing.assert_frame_equal(alerted_candidates(list(written)), candidates)


def test_earlier_candidates_of_the_star_are_in_the_alert(written):
    packets = {packet["candid"]: packet["prv_candidates"] for packet in written.values()}
    assert packets[STAR] is None
    assert packets[ORPHAN] is None
    assert [row["candidate_id"] for row in packets[VETOED]] == [STAR]


def test_without_a_catalogue_the_streak_in_the_file_tells_the_star(candidates):
    nameless = candidates.assign(star_name=pd.NA, time_read=None)
    assert earlier_of_star(nameless.iloc[2], nameless)["candidate_id"].tolist() == [STAR]
    elsewhere = nameless.assign(path=["/night/b.fits", *nameless["path"][1:]])
    assert earlier_of_star(elsewhere.iloc[2], elsewhere).empty


@pytest.mark.parametrize("content", [b"", b"SIMPLE  =", b"Obj\x01\x00"])
def test_what_is_no_alert_is_refused(tmp_path, content):
    (tmp_path / "a.avro").write_bytes(content)
    with pytest.raises(ExportError, match=r"a\.avro is no alert: "):
        read_alert(tmp_path / "a.avro")


def test_a_missing_package_is_named_with_its_extra(candidates, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastavro", None)
    said = r"alert packets need fastavro; install it with: pip install 'shutterless\[export\]'"
    with pytest.raises(ExportError, match=said):
        write_alerts([], candidates, tmp_path)
    with pytest.raises(ExportError, match=said):
        AlertFolder(tmp_path, None, SerialExecutor())  # before a night is watched


def test_another_avro_file_is_refused(tmp_path):
    with (tmp_path / "b.avro").open("wb") as file:
        fastavro.writer(file, {"type": "record", "name": "a", "fields": [{"name": "b", "type": "int"}]}, [{"b": 1}])
    with pytest.raises(ExportError, match=r"b\.avro is no alert: it has no candidate"):
        read_alert(tmp_path / "b.avro")


def test_cut_outs_hold_the_pixels_and_the_light_that_the_report_writes(busy_frames, tiny_camera, tmp_path):
    from shutterless.workflows.report.report import write_report

    out = tmp_path / "out"
    found = search_files(
        busy_frames[:1], reference="template-bank", out=out, settings=SearchSettings(own_rates=False),
        instrument=tiny_camera, executor=SerialExecutor(),
    ).candidates  # fmt: skip
    write_report(out)
    paths = write_alerts(cut_all(found.head(2), tiny_camera, {}, SerialExecutor()), found, tmp_path / "alerts")
    assert len(paths) == 2
    for path in paths:
        packet = read_alert(path)
        report = out / "report" / packet["candid"]
        strip = fits.open(io.BytesIO(gzip.decompress(packet["cutoutStrip"]["stampData"])))
        with fits.open(f"{report}.fits") as written:
            for one, other in zip(strip, written, strict=True):
                np.testing.assert_array_equal(one.data, other.data)
                assert one.header == other.header
        light = QTable.read(io.BytesIO(gzip.decompress(packet["cutoutLightCurve"]["stampData"])), astropy_native=True)
        curve = QTable.read(f"{report}.ecsv")
        np.testing.assert_array_equal(light["light_e"], curve["light"].value)
        np.testing.assert_array_equal(light["row"], curve["row"])
        assert abs(light["time"] - curve["time"]).max().to_value("us") < 1
