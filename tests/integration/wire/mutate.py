# SPDX-License-Identifier: Apache-2.0
"""Protobuf bytes that are nearly right: records made from a schema with every liberty and every fault
that the wire format knows, and byte mutations of what they add up to."""

VARINT, FIXED64, LEN, GROUP, END_GROUP, FIXED32 = range(6)

NUMBERS = [0, 1, 2, 3, 5, 6, 30, 127, 128, 300, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63 - 1,
           2**63, 2**64 - 1, 2**64 - 2**31, 1700000000]
TEXTS = ["", "a", "id-1", "sentry-trace", "compression-type", "zstd", "0123456789abcdef0123456789abcdef",
         "ü", "漢字", "\U0001f600", "\0", "a\0b", "\x7f", "\u0080", "\u07ff", "\u0800", "\ud7ff", "\ue000",
         "\uffff", "\U00010000", "\U0010ffff", "x" * 127, "x" * 128, "eight by" * 3 + "ß"]
BAD_TEXTS = [b"\x80", b"\xbf", b"\xc0\x80", b"\xc1\xbf", b"\xc2", b"\xe0\x80\x80", b"\xe0\x9f\xbf",
             b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xef\xbf", b"\xf0\x80\x80\x80", b"\xf0\x8f\xbf\xbf",
             b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xff", b"\xfe", b"seven by\xff", b"a\xe2\x82",
             b"\xe2\x28\xa1", b"\xf0\x9f\x98", b"\xc2\xc2"]
TEXT_BYTES = [t.encode() for t in TEXTS]


def varint(value, width=1):
    """At least `width` bytes."""
    out = bytearray()
    while value >= 0x80 or len(out) + 1 < width:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Generator:
    def __init__(self, rng):
        self.rng = rng

    def number(self):
        rng = self.rng
        return rng.choice(NUMBERS) if rng.random() < 0.8 else rng.getrandbits(rng.randrange(1, 65))

    def any_varint(self):
        """A value, perhaps spelled longer than needed; rarely with surplus bits or too long."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.85:
            return varint(self.number())
        if roll < 0.95:
            return varint(self.number() >> 1, rng.randrange(1, 11))
        if roll < 0.995:
            return bytes(0x80 | rng.getrandbits(7) for _ in range(9)) + bytes([rng.getrandbits(7)])
        return b"\x80" * rng.randrange(10, 12) + b"\x01"

    def tag(self, number, wire_type):
        rng = self.rng
        roll = rng.random()
        value = number << 3 | wire_type
        if roll < 0.96:
            return varint(value)
        if roll < 0.994:
            return varint(value, rng.randrange(2, 6))
        return rng.choice([varint(value, 6), varint(value | 1 << 32), varint(value | 1 << 34, 6)])

    def block(self, content):
        """Length and content; the length is rarely wrong."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.96:
            return varint(len(content)) + content
        if roll < 0.99:
            return varint(len(content), rng.randrange(2, 11)) + content
        lie = rng.choice([1, -1, 2, 2**31, 2**32, 2**63, rng.getrandbits(8)])
        return varint(max(0, len(content) + lie)) + content

    def text(self):
        rng = self.rng
        roll = rng.random()
        if roll < 0.9:
            return rng.choice(TEXT_BYTES)
        if roll < 0.98:
            return rng.choice(TEXT_BYTES) + rng.choice(TEXT_BYTES)
        return rng.choice(TEXT_BYTES) + rng.choice(BAD_TEXTS) + rng.choice(TEXT_BYTES)

    def value(self, wire_type, depth):
        rng = self.rng
        if wire_type == VARINT:
            return self.any_varint()
        if wire_type == FIXED64:
            return rng.randbytes(8)
        if wire_type == FIXED32:
            return rng.randbytes(4)
        return self.block(rng.choice([b"", b"\x08\x01", rng.randbytes(rng.randrange(9))]))

    def group(self, number, depth):
        rng = self.rng
        roll = rng.random()
        if roll < 0.2:  # around the depth limit
            levels = rng.randrange(96, 102)
            return self.tag(number, GROUP) * levels + varint(number << 3 | END_GROUP) * levels
        inner = b"".join(self.unknown(depth + 1) for _ in range(rng.randrange(3)))
        if roll < 0.25:
            inner += rng.choice([b"\x00\x00", b"\x02\x00", b"\x04", b"\x0e", b"\x0f", b"\x03\x04"])
        end = number if roll < 0.97 else number + 1
        return self.tag(number, GROUP) + inner + self.tag(end, END_GROUP)

    def unknown(self, depth):
        rng = self.rng
        number = rng.choice([1, 2, 7, 10, 14, 15, 16, 100, 2**29 - 1, rng.randrange(1, 2**29)])
        wire_type = rng.choice([VARINT, FIXED64, LEN, FIXED32, GROUP])
        if wire_type == GROUP:
            return self.group(number, depth) if depth < 4 else b""
        return self.tag(number, wire_type) + self.value(wire_type, depth)

    def field(self, field, depth):
        rng = self.rng
        if field.type == field.TYPE_MESSAGE:
            size = 2 if field.message_type.GetOptions().map_entry else rng.randrange(5)
            content = self.message(field.message_type, size, depth + 1)
        elif field.type == field.TYPE_STRING:
            content = self.text()
        elif field.type == field.TYPE_BYTES:
            content = rng.randbytes(rng.choice([0, 1, 5, 40, 130]))
        else:
            return self.tag(field.number, VARINT) + self.any_varint()
        return self.tag(field.number, LEN) + self.block(content)

    def record(self, descriptor, depth=0):
        rng = self.rng
        roll = rng.random()
        if roll < 0.9:
            return self.field(rng.choice(descriptor.fields), depth)
        if roll < 0.95:  # known number, perhaps of another type: then it is an unknown field
            wire_type = rng.choice([VARINT, FIXED64, LEN, FIXED32])
            return self.tag(rng.choice(descriptor.fields).number, wire_type) + self.value(wire_type, depth)
        if roll < 0.995:
            return self.unknown(depth)
        return rng.choice([b"\x00\x00", b"\x02\x00", b"\x07", b"\x0e\x00", b"\x0f", b"\x0c", b"\x3c"])

    def message(self, descriptor, size, depth=0):
        if descriptor.GetOptions().map_entry and self.rng.random() < 0.9:
            return b"".join(self.field(f, depth) for f in descriptor.fields)
        return b"".join([self.record(descriptor, depth) for _ in range(size)])

    def mutate(self, data, other):
        """One to three small changes; `other` is a source of foreign slices."""
        rng = self.rng
        data = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            at = int(rng.random() * (len(data) + 1))
            roll = rng.random()
            if roll < 0.3 and at < len(data):
                data[at] ^= 1 << int(rng.random() * 8)
            elif roll < 0.45 and at < len(data):
                data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x0B, 0x0C, 0xED, 0xC0))
            elif roll < 0.6:
                data[at:at] = rng.choice((b"\0", b"\x80", b"\xff", b"\x0b", b"\x78\x01"))
            elif roll < 0.75:
                del data[at:at + 1 + int(rng.random() * 4)]
            elif roll < 0.85:
                del data[at:]
            else:
                start = int(rng.random() * (len(other) + 1))
                data[at:at] = other[start:start + 1 + int(rng.random() * 24)]
        return bytes(data)
