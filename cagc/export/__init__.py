"""Writes generators for places without PyTorch: as flat files, and as ONNX graphs of ordinary or plain operators."""

from .flat import FLAT_SUFFIX, export_flat, flat_bytes
from .onnx import export_onnx
from .plain import PlainGenerator
