# SPDX-License-Identifier: Apache-2.0
"""Task parameters against Python's msgpack, json and zstandard, for random and mutated values."""

import base64
import json
import math
import os
import random
import struct
import subprocess

import msgpack
import pytest
import zstandard

from harness.cache import ROOT
from mutate import Generator

COUNT = 60000
DEPTH_MAX = 1024
TO_JSON, FROM_JSON, COMPRESS, DECOMPRESS = range(4)
INTEGERS = [0, 1, -1, 31, 32, -32, -33, 127, 128, -128, -129, 255, 256, 2**15, -2**15, -2**15 - 1, 2**16 - 1,
            2**16, 2**31, -2**31, -2**31 - 1, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -2**63]
FLOATS = [0.0, -0.0, 1.0, 0.1, 1e22, 1e-7, 5e-324, 1.7976931348623157e308, 2.2250738585072014e-308, 1 / 3,
          123456789.0, 1e15, 1e16, 1e17, math.nan, math.inf, -math.inf]
STRINGS = ["", "a", "args", "x" * 31, "x" * 32, "x" * 255, "x" * 256, "ü漢\U0001f600", "\n\t\"\\/\x00\x1f\x7f",
           "18446744073709551615", "\\\"18446744073709551615", "$bytes", "\u2028"]
KEYS = ["a", "key", "", "ü", "x" * 40, "\\", "\"", "$bytes2", "1"]


def oracle(questions):
    """[(operation, bytes)] -> [(translated, bytes)]"""
    program = ROOT / os.environ.get("TASKMILL_BUILD", "build") / "tests/integration/wire/params_oracle"
    question = b"".join(struct.pack("<BI", op, len(data)) + data for op, data in questions)
    answer = subprocess.run([program], input=question, stdout=subprocess.PIPE, check=True).stdout
    out = []
    at = 0
    for _ in questions:
        ok, size = struct.unpack_from("<BI", answer, at)
        at += 5
        out.append((bool(ok), answer[at:at + size]))
        at += size
    assert at == len(answer)
    return out


def random_value(rng, depth=0):
    roll = rng.randrange(9 if depth < 5 else 7)
    if roll == 0:
        return rng.choice([None, True, False])
    if roll == 1:
        return rng.choice(INTEGERS)
    if roll == 2:
        return rng.choice([rng.getrandbits(rng.randrange(1, 65)), -rng.getrandbits(rng.randrange(1, 64))])
    if roll == 3:
        return rng.choice(FLOATS)
    if roll == 4:
        return struct.unpack("<d", rng.randbytes(8))[0]
    if roll == 5:
        return rng.choice(STRINGS)
    if roll == 6:
        return rng.randbytes(rng.choice([0, 1, 2, 3, 4, 5, 31, 256]))
    size = rng.choice([0, 1, 2, 3, 16])
    if roll == 7:
        return [random_value(rng, depth + 1) for _ in range(size)]
    return {rng.choice(KEYS) + str(i): random_value(rng, depth + 1) for i in range(size)}


def random_params(rng):
    return {"args": [random_value(rng) for _ in range(rng.randrange(4))],
            "kwargs": {f"k{i}": random_value(rng) for i in range(rng.randrange(4))}}


def to_marks(value):
    """What JSON lacks as the marks of params.h."""
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}
    if isinstance(value, list):
        return [to_marks(v) for v in value]
    if isinstance(value, dict):
        return {k: to_marks(v) for k, v in value.items()}
    return value


