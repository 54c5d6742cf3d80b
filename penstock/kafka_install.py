"""Apache Kafka's jars, resolved by Maven into a cache outside the checkout, and what keeps them from running here."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from penstock.child import tail

POM: Final = Path(__file__).parent.parent / "deploy" / "kafka" / "pom.xml"
CACHE: Final = Path("~/.cache/penstock")
OLDEST_JAVA: Final = 17  # that the broker of Kafka 4 runs on


class BrokerError(RuntimeError):
    """A broker that could not be started, or does not answer."""


def kafka_version() -> str:
    """The version of Apache Kafka that `deploy/kafka/pom.xml` names."""
    found = re.search(r"<kafka\.version>([^<]+)</kafka\.version>", POM.read_text())
    if found is None:
        raise BrokerError(f"{POM} names no kafka.version")
    return found[1]


def kafka_jars(cache_folder: Path = CACHE) -> Path:
    """The folder of Kafka's jars under `cache_folder`, resolved by Maven at the first call.

    It appears whole or not at all, so that two processes may ask at once. Raises `BrokerError`.
    """
    folder = _jars_folder(cache_folder)
    if folder.is_dir():
        return folder
    if shutil.which("mvn") is None:
        raise BrokerError("Apache Kafka's jars come by Maven, and mvn is not on the PATH")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="kafka-") as scratch:
        jars = Path(scratch) / "jars"
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
        log = folder.parent / "maven.log"
        with log.open("wb") as out:
            done = subprocess.run(["mvn", "-q", "-B", "-f", str(POM), *goal], stdout=out, stderr=out, check=False)
        if done.returncode or not any(jars.glob("kafka-server-*.jar")):
            raise BrokerError(f"Maven could not resolve {POM.name} of Apache Kafka; its log is {log}: {tail(log)}")
        try:
            jars.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    return folder


def missing_for_kafka(cache_folder: Path = CACHE) -> str | None:
    """What keeps Apache Kafka from running here, in a line; None where nothing does."""
    if problem := missing_java():
        return problem
    if not _jars_folder(cache_folder).is_dir() and shutil.which("mvn") is None:
        return "Apache Kafka's jars come by Maven, and mvn is not on the PATH"
    return None


@cache
def missing_java() -> str | None:
    """What is wrong with this machine's Java, in a line; None where nothing is."""
    if shutil.which("java") is None:
        return "Apache Kafka needs Java, and java is not on the PATH"
    done = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', done.stderr + done.stdout)
    if done.returncode or found is None:
        return f"Apache Kafka needs Java, and `java -version` ends with status {done.returncode}"
    if int(found[1]) < OLDEST_JAVA:
        return f"Apache Kafka needs Java {OLDEST_JAVA} or newer, and java is {found[1]}"
    return None


def _jars_folder(cache_folder: Path) -> Path:
    return cache_folder.expanduser() / f"kafka-{kafka_version()}"
