"""The server from elsewhere: how fast it answers, and what others can do to a run. All on loopback, bounded in number.

python tests/benchmarks/remote.py [commands frames cadence hostile cut …]  (all unless named)

The server is a process of its own with the simulated microscope, and one gate for tokens and one for certificates.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from acquisition.access import Role
from acquisition.authority import Authority, client_context
from acquisition.credentials import read_pass
from acquisition.remote import Remote, connect
from acquisition.seat import COMMANDS

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.acquisition.remote import hostile

HOSTILE = int(os.environ.get("RILIEVO_HOSTILE", "100000"))
CUT = float(os.environ.get("RILIEVO_CUT", "60"))
"""s for which the network is cut."""
OBSERVERS, SILENT = 50, 5
RECIPE = """\
name: cadence
imaging: {{beam_energy: 5 keV, probe_current: 1 nA, field_of_view: 10 um, pixels: {pixels}, dwell_time: 100 ns}}
steps:
  - series: {{every: {every} s, for: {length} s}}
"""


# -- the server, in a process of its own


def serve(folder: Path) -> None:
    """Serve until the standard input ends: tokens on one port, certificates on another, few bounds."""
    from acquisition import app
    from acquisition.desk import Desk
    from acquisition.gate import Bounds, Gate
    from acquisition.instruments import Instruments
    from acquisition.playing import play_booking
    from acquisition.serve import Server

    bounds = Bounds(connects=1e9, connects_at_once=1e9, requests=1e9, requests_at_once=1e9)
    with app.open_laboratory(folder) as laboratory:
        server = Server(folder, laboratory.log, partial(play_booking, laboratory))
        desk = Desk(laboratory, server, Instruments(app.open_instrument))
        server.start()
        desk.start()
        gate = Gate(desk, "127.0.0.1", 0, bounds=bounds)
        guarded = Gate(desk, "127.0.0.1", 0, bounds=bounds, authority=Authority(folder))
        gate.start()
        guarded.start()
        ended = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
        print(json.dumps({"port": gate.port, "tls": guarded.port}), flush=True)
        server.run(lambda: "over" if ended.is_set() else None, stop_runs=True)
        desk.close()
        gate.close()
        guarded.close()
        server.close()


class Place:
    """A server that is running, and its folder."""

    def __init__(self, folder: Path, process: subprocess.Popen[Any], port: int = 0, tls: int = 0) -> None:
        self.folder, self.process, self.port, self.tls = folder, process, port, tls

    @classmethod
    def of(cls, process: subprocess.Popen[Any], folder: Path = Path()) -> Place:
        """Return the place of a process that tells its ports, or of one that does not."""
        told = json.loads(process.stdout.readline()) if process.stdout else {"port": 0, "tls": 0}
        return cls(folder, process, int(told["port"]), int(told["tls"]))

    def remote(self, role: str = "observer", **more: Any) -> Remote:
        return connect(data=self.folder, role=role, **{"name": "bench", "patience": 20.0, **more})

    def by_certificate(self, name: str) -> Remote:
        path = self.folder / "remote" / "tls" / f"{name}.pem"
        return connect(f"127.0.0.1:{self.tls}", certificate=path, patience=0.0, timeout=10.0)

    @property
    def resident(self) -> float:
        """Of the server, MB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

    @property
    def busy(self) -> float:
        """Seconds that the server has computed for."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))


@contextlib.contextmanager
def running() -> Iterator[Place]:
    """Start a server with certificates and a run of three frames, and end it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = Authority(folder)
        authority.create()
        for person, role, days in (
            ("maria", Role.OPERATOR, 1.0),
            ("old", Role.OPERATOR, -1.0),
            ("gone", Role.OPERATOR, 1.0),
        ):
            authority.issue(person, role, days)
        authority.revoke("gone")
        enter_frames(folder)
        arguments = [sys.executable, __file__, "serve", str(folder)]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield Place.of(process, folder)
            finally:
                if process.stdin:
                    process.stdin.close()
                process.wait(60)


