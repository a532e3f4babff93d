"""Runs the code cells of a notebook in one namespace, and keeps what they show.

  python -W error tests/helpers/notebook_cells.py NOTEBOOK OUT

Figures become OUT/figure_1.png and so on, tables OUT/table_1.csv. Cells are plain Python, so that
no kernel is needed, with its sockets and warnings of its own.
"""

import ast
import json
import linecache
import pathlib
import sys

import matplotlib.pyplot as plt
import pandas as pd


def main(notebook: pathlib.Path, out: pathlib.Path) -> None:
    tables: list[pd.DataFrame] = []

    def show(value):
        """Takes the value of each expression that stands alone; a table is kept."""
        if isinstance(value, pd.DataFrame):
            assert value._repr_html_()
            tables.append(value)

    sys.displayhook = show
    namespace = {"__name__": "__main__"}
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            name, source = f"{notebook.name}, cell {number}", "".join(cell["source"])
            # So that a traceback shows the line.
            linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
            exec(compile(ast.Interactive(ast.parse(source, name).body), name, "single"), namespace)
    for number, table in enumerate(tables, start=1):
        table.to_csv(out / f"table_{number}.csv")
    for number in plt.get_fignums():
        figure = plt.figure(number)
        assert figure.axes and all(axes.has_data() for axes in figure.axes), f"{number} is empty"
        figure.savefig(out / f"figure_{number}.png")


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
