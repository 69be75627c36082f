"""The long-lived process: it answers requests, masks, records and stops."""
