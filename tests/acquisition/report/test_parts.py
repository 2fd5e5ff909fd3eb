from __future__ import annotations

import io
import re
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acquisition import pictures
from acquisition.charts import Chart, Drawing, Line, Panel, limits_of, nice_ticks, number, time_ticks
from acquisition.chronicle import Curve, shown
from acquisition.markup import data, tag
from acquisition.wording import bytes_text, discreet, duration_text, flat, unit_sign, value_text, with_spread

START = datetime(2026, 1, 1, 18, tzinfo=UTC)


@given(st.text(), st.text())
def test_markup_escapes_everything(inside, attribute):
    from html.parser import HTMLParser

    seen = []

    class Reader(HTMLParser):
        def handle_starttag(self, name, attributes):
            seen.append((name, dict(attributes)))

    Reader().feed(tag("p", inside, title=attribute))
    assert len(seen) == 1
    assert seen[0][0] == "p"


def test_data_cannot_end_its_element():
    assert "</script" not in data("x", {"a": "</script><script>"})[30:-9]


@given(st.integers(1, 20), st.integers(1, 20), st.booleans(), st.integers(0, 2**32 - 1))
def test_png_is_read_back_by_others(rows, columns, colour, seed):
    from PIL import Image

    shape = (rows, columns, 3) if colour else (rows, columns)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    with Image.open(io.BytesIO(pictures.png(pixels))) as image:
        assert np.array_equal(np.asarray(image), pixels)


def test_light_comes_from_the_upper_left():
    y, x = np.mgrid[-20:21, -20:21]
    bump = np.sqrt(np.clip(400.0 - x**2 - y**2, 0, None))
    table = np.full((256, 3), 200, np.uint8)
    lit = pictures.shaded(bump, 1.0, 0.0, 20.0, table)[..., 0].astype(int)
    assert lit[12, 12] > lit[28, 28] + 30
    assert pictures.shaded(-bump, 1.0, -20.0, 0.0, table)[12, 12, 0] < lit[28, 28] + 60


def test_nothing_known_is_grey():
    values = np.array([[np.nan, 1.0], [2.0, 3.0]])
    assert tuple(pictures.coloured(values, 1, 3, pictures.colours("cividis"))[0, 0]) == (128, 128, 128)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (5, 5), (512, 384)])
def test_pictures_of_every_shape(shape):
    small = pictures.reduced(np.arange(np.prod(shape), dtype=float).reshape(shape), 100)
    assert max(small.shape) <= 300
    pictures.shaded(small, 1.0, 0, 1, pictures.colours("viridis"))
    assert pictures.surface(np.full(shape, np.nan), 1.0)["low"] == 0.0


def test_a_surface_keeps_its_heights():
    import base64

    heights = np.random.default_rng(1).normal(0, 50, (64, 48))
    packed = pictures.surface(heights, 1000.0)
    steps = np.frombuffer(base64.b64decode(packed["heights"]), "<u2").reshape(64, 48)
    back = packed["low"] + steps / 65535 * (packed["high"] - packed["low"])
    assert np.abs(back - heights).max() < 0.01


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_lie_inside_and_are_few(low, span, count):
    ticks = nice_ticks(low, low + span, count)
    assert len(ticks) <= count + 2
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    assert ticks == sorted(ticks)


@given(st.floats(0, 1e6), st.floats(1, 3e6), st.integers(3, 12))
def test_times_lie_inside_and_are_few(low, span, count):
    ticks = time_ticks(START, (low, low + span), count)
    assert len(ticks) <= count + 3
    assert all(low - 1 <= seconds <= low + span + 1 for seconds, _ in ticks)


def test_times_are_round():
    assert time_ticks(START, (0, 12 * 3600), 8)[:4] == [
        (0, "18:00"),
        (7200, "20:00"),
        (14400, "22:00"),
        (21600, "02 Jan"),
    ]


def test_numbers_are_short():
    assert [number(value) for value in (0, -5, 0.001, 1e-6, 1500, 2.5e7)] == [
        "0",
        "−5",
        "0.001",
        "10⁻⁶",
        "1500",
        "2.5·10⁷",
    ]


@pytest.mark.parametrize("values", [[], [5.0], [5.0, 5.0], [0.0, 0.0], [np.nan, 1.0], [-1e-12, 1e9]])
@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("marks", [False, True])
def test_every_curve_can_be_drawn(values, logarithmic, marks):
    curve = Curve("a", "K", np.arange(len(values), dtype=float), np.array(values, dtype=float))
    panel = Panel("Temperature", "°C", [Line(curve, "a", "c0", marks=marks)], logarithmic=logarithmic)
    low, high = limits_of(panel)
    assert low < high
    drawing = Drawing(Chart("x", START, (0.0, 10.0), [panel]), 400).draw()
    assert not re.search(r"(inf|nan)[^a-z]", drawing)


def test_canonical_figures_are_shown_as_people_read_them():
    values, unit = shown(np.array([273.15, 1073.15]), "K")
    assert unit == "degC"
    assert values == pytest.approx([0, 800])
    assert shown(np.array([5e-9]), "m")[0] == pytest.approx([5])


def test_words():
    assert [duration_text(s) for s in (0, 59.97, 90, 3600, 5025, 36000)] == [
        "0 s",
        "1 min",
        "1 min 30 s",
        "1 h",
        "1 h 24 min",
        "10 h",
    ]
    assert [unit_sign(u) for u in ("degC", "um", "kC/m**2", "delta_degC", "K/min", "ADU/electron")] == [
        "°C",
        "µm",
        "kC/m²",
        "K",
        "K/min",
        "ADU/electron",
    ]
    assert value_text(-5.0, "degC") == "−5\u00a0°C"
    assert discreet("a/b and 1/2 and /home/me/data/x.tif, K/min") == "a/b and 1/2 and …/x.tif, K/min"


def test_nested_json_is_flat():
    given_ = {
        "a": {"value": 1.0, "unit": "keV"},
        "b": [1, 2],
        "c": [{"host": "x"}, None],
        "d": {"value": 3, "unit": "?"},
        "e": {"value": 1273.0, "unit": "K"},
        "f": {"value": 10_900, "unit": "s"},
        "g": True,
    }
    rows = [(name, text.replace("\u00a0", " ")) for name, text in flat(given_)]
    assert rows == [
        ("a", "1 keV"),
        ("b", "1, 2"),
        ("c[0].host", "…"),
        ("c[1]", ""),
        ("d", "3 ?"),
        ("e", "999.85 °C"),
        ("f", "3 h 2 min"),
        ("g", "yes"),
    ]


@given(st.floats(0, 1e14))
def test_sizes_are_short_and_never_nothing(count):
    number_, unit = bytes_text(count).split()
    assert "e+" not in number_
    assert unit == "B" or float(number_) >= 1


def test_numbers_stay_with_their_units():
    assert with_spread(5.25, 4.8, "%") == "5.2\u00a0±\u00a04.8\u00a0%"


def test_bars_end_where_the_figure_does():
    curve = Curve("coverage", "%", np.array([1.0]), np.array([95.0]), np.array([30.0]))
    line = Line(curve, "a", "c0", marks=True, bounds=(0.0, 100.0))
    panel = Panel("Coverage", "%", [line], 100.0, limits=(0.0, 100.0))
    drawing = Drawing(Chart("x", START, (0.0, 10.0), [panel]), 700).draw()
    bar = re.search(r'class="bars c0" d="M[\d.]+ ([\d.]+)V([\d.]+)"', drawing)
    assert bar
    assert float(bar.group(2)) - float(bar.group(1)) == pytest.approx(35.0, abs=0.1)
