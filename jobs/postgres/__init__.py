"""The database side: connections, identifiers, catalogue, snapshot, COPY streams, schema dumps."""
