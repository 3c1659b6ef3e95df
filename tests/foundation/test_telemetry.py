"""The metrics as Prometheus itself reads them, counted by one process or by several."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gimle.foundation.telemetry import Cells, Counter, Gauge, Histogram, exposition


def _samples(registry: Cells) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by its name and labels, those of the processes left out."""
    families = text_string_to_metric_families(exposition(registry).decode())
    samples = [sample for family in families for sample in family.samples]
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for one in samples
        if not one.name.startswith("process_")
    }


def test_prometheus_reads_what_we_write() -> None:
    registry = Cells()
    Counter("calls", "Calls.", registry=registry).inc(3)
    Gauge("open", "Open now.", registry=registry).set(-1.5)
    times = Histogram("seconds", "How long.", ("route",), buckets=(0.1, 1), registry=registry)
    for value in (0.05, 0.1, 0.5, 7):
        times.labels("/v1").observe(value)
    route = ("route", "/v1")
    assert _samples(registry) == {
        ("calls_total", ()): 3,
        ("open", ()): -1.5,
        ("seconds_bucket", (("le", "0.1"), route)): 2,
        ("seconds_bucket", (("le", "1.0"), route)): 3,
        ("seconds_bucket", (("le", "+Inf"), route)): 4,
        ("seconds_count", (route,)): 4,
        ("seconds_sum", (route,)): pytest.approx(7.65),
    }


def test_prometheus_reads_the_processes_too() -> None:
    names = {family.name for family in text_string_to_metric_families(exposition(Cells()).decode())}
    assert {"process_cpu_seconds", "process_resident_memory_bytes", "process_open_fds"} <= names


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=20), st.sampled_from('\n\\"'))
def test_whatever_stands_in_a_label_comes_through(text: str, special: str) -> None:
    registry = Cells()
    Counter("odd", 'With "quotes", a \\ and a\nline.', ("name",), registry=registry).labels(text + special + text).inc()
    assert _samples(registry) == {("odd_total", (("name", text + special + text),)): 1}


def test_processes_that_share_a_folder_are_summed(tmp_path: Path) -> None:
    """A gauge counts only for those that live; what a dead one has counted stays."""
    ours = Cells()
    Counter("calls", "Calls.", registry=ours).inc(2)
    Gauge("open", "Open.", registry=ours).inc(2)
    ours.share(tmp_path)
    dead = 2**22 + 1
    for file in list(tmp_path.iterdir()):
        (tmp_path / file.name.replace(str(os.getpid()), str(dead))).write_bytes(file.read_bytes())
    assert _samples(ours) == {("calls_total", ()): 4, ("open", ()): 2}
