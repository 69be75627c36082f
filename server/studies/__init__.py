"""Steps of a study: validate, offer, follow its progress, publish, erase."""
