"""Words an edit could ask for, by kind of thing, and which of them own pixels can show.

A subject's *source* words are measured; its *candidate* words come from here: for each kind of thing a short list of
what people do ask of it (the edits of the DreamBooth, DreamMix and DreamBench evaluations: recolour, material,
texture, pattern, shape, accessories). Which kind a class noun is of is looked up by its last word.
"""

from __future__ import annotations

__all__ = [
    "CANDIDATES",
    "COLOUR_TARGETS",
    "KINDS",
    "SHOWABLE",
    "TREATMENTS",
    "can_show",
    "candidate_words",
    "kind_of",
    "plain",
]

# kind -> class nouns (singular, lower case)
KINDS: dict[str, frozenset[str]] = {
    kind: frozenset(nouns.split())
    for kind, nouns in {
        "animal": (
            "animal bear bird bunny cat chick chicken cow deer dog duck elephant fish fox frog "
            "hamster hedgehog horse kitten lamb lion lizard monkey mouse owl panda parrot penguin pet "
            "pig puppy rabbit rat sheep sloth snake squirrel tiger tortoise turtle wolf"
        ),
        "container": (
            "barrel basket bin bottle bowl box bucket can canister carafe cup flask glass jar jug "
            "kettle mug pan pitcher plate pot saucer tankard teacup teapot thermos tin tray urn vase"
        ),
        "toy": (
            "action-figure ball balloon block cartoon doll emoji figure figurine lego plush plushie "
            "puppet puzzle robot statue stuffed-animal stuffie teddy toy train-set"
        ),
        "wear": (
            "backpack bag belt boot cap clog coat dress glasses glove hat handbag heel helmet jacket "
            "jeans jumper purse sandal scarf shirt shoe skirt slipper sneaker sock suitcase "
            "sunglasses sweater t-shirt tie trainer trousers umbrella wallet watch"
        ),
        "vehicle": (
            "aeroplane airplane bicycle bike boat bus car cart helicopter motorbike motorcycle plane "
            "scooter ship tractor train tram truck van"
        ),
        "furniture": (
            "armchair bed bench bookshelf cabinet chair cupboard cushion desk dresser lamp mirror "
            "pillow shelf sofa stool table wardrobe"
        ),
        "electronics": (
            "camera clock computer console drone headphones keyboard laptop loudspeaker microphone "
            "monitor phone radio remote speaker tablet telephone television tv"
        ),
        "instrument": (
            "accordion banjo cello drum flute guitar harp piano saxophone trumpet ukulele violin"
        ),
        "food": (
            "apple banana bread burger cake candy carrot cookie croissant cupcake doughnut fruit "
            "lemon orange pear pepper pie pizza sandwich strawberry tomato vegetable"
        ),
        "plant": (
            "bonsai bouquet bush cactus flower fern houseplant leaf orchid plant rose succulent "
            "sunflower tree tulip"
        ),
    }.items()
}  # fmt: skip

_EDIT_COLOURS = "red orange yellow green blue purple pink brown black white"

# kind -> category -> words an edit could ask for
CANDIDATES: dict[str, dict[str, tuple[str, ...]]] = {
    kind: {category: tuple(words.split(",")) for category, words in lists.items()}
    for kind, lists in {
        "animal": {
            "colour": "black,white,brown,orange,grey",
            "material": "wooden,marble,knitted",
            "pattern": "spotted,striped",
            "texture": "fluffy",
            "state": "sleeping,wet,running",
            "accessories": "with a hat,with a scarf,with sunglasses",
        },
        "container": {
            "colour": _EDIT_COLOURS.replace(" ", ","),
            "material": "wooden,metal,marble,ceramic,clay,stone,glass",
            "texture": "shiny,matte,rough",
            "pattern": "striped,checkered,dotted",
            "shape": "tall,wide,square",
            "state": "broken,open",
        },
        "toy": {
            "colour": _EDIT_COLOURS.replace(" ", ","),
            "material": "wooden,metal,knitted,marble,clay",
            "texture": "shiny,matte,fluffy",
            "pattern": "striped,checkered,dotted,camouflage",
            "accessories": "with a hat,with a bow",
        },
        "wear": {
            "colour": _EDIT_COLOURS.replace(" ", ","),
            "material": "leather,denim,knitted",
            "texture": "shiny,matte",
            "pattern": "striped,checkered,dotted,camouflage",
            "state": "worn,wet,folded",
        },
        "vehicle": {
            "colour": _EDIT_COLOURS.replace(" ", ","),
            "material": "wooden,metal",
            "texture": "shiny,matte",
            "pattern": "striped,checkered,camouflage",
            "state": "rusty,dirty",
        },
        "furniture": {
            "colour": _EDIT_COLOURS.replace(" ", ","),
            "material": "wooden,metal,marble,leather",
            "texture": "shiny,matte",
            "pattern": "striped,checkered,dotted",
            "shape": "round,tall",
        },
        "electronics": {
            "colour": _EDIT_COLOURS.replace(" ", ","),
            "material": "wooden,metal,marble,leather",
            "texture": "shiny,matte",
            "pattern": "striped,camouflage",
            "shape": "round,square",
        },
        "instrument": {
            "colour": _EDIT_COLOURS.replace(" ", ","),
            "material": "wooden,metal",
            "texture": "shiny,matte",
            "pattern": "striped,dotted",
        },
        "food": {
            "colour": "red,orange,yellow,green,purple,pink,brown,white",
            "texture": "shiny,matte",
            "material": "knitted,clay",
            "state": "sliced,frozen,bitten",
        },
        "plant": {
            "colour": "red,orange,yellow,green,purple,pink,white",
            "material": "metal,knitted,clay",
            "state": "withered,blooming",
        },
        "thing": {
            "colour": _EDIT_COLOURS.replace(" ", ","),
            "material": "wooden,metal,marble",
            "texture": "shiny,matte",
            "pattern": "striped,checkered,dotted",
        },
    }.items()
}  # fmt: skip

