"""Numbers as pages write them."""

from __future__ import annotations

import pytest

from shutterless.workflows.pages.formats import three_digits


@pytest.mark.parametrize(("value", "text"), [(3371.0, "3,370"), (0.05204, "0.052"), (14.0, "14"), (4.0429, "4.04")])
def test_a_number_has_three_digits_and_no_exponent(value, text):
    assert three_digits(value) == text
