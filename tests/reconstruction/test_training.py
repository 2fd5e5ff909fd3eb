from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from drivers.errors import InputError, RilievoError
from reconstruction import training as module
from reconstruction.basis import emission_basis
from reconstruction.card import (
    build_card,
    choose_held_out,
    draw_curve,
    held_out_figures,
    limits,
    read_data_set,
    steepest_slope,
)
from reconstruction.checkpoint import before_each_step, is_finished, load_checkpoint, save_checkpoint
from reconstruction.exit_file import read_exits
from reconstruction.local_law import Condition
from reconstruction.training import (
    THRESHOLDS,
    Sample,
    TrainingPlan,
    collate,
    evaluate,
    fit,
    fit_local_law,
    load_samples,
    oxide_share,
    predict,
    start_training,
)
from reconstruction.vft import Architecture
from reconstruction.weights import check_material, check_validity
from simulators import dataset

BASIS = emission_basis()
SMALL = Architecture(width=6, token_width=8, heads=2, blocks=2)
STEPS = TrainingPlan(minutes=12 / 60, batch=2, rate=0.02, held_out=("caps",), seed=5)
"""Twelve steps, by a clock that ticks once in each."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums are added in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data set of two facetted surfaces and two of caps, 32 × 32 pixels, few electrons, with tilted planes."""
    path = tmp_path_factory.mktemp("sets") / "tiny"
    plan = dataset.DatasetPlan(
        seed=2, pixels=32, electrons=40, energies=(5.0,), finest=0.1, coarsest=0.3, families=("facets", "caps")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "TILTED_ELECTRONS", 150)
        dataset.build_tilts(path, plan)
    dataset.build_dataset(path, plan, samples=4)
    return path


@pytest.fixture(scope="module")
def law(folder):
    return fit_local_law(folder, BASIS)


@pytest.fixture(scope="module")
def samples(folder, law) -> list[Sample]:
    return load_samples(folder, law, BASIS)


@pytest.fixture(autouse=True)
def ticking(monkeypatch):
    """A clock by which every step takes a second."""
    ticks = count()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))


def weights(training) -> torch.Tensor:
    return torch.cat(
        [p.detach().ravel() for net in (training.network, training.averaged, training.best) for p in net.parameters()]
    )


# -- data


def test_samples_are_surfaces_with_their_electrons(folder, law, samples):
    assert [sample.family for sample in samples] == ["facets", "caps"] * 2
    for sample, path in zip(samples, sorted(folder.glob("sample-*.exits")), strict=True):
        exits = read_exits(path)
        assert sample.z.shape == sample.oxide.shape == (32, 32)
        assert sample.targets.shape == (len(THRESHOLDS), len(BASIS), 32, 32)
        assert abs(float(sample.z.mean())) < 1e-3
        np.testing.assert_allclose(np.ptp(sample.z.numpy()), np.ptp(exits.height) / exits.pixel_size, rtol=1e-4)
        assert sample.conditions[3].threshold == THRESHOLDS[3]
        assert 0.1 <= sample.conditions[0].pixel <= 0.3
        found, variances = exits.coefficients(BASIS, THRESHOLDS)
        level = float(law.at(sample.conditions[2], sample.conditions[2].oxide)[0, 0])
        np.testing.assert_allclose(sample.targets[2].float(), found[2] / level, atol=5e-3, rtol=2e-3)
        np.testing.assert_allclose(sample.variances[2], variances[2] / level**2, rtol=1e-4)
        torch.testing.assert_close(sample.oxide, torch.from_numpy(oxide_share(exits)))


