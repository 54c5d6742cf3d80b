"""Key and partition of a record: Kafka's own default, so that producers in any language agree.

Source: `org.apache.kafka.common.utils.Utils.murmur2` and the default partitioner, `toPositive(murmur2(key)) % n`.
"""

from __future__ import annotations

from typing import Final

SEPARATOR: Final = "|"
# librdkafka's name for "murmur2 of the key; no key: any partition".
PARTITIONER: Final = "murmur2_random"
_MASK: Final = 0xFFFFFFFF
_M: Final = 0x5BD1E995


def record_key(user_id: str, experiment: str = "") -> bytes:
    """The Kafka key of everything about a user in an experiment: UTF-8 of `user_id|experiment`."""
    return f"{user_id}{SEPARATOR}{experiment}".encode()


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit murmur2 (seed 0x9747b28c) as an unsigned integer."""
    length = len(data)
    h = (0x9747B28C ^ length) & _MASK
    whole = length & ~3
    for at in range(0, whole, 4):
        k = (int.from_bytes(data[at : at + 4], "little") * _M) & _MASK
        k ^= k >> 24
        h = ((h * _M) & _MASK) ^ ((k * _M) & _MASK)
    tail = data[whole:]
    if tail:
        h = ((h ^ int.from_bytes(tail, "little")) * _M) & _MASK
    h ^= h >> 13
    h = (h * _M) & _MASK
    return h ^ (h >> 15)


def partition_for(key: bytes, partitions: int) -> int:
    """The partition of a key on a topic of `partitions` partitions."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
