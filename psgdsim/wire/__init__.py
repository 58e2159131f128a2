"""Payloads as frames: what crosses a wire, byte for byte, in both modes.

A frame is a header of 64 bytes (`frame`), a spec that says what tree the payload is, and the raw
little-endian buffers of its leaves in C order (`layout`). A frame's size depends only on the tree, its texts,
shapes and dtypes, so `nbytes` knows it before any number is computed.
"""

from psgdsim.wire.encode import nbytes as nbytes
from psgdsim.wire.encode import tensor_nbytes as tensor_nbytes
from psgdsim.wire.frame import GROUP as GROUP
from psgdsim.wire.frame import MESSAGE as MESSAGE
from psgdsim.wire.frame import Header as Header
from psgdsim.wire.frame import check_tag as check_tag
from psgdsim.wire.frame import pack as pack
from psgdsim.wire.frame import pack_parts as pack_parts
from psgdsim.wire.frame import parse_header as parse_header
from psgdsim.wire.frame import unpack as unpack
from psgdsim.wire.frame import unpack_frame as unpack_frame
from psgdsim.wire.layout import HEADER_NBYTES as HEADER_NBYTES
from psgdsim.wire.layout import MAX_TAG_BYTES as MAX_TAG_BYTES
from psgdsim.wire.layout import VERSION as VERSION
