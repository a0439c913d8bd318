# SPDX-License-Identifier: Apache-2.0
"""Our decoders against Python's protobuf: the same verdict, the same values, the same result of an edit.

The bytes come from mutate.py; activation_oracle says what our code makes of them. A splice must equal
"parse, modify, serialise" in Python, unknown fields included. Run by pytest, or by hand:

    python3 tests/integration/wire/test_activation_differential.py --count 1000000 --seed 7 \\
        build/tests/integration/wire/activation_oracle
"""

import argparse
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(HERE), str(HERE.parent)]

from harness import cache

if __name__ == "__main__" and Path(sys.prefix) != (PYTHON := cache.venv("tests")).parent.parent:
    os.execv(PYTHON, [PYTHON, "-B", *sys.argv])  # another protobuf would be another test

import google.protobuf
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import api_implementation
from google.protobuf.message import DecodeError
from grpc_tools import protoc

from mutate import Generator

HEAD = struct.Struct("<IBBBIIqiQQ")
U32 = struct.Struct("<I")
SET_ID, SET_RECEIVED_AT, SET_DELAY, CLEAR_DELAY, SET_MAX_ATTEMPTS, SET_DELAY_ON_RETRY = (
    1 << bit for bit in range(6))
TASKBROKER = "sentry_protos.taskbroker.v1."
KINDS = [TASKBROKER + "TaskActivation", TASKBROKER + "SetTaskStatusRequest",
         TASKBROKER + "SetBatchActivationStatusRequest", TASKBROKER + "GetTaskRequest",
         "taskmill.v1.EnqueueRequest"]
ACTIVATION = 0
BATCH = 20000
OTHERS_SHARE = 10  # messages of each other kind: one for so many activations
DIFFERENCES_SHOWN = 10


def message_classes():
    """Classes of KINDS, made from the text in proto/."""
    files = ["sentry_protos/taskbroker/v1/taskbroker.proto", "taskmill/v1/producer.proto"]
    include = Path(protoc.__file__).parent / "_proto"
    with tempfile.NamedTemporaryFile() as compiled:
        if protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"-I{include}", "--include_imports",
                        f"--descriptor_set_out={compiled.name}", *files]) != 0:
            raise RuntimeError("proto/ does not compile")
        schema = descriptor_pb2.FileDescriptorSet.FromString(Path(compiled.name).read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in schema.file:
        pool.Add(file)
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in KINDS]


def random_edit(rng):
    """(arguments of HEAD after the kind, new id)"""
    flags = rng.choice([0, SET_ID | SET_RECEIVED_AT | SET_DELAY, SET_MAX_ATTEMPTS, SET_DELAY_ON_RETRY,
                        rng.getrandbits(6), rng.getrandbits(6)])
    if flags & SET_DELAY and flags & CLEAR_DELAY:
        flags ^= CLEAR_DELAY
    new_id = rng.choice(["", "a", "8e9c2c4e-0000-8000-8000-000000000001", "ü"]).encode()
    return (flags, len(new_id), rng.choice([0, 1, 1, 5, 2**32 - 1]), rng.choice([0, 1, 7, 2**32 - 1]),
            rng.choice([0, 1700000000, -1, -2**63, 2**63 - 1]), rng.choice([0, 999999999, -1, 2**31 - 1]),
            rng.choice([0, 1, 60, 2**64 - 1]), rng.choice([0, 1, 60, 2**64 - 1])), new_id


def apply_edit(message, edit, new_id):
    flags, _, attempts_add, max_attempts, seconds, nanos, delay, delay_on_retry = edit
    if attempts_add and message.HasField("retry_state"):
        message.retry_state.attempts = (message.retry_state.attempts + attempts_add) % 2**32
    if flags & SET_ID:
        message.id = new_id.decode()
    if flags & SET_RECEIVED_AT:
        message.received_at.seconds = seconds
        message.received_at.nanos = nanos
    if flags & SET_DELAY:
        message.delay = delay
    if flags & CLEAR_DELAY:
        message.ClearField("delay")
    if flags & SET_MAX_ATTEMPTS:
        message.retry_state.max_attempts = max_attempts
    if flags & SET_DELAY_ON_RETRY:
        message.retry_state.delay_on_retry = delay_on_retry


def take_block(data, at):
    (size,) = U32.unpack_from(data, at)
    at += U32.size
    return data[at:at + size], at + size


