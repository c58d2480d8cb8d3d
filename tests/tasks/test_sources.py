from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest
from project import Project

from snakemake_blocks.errors import InputError
from snakemake_blocks.tasks.functions import FunctionRef
from snakemake_blocks.tasks.operation import Call
from snakemake_blocks.tasks.sources import call_problems, facts_of, missing_function

MODULE = """
    import os.path as path
    from math import *
    from json import dumps as to_text

    NUMBER = 3
    TEXT: str = "a"

    def plain(block, sigma=1, *, window):
        hidden = 1

    @decorated
    def wrapped(anything):
        pass

    async def later(block):
        pass

    if NUMBER:
        def conditional(block):
            pass

    def twice(block): pass
    def twice(block, more): pass

    shadowed = plain
    partial = path.join(plain, 3)

    class Model:
        def __init__(self, path, *, device="cpu"):
            pass

        def __call__(self, block):
            pass

    class Child(Model):
        pass

    def loads(raw, mask, sigma=1): pass
    def takes_all(raw, **more): pass
    def takes_block(raw, block): pass
    def no_block(): pass
    def worker(path): pass
"""


@pytest.fixture
def folder(project: Project) -> Path:
    project.functions(MODULE.replace("    from math import *\n", ""))
    project.functions(MODULE, "starred")
    return project.folder


class TestMissingFunction:
    @pytest.mark.parametrize(
        "name",
        ["plain", "wrapped", "later", "conditional", "twice", "shadowed", "partial", "Model",
         "Model.__call__", "Child.inherited", "path", "to_text", "TEXT"],
    )  # fmt: skip
    def test_what_the_module_binds_is_there(self, folder: Path, name: str) -> None:
        assert missing_function(f"functions:{name}", folder) == ""

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("hidden", "functions.py defines no hidden"),
            ("plane", "functions.py defines no plane"),
            ("NUMBER", "NUMBER of functions.py is 3, not a function"),
            ("Model.forward", "Model of functions.py defines no forward"),
        ],
    )
    def test_what_it_does_not_bind_is_not(self, folder: Path, name: str, reason: str) -> None:
        assert missing_function(f"functions:{name}", folder) == reason

    def test_a_star_import_may_bring_anything(self, folder: Path) -> None:
        assert missing_function("starred:anything", folder) == ""

    def test_installed_modules_are_found(self, folder: Path) -> None:
        assert missing_function("scipy.ndimage:gaussian_filter", folder) == ""
        assert missing_function("os.path:join", folder) == ""
        assert missing_function("math:sin", folder) == ""

    def test_packages_are_not_imported(self, folder: Path) -> None:
        package = folder / "heavy"
        package.mkdir()
        (package / "__init__.py").write_text("raise SystemExit('imported')\n")
        (package / "model.py").write_text("def predict(block): pass\n")
        assert missing_function("heavy.model:predict", folder) == ""
        assert missing_function("heavy.model:train", folder) == "model.py defines no train"
        assert "heavy" not in sys.modules
        assert missing_function("heavy.nothing:train", folder) == (
            "there is no module heavy.nothing; put heavy/nothing.py beside the pipeline or install "
            "it"
        )

    def test_the_pipelines_own_module_wins_over_one_that_is_loaded(self, folder: Path) -> None:
        (folder / "json.py").write_text("def mine(block): pass\n")
        assert missing_function("json:mine", folder) == ""

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"def f(:\n", "broken.py, line 1: invalid syntax"),
            (b"\xff = 1\n", "broken.py: cannot be read"),
            (b"a\x00b\n", "broken.py"),
        ],
    )
    def test_a_broken_module_is_named(self, folder: Path, content: bytes, reason: str) -> None:
        (folder / "broken.py").write_bytes(content)
        assert missing_function("broken:f", folder).startswith(reason)
        with pytest.raises(InputError, match=r"broken\.py"):
            facts_of(FunctionRef.of("broken:f"), folder)


