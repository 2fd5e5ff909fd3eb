"""What travels arrives as it left; and events arrive whole, whatever order the database shows them in."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acquisition import wire
from acquisition.ownership import Owned
from acquisition.records import Event
from acquisition.tail import Tail
from acquisition.wire import Packed, WireError
from drivers.errors import DeviceTimeout, DocumentError, LimitError, Problem, RilievoError
from drivers.units import parse_quantity, quantity
from tests.acquisition.remote.conftest import House

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.datetimes(timezones=st.just(UTC))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def there(value: Any) -> Any:
    packed = Packed(value)
    return wire.unpacked(packed.body, {wire.piece_name(n): bytes(piece) for n, piece in enumerate(packed.pieces)})


def is_quantity(value: Any) -> bool:
    """Return whether JSON data hold what reads as a quantity on the other side."""
    if isinstance(value, dict):
        return value.keys() == {"value", "unit"} or any(map(is_quantity, value.values()))
    return isinstance(value, list) and any(map(is_quantity, value))


@given(VALUES)
def test_data_arrives_as_it_left(value: Any) -> None:
    if not is_quantity(value):
        assert there(value) == value


@given(st.floats(1e-6, 1e6), st.sampled_from(["K", "degC", "Pa", "sccm", "nm", "kC/m**2", ""]))
def test_quantities_arrive_to_the_last_digit(value: float, unit: str) -> None:
    asked = quantity(value, unit)
    assert there(asked) == asked
    assert parse_quantity(wire.in_words(asked), unit) == asked


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32", "float64", "datetime64[us]", "bool"])
def test_arrays_arrive(kind: str) -> None:
    made = np.arange(24).reshape(2, 3, 4).astype(kind)
    found = there({"a": made, "b": made[::-1, :, ::2]})
    assert found["a"].dtype == made.dtype
    assert np.array_equal(found["a"], made)
    assert np.array_equal(found["b"], made[::-1, :, ::2])
    assert there(made[:0]).shape == (0, 3, 4)


@pytest.mark.parametrize(
    "error",
    [
        LimitError("1500 K is above the upper limit of 1273 K", "heater.temperature"),
        DeviceTimeout("no answer", "heater"),
        Owned("the calendar is owned by somebody"),
        DocumentError([Problem("wrong", "steps[1]", "a.yaml", 3, 4), Problem("also")]),
        RilievoError("something"),
    ],
)
def test_errors_keep_their_class(error: RilievoError) -> None:
    found = wire.error_of(wire.plain(Packed(wire.error_body(error)).body))
    assert type(found) is type(error)
    assert (str(found), found.where) == (str(error), error.where)


def test_errors_of_our_own_tell_nothing_about_us() -> None:
    body = wire.error_body(KeyError("/home/maria/secret"))
    assert "secret" not in str(body)


@given(st.binary(max_size=300))
def test_noise_is_no_message(noise: bytes) -> None:
    for read in (lambda: wire.plain(noise), lambda: wire.unpacked(noise, {})):
        try:
            read()
        except RilievoError as error:
            assert str(error)


def test_what_does_not_fit_is_refused() -> None:
    for value in ({"!": "Popen"}, {"!": "array", "type": "|O8", "shape": [1], "at": 0}, {"!": "Run", "id": 1}):
        body = msgpack.packb(value)
        with pytest.raises(WireError):
            wire.unpacked(body, {"B000": b"12345678"})
    with pytest.raises(TypeError, match="object cannot travel"):
        Packed(object())
    assert math.isnan(there(math.nan))


def test_a_missing_number_is_waited_for(house: House) -> None:
    tail = Tail(house.log, house.clock)

    def event(number: int) -> Event:
        return Event(number, None, datetime.now(UTC), "info", "note", "", None)

    tail._take([event(1), event(3)])
    assert [found.number for found in tail.after(0)] == [1]
    tail._take([event(2), event(3)])
    assert [found.number for found in tail.after(1)] == [2, 3]
    tail._take([event(5)])
    assert tail.last == 3
    tail._hole_since = house.clock.monotonic() - 3.0
    tail._take([event(5)])
    assert [found.number for found in tail.after(3)] == [5]
