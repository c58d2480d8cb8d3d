"""Shipped Snakemake profiles: found by name, shown, installed where Snakemake looks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from snakemake_blocks.errors import InputError
from snakemake_blocks.paths import write_atomically

__all__ = ["install_profile", "profile_text", "resolve_profile", "shipped_profiles"]


def _shipped_folder() -> Path:
    """Return the folder of profiles: inside an installed package, beside it in a checkout."""
    here = Path(__file__).parent
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
        A key of the profile, or else a default resource, to its new value.

    Raises
    ------
    InputError
        If there is no such profile, or it has neither the key nor default resources.
    """
    text = _shipped(name).read_text(encoding="utf-8")
    for key, value in (settings or {}).items():
        text = _changed(text, key, value)
    return text


def _changed(text: str, key: str, value: str) -> str:
    if re.search(rf"^{re.escape(key)}:", text, re.MULTILINE):
        return re.sub(rf"^{re.escape(key)}:.*$", lambda _: f"{key}: {value}", text, flags=re.M)
    # Snakemake evaluates default resources as Python: text needs quotes of its own.
    plain = re.fullmatch(r"\d+(\.\d+)?", value)
    line = f"  {key}: {value}" if plain else f"  {key}: \"'{value}'\""
    pattern = rf"^  (?:# ?)?{re.escape(key)}:.*$"
    if re.search(pattern, text, re.MULTILINE):
        return re.sub(pattern, lambda _: line, text, count=1, flags=re.MULTILINE)
    if not re.search(r"^default-resources:\s*$", text, re.MULTILINE):
        raise InputError(f"the profile has no key {key!r} and no default-resources to put it in")
    return re.sub(
        r"^default-resources:\s*$",
        lambda _: f"default-resources:\n{line}",
        text,
        count=1,
        flags=re.MULTILINE,
    )


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
    if target.exists() and target.read_text(encoding="utf-8") != text and not force:
        raise InputError(f"{target}: exists and differs; compare, or replace it with --force")
    write_atomically(target, text.encode())
    readme = _shipped(name).with_name("README.md")
    if readme.exists():
        write_atomically(target.with_name("README.md"), readme.read_bytes())
    return target.parent


def _user_folder() -> Path:
    """Return the folder in which Snakemake looks a user's profiles up."""
    from snakemake.common import get_appdirs

    return Path(get_appdirs().user_config_dir)


def resolve_profile(name: str, folder: Path) -> str:
    """Return what to hand to ``snakemake --profile``: installed by name, shipped, or a path.

    Parameters
    ----------
    name : str
        Name or path of a profile.
    folder : Path
        The folder that Snakemake will run in.

    Raises
    ------
    InputError
        If there is no such profile.
    """
    if (_user_folder() / name / "config.yaml").is_file():
        return name
    for path in (Path(name), folder / name):
        if (path / "config.yaml").is_file():
            return str(path.absolute())
    if name in shipped_profiles():
        return str(_shipped(name).parent)
    known = ", ".join(shipped_profiles())
    raise InputError(
        f"there is no profile {name!r}: none is installed or at that path; known are {known}"
    )
