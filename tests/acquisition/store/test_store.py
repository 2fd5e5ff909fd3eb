from __future__ import annotations

import errno
import logging
import math
import os
import threading
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acquisition import durable, frame_record
from acquisition.store import Store, StoredFrame, encoded, read_frame
from drivers.errors import DiskFull, InputError, StoreError
from drivers.frame import BeamSettings, Channel, Frame, Reading
from drivers.geometry import DetectorGeometry, Segment, annular
from drivers.units import KEV, quantity

START = datetime(2026, 1, 1, 18, 0, 0, 123456, tzinfo=UTC)


def make_frame(shape=(4, 24, 32), dark=False, **changes) -> Frame:
    geometry = DetectorGeometry(
        tuple(
            Segment(name, 2e-3, 8e-3, index * math.tau / shape[0], math.tau / shape[0] - 0.01)
            for index, name in enumerate(["A", 'oberes <Segment> & "B"', "C µ", "D", "E", "F"][: shape[0]])
        ),
        working_distance=8.1e-3,
        centre_offset=(1e-4, -2e-4),
        rotation=0.1,
        threshold=1 * KEV,
    )
    channels = (
        Channel("A", offset=1000.5, gain=1.25, read_noise=3.5),
        Channel("B"),
        Channel("C", gain=0.1, gain_unit="ADU/electron", saturation=4095),
        *(Channel(name) for name in geometry.names[3:]),
    )[: shape[0]]
    readbacks = {
        "heater.temperature": Reading(quantity(400.1, "degC"), START),
        "gas.O2": Reading(quantity(5, "sccm"), START - timedelta(seconds=9), fresh=False),
        "stigmator": Reading(quantity(-1.5, "percent"), START),
        "stage.tilt": Reading(quantity(0.1, "deg"), START),
    }
    beam = BeamSettings(5 * KEV, 19.53125e-9, probe_current=1e-9, dwell_time=1e-5, probe_diameter=None)
    counts = np.random.default_rng(1).integers(0, 65536, shape, dtype=np.uint16)
    values = {"counts": counts, "geometry": geometry, "beam": beam, "channels": channels, "time": START}
    return Frame(**{**values, "dark": dark, "readbacks": readbacks, **changes})


def assert_same(one: Frame, other: Frame) -> None:
    assert np.array_equal(one.counts, other.counts)
    assert one.counts.dtype == np.uint16
    for name in ("geometry", "beam", "channels", "time", "dark"):
        assert getattr(one, name) == getattr(other, name), name
    assert list(one.readbacks) == list(other.readbacks)
    for name, reading in one.readbacks.items():
        found = other.readbacks[name]
        assert (found.value.units, found.value.magnitude) == (reading.value.units, reading.value.magnitude)
        assert (found.time, found.fresh) == (reading.time, reading.fresh)


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "data") as opened:
        yield opened


@pytest.mark.parametrize("segments", [1, 3, 4, 5, 6])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_frame_comes_back_whole(tmp_path, segments, compression):
    frame = make_frame((segments, 24, 32), dark=segments == 3)
    with Store(tmp_path, compression) as store:
        stored = store.append("run", 7, frame)
        assert stored.path == Path("run/frames/000007.ome.tif")
        assert stored.bytes == (tmp_path / stored.path).stat().st_size
        store.verify(stored)
        assert_same(store.read(stored.path), frame)


def test_the_same_frame_makes_the_same_bytes(store):
    one, two = store.append("a", 0, make_frame()), store.append("b", 0, make_frame())
    assert (one.sha256, one.bytes) == (two.sha256, two.bytes)


numbers = st.floats(allow_nan=False, allow_infinity=False, width=64)
names = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=20)


@given(
    gain=st.none() | numbers,
    offset=st.none() | numbers,
    energy=st.floats(1e-17, 1e-14),
    pixel_size=st.floats(1e-10, 1e-3),
    channel=names,
    value=numbers,
    unit=st.sampled_from(["K", "degC", "delta_degC", "sccm", "mbar", "K/min", "nA", "percent", ""]),
    hours=st.integers(-12, 12),
    segment=names,
)
@settings(max_examples=60)
def test_the_record_loses_nothing(gain, offset, energy, pixel_size, channel, value, unit, hours, segment):
    there = datetime(2026, 7, 1, 12, 30, 1, 5, tzinfo=timezone(timedelta(hours=hours)))
    frame = make_frame(
        (1, 4, 4),
        geometry=DetectorGeometry((Segment(segment, 0.0, 5e-3, -1.0, math.tau),), 8e-3),
        beam=BeamSettings(energy, pixel_size, None, 1e-6, 3e-9),
        channels=(Channel(segment, offset, gain, None, "ADU/electron"),),
        readbacks={channel: Reading(quantity(value, unit), there)},
        time=there,
    )
    assert_same(frame_record.decode(frame_record.encode(frame).decode("ascii"), frame.counts), frame)


