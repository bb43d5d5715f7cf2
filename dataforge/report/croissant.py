"""`croissant.json`: the corpus described for machines, Croissant 1.1 with its responsible-AI terms and W3C PROV.

https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html, https://www.w3.org/TR/prov-o/. Written as plain JSON:
`mlcroissant` checks it in the tests and is needed by nobody here. The same corpus and place give the same bytes.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from dataforge.report.overview import provenance, who_spoke
from manifests.corpus import Corpus
from manifests.features import PICTURES, data_schema
from manifests.header import FileEntry
from manifests.records import Sample, Subject
from manifests.schema import arrow_schema

__all__ = ["croissant_bytes"]

# the context that the specification gives, with PROV beside it
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
PARQUET = "application/x-parquet"
TYPES = {"string": "sc:Text", "int64": "sc:Integer", "int32": "sc:Integer", "double": "sc:Float", "bool": "sc:Boolean"}
LIMITS = (
    "Masks, boxes and words are estimates unless a person gave them; mask_quality is itself an estimate. "
    "Licence, credit and consent are as stated by whoever gave the photographs."
)


def croissant_bytes(corpus: Corpus, place: str | None = None) -> bytes:
    """The description of a corpus, for the folder it lies in, or for the place it is published at (`hf://...`)."""
    return (json.dumps(_description(corpus, place), indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace")


def _description(corpus: Corpus, place: str | None) -> dict[str, Any]:
    header, digest = corpus.header, corpus.digest
    counts = header.counts
    subjects = [corpus.subjects[name] for name in sorted(corpus.subjects)]
    address = place.replace("hf://", "https://huggingface.co/") if place and place.startswith("hf://") else place
    tables = {"manifest": header.manifest, "subjects": header.subjects, "ledger": header.ledger}
    text = (
        f"{counts.get('photographs', 0)} photographs of {counts.get('subjects', 0)} subjects with masks, boxes and "
        f"attribute words, {counts.get('regular', 0)} regular pictures and {counts.get('scenes', 0)} scenes."
    )
    about: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "@id": f"urn:sha256:{digest}",
        "name": f"corpus-{digest[:12]}",
        "description": text,
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "version": f"1.0.0+{digest[:12]}",
        "url": address or f"urn:sha256:{digest}",
        "citeAs": f"Corpus {digest}, made by dataforge {header.made_with.get('dataforge', '')}.",
        "keywords": ["subject-driven generation", "image segmentation", "text-to-image"],
        "isLiveDataset": False,
    }
    licences = sorted({subject.licence for subject in subjects if subject.licence})
    credits = sorted({subject.credit for subject in subjects if subject.credit})
    if licences:
        about["license"] = licences
    if credits:
        about["creator"] = [{"@type": "Person", "name": name} for name in credits]
    about |= _how_it_was_made(corpus, subjects)
    about["distribution"] = _distribution(corpus, tables, address)
    about["recordSet"] = [
        _record_set("samples", "table-manifest", arrow_schema(Sample), "every picture, without its bytes"),
        _record_set("subjects", "table-subjects", arrow_schema(Subject), "every subject: licence, credit, consent"),
        *(
            _record_set(f"pictures-{name}", f"data-{name}", data_schema(), f"pictures and masks: {name}", files=True)
            for name in _names(header.data)
        ),
    ]
    return about


def _names(entries: list[FileEntry]) -> list[str]:
    """The first parts of shards' or data files' names: train, validation, scenes."""
    return sorted({entry.path.rpartition("/")[2].rpartition("-")[0] for entry in entries})


def _how_it_was_made(corpus: Corpus, subjects: list[Subject]) -> dict[str, Any]:
    spoken = who_spoke(provenance(corpus))
    tools = sorted({" ".join(filter(None, (step.backend, step.model, step.version))) for step in spoken})
    consents = sorted({f"{subject.id}: {subject.consent or 'not stated'}" for subject in subjects})
    activities = [
        {
            "@type": "prov:Activity",
            "prov:label": f"{step.stage} ({step.count} pictures)",
            "prov:wasAssociatedWith": {
                "@type": "prov:SoftwareAgent",
                "prov:label": " ".join(filter(None, (step.backend, step.model, step.version))),
            },
        }
        for step in spoken
    ]
    return {
        "rai:dataCollection": "Photographs given by people, a folder per subject; regular pictures made from them or "
        "for their classes. The ledger has one row per file found.",
        "rai:dataPreprocessingProtocol": ["Upright, sRGB, 8-bit, metadata removed; JPEG data is kept as it was."],
        "rai:dataAnnotationProtocol": ["Boxes, masks and words by the tools named, corrected by overrides.yaml."],
        "rai:machineAnnotationTools": tools,
        "rai:dataLimitations": [LIMITS],
        "rai:dataUseCases": ["Fine-tuning of image models on subjects of one's own."],
        "rai:personalSensitiveInformation": consents,
        "prov:wasGeneratedBy": activities,
        "prov:wasDerivedFrom": "the photographs whose sha256 the ledger holds",
    }


def _distribution(corpus: Corpus, tables: dict[str, FileEntry], address: str | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    within: dict[str, Any] = {}
    if address and address.startswith("https://huggingface.co/"):
        # as the Hub's own descriptions name a repository; what checks the files is corpus.json
        within = {"containedIn": {"@id": "repository"}}
        found.append(
            {
                "@type": "cr:FileObject",
                "@id": "repository",
                "name": "repository",
                "contentUrl": f"{address}/tree/{corpus.digest}",
                "encodingFormat": "git+https",
                "sha256": "https://github.com/mlcommons/croissant/issues/80",
            }
        )
    for name, entry in tables.items():
        content = {"contentUrl": entry.path, "encodingFormat": PARQUET, "contentSize": f"{entry.size} B"}
        found.append(
            {
                "@type": "cr:FileObject",
                "@id": f"table-{name}",
                "name": name,
                **content,
                "sha256": entry.sha256,
                **within,
            }
        )
    for kind, folder, entries, encoding in (
        ("data", "data", corpus.header.data, PARQUET),
        ("shards", "shards", corpus.header.shards, "application/x-tar"),
    ):
        for name in _names(entries):
            includes = f"{folder}/{name}-*.{'parquet' if kind == 'data' else 'tar'}"
            file_set = {"@type": "cr:FileSet", "@id": f"{kind}-{name}", "name": f"{kind}-{name}"}
            found.append({**file_set, "encodingFormat": encoding, "includes": includes, **within})
    return found


def _record_set(name: str, source: str, schema: pa.Schema, text: str, *, files: bool = False) -> dict[str, Any]:
    kind = "fileSet" if files else "fileObject"
    fields = [_field(name, field, {kind: {"@id": source}}) for field in schema if _simple(field)]
    key = {"@id": f"{name}/id"}
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "description": text, "key": key, "field": fields}


def _simple(field: pa.Field) -> bool:
    kind = field.type.value_type if pa.types.is_list(field.type) else field.type
    return str(kind) in TYPES or (field.name in PICTURES and kind.num_fields == 2)


def _field(record_set: str, field: pa.Field, source: dict[str, Any]) -> dict[str, Any]:
    picture = field.name in PICTURES
    extracted: dict[str, Any] = {**source, "extract": {"column": field.name}}
    if picture:
        extracted["transform"] = {"jsonPath": "bytes"}
    kind = field.type.value_type if pa.types.is_list(field.type) else field.type
    described = {
        "@type": "cr:Field",
        "@id": f"{record_set}/{field.name}",
        "name": field.name,
        "description": (field.metadata or {}).get(b"description", b"").decode() or field.name,
        "dataType": "sc:ImageObject" if picture else TYPES[str(kind)],
        "source": extracted,
    }
    if pa.types.is_list(field.type):
        described |= {"isArray": True, "arrayShape": "4" if field.name == "box_xyxy" else "-1"}
    return described
