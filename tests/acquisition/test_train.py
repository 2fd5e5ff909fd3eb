from __future__ import annotations

import errno
import json
import os
import signal
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from acquisition import train as verb
from acquisition.cli import app, main
from drivers.errors import RilievoError
from reconstruction import card, checkpoint, training, vft, weights
from simulators import dataset

DRAW = card.draw_curve
SMALL = vft.Architecture(width=6, token_width=8, heads=2, blocks=2)
WIDE = vft.Architecture(width=12, token_width=8, heads=2, blocks=2)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums are added in one order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data set made by the command itself: facets and caps in turn, 32 × 32 pixels, few electrons."""
    path = tmp_path_factory.mktemp("sets") / "tiny"
    options = ["--samples", "4", "--pixels", "32", "--electrons-per-pixel", "20", "--energy", "5 keV"]
    families = ["--family", "facets", "--family", "caps", "--finest", "0.1", "--coarsest", "0.3", "--seed", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "TILTED_ELECTRONS", 100)
        words = ["simulate", "dataset", str(path), "--tilts", *options, *families, "--json"]
        assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A small network, two surfaces a step, a clock by which every step takes six seconds, and no pictures."""
    ticks, usual = count(step=6.0), training.TrainingPlan

    class Plan(usual):
        __slots__ = ()

        def __init__(self, **given: Any) -> None:
            super().__init__(**{"batch": 2, **given})

    monkeypatch.setattr(vft, "Architecture", lambda: SMALL)
    monkeypatch.setattr(training, "TrainingPlan", Plan)
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    monkeypatch.setattr(card, "draw_curve", lambda _, path: path.write_bytes(b"not drawn"))


