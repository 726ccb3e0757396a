"""Prints the figures as a table; puts it, and a chart, into this folder."""

import re
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
HEAD = (["measured", "median", "ratio", "goal"], ["---", "---:", "---", "---"])
BEGIN, END = "<!-- figures -->\n", "<!-- /figures -->\n"


@dataclass(frozen=True)
class Row:
    name: str
    value: float
    unit: str
    ratio: float | None = None
    to: str = ""
    limit: float | None = None
    """What is aimed at: for the ratio where there is one, at most, or at least if negative."""

    @property
    def reached(self) -> bool | None:
        if self.limit is None:
            return None
        measured = self.value if self.ratio is None else self.ratio
        return measured <= self.limit if self.limit > 0 else measured >= -self.limit

    def on(self, database: str) -> "Row":
        """The same row, named after a database."""
        return replace(self, name=f"{database}: {self.name}") if database else self

    def cells(self) -> list[str]:
        ratio = f"{number(self.ratio)}x {self.to}" if self.ratio is not None else ""
        goal = ""
        if self.limit is not None:
            bound = "at most" if self.limit > 0 else "at least"
            unit = "x" if self.ratio is not None else f" {self.unit}"
            goal = f"{bound} {abs(self.limit):g}{unit}{'' if self.reached else ': missed'}"
        return [self.name, f"{number(self.value)} {self.unit}", ratio, goal]


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def write_report(rows: list[Row]) -> None:
    """Puts them into the table, in the place of what was measured before, and draws the chart anew."""
    readme = FOLDER / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    table, after = rest.split(END)
    cells = {key(line): line for line in cells_of(table)}
    cells |= {key(row.cells()): row.cells() for row in rows}
    readme.write_text(f"{before}{BEGIN}{markdown_table([*cells.values()])}{END}{after}")
    chart = [
        (re.sub(r"What (.*?) adds to (it|a test)(: )?", r"\1\3", name), value)
        for name, value, *_ in cells.values()
        if " adds to " in name and "223" not in name and "row" not in name
    ]
    (FOLDER / "isolation.svg").write_text(bar_chart(chart))


def cells_of(table: str) -> list[list[str]]:
    _head, _line, *lines = table.splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def key(cells: list[str]) -> tuple[str, str]:
    """What a row is about: the same is compared with more than one other thing."""
    return cells[0], cells[2].partition(" ")[2]


def markdown_table(rows: list[list[str]]) -> str:
    return "".join(map(markdown_line, [*HEAD, *rows]))


def markdown_line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def bar_chart(rows: list[tuple[str, str]]) -> str:
    """Horizontal bars that are as long as the values; readable on light and dark pages."""
    width, bar, left = 800, 34, 380
    height = bar * len(rows) + 16
    longest = max(float(value.split()[0]) for _name, value in rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="14" role="img">',
        "<title>What isolating one test costs</title>",
    ]
    for index, (name, value) in enumerate(rows):
        y = 8 + index * bar
        length = max(2, float(value.split()[0]) / longest * (width - left - 90))
        parts += [
            f'<text x="{left - 10}" y="{y + 20}" text-anchor="end" fill="#888">{escape(name.replace("`", ""))}</text>',
            f'<rect x="{left}" y="{y + 6}" width="{length:.1f}" height="20" rx="3" fill="#009485"/>',
            f'<text x="{left + length + 8:.1f}" y="{y + 20}" fill="#888">{value}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