def said(folder: Path, name: str, call: Call, reads: str = "", params: str = "") -> dict[str, str]:
    found = call_problems(
        f"functions:{name}", folder, call=call, reads=reads.split(), params=params.split()
    )
    return dict(found)


class TestCallProblems:
    def test_none_where_everything_fits(self, folder: Path) -> None:
        assert said(folder, "plain", Call.BLOCK, params="sigma window") == {}
        assert said(folder, "loads", Call.ARRAYS, "raw mask", "sigma") == {}
        assert said(folder, "takes_all", Call.ARRAYS, "raw other", "anything") == {}
        assert said(folder, "takes_block", Call.ARRAYS, "raw") == {}
        assert said(folder, "Model", Call.BLOCK, params="path device") == {}
        assert said(folder, "worker", Call.WORKER, params="path") == {}

    def test_unknown_and_missing_arguments(self, folder: Path) -> None:
        assert said(folder, "plain", Call.BLOCK, params="sigmoid") == {
            "params.sigmoid": "functions:plain has no argument of this name; it takes window, "
            "sigma",
            "function": "functions:plain needs window; add to params",
        }
        assert said(folder, "loads", Call.ARRAYS, "raw labels") == {
            "reads.labels": "functions:loads has no argument of this name; it takes raw, mask, "
            "sigma",
            "function": "functions:loads needs mask; add to reads or params",
        }

    def test_of_a_class(self, folder: Path) -> None:
        assert said(folder, "Model", Call.BLOCK, params="device") == {
            "function": "functions:Model.__init__ needs path; add to params"
        }
        assert said(folder, "Model", Call.ARRAYS, "raw", "path") == {
            "reads.raw": "functions:Model.__call__ has no argument of this name; it takes block"
        }

    def test_a_block_where_arrays_were_meant(self, folder: Path) -> None:
        assert said(folder, "loads", Call.BLOCK, "raw mask") == {
            "call": "is block, so functions:loads would get the block as raw, which is the name of "
            "an array in reads; use call: arrays, or give the argument another name"
        }
        assert said(folder, "Model", Call.BLOCK, "raw block", "path")["call"].startswith("is block")
        assert said(folder, "plain", Call.BLOCK, "raw mask", "window") == {}

    def test_a_function_without_a_block(self, folder: Path) -> None:
        assert said(folder, "no_block", Call.BLOCK) == {
            "function": "functions:no_block takes no block; add the argument, or use call: worker"
        }

    @pytest.mark.parametrize("name", ["wrapped", "Child", "shadowed", "partial", "conditional"])
    def test_what_is_not_plain_to_see_is_let_through(self, folder: Path, name: str) -> None:
        assert said(folder, name, Call.BLOCK, params="anything") == {}

    def test_the_last_definition_counts(self, folder: Path) -> None:
        assert said(folder, "twice", Call.BLOCK, params="more") == {}


class TestFactsOf:
    def test_a_decorator_is_part_of_it(self, folder: Path) -> None:
        before = facts_of(FunctionRef.of("functions:wrapped"), folder)
        text = (folder / "functions.py").read_text()
        (folder / "functions.py").write_text(text.replace("@decorated", "@other"))
        assert facts_of(FunctionRef.of("functions:wrapped"), folder) != before

    def test_a_class_has_set_up(self, folder: Path) -> None:
        assert facts_of(FunctionRef.of("functions:Model"), folder).has_setup
        assert not facts_of(FunctionRef.of("functions:plain"), folder).has_setup

    def test_a_compiled_function_has_no_source(self, folder: Path) -> None:
        assert facts_of(FunctionRef.of("math:sin"), folder).source == ""
        assert facts_of(FunctionRef.of(len), folder).source == ""

    def test_a_function_object_is_looked_at_through_partial(self, folder: Path) -> None:
        one, two = (
            facts_of(FunctionRef.of(functools.partial(said, folder, n)), folder) for n in ("a", "b")
        )
        assert one.source and one != two, "what is bound is part of it"
        assert facts_of(FunctionRef.of(said), folder).source