def run(*arguments: object, code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["train", *map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == code
    return json.loads(result.stdout)


def refuse(*arguments: object) -> RilievoError:
    with pytest.raises(RilievoError) as error:
        CliRunner().invoke(app, ["train", *map(str, arguments)], catch_exceptions=False)
    assert error.value.exit_code == 2
    return error.value


def stop_at(monkeypatch, step: int, number: int = signal.SIGINT) -> None:
    """Have the process asked to stop before a step."""
    original = checkpoint.before_each_step

    def watched(fit, call):
        def both():
            if fit.step == step:
                os.kill(os.getpid(), number)
            call()

        return original(fit, both)

    monkeypatch.setattr(checkpoint, "before_each_step", watched)


def test_a_fit_leaves_weights_card_and_curve(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(card, "draw_curve", DRAW)
    target = tmp_path / "new" / "model.safetensors"
    told = run(folder, "-o", target, "--minutes", "1.2", "--seed", "3")
    assert told["state"] == "finished"
    assert told["step"] == 12
    assert told["trained"] == {"value": 72.0, "unit": "s"}
    assert set(told["figures"]) == {"held_out_loss", "model_error", "local_error"}
    assert [Path(each).name for each in told["files"]] == ["model.safetensors", "model.png", "model.json"]
    assert sorted(path.name for path in target.parent.iterdir()) == [
        "model.json", "model.png", "model.safetensors", "model.safetensors.checkpoint",
    ]  # fmt: skip
    model = weights.load_model(target)
    assert model.card == told["card"] == json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
    assert model.network.architecture == SMALL
    assert target.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    said = model.card
    assert said["data"]["name"] == "tiny"
    assert said["data"]["families"] == {"facets": 2, "caps": 2}
    assert said["training"]["held_out"] == ["caps"]
    assert [point["step"] for point in said["training"]["curve"]] == [11]
    assert said["limits"]["materials"][0] in ("Cu", "Cu2O")
    assert said["limits"]["beam energy"] == [5.0, 5.0]
    assert 0 < said["limits"]["steepest slope"] < 90
    assert str(tmp_path) not in json.dumps(said)


def test_the_commands_of_the_card_make_the_same_again(folder, tmp_path):
    import shlex

    said = run(folder, "-o", tmp_path / "model.safetensors", "--minutes", "0.1", "--hold-out", "none")["card"]
    data, fitted = (shlex.split(said["commands"][name]) for name in ("data", "weights"))
    assert fitted == ["rilievo", "train", "tiny", "-o", "model.safetensors", "--minutes", "0.1", "--seed", "0",
                      "--hold-out", "none"]  # fmt: skip
    assert data[:4] == ["rilievo", "simulate", "dataset", "tiny"]
    words = [str(folder) if word == "tiny" else word for word in data[1:]]
    result = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert json.loads(result.stdout)["new"] == 0  # the same plan: all of it lies there already
    assert said["figures"] is None


def test_further_data_sets_are_trained_with_and_told(folder, tmp_path):
    finer = tmp_path / "finer"
    drawn = ["--samples", "2", "--pixels", "32", "--electrons-per-pixel", "10", "--energy", "3 keV", "--finest", "0.05"]
    words = ["simulate", "dataset", str(finer), *drawn, "--coarsest", "0.06", "--family", "islands", "--json"]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    told = run(folder, "--with", finer, "-o", tmp_path / "w.safetensors", "--minutes", "0.3")["card"]
    assert (told["data"]["samples"], told["data"]["electrons"]) == (6, 4 * 20 * 32**2 + 2 * 10 * 32**2)
    assert told["data"]["families"] == {"facets": 2, "caps": 2, "islands": 2}
    assert [each["name"] for each in told["data"]["further"]] == ["finer"]
    first, second = told["commands"]["data"].split(" && ")
    assert "dataset tiny --tilts " in first
    assert "dataset finer --samples 2 " in second
    assert "train tiny " in told["commands"]["weights"]
    assert " --with finer " in told["commands"]["weights"]
    assert "a data set was given twice" in str(refuse(folder, "--with", folder, "-o", tmp_path / "x.safetensors"))
    plan = (finer / "dataset.json").read_text().replace('"pixels": 32', '"pixels": 64')
    (finer / "dataset.json").write_text(plan)
    assert "samples of 64 pixels" in str(refuse(folder, "--with", finer, "-o", tmp_path / "x.safetensors"))


def test_figures_for_people(folder, tmp_path):
    words = ["train", str(folder), "-o", str(tmp_path / "m.safetensors"), "--time", "72 s", "--hold-out", "facets"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    assert "12 steps in 1.2 min on 2 surfaces" in result.stdout
    assert "model error" in result.stdout
    assert "5 keV" in result.stdout
    assert "--resume --minutes" in result.stdout
    assert "step 11, loss" in result.stderr


def test_a_request_to_end_and_a_closed_terminal_keep_a_checkpoint_too(folder, tmp_path, monkeypatch):
    for number in (signal.SIGTERM, signal.SIGHUP):
        with monkeypatch.context() as patch:
            stop_at(patch, 1, number)
            told = run(folder, "-o", tmp_path / f"{number}.safetensors", "--minutes", "1", code=130)
        assert told["reason"].startswith("stopped")
        assert Path(told["checkpoint"]).is_file()


def test_ctrl_c_keeps_a_checkpoint_and_resume_goes_on_exactly(folder, tmp_path, monkeypatch):
    whole = run(folder, "-o", tmp_path / "whole.safetensors", "--minutes", "0.6")
    target = tmp_path / "stopped.safetensors"
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        told = run(folder, "-o", target, "--minutes", "0.6", code=130)
    assert signal.getsignal(signal.SIGINT) is before
    assert told["state"] == "stopped"
    assert told["step"] == 4
    assert Path(told["checkpoint"]).is_file()
    assert not target.exists()
    assert "go on with --resume" in str(refuse(folder, "-o", target, "--minutes", "1"))
    again = run(folder, "-o", target, "--resume")
    assert again["step"] == whole["step"] == 6
    assert again["figures"] == whole["figures"]
    one, other = (weights.load_model(Path(each["files"][0])).network.state_dict() for each in (whole, again))
    assert all((one[name] == other[name]).all() for name in one)


def test_a_finished_fit_can_be_lengthened_or_begun_anew(folder, tmp_path):
    target = tmp_path / "m.safetensors"
    assert run(folder, "-o", target, "--minutes", "0.3")["step"] == 3
    assert run(folder, "-o", target, "--resume")["step"] == 3
    assert run(folder, "-o", target, "--resume", "--minutes", "0.5")["step"] == 5
    assert run(folder, "-o", target, "--minutes", "0.2")["step"] == 2


def test_a_data_set_that_grew_is_said(folder, tmp_path):
    import shutil

    copy = Path(shutil.copytree(folder, tmp_path / "tiny"))
    run(copy, "-o", tmp_path / "m.safetensors", "--minutes", "0.3")
    shutil.copy(copy / "sample-000000.exits", copy / "sample-000004.exits")
    told = run(copy, "-o", tmp_path / "m.safetensors", "--resume", "--minutes", "0.5")
    assert told["card"]["notes"] == ["the data set holds 5 samples; there were 4 before"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--minutes", "0"], "above 0 minutes"),
        (["--minutes", "nan"], "above 0 minutes"),
        (["--time", "5 nm"], "is a length"),
        (["--time", "10"], "has no unit"),
        (["--time", "1 min", "--minutes", "1"], "not both"),
        (["--seed", "-1"], "seed from 0"),
        (["--hold-out", "dunes"], "facets, caps"),
        (["--hold-out", "caps", "--hold-out", "facets"], "nothing is left"),
        (["--resume"], "no checkpoint"),
    ],
)
def test_bad_options_are_a_sentence(folder, tmp_path, options, words):
    assert words in str(refuse(folder, "-o", tmp_path / "m.safetensors", *options))
    assert not list(tmp_path.iterdir())


def test_bad_targets_are_a_sentence(folder, tmp_path):
    assert "ends in .safetensors" in str(refuse(folder, "-o", tmp_path / "model.json"))
    (tmp_path / "folder.safetensors").mkdir()
    assert "is a folder" in str(refuse(folder, "-o", tmp_path / "folder.safetensors"))
    (tmp_path / "file").write_text("")
    assert "cannot be made" in str(refuse(folder, "-o", tmp_path / "file" / "m.safetensors"))


def test_bad_data_is_a_sentence_and_leaves_nothing(folder, tmp_path):
    import shutil

    target = tmp_path / "out" / "m.safetensors"
    assert "there is no folder" in str(refuse(tmp_path / "none", "-o", target))
    (tmp_path / "empty").mkdir()
    assert "not a data set" in str(refuse(tmp_path / "empty", "-o", target))
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "sample-000001.exits").write_bytes(b"no electrons")
    assert "sample-000001.exits is not an exit file" in str(refuse(copy, "-o", target))
    assert not list(target.parent.iterdir())
    (copy / "sample-000001.exits").unlink()
    for plane in copy.glob("tilt-*.exits"):
        plane.unlink()
    assert "holds no tilted planes" in str(refuse(copy, "-o", target))


def test_resume_wants_what_was_begun(folder, tmp_path, monkeypatch):
    target = tmp_path / "m.safetensors"
    run(folder, "-o", target, "--minutes", "0.3", "--seed", "4")
    resumed = (folder, "-o", target, "--resume")
    assert "the seed 4" in str(refuse(*resumed, "--seed", "5"))
    assert "with caps held out" in str(refuse(*resumed, "--hold-out", "facets"))
    monkeypatch.setattr(vft, "Architecture", lambda: WIDE)
    assert "other sizes (width 6)" in str(refuse(*resumed))
    monkeypatch.setattr(vft, "Architecture", lambda: SMALL)
    kept = target.with_name("m.safetensors.checkpoint")
    kept.write_bytes(kept.read_bytes()[:5000])
    assert "not a checkpoint that can be read" in str(refuse(*resumed))


def full_disk_after(monkeypatch, writes: int) -> None:
    original, done = weights.write_whole, count()

    def write(path: Path, content: bytes) -> None:
        if next(done) >= writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        original(path, content)

    for module in (weights, checkpoint):
        monkeypatch.setattr(module, "write_whole", write)


def test_a_full_disk_is_told_at_once_and_keeps_what_there_was(folder, tmp_path, monkeypatch):
    target = tmp_path / "m.safetensors"
    with monkeypatch.context() as patch:
        full_disk_after(patch, 0)
        error = refuse(folder, "-o", target, "--minutes", "1")
        assert error.code == "disk-full"
        assert "no room left" in str(error)
        assert not list(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        full_disk_after(patch, 2)  # the checkpoints of the beginning and of the end fit, the weights do not
        assert "m.safetensors: there is no room left" in str(refuse(folder, "-o", target, "--minutes", "0.4"))
    assert not target.exists()
    told = run(folder, "-o", target, "--resume")
    assert told["step"] == 4
    assert target.exists()


def test_a_fit_that_runs_away_is_told(folder, tmp_path, monkeypatch):
    original = training.collate
    monkeypatch.setattr(
        training, "collate", lambda *given: (*original(*given)[:3], original(*given)[3] * 0, original(*given)[4])
    )
    with pytest.raises(RilievoError, match="ran away") as error:
        CliRunner().invoke(
            app, ["train", str(folder), "-o", str(tmp_path / "m.safetensors"), "--minutes", "1"], catch_exceptions=False
        )
    assert error.value.exit_code == 1


def test_the_command_ends_with_a_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rilievo", "train", str(tmp_path / "none"), "--json"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert "Traceback" not in captured.out + captured.err
    told = json.loads(captured.err)["error"]
    assert told["code"] == "input"
    assert "rilievo simulate dataset" in told["message"]


def test_the_verb_needs_no_torch_to_be_described():
    import subprocess

    code = "import sys; import acquisition.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert verb.train.__doc__
