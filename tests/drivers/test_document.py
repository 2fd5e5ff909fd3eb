"""YAML with places: surprises refused, all problems at once, each where it stands."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers import document
from drivers.document import Strict, parse
from drivers.errors import DocumentError, InputError
from drivers.units import Temperature


class Oven(Strict):
    target: Temperature
    name: str = ""
    count: int = 1


class House(Strict):
    ovens: tuple[Oven, ...]


def problems(text, model=House):
    with pytest.raises(DocumentError) as caught:
        parse(text, "house.yaml").validate(model)
    return [(p.line, p.column, p.address, p.message) for p in caught.value.problems]


def test_reads_plain_scalars_as_people_mean_them():
    text = 'a: 1e-3\nb: "NO"\nc: 5 keV\nd: .5\ne: -7\nf:\ng: true\nh: 2026-01-01\ni: [1, two]'
    assert parse(text).data == {
        "a": 1e-3,
        "b": "NO",
        "c": "5 keV",
        "d": 0.5,
        "e": -7,
        "f": None,
        "g": True,
        "h": "2026-01-01",
        "i": [1, "two"],
    }


@pytest.mark.parametrize("scalar", ["NO", "yes", "off", "y", "12:30:00", "1:30", "010", "1_000"])
def test_yaml_surprises_are_refused_with_the_remedy(scalar):
    with pytest.raises(DocumentError) as caught:
        parse(f"first: 1\nname: {scalar}\n", "a.yaml")
    (problem,) = caught.value.problems
    assert (problem.where, problem.address) == ("a.yaml:2:7", "name")
    assert f"'{scalar}' in quotes" in problem.message
    assert parse(f"name: '{scalar}'").data == {"name": scalar}


def test_duplicate_keys_name_both_lines():
    with pytest.raises(DocumentError, match=r"a.yaml:3:1: a: the key 'a' stands twice, first in line 1"):
        parse("a: 1\nb: 2\na: 3\n", "a.yaml")


def test_all_problems_at_once_in_the_order_of_the_text():
    text = "ovens:\n  - {target: 400 Pa}\n  - {targe: 400 degC}\n  - {target: 400 degC, count: many}\n"
    found = problems(text)
    assert [(line, column, address) for line, column, address, _ in found] == [
        (2, 14, "ovens[0].target"),
        (3, 5, "ovens[1]"),
        (3, 6, "ovens[1].targe"),
        (4, 31, "ovens[2].count"),
    ]
    messages = [message for *_, message in found]
    assert messages[0] == "400 Pa is a pressure; expected a temperature, such as 400 degC"
    assert messages[1] == "the key 'target' is missing"
    assert messages[2] == "'targe' is not a key here; did you mean 'target'?"
    assert "'many'" in messages[3]


def test_syntax_errors_point_at_the_place():
    with pytest.raises(DocumentError, match=r"x.yaml:2:\d+: not valid YAML"):
        parse("a: [1,\n b: }", "x.yaml")


BAD_TEXT = {
    "empty": ("", "empty"),
    "comment only": ("# nothing\n", "empty"),
    "python tag": ("a: !!python/object:os.system 1", "not allowed"),
    "refers to itself": ("a: &x [*x]", "refers to itself"),
    "key that is a list": ("{[1, 2]: 3}", "must be a word"),
}


@pytest.mark.parametrize(("text", "word"), BAD_TEXT.values(), ids=BAD_TEXT.keys())
def test_bad_text_is_refused(text, word):
    with pytest.raises(DocumentError, match=word):
        parse(text, "a.yaml")


def test_aliases_that_explode_are_refused():
    text = "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
    for before, name in zip("abcdef", "bcdefg", strict=True):
        text += f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    with pytest.raises(DocumentError, match="too large"):
        parse(text, "bomb.yaml")


def test_files_that_cannot_be_read(tmp_path):
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(bytes(range(256)))
    zeros = tmp_path / "zeros.yaml"
    zeros.write_bytes(b"\x00" * 16)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"a" * (document.MAXIMUM_BYTES + 1))
    for path, word in (
        (tmp_path / "none.yaml", "no such file"),
        (tmp_path, "folder"),
        (binary, "not text"),
        (zeros, "binary"),
        (large, "MB at most"),
    ):
        with pytest.raises(InputError, match=word) as caught:
            document.read(path)
        assert caught.value.where == str(path)


@given(st.text(alphabet=st.sampled_from("ab:{}[],- \n\"'#&*!|>%@`0123\t"), max_size=60))
def test_any_text_parses_or_is_refused_with_a_place(text):
    try:
        parse(text, "any.yaml")
    except DocumentError as error:
        assert all(problem.file == "any.yaml" and problem.message for problem in error.problems)


def test_a_coordinate_is_not_taken_for_a_truth_value():
    assert parse("at: {x: 1 um, y: 2 um}").data == {"at": {"x": "1 um", "y": "2 um"}}
    with pytest.raises(DocumentError):
        parse("at: {x: 1 um, n: 2 um}")
