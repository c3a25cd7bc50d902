"""FlashRNN's own constraints, read from an installed package: here from one that we make."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flashrnn_numba.tuning import Device, Problem

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks import published
from benchmarks.solver import published_rows

H200 = Device.named("H200")

PACKAGE = '''
import a_module_that_is_not_there

class Fused:
    def instance(cls, config):
        LF = SF = None
        value_refinements = (VR("TILE", LF), VR("LOOPS", SF))
        constraint_str = (
            """
            TILE == [8, 16, 32];
            """
            + ("MOST == 4;" if config.dtype == "bfloat16" else "MOST == 2;")
            + f"""
            THREADS == {gpu_info['maxThreadsPerBlock'] // 4}; # a quarter
            TILE * LOOPS == {config.hidden_dim // config.num_heads}; LOOPS <= MOST;
            """
        )
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "flashrnn" / "flashrnn"
    folder.mkdir(parents=True)
    (tmp_path / "flashrnn" / "__init__.py").write_text("raise RuntimeError('imported')")
    file = folder / "flashrnn.py"
    file.write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    return file


def test_text_and_order_are_read_without_an_import(package):
    text, prefer = published.lstm(64, 12, H200)
    assert prefer == {"TILE": "largest", "LOOPS": "smallest"}
    assert Problem.parse(text, prefer).solve() == {
        "TILE": 32,
        "LOOPS": 2,
        "MOST": 4,
        "THREADS": 256,
    }


def test_another_version_is_named(package):
    package.write_text("constraint_str = f'{gpu_info.other}'; value_refinements = ()")
    with pytest.raises(published.PublishedError, match=r"flashrnn.py is not as in flashrnn 1.0.5"):
        published.lstm(64, 12, H200)
    package.write_text("")
    with pytest.raises(published.PublishedError, match=r"not as in .*constraint_str"):
        published.lstm(64, 12, H200)


def test_without_the_package_the_benchmark_says_so(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert published_rows(1) == []
    assert "skipped: the package flashrnn is not installed" in capsys.readouterr().out