def test_the_local_law_is_what_tilted_planes_emit(folder, law):
    """Each coefficient of each plane within its counting error, which the mean over 64 pixels divides by 8."""
    pulls = []
    for path in sorted(folder.glob("tilt-*.exits")):
        exits = read_exits(path)
        if exits.tilt > module.STEEPEST_FIT:
            continue
        place = THRESHOLDS.index(0.2)
        found, variances = exits.coefficients(BASIS, (0.2,))
        cosines = ~BASIS.sine
        row = law.at(Condition(0.1, 5.0, THRESHOLDS[place]), exits.materials[0] == "Cu2O").numpy()
        powers = np.sin(exits.tilt) ** (BASIS.order[cosines][:, None] + 2 * np.arange(row.shape[1]))
        said = (row * powers).sum(axis=1)
        pulls.append((found[0].mean(axis=(1, 2))[cosines] - said) / np.sqrt(variances[0][cosines] / 64))
    # Four parameters were fitted to eight tilts.
    assert len(pulls) == 16
    assert 0.4 < np.std(pulls) < 1.2


def test_thin_oxide_counts_for_what_it_covers(folder):
    exits = read_exits(folder / "sample-000000.exits")
    depth = np.zeros((32, 32), np.float32)
    depth[0, 0], depth[0, 1] = 10 * exits.electron_range, module.OXIDE_DEPTH * exits.electron_range
    share = oxide_share(replace(exits, materials=("Cu", "Cu2O"), thickness=depth))
    assert (share[0, 0], share[1, 1]) == pytest.approx((1, 0))
    assert share[0, 1] == pytest.approx(1 - math.exp(-1))
    assert (oxide_share(replace(exits, materials=("Cu2O",))) == 1).all()


@pytest.fixture(scope="module")
def exact(law, samples) -> Sample:
    """A sample whose targets are what the local law says, without noise."""
    sample = samples[0]
    network = start_training(SMALL, STEPS, BASIS).network
    with torch.no_grad():
        targets = torch.stack(
            [predict(network, law, BASIS, sample.z[None], sample.oxide[None], [each])[0] for each in sample.conditions]
        )
    return replace(sample, targets=targets)


def test_surfaces_and_targets_are_turned_alike(exact, law):
    network = start_training(SMALL, STEPS, BASIS).network
    seen = set()
    for seed in range(30):
        z, oxide, target, variance, conditions = collate([exact] * 2, np.random.default_rng(seed), BASIS)
        with torch.no_grad():
            torch.testing.assert_close(predict(network, law, BASIS, z, oxide, conditions), target, atol=2e-4, rtol=1e-3)
        assert variance.shape == (2, len(BASIS))
        seen |= {(float(each[0, 0]), float(each[0, -1])) for each in z}
    assert len(seen) == 8


def test_a_perfect_model_has_a_loss_of_one(samples, law, exact):
    network = start_training(SMALL, STEPS, BASIS).network
    noise = torch.randn(exact.targets.shape, generator=torch.Generator().manual_seed(1))
    variances = exact.variances / 400  # as of 16,000 electrons a pixel
    noisy = replace(exact, targets=exact.targets + noise * variances.sqrt()[:, :, None, None], variances=variances)
    found = evaluate(network, [noisy], law, BASIS)
    assert found["held_out_loss"] == pytest.approx(1, abs=0.03)
    # The local law is exact here; what is left of its error is the noise's own scatter, of either sign.
    assert found["model_error"] == pytest.approx(found["local_error"])
    assert abs(found["model_error"]) < 0.1
    assert evaluate(network, [exact], law, BASIS)["held_out_loss"] < 1e-4


# -- the fit


@pytest.fixture(scope="module")
def taught(law, samples) -> list[Sample]:
    """Samples whose targets are what another network says of them, with the noise of 4,000 electrons a pixel."""
    teacher = start_training(SMALL, replace(STEPS, seed=77), BASIS).network
    with torch.no_grad():
        teacher.linear.linear.weight.normal_(std=0.02, generator=torch.Generator().manual_seed(1))
    rng, found = torch.Generator().manual_seed(2), []
    for sample in samples[:2]:
        with torch.no_grad():
            targets = torch.stack(
                [
                    predict(teacher, law, BASIS, sample.z[None], sample.oxide[None], [each])[0]
                    for each in sample.conditions
                ]
            )
        variances = sample.variances / 100
        noise = torch.randn(targets.shape, generator=rng) * variances.sqrt()[:, :, None, None]
        found.append(replace(sample, targets=targets + noise, variances=variances))
    return found