def enter_frames(folder: Path) -> None:
    """Enter a run with three frames of 1024² × 4."""
    from datetime import UTC, datetime

    from acquisition import app
    from drivers.frame import BeamSettings, Channel, Frame
    from drivers.geometry import annular
    from drivers.units import KEV

    geometry = annular(4, 2e-3, 8e-3, 8e-3, threshold=KEV)
    beam = BeamSettings(beam_energy=5 * KEV, pixel_size=1e-8, probe_current=1e-9, dwell_time=1e-6)
    counts = np.random.default_rng(0).integers(0, 2**16, (4, 1024, 1024), dtype=np.uint16)
    now = datetime.now(UTC)
    with app.open_laboratory(folder) as laboratory:
        run = laboratory.log.create_run(
            name="frames", recipe_text="", recipe_name="frames.yaml", actions=[], instrument_name="x",
            instrument_description={}, limits={}, started=now, version="0",
        )  # fmt: skip
        for number in range(3):
            frame = Frame(np.roll(counts, number), geometry, beam, tuple(Channel(n) for n in geometry.names), now)
            laboratory.log.frame(run, number, None, frame, laboratory.store.append(run, number, frame))
        laboratory.log.set_state(run, "running", now)
        laboratory.log.set_state(run, "stopping", now)
        laboratory.log.set_state(run, "finished", now)


def say(what: str, figure: str, goal: str, met: bool | None = None) -> None:
    print(f"{what:<66} {figure:>18}   {goal}{'' if met is None else '  ✓' if met else '  ✗'}", flush=True)


def cost(place: Place, ask: Callable[[], object], number: int) -> float:
    """Return what one question costs in computing time, server and client together, s: whatever else runs here."""
    ask()
    server, client = place.busy, time.process_time()
    for _ in range(number):
        ask()
    return (place.busy - server + time.process_time() - client) / number


def rate(ask: Callable[[], object], seconds: float = 3.0) -> tuple[float, list[float]]:
    """Return how often a second something can be asked, and how long each took, s."""
    for _ in range(20):
        ask()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        ask()
        times.append(time.perf_counter() - began)
    return len(times) / sum(times), times


def start(place: Place, pixels: int, every: float, length: float, speed: float | None, heights: bool = False) -> str:
    """Start a run and return its id once it takes frames."""
    with place.remote("operator") as remote, remote.control():
        known = {run.id for run in remote.runs()}
        recipe = RECIPE.format(pixels=pixels, every=every, length=length)
        remote.start(recipe, "cadence.yaml", speed=speed, heights=heights)
        while True:
            new = [run.id for run in remote.runs() if run.id not in known]
            if new and remote.frames(new[0]):
                return str(new[0])
            time.sleep(0.05)


def await_end(place: Place, run: str) -> None:
    with place.remote() as remote:
        while remote.run(run).ended is None or remote.state()["playing"]:
            time.sleep(0.1)


# -- commands


def commands(place: Place) -> None:
    """Commands a second, alone and while a run acquires."""
    with place.remote("operator") as remote, remote.control():
        best, times = max((rate(remote.keep_control, 2.0) for _ in range(3)), key=lambda found: found[0])
        say("commands a second, one client (keep_control)", f"{best:,.0f}", "≥ 2,000", best >= 2000)
        say("  99th percentile", f"{np.quantile(times, 0.99) * 1e3:.1f} ms", "")
        each = cost(place, remote.keep_control, 4000)
        say(
            "  computing time of both sides, a command", f"{each * 1e6:.0f} µs", f"{1 / each:,.0f} a second at the most"
        )
        per_second, _ = rate(lambda: remote.run("last"), 2.0)
        say("  questions to the database a second (run)", f"{per_second:,.0f}", "")
    run = start(place, 512, 1.0, 30.0, 1.0, heights=True)
    with place.remote("operator") as remote, remote.control():
        times = []
        until = time.perf_counter() + 20.0
        while (began := time.perf_counter()) < until:
            remote.keep_control()
            times.append(time.perf_counter() - began)
            time.sleep(0.002)
    worst = float(np.quantile(times, 0.99)) * 1e3
    say("99th percentile while a run acquires 512² each second", f"{worst:.1f} ms", "≤ 20 ms", worst <= 20)
    await_end(place, run)


# -- frames


