"""A process looks for garbage after so many objects."""

from __future__ import annotations

import gc

from shutterless.workflows.execution.garbage import OBJECTS_BETWEEN_COLLECTIONS, collect_less_often


def test_garbage_is_looked_for_after_so_many_objects():
    before = gc.get_threshold()
    try:
        collect_less_often()
        assert gc.get_threshold()[0] == OBJECTS_BETWEEN_COLLECTIONS
    finally:
        gc.set_threshold(*before)
