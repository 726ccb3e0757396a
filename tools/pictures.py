"""Makes the pictures of the README from a real session: `make pictures`.

`gh:org/fast-fastapi` stands for this checkout; everything else is what was typed and what came. The
pictures are `docs/images/terminal.svg`, and the dashboard of the project that was made, light and dark.
"""

import io
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pexpect
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
COLUMNS = 96
CLEAR = "\x1b[H\x1b[2J\x1b[3J"
LAST_LINES = 9  # of a long output
CHANGED = "    await products.delete(product)\n"
SCHEMES: tuple[Literal["light"], Literal["dark"]] = ("light", "dark")
COLOURS = [
    *((70, 76, 88), (240, 113, 120), (126, 198, 128), (222, 180, 104)),
    *((97, 163, 240), (199, 146, 234), (86, 196, 206), (208, 213, 222)),
]
THEME = TerminalTheme((24, 27, 33), (208, 213, 222), COLOURS)
# rich's own one asks another server for a font.
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>A session in a terminal</title>
<style>
.{unique_id}-matrix {{ font: {char_height}px ui-monospace, Menlo, Consolas, monospace; }}
{styles}
</style>
<defs>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        here = Path(folder)
        project = here / "my-service"
        session = [
            f"$ cookiecutter gh:org/fast-fastapi\n{generate(here)}\n",
            f"$ cd my-service && make local-smoke\n{last_lines(run('make local-smoke', project))}\n",
        ]
        run("make test perf-report", project)
        (page,) = (project / ".performance").glob("*.html")
        photograph(page)
        session.append(f"$ make watch\n{watched(project)}")
        write_svg("".join(session), IMAGES / "terminal.svg")


def run(command: str, folder: Path) -> str:
    with terminal(command, folder) as child:
        child.expect(pexpect.EOF, timeout=300)
        output: str = child.before
    if child.exitstatus:
        sys.exit(f"`{command}` has failed:\n{output}")
    return output.replace("\r\n", "\n")


@contextmanager
def terminal(command: str, folder: Path) -> Iterator[pexpect.spawn]:
    unwanted = ("VIRTUAL_ENV", "NO_COLOR", "CI", "MAKE", "MFLAGS", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    child = pexpect.spawn(
        "bash",
        ["-c", command],
        cwd=folder,
        env=kept | {"TERM": "xterm-256color"},
        dimensions=(40, COLUMNS),
        encoding="utf-8",
        timeout=60,
    )
    try:
        yield child
    finally:
        child.close()


def generate(folder: Path) -> str:
    """Takes the default of every question."""
    program = Path(sys.prefix) / "bin" / "cookiecutter"
    with terminal(f"'{program}' '{ROOT}'", folder) as child:
        child.logfile_read = shown = io.StringIO()
        while child.expect([r"\)\S*: ?$", pexpect.EOF]) == 0:
            child.sendline()
    return shown.getvalue().replace("\r\n", "\n")


def last_lines(output: str) -> str:
    lines = output.strip().splitlines()
    return "\n".join(["...", *lines[-LAST_LINES:]]) + "\n"


def watched(project: Path) -> str:
    """What is shown after a file has been saved."""
    with terminal("make --no-print-directory watch", project) as child:
        child.expect("for what they do", timeout=60)
        module = project / "app" / "products" / "routes.py"
        text = module.read_text()
        assert CHANGED in text
        module.write_text(text.replace(CHANGED, f"{CHANGED}    return None\n"))
        child.expect("saved")
        child.expect("for what they do")
        output = f"{child.before}{child.after}.\n"
        child.send("q")
        child.expect(pexpect.EOF)
    return "12:00:00  app/products/routes.py saved" + output.replace("\r\n", "\n")


def write_svg(session: str, path: Path) -> None:
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for line in session.splitlines():
        style = "bold" if line.startswith("$ ") else ""
        console.print(Text.from_ansi(line, style=style), soft_wrap=True)
    svg = console.export_svg(title="", theme=THEME, code_format=SVG, unique_id="terminal")
    path.write_text(re.sub(r"[ \t]+\n", "\n", svg))


def photograph(page: Path) -> None:
    programs = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, programs)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for scheme in SCHEMES:
            tab = browser.new_page(
                color_scheme=scheme, viewport={"width": 1100, "height": 700}, device_scale_factor=1
            )
            tab.goto(page.as_uri())
            tab.screenshot(path=IMAGES / f"dashboard-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    main()
