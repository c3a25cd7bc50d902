"""What `Plan.explain` says: whether it is all there, and true."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import flashrnn_numba as fr
from flashrnn_numba.kernels.interface import Task
from flashrnn_numba.tuning import Device
from flashrnn_numba.tuning.binding import raised
from flashrnn_numba.tuning.models.registry import models

ROOT = Path(__file__).parents[2]
H200 = Device.named("H200")
SIZES = {"B": 16, "T": 1024, "H": 1, "D": 768}


# -- all of it -----------------------------------------------------------------------------------


def test_explain_says_it_all():
    p = fr.plan(**SIZES, device="H200")
    text = p.explain()
    for part in ("FORWARD: ", "BACKWARD: ", "tiling", "resource", "share", "other kernels"):
        assert part in text
    assert text.startswith("lstm, bfloat16, 16 rows, 1024 steps, 1 head of 768, on H200 (sm_90")
    assert f"backend {p.backend}: " in text
    assert "registers a thread" in text
    assert "shared memory a block" in text
    small = fr.plan(B=16, T=64, H=12, D=64, dtype="float32", device="H200")
    assert small.explain(2).count("cost +") == 4  # two forward, two backward
    assert "next best tilings: none asked for" in small.explain(0)
    assert "these cannot hold together: `shared memory of a block`" in text
    assert "it would fit with a head dimension of 168 (the largest), or 6 heads of 128 " in text
    assert max(map(len, text.splitlines())) < 200
    assert str(p) == text


def test_other_kernels_come_with_their_price():
    p = fr.plan(B=16, T=1024, H=12, D=64, device="H200")
    for part in p.passes:
        assert {c.name for c in part.able} | {r.name for r in part.refused} == {
            m.name for m in models()
        }
    assert f"x {p.passes[0].first('alternating').seconds / p.forward.seconds:.2f}" in p.explain(0)


def test_plain_data_round_trips():
    data = json.loads(json.dumps(fr.plan(**SIZES, device="A100").to_dict()))
    assert data["task"]["D"] == 768
    assert {row["name"] for row in data["forward"]["limits"]} >= {"threads a block"}
    assert data["forward"]["seconds"] > 0
    assert {row["name"] for row in data["forward"]["binding"]} == {
        "SMs",
        "registers",
        "shared memory",
    }
    assert data["backward"]["weight_gradients_seconds"] > 0
    assert data["backward"]["footprint"]["launches"] >= 1
    refused = {row["kernel"]: row for row in data["forward"]["refused"]}
    assert refused["portable"]["conflict"]


@pytest.mark.parametrize("count", [-1, 1.5])
def test_the_number_of_other_tilings_is_checked(count):
    with pytest.raises((TypeError, ValueError), match="next_best must be"):
        fr.plan(**SIZES, device="H200").explain(count)


# -- what binds ----------------------------------------------------------------------------------


def without(plan_, direction: str) -> dict[str, float]:
    return {row.name: row.step_ns for row in plan_.chosen(direction).binding()}


def test_what_binds_is_found_by_planning_for_a_larger_device():
    """Twice the SMs halve this step, which no constraint of the tiling says."""
    p = fr.plan(B=128, T=1024, H=6, D=128, function="slstm", device=H200)
    now = p.backward.step_ns
    found = without(p, "backward")
    assert found["SMs"] == pytest.approx(now / 2, rel=0.01)
    assert found["shared memory"] == now
    twice = {name: more for name, _, more in raised(H200)}["SMs"]
    again = fr.plan(B=128, T=1024, H=6, D=128, function="slstm", device=twice)
    assert again.backward.step_ns == found["SMs"]
    text = p.explain(0)
    assert re.search(r"SMs \(132; 6 clusters of 16 at once\) .* 50 % less", text)
    for structure in ("fragments in registers", "no idle block", "sums of a strip"):
        assert structure not in text


def test_registers_and_shared_memory_bind_where_r_streams():
    p = fr.plan(**{**SIZES, "B": 128}, device=H200)
    found = without(p, "forward")
    assert min(found, key=found.get) == "SMs"
    assert found["registers"] < found["shared memory"] < p.forward.step_ns
    assert list(found) == sorted(found, key=found.get)


def test_memory_binds_what_brings_r_along_at_each_step():
    p = fr.plan(**{**SIZES, "D": 5000}, device="L40S")
    assert p.kernel == "alternating"
    found = without(p, "forward")
    assert found["memory"] < 0.6 * p.forward.step_ns
    assert set(found) == {"SMs", "memory"}


@pytest.mark.parametrize("name", ["T4", "A100", "H200", "RTX 4090"])
def test_a_larger_device_is_never_slower(name):
    device = Device.named(name)
    for D, H in ((64, 12), (256, 3), (1024, 1)):
        p = fr.plan(B=128, T=64, H=H, D=D, device=device)
        for chosen in (p.forward, p.backward):
            rows = chosen.binding()
            assert all(0 < row.step_ns <= chosen.step_ns for row in rows)
            assert [row.step_ns for row in rows] == sorted(row.step_ns for row in rows)


# -- tilings, launches and times -----------------------------------------------------------------


def test_other_tilings_are_no_copies():
    p = fr.plan(**SIZES, device=H200)
    best = p.backward.best(6)
    shapes = {
        tuple(v for name, v in c.solution.items() if name not in ("ahead", "resident_rows"))
        for c in best
    }
    assert len(best) == len(shapes) == 6
    assert best[0] is p.backward


def test_launches_of_a_grid_are_told_of():
    """Four batch tiles, of which one at a time has the SMs that it needs."""
    p = fr.plan(**{**SIZES, "B": 32, "D": 2048}, device=H200)
    z = p.forward.footprint
    assert (z.launches, z.blocks, z.together) == (4, 128, True)
    one = sum(p.forward.parts.values())
    assert p.forward.step_ns == pytest.approx(4 * one)
    text = p.explain(0)
    assert re.search(r"1024 steps of 2\.\d+ us in each of 4 launches, one after another", text)
    assert "in all 4 launches of up to 128 blocks, one after another; those of a launch " in text
    alone = fr.plan(**SIZES, device=H200).explain(0)
    assert "in all 128 blocks, 128 at once: 1 wave; all wait for each other" in alone


def test_registers_are_told_as_allowed_and_as_needed():
    for D, H, dtype in ((768, 1, "bfloat16"), (64, 12, "bfloat16"), (64, 12, "float32")):
        p = fr.plan(B=16, T=64, H=H, D=D, dtype=dtype, device=H200)
        for chosen in (p.forward, p.backward):
            z = chosen.footprint
            assert 40 < z.needed <= z.registers
            assert f"registers allowed; by estimate {z.needed} needed" in p.explain(0)


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("H200", "from measurements on an H200"),
        ("H100", "from measurements on an H200, the same chip with more memory; not on this card"),
        ("L40S", "scaled from an H200 by clocks and tensor cores; not measured on this card"),
    ],
)
def test_where_times_come_from(device, says):
    assert fr.plan(**SIZES, device=device).explain(0).splitlines()[2] == f"times: {says}"


def test_cards_with_fewer_products_a_clock_take_longer():
    """Alike but for the tensor cores' peak, 506 and 252 products a clock."""
    for D, H in ((64, 12), (1024, 1)):
        at = {"B": 128, "T": 1024, "H": H, "D": D}
        ada, geforce = (fr.plan(**at, device=name) for name in ("L40S", "RTX 4090"))
        for direction in ("forward", "backward"):
            assert geforce.chosen(direction).seconds > ada.chosen(direction).seconds, (D, direction)


