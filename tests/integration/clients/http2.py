# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 by hand, for tests that speak it badly or slowly."""

import struct

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    """A header field without indexing and without Huffman code."""
    assert len(name) < 127 and len(value) < 127
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def headers(path, content_type=b"application/grpc", method=b"POST", extra=b""):
    return (literal(b":method", method) + literal(b":scheme", b"http") + literal(b":path", path) +
            literal(b":authority", b"x") + literal(b"content-type", content_type) +
            literal(b"te", b"trailers") + extra)


def request(stream, path, body, **fields):
    return (frame(HEADERS, END_HEADERS, stream, headers(path, **fields)) +
            frame(DATA, END_STREAM, stream, body))


START = PREFACE + frame(SETTINGS, 0, 0)


class Headers:
    """What a connection's HEADERS frames say, decoded in their order."""

    def __init__(self):
        self._decoder = hpack.Decoder()

    def decode(self, payload):
        return dict(self._decoder.decode(payload))


def read_frames(connection):
    """(kind, flags, stream, payload) of each frame until the end."""
    data = b""
    while True:
        while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
            length = int.from_bytes(data[:3], "big")
            yield data[3], data[4], int.from_bytes(data[5:9], "big"), data[9:9 + length]
            data = data[9 + length:]
        more = connection.recv(65536)
        if not more:
            return
        data += more