# What each colour word looks like when it is painted: focal colours in CIELAB, near the centres that Sturges and
# Whitfield (1995) and the xkcd survey report, so that every reader of the picture gives the word back.
COLOUR_TARGETS: dict[str, tuple[float, float, float]] = {
    "black": (11.0, 0.0, 0.0),
    "white": (93.0, 0.0, 1.0),
    "grey": (56.0, 0.0, 0.0),
    "red": (44.0, 64.0, 45.0),
    "orange": (67.0, 43.0, 70.0),
    "yellow": (84.0, 2.0, 78.0),
    "green": (48.0, -47.0, 40.0),
    "blue": (44.0, 5.0, -55.0),
    "purple": (37.0, 50.0, -48.0),
    "pink": (72.0, 45.0, -5.0),
    "brown": (35.0, 18.0, 28.0),
    "beige": (83.0, 1.0, 20.0),
    "cream": (93.0, -1.0, 16.0),
    "tan": (66.0, 11.0, 33.0),
    "maroon": (24.0, 40.0, 18.0),
    "navy": (18.0, 12.0, -36.0),
    "teal": (52.0, -36.0, -5.0),
    "turquoise": (75.0, -42.0, -10.0),
    "olive": (47.0, -10.0, 47.0),
    "lime": (85.0, -55.0, 76.0),
    "mint": (88.0, -32.0, 14.0),
    "gold": (72.0, 6.0, 65.0),
    "silver": (74.0, 0.0, -1.0),
    "lavender": (74.0, 22.0, -30.0),
    "magenta": (46.0, 74.0, -14.0),
    "salmon": (70.0, 42.0, 27.0),
    "peach": (82.0, 17.0, 34.0),
}

# word -> name of the treatment in dataforge.backends.retexture
TREATMENTS: dict[tuple[str, str], str] = {
    ("material", "wooden"): "wooden",
    ("material", "metal"): "metal",
    ("material", "metallic"): "metal",
    ("material", "golden"): "golden",
    ("material", "marble"): "marble",
    ("material", "stone"): "stone",
    ("material", "ceramic"): "ceramic",
    ("material", "clay"): "clay",
    ("material", "leather"): "leather",
    ("material", "denim"): "denim",
    ("material", "knitted"): "knitted",
    ("texture", "shiny"): "shiny",
    ("texture", "glossy"): "shiny",
    ("texture", "metallic"): "metal",
    ("texture", "matte"): "matte",
    ("texture", "rough"): "rough",
    ("texture", "knitted"): "knitted",
    ("pattern", "striped"): "striped",
    ("pattern", "checkered"): "checkered",
    ("pattern", "dotted"): "dotted",
    ("pattern", "spotted"): "spotted",
    ("pattern", "camouflage"): "camouflage",
}

_SPELLINGS = {"gray": "grey", "wood": "wooden", "checked": "checkered", "polka dot": "dotted", "leathern": "leather"}

# every (category, word) the embedded generator can put on a subject
SHOWABLE: frozenset[tuple[str, str]] = frozenset(("colour", word) for word in COLOUR_TARGETS) | frozenset(TREATMENTS)


def plain(word: str) -> str:
    """A word as the tables here spell it."""
    return _SPELLINGS.get(word.strip().lower(), word.strip().lower())


def can_show(category: str, word: str) -> bool:
    """Whether the embedded generator can make a subject *become* this word with the subject's own pixels.

    Words the subject already has (origin `source`) need no making and can always be shown.
    """
    return (category, plain(word)) in SHOWABLE


def kind_of(class_noun: str) -> str:
    """The kind of thing a class noun names, by its last word, plural or not; `thing` where it is not known."""
    words = class_noun.lower().replace("_", " ").split()
    last = words[-1] if words else ""
    for noun in (
        class_noun.lower().strip(),
        last,
        last.removesuffix("s"),
        last.removesuffix("es"),
        last.replace("ies", "y"),
    ):
        for kind, nouns in KINDS.items():
            if noun in nouns:
                return kind
    return "thing"


def candidate_words(class_noun: str) -> tuple[tuple[str, str], ...]:
    """(category, word) pairs that an edit could ask of such a thing."""
    return tuple((category, word) for category, words in CANDIDATES[kind_of(class_noun)].items() for word in words)
