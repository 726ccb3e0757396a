"""Prints the figures as a table; puts it, and a chart, into this folder."""

import re
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
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


def write_report(rows: list[Row], *, into_folder: bool) -> None:
    table = markdown_table([row.cells() for row in rows])
    print(table)
    if into_folder:
        readme = FOLDER / "README.md"
        before, rest = readme.read_text().split(BEGIN)
        _, after = rest.split(END)
        readme.write_text(f"{before}{BEGIN}{table}{END}{after}")
        chart = [
            replace(row, name=re.sub(r"What (.*?) adds to (it|a test)(: )?", r"\1\3", row.name))
            for row in rows
            if " adds to " in row.name and "222" not in row.name and "row" not in row.name
        ]
        (FOLDER / "isolation.svg").write_text(bar_chart(chart))


def markdown_table(rows: list[list[str]]) -> str:
    lines = [["measured", "median", "ratio", "goal"], ["---", "---:", "---", "---"], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def bar_chart(rows: list[Row]) -> str:
    """Horizontal bars that are as long as the values; readable on light and dark pages."""
    width, bar, left = 800, 34, 380
    height = bar * len(rows) + 16
    longest = max(row.value for row in rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="14" role="img">',
        "<title>What isolating one test costs</title>",
    ]
    for index, row in enumerate(rows):
        y = 8 + index * bar
        length = max(2, row.value / longest * (width - left - 90))
        parts += [
            f'<text x="{left - 10}" y="{y + 20}" text-anchor="end" fill="#888">{escape(row.name.replace("`", ""))}</text>',
            f'<rect x="{left}" y="{y + 6}" width="{length:.1f}" height="20" rx="3" fill="#009485"/>',
            f'<text x="{left + length + 8:.1f}" y="{y + 20}" fill="#888">{number(row.value)} {row.unit}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
