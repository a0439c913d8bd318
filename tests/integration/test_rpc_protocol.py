# SPDX-License-Identifier: Apache-2.0
"""What is around the calls: health, authentication, limits, HTTP/2 and gRPC as strangers speak it."""

import hashlib
import hmac
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

import grpc
import pytest

from clients.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    START,
    WINDOW_UPDATE,
    frame,
    Headers,
    headers,
    literal,
    read_frames,
    request,
)
from harness.broker import Broker, program
from harness.process import wait_for
from harness.rpc import COMPLETE, CONSUMER, HEALTH, Client, activation
from harness.worker import Worker

pytestmark = pytest.mark.alone

GET_TASK = f"/{CONSUMER}/GetTask"


def status_of(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().name, caught.value.details()


# --- health


def test_health_check(broker, grpc_client):
    client = grpc_client(broker())
    assert client.health() == "SERVING"
    assert client.health("") == "SERVING"
    assert client.health("nobody") == "NOT_FOUND"


def test_health_watch_sees_the_drain(broker, grpc_client):
    b = broker()
    client = grpc_client(b)
    states = client.health_watch()
    assert next(states) == "SERVING"
    b.signal(signal.SIGTERM)
    assert next(states) == "NOT_SERVING"
    assert b.wait() == 0


def test_health_unknown_method(broker, grpc_client):
    client = grpc_client(broker())
    assert status_of(lambda: client.raw(f"/{HEALTH}/List", b"")) == ("UNIMPLEMENTED", "")


# --- methods, sizes, compression


@pytest.mark.parametrize("path", [f"/{CONSUMER}/Nothing", "/no.such.Service/GetTask", "/", "/x",
                                  f"{GET_TASK}/", "/" + "x" * 5000])
def test_unknown_methods(broker, grpc_client, path):
    client = grpc_client(broker())
    assert status_of(lambda: client.raw(path, b"")) == ("UNIMPLEMENTED", "")
    assert client.health() == "SERVING"


def test_oversize_message(broker, grpc_client):
    client = grpc_client(broker())
    body = b"\x0a" + b"\xff" * (4194304 + 10)
    assert status_of(lambda: client.raw(GET_TASK, body, timeout_s=20)) == (
        "OUT_OF_RANGE", f"Error, decoded message length too large: found {len(body)} bytes, "
        "the limit is: 4194304 bytes")
    # The largest that is allowed, and the connection is still good.
    task = activation(args=[b""])
    task.headers["pad"] = "x" * 4000000
    client.enqueue([task], timeout_s=20)
    assert client.get_task(timeout_s=20) == task


def test_compressed_message(broker, grpc_client):
    client = grpc_client(broker())
    body = activation(kwargs={"x": "y" * 10000}).SerializeToString()
    code, _ = status_of(lambda: client.raw(GET_TASK, body, compression=grpc.Compression.Gzip))
    assert code == "UNIMPLEMENTED"
    assert client.health() == "SERVING"


# --- authentication


def test_hmac(broker, grpc_client):
    b = broker(config={"grpc_shared_secret": ["first", "second"]})
    refused = ("UNAUTHENTICATED", "Authentication failed")
    for secret in ("first", "second"):
        client = grpc_client(b, secret=secret)
        id = client.enqueue([activation()]).ids[0]
        assert client.get_task().id == id
        client.set_status(id, COMPLETE)
        client.set_statuses([(id, COMPLETE)])
    for secret in (None, "third", ""):
        client = grpc_client(b, secret=secret)
        assert status_of(client.get_task) == refused
        assert status_of(lambda: client.enqueue([activation()])) == refused
        assert status_of(lambda: client.set_status("x", COMPLETE)) == refused
        assert status_of(lambda: client.give_back([("x", 1)])) == refused
        assert status_of(lambda: client.raw("/no.such.Service/Method", b"")) == refused
        assert client.health() == "SERVING", "health needs no signature"
    assert b.statuses() == {}


def test_hmac_signature_is_of_this_call(broker, grpc_client):
    b = broker(config={"grpc_shared_secret": ["secret"]})
    client = grpc_client(b)

    def call(signed_path, signed_body, change=lambda digest: digest):
        digest = hmac.new(b"secret", signed_path.encode() + b":" + signed_body, hashlib.sha256).hexdigest()
        metadata = [("sentry-signature", change(digest))]
        return status_of(lambda: client.raw(GET_TASK, b"", metadata=metadata, timeout_s=1))[0]

    assert call(GET_TASK, b"") == "NOT_FOUND"
    assert call(GET_TASK, b"", str.upper) == "NOT_FOUND"
    assert call(GET_TASK, b"x") == "UNAUTHENTICATED"
    assert call(f"/{CONSUMER}/SetTaskStatus", b"") == "UNAUTHENTICATED"
    for change in (lambda d: d[:-1], lambda d: d + "0", lambda d: "", lambda d: d[:-1] + "g",
                   lambda d: "0" * 100000):
        assert call(GET_TASK, b"", change) in ("UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "INTERNAL",
                                               "UNAVAILABLE")


def test_hmac_big_body_of_a_stranger(broker, grpc_client):
    b = broker(config={"grpc_shared_secret": ["secret"]})
    stranger = grpc_client(b)
    for _ in range(20):
        assert status_of(lambda: stranger.raw(GET_TASK, b"x" * 4000000, timeout_s=20))[0] == \
            "UNAUTHENTICATED"
    assert grpc_client(b, secret="secret").get_task(timeout_s=0.3) is None


# --- authentication, where the original breaks


def test_weakness_20_signed_body_under_five_bytes_gets_an_answer(broker, grpc_client):
    """The original panics; here every body has a status, signed or not, and the broker goes on."""
    b = broker(config={"grpc_shared_secret": ["secret"], "grpc_long_poll_ms": 0})

    def status(body, signature, path=GET_TASK):
        """Raw, so that the body can be cut anywhere; the grpc-status of the answer."""
        extra = literal(b"sentry-signature", signature) if signature is not None else b""
        with socket.create_connection(("127.0.0.1", b.port), timeout=10) as connection:
            connection.sendall(START + request(1, path.encode(), body, extra=extra))
            for kind, flags, stream, payload in read_frames(connection):
                assert (kind, stream) != (RST_STREAM, 1), "a reset in place of an answer"
                if kind == HEADERS and stream == 1 and flags & END_STREAM:
                    return Headers().decode(payload)["grpc-status"]
        raise AssertionError("no answer")

    def sign(message, path=GET_TASK):
        return hmac.new(b"secret", path.encode() + b":" + message, hashlib.sha256).hexdigest().encode()

    reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    for length in range(5):
        for signature in (sign(b""), b"0" * 64, b""):
            for path in (GET_TASK, "/no.such/Method", reflection):
                assert status(b"\0" * length, signature, path) in ("13", "16"), (length, signature, path)
        assert status(b"\0" * length, None) == "16"
    assert status(b"\0\0\0\0\0", sign(b"")) == "5"
    with grpc_client(b, secret="secret") as client:
        assert client.get_task() is None
        assert client.health() == "SERVING"


def test_weakness_41_a_signature_stays_good_for_its_own_call_only(broker, grpc_client):
    """There is no protection against a replay, as there is none in the original; but a signature of
    one call is worth nothing for another, and strangers' paths leave nothing behind."""
    b = broker(config={"grpc_shared_secret": ["secret"], "grpc_long_poll_ms": 0})
    client = grpc_client(b)
    digest = hmac.new(b"secret", GET_TASK.encode() + b":", hashlib.sha256).hexdigest()
    metadata = [("sentry-signature", digest)]
    for _ in range(2):
        assert status_of(lambda: client.raw(GET_TASK, b"", metadata=metadata))[0] == "NOT_FOUND"
    assert status_of(lambda: client.raw(f"/{CONSUMER}/SetTaskStatus", b"", metadata=metadata))[0] == \
        "UNAUTHENTICATED"
    assert status_of(lambda: client.raw(GET_TASK, b"\x0a\x00", metadata=metadata))[0] == "UNAUTHENTICATED"

    def memory():
        return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{b.pid}/status").read())[1])

    def strangers(first):
        for i in range(first, first + 1000):
            with pytest.raises(grpc.RpcError):
                client.raw(f"/stranger.{i:0200d}/Method", b"", metadata=metadata)

    strangers(0)
    before = memory()
    strangers(1000)
    assert memory() - before < 1024, "KiB that paths of strangers left"


# --- deadlines, texts, age


def test_grpc_timeout_is_honoured(broker):
    """By a client without a clock of its own: the broker answers a held call when its time is over."""
    b = broker(config={"grpc_long_poll_ms": 60000})
    for timeout, least_s in ((b"1m", 0), (b"400m", 0.1), (b"1S", 0.5)):
        with socket.create_connection(("127.0.0.1", b.port), timeout=20) as connection:
            start = time.monotonic()
            connection.sendall(START + grpc_request(1, MESSAGE, extra=literal(b"grpc-timeout", timeout)))
            payload = next(f[3] for f in read_frames(connection) if f[0] == HEADERS and f[2] == 1)
        seen = Headers().decode(payload)
        # Nothing to do before the end of the time, or the end itself.
        assert seen["grpc-status"] in ("5", "1"), seen
        assert seen["grpc-message"] in ("No%20pending%20activations", "Timeout%20expired")
        assert least_s <= time.monotonic() - start < 15


def test_texts_are_percent_encoded(broker, grpc_client):
    """A newline, a percent sign and UTF-8 in grpc-message; our own client shows them decoded."""
    b = broker()
    client = grpc_client(b)
    topic = "größe 100 %\n"
    code, details = status_of(lambda: client.enqueue([activation()], topic=topic))
    assert code == "INVALID_ARGUMENT" and "%25" not in details
    with socket.create_connection(("127.0.0.1", b.port), timeout=10) as connection:
        connection.sendall(START + request(1, f"/{CONSUMER}/SetTaskStatus".encode(), b"\0\0\0\0\2\x10\x01"))
        payload = next(f[3] for f in read_frames(connection) if f[0] == HEADERS and f[2] == 1)
    seen = Headers().decode(payload)
    assert seen["grpc-status"] == "3" and " " not in seen["grpc-message"]  # trailers only
    sent = subprocess.run([program(), "send", "ns:task", "--rpc-host", b.address, "--topic", "no such"],
                          capture_output=True, text=True, timeout=30)
    assert sent.returncode == 1 and "topic is not one that" in sent.stderr and "%20" not in sent.stderr


@pytest.mark.parametrize("config", [{"grpc_max_connection_age_ms": 300}, {"grpc_max_connection_idle_ms": 100}])
def test_connections_that_are_told_to_go_cost_no_call(broker, grpc_client, config):
    """grpcio moves to a new connection without a caller seeing an error; held calls finish."""
    b = broker(config={**config, "grpc_long_poll_ms": 150})
    client = grpc_client(b)
    went = []
    client.channel.subscribe(lambda state: went.append(state) if state == grpc.ChannelConnectivity.IDLE else None)

    def work():
        id = client.enqueue([activation()], timeout_s=20).ids[0]
        assert client.get_task(timeout_s=20).id == id
        assert client.get_task(timeout_s=20) is None  # held for a while
        client.set_status(id, COMPLETE, timeout_s=20)
        if "grpc_max_connection_idle_ms" in config:
            before = len(went)
            wait_for(lambda: len(went) > before, "the idle connection to end", 20)
        return len(went) >= 3

    wait_for(work, lambda: f"three new connections, not {len(went)}", 60)
    assert b.statuses() == {}


def test_our_worker_lives_with_the_age_of_connections(broker, tmp_path):
    """It may meet UNAVAILABLE between two connections; every task still runs and is reported."""
    b = broker(config={"grpc_max_connection_age_ms": 300, "grpc_long_poll_ms": 150})
    commands = {"application": "app", "namespaces": {"ns": {"tasks": {
        "ns.note": {"command": ["sh", "-c", f"echo x >> {tmp_path}/ran"]}}}}}
    worker = Worker(tmp_path / "worker", [b.address], commands)
    sent, end = 0, time.monotonic() + 2  # several ages
    with b.client() as client:
        while time.monotonic() < end:
            client.enqueue([activation("ns.note") for _ in range(10)], timeout_s=20)
            sent += 10
            wait_for(lambda: b.statuses() == {}, "all reports", 60)
    assert (tmp_path / "ran").read_text().count("x") == sent
    print(sent, worker.log())
    worker.stop()


def test_connections_live_for_ever_by_default(broker):
    b = broker()
    with socket.create_connection(("127.0.0.1", b.port), timeout=0.5) as connection:
        connection.sendall(START)
        with pytest.raises(TimeoutError):
            for kind, *_ in read_frames(connection):
                assert kind != GOAWAY


# --- strangers


def grpc_headers(**fields):
    return headers(GET_TASK.encode(), **fields)


def grpc_request(stream, body, path=GET_TASK.encode(), **fields):
    return request(stream, path, body, **fields)


# Asks for an application that nobody uses: strangers must not get the honest client's tasks.
MESSAGE = b"\0\0\0\0\x0a\x12\x08stranger"

BAD_BYTES = {
    "nothing": b"",
    "http 1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + os.urandom(200),
    "random": os.urandom(4000),
    "half a preface": PREFACE[:10],
    "random after the preface": PREFACE + os.urandom(4000),
    "frame too large": START + b"\xff\xff\xff" + bytes([DATA, 0, 0, 0, 0, 1]) + b"x" * 20000,
    "data on no stream": START + frame(DATA, 0, 1, b"x"),
    "data on stream 0": START + frame(DATA, 0, 0, b"x"),
    "stream goes down": START + grpc_request(3, MESSAGE) + grpc_request(1, MESSAGE),
    "even stream": START + grpc_request(2, MESSAGE),
    "broken hpack": START + frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff"),
    "continuation for ever": START + frame(HEADERS, 0, 1, grpc_headers()) + frame(CONTINUATION, 0, 1) * 2000,
    "many settings": START + frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 1)) * 3000,
    "many pings": START + frame(PING, 0, 0, b"x" * 8) * 3000,
    "empty data for ever": START + frame(HEADERS, END_HEADERS, 1, grpc_headers()) + frame(DATA, 0, 1) * 20000,
    "rapid reset": START + b"".join(
        frame(HEADERS, END_HEADERS, i, grpc_headers()) + frame(RST_STREAM, 0, i, b"\0\0\0\x08")
        for i in range(1, 6001, 2)),
    "window overflow": START + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0x7FFFFFFF)) * 2,
    "no body": START + frame(HEADERS, END_HEADERS | END_STREAM, 1, grpc_headers()),
    "body of 3 bytes": START + grpc_request(1, b"\0\0\0"),
    "message cut short": START + grpc_request(1, b"\0\0\0\0\x10abc"),
    "length of 4 GiB": START + grpc_request(1, b"\0\xff\xff\xff\xff" + b"abc"),
    "two messages": START + grpc_request(1, MESSAGE + MESSAGE),
    "flag that is no flag": START + grpc_request(1, b"\x07\0\0\0\0"),
    "compressed without encoding": START + grpc_request(1, b"\1\0\0\0\3abc"),
    "not grpc": START + grpc_request(1, MESSAGE, content_type=b"text/plain"),
    "get": START + grpc_request(1, MESSAGE, method=b"GET"),
    "bad timeout": START + grpc_request(1, MESSAGE, extra=literal(b"grpc-timeout", b"soon")),
    "negative timeout": START + grpc_request(1, MESSAGE, extra=literal(b"grpc-timeout", b"-5S")),
    "huge timeout": START + grpc_request(1, MESSAGE, extra=literal(b"grpc-timeout", b"99999999H")),
    "many headers": START + frame(HEADERS, END_HEADERS, 1, grpc_headers(
        extra=b"".join(literal(b"x%d" % i, b"y" * 30) for i in range(400)))),
    "upper case header": START + grpc_request(1, MESSAGE, extra=literal(b"UPPER", b"x")),
    "line feed in header": START + grpc_request(1, MESSAGE, extra=literal(b"x", b"a\r\nb: c")),
    "path without slash": START + grpc_request(1, MESSAGE, path=b"GetTask"),
}


