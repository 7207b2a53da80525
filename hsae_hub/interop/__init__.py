"""SAEs in the formats of other toolkits: one file a format. Knowing one by its files loads no torch."""

from typing import TYPE_CHECKING

from hsae_hub.interop.formats import FORMATS as FORMATS
from hsae_hub.interop.formats import Format as Format
from hsae_hub.interop.formats import check_pickle as check_pickle
from hsae_hub.interop.formats import format_named as format_named
from hsae_hub.interop.formats import needs as needs
from hsae_hub.interop.formats import recognise as recognise
from hsae_hub.interop.formats import recognise_folder as recognise_folder
from hsae_hub.lazy import lazily

if TYPE_CHECKING:
    from hsae_hub.interop.exporting import EXPORTS as EXPORTS
    from hsae_hub.interop.exporting import Export as Export
    from hsae_hub.interop.reading import Imported as Imported
    from hsae_hub.interop.reading import read_foreign as read_foreign

__getattr__ = lazily(
    __name__,
    {
        "EXPORTS": "exporting",
        "Export": "exporting",
        "Imported": "reading",
        "read_foreign": "reading",
    },
)