# -- beside measurements -------------------------------------------------------------------------


def measured() -> list[dict]:
    record = json.loads((ROOT / "benchmarks/results/speed-h200.json").read_text())
    return [
        row for row in record["rows"]
        if row["implementation"] == "ours" and row["backend"] != "alternating"
    ]  # fmt: skip


def over_expected(row: dict) -> float:
    p = fr.plan(
        B=row["batch"], T=row["steps"], H=row["heads"], D=row["head_dim"],
        function=row["cell"], dtype=row["dtype"], device="H200",
    )  # fmt: skip
    seconds = p.forward.whole if row["direction"] == "forward" else p.seconds
    return row["milliseconds"] / (1e3 * seconds)


def test_public_calls_take_what_the_page_says_of_the_expected_time():
    """docs/plan.md has these figures."""
    page = (ROOT / "docs/plan.md").read_text()
    for kernel, dtype in (("tensor cores, bfloat16", "bfloat16"), ("portable, float32", "float32")):
        line = next(line for line in page.splitlines() if line.startswith(f"| {kernel} |"))
        said = [cell.strip().split(" to ") for cell in line.strip("|").split("|")[1:]]
        for direction, (least, most) in zip(("forward", "forward+backward"), said, strict=True):
            found = [
                over_expected(row) for row in measured()
                if row["dtype"] == dtype and row["direction"] == direction
            ]  # fmt: skip
            assert [f"{min(found):.2f}", f"{max(found):.2f}"] == [least, most], direction


def test_weight_gradients_have_a_row_of_their_own():
    p = fr.plan(B=128, T=1024, H=12, D=64, device=H200)
    assert p.backward.after == pytest.approx(0.8e-3, rel=0.1)  # measured 0.80 ms
    assert p.forward.after == 0
    assert p.seconds == p.forward.seconds + p.backward.seconds + p.backward.after
    assert p.explain(0).count("weight gradients 819 us: a matrix product over all steps") == 1


def test_weight_gradients_grow_with_the_task():
    from flashrnn_numba.tuning.models.weights import recurrent_ns

    def ns(B=16, H=1, D=768, dtype="bfloat16", precision="auto", device="H200"):
        task = Task(fr.get_cell("lstm"), B, 1024, H, D, dtype, "cupy", precision=precision)
        return recurrent_ns(task, Device.named(device))

    assert ns(B=32) == 2 * ns()
    assert ns(D=1536) == pytest.approx(4 * ns())
    assert ns(dtype="float32") > ns(dtype="float32", precision="tf32") == 2 * ns()
    assert ns(dtype="float64") > ns(dtype="float32")
    assert ns(device="RTX 4090") > 3 * ns()
    # one unit a head: memory decides
    assert ns(D=1, B=1) == pytest.approx(1024 * (4 + 1) * 2 / 4800)


# -- the page ------------------------------------------------------------------------------------


def test_the_sample_of_the_page_is_what_is_printed():
    """Up to the part that the page leaves out."""
    page = (ROOT / "docs/plan.md").read_text()
    sample = page[page.index("```\nlstm, bfloat16, 16 rows") + 4 :]
    shown, _, _ = sample.partition("BACKWARD: ... (the same")
    said = fr.plan(**SIZES, device="H200").explain()
    assert said.startswith(shown), "copy it from: print(fr.plan(...).explain())"
