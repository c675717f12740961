"""The pictures of a report's page in docs/guide/report_and_export.md, by headless Chromium.

    python scripts/tools/report_screenshots.py REPORT_HTML [docs/figures]

writes report_desktop.png (the top of the page, to the end of the plot of what regimes trade),
report_dark.png (the problems, in dark mode) and report_phone.png (table and curves, on a phone).
"""

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

from browser import DESKTOP, PHONE, Opened, chromium, on_phone

NUM_COLORS = 256  # a picture of a page needs no more
MARGIN = 24
PICTURES = {  # the places where each picture begins and ends
    "report_desktop": ("header", "#pareto_regimes"),
    "report_dark": ("#problems", "#weight_by_kind"),
    "report_phone": ("#changes", "#training_curves"),
}


def picture(opened: Opened, first: str, last: str, width: int) -> Image.Image:
    """The page from one element to another, in few colours."""
    start, end = (opened.page.locator(place).bounding_box() for place in (first, last))
    assert start and end, "the report lacks a figure that is shown in the documents"
    top = max(0, start["y"] - MARGIN)
    height = end["y"] + end["height"] + MARGIN - top
    clip: Any = {"x": 0, "y": top, "width": width, "height": height}
    image = Image.open(BytesIO(opened.page.screenshot(full_page=True, clip=clip))).convert("RGB")
    return image.quantize(NUM_COLORS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)


def main(page: Path, folder: Path) -> None:
    """Open the page three times and write the pictures."""
    with chromium() as browser:
        for name, (first, last) in PICTURES.items():
            if name == "report_phone":
                opened, width = on_phone(browser, page), PHONE["width"]
            else:
                scheme = "dark" if name == "report_dark" else "light"
                opened, width = Opened(browser, page, color_scheme=scheme), DESKTOP["width"]
            file = folder / f"{name}.png"
            picture(opened, first, last, width).save(file, optimize=True)
            print(f"{file}: {file.stat().st_size / 1000:.0f} kB")
            opened.context.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/figures"))
