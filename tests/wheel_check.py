"""Unpacks the wheel of a folder outside the checkout and runs the tests that need no checkout against it."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = (
    "conftest.py",
    "test_house.py",
    "test_recipes.py",
    "test_evaluation.py",
    "test_hsae.py",
    "hsae_numpy.py",
)


def main(dist: Path) -> int:
    (wheel,) = dist.glob("*.whl")
    tests = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        site, copied = Path(folder, "site"), Path(folder, "tests")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site]
        subprocess.run([*pip, wheel], check=True)
        copied.mkdir()
        for name in TESTS:
            shutil.copy(tests / name, copied)
        shutil.copy(tests.parent / "pyproject.toml", folder)
        environment = {**os.environ, "PYTHONPATH": str(site)}
        where = subprocess.check_output(
            [sys.executable, "-c", "import hsae_hub; print(hsae_hub.__file__)"],
            env=environment,
            cwd=folder,
            text=True,
        )
        if not where.startswith(folder):
            print(f"imported {where.strip()} and not the wheel", file=sys.stderr)
            return 1
        run = [sys.executable, "-m", "pytest", "--rootdir", folder, "tests"]
        return subprocess.run(run, env=environment, cwd=folder).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
