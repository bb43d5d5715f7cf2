"""What can go wrong with a corpus, as a tree, and the table of codes every message draws from.

    CorpusError                 exit 4   the data on disk is not what it should be
      IntegrityError            exit 4   bytes missing, altered, doubled or disagreeing
      UnsupportedSchemaError    exit 4   written by a newer version
    UsageError                  exit 2   the call, a recipe or an overrides file is wrong
      NotFoundError             exit 2   no such corpus, ID or file
    EnvironmentFault            exit 5   disk, memory, network: run the same command again
    OutputLocked                exit 6   another process writes to this output

A bad photograph is not an exception: it is a `Fault` that ends in the ledger. A bug of ours stays a plain
Python exception and exits 1.
"""

from __future__ import annotations

import contextlib
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "CODES",
    "Code",
    "CorpusError",
    "EnvironmentFault",
    "Fault",
    "IntegrityError",
    "NotFoundError",
    "OutputLocked",
    "ReportedError",
    "UnsupportedSchemaError",
    "UsageError",
    "printable",
    "redact",
]


@dataclass(frozen=True, slots=True)
class Code:
    """One documented code: what it is called, what it means, and what a person can do about it."""

    slug: str
    meaning: str
    advice: str


# One table for messages, ledger and docs/errors.md (a test holds the page to this table).
CODES: dict[str, Code] = {
    # items found in the input: quarantined, the build goes on
    "E101": Code("not-a-regular-file", "a FIFO, socket, device or symbolic link", "Put the file itself there."),
    "E102": Code("empty", "the file has no bytes", "Copy the photograph again."),
    "E103": Code("too-large", "the file is larger than limits.max_bytes", "Shrink it or raise limits.max_bytes."),
    "E104": Code("changed-while-reading", "the file changed while it was read", "Build again when it is at rest."),
    "E105": Code("git-lfs-pointer", "a Git LFS pointer stands in for the file", "Run `git lfs pull`."),
    "E106": Code("unreadable", "the operating system refused to read the file", "Check its permissions."),
    "E107": Code("unsafe-name", "the name is absolute, climbs, or holds a backslash or a drive letter", "Rename it."),
    "E110": Code(
        "not-an-accepted-image",
        "the bytes are no image of an accepted format",
        "Accepted: JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF.",
    ),
    "E111": Code("heic", "HEIC and HEIF are not decoded", "Convert it to JPEG or PNG first."),
    "E120": Code(
        "too-many-pixels",
        "the header declares more pixels than limits.max_pixels",
        "Shrink it or raise limits.max_pixels.",
    ),
    "E121": Code(
        "too-many-jpeg-scans",
        "a progressive JPEG with more scans than limits.max_jpeg_scans",
        "Save it as baseline JPEG or raise limits.max_jpeg_scans.",
    ),
    "E122": Code("too-small", "a side is shorter than limits.min_side", "Use a larger photograph."),
    "E123": Code("extreme-aspect", "the sides differ by more than limits.max_aspect", "Crop it."),
    "E124": Code(
        "suspicious-ratio", "far fewer bytes than any real picture of that size has", "Copy the photograph again."
    ),
    "E130": Code("truncated", "the image data ends early", "Copy the photograph again."),
    "E131": Code("png-integrity", "a PNG checksum or chunk is wrong", "Copy the photograph again."),
    "E140": Code(
        "animated", "the file holds several frames or pages", "Save one frame, or set ingest.first_frame: true."
    ),
    "E150": Code("non-finite-pixels", "floating point pixels that are NaN or infinite", "Export it as 8-bit."),
    "E160": Code("blank-image", "every pixel has the same colour", "Drop it, or set ingest.keep_blank: true."),
    "E170": Code(
        "cross-subject-duplicate", "the same bytes stand in two subjects", "Drop one of them if that is not meant."
    ),
    "E171": Code(
        "id-collision",
        "two different photographs share the first 12 hex digits of their sha256",
        "Save one of them again.",
    ),
    "E197": Code(
        "deadline",
        "one item took longer than its limit (limits.decode_cpu_s for decoding)",
        "Save it as baseline JPEG, or drop it.",
    ),
    "E198": Code("worker-died", "the worker died on this item three times", "Drop it; report it if the file is sound."),
    "E199": Code("decoder-error", "the decoder failed in an unforeseen way", "Save it again as JPEG or PNG."),
    # masks and boxes
    "E201": Code("mask-size", "mask and photograph differ in size", "Give a mask of the upright photograph's size."),
    "E202": Code("mask-values", "a given mask is not one channel with two values", "Save it as black and white PNG."),
    "E203": Code("mask-unreadable", "a given mask cannot be read", "Save it as black and white PNG."),
    "E204": Code("mask-orphan", "a mask without a photograph of the same name", "Name it like its photograph."),
    "E210": Code(
        "no-detection", "nothing of the class was found", "Give a box in overrides.yaml or lower ground.min_score."
    ),
    "E211": Code(
        "bad-box", "a box is empty, inverted, not finite or outside the picture", "Give x0,y0,x1,y1 in pixels."
    ),
    "E212": Code(
        "mask-area",
        "the mask's share of the picture is outside gate.min_area..gate.max_area",
        "Give a mask in overrides.yaml.",
    ),
    "E213": Code(
        "low-mask-quality", "mask_quality is below gate.reject_below", "Give a mask or box in overrides.yaml."
    ),
    "E220": Code(
        "stage-failed",
        "a stage failed on this item and not on its neighbours",
        "See the sentence; give an override or drop the item.",
    ),
    "E221": Code(
        "cannot-be-made",
        "a generator cannot show what the prompt asks",
        "Strike the word in overrides.yaml or use another generator.",
    ),
    "E222": Code(
        "out-of-memory",
        "one item alone does not fit the device's memory",
        "Take a smaller model or size and build with --retry-failed.",
    ),
    "E223": Code(
        "unusable-answer",
        "a vision-language model gave no answer that fits the schema, asked twice",
        "Take a stronger model, or give the words in overrides.yaml.",
    ),
    "E224": Code(
        "off-prompt",
        "a made picture agrees less with its prompt than recheck.min_agreement",
        "See the sentence; lower the limit or take a stronger generator.",
    ),
    "E225": Code(
        "identity-leak",
        "a made picture that is to show the class looks like the subject itself",
        "See the sentence; raise recheck.max_identity where that is wrong.",
    ),
    "E226": Code(
        "made-twice",
        "a made picture is nearly the same as another one of its owner",
        "Lower gate.regular_duplicate_bits or make fewer pictures per prompt.",
    ),
    # the corpus
    "E301": Code("bad-id", "an ID or key does not follow the grammar", "See docs/manifest-format.md."),
    "E302": Code("slug-clash", "two subjects end on one slug", "Rename one of the folders."),
    "E303": Code("duplicate-or-missing-id", "an ID stands twice, or is named and not there", "Run `dataforge repair`."),
    "E304": Code("foreign-member", "a shard member that no manifest row names", "Run `dataforge repair`."),
    "E305": Code("bad-record", "a row does not follow the schema", "Rebuild the corpus."),
    "E306": Code("split-leak", "one near-duplicate group or subject stands in two splits", "Rebuild the corpus."),
    "E307": Code("unsafe-path", "a path that leaves the corpus", "Do not trust this corpus."),
    "E308": Code("count-mismatch", "rows and counts disagree", "Rebuild the corpus."),
    "E401": Code("checksum", "bytes differ from their recorded sha256", "Run `dataforge repair`."),
    "E402": Code("file-size", "a file's size differs from the recorded one", "Run `dataforge repair`."),
    "E403": Code("file-missing", "a file the corpus names is not there", "Run `dataforge repair`."),
    "E404": Code("bad-header", "corpus.json cannot be read", "Rebuild the corpus."),
    "E405": Code("newer-schema", "written by a newer version", "Upgrade dataforge."),
    "E406": Code("rebuilt", "the corpus was rebuilt since it was opened", "Open it again."),
    "E407": Code(
        "derived-stale",
        "a derived file is missing or belongs to another version of the corpus",
        "Run `dataforge repair`.",
    ),
    "E408": Code(
        "remote-checksum",
        "a server gave other bytes than the corpus names, twice",
        "Try again later or from another copy; tell whoever published it.",
    ),
    # usage and environment
    "E501": Code("usage", "the call is wrong", "See --help."),
    "E502": Code("configuration", "a recipe, subjects file or overrides file is wrong", "Mend the file named."),
    "E503": Code(
        "not-found",
        "no such corpus, subject, sample or file",
        "Check the name; `dataforge ls CORPUS` lists what a corpus holds.",
    ),
    "E504": Code(
        "output-not-a-corpus", "the output folder holds files that are not a corpus", "Name an empty or new folder."
    ),
    "E505": Code("missing-dependency", "a package or its weights are missing", "Run the command named."),
    "E506": Code(
        "rights-unknown",
        "the licence or consent of a subject is not stated",
        "State it in the listing, or publish with --allow-unknown-rights.",
    ),
    "E507": Code(
        "remote-refused",
        "a server refused: no access, or not accepted",
        "Check the name, and that the token or key in the environment may do this.",
    ),
    "E508": Code(
        "unsuitable-model",
        "the model named is not of the kind that the backend loads",
        "Name a model of the kind the sentence names.",
    ),
    "E510": Code(
        "disk", "the disk refused a write", "Free space or mend permissions, then run the same command again."
    ),
    "E511": Code("interrupted", "stopped by a signal", "Run the same command again; it goes on where it stopped."),
    "E512": Code(
        "infrastructure",
        "many failures in a row that are not the items' fault",
        "Mend the cause, then run the same command again.",
    ),
    "E513": Code(
        "remote-failed",
        "a server or the way to it fails",
        "Run the same command again; it goes on where it stopped.",
    ),
    "E514": Code(
        "cluster",
        "a Ray cluster does not answer, has no room, or has a node that is not fit for the build",
        "Mend the cluster as the sentence says, then run the same command again.",
    ),
    "E520": Code("output-locked", "another process writes to this output", "Wait for it or name another output."),
    "E521": Code(
        "published-meanwhile",
        "someone else published to this place since this began",
        "Look at what is there now, then run the same command again.",
    ),
    # painting
    "E601": Code(
        "unsuitable-base",
        "the base model is none that can be painted with",
        "Name an SD 1.5 or SDXL base in diffusers' layout with 9 or 4 channels.",
    ),
    "E602": Code("prompt-too-long", "the prompt is longer than the text encoder reads", "Shorten the prompt."),
    "E603": Code(
        "adapter-mismatch",
        "the adapter was trained on another base, or its files are not what its record says",
        "Name the base of adapter.json, or train again.",
    ),
    "E604": Code(
        "no-words",
        "the subject's dictionary has no word of the category an edit names",
        "Name the words to remove with --remove, or add them in overrides.yaml.",
    ),
    "E605": Code(
        "attention-replaced",
        "another library has put its own attention processors in place of masked ones",
        "Load the base again and install masked attention last.",
    ),
    # training
    "E611": Code(
        "nothing-to-train-on",
        "a subject has no accepted photograph, or none that can be used",
        "`dataforge show CORPUS#SUBJECT` says what became of its files.",
    ),
    "E612": Code(
        "object-vanishes",
        "an object is too small to be seen at the training resolution",
        "Raise resolution, or crop the photograph and build the corpus again.",
    ),
    "E613": Code(
        "not-finite",
        "loss, gradients or weights are not finite",
        "Lower learning_rate, or set mixed_precision: no; then train into a new folder.",
    ),
    "E614": Code(
        "other-run",
        "a run cannot be taken up again with other settings, data or base",
        "Put back what changed, or name another output.",
    ),
    "E615": Code(
        "checkpoints-damaged",
        "not one checkpoint of a run can be read",
        "Remove the run's folder under .work/runs to start it again.",
    ),
    "E616": Code(
        "training-out-of-memory",
        "the device has too little memory for these settings",
        "Run again with the setting named.",
    ),
}


