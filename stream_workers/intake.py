"""Turns polled request records into work for the device: read, routed to a version, checked, or refused.

Nothing here costs time by the record where it can cost it by the poll: records that ask the same thing in the same form
stay together as arrays until they are answered.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Final

import numpy as np
from confluent_kafka import Message

from models.batching import BatchLimits
from models.catalog import Catalog, UnavailableModelError
from models.errors import InvalidInputError, UnknownModelError, shown
from models.loading import LoadedModel
from models.rollout import Rollout
from models.routing import Router, Variant
from schemas.batch_codec import decode_requests
from schemas.codec import Codec
from schemas.codes import Code
from schemas.records import Tensor
from schemas.tensors import Array, TensorError, from_tensor
from stream_workers.dead_letters import DeadLetters
from stream_workers.device import Device
from stream_workers.handover import Handover
from stream_workers.lanes import LaneKey
from stream_workers.ledger import Ledger
from stream_workers.messages import headers_of
from stream_workers.ops import extract, inject
from stream_workers.publish import Publisher
from stream_workers.work import Headers, Requests

log = logging.getLogger(__name__)

# What Spring's ReplyingKafkaTemplate sends (spring-kafka, KafkaHeaders).
REPLY_TOPIC: Final = "kafka_replyTopic"
REPLY_PARTITION: Final = "kafka_replyPartition"
CORRELATION_ID: Final = "kafka_correlationId"

# Users of a candidate are counted up to here: more of them make scores no surer.
MOST_USERS: Final = 5000

LimitsOf = Callable[[LoadedModel], BatchLimits]


@dataclass(frozen=True, slots=True)
class ReplyAddress:
    """Where a request's headers want its reply, and the headers the reply carries."""

    topic: str | None
    partition: int
    headers: Headers


def reply_address(headers: Headers) -> ReplyAddress | None:
    """What the headers say of the reply; None where they say nothing. `kafka_replyPartition` is 4 bytes, big-endian."""
    if not headers:
        return None
    given = dict(headers)
    topic = given.get(REPLY_TOPIC)
    own: Headers = [(CORRELATION_ID, given[CORRELATION_ID])] if CORRELATION_ID in given else []
    own += inject(extract(headers))
    if topic is None and not own:
        return None
    raw = given.get(REPLY_PARTITION, b"")
    partition = max(-1, int.from_bytes(raw, "big", signed=True)) if len(raw) == 4 else -1
    return ReplyAddress(None if topic is None else topic.decode("utf-8", "replace"), partition, own)


