"""Readers, splits by patient, datalists and their checks, and phantoms."""

from common.data.datalist import find_datalist, load_datalist, not_among, save_datalist
from common.data.folder import folder_datalist
from common.data.jsrt import find_jsrt, jsrt_datalist
from common.data.loader import PairedBatches, PairedLoader
from common.data.ms_datalist import isbi_datalist, patients_datalist
from common.data.patches import PairedPatches
from common.data.readers import read_image, read_label, read_mask
from common.data.reference_pool import ReferencePool
from common.data.splits import make_datalist
from common.data.volume_cache import CachedVolumes

__all__ = [
    "CachedVolumes",
    "PairedBatches",
    "PairedLoader",
    "PairedPatches",
    "ReferencePool",
    "find_datalist",
    "find_jsrt",
    "folder_datalist",
    "isbi_datalist",
    "jsrt_datalist",
    "load_datalist",
    "make_datalist",
    "not_among",
    "patients_datalist",
    "read_image",
    "read_label",
    "read_mask",
    "save_datalist",
]
