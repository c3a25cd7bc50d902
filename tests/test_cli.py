"""The command line: exit status, messages, tables, files."""

import json
import subprocess
import sys

import pytest

from flashrnn_numba.__main__ import main
from flashrnn_numba.commands import COMMANDS
from flashrnn_numba.commands.parity import LEARNED, Run, report
from flashrnn_numba.commands.tables import table
from flashrnn_numba.training import BUCKETS

OWN_CELL = """
import flashrnn_numba as fr
from flashrnn_numba.cells import tanh

@fr.cell(gates=("i",), states=("h",))
def mine(g, s):
    return tanh(g.i + 0.1 * s.h)

not_a_cell = 3
"""
WRONG_VJP = """
import flashrnn_numba as fr
from flashrnn_numba.cells import tanh

@fr.cell(gates=("i",), states=("h",), vjp=lambda g, s, d: ((d.h,), (0 * d.h,)))
def wrong(g, s):
    return tanh(g.i)
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN_CELL)
    return path


def status(*arguments):
    """The exit status, whether argparse leaves or the command returns."""
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code


# --- the program ----------------------------------------------------------------------------------


def test_a_reader_that_has_read_enough_is_no_error():
    words = ["plan", "--head-dim", "64", "--heads", "12", "--batch", "16", "--device", "H200"]
    process = subprocess.Popen(
        [sys.executable, "-m", "flashrnn_numba", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.wait() == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_help_names_the_commands():
    got = subprocess.run(
        [sys.executable, "-m", "flashrnn_numba", "--help"], capture_output=True, text=True
    )
    assert got.returncode == 0
    for command in COMMANDS:
        assert command in got.stdout


def test_help_imports_no_command():
    code = (
        "import sys; from flashrnn_numba.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "slow = {'numba', 'tqdm', 'matplotlib'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert got.returncode == 0, got.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command, capsys):
    assert status(command, "--help") == 0
    assert f"usage: flashrnn-numba {command}" in capsys.readouterr().out


def test_no_or_unknown_command(capsys):
    assert status() == 2
    assert "COMMAND" in capsys.readouterr().err
    assert status("parrot") == 2
    assert "parrot" in capsys.readouterr().err


def test_table_lines_up():
    text = table(["cell", "n"], [["lstm", "1"], ["a", "10"]])
    assert text.splitlines() == ["cell   n", "----  --", "lstm   1", "a     10"]


# --- parity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cell", "lsmt"], "--cell: there is no cell 'lsmt'; expected one of elman, lstm"),
        (["--cell", "none.py:x"], "--cell: there is no file 'none.py'"),
        (["--heads", "0"], "argument --heads: expected a positive integer, got '0'"),
        (["--heads", "5"], "--hidden is 32, expected a multiple of --heads = 5"),
        (["--hidden", "x"], "argument --hidden: expected a positive integer, got 'x'"),
        (["--seed", "-1"], "argument --seed"),
        (["--backend", "gpu"], "argument --backend: invalid choice: 'gpu'"),
        (["--steps", "1.5"], "argument --steps: expected a positive integer, got '1.5'"),
        (["--batch", "0"], "argument --batch: expected a positive integer, got '0'"),
        (["--lr", "nan"], "argument --lr: expected a positive number, got 'nan'"),
        (["--lr", "fast"], "argument --lr: expected a positive number, got 'fast'"),
        (["--plot", "plot.pdf"], "--plot must end in .png or .svg, got 'plot.pdf'"),
        (["--plot", "nowhere/plot.svg"], "--plot: there is no directory"),
        (["--json", "nowhere/out.json"], "--json: there is no directory"),
        (["--quick"], "unrecognized arguments: --quick"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_end_with_2(options, message, capsys):
    assert status("parity", *options) == 2
    assert message in capsys.readouterr().err


def test_plot_without_matplotlib(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert status("parity", "--plot", "plot.svg") == 2
    assert "pip install 'flashrnn-numba[plot]'" in capsys.readouterr().err


def test_too_few_steps_end_with_1(tmp_path, capsys):
    json_file, svg, png = tmp_path / "out.json", tmp_path / "plot.svg", tmp_path / "plot.png"
    options = ["parity", "--cell", "all", "--steps", "3", "--strings", "50", "--seed", "4", "5"]
    assert status(*options, "--heads", "2", "--json", str(json_file), "--plot", str(svg)) == 1
    lines = capsys.readouterr().out.splitlines()
    names = [bucket.name for bucket in BUCKETS]
    assert lines[0].split() == ["cell", "seed", *names, "steps", "seconds"]
    cells = [(line.split()[0], line.split()[1]) for line in lines[2:10]]
    assert cells == [(cell, seed) for cell in ("elman", "lstm", "gru", "slstm") for seed in "45"]
    assert "not learned" in lines[-1]

    record = json.loads(json_file.read_text())
    assert record["command"].startswith("flashrnn-numba parity --cell all --steps 3")
    assert record["settings"]["steps"] == 3
    assert record["shape"] == {
        "heads": 2, "hidden": 32, "embedding": 16, "symbols": 2, "classes": 2
    }  # fmt: skip
    assert record["environment"]["cpu"]
    assert {"python", "numpy", "numba", "flashrnn-numba"} <= record["environment"][
        "versions"
    ].keys()
    assert record["date"].startswith("20")
    assert len(record["runs"]) == 8
    for run in record["runs"]:
        assert list(run["accuracy"]) == names
        assert not run["learned"]
        assert run["steps"] == 3
        assert run["training_seconds"] >= 0
    text = svg.read_text()
    for word in ("<svg", "elman", "slstm", "2 seeds", "accuracy"):
        assert word in text

    from flashrnn_numba.commands.parity_plot import draw

    draw(record["runs"], png)
    assert png.read_bytes().startswith(b"\x89PNG")
    first = svg.read_bytes()
    draw(record["runs"], svg)
    assert svg.read_bytes() == first  # same numbers, same file


def test_elman_with_default_options_ends_with_0(capsys):
    assert status("parity", "--cell", "elman", "--strings", "200") == 0
    row = capsys.readouterr().out.splitlines()[2].split()
    assert row[:2] == ["elman", "0"]
    assert row[2:8] == ["1.000"] * len(BUCKETS)


def test_own_cell_from_a_file(own, capsys):
    options = ["parity", "--cell", f"{own}:mine", "--steps", "2", "--strings", "10"]
    assert status(*options) == 1
    assert capsys.readouterr().out.splitlines()[2].startswith("mine ")


def test_report_cuts_and_names_what_was_not_learned():
    def run(cell, accuracy):
        learned = accuracy >= LEARNED
        return Run(cell, 7, {"1-40": 1.0, "41-64": accuracy}, learned, True, 500, 1, 2.5, 0.25, 4.0)

    text = report([run("gru", 1.0), run("lstm", 0.9989), run("elman", 0.999)])
    assert [line.split()[3] for line in text.splitlines()[2:5]] == ["1.000", "0.998", "0.999"]
    assert text.splitlines()[2].split()[-2:] == ["500", "2.8"]
    assert text.endswith("not learned, below 0.999 somewhere: lstm (seed 7)")


# --- check and info -------------------------------------------------------------------------------


def test_check_of_a_cell(own, capsys):
    assert status("check", f"{own}:mine", "--backend", "cpu") == 0
    out = capsys.readouterr().out
    assert "cell mine" in out
    assert "bfloat16" in out


def test_check_that_fails(tmp_path, capsys):
    path = tmp_path / "wrong.py"
    path.write_text(WRONG_VJP)
    assert status("check", f"{path}:wrong") == 1
    assert "finite differences" in capsys.readouterr().err


def test_check_of_what_is_no_cell(own, capsys):
    assert status("check", "nothing") == 2
    assert "cell: there is no cell 'nothing'" in capsys.readouterr().err
    assert status("check", f"{own}:not_a_cell") == 2
    assert "has no cell 'not_a_cell'" in capsys.readouterr().err


def test_info(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FLASHRNN_NUMBA_CACHE_DIR", str(tmp_path))
    assert status("info") == 0
    text = capsys.readouterr().out
    for word in ("cpu", "threads", "gpus", "numba", str(tmp_path), "cell slstm", "states h, c"):
        assert word in text
    assert status("info", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cache"] == str(tmp_path)
    assert {"cpu", "reference"} <= set(found["backends"])
