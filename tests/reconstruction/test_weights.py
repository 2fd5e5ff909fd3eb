from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from drivers.errors import InputError
from reconstruction import weights
from reconstruction.basis import emission_basis
from reconstruction.local_law import Condition, LocalLaw, law_terms
from reconstruction.vft import Architecture, Network, VisionFieldTransformer
from reconstruction.weights import check_material, check_validity, load_model, save_model

SMALL = Architecture(width=8, token_width=16, heads=2, blocks=1, scales=(0.1, 0.5))
CARD = {
    "data": {"name": "copper", "energies_keV": [3.0, 5.0]},
    "limits": {
        "materials": ["Cu", "Cu2O"],
        "beam energy": [3.0, 20.0],
        "pixel size": [0.02, 0.5],
        "diode threshold": [0.0, 0.65],
        "steepest slope": 61.5,
    },
}


@pytest.fixture
def model() -> VisionFieldTransformer:
    torch.manual_seed(3)
    basis = emission_basis()
    network = Network(SMALL, len(basis))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    table = torch.randn(2, 3, 2, len(law_terms(basis)), 4)
    return VisionFieldTransformer(network, LocalLaw((3.0, 5.0, 20.0), (0.0, 0.65), table), basis, CARD)


@pytest.fixture
def path(model, tmp_path):
    save_model(tmp_path / "deep" / "model.safetensors", model)
    return tmp_path / "deep" / "model.safetensors"


def refusal(path) -> str:
    with pytest.raises(InputError) as error:
        load_model(path)
    assert str(path) in str(error.value)
    assert error.value.exit_code == 2
    return str(error.value)


def rewritten(path, words=None, tensors=None):
    """The same file with some of its words and tensors changed; None leaves one out."""
    with safe_open(path, framework="pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()} | (tensors or {})  # noqa: SIM118
        said = file.metadata() | (words or {})
    save_file(
        {name: value for name, value in kept.items() if value is not None},
        path,
        metadata={name: value for name, value in said.items() if value is not None},
    )
    return path


def test_a_model_comes_back_bit_for_bit(model, path):
    again = load_model(path)
    for name, value in model.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value)
    assert torch.equal(again.law.table, model.law.table)
    assert (again.law.energies, again.law.thresholds) == (model.law.energies, model.law.thresholds)
    assert again.network.architecture == SMALL
    assert again.basis.lowest == model.basis.lowest
    assert (again.basis.polynomials == model.basis.polynomials).all()
    assert again.card == CARD
    assert not again.network.training
    assert not any(parameter.requires_grad for parameter in again.network.parameters())
    z = torch.randn(1, 20, 30)
    condition = Condition(0.1, 5.0, 0.2)
    model.network.eval()
    assert torch.equal(again(z, torch.zeros_like(z), condition), model(z, torch.zeros_like(z), condition))
    assert not list(path.parent.glob("*.part"))


def test_a_file_that_changed_is_read_again(model, path):
    first = load_model(path)
    assert load_model(path) is first
    model.card = {**CARD, "data": {"name": "another, with a longer name"}}
    save_model(path, model)
    assert load_model(path).card["data"]["name"].startswith("another")


def test_missing_weights_say_where_to_get_them(tmp_path, monkeypatch):
    assert "rilievo train" in refusal(tmp_path / "none.safetensors")
    monkeypatch.setattr(weights, "SHIPPED", tmp_path / "shipped.safetensors")
    with pytest.raises(InputError, match=r"no weights at .*shipped.*install it again"):
        load_model()


def test_damaged_weights_are_refused(path, tmp_path):
    whole = path.read_bytes()
    for name, content in (
        ("cut", whole[:-1000]),
        ("short", whole[:5]),
        ("empty", b""),
        ("text", b"weights" * 100),
        ("header", b"\xff" * 8 + whole[8:]),
        ("words", whole[:8] + b"!" + whole[9:]),
    ):
        (tmp_path / name).write_bytes(content)
        assert "train it again" in refusal(tmp_path / name)
    assert "weights" in refusal(tmp_path)  # a folder


def test_weights_that_are_not_numbers_are_refused(path, model):
    name, value = next(iter(model.network.state_dict().items()))
    broken = value.clone()
    broken.view(-1)[0] = torch.nan
    assert "not numbers" in refusal(rewritten(path, tensors={f"network.{name}": broken}))
    law = torch.full_like(model.law.table, torch.inf)
    assert "not numbers" in refusal(rewritten(path, tensors={f"network.{name}": value, "law": law}))


@pytest.mark.parametrize("words", [{"version": "2"}, {"format": "other"}, {"format": None}])
def test_other_versions_are_refused(path, words):
    assert "expected 'rilievo transformer', version 1" in refusal(rewritten(path, words))


@pytest.mark.parametrize(
    "words",
    [
        {"architecture": json.dumps({"width": 9})},
        {"architecture": json.dumps({"depth": 9})},
        {"architecture": "not JSON"},
        {"basis": json.dumps({"polar": [2, 1], "lowest": emission_basis().lowest})},
        {"basis": json.dumps({"polar": [5, 5, 4, 3, 2], "lowest": 0.5})},
        {"law": None},
        {"card": "{"},
    ],
)
def test_words_that_do_not_fit_are_refused(path, words):
    assert "does not hold weights that can be read" in refusal(rewritten(path, words))


def test_tensors_that_do_not_fit_are_refused(path, model):
    name = f"network.{next(iter(model.network.state_dict()))}"
    assert "can be read" in refusal(rewritten(path, tensors={name: None}))


def test_within_the_card_nothing_is_said():
    for pixel, energy, threshold in ((0.1, 5.0, 0.2), (0.02, 3.0, 0.0), (0.5, 20.0, 0.65)):
        assert check_validity(CARD, Condition(pixel, energy, threshold)) == []
    assert check_validity(CARD, Condition(0.1, 5.0, 0.2, True)) == []


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (Condition(0.1, 2.0, 0.2), ["BEAM ENERGY OF 2 keV", "3 to 20"]),
        (Condition(0.1, 30.0, 0.2), ["BEAM ENERGY OF 30 keV"]),
        (Condition(0.8, 5.0, 0.2), ["PIXEL SIZE OF 0.8 electron ranges", "0.02 to 0.5"]),
        (Condition(0.1, 5.0, 0.9), ["DIODE THRESHOLD OF 0.9 of the beam energy", "0 to 0.65"]),
    ],
)
def test_beyond_the_card_it_is_said_where(condition, words):
    (said,) = check_validity(CARD, condition)
    assert all(word in said for word in words)


def test_everything_beyond_is_said_at_once():
    assert len(check_validity(CARD, Condition(0.8, 2.0, 0.9))) == 3


def test_another_material_is_refused():
    for name in ("Cu", "Cu2O"):
        check_material(CARD, name)
    with pytest.raises(InputError, match=r"trained on Cu and Cu2O, not on Au.*--quality preview"):
        check_material(CARD, "Au")
