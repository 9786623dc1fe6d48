"""What the networks of each family are in other libraries. Importing the package registers them."""

from poa_plugin.formats import resnet, swin, vit
from poa_plugin.formats.description import LibraryFormats, formats_of

__all__ = ["LibraryFormats", "formats_of", "resnet", "swin", "vit"]
