"""Readers, splits by patient, datalists and their checks, decoded images."""

from typing import Any

from common.data.datalist import find_datalist, load_datalist, not_among, save_datalist
from common.data.duplicates import refuse_duplicates
from common.data.folder import folder_datalist
from common.data.layouts.acdc import acdc_datalist
from common.data.layouts.decathlon import decathlon_datalist
from common.data.layouts.jsrt import find_jsrt, jsrt_datalist
from common.data.layouts.lgg import lgg_datalist
from common.data.layouts.monailabel import monailabel_datalist
from common.data.layouts.ms import isbi_datalist, patients_datalist
from common.data.layouts.retouch import retouch_datalist
from common.data.readers import read_image, read_label, read_mask
from common.data.splits import make_datalist

__all__ = [
    "DecodedImages",
    "PatientStacks",
    "acdc_datalist",
    "decathlon_datalist",
    "find_datalist",
    "find_jsrt",
    "folder_datalist",
    "isbi_datalist",
    "jsrt_datalist",
    "lgg_datalist",
    "load_datalist",
    "make_datalist",
    "monailabel_datalist",
    "not_among",
    "patients_datalist",
    "read_image",
    "read_label",
    "read_mask",
    "refuse_duplicates",
    "retouch_datalist",
    "save_datalist",
]


def __getattr__(name: str) -> Any:
    """Decoded images need torch, which the tools for datalists need not wait for."""
    if name == "DecodedImages":
        from common.data.decoded import DecodedImages

        return DecodedImages
    if name == "PatientStacks":
        from common.data.stacks import PatientStacks

        return PatientStacks
    raise AttributeError(f"common.data has no {name}")