def test_the_weights_that_met_the_held_out_surfaces_best_are_kept(tmp_path):
    def weights(network):
        return float(next(network.parameters()).detach().flatten()[0])

    begun = start_training(SMALL, STEPS, BASIS)
    assert begun.result is begun.averaged
    for value, loss in ((1.0, 1.3), (2.0, 1.1), (3.0, 1.2)):
        with torch.no_grad():
            next(begun.averaged.parameters()).fill_(value)
        module._keep_best(begun, {"held_out_loss": loss})
    module._keep_best(begun, {"loss": 0.5})  # nothing was held out: nothing is known
    assert (weights(begun.result), weights(begun.averaged), begun.best_loss) == (2.0, 3.0, 1.1)
    save_checkpoint(tmp_path / "c", begun, STEPS, BASIS, {})
    again = load_checkpoint(tmp_path / "c", SMALL, BASIS).training
    assert (weights(again.result), weights(again.averaged), again.best_loss) == (2.0, 3.0, 1.1)


def test_the_loss_falls(taught, law, monkeypatch):
    slow = count(step=2.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(slow)))
    plan = replace(STEPS, minutes=64 / 60, batch=2, held_out=(), rate=0.05, floor=0.0)
    begun = start_training(SMALL, plan, BASIS)
    before = evaluate(begun.network, taught, law, BASIS)
    told, saved = [], []
    fit(begun, taught, law, BASIS, plan, lambda *now: told.append(now), saved.append)
    assert begun.step == 32
    for network in (begun.network, begun.averaged):
        after = evaluate(network, taught, law, BASIS)
        assert after["held_out_loss"] - 1 < 0.7 * (before["held_out_loss"] - 1)
        assert after["model_error"] < before["model_error"] == pytest.approx(before["local_error"])
    assert saved[-1] is begun
    assert [point["step"] for point in begun.curve] == [31]
    assert "held_out_loss" not in begun.curve[0]  # nothing was held out
    (share, words) = told[0]
    assert 0.9 < share <= 1
    assert "loss" in words


def test_held_out_families_take_no_part(samples, law):
    garbage = [
        replace(sample, targets=sample.targets + 50) if sample.family == "caps" else sample for sample in samples
    ]
    results = []
    for given in (samples, garbage):
        begun = start_training(SMALL, STEPS, BASIS)
        fit(begun, given, law, BASIS, STEPS)
        results.append(weights(begun))
    assert torch.equal(*results)
    assert not torch.equal(results[0], weights(start_training(SMALL, STEPS, BASIS)))


def test_with_everything_held_out_there_is_nothing_to_fit(samples, law):
    with pytest.raises(InputError, match="nothing is left to train with"):
        fit(start_training(SMALL, STEPS, BASIS), samples, law, BASIS, replace(STEPS, held_out=("caps", "facets")))


class Enough(Exception):
    pass


def stopped_after(steps, samples, law, path):
    """Stop a fit and put it away."""
    begun = start_training(SMALL, STEPS, BASIS)

    def stop():
        if begun.step == steps:
            raise Enough

    with pytest.raises(Enough), before_each_step(begun, stop):
        fit(begun, samples, law, BASIS, STEPS)
    save_checkpoint(path, begun, STEPS, BASIS, {"name": "tiny"})
    return begun


