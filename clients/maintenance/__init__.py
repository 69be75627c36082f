"""Doctor and recovery of a site's folder."""