class RequestIntake:
    """Takes the messages of a poll of request topics."""

    def __init__(
        self,
        codec: Codec,
        ledger: Ledger,
        publisher: Publisher,
        dead_letters: DeadLetters,
        handover: Handover,
        catalog: Catalog,
        device: Device,
        *,
        limits_of: LimitsOf,
        now_us: Callable[[], int],
        max_request_bytes: int,
        fallback_of: Callable[[str, str], tuple[str, str] | None] = lambda _model, _version: None,
    ) -> None:
        """`limits_of`: the batch limits of a model. `fallback_of`: what a version that cannot be loaded declared.

        `shadow`, to be set: takes requests that a rollout's candidate is to score as well, after they went their way.
        """
        self._codec = codec
        self._ledger = ledger
        self._publisher = publisher
        self._dead_letters = dead_letters
        self._handover = handover
        self._catalog = catalog
        self._device = device
        self._limits_of = limits_of
        self._now_us = now_us
        self._max_bytes = max_request_bytes
        self._fallback_of = fallback_of
        self.router = Router(())
        self._rollouts: Mapping[str, Rollout] = {}
        self._met: dict[str, set[bytes]] = {}
        self.shadow: Callable[[Requests, str], None] = lambda _requests, _candidate: None
        self._parked: dict[tuple[str, str], list[Callable[[], None]]] = {}
        self._lock = threading.Lock()

    def take(self, messages: Sequence[Message]) -> None:
        """All messages of a poll of one topic; each ends with one fate, now or when its batch is done."""
        topic = messages[0].topic() or ""
        received_at, received = self._now_us(), monotonic()
        partitions = [*map(Message.partition, messages)]
        offsets = [*map(Message.offset, messages)]
        values = [*map(Message.value, messages)]
        sizes = [*map(len, messages)]
        # Messages of a partition come in order, so the last one of each stays.
        ends = {
            (topic, number or 0): (last or 0) + 1
            for number, last in dict(zip(partitions, offsets, strict=True)).items()
        }
        epoch = self._ledger.admit(ends, len(messages), sum(sizes))
        groups, errors = decode_requests(self._codec, values)
        spoken = any(map(Message.headers, messages))
        addresses = [reply_address(headers_of(message)) for message in messages] if spoken else [None] * len(messages)
        unusual = spoken or max(sizes) > self._max_bytes
        all_partitions, all_offsets = np.array(partitions, np.int64), np.array(offsets, np.int64)
        for position, error in errors.items():
            address = addresses[position]
            if address is not None and address.topic is not None:
                self._publisher.malformed(
                    epoch, b"", address.topic, address.partition, address.headers, str(error)
                )  # fmt: skip
            self._dead_letters.put(epoch, messages[position], error)
        for group in groups:
            places = group.index.tolist()
            stay: list[int] | None = None
            if elsewhere := self._handover.topic_of(group.model):
                stay = self._handover.hand_on(epoch, elsewhere, [messages[i] for i in places])
                if not stay:
                    continue
            requests = Requests(
                epoch=epoch,
                topic=topic,
                model=group.model,
                version=group.version,
                experiment=group.experiment,
                variant="",
                reply_topic=group.reply_topic,
                ids=group.request_ids,
                users=group.user_ids,
                keys=[messages[i].key() for i in places] if (group.reply_partitions < 0).any() else (),
                partitions=all_partitions[group.index],
                offsets=all_offsets[group.index],
                sent_at=group.sent_at,
                deadlines=group.deadlines,
                reply_partitions=group.reply_partitions,
                received_at=np.full(len(places), received_at, np.int64),
                taken=np.full(len(places), received),
                tensors=group.tensors,
                features=group.features,
            )
            if stay is not None and len(stay) < len(places):
                requests, places = requests.pick(np.array(stay, np.int64)), [places[i] for i in stay]
            if unusual:
                self._take_apart(requests, [addresses[i] for i in places], [sizes[i] for i in places])
            else:
                self._route(requests)

    def _take_apart(self, requests: Requests, addresses: Sequence[ReplyAddress | None], sizes: Sequence[int]) -> None:
        """The same for a group some of whose requests are too large, or have reply headers."""
        alike: dict[tuple[str, bool, bool], list[int]] = {}
        for place, (address, size) in enumerate(zip(addresses, sizes, strict=True)):
            topic = requests.reply_topic if address is None or address.topic is None else address.topic
            alike.setdefault((topic, address is not None, size > self._max_bytes), []).append(place)
        for (topic, spoken, too_large), places in alike.items():
            where = np.array(places, np.int64)
            chosen = requests.pick(where)
            chosen.reply_topic = topic
            if spoken:
                own = [address for i in places if (address := addresses[i]) is not None]
                chosen.headers = [address.headers for address in own]
                chosen.reply_partitions = np.array(
                    [
                        given if address.topic is None else address.partition
                        for address, given in zip(own, chosen.reply_partitions.tolist(), strict=True)
                    ],
                    np.int64,
                )
            if too_large:
                texts = [f"the request has {sizes[i]} bytes, at most {self._max_bytes} are taken" for i in places]
                self._publisher.refuse(chosen.to("", chosen.experiment, ""), Code.TOO_LARGE, texts)
                continue
            self._route(chosen)

    def _route(self, requests: Requests) -> None:
        alive = self._publisher.expired(requests)
        if alive is None:
            return
        try:
            default = self._catalog.resolve(alive.model, alive.version)
        except UnknownModelError as error:
            self._publisher.failed(alive.to("", alive.experiment, ""), Code.UNKNOWN_MODEL, str(error))
            return
        for variant, where in self._variants(alive):
            chosen = alive if where is None else alive.pick(where)
            if variant is None and chosen.version:
                self._place(chosen.to(default, "", ""))
            elif variant is None:
                self._roll(chosen, default)
            else:
                self._place(chosen.to(variant.version, chosen.experiment, variant.name))

    def obey(self, rollouts: Mapping[str, Rollout]) -> None:
        """By these rollouts from now on. What waited for a candidate is routed anew: its rollout may be over."""
        for name, one in rollouts.items():
            known = self._rollouts.get(name)
            if known is None or (known.salt, known.step) != (one.salt, one.step):
                self._met[name] = set()
        self._rollouts = dict(rollouts)
        with self._lock:
            waiting = [resume for held in self._parked.values() for resume in held]
            self._parked.clear()
        for resume in waiting:
            resume()

    def users_met(self, model: str) -> int:
        """How many users the candidate of a model had in this step here, up to `MOST_USERS`."""
        return len(self._met.get(model, ()))

    def _meet(self, requests: Requests) -> None:
        met = self._met[requests.model]
        if len(met) < MOST_USERS:
            met.update(requests.users)

    def _roll(self, requests: Requests, default: str) -> None:
        """Requests that name no version and met no variant: to the candidate of a rollout, or to the default."""
        rollout = self._rollouts.get(requests.model)
        if rollout is None or not rollout.buckets:
            self._place(requests.to(default, requests.experiment, ""))
            if rollout is not None and rollout.is_shadowing:
                self.shadow(requests, rollout.candidate)
            return
        meets = np.array(rollout.meets_many([user.decode() for user in requests.users]), bool)
        for inside, version in ((True, rollout.candidate), (False, default)):
            where = np.flatnonzero(meets == inside)
            if len(where):
                chosen = requests if len(where) == requests.count else requests.pick(where)
                # The version that others moved this user off must not answer him here, so he waits, and is routed anew.
                again = partial(self._route, chosen) if inside else None
                if inside:
                    self._meet(chosen)
                self._place(chosen.to(version, requests.experiment, ""), again)

    def _variants(self, requests: Requests) -> list[tuple[Variant | None, Array | None]]:
        """The variants of the requests and where they are; None for all of them."""
        experiment = self.router.experiments.get(requests.experiment)
        if requests.version or experiment is None or experiment.model != requests.model:
            return [(None, None)]
        names = [user.decode() for user in requests.users]
        found: dict[Variant | None, list[int]] = {}
        # Nobody's requests belong to no variant: an empty user would put them all into one.
        for place, (variant, user) in enumerate(
            zip(self.router.assign_many(requests.experiment, names), names, strict=True)
        ):
            found.setdefault(variant if user else None, []).append(place)
        return [(variant, np.array(places, np.int64)) for variant, places in found.items()]

    def _place(self, requests: Requests, again: Callable[[], None] | None = None) -> None:
        """Into the lane of its version, or, while that is being loaded, aside.

        `again`: what is to be done once it is ready; given for a rollout's candidate. Where that cannot serve here,
        this worker leaves its group or the rollout ends, so nobody is answered that it cannot.
        """
        key = (requests.model, requests.version)
        try:
            model = self._catalog.ready(*key)
        except UnavailableModelError as error:
            if again is not None:
                with self._lock:
                    self._parked.setdefault(key, []).append(again)
                return
            fallback = self._fallback_of(*key)
            try:
                model = None if fallback is None else self._catalog.ready(*fallback)
            except (UnavailableModelError, UnknownModelError):
                fallback = None
            if fallback is None:
                self._publisher.unavailable(requests, str(error))
                return
            key = fallback
        except UnknownModelError as error:
            self._publisher.failed(requests, Code.UNKNOWN_MODEL, str(error))
            return
        if model is None:
            with self._lock:
                self._parked.setdefault(key, []).append(again or (lambda: self._place(requests)))
            # It may have become ready before this was parked, and then nobody else comes to look.
            self.release_if_done(*key)
            return
        checked = self._checked(model, requests)
        if checked is not None:
            # Outside a variant any experiment's name will do, also a made-up one: it is not worth a lane.
            experiment = checked.experiment if checked.variant else ""
            lane = LaneKey(checked.model, checked.version, experiment, checked.variant)
            self._device.submit(lane, model, checked, self._publisher, lambda: self._limits_of(model))
            if not self._catalog.is_ready(checked.model, checked.version):
                # It was evicted meanwhile: its lane must not keep it longer than this work takes.
                self._device.forget(checked.model, checked.version)

    def release(self, model: str, version: str) -> None:
        """A version became ready or failed: what waited for it goes on."""
        with self._lock:
            waiting = self._parked.pop((model, version), [])
        for resume in waiting:
            resume()

    def release_if_done(self, model: str, version: str) -> None:
        """`release`, where the load is already over."""
        try:
            done = self._catalog.ready(model, version) is not None
        except (UnavailableModelError, UnknownModelError):
            done = True
        if done:
            self.release(model, version)

    def _checked(self, model: LoadedModel, requests: Requests) -> Requests | None:
        """The requests that fit the signature, with inputs; the others are refused, each for its own reason."""
        signature = model.signature
        if requests.features and not requests.tensors:
            try:
                assembled = signature.assemble(requests.features)
            except InvalidInputError as error:  # the model names no features
                self._invalid(requests, str(error))
                return None
            if not assembled.errors:
                return requests.filled(assembled.inputs, 1)
            wrong = np.array(sorted(assembled.errors), np.int64)
            self._publisher.refuse(
                requests.pick(wrong), Code.INVALID_ARGUMENT, [assembled.errors[i] for i in wrong.tolist()]
            )
            return requests.pick(assembled.good).filled(assembled.inputs, 1) if len(assembled.good) else None
        if requests.features:
            self._invalid(requests, "a request gives inputs or features, not both")
            return None
        try:
            arrays, rows_each = stacked(requests.tensors, requests.count)
            signature.check_arrays(arrays)
        except (TensorError, InvalidInputError) as error:
            # The joined arrays have other shapes than the sender's: the message comes from one request's own tensors.
            self._invalid(requests, _own_error(model, requests, 0) or str(error))
            return None
        filled = requests.filled(arrays, rows_each)
        broken = signature.nan_rows(arrays)
        if not broken.any():
            return filled
        culprits = broken.reshape(requests.count, rows_each).any(axis=1)
        where = np.flatnonzero(culprits)
        texts = [_own_error(model, requests, i) or "NaN in inputs" for i in where.tolist()]
        self._publisher.refuse(requests.pick(where), Code.INVALID_ARGUMENT, texts)
        return None if culprits.all() else filled.pick(np.flatnonzero(~culprits))

    def _invalid(self, requests: Requests, message: str) -> None:
        self._publisher.failed(requests, Code.INVALID_ARGUMENT, message)


