"""Trainings that are followed: logged to a store that may go away."""

from __future__ import annotations

import numpy as np
import requests

from shutterless.workflows.tracking.tracking import fetch_runs, track_run
from shutterless.workflows.training.follow import follow_training


def test_store_that_stops_answering_stops_no_training_and_gets_the_steps_in_the_end(tracking):
    rows = [{"step": n, "split": "train", "loss": 1 / n, "accuracy": 0.5, "auc": np.nan} for n in (1, 2)]
    with track_run(tracking, "follow", "cnn") as run:
        asked, flush = [], run.flush

        def gone():
            asked.append(1)
            raise requests.ConnectionError("gone")

        with follow_training(run, None, "") as (callback,):
            run.flush = gone
            for row in rows:
                callback.on_history_row(row)
        run.flush = flush
    assert asked == [1]
    (logged,) = fetch_runs(tracking, "follow").to_dict("records")
    assert (logged["metrics.train.loss"], logged["metrics.train.accuracy"]) == (0.5, 0.5)
