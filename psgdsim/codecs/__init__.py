"""Gradient codecs: what crosses the wire instead of an update. `base` says what a codec is."""

from psgdsim.codecs.base import Codec as Codec
from psgdsim.codecs.base import codecs as codecs
from psgdsim.codecs.base import flat as flat
from psgdsim.codecs.base import leafwise as leafwise
from psgdsim.codecs.base import register_codec as register_codec
from psgdsim.codecs.base import stateless as stateless
from psgdsim.codecs.cast import cast as cast
from psgdsim.codecs.feedback import error_feedback as error_feedback
from psgdsim.codecs.identity import identity as identity
from psgdsim.codecs.sparsify import top_k as top_k
