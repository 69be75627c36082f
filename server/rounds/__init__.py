"""One run of a study: its loop and its rules, without IO."""
