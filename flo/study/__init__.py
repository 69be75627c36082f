"""The signed agreement and all that it can name: columns, encodings, models."""
