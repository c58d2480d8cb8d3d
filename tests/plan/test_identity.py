from __future__ import annotations

from snakemake_blocks.plan.identity import differences, fingerprint_of


class TestDifferences:
    def test_by_hand(self) -> None:
        old = {"function": "m:f", "params": {"sigma": 5.0, "mode": "a"}, "block_size": [64, 64]}
        new = {
            "function": "m:f",
            "params": {"sigma": 6.0, "deep": {"x": 1}},
            "block_size": [32, 64],
        }
        assert differences(old, new) == [
            "block_size is [32, 64], was [64, 64]",
            "params.deep.x is 1, was not there",
            'params.mode is gone, was "a"',
            "params.sigma is 6.0, was 5.0",
        ]

    def test_equal_ones_differ_in_nothing(self) -> None:
        assert differences({"a": {}, "b": [1]}, {"b": [1], "a": {}}) == []

    def test_nothing_in_a_mapping(self) -> None:
        assert differences({"reads": {}}, {"reads": {"raw": 1}}) == [
            "reads.raw is 1, was not there",
        ]

    def test_long_values_are_cut(self) -> None:
        (found,) = differences({"a": ""}, {"a": "x" * 1000})
        assert len(found) < 100


def test_the_order_of_keys_is_no_difference() -> None:
    assert fingerprint_of({"a": 1, "b": 2}) == fingerprint_of({"b": 2, "a": 1})
    assert fingerprint_of({"a": 1, "b": 2}) != fingerprint_of({"a": 2, "b": 1})
