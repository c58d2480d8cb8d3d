from __future__ import annotations

from snakemake_blocks.tasks.params import unsorted_keys


class TestUnsortedKeys:
    def test_by_hand(self) -> None:
        steps = {"sharpen": {"b": 1, "a": 2}, "blur": [{"d": 1, "c": 2}, {"c": 1, "d": 2}]}
        assert unsorted_keys({"steps": steps, "mode": "a"}) == {
            "steps": ["sharpen", "blur"],
            "steps.sharpen": ["b", "a"],
            "steps.blur.0": ["d", "c"],
        }

    def test_the_params_themselves_are_arguments_with_names(self) -> None:
        assert unsorted_keys({"b": 1, "a": {"x": 1, "y": {}}}) == {}