def stacked(tensors: Sequence[Tensor], count: int) -> tuple[dict[str, Array], int]:
    """The joined tensors of `count` requests as arrays [count * rows, ...], and the rows of each request."""
    if not tensors:
        raise TensorError("no inputs and no features; give one of them")
    arrays: dict[str, Array] = {}
    rows = {tensor.shape[0] if tensor.shape else 0 for tensor in tensors}
    if len(rows) != 1:
        raise TensorError("the inputs differ in their first axis, the number of rows")
    each = rows.pop()
    if each < 1:
        raise TensorError("zero rows; a request has at least one")
    # Rows without a byte cost their sender nothing, and here an entry each in every array.
    if each * count > max(count, sum(len(tensor.data) for tensor in tensors)):
        raise TensorError(f"{each} rows without data; an inner axis of 0 leaves nothing to score")
    for tensor in tensors:
        if tensor.name in arrays:
            raise TensorError(f"input {shown(tensor.name)} is given twice")
        shape = (each * count, *tensor.shape[1:])
        arrays[tensor.name] = from_tensor(replace(tensor, shape=shape))
    return arrays, each


def _own_error(model: LoadedModel, requests: Requests, place: int) -> str | None:
    """What is wrong with one of the requests, in terms of its own shapes."""
    try:
        model.signature.check(requests.tensors_of(place))
    except (InvalidInputError, TensorError) as error:
        return str(error)
    except ValueError:  # numpy's: a shape that no array has
        return None
    return None


__all__ = ["CORRELATION_ID", "REPLY_PARTITION", "REPLY_TOPIC", "RequestIntake", "reply_address"]
