"""How the package hangs together: modules, lines and imports, per folder.

    python tests/import_graph.py [PACKAGE_FOLDER]

Prints modules and lines per folder, arrows (module imports module) and floors (modules on the
longest way down), and which folder imports which. pytest does not collect this.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import networkx as nx
from grimp import build_graph

PACKAGE = "snakemake_blocks"


def imports(folder: Path) -> nx.DiGraph:
    """Return the modules of the package in a folder, and which imports which."""
    sys.path.insert(0, str(folder.parent))
    found = build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)
    graph = nx.DiGraph()
    for module in found.modules:
        graph.add_node(module)
        for other in found.find_modules_directly_imported_by(module):
            graph.add_edge(module, other)
    return graph


def folder_of(module: str) -> str:
    """Return the folder of a module, inside the package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 else "."


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / PACKAGE)
    graph = imports(folder)
    files = [p for p in folder.rglob("*.py") if p.name != "__init__.py"]
    lines = Counter[str]()
    count = Counter[str]()
    for path in files:
        inside = path.relative_to(folder).parts
        where = inside[0] if len(inside) > 1 else "."
        lines[where] += len(path.read_text().splitlines())
        count[where] += 1
    for where in sorted(count):
        print(f"{where:10} {count[where]:4} modules {lines[where]:6} lines")
    print(f"{'all':10} {count.total():4} modules {lines.total():6} lines")
    floors = nx.dag_longest_path_length(nx.condensation(graph)) + 1
    print(f"{graph.number_of_edges()} arrows, {floors} floors")
    between = Counter(
        (folder_of(a), folder_of(b)) for a, b in graph.edges if folder_of(a) != folder_of(b)
    )
    print(f"{len(between)} arrows between folders")
    for (one, other), number in sorted(between.items()):
        print(f"  {one} -> {other}: {number}")


if __name__ == "__main__":
    main()
