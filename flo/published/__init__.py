"""The signed model card, and the model as ONNX."""