def plain_pyro(port_file: Path) -> None:
    """Serve a frame as Pyro returns bytes by itself, msgpack, for comparison."""
    import Pyro5.api

    Pyro5.api.config.SERIALIZER = "msgpack"
    counts = np.random.default_rng(0).integers(0, 2**16, (4, 1024, 1024), dtype=np.uint16)

    @Pyro5.api.expose
    class Frames:
        def frame(self) -> bytes:
            return counts.tobytes()

    with Pyro5.api.Daemon("127.0.0.1", 0) as daemon:
        port_file.write_text(str(daemon.register(Frames, "frames")))
        daemon.requestLoop()


def frames(place: Place) -> None:
    """Frames a second, without and with TLS, against a plain return by msgpack."""
    import Pyro5.api

    with place.remote() as remote:
        run = next(run.id for run in remote.runs() if run.name == "frames")
        best = max(rate(lambda: remote.frame(run, 1), 3.0)[0] for _ in range(3))
        each = cost(place, lambda: remote.frame(run, 1), 200)
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "uri"
        with subprocess.Popen([sys.executable, __file__, "plain", str(file)]) as process:
            while not file.exists() or not file.read_text():
                time.sleep(0.05)
            with Pyro5.api.Proxy(file.read_text()) as proxy:
                proxy._pyroSerializer = "msgpack"
                plain = max(rate(proxy.frame, 3.0)[0] for _ in range(3))
                plainly = cost(Place.of(process), proxy.frame, 100)
            process.kill()
    with place.by_certificate("maria") as remote:
        encrypted = max(rate(lambda: remote.frame(run, 1), 3.0)[0] for _ in range(3))
        secretly = cost(place, lambda: remote.frame(run, 1), 60)
        whole = remote.frame_preview(run, 1)
    say("frames of 1024² × 4 a second, whole and decoded", f"{best:.0f}", "≥ 100", best >= 100)
    say("  against a plain return by msgpack", f"{plain:.0f}: {best / plain:.1f}×", "≥ 2×", best / plain >= 2)
    say("  with two-way TLS", f"{encrypted:.0f}", "≥ 25", encrypted >= 25)
    costs = f"{each * 1e3:.1f}, {plainly * 1e3:.1f}, {secretly * 1e3:.1f} ms"
    most = f"{1 / each:.0f}, {1 / plainly:.0f} ({plainly / each:.1f}×), {1 / secretly:.0f} a second at the most"
    say("  computing time of both sides: ours, plain, with TLS", costs, most)
    say("  a preview instead of 8,389 kB", f"{whole.pixels.nbytes / 1e3:.0f} kB", "")


# -- cadence


