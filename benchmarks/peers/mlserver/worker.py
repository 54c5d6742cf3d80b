"""MLServer with its Kafka input and adaptive batching: writes its two settings files and starts it.

Settings after MLServer's "MLServer Settings", "Model Settings", "Adaptive Batching" and the example "Serving
Scikit-Learn models using Kafka Protocol": Kafka on, no parallel workers (a second process would only add a hop on
two cores), batches of up to 256 requests within 10 ms, logging of warnings only, since it otherwise logs every
message.

MLServer takes requests as Open Inference Protocol in JSON, with the model's name in a header, and answers in JSON:
it gets a topic with the same rows in that form. It reads uncommitted records from the end of the topic, is in no
group and commits nothing.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from pathlib import Path

BATCH = 256
WITHIN_SECONDS = 0.01


def write_settings(folder: Path, given: dict) -> None:
    """settings.json and model-settings.json."""
    server = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": free_port(),
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "metrics_dir": str(folder),
        "parallel_workers": 0,
        "kafka_enabled": True,
        "kafka_servers": given["bootstrap"],
        "kafka_topic_input": given["requests"],
        "kafka_topic_output": given["replies"],
        "logging_settings": {"version": 1, "root": {"level": "WARNING"}, "loggers": {"mlserver": {"level": "WARNING"}}},
    }
    model = {
        "name": given["model"],
        "implementation": "runtime.OnnxModel",
        "max_batch_size": BATCH,
        "max_batch_time": WITHIN_SECONDS,
        "parameters": {
            "uri": given["model_file"], "version": given["version"], "extra": {"threads": given["threads"]}
        },
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(model))


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Serve until killed."""
    from mlserver.cli import main as mlserver

    folder = Path.cwd() / "mlserver-settings"
    write_settings(folder, json.loads(os.environ["PEER_SETTINGS"]))
    logging.getLogger("mlserver").setLevel(logging.WARNING)
    sys.argv = ["mlserver", "start", str(folder)]
    mlserver()


if __name__ == "__main__":
    main()
