"""librdkafka's security properties become aiokafka's, or a line that names the one that cannot."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import faust
import pytest

from stream_workers.monitor_faust import FaustConfig, MonitorConfigError, credentials, make_app

SASL = {"sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "u", "sasl.password": "secret"}


def test_each_protocol_has_its_credentials() -> None:
    assert credentials({}) is None
    assert credentials({"security.protocol": "plaintext"}) is None
    tls = credentials({"security.protocol": "ssl"})
    assert isinstance(tls, faust.SSLCredentials)
    assert tls.context.check_hostname
    assert tls.context.verify_mode is ssl.CERT_REQUIRED
    plain = credentials({"security.protocol": "SASL_PLAINTEXT", **SASL})
    assert (plain.protocol.value, plain.mechanism.value) == ("SASL_PLAINTEXT", "SCRAM-SHA-512")
    assert (plain.username, plain.password, plain.ssl_context) == ("u", "secret", None)
    both = credentials({"security.protocol": "SASL_SSL", **SASL, "ssl.endpoint.identification.algorithm": "none"})
    assert both.protocol.value == "SASL_SSL"
    assert not both.ssl_context.check_hostname
    assert both.ssl_context.verify_mode is ssl.CERT_REQUIRED
    blind = credentials({"security.protocol": "ssl", "enable.ssl.certificate.verification": "false"})
    assert blind.context.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"security.protocol": "carrier-pigeon"}, "security.protocol = 'CARRIER-PIGEON'"),
        ({"security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER"}, "sasl.mechanism = OAUTHBEARER"),
        ({"security.protocol": "SASL_PLAINTEXT"}, "sasl.mechanism = GSSAPI"),
        ({"security.protocol": "SSL", "ssl.keystore.location": "x"}, "ssl.keystore.location: the monitor cannot"),
        ({"security.protocol": "SSL", "ssl.ca.location": "/nowhere/ca.pem"}, "certificates cannot be used"),
    ],
)
def test_what_faust_cannot_be_given_is_one_line(properties: dict[str, Any], said: str) -> None:
    with pytest.raises(MonitorConfigError, match=said) as caught:
        credentials(properties)
    assert "\n" not in str(caught.value)


def test_the_app_reads_committed_records_of_every_broker_it_is_given(tmp_path: Path) -> None:
    properties = {"bootstrap.servers": "a:9093, [::1]:9092", "security.protocol": "SASL_PLAINTEXT", **SASL}
    app = make_app(FaustConfig("g", properties, 3, session_timeout=6.0))
    assert [(url.host, url.port) for url in app.conf.broker] == [("a", 9093), ("::1", 9092)]
    assert app.conf.broker_credentials.username == "u"
    assert not (tmp_path / str(app.conf.datadir)).is_relative_to(Path.cwd()), "a container's folder is read-only"
    assert (app.conf.topic_partitions, app.conf.web_enabled, str(app.conf.store)) == (3, False, "memory:")
