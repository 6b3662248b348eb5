"""A logged detector as MLflow loads and serves it: strips or paths in, in any form of a request."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests
from astropy.io import fits
from tiny_frames import N_COLUMNS, RATE_HZ, SKY_E, add_pulse, expose, write_sequence

from shutterless.models.boxes.fit import build_box_detector
from shutterless.models.evaluation.metrics import RateCurve
from shutterless.models.families import load_model
from shutterless.models.scoring import score_strips
from shutterless.pipeline.tokens import STAGE1_FEATURES, StripBatch
from shutterless.workflows import pyfunc_loader
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.pyfunc_loader import StripScorer, _load_pyfunc
from shutterless.workflows.searching.detect import write_rates
from shutterless.workflows.searching.search import search_files
from shutterless.workflows.serving.bodies import RequestError, table_records
from shutterless.workflows.serving.limits import LimitError, Limits
from shutterless.workflows.settings.settings import SearchSettings
from shutterless.workflows.tracking.logged_model import pyfunc_signature
from shutterless.workflows.tracking.tracking import register_model

NAME = "behind-mlflow"


@pytest.fixture(scope="module")
def model_folder(make_model) -> Path:
    folder = make_model("cnn", "cnn", seed=3)
    write_rates(folder, RateCurve(np.linspace(2, -6, 100), 1.0, N_COLUMNS * RATE_HZ * 3600), "simulated")
    return folder


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("frames")
    electrons = np.full((3000, 128), SKY_E)
    add_pulse(electrons, 700, 20.3, 4.0, 20.0)
    add_pulse(electrons, 1100, 90.0, 4.0, 20.0)
    add_pulse(electrons, 2300, 90.0, 4.0, 20.0)
    return write_sequence(folder, expose(electrons, 4), 100, 2)


@pytest.fixture(scope="module")
def strips(model_folder) -> StripBatch:
    grid = load_model(model_folder).grid
    rng = np.random.default_rng(1)
    shapes = {
        "patches": (grid.n_tokens, grid.patch_size),
        "context": (grid.n_tokens, grid.patch_rows),
        "profile": (grid.profile_size,),
        "features": (len(STAGE1_FEATURES),),
    }
    arrays = {name: rng.normal(size=(3, *shape)).astype(np.float32) for name, shape in shapes.items()}
    return StripBatch(**arrays, mask=np.ones((3, grid.n_tokens), dtype=bool))


@pytest.fixture
def scorer(model_folder, frames, tiny_camera, monkeypatch) -> StripScorer:
    monkeypatch.setenv("SHUTTERLESS_ALLOW", str(frames[0].parent))
    monkeypatch.setenv("SHUTTERLESS_INSTRUMENT", tiny_camera)
    return _load_pyfunc(str(model_folder))


def arrays(strips: StripBatch) -> dict:
    return {f.name: getattr(strips, f.name) for f in fields(strips)}


def lists(strips: StripBatch) -> dict:
    return {name: values.tolist() for name, values in arrays(strips).items()}


def records(strips: StripBatch) -> list[dict]:
    columns = lists(strips)
    return [{name: values[i] for name, values in columns.items()} for i in range(len(strips))]


@pytest.mark.parametrize("form", [arrays, lists, records, lambda strips: pd.DataFrame(records(strips))])
def test_strips_are_scored_in_whichever_form_they_come(scorer, strips, model_folder, form):
    expected = score_strips(load_model(model_folder), strips)
    pd.testing.assert_frame_equal(scorer.predict(form(strips)), expected, check_exact=True)
    pd.testing.assert_frame_equal(scorer.predict(form(strips), {"batch_size": 256}), expected, check_exact=True)


@pytest.mark.parametrize(
    "form",
    [
        lambda paths: {"path": paths},
        lambda paths: {"path": np.array(paths)},
        lambda paths: [{"path": path, "quadrant": None} for path in paths],
        lambda paths: pd.DataFrame({"path": paths, "quadrant": [np.nan, np.nan]}),
    ],
)
def test_files_are_searched_as_by_the_command(scorer, frames, tiny_camera, model_folder, tmp_path, form):
    expected = search_files(
        frames, reference=str(model_folder), out=tmp_path / "found", settings=SearchSettings(),
        instrument=tiny_camera, executor=SerialExecutor(),
    )  # fmt: skip
    found = scorer.predict(form([str(path) for path in frames]))
    assert len(found) >= 2
    assert found.to_dict(orient="records") == table_records(expected.candidates)


def test_one_amplifier_of_each_file_and_another_rate(scorer, frames):
    path = str(frames[0])
    one = scorer.predict({"path": path, "quadrant": 1})
    two = scorer.predict(pd.DataFrame({"path": [path, path], "quadrant": [1, 2]}))
    assert set(one["quadrant"]) == {1}
    assert set(one["candidate_id"]) < set(two["candidate_id"])
    pd.testing.assert_frame_equal(
        scorer.predict({"path": [path, path], "quadrant": [1, None]}), scorer.predict({"path": path})
    )
    fewer = scorer.predict({"path": path, "quadrant": 1}, {"false_alarms_per_hour": 1.0})
    assert len(fewer) < len(one)


@pytest.mark.parametrize(
    ("given", "params", "reason"),
    [
        (
            {"patches": [[0.0]]},
            None,
            r"model input lacks 'context'; it needs \['patches'",
        ),
        ({"path": "/etc/passwd"}, None, "is not in a folder that this server may read"),
        ({"path": "/etc/passwd", "mask": [True]}, None, r"holds path and \['mask'\]: either files are searched or"),
        ({"path": ["a", "b"], "quadrant": [1, 2, 3]}, None, "holds 2 paths and 3 quadrants"),
        ({"path": "a"}, {"threshold": 3}, r"unknown params \['threshold'\]; there are \['batch_size', 'false"),
        (3, None, "model input is a int; a mapping of arrays"),
        ([], None, "model input is a list; a mapping of arrays"),
    ],
)
def test_what_is_neither_is_refused_with_the_reason(scorer, given, params, reason):
    with pytest.raises(RequestError, match=reason):
        scorer.predict(given, params)


def test_a_file_that_cannot_be_read_fails_the_whole_request(scorer, frames):
    absent = frames[0].with_name("absent.fits")
    with pytest.raises(RequestError, match=f"^FrameError: {absent} does not exist$"):
        scorer.predict({"path": [str(frames[0]), str(absent)]})


def test_without_allowed_folders_no_file_is_searched(scorer, frames, monkeypatch):
    monkeypatch.delenv("SHUTTERLESS_ALLOW")
    with pytest.raises(RequestError, match="reads no files; it is started with --allow FOLDER or SHUTTERLESS_ALLOW"):
        scorer.predict({"path": str(frames[0])})


def test_a_model_without_a_folder_scores_strips_only(scorer, frames):
    with pytest.raises(RequestError, match="not loaded from a folder and scores strips only"):
        StripScorer(scorer.model).predict({"path": str(frames[0])})


def test_limits_come_from_the_environment(tmp_path):
    environment = {"SHUTTERLESS_ALLOW": f"{tmp_path}:", "SHUTTERLESS_MAX_STRIPS": "2", "SHUTTERLESS_MAX_ROWS": "30"}
    assert Limits.from_environment(environment) == Limits((tmp_path,), max_strips=2, max_rows=30)
    with pytest.raises(LimitError, match="SHUTTERLESS_MAX_ROWS = '-3' is not a whole number"):
        Limits.from_environment({"SHUTTERLESS_MAX_ROWS": "-3"})
    with pytest.raises(LimitError, match="absent, of which files may be searched, is no folder"):
        Limits.from_environment({"SHUTTERLESS_ALLOW": str(tmp_path / "absent")})


def test_a_model_from_a_registry_says_which_version_it_is(tmp_path):
    folder = tmp_path / "artifacts" / "data" / "cnn"
    folder.mkdir(parents=True)
    assert pyfunc_loader._registered_address(folder) is None
    (tmp_path / "artifacts" / "registered_model_meta").write_text("model_name: detector\nmodel_version: '3'\n")
    assert pyfunc_loader._registered_address(folder) == "models:/detector/3"


def test_the_signature_lets_both_kinds_of_input_through(strips):
    from mlflow.models import ModelSignature
    from mlflow.models.utils import _enforce_params_schema, _enforce_schema

    signature = ModelSignature.from_dict(pyfunc_signature())
    for form in (arrays(strips), pd.DataFrame(records(strips)), {"path": "a.fits"}, pd.DataFrame({"path": ["a.fits"]})):
        assert len(_enforce_schema(form, signature.inputs)) in (1, 3)
    assert _enforce_params_schema({}, signature.params) == {"batch_size": 256, "false_alarms_per_hour": None}


@pytest.fixture(scope="module")
def mlflow_server(tracking, model_folder, frames, tiny_camera):
    """Address of a real ``mlflow models serve`` of the champion."""
    register_model(tracking, model_folder, NAME, "champion")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracking.uri, "SHUTTERLESS_INSTRUMENT": tiny_camera}
    environment |= {"SHUTTERLESS_ALLOW": str(frames[0].parent), "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # it calls uvicorn by name
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{NAME}@champion"]
    command += ["--env-manager", "local", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 200
        while not is_up(url):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.3)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def is_up(url):
    try:
        return requests.get(f"{url}/ping", timeout=5, proxies={"http": ""}).status_code == 200
    except requests.ConnectionError:
        return False


def invoke(url, body):
    return requests.post(f"{url}/invocations", json=body, timeout=120, proxies={"http": ""})


@pytest.mark.slow
def test_mlflow_models_serve_scores_strips(mlflow_server, strips, model_folder):
    expected = table_records(score_strips(load_model(model_folder), strips))
    answer = invoke(mlflow_server, {"inputs": lists(strips)})
    assert answer.status_code == 200, answer.text[-2000:]
    assert answer.json()["predictions"] == expected
    single = invoke(mlflow_server, {"inputs": lists(strips[1:2])})
    assert single.json()["predictions"] == table_records(score_strips(load_model(model_folder), strips[1:2]))


@pytest.mark.slow
def test_mlflow_models_serve_searches_files(mlflow_server, frames, tiny_camera, tracking, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.uri)
    expected = search_files(
        frames, reference=f"models:/{NAME}/1", out=tmp_path / "found", settings=SearchSettings(),
        instrument=tiny_camera, executor=SerialExecutor(),
    )  # fmt: skip
    paths = [str(path) for path in frames]
    for body in (
        {"dataframe_split": {"columns": ["path"], "data": [[path] for path in paths]}},
        {"dataframe_records": [{"path": path} for path in paths]},
        {"inputs": {"path": paths}},
    ):
        answer = invoke(mlflow_server, body)
        assert answer.status_code == 200, answer.text[-2000:]
        assert answer.json()["predictions"] == table_records(expected.candidates)
    one = invoke(
        mlflow_server, {"inputs": {"path": paths[:1], "quadrant": [1]}, "params": {"false_alarms_per_hour": 1.0}}
    )
    assert one.status_code == 200, one.text[-2000:]
    assert len(one.json()["predictions"]) < len(expected.candidates)


@pytest.mark.slow
def test_mlflow_models_serve_refuses_with_the_reason(mlflow_server, strips):
    cases = [
        ({"inputs": {"path": "/etc/passwd"}}, "is not in a folder that this server may read"),
        (
            {"inputs": {**lists(strips), "patches": np.zeros((3, 8, 4)).tolist()}},
            "patches of shape (3, 8, 4) do not fit",
        ),
        ({"inputs": {name: values for name, values in lists(strips).items() if name != "mask"}}, "'mask'"),
    ]
    for body, reason in cases:
        answer = invoke(mlflow_server, body)
        assert answer.status_code == 400
        assert reason in json.dumps(answer.json(), ensure_ascii=False)


@pytest.fixture(scope="module")
def finder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes")
    build_box_detector(tile_px=64, channels=[8, 8, 16], n_layers=1, n_heads=2).save_pretrained(folder)
    return _load_pyfunc(str(folder))


def test_images_are_searched_for_boxes_in_whichever_form_they_come(finder, tmp_path, monkeypatch):
    monkeypatch.setenv("SHUTTERLESS_ALLOW", str(tmp_path))
    pixels = np.random.default_rng(2).normal(size=(48, 64)).astype(np.float32)
    pixels -= np.median(pixels)
    fits.PrimaryHDU(pixels).writeto(tmp_path / "a.fits")
    low = {"least_score": 0.005}
    one = finder.predict({"image": pixels}, low)
    assert len(one)
    for form in (
        {"image": pixels[None]},
        [{"image": pixels.tolist()}],
        pd.DataFrame({"image": [pixels]}),
        {"path": str(tmp_path / "a.fits")},
    ):
        pd.testing.assert_frame_equal(finder.predict(form, low), one)
    both = finder.predict({"image": [pixels, pixels]}, low)
    assert both["image"].value_counts().to_dict() == {0: len(one), 1: len(one)}


@pytest.mark.parametrize(
    ("given", "params", "reason"),
    [
        ({"image": [[1.0]], "path": "/a"}, None, "give either image or path"),
        ({"strip": []}, None, r"holds \['strip'\]; give either image or path"),
        ({"image": []}, None, "image is empty"),
        ({"image": [[["a"]]]}, None, "image holds no numbers"),
        ({"image": np.zeros((2, 2, 2, 2))}, None, r"has the shape \(2, 2, 2\); rows of pixels"),
        ({"image": [[1.0]]}, {"batch_size": 3}, r"unknown params \['batch_size'\]; there are \['least_score'\]"),
        ({"path": "/a.fits"}, None, "this server reads no files"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(finder, given, params, reason):
    with pytest.raises(RequestError, match=reason):
        finder.predict(given, params)


def test_an_image_that_cannot_be_read_fails_the_request(finder, tmp_path, monkeypatch):
    monkeypatch.setenv("SHUTTERLESS_ALLOW", str(tmp_path))
    (tmp_path / "bad.fits").write_bytes(b"nothing")
    with pytest.raises(RequestError, match=r"bad\.fits is not a complete FITS file"):
        finder.predict({"path": str(tmp_path / "bad.fits")})
