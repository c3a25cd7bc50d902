"""The recorded GPU tests' script, and the generated page of limits."""

from __future__ import annotations

from benchmarks import gpu_tests, limits

REPORT = """<testsuites><testsuite>
<testcase classname="a" name="one"/><testcase classname="a" name="two"><skipped/></testcase>
<testcase classname="a" name="three"><failure message="x"/></testcase>
<testcase classname="b" name="four"><error/></testcase>
</testsuite></testsuites>"""


def test_counts_of_a_report():
    assert gpu_tests.counts(REPORT) == {
        "passed": 1,
        "failed": 2,
        "skipped": 1,
        "failures": ["a::three", "b::four"],
    }


def test_the_suite_is_collected_and_skipped_without_a_device():
    result = gpu_tests.suite(["tests/gpu"], "largest_heads or drivers_errors")
    assert result["failed"] == 0
    assert result["passed"] + result["skipped"] == 2


def test_random_problems_come_in_parts_for_a_gpu(monkeypatch):
    """They pass, or fail where there is no GPU; none is left out."""
    select = "random_cells and (0 or 7)"
    assert gpu_tests.PATHS[1] == "tests/test_backends.py"
    monkeypatch.setenv("HYPOTHESIS_PROFILE", "gpu")
    result = gpu_tests.suite(gpu_tests.PATHS[1:], select)
    assert result["passed"] + result["failed"] == 2


def test_findings_of_the_sanitizer():
    assert gpu_tests.count_findings("...\n========= ERROR SUMMARY: 0 errors\n") == 0
    assert gpu_tests.count_findings("========= ERROR SUMMARY: 12 errors") == 12
    text = "========= RACECHECK SUMMARY: 3 hazards displayed (3 errors, 0 warnings)"
    assert gpu_tests.count_findings(text) == 3
    assert gpu_tests.count_findings("no such device") is None


def test_a_tool_that_cannot_run_is_no_clean_result(monkeypatch):
    monkeypatch.setattr(gpu_tests.shutil, "which", lambda name: None)
    assert gpu_tests.findings("memcheck") == "compute-sanitizer is not on the PATH"


def test_the_page_of_limits_is_up_to_date():
    """Of the tables of tensor cores, which take half a minute, one column for two devices."""
    page, advice = limits.PAGE.read_text(), "run: python -m benchmarks.limits"
    for text in (limits.HEAD, limits.TENSOR_HEAD, limits.PORTABLE_HEAD):
        assert text in page, advice
    for name in limits.PORTABLE:
        assert "\n".join(limits.portable(name)) in page, advice
    some = {"devices": ("A100", "H100"), "functions": ("lstm",)}
    column = 2 + limits.BUILT_IN.index("lstm")
    for table in (limits.whole(**some), *(limits.tensor_cores(n, **some) for n in limits.TENSOR)):
        rows = [cells(line) for line in table if line.startswith("| ")]
        for device, kind, largest in rows[1:]:
            found = [cells(line) for line in page.splitlines() if line.startswith(f"| {device} |")]
            assert largest in [row[column] for row in found if row[1:2] == [kind]], (advice, device)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_run_that_was_cut_short_is_counted_from_its_log():
    log = (
        "[gw0] [  1%] PASSED tests/gpu/a.py::test_x[bfloat16-8]\n"
        "[gw1] [  2%] FAILED tests/gpu/a.py::test_y\n"
        "tests/gpu/b.py::test_z SKIPPED (no device)\n"
    )
    assert gpu_tests.counts_of_log(log) == {
        "passed": 1,
        "failed": 1,
        "skipped": 1,
        "failures": ["tests/gpu/a.py::test_y"],
    }
