"""Taking what changed, out of the change log or by comparing."""
