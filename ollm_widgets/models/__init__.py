"""What a model is and where its files are: reference, catalog, inspection, materialization."""
