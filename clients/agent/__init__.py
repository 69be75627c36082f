"""Long-lived agent process: answers and logs requests, masks releases, stops cleanly."""
