from __future__ import annotations

import time

import pytest

from snakemake_blocks.spec.yaml_text import YamlError, parse_yaml


# faults: kind 12
class TestRefused:
    @pytest.mark.parametrize(
        "text, problem",
        [
            ("a: " + "9" * 5000, "line 1, column 4: 999.* has more than 300 digits"),
            ("a: 1.0e+400", r"line 1, column 4: 1\.0e\+400 is larger than a float can be"),
            ("a: [-2.5e+309]", r"line 1, column 5: -2\.5e\+309 is larger than a float can be"),
            ("a: 0x" + "f" * 5000, "line 1, column 4: 0xff.* has more than 300 digits"),
            ("a: 1" + ":1" * 5000, "line 1, column 4: .* has more than 300 digits"),
            ("a: &x [*x]", "line 1, column 4: refers to itself by an alias"),
            ("a: &x {b: [*x]}", "line 1, column 4: refers to itself"),
            ("a: !!int maybe", "line 1, column 4: maybe is no value of the type int"),
            ("a: !!float x", "x is no value of the type float"),
            ("a: !!bool maybe", "maybe is no value of the type bool"),
            ("a: !!timestamp soon", "soon is no value of the type timestamp"),
            ("a: 2001-99-99", "2001-99-99 is no value of the type timestamp"),
            ("a: !!int ''", " is no value of the type int"),
            ("a: !!python/none x", "not YAML: could not determine a constructor"),
            ("a: 1\na: 2", "line 2, column 1: a is given twice; remove one"),
            ("{[1]: 2}", "line 1, column 2: a list or mapping cannot be a key"),
            ('a: "\\uD800"', "half of a surrogate pair"),
            ("a: \0", "not YAML: special characters are not allowed"),
            ("[" * 20000, "is nested too deeply"),
            ("a: [", "not YAML: "),
            ("a: 1\n---\nb: 2", "not YAML: "),
        ],
    )
    def test_with_its_line(self, text: str, problem: str) -> None:
        with pytest.raises(YamlError, match=problem) as caught:
            parse_yaml(text)
        assert len(str(caught.value)) < 200

    def test_a_bomb_of_aliases(self) -> None:
        lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
        for n in range(1, 30):
            lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]")
        with pytest.raises(YamlError, match="aliases make more than 1,000,000 values"):
            parse_yaml("\n".join(lines))


# faults: kind 12
def test_time_grows_with_the_keys_and_not_their_square() -> None:
    seconds = []
    for count in (1000, 8000):
        text = "\n".join(f"k{n}: 1" for n in range(count))
        begin = time.process_time()
        assert len(parse_yaml(text)) == count
        seconds.append(time.process_time() - begin)
    assert seconds[1] < 24 * seconds[0]


def test_what_is_right_stays() -> None:
    text = "a: &x {b: [1, 2.5, 0x10, text, null, true]}\nc: *x\nd: {<<: *x, e: 1}"
    inner = {"b": [1, 2.5, 16, "text", None, True]}
    assert parse_yaml(text) == {"a": inner, "c": inner, "d": {**inner, "e": 1}}
    assert parse_yaml("") is None
