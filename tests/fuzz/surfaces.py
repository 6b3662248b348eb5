"""Every surface that is fuzzed, by name."""

from __future__ import annotations

from fuzz import fits_surfaces, model_surfaces, request_surfaces, table_surfaces, text_surfaces
from fuzz.surface import Surface

SURFACES: tuple[Surface, ...] = (
    *fits_surfaces.SURFACES,
    *table_surfaces.SURFACES,
    *text_surfaces.SURFACES,
    *model_surfaces.SURFACES,
    *request_surfaces.SURFACES,
)
