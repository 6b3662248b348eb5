"""Detectors judged by what people vetted."""

from __future__ import annotations

import pandas as pd
import pytest
from typer.testing import CliRunner

from shutterless.pipeline.results.labels import LabelError, read_vetted
from shutterless.workflows.cli import app
from shutterless.workflows.vetting.detectors import evaluate_on_labels


def test_the_template_bank_is_judged_by_the_labels_of_a_person_who_is_right(held_out, vetted, tmp_path):
    judged = evaluate_on_labels(held_out[0], [vetted], references=["template-bank"], out=tmp_path)
    labels = read_vetted([vetted]).lines["label"]
    assert (judged.n_events, judged.n_artefacts) == ((labels == "event").sum(), (labels == "artefact").sum())
    curve = judged.curves["template-bank"]
    # it vetoes the spots that are sharper than a star, which are the artefacts here
    assert judged.areas["template-bank"] > 0.7
    assert 0.5 < curve["completeness"].iloc[-1] < 1
    assert curve["purity"].iloc[-1] > 2 * judged.n_events / (judged.n_events + judged.n_artefacts)
    table = pd.read_parquet(tmp_path / "labels.parquet")
    assert table["detector"].unique().tolist() == ["template-bank"]
    assert table["purity"].between(table["purity_low"], table["purity_high"]).all()
    assert "purity at 70%" in judged.text()


def test_a_store_without_vetted_events_is_refused(training_store, vetted, tmp_path):
    with pytest.raises(
        LabelError, match=r"holds 0 vetted events and 0 vetted artefacts of .*; both are needed: ingest"
    ):
        evaluate_on_labels(training_store, [vetted], references=["template-bank"], out=tmp_path)


def test_the_command_prints_the_table_and_refuses_two_truths(held_out, vetted, tmp_path):
    arguments = ["evaluate", str(held_out[0]), "--labels", str(vetted), "--model", "template-bank"]
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path), "-q"], env=environment)
    assert result.exit_code == 0, result.output
    assert "that people vetted; purity where so many of these events are kept:" in result.stdout
    both = CliRunner().invoke(app, [*arguments, "--truth", str(held_out[1])], env=environment)
    assert "--truth and --labels are two evaluations; give one of them" in both.stderr
