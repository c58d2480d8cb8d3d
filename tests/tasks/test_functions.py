from __future__ import annotations

import functools
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from project import Project

from snakemake_blocks.errors import InputError
from snakemake_blocks.tasks.functions import FunctionRef, importable_from, load, modules_of


def importable(block: object) -> object:
    return block


class Model:
    def __init__(self, path: str) -> None:
        self.path = path

    def method(self, block: object) -> object:
        return block


class TestRefer:
    def test_a_name_stays_a_name(self) -> None:
        assert FunctionRef.of("functions:smooth").pickled() == (
            FunctionRef("functions:smooth"),
            b"",
        )

    @pytest.mark.parametrize("function", [importable, Model, Path.exists])
    def test_what_can_be_imported_is_named(self, function: object) -> None:
        ref, payload = FunctionRef.of(function).pickled()  # type: ignore[arg-type]
        assert payload == b"" and ref.pickle == ""
        assert ref.name.startswith((f"{__name__}:", "pathlib:"))

    def test_what_cannot_is_pickled_under_its_hash(self, tmp_path: Path) -> None:
        offset = 3
        ref, payload = FunctionRef.of(lambda x: x + offset).pickled()
        assert ref.pickle == hashlib.sha256(payload).hexdigest()
        (tmp_path / f"{ref.pickle}.pkl").write_bytes(payload)
        assert load(ref, tmp_path)(4) == 7

    def test_a_partial_is_named_by_what_it_binds(self) -> None:
        one, _ = FunctionRef.of(functools.partial(importable, block=1)).pickled()
        two, _ = FunctionRef.of(functools.partial(importable, block=2)).pickled()
        assert one.name == f"{__name__}:importable(block=1)"
        assert one.name != two.name

    def test_a_bound_method_keeps_its_object(self, tmp_path: Path) -> None:
        ref, payload = FunctionRef.of(Model("weights").method).pickled()
        assert ref.pickle, "without a pickle the object, and what it knows, would be lost"
        assert ref.name == f"{__name__}:Model.method of Model"
        (tmp_path / f"{ref.pickle}.pkl").write_bytes(payload)
        assert load(ref, tmp_path)("block") == "block"

    def test_a_function_that_hides_behind_its_name_is_pickled(self, tmp_path: Path) -> None:
        @functools.wraps(importable)
        def wrapped(block: object) -> object:
            return importable((block,))

        ref, payload = FunctionRef.of(wrapped).pickled()
        assert ref.pickle, "the name leads to the function that was wrapped"
        (tmp_path / f"{ref.pickle}.pkl").write_bytes(payload)
        assert load(ref, tmp_path)(1) == (1,)

    def test_two_processes_give_a_script_the_same_names(self, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text(
            "import functools\n"
            "from snakemake_blocks.tasks.functions import FunctionRef\n"
            "class Thing: pass\n"
            "def f(block, thing, n): pass\n"
            "print(FunctionRef.of(functools.partial(f, thing=Thing(), n={1: 2})).name)\n"
            "print(FunctionRef.of(lambda block: 1).name)\n"
            "print(FunctionRef.of(f).name)\n"
        )
        runs = [
            subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
            for _ in range(2)
        ]
        assert runs[0].stdout == runs[1].stdout
        assert "0x" not in runs[0].stdout


class TestLoad:
    def test_by_name(self, project: Project) -> None:
        project.functions("class Box:\n    def put(self): return 5\n", "loadable_module")
        with importable_from(project.folder):
            assert load(FunctionRef("loadable_module:Box"), project.folder)().put() == 5
            assert load(FunctionRef("loadable_module:Box.put"), project.folder)(None) == 5

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("no_such_module:f", "there is no module no_such_module"),
            ("os.path:nothing", "module os.path has no nothing"),
            ("os:sep", "is a str, not a function or class"),
        ],
    )
    def test_what_is_not_there_is_named(self, tmp_path: Path, name: str, reason: str) -> None:
        with pytest.raises(InputError, match=reason):
            load(FunctionRef(name), tmp_path)

    def test_an_import_inside_that_fails_is_shown_as_it_is(self, project: Project) -> None:
        project.functions("import not_installed_here\n", "importing_module")
        with importable_from(project.folder), pytest.raises(ModuleNotFoundError, match="not_inst"):
            load(FunctionRef("importing_module:f"), project.folder)

    def test_only_the_pickle_that_the_plan_names_is_read(self, tmp_path: Path) -> None:
        ref, payload = FunctionRef.of(lambda: 1).pickled()
        with pytest.raises(InputError, match="is missing; plan again"):
            load(ref, tmp_path)
        (tmp_path / f"{ref.pickle}.pkl").write_bytes(payload + b"\x00")
        with pytest.raises(InputError, match="is not the pickle that the plan names"):
            load(ref, tmp_path)