@pytest.fixture(scope="module")
def shared_broker(tmp_path_factory):
    b = Broker(tmp_path_factory.mktemp("strangers") / "b", {"embedded": True, "grpc_long_poll_ms": 200})
    b.start()
    yield b
    b.stop()


class Honest:
    """A client on one connection that works all the time: enqueue, claim, complete."""

    def __init__(self, address):
        self.done = 0
        self.error = None
        self._address = address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            with Client(self._address) as client:
                while not self._stop.is_set():
                    id = client.enqueue([activation()]).ids[0]
                    assert client.get_task(timeout_s=5).id == id
                    client.set_status(id, COMPLETE)
                    self.done += 1
        except Exception as error:
            self.error = error

    def check(self):
        """It goes on, and nothing has failed."""
        before = self.done
        wait_for(lambda: self.done >= before + 5 or self.error, "the honest client", 10)
        assert self.error is None

    def stop(self):
        self._stop.set()
        self._thread.join(10)


@pytest.fixture(scope="module")
def honest(shared_broker):
    it = Honest(shared_broker.address)
    yield it
    it.stop()


@pytest.mark.parametrize("what", BAD_BYTES)
def test_bad_bytes_hurt_nobody_else(shared_broker, honest, what):
    with socket.create_connection(("127.0.0.1", shared_broker.port), timeout=3) as stranger:
        try:
            stranger.sendall(BAD_BYTES[what])
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(65536):
                pass
        except OSError:  # hung up on, which is fine
            pass
    honest.check()
    assert shared_broker.running


