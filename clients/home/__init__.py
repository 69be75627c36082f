"""The site's folder, site.toml and policy.toml."""
