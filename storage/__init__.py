"""Where backups rest: names, manifests, repository, codecs."""
