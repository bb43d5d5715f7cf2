"""Numbers of the papers, to stand beside ours and never among them: other data, other crops, other weights.

DreamMix (arXiv 2411.17223), tables 1 and 3; DreamCom (arXiv 2309.15508), tables 1, 2, 4 and supplement table 1;
DreamBooth (arXiv 2208.12242), its table of whole pictures made from text alone. DreamMix published no protocol: its
evaluation set, crops and versions are not known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from pipelines.evaluate.tables import TableRow

__all__ = ["published"]

_DREAMMIX = "DreamMix, arXiv 2411.17223, {}; another protocol, not published (data, crops and versions unknown)"
_DREAMCOM = "DreamCom, arXiv 2309.15508, {}; another protocol (full MureCom, metric code not published)"
_DREAMBOOTH = "DreamBooth, arXiv 2208.12242; another protocol (its 30 subjects, whole pictures made from text)"
_UP = ("CLIP-T", "CLIP-I", "DINO", "SSIM")

# (task, method) -> values in the order of the columns
_DREAMMIX_ABLATION = {
    ("identity", "baseline"): (0.253, 0.644, 0.628),
    ("identity", "+DIF"): (0.291, 0.723, 0.717),
    ("identity", "++TAS"): (0.290, 0.728, 0.715),
    ("identity", "+++ADM"): (0.285, 0.728, 0.712),
    ("editing", "baseline"): (0.235, 0.601, 0.612),
    ("editing", "+DIF"): (0.265, 0.696, 0.708),
    ("editing", "++TAS"): (0.275, 0.685, 0.700),
    ("editing", "+++ADM"): (0.289, 0.674, 0.695),
}
_DREAMMIX_MAIN = {
    ("identity", "Paint-by-Example"): (0.238, 0.541, 0.582, 44.6),
    ("identity", "MimicBrush"): (0.256, 0.614, 0.631, 47.0),
    ("identity", "AnyDoor"): (0.284, 0.688, 0.711, 53.7),
    ("identity", "IP-Adapter"): (0.268, 0.633, 0.633, 45.3),
    ("identity", "LAR-Gen"): (0.269, 0.662, 0.676, 48.7),
    ("identity", "TIGIC"): (0.262, 0.533, 0.584, 45.2),
    ("identity", "DreamBooth, one picture"): (0.248, 0.609, 0.604, 40.8),
    ("identity", "DreamBooth"): (0.253, 0.644, 0.628, 40.5),
    ("identity", "DreamMix, one picture"): (0.284, 0.713, 0.685, 43.4),
    ("identity", "DreamMix"): (0.285, 0.728, 0.712, 42.9),
    ("identity", "real image"): (0.315, 0.883, 0.865, 35.9),
    ("editing", "IP-Adapter"): (0.236, 0.611, 0.629, 47.5),
    ("editing", "LAR-Gen"): (0.257, 0.656, 0.668, 49.6),
    ("editing", "TIGIC"): (0.236, 0.479, 0.548, 47.3),
    ("editing", "DreamBooth, one picture"): (0.235, 0.567, 0.595, 42.0),
    ("editing", "DreamBooth"): (0.235, 0.601, 0.612, 41.7),
    ("editing", "DreamMix, one picture"): (0.284, 0.659, 0.672, 44.2),
    ("editing", "DreamMix"): (0.289, 0.674, 0.695, 43.9),
}
_DREAMCOM_ABLATION = {
    ("murecom", "full"): (0.584, 0.778),
    ("murecom", "without masked cross-attention"): (0.566, 0.771),
    ("murecom", "without masked self-attention"): (0.573, 0.775),
    ("murecom", "without both"): (0.546, 0.764),
}
_DREAMCOM_REFERENCES = {
    ("murecom", "1 reference"): (0.539, 0.762),
    ("murecom", "2 references"): (0.573, 0.773),
    ("murecom", "3 references"): (0.581, 0.775),
    ("murecom", "4 references"): (0.586, 0.777),
    ("murecom", "5 references"): (0.584, 0.778),
}
_DREAMCOM_MURECOM = {
    ("murecom", "ObjectStitch"): (0.502, 0.762, 0.150, 0.736),
    ("murecom", "Paint-by-Example"): (0.414, 0.733, 0.172, 0.708),
    ("murecom", "DreamEdit"): (0.301, 0.657, 0.232, 0.692),
    ("murecom", "DreamCom"): (0.584, 0.778, 0.174, 0.731),
}
_DREAMCOM_DREAMEDIT = {
    ("dreameditbench", "ObjectStitch"): (0.599, 0.801, 0.141, 0.764),
    ("dreameditbench", "Paint-by-Example"): (0.514, 0.768, 0.149, 0.755),
    ("dreameditbench", "DreamEdit"): (0.490, 0.733, 0.207, 0.740),
    ("dreameditbench", "DreamCom"): (0.669, 0.805, 0.154, 0.776),
}
_DREAMBOOTH_MAIN = {
    ("prompts", "DreamBooth (Imagen)"): (0.696, 0.812, 0.306),
    ("prompts", "DreamBooth (Stable Diffusion)"): (0.668, 0.803, 0.305),
    ("prompts", "real image"): (0.774, 0.885, math.nan),  # photographs were made for no prompt
}
_MAIN = ("CLIP-T", "CLIP-I", "DINO", "FID")
_SUBJECT_AND_BACKGROUND = ("DINO", "CLIP-I", "LPIPS", "SSIM")
_TABLES: dict[str, tuple[str, tuple[str, ...], Mapping[tuple[str, str], tuple[float, ...]]]] = {
    "dreammix-ablation": (_DREAMMIX.format("table 3"), _MAIN[:3], _DREAMMIX_ABLATION),
    "dreamcom-ablation": (_DREAMCOM.format("table 4"), _SUBJECT_AND_BACKGROUND[:2], _DREAMCOM_ABLATION),
    "dreamcom-references": (_DREAMCOM.format("supplement table 1"), _SUBJECT_AND_BACKGROUND[:2], _DREAMCOM_REFERENCES),
    "dreammix": (_DREAMMIX.format("table 1"), _MAIN, _DREAMMIX_MAIN),
    "dreambooth": (_DREAMBOOTH, ("DINO", "CLIP-I", "CLIP-T"), _DREAMBOOTH_MAIN),
    "murecom": (_DREAMCOM.format("table 2"), _SUBJECT_AND_BACKGROUND, _DREAMCOM_MURECOM),
    "dreameditbench": (_DREAMCOM.format("table 1"), _SUBJECT_AND_BACKGROUND, _DREAMCOM_DREAMEDIT),
}


def published(*names: str) -> list[TableRow]:
    """The rows of these tables; a name without one gives none. They have no interval."""
    rows = []
    for name in names:
        if name not in _TABLES:
            continue
        protocol, columns, table = _TABLES[name]
        for (task, method), values in table.items():
            for column, value in zip(columns, values, strict=True):
                if math.isnan(value):
                    continue
                rows.append(
                    TableRow(
                        protocol=protocol, task=task, method=method, column=column, value=value,
                        low=math.nan, high=math.nan, better="up" if column in _UP else "down",
                        pairs=0, pictures=0, subjects=0, seeds="", preset="", model="not stated",
                        preprocessing="not stated", crop="not stated", source="published",
                    )
                )  # fmt: skip
    return rows
