# SPDX-License-Identifier: Apache-2.0
"""At-most-once tasks guarded by a real Redis (src/worker/once.h)."""

import pytest

from harness.process import wait_for
from harness.rpc import COMPLETE, activation
from harness.worker import FakeBroker, Worker


@pytest.fixture
def fake():
    it = FakeBroker()
    yield it
    it.stop()


@pytest.fixture
def worker(tmp_path):
    made = []

    def make(host, redis, *arguments, **options):
        arguments = ["--concurrency", "2", *(["--redis", redis.url] if redis else []), *arguments]
        made.append(Worker(tmp_path / f"worker{len(made)}", [host.address], commands=commands(tmp_path),
                           arguments=arguments, **options))
        return made[-1]

    yield make
    for it in made:
        it.kill9()


def commands(folder):
    """`once` and `often` write a line each time they run."""
    def task(name, **options):
        return {"command": ["sh", "-c", f"echo $TASKMILL_TASK_ID >> {folder}/{name}"], **options}
    return {"application": "app", "namespaces": {"ns": {"processing_deadline": 20, "tasks": {
        "once": task("once", at_most_once=True), "often": task("often")}}}}


def runs(folder, name):
    path = folder / name
    return path.read_text().split() if path.exists() else []


def once(id):
    return activation("once", id=id, at_most_once=True)


def test_client_weakness_06_a_task_delivered_twice_runs_once(fake, redis, worker, tmp_path):
    w = worker(fake, redis, "--at-most-once-timeout", "1000")
    fake.tasks += [once("a"), once("a"), once("b")]
    assert [r.status for r in fake.wait_reports(3)] == [COMPLETE] * 3
    assert sorted(runs(tmp_path, "once")) == ["a", "b"]
    assert sorted(redis.keys()) == ["tw:amo:ns:once:a", "tw:amo:ns:once:b"]
    assert 900 < int(redis.cli("TTL", "tw:amo:ns:once:a")) <= 1000
    assert w.log().count("it is not run again") == 1
    # The same for one that a Python worker began, and for another worker of ours.
    redis.cli("SET", "tw:amo:ns:once:python", "1", "NX", "EX", "60")
    other = worker(fake, redis)
    fake.tasks += [once("python"), once("a"), once("c")]
    fake.wait_reports(6)
    assert sorted(runs(tmp_path, "once")) == ["a", "b", "c"]
    w.stop()
    fake.tasks.append(once("d"))
    fake.wait_reports(7)
    assert 86000 < int(redis.cli("TTL", "tw:amo:ns:once:d")) <= 86400
    other.stop()


def test_without_redis_it_always_runs(fake, worker, tmp_path):
    w = worker(fake, None)
    fake.tasks += [once("a"), once("a")]
    fake.wait_reports(2)
    assert runs(tmp_path, "once") == ["a", "a"]
    w.stop()


@pytest.mark.parametrize("how", ["gone", "paused"])
def test_nothing_runs_unguarded_and_all_of_it_when_redis_is_back(fake, redis, worker, tmp_path, how):
    w = worker(fake, redis)
    fake.tasks += [once("first"), once("second")]
    fake.wait_reports(2)  # both children are connected, perhaps
    if how == "gone":
        redis.kill9()
    else:
        redis.pause()
    tasks = [once(f"t{n}") for n in range(6)]
    fake.tasks += tasks[:2]
    w.wait_log("Redis cannot be asked")
    fake.tasks.append(activation("often", id="o"))
    fake.wait_reports(3)  # other tasks go on meanwhile
    fake.tasks += tasks[2:]
    wait_for(lambda: not fake.tasks or len(fake.tasks) <= 4, "claims")
    assert runs(tmp_path, "often") == ["o"]
    assert sorted(runs(tmp_path, "once")) == ["first", "second"]
    if how == "gone":
        redis.start()
    else:
        redis.resume()
    fake.wait_reports(9)
    assert sorted(runs(tmp_path, "once")) == ["first", "second", *[f"t{n}" for n in range(6)]]
    assert w.log().count("Redis cannot be asked") == 1
    assert "it is not run again" not in w.log(), "a SET without an answer is known again"
    w.wait_log("Redis answers again")
    w.stop()


def test_a_worker_that_stops_leaves_what_it_cannot_ask_for(fake, redis, worker, tmp_path):
    redis.kill9()
    w = worker(fake, redis)
    fake.tasks.append(once("a"))
    w.wait_log("Redis cannot be asked")
    w.stop()
    assert runs(tmp_path, "once") == [] and fake.reports == []
    assert "is left to the broker" in w.log()


def test_what_was_asked_for_is_not_given_back(fake, redis, worker, tmp_path):
    """Its key may be in Redis: the next worker would take it for a duplicate, and report it complete."""
    fake.claims, fake.give_back_fail = {}, []
    redis.pause()
    w = worker(fake, redis, "--concurrency", "1")
    fake.tasks.append(once("a"))
    w.wait_log("Redis cannot be asked")
    w.stop()
    assert runs(tmp_path, "once") == [] and fake.reports == [] and fake.given_back == []
    assert "is left to the broker" in w.log()


def test_environment_and_wrong_urls(fake, redis, worker, tmp_path):
    w = worker(fake, None, env={"TASKMILL_REDIS": redis.url})
    fake.tasks += [once("a"), once("a")]
    fake.wait_reports(2)
    assert runs(tmp_path, "once") == ["a"]
    w.stop()
    with pytest.raises(AssertionError, match="the Redis URL"):
        worker(fake, None, "--redis", "http://x")
