# SPDX-License-Identifier: Apache-2.0
"""The table at the end of a run."""

from statistics import median

TITLES = {
    "kafka": "Taskmill, fed from Kafka",
    "embedded": "Taskmill, without Kafka",
    "worker": "Taskmill worker, C handlers, without Kafka",
    "beanstalkd fsync": "beanstalkd -f 0 (fsync at every write)",
    "beanstalkd memory": "beanstalkd without a log",
}
NOTES = {
    "taskmill": "All runs of Taskmill: a task is durable before it is acknowledged (synchronous=FULL), "
             "database on {filesystem}.\n    Configuration: defaults, unless said. Cycle: report "
             "complete and fetch the next in one call. Ids in no order.",
    "kafka 240x10": "240x10: store.max_processing_count and store.max_pending_count are 4,096 (default "
                    "2,048: fewer\n    than there are workers).",
    "embedded 24x8": "Without Kafka: tasks were put by Enqueue before, with store.max_pending_count "
                     "1,000,000.",
    "beanstalkd fsync 24": "beanstalkd: one connection a worker, as its protocol wants; delete and the next "
                           "reserve in one write.",
    "idle kafka": "Through Kafka: the producer's linger.ms of 5, librdkafka's default, is part of it.",
    "worker 8": "Worker: started on 80,000 waiting tasks, with everything it does at start. Raw drain: the same "
                "tasks, drained\n    by the load generator over one connection with 64 streams before, on the same "
                "broker.",
    "dispatch": "Sending: taskmill_send with .no_wait, then taskmill_flush; raw is librdkafka alone with the same "
                "settings\n    and bytes, in the same round. Call us: CPU time of the sending thread, a task.",
    "ingest": "Rows from Kafka: store.max_pending_count 1,000,000, no worker.",
}


def mid(rounds, key):
    return median(figures[key] for figures in rounds)


def _heading(title, *columns):
    return f"{title:42}" + "".join(f"{column:>14}" for column in columns)


def _drained(figures):
    lines = [_heading("drained", "tasks/s", "range, k/s", "CPU us/task", "load's CPU", "call p50 ms", "p99 ms")]
    part = None
    for name, rounds in figures.items():
        if not rounds or "tasks_per_s" not in rounds[0]:
            continue
        group, workers = name.rsplit(" ", 1)
        if group != part:
            lines.append(TITLES[group])
            part = group
        rates = [figures["tasks_per_s"] for figures in rounds]
        columns = [f"{median(rates):,.0f}", f"{min(rates) / 1000:.1f}-{max(rates) / 1000:.1f}",
                   f"{mid(rounds, 'server_cpu_us'):.1f}"]
        if "call_p50_us" in rounds[0]:
            columns += [f"{mid(rounds, 'load_cpu_us'):.1f}", f"{mid(rounds, 'call_p50_us') / 1000:.2f}",
                        f"{mid(rounds, 'call_p99_us') / 1000:.2f}"]
        kind = "children" if group == "worker" else "worker" if workers == "1" else "workers"
        lines.append(_heading(f"  {workers} {kind}", *columns))
    return lines if len(lines) > 1 else []


def _ratios(figures):
    lines = []
    for name, rounds in figures.items():
        if not name.startswith("beanstalkd") or not rounds:
            continue
        group, workers = name.rsplit(" ", 1)
        ours = [figures.get(f"{kind} {workers}") for kind in ("kafka", "embedded")]
        if not any(ours):
            continue
        columns = [f"{mid(found, 'tasks_per_s') / mid(rounds, 'tasks_per_s'):.2f}" if found else "-"
                   for found in ours]
        lines.append(_heading(f"  {TITLES[group].split(' (')[0]}, {workers} workers", *columns))
    if lines:
        lines.insert(0, _heading("as a multiple of", "from Kafka", "without Kafka"))
    return lines


def _worker(figures):
    rounds = figures.get("worker 8")
    if not rounds:
        return []
    ratio = mid([{"ratio": it["tasks_per_s"] / it["raw_per_s"]} for it in rounds], "ratio")
    return [_heading("one worker process, 8 children", "tasks/s", "of raw drain", "parent us", "children us"),
            _heading("  tasks that do nothing", f"{mid(rounds, 'tasks_per_s'):,.0f}", f"{ratio:.2f}",
                     f"{mid(rounds, 'parent_cpu_us'):.1f}", f"{mid(rounds, 'children_cpu_us'):.1f}")]


def _dispatch(figures):
    rounds = figures.get("dispatch")
    if not rounds:
        return []
    ratio = mid([{"ratio": it["dispatch_per_s"] / it["raw_per_s"]} for it in rounds], "ratio")
    return [_heading("one thread that sends into Kafka", "tasks/s", "of raw", "call us", "raw call us"),
            _heading(f"  messages of {rounds[0]['bytes']} bytes", f"{mid(rounds, 'dispatch_per_s'):,.0f}",
                     f"{ratio:.2f}", f"{mid(rounds, 'call_us'):.2f}", f"{mid(rounds, 'raw_call_us'):.2f}")]


def _rest(figures):
    lines = []
    for name, title in (("idle kafka", "through Kafka"), ("idle embedded", "through Enqueue, without Kafka")):
        rounds = figures.get(name)
        if rounds:
            columns = [f"{mid(rounds, key) / 1000:.2f}" for key in ("p50_us", "p99_us", "max_us")]
            lines.append(_heading(f"  {title}", *columns))
    if lines:
        lines.insert(0, _heading("idle: enqueue to a waiting worker, ms", "p50", "p99", "max"))
    rounds = figures.get("ingest")
    if rounds:
        rows = rounds[0]["rows"]
        lines.append(_heading("Kafka to store, rows/s", f"{mid(rounds, 'rows_per_s'):,.0f}"))
        lines.append(_heading(f"memory with {rows:,} rows, MiB", f"{mid(rounds, 'memory_mib'):.0f}"))
    if figures.get("idle kafka"):
        lines.append(_heading("memory when idle, MiB", f"{mid(figures['idle kafka'], 'memory_mib'):.0f}"))
    return lines


def render(figures, where, quick):
    blocks = [block for block in (_drained(figures), _ratios(figures), _worker(figures), _dispatch(figures),
                              _rest(figures)) if block]
    notes = [text for name, text in NOTES.items()
             if name in figures or (name == "taskmill" and any("beanstalkd" not in case for case in figures))]
    head = (f"{where['cpus']} CPUs ({where['cpu']}), Linux {where['kernel']}, load before {where['load_before']}, "
            f"{where['seconds']} s" + (", quick: one short round, expect noise" if quick else ""))
    text = "\n\n".join("\n".join(block) for block in blocks)
    foot = "\n".join(f"[{i + 1}] {note}" for i, note in enumerate(notes)).format(**where)
    return "\n".join(part for part in (head, "", text, "", foot) if part is not None).rstrip()
