"""The site's folder, its configuration (site.toml), policy and emergency stop."""
