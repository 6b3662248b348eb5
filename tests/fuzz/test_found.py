"""Inputs that broke the rule once, the smallest of each kind."""

from __future__ import annotations

import pytest
from fuzz.fits_inputs import ChangeCard, FitsInput
from fuzz.model_surfaces import ModelInput, Numbers
from fuzz.request_surfaces import Sent
from fuzz.surface import try_input
from fuzz.surfaces import SURFACES
from fuzz.table_surfaces import FolderInput, OtherColumn, TableInput
from fuzz.text_surfaces import DocumentInput
from fuzz.values import GONE, Damage, OtherArray, Put

FOUND = [
    ("dates", ("", "0\n0", "")),  # the name of the scale broke the line of the error
    ("cubes", FitsInput("cube int16", (ChangeCard(0, 1, "keyword", "\x80*"),))),  # a pattern to astropy
    ("profiles", DocumentInput("tiny", (Put(21, []),))),  # a list as a keyword
    ("profiles", DocumentInput("tiny", (Put(8, []),))),  # no range of the overscan
    ("profiles", DocumentInput("tiny", (), (Damage(0, b"\xff" * 8),))),  # no UTF-8
    ("stores", FolderInput(((359, Put(612, GONE)),))),  # text of the manifest that is no UTF-8
    ("stores", FolderInput(((42042, OtherArray("<f2", (0,))),))),  # fewer columns than the amplifier has
    ("policies", DocumentInput("policy", (Put(0, {"\n": False}),))),  # a key that broke the line of the error
    ("requests", Sent("/score", b"null", length="1e3")),
    ("models", ModelInput("mlp", ((0, Put(70314, False)),))),  # a dtype that is none
    ("truth tables", TableInput("csv", (OtherColumn("ccd", (9.223372036854776e18,)),))),  # no number of a CCD
    *(("models", ModelInput("forest", ((1, Numbers(place, -1e38, 200)),))) for place in (0, 7, 30)),  # crashed
]


@pytest.mark.parametrize(("name", "value"), FOUND, ids=lambda value: value if isinstance(value, str) else "")
def test_what_was_found_stays_mended(name, value):
    surface = next(surface for surface in SURFACES if surface.name == name)
    surface.prepare()
    try_input(surface, value)