class Differential:
    def __init__(self, oracle, seed):
        self.oracle = oracle
        self.rng = random.Random(seed)
        self.generator = Generator(self.rng)
        self.classes = message_classes()
        self.total = self.accepted = self.refused = self.differences = 0

    def messages(self, kind, count):
        """Concatenations of records out of a fresh pool, a third of them mutated."""
        rng, generator = self.rng, self.generator
        descriptor = self.classes[kind].DESCRIPTOR
        pool = [generator.record(descriptor) for _ in range(2000)]
        out = []
        previous = b"\x0a\x01a"
        for _ in range(count):
            message = b"".join(rng.choices(pool, k=int(rng.random() * 14)))
            if rng.random() < 0.35:
                message = generator.mutate(message, previous)
            out.append(message)
            previous = message
        return out

    def run_batch(self, kind, count):
        messages = self.messages(kind, count)
        edits = [random_edit(self.rng) for _ in range(500)]
        chosen = self.rng.choices(edits, k=count)
        parts = []
        for message, (edit, new_id) in zip(messages, chosen):
            parts += (HEAD.pack(len(message), kind, *edit), new_id, message)
        done = subprocess.run([self.oracle], input=b"".join(parts), stdout=subprocess.PIPE)
        if done.returncode != 0:
            raise RuntimeError(f"{self.oracle} failed ({done.returncode})")
        at = 0
        for message, (edit, new_id) in zip(messages, chosen):
            at = self.compare(kind, message, edit, new_id, done.stdout, at)
        if at != len(done.stdout):
            raise RuntimeError("the oracle answered more than it was asked")

    def compare(self, kind, message, edit, new_id, answers, at):
        """Compares one answer; returns where the next one starts."""
        self.total += 1
        dump = splice = None
        ours = answers[at]
        at += 1
        if ours:
            dump, at = take_block(answers, at)
            if kind == ACTIVATION:
                splice, at = take_block(answers, at)
        cls = self.classes[kind]
        try:
            parsed = cls.FromString(message)
        except DecodeError:
            parsed = None
        if parsed is None or not ours:
            if parsed is not None or ours:
                self.report(kind, message, "only Python accepts" if not ours else "only we accept")
            else:
                self.refused += 1
            return at
        self.accepted += 1
        if kind == ACTIVATION:
            apply_edit(parsed, edit, new_id)
            if not self.same_splice(cls, splice, parsed):
                self.report(kind, message, f"the splice {edit} {new_id!r} gives {splice.hex()}")
            parsed = cls.FromString(message)
        parsed.DiscardUnknownFields()
        if cls.FromString(dump) != parsed:
            self.report(kind, message, f"values differ: {dump.hex()}")
        return at

    @staticmethod
    def same_splice(cls, splice, expected):
        try:
            ours = cls.FromString(splice)
        except DecodeError:
            return False
        return (ours.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True))

    def report(self, kind, message, what):
        self.differences += 1
        if self.differences <= DIFFERENCES_SHOWN:
            print(f"{KINDS[kind]} {message.hex()}: {what}", file=sys.stderr)

    def run(self, count):
        for kind in range(len(KINDS)):
            left = count if kind == ACTIVATION else count // OTHERS_SHARE
            while left > 0 and self.differences < DIFFERENCES_SHOWN:
                self.run_batch(kind, min(left, BATCH))
                left -= min(left, BATCH)

    def summary(self):
        return (f"{self.total} messages, {self.accepted} accepted by both, {self.refused} refused by both, "
                f"{self.differences} differences")


def run(oracle, count, seed):
    """The number of differences."""
    if api_implementation.Type() != "upb":
        raise RuntimeError(f"protobuf here is {api_implementation.Type()}, not upb: set no "
                           "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION")
    start = time.monotonic()
    test = Differential(str(oracle), seed)
    test.run(count)
    print(test.summary())
    print(f"seed {seed}, protobuf {google.protobuf.__version__}, {time.monotonic() - start:.1f} s",
          file=sys.stderr)
    return test.differences


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_activation_differential():
    build = ROOT / os.environ.get("TASKMILL_BUILD", "build")
    assert run(build / "tests/integration/wire/activation_oracle", 1_000_000, seed=1) == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000, help="activations to try")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("oracle", type=Path)
    args = parser.parse_args()
    return 1 if run(args.oracle.resolve(), args.count, args.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
