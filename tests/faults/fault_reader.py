"""Reads a chDB folder that nobody has open: a program, since a process opens one chDB folder in its life."""

from __future__ import annotations

import json
import sys

from analytics.warehouse import Warehouse, WarehouseConfig

if __name__ == "__main__":
    with Warehouse.open(WarehouseConfig(path=sys.argv[1], database="pen")) as warehouse:
        print(json.dumps([warehouse.query(sql).rows for sql in json.loads(sys.stdin.read())], default=str))
