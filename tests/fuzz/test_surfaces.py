"""A short run over every surface, the same each time; `make fuzz` is the long one."""

from __future__ import annotations

import pytest
from fuzz.surface import try_input
from fuzz.surfaces import SURFACES
from hypothesis import HealthCheck, given, settings


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name.replace(" ", "-"))
def test_only_documented_errors_or_a_good_result(surface):
    @settings(
        max_examples=surface.n_short, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(surface.inputs)
    def run(value):
        try_input(surface, value)

    run()
