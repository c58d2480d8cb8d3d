"""Shipped Snakemake profiles: found by name, shown, installed where Snakemake looks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from snakemake_blocks.engine.internals import profile_folders
from snakemake_blocks.errors import InputError
from snakemake_blocks.spec.yaml_text import YamlError, parse_yaml
from snakemake_blocks.system.files import read_file, read_text, write_atomically

__all__ = ["install_profile", "profile_text", "resolve_profile", "shipped_profiles"]

# Options of Snakemake without a hyphen that shipped profiles leave out and sites may want.
_SINGLE_WORDS = frozenset({"cores", "logger", "printshellcmds", "quiet", "reporter", "verbose"})
# Far above the text of any profile.
_MOST = 1 << 20
# What Snakemake takes for a profile in a folder; it prefers the highest version that it has.
_FILES = re.compile(r"(profile|config)(\.v\d+\+)?\.yaml")


def _shipped_folder() -> Path:
    """Return the folder of profiles: inside an installed package, beside it in a checkout."""
    here = Path(__file__).parents[1]
    return next(p for p in (here / "profiles", here.parent / "profiles") if p.is_dir())


def shipped_profiles() -> list[str]:
    """Return the names of the profiles that come with this package."""
    return sorted(path.parent.name for path in _shipped_folder().glob("*/config.yaml"))


def _shipped(name: str) -> Path:
    path = _shipped_folder() / name / "config.yaml"
    if not path.is_file() or Path(name).name != name:
        known = ", ".join(shipped_profiles())
        raise InputError(f"there is no shipped profile {name!r}; known are {known}")
    return path


def profile_text(name: str, settings: Mapping[str, str] | None = None) -> str:
    """Return the text of a shipped profile, with settings changed.

    Parameters
    ----------
    name : str
        The profile.
    settings : mapping of str to str, optional
        New values. A key of the profile is changed, a key that is an option of Snakemake or has
        a hyphen in it, as options of plugins have, becomes one; the others are default resources.

    Raises
    ------
    InputError
        If there is no such profile, it has no default resources although one is given, or what
        comes of a value is no YAML.
    """
    text = read_text(_shipped(name))
    for key, value in (settings or {}).items():
        text = _changed(text, key, value)
    return text


def _changed(text: str, key: str, value: str) -> str:
    if not re.fullmatch(r"[A-Za-z][\w-]*", key) or key == "default-resources":
        raise InputError(f"{key!r} cannot be set; give a setting like jobs, or one resource")
    if not value.isprintable():
        raise InputError(f"{key}={value!r}: has control characters in it; give one plain value")
    profile = parse_yaml(text)
    place: tuple[str, ...] = (key,)
    if key in profile or "-" in key or key in _SINGLE_WORDS:
        text = _with_line(text, f"{key}: {value}")
    elif "default-resources" in profile:
        text, place = _with_resource(text, key, value), ("default-resources", key)
    else:
        raise InputError(f"the profile has no key {key!r} and no default-resources to put it in")
    return _checked(text, place, value)


def _with_line(text: str, line: str) -> str:
    """Return the profile with a setting: in place of the old one, else at the end."""
    key = line.partition(":")[0]
    changed, count = re.subn(rf"^{key}:.*$", lambda _: line, text, flags=re.MULTILINE)
    return changed if count else f"{text.rstrip()}\n\n{line}\n"


def _with_resource(text: str, key: str, value: str) -> str:
    """Return the profile with a default resource, in place of the old one or first of them."""
    # Snakemake evaluates default resources as Python: text needs quotes of its own.
    is_number = re.fullmatch(r"(attempt|\d+(\.\d+)?|[-+*/() ])+", value)
    line = f"  {key}: {value if is_number else json.dumps(repr(value))}"
    changed, count = re.subn(rf"^  {key}:.*$", lambda _: line, text, flags=re.MULTILINE)
    if count:
        return changed
    head = "default-resources:\n"
    return text.replace(head, f"{head}{line}\n", 1)


def _checked(text: str, path: tuple[str, ...], value: str) -> str:
    """Return the text if it is still a profile that has something at a path."""
    try:
        found = parse_yaml(text)
        for key in path:
            found = found[key]
    except (YamlError, KeyError, TypeError):
        found = None
    if found is None or isinstance(found, dict):
        raise InputError(f"{path[-1]}={value}: is no value of YAML; put quotes around it")
    return text


def install_profile(name: str, settings: Mapping[str, str], *, force: bool = False) -> Path:
    """Put a shipped profile where ``snakemake --profile NAME`` finds it; return its folder.

    Raises
    ------
    InputError
        If there is no such profile, or another one of this name is installed and ``force`` is
        not set.
    """
    text = profile_text(name, settings)
    target = _user_folder() / name / "config.yaml"
    if target.exists() and not force and read_file(target) != text.encode():
        raise InputError(f"{target}: exists and differs; compare, or replace it with --force")
    write_atomically(target, text.encode())
    readme = _shipped(name).with_name("README.md")
    if readme.exists():
        write_atomically(target.with_name("README.md"), read_file(readme))
    return target.parent


def _user_folder() -> Path:
    """Return the folder in which Snakemake looks a user's profiles up."""
    return profile_folders()[0]


def resolve_profile(name: str, folder: Path) -> str:
    """Return the path to hand to ``snakemake --profile``.

    The first that is a profile counts: installed under this name by the user or the site, at this
    path from here or from ``folder``, shipped. A path is returned and never a name, because
    Snakemake takes anything in its folder that has this name for the profile.

    Parameters
    ----------
    name : str
        Name or path of a profile.
    folder : Path
        The folder that Snakemake will run in.

    Raises
    ------
    InputError
        If there is no such profile, or it cannot be read.
    """
    named = profile_folders() if Path(name).name == name else ()
    for path in [place / name for place in (*named, Path.cwd(), folder)]:
        if _is_profile(path):
            _check_profile(path)
            return str(path.absolute())
    if name in shipped_profiles():
        return str(_shipped(name).parent.absolute())
    known = ", ".join(sorted({*shipped_profiles(), *_installed()}))
    raise InputError(
        f"there is no profile {name!r}: none is installed or at that path; known are {known}"
    )


def _installed() -> Iterator[str]:
    for folder in profile_folders():
        if folder.is_dir():
            yield from (path.name for path in folder.iterdir() if _is_profile(path))


def _is_profile(path: Path) -> bool:
    """Tell whether Snakemake would take a file or folder for a profile."""
    return any(_files(path)) if path.is_dir() else path.is_file()


def _files(folder: Path) -> Iterator[Path]:
    """Yield what Snakemake may read of a profile."""
    return (file for file in sorted(folder.iterdir()) if _FILES.fullmatch(file.name))


def _check_profile(path: Path) -> None:
    """Refuse what Snakemake would wait for, or answer with a traceback.

    Raises
    ------
    InputError
        With the file, and what is wrong with it.
    """
    for file in _files(path) if path.is_dir() else [path]:
        try:
            settings = parse_yaml(read_text(file, most=_MOST))
        except FileNotFoundError:
            raise InputError(f"{file}: leads nowhere; restore or remove it") from None
        except YamlError as error:
            raise InputError(f"{file}: {error}") from None
        if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
            raise InputError(f"{file}: is no profile; one has lines like `jobs: 100`")
