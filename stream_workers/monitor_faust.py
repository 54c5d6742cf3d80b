"""A Faust app as the monitor needs one: librdkafka's security properties in aiokafka's words."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import faust

from stream_workers.monitor_consumer import Transport
from stream_workers.monitor_recovery import Tables

ADDRESS: Final = "bootstrap.servers"
_VERIFY: Final = "enable.ssl.certificate.verification"
_HOST: Final = "ssl.endpoint.identification.algorithm"
# Properties of the client's security that aiokafka has no word for.
_UNKNOWN: Final = (
    "ssl.keystore.location",
    "ssl.engine.location",
    "ssl.certificate.pem",
    "ssl.key.pem",
    "ssl.crl.location",
)
_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
STORE: Final = "memory://"


class MonitorConfigError(ValueError):
    """Properties that Faust cannot be given, in one line."""


@dataclass(frozen=True, slots=True)
class FaustConfig:
    """What the app is made of. `properties`: librdkafka's of any client. `partitions`: those of the source topic."""

    group: str
    properties: Mapping[str, Any]
    partitions: int
    session_timeout: float = 10.0
    commit_interval: float = 0.5


def make_app(config: FaustConfig) -> faust.App:
    """The app, not started. Its tables live in memory and in their changelog topics; it serves no web page.

    Raises `MonitorConfigError`.
    """
    app = faust.App(
        config.group,
        broker=[f"kafka://{one.strip()}" for one in str(config.properties[ADDRESS]).split(",")],
        broker_credentials=credentials(config.properties),
        broker_session_timeout=config.session_timeout,
        broker_heartbeat_interval=max(config.session_timeout / 6, 0.3),
        broker_commit_interval=config.commit_interval,
        broker_client_id="penstock",
        consumer_auto_offset_reset="earliest",
        store=STORE,
        TableManager=Tables,
        # Faust makes this folder although nothing of ours is in it; its own choice is the current one.
        datadir=Path(tempfile.gettempdir()) / f"penstock-{os.getuid()}-faust",
        topic_partitions=config.partitions,
        topic_disable_leader=True,
        # Topics are created by Penstock, with the operator's own properties.
        topic_allow_declare=False,
        # A rebalance waits for the batch under way: another monitor must not begin before its alerts are out.
        stream_wait_empty=True,
        producer_acks=-1,
        key_serializer="raw",
        value_serializer="raw",
        web_enabled=False,
    )
    app.transport = Transport(app.conf.broker_consumer, app)
    return app


def credentials(properties: Mapping[str, Any]) -> Any:
    """Faust's credentials for librdkafka's properties, or None. Raises `MonitorConfigError` naming the property."""
    protocol = str(properties.get("security.protocol", "plaintext")).upper()
    if protocol == "PLAINTEXT":
        return None
    if protocol not in ("SSL", "SASL_PLAINTEXT", "SASL_SSL"):
        raise MonitorConfigError(f"security.protocol = {protocol!r}: the monitor knows no such protocol")
    context = _context(properties) if protocol.endswith("SSL") else None
    if protocol == "SSL":
        return faust.SSLCredentials(context)
    mechanism = str(properties.get("sasl.mechanism", properties.get("sasl.mechanisms", "GSSAPI"))).upper()
    if mechanism not in _MECHANISMS:
        raise MonitorConfigError(
            f"sasl.mechanism = {mechanism}: the monitor speaks {', '.join(_MECHANISMS)}, which its Kafka client "
            "(aiokafka) is given by Faust; give it a user of one of these (PENSTOCK_KAFKA__PROPERTIES__SASL_MECHANISM)"
        )
    return faust.SASLCredentials(
        username=str(properties.get("sasl.username", "")),
        password=str(properties.get("sasl.password", "")),
        mechanism=mechanism,
        ssl_context=context,
    )


def _context(properties: Mapping[str, Any]) -> ssl.SSLContext:
    for name in _UNKNOWN:
        if name in properties:
            raise MonitorConfigError(f"{name}: the monitor cannot use it; set ssl.certificate.location instead")
    try:
        context = ssl.create_default_context(
            cafile=properties.get("ssl.ca.location"), cadata=properties.get("ssl.ca.pem")
        )
        if "ssl.certificate.location" in properties:
            certificate, key = properties["ssl.certificate.location"], properties.get("ssl.key.location")
            context.load_cert_chain(certificate, key, properties.get("ssl.key.password"))
    except (OSError, ssl.SSLError) as error:
        raise MonitorConfigError(f"kafka.properties: its certificates cannot be used: {error}") from None
    if str(properties.get(_HOST, "https")).lower() == "none":
        context.check_hostname = False
    if str(properties.get(_VERIFY, "true")).lower() == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
