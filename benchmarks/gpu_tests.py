"""The GPU suite and NVIDIA's compute-sanitizer, by one command, recorded as JSON.

python -m benchmarks.gpu_tests          # writes benchmarks/results/gpu-tests-h200.json on an H200
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from . import record

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
PATHS = ["tests/gpu", "tests/test_backends.py"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", nargs="*", default=TOOLS, help="of compute-sanitizer")
    parser.add_argument("--tests", nargs="*", default=PATHS, help="what pytest runs")
    parser.add_argument("--select", default="", help="pytest's -k")
    parser.add_argument("--out", type=Path, help="where the result goes")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes of pytest (needs pytest-xdist)"
    )
    parser.add_argument("--seconds", type=float, help="stop pytest after so many")
    given = parser.parse_args()
    name = device_name()
    os.environ["FLASHRNN_NUMBA_COMPILE_AHEAD"] = "0"  # other tests have the processors
    os.environ.setdefault("HYPOTHESIS_PROFILE", "gpu")
    if given.workers:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a process a core, as it is
    with ThreadPoolExecutor() as pool:
        # side by side: the compilers' work, not the GPU's, takes the time
        outcome = pool.submit(suite, given.tests, given.select, given.workers, given.seconds)
        found = dict(zip(given.tools, pool.map(findings, given.tools), strict=True))
        result = {**record.origin(), "device": name, **outcome.result(), "sanitizer": found}
    short = name.lower().removeprefix("nvidia ").replace(" ", "-")
    record.write(given.out or ROOT / "benchmarks/results" / f"gpu-tests-{short}.json", result)
    clean = all(n == 0 for n in result["sanitizer"].values())
    return 0 if clean and result["passed"] and not result["failed"] else 1


def device_name() -> str:
    import cupy

    return str(cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode())


def suite(
    paths: list[str], select: str, workers: int = 0, seconds: float | None = None
) -> dict[str, Any]:
    """passed, failed and skipped of pytest, and the names of what failed; "cut_short" where it was
    stopped after so many seconds: the counts then are of what had run."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-v", *paths, f"--junitxml={report}"]
        command += ["-k", select] if select else []
        command += ["-n", str(workers)] if workers else []
        log = Path(folder, "log")
        with log.open("w") as file:
            process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.terminate()
        print(log.read_text()[-20_000:])
        if report.exists():
            return counts(report.read_text())
        return {**counts_of_log(log.read_text()), "cut_short": True}


def counts_of_log(log: str) -> dict[str, Any]:
    """What pytest -v has printed so far, with or without pytest-xdist."""
    said = {
        word: set(re.findall(rf"(\S+::\S.*?) {word}|{word} (\S+::\S.*)", log))
        for word in ("PASSED", "FAILED", "ERROR", "SKIPPED")
    }
    wrong = sorted({before or after for before, after in said["FAILED"] | said["ERROR"]})
    return {
        "passed": len(said["PASSED"]),
        "failed": len(wrong),
        "skipped": len(said["SKIPPED"]),
        "failures": wrong,
    }


def counts(report: str) -> dict[str, Any]:
    """What a JUnit report says."""
    cases = list(ElementTree.fromstring(report).iter("testcase"))
    failed = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = [c for c in cases if c.find("skipped") is not None]
    return {
        "passed": len(cases) - len(failed) - len(skipped),
        "failed": len(failed),
        "skipped": len(skipped),
        "failures": [f"{c.get('classname')}::{c.get('name')}" for c in failed],
    }


def findings(tool: str) -> int | str:
    """How much compute-sanitizer finds in sanitized_cases.py, or why it could not say."""
    if shutil.which("compute-sanitizer") is None:
        return "compute-sanitizer is not on the PATH"
    # CUDA's bindings ask the driver for functions that it may lack: no finding about a kernel
    quiet = ["--report-api-errors", "no"] if tool == "memcheck" else []
    command = ["compute-sanitizer", "--tool", tool, *quiet, sys.executable, "-m"]
    done = subprocess.run(
        [*command, "benchmarks.sanitized_cases"], cwd=ROOT, capture_output=True, text=True
    )
    found = count_findings(done.stdout + done.stderr)
    if found:
        print(f"{tool}: {digest(done.stdout)}", flush=True)
    if found is None or (found == 0 and done.returncode):
        return f"exit status {done.returncode}: {(done.stdout + done.stderr)[-500:]}"
    return found


def digest(output: str) -> str:
    """How often which kernel was found at what, and the first finding in full."""
    blocks = re.split(r"^=========\s*$", output, flags=re.MULTILINE)
    headed = re.compile(r"^========= (\S.*)\n(?:=========\s+at (\S+))?", re.MULTILINE)
    found = [headed.search(block) for block in blocks]
    heads = Counter(f.groups() for f in found if f and "SUMMARY" not in f[1])
    first = next((block for block in blocks if " at " in block), "")
    counts = [f"{n} x {what} at {where}" for (what, where), n in heads.most_common(20)]
    return "\n".join([*counts, *first.splitlines()[:30]])


def count_findings(output: str) -> int | None:
    """From the summary line, which racecheck words in its own way."""
    summary = re.search(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard", output)
    return int(summary[1] or summary[2]) if summary else None


if __name__ == "__main__":
    sys.exit(main())
