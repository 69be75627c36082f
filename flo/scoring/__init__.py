"""One patient's record, scored at once by a compiled model.

Needs Python's own library only; NumPy and ONNX Runtime where the model is a network or has an image
column. So a function in the cloud starts in milliseconds. It knows no hospital, no file and no
network, and leaves signatures to those who compile a model.
"""
