"""One file a verb: what Rowvault does to a database and a repository."""
