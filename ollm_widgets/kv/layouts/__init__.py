"""Records in plain files: chunks, pages, segments and a journal behind one protocol; no torch."""
