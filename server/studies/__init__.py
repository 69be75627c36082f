"""A study's life: validated, offered, followed, published, erased."""
