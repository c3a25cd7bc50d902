"""The tuning cache: kept, merged, atomic, and never a reason to fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flashrnn_numba.tuning import CacheWarning, Key, TuningCache, autotune, cache_directory

KEY = Key("NVIDIA H200", "13.0", "0.1.0", "fused-cluster forward", "lstm bf16 H1 D768 B16")
ROOT = Path(__file__).parents[2]


def another(n: int) -> Key:
    return Key("dev", "13.0", "0.1.0", "kernel", f"shape {n}")


def test_kept_between_instances(tmp_path):
    TuningCache(tmp_path).put(KEY, {"tile": 8, "warps": 12}, 2e-3)
    TuningCache(tmp_path).put(another(1), {"tile": 16}, 1e-3)
    cache = TuningCache(tmp_path)
    assert cache.get(KEY) == {"tile": 8, "warps": 12}
    assert cache.get(another(1)) == {"tile": 16}
    assert cache.get(another(2)) is None
    assert len(cache) == 2


@pytest.mark.parametrize("field", ["device", "driver", "package", "kernel", "shape"])
def test_every_part_of_the_key_counts(tmp_path, field):
    cache = TuningCache(tmp_path)
    cache.put(KEY, {"tile": 8}, 1.0)
    other = Key(**(vars(KEY) | {field: "other"}))
    assert cache.get(other) is None


def test_parts_of_a_key_do_not_run_together(tmp_path):
    cache = TuningCache(tmp_path)
    cache.put(Key("a", "b", "c", "d", "e"), {"tile": 8}, 1.0)
    assert cache.get(Key("a", "b c", "", "d", "e")) is None
    with pytest.raises(TypeError, match="driver: expected a str, got 13"):
        Key("a", 13, "c", "d", "e")


def test_directory_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FLASHRNN_NUMBA_CACHE_DIR", str(tmp_path / "mine"))
    assert cache_directory() == tmp_path / "mine"
    assert TuningCache().path.parent == tmp_path / "mine"
    monkeypatch.delenv("FLASHRNN_NUMBA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "flashrnn_numba"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache" / "flashrnn_numba"


GOOD = {"format": "flashrnn_numba tuning cache", "version": 1, "entries": {}}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not JSON"),
        (b'{"format": "flashrnn_numba tun', "not JSON"),
        (b"\xff\xfe\x00", "decode"),
        (b"[1, 2]", "not a flashrnn_numba tuning cache"),
        (b"[" * 100_000, "not JSON"),
        (json.dumps({"other": "tool"}).encode(), "not a flashrnn_numba tuning cache"),
        (json.dumps(GOOD | {"version": 99}).encode(), "version 99, expected 1"),
        (json.dumps(GOOD | {"entries": 3}).encode(), "no entries"),
        (json.dumps(GOOD | {"entries": {KEY.text(): {"tiling": 3}}}).encode(), "1 of its entries"),
    ],
)
def test_unusable_file_is_ignored_and_rebuilt(tmp_path, content, why):
    cache = TuningCache(tmp_path)
    cache.path.write_bytes(content)
    with pytest.warns(CacheWarning, match=why):
        assert cache.get(KEY) is None
    with pytest.warns(CacheWarning, match="rebuilt"):
        cache.put(KEY, {"tile": 8}, 1.0)
    assert cache.get(KEY) == {"tile": 8}  # and warns no more: warnings are errors in this file


pytestmark = pytest.mark.filterwarnings("error")


def test_damaged_entry_does_not_cost_the_others(tmp_path):
    cache = TuningCache(tmp_path)
    cache.put(KEY, {"tile": 8}, 1.0)
    cache.put(another(1), {"tile": 16}, 1.0)
    data = json.loads(cache.path.read_text())
    data["entries"][another(1).text()] = {"tiling": {"tile": "x"}}
    cache.path.write_text(json.dumps(data))
    with pytest.warns(CacheWarning, match="1 of its entries"):
        assert cache.get(KEY) == {"tile": 8}


def test_unwritable_directory_warns(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    cache = TuningCache(tmp_path / "file")
    with pytest.warns(CacheWarning, match="FLASHRNN_NUMBA_CACHE_DIR"):
        cache.put(KEY, {"tile": 8}, 1.0)


def test_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    cache = TuningCache(tmp_path)
    cache.put(KEY, {"tile": 8}, 1.0)

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", broken)
    with pytest.warns(CacheWarning, match="disk full"):
        cache.put(another(1), {"tile": 16}, 1.0)
    monkeypatch.undo()
    assert cache.get(KEY) == {"tile": 8}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tuning.json", "tuning.lock"]


WRITER = """
import sys
from flashrnn_numba.tuning.cache import Key, TuningCache
cache, who = TuningCache(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for n in range(60):
    cache.put(Key("dev", "13.0", "0.1.0", who, str(n)), {"tile": n}, 1.0)
    assert len(cache) > n
"""


def test_two_processes_write_at_once(tmp_path):
    writers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WRITER, str(tmp_path), who],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for who in ("left", "right")
    ]
    for writer in writers:  # both are past their imports before either starts
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    cache = TuningCache(tmp_path)
    for who in ("left", "right"):
        for n in range(60):
            assert cache.get(Key("dev", "13.0", "0.1.0", who, str(n))) == {"tile": n}
    assert len(cache) == 120


# -- autotune ------------------------------------------------------------------------------------


def test_autotune_keeps_the_fastest(tmp_path):
    cache, asked = TuningCache(tmp_path), []

    def measure(tiling):
        asked.append(tiling["tile"])
        return {8: 3e-3, 16: 1e-3, 32: 2e-3}[tiling["tile"]]

    candidates = [{"tile": 8}, {"tile": 16}, {"tile": 32}]
    assert autotune(candidates, measure, KEY, cache) == {"tile": 16}
    assert asked == [8, 16, 32]
    assert autotune(candidates, measure, KEY, cache) == {"tile": 16}
    assert asked == [8, 16, 32]  # remembered, not measured again
    assert autotune(candidates, measure, another(1), cache) == {"tile": 16}
    assert len(asked) == 6


def test_autotune_without_a_cache_and_ties():
    assert autotune([{"tile": 8}, {"tile": 16}], lambda _: 1.0, KEY) == {"tile": 8}


def test_autotune_passes_over_what_fails(tmp_path):
    def measure(tiling):
        if tiling["tile"] == 8:
            raise RuntimeError("out of registers")
        return 1.0

    with pytest.warns(UserWarning, match=r"'tile': 8.*out of registers"):
        best = autotune([{"tile": 8}, {"tile": 16}], measure, KEY, TuningCache(tmp_path))
    assert best == {"tile": 16}


def test_autotune_with_nothing_to_choose_from(tmp_path):
    def measure(_):
        raise RuntimeError("no")

    with pytest.raises(ValueError, match="candidates"):
        autotune([], measure, KEY)
    with (
        pytest.warns(UserWarning, match="passed over"),
        pytest.raises(RuntimeError, match="none of 1 tilings"),
    ):
        autotune([{"tile": 8}], measure, KEY, TuningCache(tmp_path))
    assert len(TuningCache(tmp_path)) == 0
