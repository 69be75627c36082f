"""Programs that build pages, drawings and bundles from a checkout; no part of the product."""
