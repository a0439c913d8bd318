# SPDX-License-Identifier: Apache-2.0
"""bench/run answers wrong arguments, and measures what it says with nothing lost. No figure is judged
here: a busy machine is no reason to fail."""

import json
import subprocess

import pytest

from harness import cache

pytestmark = pytest.mark.alone

BENCH = cache.ROOT / "bench" / "run"


def run(*args, timeout_s=100):
    return subprocess.run([BENCH, *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=timeout_s)


def test_help_names_every_part_and_an_example():
    done = run("--help")
    assert done.returncode == 0
    for word in ("kafka", "embedded", "worker", "dispatch", "beanstalkd", "idle", "ingest", "--json", "--quick", "example:"):
        assert word in done.stdout


@pytest.mark.parametrize("args, said", [
    (["--only", "nothing"], "invalid choice: 'nothing'"),
    (["--slow"], "unrecognized arguments: --slow"),
    (["--json", "/nowhere/figures.json"], "No such file or directory"),
])
def test_wrong_arguments(args, said):
    done = run(*args)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_a_folder_in_memory_is_refused(tmp_path):
    done = run("--quick", "--only", "idle", "--folder", "/dev/shm/taskmill-bench-test")
    assert done.returncode == 1
    assert "is in memory" in done.stderr


def test_quick_run_of_the_worker(tmp_path):
    figures = tmp_path / "figures.json"
    done = run("--quick", "--only", "worker", "--json", figures, "--folder", tmp_path / "bench")
    assert done.returncode == 0, done.stderr
    assert "one worker process, 8 children" in done.stdout
    round_of, = json.loads(figures.read_text())["rounds"]["worker 8"]
    assert round_of["tasks"] == 20000
    assert round_of["tasks_per_s"] > 0 and round_of["raw_per_s"] > 0
    assert round_of["parent_cpu_us"] > 0 and round_of["children_cpu_us"] > 0


def test_quick_run_of_dispatch(tmp_path):
    figures = tmp_path / "figures.json"
    done = run("--quick", "--only", "dispatch", "--json", figures, "--folder", tmp_path / "bench")
    assert done.returncode == 0, done.stderr
    assert "one thread that sends into Kafka" in done.stdout
    round_of, = json.loads(figures.read_text())["rounds"]["dispatch"]
    assert round_of["tasks"] == 125000 and round_of["bytes"] > 100
    assert all(round_of[key] > 0 for key in ("dispatch_per_s", "raw_per_s", "call_us", "raw_call_us"))


def test_quick_run_of_two_parts(tmp_path):
    figures = tmp_path / "figures.json"
    done = run("--quick", "--only", "idle", "--only", "embedded", "--json", figures,
               "--folder", tmp_path / "bench")
    assert done.returncode == 0, done.stderr
    assert "idle: enqueue to a waiting worker" in done.stdout
    rounds = json.loads(figures.read_text())["rounds"]
    assert set(rounds) == {"idle kafka", "idle embedded", "embedded 24x8"}
    assert all(len(found) == 1 for found in rounds.values())
    assert rounds["embedded 24x8"][0]["tasks"] == 20000
    assert rounds["embedded 24x8"][0]["doubled"] == 0
    for name in ("idle kafka", "idle embedded"):
        assert rounds[name][0]["lost"] == 0
        assert 0 < rounds[name][0]["p50_us"] <= rounds[name][0]["p99_us"]
    assert not (tmp_path / "bench").exists()