@pytest.mark.parametrize("steps", [0, 7])
def test_a_resumed_fit_equals_an_uninterrupted_one(samples, law, tmp_path, steps):
    whole = start_training(SMALL, STEPS, BASIS)
    fit(whole, samples, law, BASIS, STEPS)
    assert whole.step == 12
    begun = stopped_after(steps, samples, law, tmp_path / "c")
    torch.manual_seed(99)
    found = load_checkpoint(tmp_path / "c", SMALL, BASIS)
    assert (found.plan, found.data) == (STEPS, {"name": "tiny"})
    assert (found.training.step, found.training.seconds) == (steps, float(steps))
    assert torch.equal(weights(found.training), weights(begun))
    assert not is_finished(tmp_path / "c")
    fit(found.training, samples, law, BASIS, found.plan)
    assert found.training.step == 12
    assert torch.equal(weights(found.training), weights(whole))
    save_checkpoint(tmp_path / "c", found.training, STEPS, BASIS, {})
    assert is_finished(tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


# -- checkpoints


@pytest.fixture
def saved(tmp_path) -> Path:
    begun = start_training(SMALL, STEPS, BASIS)
    begun.curve.append({"minutes": 1.0, "step": 3, "loss": 1.25})
    save_checkpoint(tmp_path / "fit.checkpoint", begun, STEPS, BASIS, {})
    return tmp_path / "fit.checkpoint"


def refusal(path, architecture=SMALL) -> str:
    with pytest.raises(InputError) as error:
        load_checkpoint(path, architecture, BASIS)
    assert str(path) in str(error.value)
    return str(error.value)


def test_the_curve_is_kept(saved):
    assert load_checkpoint(saved, SMALL, BASIS).training.curve == [{"minutes": 1.0, "step": 3, "loss": 1.25}]


def test_a_checkpoint_of_another_network_is_refused(saved):
    told = refusal(saved, Architecture())
    assert "width 6" in told
    assert "expected width 48" in told
    with pytest.raises(InputError, match="order"):
        load_checkpoint(saved, SMALL, emission_basis((3, 2)))


def test_a_checkpoint_that_cannot_be_read_is_refused(saved, tmp_path):
    assert "leave --resume out" in refusal(tmp_path / "none")
    whole = saved.read_bytes()
    for content in (whole[:-100], whole[:4], b"", b"text" * 50):
        saved.write_bytes(content)
        assert "not a checkpoint that can be read" in refusal(saved)
        assert not is_finished(saved)


@pytest.mark.parametrize("words", [{"version": "9"}, {"format": "other"}, {"plan": "{}"}, {"state": None}])
def test_words_that_do_not_fit_are_refused(saved, words):
    with safe_open(saved, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        said = {name: value for name, value in (file.metadata() | words).items() if value is not None}
    save_file(tensors, saved, said)
    assert "begin the fit anew" in refusal(saved)


def test_weights_that_ran_away_do_not_replace_good_ones(saved):
    before = saved.read_bytes()
    begun = start_training(SMALL, STEPS, BASIS)
    with torch.no_grad():
        next(begun.network.parameters()).fill_(torch.nan)
    with pytest.raises(RilievoError, match="ran away"):
        save_checkpoint(saved, begun, STEPS, BASIS, {})
    assert saved.read_bytes() == before


# -- the data set's own words, and the card


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_a_data_set_tells_what_it_is(folder):
    data = read_data_set(folder)
    assert data.families == ("facets", "caps", "facets", "caps")
    assert data.planes == 18
    assert data.electrons == 4 * 32**2 * 40
    assert data.words()["name"] == "tiny"


def damage(path: Path, how: str) -> None:
    words = json.loads((path / "dataset.json").read_text())
    if how == "no folder":
        shutil.rmtree(path)
    elif how in ("samples", "tilts"):
        for file in path.glob(f"{how[:-1]}-*.exits"):
            file.unlink()
    elif how == "name":
        (path / "sample-000003.exits").rename(path / "sample-three.exits")
    elif how == "sizes":
        words["plan"]["pixels"] = 48
    elif how == "families":
        words["plan"]["families"] = []
    elif how == "no plan":
        del words["plan"]
    if how in ("sizes", "families", "no plan"):
        (path / "dataset.json").write_text(json.dumps(words))
    if how == "no words":
        (path / "dataset.json").unlink()
    if how == "no JSON":
        (path / "dataset.json").write_text("[")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no folder", "there is no folder .* make a data set"),
        ("samples", "holds no samples; add some"),
        ("tilts", "holds no tilted planes; add them"),
        ("name", "sample-three.exits"),
        ("sizes", "samples of 48 pixels; expected a multiple of 32"),
        ("families", "does not describe a data set"),
        ("no plan", "does not describe a data set .*plan"),
        ("no words", "not a data set"),
        ("no JSON", "does not describe a data set"),
    ],
)
def test_what_cannot_be_trained_with_is_refused_at_once(copy, how, words):
    damage(copy, how)
    with pytest.raises(InputError, match=words):
        read_data_set(copy)


