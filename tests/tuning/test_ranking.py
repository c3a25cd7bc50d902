"""The benchmark that sets models beside measurements, with a clock of our own for the GPU's."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from flashrnn_numba.tuning import Device
from flashrnn_numba.tuning.candidates import Candidate, evaluate_model

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import planning, ranking
from benchmarks.ranking import Case, Deadline, Stopwatch, measured, sampled, spearman

H200 = Device.named("H200")
SMALL = Case("portable", "forward", "float32", 16, 1, 1)
CASES = [Case("tensor", "backward", "bfloat16", 64, 12, 16), SMALL]


def predicted(case: Case, solution: dict[str, int]) -> float:
    setting = case.setting(H200)
    found = evaluate_model(setting.model, setting.task, H200, case.direction)
    assert isinstance(found, Candidate)
    return found.with_solution(solution, 0).seconds


def all_ready(case: Case, tilings: int) -> ranking.Sample:
    sample = sampled(case, H200, tilings)
    sample.ready = list(range(len(sample.tilings)))
    return sample


def test_rank_correlation_by_hand():
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    assert spearman([1, 1, 2], [5, 5, 9]) == pytest.approx(1)


def test_the_best_and_a_spread_over_the_others():
    assert ranking.spread(range(10), 0) == list(range(10))
    assert ranking.spread(range(100), 6) == [0, 1, 2, 3, 35, 67]
    assert ranking.spread(range(3), 6) == [0, 1, 2]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kernel)
def test_comparison_of_model_and_measurement(case):
    """With times as the model has them the ranks agree; with the best time elsewhere it is told."""
    sample = all_ready(case, 12)
    row = measured(sample, lambda *a: predicted(a[0], a[1]), 1, Deadline(None))
    assert row["measured"] == len(sample.tilings) == 12 <= row["tilings"]
    assert row["rank_correlation"] == pytest.approx(1)
    assert row["chosen_ms"] == row["predicted_ms"] == row["times"][0]["predicted_ms"]
    rest = [t["predicted_ms"] for t in row["times"][1:]]
    assert rest == sorted(rest)
    assert row["best_ms"] == min(row["chosen_ms"], rest[0])
    row = measured(sample, lambda *a: 1e-6 / predicted(a[0], a[1]), 1, Deadline(None))
    assert row["rank_correlation"] == pytest.approx(-1)
    assert row["chosen_over_best"] > 1
    assert row["best"] == sample.tilings[-1][1]
    assert json.loads(json.dumps(row)) == row


def test_one_tiling_has_no_rank():
    sample = all_ready(SMALL, 1)
    row = measured(sample, lambda *a: 1.0, 1, Deadline(None))
    assert (row["measured"], row["rank_correlation"], row["chosen_over_best"]) == (1, None, 1)
    assert "rank  none" in ranking.line(row)


def test_kernels_are_measured_once():
    """Solutions that differ in what the model alone sees are one tiling."""
    case = Case("tensor", "forward", "bfloat16", 64, 12, 16)
    sample = sampled(case, H200, 0)
    tilings = [ranking.kernel_tiling(case.setting(H200), z) for _, z in sample.tilings]
    assert len(set(tilings)) == len(tilings) == sample.every
    assert len(ranking.every_solution(case.setting(H200))) > sample.every


def test_failures_are_rows_not_the_end():
    sample = all_ready(SMALL, 6)

    def clock(case, solution, runs, patience):
        if solution == sample.tilings[0][1]:
            raise RuntimeError("the driver refused it")
        return 1.0 + predicted(case, solution)

    row = measured(sample, clock, 1, Deadline(None))
    assert row["measured"] == 5
    assert row["failed"][0]["error"] == "RuntimeError: the driver refused it"
    assert "chosen_ms" not in row
    assert "1 failed: RuntimeError" in ranking.line(row)
    late = measured(all_ready(SMALL, 6), clock, 1, Deadline(0.0))
    assert (late["measured"], late["out_of_time"]) == (0, 6)
    assert "6 out of time" in ranking.line(late)
    large = sampled(Case("portable", "forward", "float32", 768, 1, 16), H200, 6)
    assert measured(large, clock, 1, Deadline(None))["failed"][0]["error"] == "no tiling"


# -- the timing process: what it runs must be importable there -------------------------------------


def nothing(*_: object) -> None:
    """No rehearsal."""


def by_threads(case: Case, solution: dict[str, int], runs: int) -> float:
    if solution["threads"] == 1:
        time.sleep(60)
    if solution["threads"] == 2:
        os._exit(3)
    if solution["threads"] == 3:
        raise ValueError("no such tiling")
    return float(solution["threads"])


def test_a_tiling_that_hangs_or_kills_the_process_costs_only_itself():
    with Stopwatch(nothing, by_threads, threading.Lock()) as watch:
        assert watch.time(SMALL, {"threads": 32}, 1, 30) == 32
        for threads, reason in ((1, "no end after 1 s"), (2, "died"), (3, "no such tiling")):
            with pytest.raises(RuntimeError, match=reason):
                watch.time(SMALL, {"threads": threads}, 1, 1 if threads == 1 else 30)
            assert watch.time(SMALL, {"threads": 64}, 1, 30) == 64


def as_modelled(case: Case, solution: dict[str, int], runs: int) -> float:
    return predicted(case, solution)


def test_the_whole_of_it(monkeypatch, tmp_path, capsys):
    """Compiled for real, timed by the model."""
    pytest.importorskip("numba.cuda")
    monkeypatch.setenv("FLASHRNN_NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(ranking, "rehearse_on_host", nothing)
    monkeypatch.setattr(ranking, "time_on_gpu", as_modelled)
    monkeypatch.setattr(ranking, "CASES", (SMALL,))
    monkeypatch.setattr(Device, "query", staticmethod(lambda: H200))
    path = tmp_path / "table.json"
    arguments = ["--measure", "--tilings", "2", "--seconds", "300", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["planning", *arguments])
    assert planning.main() == 0
    (row,) = json.loads(path.read_text())["compared"]
    assert (row["kernel"], row["measured"], row["failed"]) == ("portable", 2, [])
    assert "2 of 2 tilings compiled" in capsys.readouterr().out
    assert list((tmp_path / "kernels").iterdir())
