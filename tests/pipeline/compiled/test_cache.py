"""Whether machine code of a loop is kept."""

import importlib.util

from shutterless.pipeline.compiled.cache import is_compiled

LOOPS = """
import numba

@numba.njit(cache=True)
def double(x):
    return 2 * x

@numba.njit(cache=True)
def double_again(x):
    return 2 * x
"""


def test_a_loop_is_compiled_from_its_first_call_on(tmp_path):
    path = tmp_path / "loops.py"
    path.write_text(LOOPS)
    spec = importlib.util.spec_from_file_location("loops", path)
    loops = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loops)
    assert not is_compiled(loops.double)
    assert loops.double_again(2) == 4
    assert not is_compiled(loops.double)
    assert loops.double(2) == 4
    assert is_compiled(loops.double)
