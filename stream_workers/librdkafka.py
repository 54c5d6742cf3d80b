"""Produces batches through librdkafka's own C interface: a call a batch, and no Python object a message.

confluent-kafka brings the library and takes a dict a message, which was a fifth of a worker's interpreter time. What is
used here is public and stable: `rd_kafka_message_t` and `rd_kafka_produce_batch` of rdkafka.h (librdkafka 0.9 and
later). ctypes lets go of the interpreter lock for each call.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int32, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, Final

import confluent_kafka
import numpy as np
import numpy.typing as npt

from schemas.byte_columns import BytesColumn

log = logging.getLogger("librdkafka")

_PRODUCER: Final = 0
_CONF_OK: Final = 0
_COPY: Final = 0x2
_OWN_PARTITION: Final = 0x8
_QUEUE_FULL: Final = -184
_TEXT_BYTES: Final = 512
_FULL_WAIT_MS: Final = 50
# Each name a topic handle: senders may make names up without end.
_MOST_TOPICS: Final = 1000
# syslog's levels (librdkafka) as logging's.
_LEVELS: Final = (logging.CRITICAL,) * 3 + (logging.ERROR, logging.WARNING, logging.INFO, logging.INFO, logging.DEBUG)


class _Message(ctypes.Structure):
    _fields_ = (
        ("err", c_int),
        ("topic", c_void_p),
        ("partition", c_int32),
        ("payload", c_void_p),
        ("len", c_size_t),
        ("key", c_void_p),
        ("key_len", c_size_t),
        ("offset", c_int64),
        ("private", c_void_p),
    )


_MESSAGES: Final = np.dtype(_Message)
_Delivered = CFUNCTYPE(None, c_void_p, POINTER(_Message), c_void_p)
_Logged = CFUNCTYPE(None, c_void_p, c_int, c_char_p, c_char_p)
_SIGNATURES: Final[Mapping[str, tuple[Any, tuple[Any, ...]]]] = {
    "rd_kafka_version": (c_int, ()),
    "rd_kafka_conf_new": (c_void_p, ()),
    "rd_kafka_conf_destroy": (None, (c_void_p,)),
    "rd_kafka_conf_set": (c_int, (c_void_p, c_char_p, c_char_p, c_char_p, c_size_t)),
    "rd_kafka_conf_set_dr_msg_cb": (None, (c_void_p, _Delivered)),
    "rd_kafka_conf_set_log_cb": (None, (c_void_p, _Logged)),
    "rd_kafka_new": (c_void_p, (c_int, c_void_p, c_char_p, c_size_t)),
    "rd_kafka_set_log_queue": (c_int, (c_void_p, c_void_p)),
    "rd_kafka_destroy": (None, (c_void_p,)),
    "rd_kafka_topic_new": (c_void_p, (c_void_p, c_char_p, c_void_p)),
    "rd_kafka_topic_destroy": (None, (c_void_p,)),
    "rd_kafka_topic_name": (c_char_p, (c_void_p,)),
    "rd_kafka_produce_batch": (c_int, (c_void_p, c_int32, c_int, c_void_p, c_int)),
    "rd_kafka_poll": (c_int, (c_void_p, c_int)),
    "rd_kafka_flush": (c_int, (c_void_p, c_int)),
    "rd_kafka_outq_len": (c_int, (c_void_p,)),
    "rd_kafka_err2name": (c_char_p, (c_int,)),
}

OnFailure = Callable[[str, str], None]


class NativeProducerError(RuntimeError):
    """A producer that librdkafka refused to make, in one line."""


@cache
def library() -> Any | None:
    """The librdkafka that confluent-kafka itself runs on; None where it is not to be had as a file of its own."""
    package = Path(confluent_kafka.__file__).parent
    # Where the wheels put it: auditwheel's folder on Linux, delocate's on macOS.
    found = [*package.parent.glob("confluent_kafka.libs/librdkafka*"), *package.glob(".dylibs/librdkafka*")]
    for path in found:
        try:
            loaded = ctypes.CDLL(str(path))
            for name, (result, arguments) in _SIGNATURES.items():
                function = getattr(loaded, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError):
            continue
        if loaded.rd_kafka_version() == confluent_kafka.libversion()[1]:
            return loaded
    return None


class NativeProducer:
    """A producer of many values at once. `flush` and `produce` serve its callbacks in the caller's thread.

    `config`: librdkafka's properties, as text, numbers or truth values. `on_failure`: told, for each message that was
    not delivered, the error's name and the topic. Raises `NativeProducerError`.
    """

    def __init__(self, rdkafka: Any, config: Mapping[str, Any], on_failure: OnFailure) -> None:
        self._rdkafka = rdkafka
        self._on_failure = on_failure
        # librdkafka keeps the addresses of these: they must live as long as the producer.
        self._delivered = _Delivered(self._report)
        self._logged = _Logged(_say)
        self._topics: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._handle = self._make({**config, "log.queue": True})
        rdkafka.rd_kafka_set_log_queue(self._handle, None)

    def _make(self, config: Mapping[str, Any]) -> Any:
        lib, why = self._rdkafka, ctypes.create_string_buffer(_TEXT_BYTES)
        conf = lib.rd_kafka_conf_new()
        for name, value in config.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if lib.rd_kafka_conf_set(conf, name.encode(), text.encode(), why, _TEXT_BYTES) != _CONF_OK:
                lib.rd_kafka_conf_destroy(conf)
                raise NativeProducerError(f"kafka property {name}: {why.value.decode(errors='replace')}")
        lib.rd_kafka_conf_set_dr_msg_cb(conf, self._delivered)
        lib.rd_kafka_conf_set_log_cb(conf, self._logged)
        handle = lib.rd_kafka_new(_PRODUCER, conf, why, _TEXT_BYTES)
        if not handle:
            lib.rd_kafka_conf_destroy(conf)
            raise NativeProducerError(f"no producer could be made: {why.value.decode(errors='replace')}")
        return handle

    def produce(
        self,
        topic: str,
        values: BytesColumn,
        partitions: npt.NDArray[np.int64],
        keys: Sequence[bytes | None] = (),
    ) -> None:
        """Queue copies of n values, each for its partition [n]; below 0 the partitioner chooses, by the key if any.

        Waits for room where the queue is full. What is refused for good is told to `on_failure`.
        """
        lib = self._rdkafka
        messages = np.zeros(len(values), _MESSAGES)
        messages["payload"] = _addresses(values)
        messages["len"] = values.lengths()
        messages["partition"] = np.maximum(partitions, -1)
        if keys:
            # Held until the last call: a message has its key's address.
            own = BytesColumn.of(key or b"" for key in keys)
            messages["key"] = np.where([key is None for key in keys], 0, _addresses(own))
            messages["key_len"] = own.lengths()
        while len(messages):
            # A topic's handle may be given back by another thread, but not between these two.
            with self._lock:
                queued = lib.rd_kafka_produce_batch(
                    self._topic(topic), -1, _COPY | _OWN_PARTITION, messages.ctypes.data, len(messages)
                )
            lib.rd_kafka_poll(self._handle, 0)
            if queued == len(messages):
                return
            errors = messages["err"]
            for code in errors[(errors != 0) & (errors != _QUEUE_FULL)].tolist():
                self._on_failure(self._name(code), topic)
            messages = messages[errors == _QUEUE_FULL]
            if len(messages):
                lib.rd_kafka_poll(self._handle, _FULL_WAIT_MS)

    def flush(self, timeout: float) -> int:
        """Wait for all deliveries, `timeout` seconds at most; returns how many are still under way."""
        self._rdkafka.rd_kafka_flush(self._handle, int(timeout * 1000))
        return int(self._rdkafka.rd_kafka_outq_len(self._handle))

    def close(self) -> None:
        """Give everything back; what was not delivered is lost. Safe to call twice."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._forget_topics()
            self._rdkafka.rd_kafka_destroy(handle)

    def _topic(self, name: str) -> Any:
        found = self._topics.get(name)
        if found is None:
            if len(self._topics) >= _MOST_TOPICS:
                self._forget_topics()
            found = self._topics[name] = self._rdkafka.rd_kafka_topic_new(self._handle, name.encode(), None)
        return found

    def _forget_topics(self) -> None:
        for one in self._topics.values():
            self._rdkafka.rd_kafka_topic_destroy(one)
        self._topics.clear()

    def _report(self, _handle: Any, message: Any, _opaque: Any) -> None:
        found = message.contents
        if found.err:
            topic = self._rdkafka.rd_kafka_topic_name(found.topic)
            self._on_failure(self._name(found.err), topic.decode(errors="replace"))

    def _name(self, code: int) -> str:
        return str(self._rdkafka.rd_kafka_err2name(code).decode())


def _addresses(column: BytesColumn) -> npt.NDArray[np.int64]:
    """Where each string begins in memory; never 0, which would be no string at all."""
    return np.frombuffer(column.data or b"\0", np.uint8).ctypes.data + column.bounds[:-1]


def _say(_handle: Any, level: int, facility: bytes, text: bytes) -> None:
    log.log(_LEVELS[min(max(level, 0), 7)], "%s %s", facility.decode(), text.decode(errors="replace"))
