from __future__ import annotations

import re

import pytest
from mutations import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.module}: {m.why}")
def test_the_line_and_its_test_are_still_there(mutation: Mutation) -> None:
    source = (ROOT / "snakemake_blocks" / f"{mutation.module}.py").read_text()
    assert source.count(mutation.old) == 1 and mutation.old != mutation.new
    file, *names = mutation.test.split("::")
    tests = (ROOT / "tests" / file).read_text()
    assert all(re.search(rf"(class|def) {name}\b", tests) for name in names)