def test_other_programs_find_names_size_and_settings(store):
    frame = make_frame()
    path = store.root / store.append("run", 0, frame).path
    with tifffile.TiffFile(path) as tif:
        assert tif.is_ome
        assert (tif.series[0].axes, tif.series[0].shape) == ("CYX", (4, 24, 32))
        assert np.array_equal(tif.asarray(), frame.counts)
        assert len(tif.pages) == 4
        for page in (page.aspage() for page in tif.pages):
            # What HyperSpy and ImageJ look at: pixels per centimetre.
            assert page.tags["ResolutionUnit"].value == 3
            numerator, denominator = page.tags["XResolution"].value
            assert 1e7 / (numerator / denominator) == pytest.approx(19.53125, rel=1e-9)
            assert page.tags["YResolution"].value == (numerator, denominator)
            assert (page.compression, page.photometric, page.sampleformat) == (1, 1, 1)
        text = tif.ome_metadata
    ome = {"ome": "http://www.openmicroscopy.org/Schemas/OME/2016-06"}
    root = ET.fromstring(text)
    pixels = root.find("ome:Image/ome:Pixels", ome)
    assert float(pixels.get("PhysicalSizeX")) == pytest.approx(19.53125)
    assert pixels.get("PhysicalSizeYUnit") == "nm"
    assert [channel.get("Name") for channel in pixels.findall("ome:Channel", ome)] == list(frame.geometry.names)
    assert root.findtext("ome:Image/ome:AcquisitionDate", None, ome) == "2026-01-01T18:00:00.123456Z"
    table = {entry.get("K"): entry.text for entry in root.iter(f"{{{ome['ome']}}}M")}
    assert table["Beam energy"] == "5 keV"
    assert table["Working distance"] == "8.1 mm"
    assert table["heater.temperature"] == "400.1 degC"
    assert table["gas.O2"] == "5 sccm (old)"


def test_a_general_reader_opens_every_page(store):
    from PIL import Image

    frame = make_frame()
    with Image.open(store.root / store.append("run", 0, frame).path) as image:
        assert image.n_frames == 4
        for index in range(4):
            image.seek(index)
            assert np.array_equal(np.asarray(image), frame.counts[index])


def test_counts_that_do_not_lie_in_a_row_in_memory(store):
    counts = np.random.default_rng(2).integers(0, 65536, (32, 24, 8), dtype=np.uint16).transpose(2, 1, 0)[::2]
    frame = make_frame(counts=counts)
    assert_same(store.read(store.append("run", 0, frame).path), frame)


def test_a_frame_that_was_never_acknowledged_is_set_aside(store):
    first = store.append("run", 3, make_frame())
    second = store.append("run", 3, make_frame(dark=True))
    store.append("run", 3, make_frame(dark=True))
    names = sorted(path.name for path in (store.root / "run/frames").iterdir())
    assert names == ["000003.ome.tif", "000003.set-aside-1.ome.tif", "000003.set-aside-2.ome.tif"]
    assert not read_frame(store.root / "run/frames/000003.set-aside-1.ome.tif").dark
    store.verify(second)
    with pytest.raises(StoreError):
        store.verify(first)
    assert store.numbers("run") == [3]


def test_what_a_killed_process_left_is_swept(store):
    store.append("run", 0, make_frame())
    left = store.root / "run/frames/.000001.ome.tif.999-1.part"
    left.write_bytes(b"II*")
    assert store.numbers("run") == [0]
    assert store.sweep("run") == [left]
    assert [path.name for path in (store.root / "run/frames").iterdir()] == ["000000.ome.tif"]


@pytest.mark.parametrize("run", ["", "..", "a/b", "/etc", ".hidden", "a\x00b", "ä", "x" * 200])
def test_a_run_cannot_lead_out_of_the_store(store, run):
    with pytest.raises(InputError, match="expected a run's id"):
        store.append(run, 0, make_frame())


def test_a_negative_number(store):
    with pytest.raises(InputError, match="0 or more; got -1"):
        store.append("run", -1, make_frame())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["posix_fallocate", "write", "fsync", "ftruncate"])
def test_a_full_disk_leaves_nothing_behind(store, monkeypatch, code, call):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    store.append("run", 0, make_frame())
    before = sorted((store.root / "run/frames").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(durable.os, call, refuse)
        with pytest.raises(
            DiskFull, match=r"a frame of 0\.0 MB does not fit on the disk \(.* MB free\); make room"
        ) as e:
            store.append("run", 1, make_frame())
    assert e.value.where == str(store.root / "run/frames/000001.ome.tif")
    assert sorted((store.root / "run/frames").iterdir()) == before
    store.verify(store.append("run", 1, make_frame()))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_disk_that_is_really_full(tmp_path):
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        with Store(disk) as store:
            frame, stored = make_frame((4, 64, 64)), []
            with pytest.raises(DiskFull):  # noqa: PT012
                for number in range(10):
                    stored.append(store.append("run", number, frame))  # noqa: PERF401
            assert len(stored) > 1
            for one in stored:
                store.verify(one)
            assert store.numbers("run") == list(range(len(stored)))
            assert store.sweep("run") == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_file_systems_that_can_neither_reserve_nor_write_directly(store, monkeypatch, code):
    real = os.open

    def without_direct(path, flags, *rest, **named):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, *rest, **named)

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(durable.os, "open", without_direct)
    monkeypatch.setattr(durable.os, "posix_fallocate", refuse)
    frame = make_frame()
    stored = store.append("run", 0, frame)
    store.verify(stored)
    assert_same(store.read(stored.path), frame)


