"""What the places hold together: the catalogue, what each lacks, and how it is made good."""
