"""Machine code on disk is never older than the rules it was compiled from."""

from pathlib import Path

from services.rl.policies import edge_matching
from services.rl.simulation import compiled, stepping
from services.rl.simulation.compiled import (
    COMPILED_FROM,
    POLICIES_COMPILED_FROM,
    policies_sha256,
    sources_sha256,
)

ROOM = Path(compiled.__file__).parent


def test_every_module_with_compiled_code_is_covered():
    for path in ROOM.glob("*.py"):
        if "from .compiled import" in path.read_text(encoding="utf-8"):
            assert path.stem in COMPILED_FROM, path.name
    for path in (ROOM.parent / "policies").glob("*.py"):
        if "simulation.compiled import" in path.read_text(encoding="utf-8"):
            assert path.stem in POLICIES_COMPILED_FROM, path.name


def test_a_change_of_the_rules_makes_every_cached_function_stale(tmp_path):
    """Numba alone would look at the function's own file and play on by the old rules."""
    for name in COMPILED_FROM:
        (tmp_path / f"{name}.py").write_bytes((ROOM / f"{name}.py").read_bytes())
    assert sources_sha256(tmp_path) == sources_sha256(ROOM)
    with (tmp_path / "world.py").open("a") as stream:
        stream.write("# changed\n")
    sources_sha256.cache_clear()
    changed = sources_sha256(tmp_path)
    assert changed != sources_sha256(ROOM)
    assert sources_sha256(ROOM) in stepping.step_batch._cache._cache_file._source_stamp


def test_a_change_of_the_network_s_arithmetic_makes_the_matching_stale():
    """The pair network is compiled into the matching on edges, which stands in another file."""
    stamp = edge_matching.play_edge_matching._cache._cache_file._source_stamp
    assert policies_sha256() in stamp
    assert sources_sha256(ROOM) in stamp
