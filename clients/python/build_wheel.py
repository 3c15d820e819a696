"""Builds the wheel reproducibly into a folder: python3 clients/python/build_wheel.py FOLDER

It needs pip, setuptools and wheel, but no package index. Two builds are identical if these three have the
same versions. The timestamps in the wheel are SOURCE_DATE_EPOCH, or else the time of the last commit.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = ("LICENSE", "README.md", "pyproject.toml", "src")
# The earliest time that a zip file can contain.
EARLIEST = 315_532_800


def source_date() -> str:
    """The time of all files in the wheel, in seconds."""
    if "SOURCE_DATE_EPOCH" in os.environ:
        return os.environ["SOURCE_DATE_EPOCH"]
    try:
        command = ["git", "log", "-1", "--format=%ct", "--", "."]
        return subprocess.run(command, cwd=HERE, check=True, capture_output=True, text=True).stdout.strip() or str(
            EARLIEST
        )
    # Without git, or outside a repository.
    except (OSError, subprocess.CalledProcessError):
        return str(EARLIEST)


def build(folder: Path) -> None:
    """Builds the wheel from a copy, because setuptools leaves files in its sources and packs old ones."""
    # The wheel contains the file modes.
    os.umask(0o022)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "python"
        copy.mkdir()
        for name in SOURCES:
            source = HERE / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info")
                shutil.copytree(source, copy / name, ignore=ignored)
            else:
                shutil.copy(source, copy / name)
        for path in copy.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
        pip += ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder), str(copy)]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": source_date()}
        subprocess.run(pip, check=True, env=environment)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: build_wheel.py FOLDER")
    build(Path(sys.argv[1]).resolve())