def same(a, b):
    """Equal, and of the same types; NaNs of any payload are the same."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("<d", a) == struct.pack("<d", b) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return a == b


def without_nan_payload(value):
    """NaN has one spelling in JSON, so one in what we pack from it."""
    if isinstance(value, float) and math.isnan(value):
        return math.nan
    if isinstance(value, list):
        return [without_nan_payload(v) for v in value]
    if isinstance(value, dict):
        return {k: without_nan_payload(v) for k, v in value.items()}
    return value


def test_random_values_both_ways():
    rng = random.Random(1)
    values = [without_nan_payload(random_params(rng)) for _ in range(COUNT)]
    packed = [msgpack.packb(v) for v in values]
    texts = [json.dumps(to_marks(v), ensure_ascii=rng.random() < 0.5, allow_nan=False,
                        indent=rng.choice([None, 1])).encode() for v in values]
    for value, (ok, text) in zip(values, oracle([(TO_JSON, p) for p in packed])):
        assert ok and same(json.loads(text), to_marks(value)), (value, text)
    for value, expected, (ok, ours) in zip(values, packed, oracle([(FROM_JSON, t) for t in texts])):
        assert ok and ours == expected, (value, ours)


def depth(value):
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 0


def expressible(value):
    """Whether JSON has room for it."""
    if isinstance(value, (msgpack.ExtType, msgpack.Timestamp)):
        return False
    if isinstance(value, list):
        return all(map(expressible, value))
    if isinstance(value, dict):
        return all(isinstance(k, str) and expressible(v) for k, v in value.items())
    return True


def python_reads(packed):
    """args and kwargs as the Python worker sees them, None if it fails."""
    try:
        value = msgpack.unpackb(packed)
    except Exception:
        return None
    if not isinstance(value, dict):
        return None
    args, kwargs = value.get("args", []), value.get("kwargs", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        return None
    return {"args": args, "kwargs": kwargs}


def test_mutated_bytes_are_read_as_python_reads_them():
    rng = random.Random(2)
    generator = Generator(rng)
    pool = [msgpack.packb(random_params(rng)) for _ in range(500)]
    mutated = [generator.mutate(rng.choice(pool), rng.choice(pool)) for _ in range(COUNT)]
    read = refused = 0
    for packed, (ok, text) in zip(mutated, oracle([(TO_JSON, p) for p in mutated])):
        value = python_reads(packed)
        if value is None or not expressible(value):
            assert not ok, (packed.hex(), text)
            refused += 1
        else:
            assert ok, (packed.hex(), value, text)
            got = json.loads(text)  # duplicate keys: the last one counts, as in msgpack
            assert same(got, to_marks(value)), (packed.hex(), text)
            read += 1
    assert read > COUNT / 20 and refused > COUNT / 20


@pytest.mark.parametrize("text", [
    b"", b"{", b"[]", b"1", b"null", b"{\"args\": {}}", b"{\"args\": 1}", b"{\"kwargs\": []}",
    b"{\"args\": [18446744073709551616]}", b"{\"args\": [-9223372036854775809]}", b"{\"args\": [1e999]}",
    b"{\"args\": [09999999999999999999]}", b"{\"args\": [NaN]}", b"{\"args\": [\"\\ud800\"]}",
    b"{\"args\": [\"\xff\"]}", b"{} {}", b"{\"args\": [\"\x01\"]}", b"{\"args\": [1,]}",
    b"{\"args\": " + b"[" * 1024 + b"]" * 1024 + b"}", b"{\"args\": " + b"[" * 100000])
def test_bad_json_is_refused(text):
    ((ok, why),) = oracle([(FROM_JSON, text)])
    assert not ok and why


@pytest.mark.parametrize("text, expected", [
    ({}, {"args": [], "kwargs": {}}),
    ({"other": 1, "args": [1]}, {"args": [1], "kwargs": {}}),
    ({"args": [{"$bytes": "AA"}]}, {"args": [{"$bytes": "AA"}], "kwargs": {}}),
    ({"args": [{"$bytes": "A==="}, {"$bytes": "=AAA"}]}, {"args": [{"$bytes": "A==="}, {"$bytes": "=AAA"}],
                                                          "kwargs": {}}),
    ({"args": [{"$bytes": ""}]}, {"args": [b""], "kwargs": {}}),
    ({"args": [{"$bytes": "AAAA", "b": 1}]}, {"args": [{"$bytes": "AAAA", "b": 1}], "kwargs": {}}),
    ({"args": [{"$float": "x"}]}, {"args": [{"$float": "x"}], "kwargs": {}}),
    ({"args": [-18446744073709551615 // 2, "18446744073709551615", [18446744073709551615]]},
     {"args": [-2**63, "18446744073709551615", [2**64 - 1]], "kwargs": {}}),
])
def test_json_forms(text, expected):
    ((ok, packed),) = oracle([(FROM_JSON, json.dumps(text).encode())])
    assert ok and msgpack.unpackb(packed) == expected


def nested(key, levels):
    """{key: so many containers inside each other}, packed and as JSON; Python's json gives up much earlier."""
    head, opening, closing = (b"\x81\xa1k", b'{"k":', b"}") if key == "kwargs" else (b"\x91", b"[", b"]")
    packed = b"\x81" + msgpack.packb(key) + head * levels + b"\x01"
    return packed, b'{"%s":%s1%s}' % (key.encode(), opening * levels, closing * levels)


@pytest.mark.parametrize("key", ["args", "kwargs", "other"])
def test_depth_limit(key):
    """What Python unpacks, we take and write; what it does not, we refuse both ways. The map around counts."""
    (fits, text), (too_deep, deeper_text) = (nested(key, n) for n in (DEPTH_MAX - 1, DEPTH_MAX))
    assert python_reads(fits) is not None and python_reads(too_deep) is None
    (ok, ours), (deeper, why) = oracle([(TO_JSON, fits), (TO_JSON, too_deep)])
    assert ok and (text[1:-1] in ours or key == "other")
    assert not deeper and b"nested" in why
    (ok, ours), (deeper, why) = oracle([(FROM_JSON, text), (FROM_JSON, deeper_text)])
    assert ok and same_packed(python_reads(ours), python_reads(fits))
    assert key == "other" or (not deeper and b"nested" in why)


def same_packed(a, b):
    """Python's == is recursive and gives up, too."""
    return msgpack.packb(a) == msgpack.packb(b)


def test_zstd_both_ways():
    rng = random.Random(3)
    data = [b"", b"a", b"a" * 100000] + [rng.randbytes(rng.randrange(5000)) * 3 for _ in range(50)]
    ours = oracle([(COMPRESS, d) for d in data])
    for plain, (ok, frame) in zip(data, ours):
        parameters = zstandard.get_frame_parameters(frame)
        assert ok and parameters.content_size == len(plain) and not parameters.has_checksum
        assert zstandard.ZstdDecompressor().decompress(frame) == plain
    frames = [zstandard.ZstdCompressor(level=3).compress(d) for d in data]
    assert [f for _, f in oracle([(DECOMPRESS, f + b"rest") for f in frames])] == data


def test_bad_zstd_is_refused():
    good = zstandard.ZstdCompressor().compress(b"hello " * 100)
    without_size = zstandard.ZstdCompressor(write_content_size=False).compress(b"hello " * 100)
    too_large = zstandard.ZstdCompressor().compress(bytes((1 << 20) + 1))
    answers = oracle([(DECOMPRESS, bad) for bad in (b"", b"plain", good[:-1], without_size, too_large)])
    assert [ok for ok, _ in answers] == [False] * 5
    assert [why for _, why in answers][3:] == [b"compressed parameters do not say their size",
                                              b"compressed parameters unpack to more than the limit"]
