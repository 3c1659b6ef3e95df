import time
import uuid

from hypothesis import given
from hypothesis import strategies as st

from gimle.foundation import ids


def test_an_id_is_a_uuid_of_version_7_and_variant_rfc() -> None:
    made = ids.new("doc")
    parsed = uuid.UUID(made.removeprefix("doc_"))
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122
    assert abs((parsed.int >> 80) / 1000 - time.time()) < 5
    assert ids.is_id(made, "doc")
    assert not ids.is_id(made, "job")


def test_ids_are_distinct_and_sort_by_time() -> None:
    earlier = {ids.new("a") for _ in range(1000)}
    start = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 <= start:
        pass
    assert len(earlier) == 1000
    assert max(earlier) < ids.new("a")


@given(st.text())
def test_noise_is_no_id(text: str) -> None:
    assert not ids.is_id(text, "doc") or text.startswith("doc_")
