"""Every benchmark in one run: one table of ratios with their spread beside the bars they are held to.

    python tests/bench/run.py [PART…] [--rounds 5] [--quick] [--json FILE] [--plot FILE]

A part is a script of this folder (`--list` names them) or a path to one of your own, and runs in a process of its own:
one that fails, or that the system kills for its memory, takes nothing from the others. `--quick` runs everything at
small sizes in a few minutes. With `HSAE_PEERS_PYTHON`, a Python that has the peers (`make bench-peers`), their own
training steps take turns with ours. `--plot` writes a PNG and an SVG.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from harness.findings import Findings
from harness.machine import load, processor, versions
from harness.peers import peer_versions
from harness.report import Machine, Report
from harness.table import lines

FOLDER = Path(__file__).parent
PARTS = (
    "step",
    "matmul",
    "penalties",
    "memory",
    "forward",
    "one_token",
    "lazy",
    "attach",
    "harvest",
    "index",
    "cache",
    "hub",
    "startup",
    "scaling",
)
"""In the order in which they run."""


def run(part: str, words: list[str], folder: Path) -> Findings:
    """One part in its own process, on one thread."""
    script = FOLDER / f"{part}.py" if part in PARTS else Path(part)
    out = folder / f"{script.stem}.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    paths = [str(FOLDER), str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    command = [sys.executable, str(script), *words, "--json", str(out)]
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=sys.stderr)
    if out.exists():
        return Findings.model_validate_json(out.read_text())
    return Findings(
        part=script.stem,
        title="",
        seconds=time.perf_counter() - started,
        error=f"ended with {done.returncode} and left nothing",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="all of them without one")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each way has")
    parser.add_argument("--quick", action="store_true", help="small sizes; no bar is judged")
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--plot", type=Path, help="draw it there, as .png and .svg")
    parser.add_argument("--list", action="store_true", help="name the parts, and end")
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(PARTS))
        return
    parts = asked.parts or list(PARTS)
    for part in parts:
        if part not in PARTS and not Path(part).is_file():
            parser.error(f"no part and no script: {part} (given); one of {', '.join(PARTS)}")
    words = ["--rounds", str(asked.rounds), *(["--quick"] if asked.quick else [])]
    date, at_start = datetime.now(UTC), load()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, part in enumerate(parts, start=1):
            print(f"[{number}/{len(parts)}] {part}", file=sys.stderr, flush=True)
            found.append(run(part, words, Path(folder)))
            print(f"    {found[-1].seconds:.0f} s", file=sys.stderr, flush=True)
    report = Report(
        date=date.strftime("%Y-%m-%d %H:%M UTC"),
        command=shlex.join(["tests/bench/run.py", *sys.argv[1:]]),
        quick=asked.quick,
        rounds=asked.rounds,
        machine=Machine(
            processor=processor(), threads=1, load_at_start=at_start, load_at_end=load()
        ),
        versions=versions(),
        peers=peer_versions(),
        parts=found,
    )
    print("\n".join([*report.head(), "", *lines(found, judged=not asked.quick)]))
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(report.model_dump_json(indent=1, by_alias=True) + "\n")
    if asked.plot:
        from harness.plot import draw

        asked.plot.parent.mkdir(parents=True, exist_ok=True)
        draw(report, asked.plot)
    raise SystemExit(1 if any(each.error for each in found) else 0)


if __name__ == "__main__":
    main()