def test_the_path_is_left_as_it_was(tmp_path: Path) -> None:
    before = list(sys.path)
    with importable_from(tmp_path):
        assert sys.path[0] == str(tmp_path.resolve())
    assert sys.path == before


# faults: kind 2
class TestNamesThatAreTaken:
    """A module is meant by its place; Python keeps to what it imported under its name first."""

    def test_the_module_of_another_folder_is_not_taken_for_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "twofold.py").write_text(f"def f(): return {name!r}")
        monkeypatch.setitem(sys.modules, "twofold", sys)  # put back what was there at the end
        del sys.modules["twofold"]
        with importable_from(tmp_path / "one"):
            assert load(FunctionRef("twofold:f"), tmp_path)() == "one"
        (tmp_path / "link").symlink_to("one")
        with importable_from(tmp_path / "link"):
            assert load(FunctionRef("twofold:f"), tmp_path)() == "one"
        with (
            importable_from(tmp_path / "two"),
            pytest.raises(InputError, match=r"two/twofold\.py is meant, but .*one/twofold\.py is"),
        ):
            load(FunctionRef("twofold:f"), tmp_path)

    @pytest.mark.parametrize("name", ["statistics:mean", "numpy:mean", "time:sleep"])
    def test_one_of_python_itself_is_not_taken_for_the_users(
        self, tmp_path: Path, name: str
    ) -> None:
        module, _, function = name.partition(":")
        __import__(module)
        assert load(FunctionRef(name), tmp_path)
        (tmp_path / f"{module}.py").write_text(f"def {function}(raw): return raw")
        with (
            importable_from(tmp_path),
            pytest.raises(
                InputError, match=rf"{module}\.py is meant, but .* rename one of the two"
            ),
        ):
            load(FunctionRef(name), tmp_path)


class TestModulesOf:
    """What a pickled function uses is found out without unpickling it."""

    def modules(self, folder: Path, function: object) -> set[str]:
        ref, payload = FunctionRef.of(function).pickled()  # type: ignore[arg-type]
        (folder / f"{ref.pickle}.pkl").write_bytes(payload)
        return modules_of(ref, folder)

    def test_a_named_function_needs_its_module(self, tmp_path: Path) -> None:
        assert modules_of(FunctionRef("package.module:name"), tmp_path) == {"package.module"}

    def test_modules_functions_and_bound_arguments_are_found(self, tmp_path: Path) -> None:
        import colorsys
        import wave
        from fractions import Fraction

        def one(block: object) -> object:
            return colorsys.rgb_to_hsv, wave.open, Fraction(block)  # type: ignore[arg-type]

        def two(path: object, block: object) -> object:
            return one(block), colorsys, path

        found = self.modules(tmp_path, functools.partial(two, Path("wave")))
        assert {"colorsys", "wave", "fractions", "functools"} <= found
        assert any(name.startswith("pathlib") for name in found)

    def test_nothing_is_unpickled(self, tmp_path: Path) -> None:
        class Bad:
            def __reduce__(self) -> object:
                return print, ("unpickled",)

        bad = Bad()
        assert "builtins" in self.modules(tmp_path, lambda: bad)

    def test_a_missing_or_foreign_pickle_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is missing; plan again"):
            modules_of(FunctionRef("f", "0" * 64), tmp_path)
