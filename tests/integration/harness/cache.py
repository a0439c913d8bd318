# SPDX-License-Identifier: Apache-2.0
"""Downloads and what is made of them, made once and kept under .cache/: Python environments and Kafka's jars.

An entry is a folder that carries a stamp of what it was made from, written last: a folder whose
stamp differs (other pins, another Python, an interrupted install) is made anew. A lock per entry
lets several test runs share one cache. Only the standard library is used here, because this module
also makes the environment in which everything else runs:

    python3 tests/integration/harness/cache.py venv tests     prints the path of its python
    python3 tests/integration/harness/cache.py kafka          prints the folder of the jars
    python3 tests/integration/harness/cache.py all            makes all that the tests need
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

INTEGRATION = Path(__file__).resolve().parent.parent
ROOT = INTEGRATION.parent.parent
CACHE = Path(os.environ.get("TASKMILL_CACHE", ROOT / ".cache"))


class CacheError(Exception):
    pass


@contextmanager
def _lock(name):
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ensure(name, ingredients, make):
    """The folder .cache/<name>, made by make(folder) unless it was made from the same ingredients."""
    folder = CACHE / name
    stamp = folder / ".stamp"
    wanted = hashlib.sha256("\0".join(ingredients).encode()).hexdigest()
    with _lock(name):
        if not (stamp.exists() and stamp.read_text() == wanted):
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            stamp.write_text(wanted)
    return folder


def _run(argv, hint):
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
    except FileNotFoundError:
        raise CacheError(f"{argv[0]} is not installed: {hint}") from None
    if done.returncode != 0:
        raise CacheError(f"{' '.join(map(str, argv))}: exit {done.returncode}\n{done.stdout[-4000:]}")


def venv(name):
    """Path of the python of the environment pinned by requirements/<name>.txt."""
    pins = INTEGRATION / "requirements" / f"{name}.txt"

    def make(folder):
        print(f"installing {pins.relative_to(ROOT)}", file=sys.stderr)
        _run([sys.executable, "-m", "venv", folder], "./dev setup installs it")
        _run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-input",
              "--disable-pip-version-check", "--requirement", pins], "")

    # A moved tree or another Python leaves scripts that point nowhere.
    made_from = [pins.read_text(), sys.version, str(CACHE.resolve()), os.path.realpath(sys.executable)]
    return ensure(f"venv-{name}", made_from, make) / "bin" / "python"


def kafka_jars():
    """Folder with the jars that kafka/pom.xml names."""
    pom = INTEGRATION / "kafka" / "pom.xml"

    def make(folder):
        print(f"fetching the jars of {pom.relative_to(ROOT)}", file=sys.stderr)
        _run(["mvn", "--quiet", "--batch-mode", "-Dstyle.color=never", "--file", pom, "dependency:copy-dependencies",
              f"-DoutputDirectory={folder}", "-DincludeScope=runtime"], "./dev setup installs it")
        if not list(folder.glob("kafka_*.jar")):
            raise CacheError(f"{folder}: Maven left no Kafka there")

    return ensure("kafka-jars", [pom.read_text()], make)


def main(argv):
    try:
        if len(argv) == 3 and argv[1] == "venv":
            print(venv(argv[2]))
        elif argv[1:] == ["kafka"]:
            print(kafka_jars())
        elif argv[1:] == ["all"]:
            for name in ("tests", "prometheus", "client-0.20.30", "client-26.5.0", "deploy"):
                venv(name)
            kafka_jars()
            # The rest needs what is there now.
            _run([venv("tests"), "-B", "-c", f"import sys; sys.path.insert(0, {str(INTEGRATION)!r}); "
                  "from harness.kafka import class_archive; class_archive()"], "")
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except CacheError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
