"""The signed study document and its parts: columns, encodings, models."""