def test_a_system_that_takes_few_bytes_at_once(store, monkeypatch):
    real = os.write
    monkeypatch.setattr(durable.os, "write", lambda descriptor, data: real(descriptor, data[:4096]))
    stored = store.append("run", 0, make_frame())
    store.verify(stored)


def test_a_direct_write_that_loses_its_alignment(store, monkeypatch):
    real = os.write
    monkeypatch.setattr(durable.os, "write", lambda descriptor, data: min(1000, real(descriptor, data)))
    frame = make_frame()
    stored = store.append("run", 0, frame)
    store.verify(stored)
    assert_same(store.read(stored.path), frame)


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with Store(tmp_path / "file") as store, pytest.raises(StoreError, match="cannot be written: "):
        store.append("run", 0, make_frame())


def test_a_killed_write_shows_no_frame(store, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(durable.os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        store.append("run", 0, make_frame())
    assert list((store.root).rglob("*.tif*")) == []


def test_changed_content_is_found(store):
    stored = store.append("run", 0, make_frame())
    path = store.root / stored.path
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="content has changed"):
        store.verify(stored)
    path.write_bytes(content[:-1])
    with pytest.raises(StoreError, match=f"expected {stored.bytes} bytes; the file holds {stored.bytes - 1}"):
        store.verify(stored)
    path.unlink()
    with pytest.raises(StoreError, match="No such file"):
        store.verify(stored)
    with pytest.raises(StoreError, match="No such file"):
        store.read(stored.path)


@pytest.fixture(scope="module")
def content() -> bytes:
    return b"".join(bytes(piece) for piece in encoded(make_frame()))


@given(share=st.floats(0, 0.9999))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_truncated_file_is_one_sentence(tmp_path, caplog, capfd, content, share):
    path = tmp_path / "cut.ome.tif"
    path.write_bytes(content[: int(len(content) * share)])
    caplog.clear()
    with caplog.at_level(logging.DEBUG), pytest.raises(StoreError) as caught:
        read_frame(path)
    assert caught.value.where == str(path)
    assert "\n" not in caught.value.message
    assert caplog.records == []
    assert capfd.readouterr().err == ""


@given(place=st.integers(0, 5000), byte=st.integers(0, 255))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_head_is_an_error_or_a_frame(tmp_path, content, place, byte):
    damaged = bytearray(content)
    damaged[place] = byte
    path = tmp_path / "damaged.ome.tif"
    path.write_bytes(damaged)
    try:
        assert isinstance(read_frame(path), Frame)
    except StoreError as error:
        assert "\n" not in error.message


def test_files_of_others(tmp_path):
    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, np.zeros((3, 8, 8), np.uint16), photometric="minisblack")
    with pytest.raises(StoreError, match="was not written by this program"):
        read_frame(path)
    tifffile.imwrite(path, np.zeros((3, 8, 8), np.uint16), ome=True, metadata={"axes": "CYX"})
    with pytest.raises(StoreError, match="has no annotation urn:rilievo:frame:1"):
        read_frame(path)
    path.write_bytes(b"")
    with pytest.raises(StoreError):
        read_frame(path)


def test_a_record_that_lacks_something(content):
    frame = make_frame()
    text = frame_record.encode(frame).decode()
    for old, new in (('"threshold"', '"treshold"'), ('"segments":[{', '"segments":[7,{'), ('{"time"', "[")):
        assert old in text
        with pytest.raises(StoreError):
            frame_record.decode(text.replace(old, new, 1), frame.counts)
    with pytest.raises(InputError):
        frame_record.decode(text, frame.counts[:3])


def test_too_large_for_a_tiff():
    from acquisition.tiff import tiff

    huge = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint16), (3, 2**15, 2**15), (0, 0, 0))
    with pytest.raises(InputError, match=r"6\.4 GB is too large for one TIFF"):
        tiff(huge, 1e-9, b"", "x")


def test_threads_share_a_store(store):
    frames = [make_frame(), make_frame(dark=True)]
    stored: list[StoredFrame] = []

    def work(thread: int) -> None:
        stored.extend(store.append(f"run-{thread}", number, frames[thread % 2]) for number in range(5))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stored) == 20
    for one in stored:
        store.verify(one)
    assert {one.sha256 for one in stored} == {store.append("x", n, frame).sha256 for n, frame in enumerate(frames)}


def test_sizes_around_a_block(store):
    for columns in (1, 2040, 2041, 2047, 2048, 2049):
        frame = make_frame((1, 1, columns), geometry=annular(1, 0, 8e-3, 8e-3), channels=(Channel("A"),))
        stored = store.append("run", columns, frame)
        store.verify(stored)
        assert_same(store.read(stored.path), frame)
