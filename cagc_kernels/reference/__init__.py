"""Pure PyTorch definitions of every op: the tests' oracle, the fallback backend and the path for ONNX export."""
