"""One module per data set: its own files in, the entries of its splits out."""
