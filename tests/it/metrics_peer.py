"""Reads metrics as Python's `prometheus_client` does, and writes what it has understood.

Argument: `text` or `openmetrics`, the format of the standard input. For each family it writes a line: its name, type, unit or `-`, and
how many samples it has.
"""

import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as text

parse = {"text": text, "openmetrics": openmetrics}[sys.argv[1]]
for family in parse(sys.stdin.read()):
    assert family.documentation, f"{family.name} has no help"
    assert family.type != "unknown", f"{family.name} has no type"
    print(family.name, family.type, family.unit or "-", len(family.samples))