def test_random_mutations_of_a_good_connection(shared_broker, honest):
    rng = random.Random(7)
    good = START + grpc_request(1, MESSAGE) + grpc_request(3, MESSAGE) + frame(PING, 0, 0, b"12345678")
    # The messages stay: without its filter a GetTask would take the honest client's task.
    places = [i for i in range(len(PREFACE), len(good)) if MESSAGE not in good[i - 14:i + 15]]
    for _ in range(300):
        bad = bytearray(good)
        for place in rng.sample(places, rng.randrange(1, 6)):
            bad[place] = rng.randrange(256)
        with socket.create_connection(("127.0.0.1", shared_broker.port), timeout=3) as stranger:
            stranger.sendall(bad[:rng.randrange(len(bad) + 1)])
    honest.check()
    assert shared_broker.running


def test_ping_is_answered(shared_broker):
    with socket.create_connection(("127.0.0.1", shared_broker.port), timeout=5) as connection:
        connection.sendall(START + frame(PING, 0, 0, b"12345678"))
        assert any(f[0] == PING and f[1] == ACK and f[3] == b"12345678" for f in read_frames(connection)
                   if f[0] == PING)


def test_goaway_at_shutdown_and_held_calls_answered(broker):
    b = broker(config={"grpc_long_poll_ms": 60000})
    with socket.create_connection(("127.0.0.1", b.port), timeout=5) as connection:
        connection.sendall(START + grpc_request(1, MESSAGE))
        frames = read_frames(connection)
        assert next(f for f in frames if f[0] == SETTINGS)
        wait_for(lambda: b.status()["held_claims"] == 1, "the call to be held")
        start = time.monotonic()
        b.signal(signal.SIGTERM)
        seen = list(frames)
        assert time.monotonic() - start < 2
    assert any(f[0] == GOAWAY and f[3][4:8] == b"\0\0\0\0" for f in seen), "GOAWAY without error"
    assert any(f[0] == HEADERS and f[2] == 1 and f[1] & END_STREAM for f in seen), "an answer"
    assert b.wait() == 0


def test_settings_of_the_original(shared_broker):
    with socket.create_connection(("127.0.0.1", shared_broker.port), timeout=5) as connection:
        connection.sendall(START)
        payload = next(f[3] for f in read_frames(connection) if f[0] == SETTINGS and not f[1])
    settings = dict(struct.unpack(">HI", payload[i:i + 6]) for i in range(0, len(payload), 6))
    assert settings.get(4, 65535) >= 65535 and settings.get(5, 16384) == 16384


# --- load


def test_h2load_smoke(broker, tmp_path):
    if shutil.which("h2load") is None:
        pytest.skip("h2load is not installed (package nghttp2-client)")
    b = broker(config={"grpc_long_poll_ms": 0})
    body = tmp_path / "body"
    body.write_bytes(MESSAGE)
    done = subprocess.run(
        ["h2load", "-n", "20000", "-c", "20", "-m", "10", "-d", body, "-H", "content-type: application/grpc",
         "-H", "te: trailers", f"http://{b.address}{GET_TASK}"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert re.search(r"20000 succeeded, 0 failed, 0 errored", done.stdout), done.stdout
    assert re.search(r"20000 2xx", done.stdout), done.stdout
    with b.client() as client:
        assert client.health() == "SERVING"