def test_a_damaged_sample_is_named(copy, law):
    (copy / "sample-000002.exits").write_bytes(b"no electrons")
    with pytest.raises(InputError, match=r"sample-000002\.exits is not an exit file"):
        load_samples(copy, law, BASIS)
    (copy / "tilt-000001.exits").write_bytes(b"no electrons")
    with pytest.raises(InputError, match=r"tilt-000001\.exits is not an exit file"):
        fit_local_law(copy, BASIS)


def test_families_are_held_out_as_asked(folder):
    data = read_data_set(folder)
    assert choose_held_out(data, None) == ("caps",)
    assert choose_held_out(replace(data, families=("facets", "afm")), None) == ()
    assert choose_held_out(replace(data, families=("caps",)), None) == ()
    assert choose_held_out(data, ["facets", "facets"]) == ("facets",)
    assert choose_held_out(data, ["none"]) == ()
    with pytest.raises(InputError, match=r"'dunes'; there are facets, caps"):
        choose_held_out(data, ["dunes"])
    with pytest.raises(InputError, match="nothing is left"):
        choose_held_out(data, ["caps", "facets"])


def test_the_steepest_slope_leaves_out_a_thousandth(samples):
    rows, columns = np.indices((64, 64))
    roof = replace(samples[0], z=torch.from_numpy(0.75 * columns + 1.0 * rows).float())
    assert steepest_slope([roof]) == pytest.approx(math.degrees(math.atan(1.25)), abs=0.01)


def test_the_card_says_where_the_model_is_valid(folder, samples, law, tmp_path):
    data, begun = read_data_set(folder), start_training(SMALL, STEPS, BASIS)
    figures = held_out_figures(begun, samples, law, BASIS, STEPS)
    assert figures["samples"] == 2
    assert figures["families"] == ["caps"]
    assert [part["energy"] for part in figures["by_energy"]] == [5.0]
    assert sum(part["samples"] for part in figures["by_pixel_size"]) == 2
    # A network that learned nothing is the local law.
    assert figures["model_error"] == pytest.approx(figures["local_error"])
    card = build_card([data], samples, begun, STEPS, figures, {"data": "a", "weights": "b"}, "2024-05-01T00:00:00Z")
    kept = [sample for sample in samples if sample.family == "facets"]
    assert card["limits"] == limits(kept)
    assert card["limits"]["pixel size"] == [
        min(s.conditions[0].pixel for s in kept),
        max(s.conditions[0].pixel for s in kept),
    ]
    assert card["data"]["trained_on"] == card["data"]["held_out"] == 2
    assert card["network"]["parameters"] == sum(p.numel() for p in begun.network.parameters())
    again = json.loads(json.dumps(card, allow_nan=False))
    inside = kept[0].conditions[0]
    check_material(again, "Cu2O" if inside.oxide else "Cu")
    assert check_validity(again, inside) == []
    assert len(check_validity(again, replace(inside, energy=20.0))) == 1
    draw_curve(card, tmp_path / "curve.png")
    draw_curve({**card, "figures": None}, tmp_path / "bare.png")
    assert (tmp_path / "curve.png").read_bytes()[:4] == (tmp_path / "bare.png").read_bytes()[:4] == b"\x89PNG"


def test_nothing_held_out_gives_no_figures(samples, law):
    assert (
        held_out_figures(start_training(SMALL, STEPS, BASIS), samples, law, BASIS, replace(STEPS, held_out=())) is None
    )
