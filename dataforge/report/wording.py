"""What machines write down, in words for people; and the colours of colour words.

A flag, note or backend that is not listed is shown as it stands: a real backend may say things of its own.
"""

from __future__ import annotations

__all__ = ["BACKENDS", "FLAGS", "NOTES", "STAGES", "in_words", "swatch"]

STAGES = {
    "ingest": "read the files",
    "ground": "found the boxes",
    "segment": "drew the masks",
    "describe": "chose the words and captions",
    "compose": "wrote the prompts",
    "generate": "made the regular pictures",
}

BACKENDS = {
    "dataforge": "a fixed rule, no estimate",
    "embedded": "measured from pixels without a learned model: an estimate",
    "given": "given by a person",
    "overrides": "corrected by a person",
    "override": "corrected by a person",
    "none": "nobody: the stage failed",
}

FLAGS = {
    "low-mask-quality": "mask is doubtful",
    "near-duplicate": "nearly the same as another photograph",
    "in-two-subjects": "also stands in another subject",
    "given-mask-refused": "the given mask was refused",
    "default-box": "no target box given: the middle is used",
    "not-described": "no words: the describer failed",
    "hypotheses-disagree": "other ways of cutting it out disagree",
    "low-colour-separation": "it has the colours of its surroundings",
    "weak-edges": "its outline follows few edges of the picture",
    "touches-border": "the mask runs into the picture's border",
    "short-of-box": "the mask does not reach the sides of the given box",
    "fragmented": "the mask is in pieces",
    "small": "it is small in the picture",
}

NOTES = {
    "alpha-on-white": "transparency laid on white",
    "cmyk": "converted from CMYK",
    "colour-tag-ignored": "a colour tag was ignored",
    "depth": "brought to 8 bits",
    "first-frame": "first of several frames",
    "float": "converted from floating point",
    "icc-ignored": "its colour profile could not be used",
    "icc-to-srgb": "converted to sRGB",
    "multi-picture": "further pictures in the file were left out",
    "re-encoded": "encoded again, without loss",
    "trailing-bytes": "bytes after the picture were dropped",
    "transparency-ignored": "transparency was ignored",
}

_SWATCHES = {
    "amber": "#ffbf00",
    "apricot": "#fbceb1",
    "aqua": "#00e5ee",
    "beige": "#dccfae",
    "black": "#111111",
    "blue": "#1f5fd0",
    "bronze": "#a97142",
    "brown": "#7b4a24",
    "burgundy": "#6d0f26",
    "charcoal": "#3b4045",
    "cobalt": "#0047ab",
    "copper": "#b87333",
    "coral": "#ff7f50",
    "cream": "#fff4d0",
    "crimson": "#c5132f",
    "cyan": "#00c8d7",
    "dark blue": "#12307a",
    "dark brown": "#4a2b16",
    "dark green": "#14532d",
    "dark grey": "#4b4f54",
    "dark red": "#8b1216",
    "emerald": "#1fa364",
    "fuchsia": "#e0219b",
    "gold": "#c9a227",
    "green": "#2f9e3f",
    "grey": "#8b8f94",
    "indigo": "#3f2a8c",
    "ivory": "#fffbe9",
    "khaki": "#b7a66b",
    "lavender": "#b9a3dd",
    "light blue": "#9cc9f0",
    "light brown": "#b58a5e",
    "light green": "#a3dca0",
    "light grey": "#cfd2d6",
    "lilac": "#c3a4d8",
    "lime": "#9be31c",
    "magenta": "#d1149b",
    "maroon": "#701a23",
    "mint": "#a8e8c4",
    "mustard": "#d3a518",
    "navy": "#16264f",
    "ochre": "#c4822b",
    "off-white": "#f5f2e8",
    "olive": "#75782a",
    "orange": "#f08019",
    "peach": "#ffc49b",
    "pink": "#f58fbb",
    "purple": "#7c3aa6",
    "red": "#d4232a",
    "rose": "#e35d7c",
    "rust": "#b1441d",
    "salmon": "#f58f80",
    "sand": "#d9c29a",
    "scarlet": "#e32614",
    "silver": "#b9bdc2",
    "sky blue": "#7fc0ee",
    "tan": "#c9a274",
    "taupe": "#8b7d70",
    "teal": "#12807f",
    "turquoise": "#35cfc4",
    "violet": "#7f4fc9",
    "white": "#ffffff",
    "yellow": "#f5d21f",
}


def swatch(word: str) -> str:
    """The CSS colour of a colour word, or nothing for a word that is no known colour."""
    return _SWATCHES.get(" ".join(word.lower().replace("gray", "grey").split()), "")


def in_words(table: dict[str, str], text: str) -> str:
    """What a table says of a text, or the text itself."""
    return table.get(text, text)
