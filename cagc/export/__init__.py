"""Writes generators for places without PyTorch: as ONNX graphs of ordinary or of plain operators."""

from .onnx import export_onnx
from .plain import PlainGenerator
