"""Write the demo's photographs and their subjects.yaml from the real pictures that ship inside scikit-image.

Usage: python recipes/demo.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from PIL import Image
from skimage import data

# subject: class noun, pictures, licence, credit; the terms as scikit-image states them
SUBJECTS = {
    "chelsea": ("cat", [data.cat], "CC0-1.0", "Stefan van der Walt"),
    "coffee": ("coffee cup", [data.coffee], "CC0-1.0", "Rachel Michetti, Pikolo Espresso Bar"),
    "motorcycle": (
        "motorcycle",
        [lambda: data.stereo_motorcycle()[0], lambda: data.stereo_motorcycle()[1]],
        "",
        "Middlebury 2014 stereo benchmark (Nesic, Westling, Wang, Krathwohl, Scharstein)",
    ),
    "rocket": ("rocket", [data.rocket], "LicenseRef-public-domain", "SpaceX"),
    "astronaut": ("astronaut", [data.astronaut], "LicenseRef-public-domain", "NASA"),
}


def write_photographs(folder: Path) -> None:
    """Write one folder per subject and the listing beside them."""
    subjects = []
    for name, (class_noun, pictures, licence, credit) in SUBJECTS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures):
            path = folder / name / f"{number}.png"
            if not path.exists():  # a second run finds nothing changed
                Image.fromarray(picture()).save(path)
        subject = {"name": name, "class_noun": class_noun, "licence": licence, "credit": credit, "consent": "published"}
        subjects.append(subject)
    listing = yaml.safe_dump({"subjects": subjects}, sort_keys=False, allow_unicode=True)
    path = folder / "subjects.yaml"
    if not path.exists() or path.read_text("utf-8") != listing:
        path.write_text(listing, "utf-8")


if __name__ == "__main__":
    write_photographs(Path(sys.argv[1]))
