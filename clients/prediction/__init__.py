"""Use of a published model at this hospital: fetched, finished on its own patients, applied."""
