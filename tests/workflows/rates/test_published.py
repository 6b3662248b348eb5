"""Rates of other surveys: each has a source, and is a limit or a rate with an interval."""

from __future__ import annotations

from shutterless.workflows.rates.published import read_published


def test_every_published_rate_has_a_source_and_an_interval_or_is_a_limit():
    table = read_published()
    assert {"Tingay & Joubert", "W-FAST", "Tomo-e Gozen", "DWF"} <= set(table["survey"])
    assert table["source"].str.match(r"https://(arxiv\.org/abs/|www\.cambridge\.org/)").all()
    assert (table["duration_low_s"] <= table["duration_high_s"]).all()
    rates = table[~table["is_limit"].astype(bool)]
    assert ((rates["low"] < rates["per_deg2_day"]) & (rates["per_deg2_day"] < rates["high"])).all()
    # 4.72e5 a day on 41,253 deg², + 6.39e5 and - 3.28e5
    dwf = rates[rates["survey"] == "DWF"].iloc[0]
    assert [round(x * 41253 / 1e5, 2) for x in (dwf["per_deg2_day"], dwf["low"], dwf["high"])] == [4.72, 1.44, 11.11]