# what tokens look like; the Hub's, Amazon's, whatever follows "Bearer" in an echoed request, and signed addresses
_TOKEN_SHAPES = re.compile(
    r"\bhf_[A-Za-z0-9]{8,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|(?<=[Bb]earer )[^\s'\",;]+"
    r"|(?<=[?&])(?:X-Amz-Signature|X-Amz-Security-Token|Signature)=[^\s&'\"]+"
)
_SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|(^|_)KEY(_ID)?$", re.IGNORECASE)


def redact(text: str) -> str:
    """The text without secrets: the values of this process's tokens and keys, and what has the shape of one.

    Every sentence of an error goes through here, because a server may send back what it was sent.
    """
    secrets = [value for name, value in os.environ.items() if _SECRET_NAMES.search(name) and len(value) >= 6]
    home = os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser()
    token_file = Path(os.environ.get("HF_TOKEN_PATH") or Path(home) / "token")
    with contextlib.suppress(OSError, UnicodeDecodeError):
        secrets += [line for line in token_file.read_text().split() if len(line) >= 6]
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "<secret>")
    return _TOKEN_SHAPES.sub("<secret>", text)


def printable(text: str) -> str:
    """The text with control, format and surrogate characters escaped, safe for a terminal or log line."""
    return "".join(
        character
        if unicodedata.category(character)[0] != "C"
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


@dataclass(frozen=True, slots=True)
class Fault:
    """Why one item was not taken: a code of `CODES` and what was measured against which limit."""

    code: str
    detail: str

    @property
    def sentence(self) -> str:
        """The line a person reads: code, slug, what was found, what to do."""
        code = CODES[self.code]
        return f"{self.code} {code.slug}: {printable(self.detail)[:200]}. {code.advice}"


class ReportedError(Exception):
    """An error with a documented code whose text is one sentence for the user."""

    exit_code = 4
    default_code = "E305"

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        self.code = code or self.default_code
        self.detail = detail
        super().__init__(detail)

    def __str__(self) -> str:
        code = CODES[self.code]
        return f"{self.code} {code.slug}: {printable(redact(self.detail))} {code.advice}"


class CorpusError(ReportedError):
    """The data on disk is not what it should be."""


class IntegrityError(CorpusError):
    """Bytes or rows are missing, altered, doubled or disagree."""

    default_code = "E401"


class UnsupportedSchemaError(CorpusError):
    """The corpus was written by a newer version of the format."""

    default_code = "E405"


class UsageError(ReportedError):
    """The call or a file a person wrote is wrong."""

    exit_code = 2
    default_code = "E501"


class NotFoundError(UsageError):
    """What was asked for is not there."""

    default_code = "E503"


class EnvironmentFault(ReportedError):
    """The machine failed, not the data; the same command goes on where it stopped."""

    exit_code = 5
    default_code = "E510"


class OutputLocked(ReportedError):
    """Another process holds the output."""

    exit_code = 6
    default_code = "E520"
