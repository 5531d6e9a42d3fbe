"""Files in broken forms."""

import random

from . import Cases


def mutations(data: bytes, chance: random.Random) -> Cases:
    """A file in ever other broken forms."""
    while True:
        at, size = chance.randrange(len(data)), chance.choice([1, 1, 1, 2, 8, 64])
        yield "truncated", data[: chance.randrange(len(data))]
        flipped = bytearray(data)
        for _ in range(size):
            flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        yield "bits flipped", bytes(flipped)
        yield "bits flipped in the head", bytes([data[0] ^ (1 << chance.randrange(8))]) + data[1:]
        tail = bytearray(data)
        tail[-chance.randrange(1, min(2000, len(data)))] ^= 1 << chance.randrange(8)
        yield "bits flipped in the tail", bytes(tail)
        yield "zeros within", data[:at] + bytes(min(4096, len(data) - at)) + data[at + 4096 :]
        yield "a piece missing", data[:at] + data[at + size * 16 :]
        yield "a piece twice", data[:at] + data[max(0, at - 512) : at] + data[at:]
        yield "noise", chance.randbytes(chance.choice([0, 10, 5000]))
        yield "something appended", data + chance.randbytes(size)