def observers(folder: Path, port: int, seconds: float) -> None:
    """Watch as many people would: most follow the events and look at the newest frame, some never read an answer."""
    os.nice(15)  # they stand for other people's computers, which take none of this one's time from the server
    ended = threading.Event()
    counts = [0, 0]

    def follow() -> None:
        with connect(data=folder, role="observer", patience=30.0) as remote:
            last = 0
            while not ended.is_set():
                found = remote.events(last, wait=1.0)
                last = found[-1].number if found else last
                counts[0] += len(found)
                with contextlib.suppress(Exception):
                    remote.frame_preview("last", largest=128)
                    counts[1] += 1
                ended.wait(1.0)

    def stay_silent() -> None:
        found = read_pass(folder, Role.OBSERVER)
        question = hostile.message(hostile.INVOKE, hostile.call("frame", ["last"]))
        while not ended.is_set():
            with contextlib.suppress(OSError, EOFError, KeyError, PermissionError):
                sock, _ = hostile.Attacker(port, 5.0).enter(found)
                with sock:
                    while not ended.is_set():
                        sock.sendall(question)
            ended.wait(0.2)

    threads = [threading.Thread(target=follow, daemon=True) for _ in range(OBSERVERS - SILENT)]
    threads += [threading.Thread(target=stay_silent, daemon=True) for _ in range(SILENT)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    ended.set()
    print(json.dumps(counts), flush=True)
    os._exit(0)


def intervals(place: Place, run: str) -> tuple[float, float]:
    """Return the interval between two frames as they reached the disk (a line through all), and their spread, s."""
    folder = place.folder / "runs" / run / "frames"
    times = np.array([path.stat().st_mtime_ns for path in sorted(folder.glob("*.ome.tif"))]) * 1e-9
    numbers = np.arange(len(times))
    slope, start_ = np.polyfit(numbers, times, 1)
    return float(slope), float(np.quantile(np.abs(times - start_ - slope * numbers), 0.95))


def cadence(place: Place) -> None:
    """The frame cadence of a run that fifty observers watch, and of one beside which they watch another server."""
    alone: list[tuple[float, float, float]] = []
    watched: list[tuple[float, float, float]] = []
    seen = [0, 0]

    def play(into: list[tuple[float, float, float]]) -> None:
        busy = place.busy
        run = start(place, 128, 0.5, 20.0, 1.0)
        await_end(place, run)
        into.append((*intervals(place, run), place.busy - busy))

    # They compute on this computer too, which is not what is measured: for comparison, they watch another server.
    with running() as decoy:
        for at, into in ((decoy, alone), (place, watched)) * 2:
            arguments = [sys.executable, __file__, "observe", str(at.folder), str(at.port), "36"]
            with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
                time.sleep(8.0)
                play(into)
                told = json.loads(process.communicate(timeout=120)[0] or "[0, 0]")
            if at is place:
                seen = [one + other for one, other in zip(seen, told, strict=True)]
    before, spread, alone_busy = np.mean(alone, axis=0)
    after, wider, watched_busy = np.mean(watched, axis=0)
    change = after / before - 1.0
    what = f"cadence of 0.5 s with {OBSERVERS} observers, {SILENT} never reading"
    say(what, f"{change:+.2%}", "±2 %", abs(change) <= 0.02)
    say("  not watched, and watched", f"{before:.4f}, {after:.4f} s", "")
    say("  95 % of the frames within", f"{spread * 1e3:.0f}, {wider * 1e3:.0f} ms", "")
    share = (watched_busy - alone_busy) / 20.0
    say(
        "  the server computed for, alone and watched",
        f"{alone_busy:.2f}, {watched_busy:.2f} s",
        f"{share:+.1%} of a core",
    )
    say("  events read, previews seen", f"{seen[0]}, {seen[1]}", "")


# -- hostile


class Attack:
    """Everything that somebody might try, counted; ``done["in"]`` is how often it got in."""

    def __init__(self, place: Place) -> None:
        self.done: dict[str, int] = {"in": 0}
        self._place = place
        self._lock = threading.Lock()
        self._attacker = hostile.Attacker(place.port, 20.0)
        self._observer = read_pass(place.folder, Role.OBSERVER)
        sock, self._recorded = self._attacker.enter(read_pass(place.folder, Role.OPERATOR))
        sock.close()
        self._operating = [name for name, command in COMMANDS.items() if command.role is not Role.OBSERVER]

    def run(self, times: int) -> None:
        """Try everything at the same time, so many times in all."""
        shares = {
            self._handshakes: 0.5,
            self._questions: 0.25,
            self._verbs: 0.1,
            self._oversize: 0.05,
            self._replays: 0.04,
            self._slow: 0.03,
            self._certificates: 0.03,
        }
        threads = [
            threading.Thread(target=work, args=(random.Random(seed), int(times * share)))
            for seed, (work, share) in enumerate(shares.items())
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _count(self, what: str, number: int = 1, got_in: bool = False) -> None:
        with self._lock:
            self.done[what] = self.done.get(what, 0) + number
            self.done["in"] += got_in

    def _send(self, what: str, data: bytes) -> None:
        said = self._attacker.send(data)
        welcomed = any(kind == hostile.CONNECT_OK and "role" in body["handshake"] for kind, body in said)
        self._count(what, 1, welcomed or any(kind == hostile.RESULT for kind, _ in said))

    def _handshakes(self, chance: random.Random, number: int) -> None:
        for _ in range(number):
            self._send("mutated handshakes", hostile.mutated(chance.choice(hostile.HANDSHAKES), chance))

    def _replays(self, _: random.Random, number: int) -> None:
        for _ in range(number):
            self._send("replayed tokens", self._recorded)

    def _oversize(self, chance: random.Random, number: int) -> None:
        for _ in range(number):
            claimed = chance.choice([2**32 - 1, 2**31, 2**24, 2**21 + 1, 4097])
            body = hostile.head(hostile.CONNECT, 0, 1, 4, claimed, chance.choice([0, 0, 2**31]))
            self._send("oversize messages", body + b"x" * 2000)

    def _questions(self, chance: random.Random, number: int) -> None:
        while number > 0:
            sock, _ = self._attacker.enter(self._observer)
            with sock, contextlib.suppress(OSError, EOFError):
                while number > 0:
                    number -= 1
                    self._count("mutated messages and annotations")
                    sock.sendall(hostile.mutated(chance.choice(hostile.QUESTIONS), chance))
                    sock.settimeout(0.002)
                    with contextlib.suppress(TimeoutError):
                        hostile.one_answer(sock)
                    sock.settimeout(20.0)

    def _verbs(self, chance: random.Random, number: int) -> None:
        sock, _ = self._attacker.enter(self._observer)
        with sock:
            for _ in range(number):
                arguments = chance.choice([[], ["last"], ["stage.x", "1 mm"]])
                sock.sendall(hostile.message(hostile.INVOKE, hostile.call(chance.choice(self._operating), arguments)))
                _, body = hostile.one_answer(sock)
                done = body.get("error", {}).get("code") not in ("denied", "input")
                self._count("operator verbs of an observer", 1, done)

    def _slow(self, _: random.Random, number: int) -> None:
        for _ in range(0, number, 50):
            socks = [self._attacker.socket() for _ in range(50)]
            for sock in socks:
                with contextlib.suppress(OSError):
                    sock.sendall(b"PYRO")
            for sock in socks:
                sock.close()
            self._count("slow-loris", 50)

    def _certificates(self, chance: random.Random, number: int) -> None:
        ways = self._ways()
        first = hostile.message(hostile.CONNECT, hostile.connect_body(hostile.HELLO))
        second = hostile.message(hostile.CONNECT, hostile.connect_body({"session": "s" * 32}))
        for _ in range(number):
            what, got_in = chance.choice(list(ways)), False
            with contextlib.suppress(OSError, EOFError):
                plain = socket.create_connection(("127.0.0.1", self._place.tls), 20.0)
                with ways[what].wrap_socket(plain, server_hostname="127.0.0.1") as sock:
                    sock.sendall(first)
                    got_in = hostile.one_answer(sock)[0] == hostile.CONNECT_OK
                    sock.sendall(second)
                    hostile.one_answer(sock)
            self._count(what, 1, got_in)

    def _ways(self) -> dict[str, ssl.SSLContext]:
        folder = self._place.folder / "remote" / "tls"
        none = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        none.load_verify_locations(folder / "authority.pem")
        with tempfile.TemporaryDirectory() as name:
            other = Authority(Path(name))
            other.create()
            wrong = client_context(other.issue("eve", Role.ADMINISTRATOR))
        wrong.load_verify_locations(folder / "authority.pem")
        return {
            "no certificate": none,
            "a wrong certificate": wrong,
            "an expired certificate": client_context(folder / "old.pem"),
            "a revoked certificate": client_context(folder / "gone.pem"),
        }


def hostile_input(place: Place) -> None:
    """None gets in, none stops the server, and its memory stays as it was."""
    with place.remote() as remote:
        for _ in range(500):
            remote.state()
    run = start(place, 256, 1.0, 3600.0, 1.0)
    memory: list[float] = []
    began = time.perf_counter()
    total: dict[str, int] = {}
    for _ in range(20):
        attack = Attack(place)
        attack.run(HOSTILE // 20)
        for what, number in attack.done.items():
            total[what] = total.get(what, 0) + number
        memory.append(place.resident)
    seconds = time.perf_counter() - began
    tried = sum(number for what, number in total.items() if what != "in")
    for what, number in total.items():
        if what != "in":
            say(f"  {what}", f"{number:,}", "")
    say(f"hostile attempts, in {seconds:.0f} s", f"{tried:,}", "≥ 100,000", tried >= 0.99 * HOSTILE)
    say("  that got in", f"{total['in']}", "0", total["in"] == 0)
    early, late = float(np.median(memory[4:9])), float(np.median(memory[-5:]))
    say(
        "  memory of the server, a fifth of the way and at the end",
        f"{early:.0f}, {late:.0f} MB",
        "flat",
        late - early < 10,
    )
    with place.remote("operator") as remote:
        with remote.control():
            alive = remote.run(run).state == "running"
            remote.abort(run)
        say("  the server answers, and the run runs", str(alive), "True", alive)
    await_end(place, run)


# -- a network that breaks


class Dropping:
    """A way to the server that can be cut: what is under way is lost, and neither side is told."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._cut = threading.Event()
        self._generation = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._generation += 1
        self._cut.set()

    def mend(self) -> None:
        self._cut.clear()

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self._cut.is_set():
                sock.close()
                continue
            other = socket.create_connection(("127.0.0.1", self._port))
            for pair in ((sock, other), (other, sock)):
                threading.Thread(target=self._pass_on, args=(*pair, self._generation), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket, generation: int) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if generation == self._generation:
                    other.sendall(data)
            if generation == self._generation:
                other.shutdown(socket.SHUT_WR)


def hold(folder: Path, address: str) -> None:
    """Hold control until killed."""
    with connect(address, data=folder, role="operator", name="doomed") as remote, remote.control():
        print("held", flush=True)
        time.sleep(3600)


def cut(place: Place) -> None:
    """A network cut in mid-stream, and a client killed while it holds control."""
    from datetime import UTC, datetime

    from acquisition import app

    way = Dropping(place.port)
    seen: list[int] = []
    produced, ended = 0, threading.Event()
    run = start(place, 256, 1.0, 3600.0, 1.0)

    def follow() -> None:
        address = f"127.0.0.1:{way.port}"
        with connect(address, data=place.folder, role="observer", timeout=5.0, patience=3 * CUT + 60.0) as remote:
            last = 0
            while not ended.is_set():
                for event in remote.events(last, wait=2.0):
                    last = event.number
                    if event.kind == "tick":
                        seen.append(int(event.message))

    reader = threading.Thread(target=follow)
    reader.start()
    arguments = [sys.executable, __file__, "hold", str(place.folder), f"127.0.0.1:{place.port}"]
    with app.open_laboratory(place.folder) as laboratory, place.remote() as remote:
        frames_before = len(remote.frames(run))
        began = time.perf_counter()
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert process.stdout.readline() == "held\n"
            while (now := time.perf_counter() - began) < CUT + 40.0:
                laboratory.log.event(None, datetime.now(UTC), "info", "tick", str(produced))
                produced += 1
                if 5.0 < now < 5.0 + CUT and not way._cut.is_set():
                    way.cut()
                    process.send_signal(signal.SIGKILL)
                    killed = time.perf_counter()
                    lapsed = 0.0
                if now >= 5.0 + CUT and way._cut.is_set():
                    way.mend()
                if now > 5.0 and not lapsed and remote.state()["control"] is None:
                    lapsed = time.perf_counter() - killed
                time.sleep(0.1)
        until = time.perf_counter() + 60
        while len(seen) < produced and time.perf_counter() < until:
            time.sleep(0.1)
        ended.set()
        reader.join(30)
        taken = len(remote.frames(run)) - frames_before
        passed = time.perf_counter() - began
    say(f"events across a network cut of {CUT:.0f} s: produced, seen", f"{produced}, {len(seen)}", "the same")
    whole = seen == list(range(produced))
    say("  without a gap or a double, in order", str(whole), "True", whole)
    say("  control of a client that was killed is free after", f"{lapsed:.1f} s", "≤ 16 s", 0 < lapsed <= 16)
    say("  frames of the run meanwhile, of one a second", f"{taken} in {passed:.0f} s", "all", abs(taken - passed) <= 3)
    with place.remote("operator") as remote, remote.control():
        remote.abort(run)
    await_end(place, run)


def main() -> None:
    """Measure what is named, or everything."""
    if len(sys.argv) > 2 and sys.argv[1] in ("serve", "plain", "observe", "hold"):
        role, first, *rest = sys.argv[1:]
        {
            "serve": lambda: serve(Path(first)),
            "plain": lambda: plain_pyro(Path(first)),
            "observe": lambda: observers(Path(first), int(rest[0]), float(rest[1])),
            "hold": lambda: hold(Path(first), rest[0]),
        }[role]()
        return
    parts = {"commands": commands, "frames": frames, "cadence": cadence, "hostile": hostile_input, "cut": cut}
    for name in sys.argv[1:] or list(parts):
        with running() as place:
            parts[name](place)


if __name__ == "__main__":
    main()
