"""Build the wheel, install it beside real MLX releases, and type what its users type.

Run by tox (`tox -e wheel`), not collected by pytest: it needs a package index. Checks that the wheel's only
top-level package is ``conformance``; that ``pytest --pyargs conformance -k gru_hidden_none`` fails when no framework is
installed beside it, fails with the fault's name beside MLX 0.31.1, and passes after the upgrade to 0.32.4; and
that every command of docs/gate.md, typed from an empty folder, ends with the exit code that the page promises.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# What is beside the wheel, in turn, the suite's exit code, words of its output, and the exit code of the repro
# script that the command line writes for the same question (None: there is nothing to reproduce).
CHECKS: list[tuple[str, int, list[str], int | None]] = [
    ("", 1, ["no candidate to test"], None),
    ("mlx[cpu]==0.31.1", 1, ["drop_rbhn_t0", "mlx 0.31.1", "expected h =", "again: rnn-conformance run"], 1),
    ("mlx[cpu]==0.32.4", 0, ["3 passed"], None),
]


def main() -> int:
    """Run every check; the exit code is the number of those that failed."""
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        wheel = built(folder)
        with zipfile.ZipFile(wheel) as archive:
            top = {name.split("/")[0] for name in archive.namelist()}
        packages = {name for name in top if not name.endswith(".dist-info")}
        if packages != {"conformance"}:
            problems.append(f"top-level packages of the wheel: {sorted(packages)}, wanted only conformance")
        # Mostly pip, and each in a folder of its own.
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            for each in [pool.submit(followed, folder, wheel), pool.submit(upgraded, folder, wheel)]:
                problems += each.result()
    for problem in problems:
        print(f"FAILED: {problem}")
    print(f"{len(CHECKS) + 2 - len(problems)} passed, {len(problems)} failed")
    return len(problems)


def built(folder: Path) -> Path:
    """The wheel of this checkout."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def upgraded(folder: Path, wheel: Path) -> list[str]:
    """What is wrong in one environment, whose framework changes from check to check as a user's does."""
    python = folder / "beside" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
    install(python, str(wheel))
    return [problem for check in CHECKS for problem in asked(folder, python, *check)]


def install(python: Path, *packages: str) -> None:
    """Install with the environment's own pip."""
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-compile", *packages], check=True)


def asked(folder: Path, python: Path, beside: str, code: int, words: list[str], repro: int | None) -> list[str]:
    """What is wrong with the answer of the suite, and of the repro script, beside this framework."""
    if beside:
        install(python, beside)
    elsewhere = folder / f"work-{beside or 'nothing'}"
    elsewhere.mkdir()
    command = [str(python), "-m", "pytest", "--pyargs", "conformance", "-k", "gru_hidden_none"]
    done = subprocess.run(
        command, cwd=elsewhere, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, check=False
    )
    print(f"beside {beside or 'nothing'}: exit code {done.returncode}; {done.stdout.strip().splitlines()[-1]}")
    missing = [word for word in words if word not in done.stdout]
    problems = [f"beside {beside or 'nothing'}: exit code {done.returncode}, wanted {code}\n{done.stdout}"]
    if done.returncode == code:
        problems = [f"beside {beside or 'nothing'}: no {missing} in\n{done.stdout}"] if missing else []
    return problems if problems or repro is None else reproduced(python, elsewhere, repro)


def followed(folder: Path, wheel: Path) -> list[str]:
    """What is wrong when the commands of docs/gate.md are typed one after the other in an empty folder."""
    page = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    problems = [] if len(blocks) >= 7 else [f"docs/gate.md has only {len(blocks)} blocks of commands"]
    empty = folder / "gate"
    empty.mkdir()
    for block in blocks:
        promised = re.match(r"# exit code (\d+)\n", block)
        script = block.replace("--quiet rnn-conformance\n", f"--quiet '{wheel}'\n")
        done = subprocess.run(["bash", "-ec", script], cwd=empty, capture_output=True, text=True, check=False)
        print(f"docs/gate.md: exit code {done.returncode}: {block.strip().splitlines()[-1]}")
        if done.returncode != (int(promised[1]) if promised else 0):
            problems.append(f"docs/gate.md: exit code {done.returncode} of\n{block}{done.stdout}{done.stderr}")
    return problems


def reproduced(python: Path, folder: Path, code: int) -> list[str]:
    """What is wrong with the repro script in the record of a run, run by the framework's own interpreter."""
    command = [str(python.parent / "rnn-conformance"), "run", "mlx:none", "-k", "gru_hidden_none", "--quiet"]
    subprocess.run(command, cwd=folder, capture_output=True, check=False)
    (record,) = (folder / "reports").glob("*.jsonl")
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    scripts = [line["example"]["repro"] for line in lines if line["type"] == "finding" and line["example"]]
    problems = [] if scripts else ["no repro script in the record"]
    for script in scripts:
        done = subprocess.run([str(python), "-"], input=script, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != code:
            problems.append(f"a repro script ended with {done.returncode}, wanted {code}\n{done.stdout}{done.stderr}")
    print(f"{len(scripts)} repro scripts run")
    return problems


if __name__ == "__main__":
    sys.exit(main())
