"""The benchmark models: each builder writes one fp32 ONNX file from a fixed seed."""
